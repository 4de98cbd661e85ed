//go:build unix

package encodings

import (
	"context"
	"fmt"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/deputyauth/deputy/tests/process"
)

// TestMain is the command line when the binary is called by its name, and else the tests.
func TestMain(m *testing.M) { process.Main(m.Run) }

// raw sends bytes as they are.
type raw struct{}

func (raw) Name() string { return "proto" }

func (raw) Marshal(v any) (mem.BufferSlice, error) {
	b, ok := v.([]byte)
	if !ok {
		return nil, fmt.Errorf("%T is no encoding", v)
	}
	return mem.BufferSlice{mem.SliceBuffer(b)}, nil
}

func (raw) Unmarshal(data mem.BufferSlice, v any) error {
	b, ok := v.(*[]byte)
	if !ok {
		return fmt.Errorf("%T takes no encoding", v)
	}
	*b = data.Materialize()
	return nil
}

var _ encoding.CodecV2 = raw{}

// method is one method of the server.
type method struct {
	path   string
	input  protoreflect.MessageDescriptor
	stream grpc.StreamDesc
}

// methods are all that the server serves of both APIs.
func methods(t *testing.T) (all []method) {
	t.Helper()
	for _, name := range []protoreflect.FullName{"authzed.api.v1", "deputy.v1"} {
		protoregistry.GlobalFiles.RangeFilesByPackage(name, func(f protoreflect.FileDescriptor) bool {
			for i := range f.Services().Len() {
				service := f.Services().Get(i)
				for j := range service.Methods().Len() {
					m := service.Methods().Get(j)
					all = append(all, method{
						"/" + string(service.FullName()) + "/" + string(m.Name()), m.Input(),
						grpc.StreamDesc{StreamName: string(m.Name()), ClientStreams: m.IsStreamingClient(), ServerStreams: true},
					})
				}
			}
			return true
		})
	}
	if len(all) < 50 {
		t.Fatalf("found %d methods only", len(all))
	}
	return all
}

// send calls a method with one message and returns how it ended. A call that goes on is cut off: it was not refused.
func send(t *testing.T, conn *grpc.ClientConn, m method, body []byte, opts ...grpc.CallOption) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	stream, err := conn.NewStream(ctx, &m.stream, m.path, append(opts, grpc.ForceCodecV2(raw{}))...)
	if err != nil {
		return err
	}
	if err := stream.SendMsg(body); err != nil {
		var ignored []byte
		return stream.RecvMsg(&ignored)
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	var answer []byte
	return stream.RecvMsg(&answer)
}

// compressed sends with gzip.
var compressed = grpc.UseCompressor(gzip.Name)

// field encodes a field that holds bytes.
func field(number protowire.Number, value ...byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(nil, number, protowire.BytesType), value)
}

// refused asserts a status that says what is wrong with the request.
func refused(t *testing.T, what string, err error) {
	t.Helper()
	switch status.Code(err) {
	case codes.InvalidArgument, codes.PermissionDenied, codes.ResourceExhausted, codes.FailedPrecondition:
	default:
		t.Errorf("%s: %v", what, err)
	}
}
