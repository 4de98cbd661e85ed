package wire

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

// serve serves one method that receives by a Receiver, and returns a stream to it and how the receiving ended.
func serve(t *testing.T, r *Receiver, method *Method) (grpc.ClientStream, <-chan error) {
	t.Helper()
	received := make(chan error, 1)
	desc := grpc.StreamDesc{StreamName: "Do", ClientStreams: true, ServerStreams: true, Handler: func(_ any, s grpc.ServerStream) error {
		message, err := r.Receive(s.Context(), method)
		message.Free()
		received <- err
		return err
	}}
	s := grpc.NewServer()
	s.RegisterService(&grpc.ServiceDesc{ServiceName: "test", HandlerType: (*any)(nil), Streams: []grpc.StreamDesc{desc}}, s)
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = s.Serve(listener) }()
	t.Cleanup(s.Stop)
	conn, err := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	stream, err := conn.NewStream(ctx, &desc, "/test/Do")
	if err != nil {
		t.Fatal(err)
	}
	return stream, received
}

// A caller who begins a call and sends nothing, or leaves its side open, does not hold the call: it ends, and so does the
// goroutine that reads.
func TestMessageThatDoesNotCome(t *testing.T) {
	message := (&healthpb.HealthCheckRequest{}).ProtoReflect().Descriptor()
	for name, test := range map[string]struct {
		sends bool
		code  codes.Code
	}{
		"nothing is sent":           {false, codes.DeadlineExceeded},
		"the caller's side is open": {true, codes.DeadlineExceeded},
	} {
		t.Run(name, func(t *testing.T) {
			r := NewReceiver(nil)
			r.arrival = 100 * time.Millisecond
			stream, received := serve(t, r, &Method{Type: TypeOf(message), Limit: Small})
			if test.sends {
				if err := stream.SendMsg(&healthpb.HealthCheckRequest{Service: "x"}); err != nil {
					t.Fatal(err)
				}
			}
			err := stream.RecvMsg(&healthpb.HealthCheckResponse{})
			if status.Code(err) != test.code || !strings.Contains(err.Error(), "100ms") {
				t.Errorf("the caller gets %v, want %v", err, test.code)
			}
			if err := <-received; err == nil {
				t.Error("a message that did not come was received")
			}
		})
	}
}

// A message that comes in time is received, and nothing ends its call later.
func TestMessageThatComes(t *testing.T) {
	message := (&healthpb.HealthCheckRequest{}).ProtoReflect().Descriptor()
	r := NewReceiver(nil)
	stream, received := serve(t, r, &Method{Type: TypeOf(message), Limit: Small})
	if err := stream.SendMsg(&healthpb.HealthCheckRequest{Service: "x"}); err != nil {
		t.Fatal(err)
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if err := <-received; err != nil {
		t.Error(err)
	}
}
