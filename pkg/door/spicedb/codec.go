package spicedb

import (
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"

	"github.com/deputyauth/deputy/pkg/rpc/wire"
)

// frame is one message as it is on the wire: an encoded protobuf message that need not be understood to
// be passed on. It owns a reference to its buffers until free is called.
type frame struct {
	data mem.BufferSlice
	// received is what the frame was made of, whose room it holds; nil for a message from upstream.
	received *wire.Message
}

// Len is how many bytes it has.
func (f *frame) Len() int { return f.data.Len() }

// free may be called twice, and on nil.
func (f *frame) free() {
	if f != nil {
		f.data.Free()
		f.data = nil
		f.received.Free()
	}
}

// Codec returns the codec that a server which serves a Door has to be given with
// grpc.ForceServerCodecV2. It passes the Door's frames through as they are; every other message goes
// through the process's registered protobuf codec, so that the services beside the Door work as they do
// without it. It is safe for concurrent use.
func Codec() encoding.CodecV2 { return codec{encoding.GetCodecV2(proto.Name)} }

type codec struct{ typed encoding.CodecV2 }

// Name is that of the protobuf codec, because that is what frames hold.
func (codec) Name() string { return proto.Name }

// Marshal hands out a reference of its own; gRPC frees it once the message is written.
func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	f, ok := v.(*frame)
	if !ok {
		return c.typed.Marshal(v)
	}
	f.data.Ref()
	return f.data, nil
}

// Unmarshal takes a reference; gRPC frees its own when this returns.
func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	f, ok := v.(*frame)
	if !ok {
		return c.typed.Unmarshal(data, v)
	}
	f.free()
	data.Ref()
	f.data = data
	return nil
}
