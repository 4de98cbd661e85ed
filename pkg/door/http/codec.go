package http

import (
	"context"
	"errors"
	"io"

	"connectrpc.com/connect/v2/connectproto"
)

// message is a message as it was sent. What it says is found out by pkg/rpc/wire.
type message struct{ bytes []byte }

// errNoMessage is a message that is received by somebody else than the door.
var errNoMessage = errors.New("http: a message is received past the gate")

// take takes a message's bytes, which are connect-go's, and only for as long as the call of a codec.
func take(src io.Reader, into any) error {
	m, ok := into.(*message)
	if !ok {
		return errNoMessage
	}
	if sized, ok := src.(interface{ Len() int }); ok {
		m.bytes = make([]byte, sized.Len())
		_, err := io.ReadFull(src, m.bytes)
		return err
	}
	var err error
	m.bytes, err = io.ReadAll(src)
	return err
}

// protobuf writes answers in protobuf's encoding, and leaves requests as they are.
type protobuf struct{ *connectproto.BinaryCodec }

// UnmarshalRead is connect.Codec's.
func (protobuf) UnmarshalRead(_ context.Context, src io.Reader, into any) error {
	return take(src, into)
}

// jsonText writes answers as JSON, and leaves requests as they are.
type jsonText struct{ *connectproto.JSONCodec }

// UnmarshalRead is connect.Codec's.
func (jsonText) UnmarshalRead(_ context.Context, src io.Reader, into any) error {
	return take(src, into)
}
