package client_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/deputyauth/deputy/pkg/client"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// A job works as long as it is permitted. Here the session is ended while the job runs.
func ExampleSession_WhilePermitted() {
	ctx := context.Background()
	desk := openDesk(ctx)
	defer desk.Close()
	session := desk.Session(ctx, "alice")

	work, stop, err := session.WhilePermitted(ctx, view("plan"))
	if err != nil {
		log.Fatal(err) // Refused, or there is no answer: do not begin.
	}
	defer stop()
	if err := session.End(ctx); err != nil {
		log.Fatal(err)
	}
	<-work.Done()
	var refused *client.Refused
	fmt.Println("the job stops:", errors.As(context.Cause(work), &refused), refused.Decision)

	_, _, err = session.WhilePermitted(ctx, view("plan"))
	fmt.Println("and does not begin again:", errors.As(err, &refused))
	// Output:
	// the job stops: true NO_PERMISSION (actor)
	// and does not begin again: true
}

// watcher is a server whose streams do what a test says, one after the other; the last is repeated.
type watcher struct {
	deputyv1.UnimplementedPermissionsServiceServer

	streams []func(grpc.ServerStreamingServer[deputyv1.WatchPermissionResponse]) error
	begun   atomic.Int64
}

func (w *watcher) WatchPermission(_ *deputyv1.WatchPermissionRequest, s grpc.ServerStreamingServer[deputyv1.WatchPermissionResponse]) error {
	n := int(w.begun.Add(1))
	return w.streams[min(n, len(w.streams))-1](s)
}

type watched = grpc.ServerStreamingServer[deputyv1.WatchPermissionResponse]

func decides(p deputyv1.Permissionship) *deputyv1.WatchPermissionResponse {
	return &deputyv1.WatchPermissionResponse{Result: &deputyv1.WatchPermissionResponse_Decision{Decision: &deputyv1.CheckPermissionResponse{Permissionship: p}}}
}

// TestWhilePermittedFailsClosed: whatever a server does that does not say that the permission holds, the work ends, and soon. Where another stream says so,
// it goes on.
func TestWhilePermittedFailsClosed(t *testing.T) {
	t.Parallel()
	const has, no = deputyv1.Permissionship_PERMISSIONSHIP_HAS_PERMISSION, deputyv1.Permissionship_PERMISSIONSHIP_NO_PERMISSION
	allow := func(s watched) error { return s.Send(decides(has)) }
	stay := func(s watched) error {
		if err := allow(s); err != nil {
			return err
		}
		<-s.Context().Done()
		return s.Context().Err()
	}
	fail := func(code codes.Code) func(watched) error {
		return func(watched) error { return status.Error(code, "as the test says") }
	}
	broken := func(code codes.Code) func(watched) error {
		return func(s watched) error {
			if err := allow(s); err != nil {
				return err
			}
			return fail(code)(s)
		}
	}
	hang := func(s watched) error { <-s.Context().Done(); return s.Context().Err() }
	for name, test := range map[string]struct {
		streams []func(watched) error
		// begins says that the work begins, ends after which time it has ended at the latest, 0 for never, and refused that it was.
		begins  bool
		ends    time.Duration
		refused bool
		asked   int64
	}{
		"refused at once":                         {[]func(watched) error{func(s watched) error { return s.Send(decides(no)) }}, false, 0, true, 1},
		"an answer of a later version":            {[]func(watched) error{func(s watched) error { return s.Send(decides(77)) }}, false, 0, true, 1},
		"an error at once":                        {[]func(watched) error{fail(codes.PermissionDenied)}, false, 0, false, 1},
		"an end without a word":                   {[]func(watched) error{allow, hang}, true, 3 * time.Second, false, 2},
		"a break, and nobody answers":             {[]func(watched) error{broken(codes.Unavailable), hang}, true, 3 * time.Second, false, 2},
		"a break, and an error each time":         {[]func(watched) error{broken(codes.Unavailable), fail(codes.Unavailable)}, true, 3 * time.Second, false, 5},
		"a break, and then refused":               {[]func(watched) error{broken(codes.Unavailable), func(s watched) error { return s.Send(decides(no)) }}, true, time.Second, true, 2},
		"a break that is no reason to ask anew":   {[]func(watched) error{broken(codes.Unauthenticated)}, true, time.Second, false, 1},
		"a break, and another stream that allows": {[]func(watched) error{broken(codes.Unavailable), broken(codes.Unavailable), stay}, true, 0, false, 3},
		"silence": {[]func(watched) error{stay, hang}, true, 13 * time.Second, false, 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := &watcher{streams: test.streams}
			s := grpc.NewServer()
			deputyv1.RegisterPermissionsServiceServer(s, server)
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			go func() { _ = s.Serve(listener) }()
			t.Cleanup(s.Stop)
			c, err := client.Dial(listener.Addr().String(), client.WithoutRetries())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			began := time.Now()
			work, stop, err := c.WhilePermitted(t.Context(), view("plan"))
			if test.begins != (err == nil) {
				t.Fatalf("it begins with %v", err)
			}
			if test.begins {
				defer stop()
				limit := test.ends
				if limit == 0 {
					limit = 3 * time.Second
				}
				select {
				case <-work.Done():
					if test.ends == 0 {
						t.Fatalf("it ended after %v: %v", time.Since(began), context.Cause(work))
					}
					err = context.Cause(work)
				case <-time.After(limit):
					if test.ends != 0 {
						t.Fatalf("it goes on after %v", limit)
					}
				}
			}
			var refused *client.Refused
			if errors.As(err, &refused) != test.refused {
				t.Errorf("it ended with %v", err)
			}
			if asked := server.begun.Load(); asked < test.asked {
				t.Errorf("%d streams were begun, want %d", asked, test.asked)
			}
		})
	}
}

// TestStopEndsTheWatch: who stops has no stream any more, and a context that has ended.
func TestStopEndsTheWatch(t *testing.T) {
	t.Parallel()
	desk := openDesk(t.Context())
	defer desk.Close()
	session := desk.Session(t.Context(), "alice")
	work, stop, err := session.WhilePermitted(t.Context(), view("plan"))
	if err != nil {
		t.Fatal(err)
	}
	if work.Err() != nil {
		t.Error("the work has ended before it began")
	}
	stop()
	if !errors.Is(context.Cause(work), context.Canceled) {
		t.Errorf("it ended with %v", context.Cause(work))
	}
}
