package decision_test

import (
	"errors"
	"io"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/deputyauth/deputy/pkg/daemon"
	"github.com/deputyauth/deputy/pkg/engine"
)

type clientConn = grpc.ClientConnInterface

// inMemory is a configuration over a fresh memory engine.
func inMemory() daemon.Config { return daemon.Config{Engine: engine.Config{Kind: engine.Memory}} }

// methodsOf lists every method of the packages that the server serves, from their descriptors.
func methodsOf(t *testing.T) []string {
	t.Helper()
	var out []string
	for _, name := range []protoreflect.FullName{"deputy.v1", "authzed.api.v1", "grpc.health.v1", "grpc.reflection.v1", "grpc.reflection.v1alpha"} {
		protoregistry.GlobalFiles.RangeFilesByPackage(name, func(f protoreflect.FileDescriptor) bool {
			for i := range f.Services().Len() {
				service := f.Services().Get(i)
				for n := range service.Methods().Len() {
					out = append(out, "/"+string(service.FullName())+"/"+string(service.Methods().Get(n).Name()))
				}
			}
			return true
		})
	}
	return out
}

// callEmpty calls a method with an empty request and returns the first error that is not the end.
func callEmpty(t *testing.T, conn clientConn, method string) error {
	t.Helper()
	name := protoreflect.FullName(method[1:])
	for i := range method {
		if method[i] == '/' && i > 0 {
			name = protoreflect.FullName(method[1:i] + "." + method[i+1:])
		}
	}
	found, err := protoregistry.GlobalFiles.FindDescriptorByName(name)
	if err != nil {
		t.Fatal(err)
	}
	m, ok := found.(protoreflect.MethodDescriptor)
	if !ok {
		t.Fatalf("%s is no method", name)
	}
	stream, err := conn.NewStream(t.Context(), &grpc.StreamDesc{ClientStreams: m.IsStreamingClient(), ServerStreams: true}, method)
	if err != nil {
		return err
	}
	if err := stream.SendMsg(dynamicpb.NewMessage(m.Input())); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	err = stream.RecvMsg(dynamicpb.NewMessage(m.Output()))
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

func statusOf(err error) codes.Code { return status.Code(err) }
