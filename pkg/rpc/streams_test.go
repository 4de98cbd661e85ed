package rpc

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/deputyauth/deputy/pkg/caller"
	"github.com/deputyauth/deputy/pkg/rpc/admission"
)

// limited serves one method by a handler, under limits alone, and returns a stream to it.
func limited(t *testing.T, limits StreamLimits, method string, handler func(grpc.ServerStream) error) grpc.ClientStream {
	t.Helper()
	service, name, _ := strings.Cut(strings.TrimPrefix(method, "/"), "/")
	gate := NewGate(caller.NewCallers(nil), admission.New(admission.Settings{}), nil, nil, zap.NewNop())
	// Of the gate, what becomes of a panic: messages are received by gRPC here.
	finish := func(srv any, s grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
		defer func() { err = gate.finish(s.Context(), info.FullMethod, time.Now(), recover(), err) }()
		return handler(srv, s)
	}
	s := grpc.NewServer(append([]grpc.ServerOption{grpc.ChainStreamInterceptor(finish)}, limits.Options()...)...)
	desc := grpc.StreamDesc{StreamName: name, ServerStreams: true, ClientStreams: true, Handler: func(_ any, s grpc.ServerStream) error { return handler(s) }}
	s.RegisterService(&grpc.ServiceDesc{ServiceName: service, HandlerType: (*any)(nil), Streams: []grpc.StreamDesc{desc}}, s)
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
	stream, err := conn.NewStream(ctx, &desc, method)
	if err != nil {
		t.Fatal(err)
	}
	return stream
}

const (
	anImport = "/authzed.api.v1.PermissionsService/ImportBulkRelationships"
	aLookup  = "/authzed.api.v1.PermissionsService/LookupResources"
	aWatch   = "/authzed.api.v1.WatchService/Watch"
)

// TestStreamLimits: streams end at their limits, whatever their client does or leaves undone, and then their
// handler is told.
func TestStreamLimits(t *testing.T) {
	t.Parallel()
	const brief, long = 100 * time.Millisecond, time.Hour
	message := &healthv1.HealthCheckRequest{}
	receive := func(s grpc.ServerStream) error {
		for {
			if err := s.RecvMsg(new(healthv1.HealthCheckRequest)); err != nil {
				return err
			}
		}
	}
	wait := func(s grpc.ServerStream) error {
		<-s.Context().Done()
		return s.Context().Err()
	}
	send := func(s grpc.ServerStream) error {
		for {
			if err := s.SendMsg(&healthv1.HealthCheckRequest{Service: strings.Repeat("x", 1<<10)}); err != nil {
				return err
			}
		}
	}
	stopping := make(chan struct{})
	close(stopping)
	for name, test := range map[string]struct {
		method  string
		limits  StreamLimits
		handler func(grpc.ServerStream) error
		// sends says that the client goes on sending.
		sends  bool
		code   codes.Code
		reason string
	}{
		"an import that goes on and on":           {anImport, StreamLimits{Bulk: brief, Stall: long}, receive, true, codes.DeadlineExceeded, "has lasted 100ms"},
		"an import that is begun":                 {anImport, StreamLimits{Bulk: long, Stall: brief}, receive, false, codes.DeadlineExceeded, "has sent nothing"},
		"a lookup that does not end":              {aLookup, StreamLimits{lookup: brief}, wait, false, codes.DeadlineExceeded, "has lasted 100ms"},
		"a lookup whose client does not ask":      {aLookup, StreamLimits{Stall: brief}, receive, false, codes.DeadlineExceeded, "has sent nothing"},
		"a lookup whose client does not read":     {aLookup, StreamLimits{Stall: brief}, send, false, codes.DeadlineExceeded, "taken nothing"},
		"a watch":                                 {aWatch, StreamLimits{watch: brief}, wait, false, codes.Unavailable, "go on from the last token"},
		"a watch whose client does not read":      {aWatch, StreamLimits{Stall: brief}, send, false, codes.DeadlineExceeded, "taken nothing"},
		"a watch on a server that stops":          {aWatch, StreamLimits{Stopping: stopping}, wait, false, codes.Unavailable, "the server stops"},
		"a method that nobody has thought of yet": {"/authzed.api.v1.NewService/New", StreamLimits{lookup: brief}, wait, false, codes.DeadlineExceeded, "has lasted 100ms"},
		"a panic":                   {aLookup, StreamLimits{}, func(grpc.ServerStream) error { panic("boom") }, false, codes.Internal, "internal error"},
		"an error of the handler's": {aLookup, StreamLimits{}, func(grpc.ServerStream) error { return status.Error(codes.Aborted, "its own") }, false, codes.Aborted, "its own"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ended := make(chan struct{})
			stream := limited(t, test.limits, test.method, func(s grpc.ServerStream) error {
				defer close(ended)
				return test.handler(s)
			})
			for test.sends && stream.SendMsg(message) == nil {
			}
			<-ended
			var err error
			for err == nil {
				err = stream.RecvMsg(new(healthv1.HealthCheckRequest))
			}
			if status.Code(err) != test.code || !strings.Contains(err.Error(), test.reason) {
				t.Errorf("it ends with %v, want %v and %q", err, test.code, test.reason)
			}
		})
	}
}

// TestStreamAtWork: a stream that works ends as its handler says, and one that waits for the engine and not for
// its client has not stalled.
func TestStreamAtWork(t *testing.T) {
	t.Parallel()
	at := make(chan struct{})
	stream := limited(t, StreamLimits{Stall: 20 * time.Millisecond}, anImport, func(s grpc.ServerStream) error {
		if err := s.RecvMsg(new(healthv1.HealthCheckRequest)); err != nil {
			return err
		}
		select { // longer than a client may leave it waiting
		case <-time.After(200 * time.Millisecond):
		case <-s.Context().Done():
			return errors.New("it was ended")
		}
		close(at)
		return s.SendMsg(&healthv1.HealthCheckRequest{Service: "done"})
	})
	if err := stream.SendMsg(&healthv1.HealthCheckRequest{}); err != nil {
		t.Fatal(err)
	}
	<-at
	var got healthv1.HealthCheckRequest
	if err := stream.RecvMsg(&got); err != nil || got.GetService() != "done" {
		t.Errorf("got %v, %v", &got, err)
	}
}

// An import may take two minutes, however long exports may, or less where they may take less.
func TestTimeOfImports(t *testing.T) {
	const anExport = "/authzed.api.v1.PermissionsService/ExportBulkRelationships"
	for bulk, want := range map[time.Duration]time.Duration{time.Hour: 2 * time.Minute, time.Minute: time.Minute} {
		l := StreamLimits{Bulk: bulk}
		if got := l.of(anImport); got != want {
			t.Errorf("with %s for exports an import may take %s, want %s", bulk, got, want)
		}
		if got := l.of(anExport); got != bulk {
			t.Errorf("an export may take %s, want %s", got, bulk)
		}
	}
}
