package engine

import (
	"context"
	"net"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/deputyauth/deputy/pkg/authz"
	coreschema "github.com/deputyauth/deputy/schema"
)

// spicedb is a SpiceDB with Deputy's core that counts the writes and answers them as the test says.
type spicedb struct {
	v1.UnimplementedSchemaServiceServer
	v1.UnimplementedPermissionsServiceServer
	writes atomic.Int64
	// write answers write number n, from 1 on.
	write func(ctx context.Context, n int64, r *v1.WriteRelationshipsRequest) error
}

func (s *spicedb) ReadSchema(context.Context, *v1.ReadSchemaRequest) (*v1.ReadSchemaResponse, error) {
	return &v1.ReadSchemaResponse{SchemaText: coreschema.Core, ReadAt: &v1.ZedToken{Token: "looked up"}}, nil
}

func (s *spicedb) WriteRelationships(ctx context.Context, r *v1.WriteRelationshipsRequest) (*v1.WriteRelationshipsResponse, error) {
	n := s.writes.Add(1)
	if err := s.write(ctx, n, r); err != nil {
		return nil, err
	}
	return &v1.WriteRelationshipsResponse{WrittenAt: &v1.ZedToken{Token: strconv.FormatInt(n, 10)}}, nil
}

// remoteOver is the engine Remote over s.
func remoteOver(t *testing.T, s *spicedb, options ...grpc.DialOption) *Engine {
	t.Helper()
	listener := bufconn.Listen(1 << 20)
	server := grpc.NewServer()
	v1.RegisterSchemaServiceServer(server, s)
	v1.RegisterPermissionsServiceServer(server, s)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	conn, err := grpc.NewClient("passthrough:spicedb", append(options, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))...)
	if err != nil {
		t.Fatal(err)
	}
	e := &Engine{conn: conn}
	t.Cleanup(func() { _ = e.Close() })
	return e
}

// TestRemoteHeadIsAWrite: the head is the token of a write that only deletes, and that is tried again
// where it conflicts with others, but not for ever and not where anything else is wrong.
func TestRemoteHeadIsAWrite(t *testing.T) {
	for _, c := range []struct {
		name     string
		conflict int64 // so many writes conflict
		code     codes.Code
		writes   int64
		kind     authz.Kind
	}{
		{"first try", 0, codes.OK, 1, authz.Internal},
		{"last try", headTries - 1, codes.Aborted, headTries, authz.Internal},
		{"no end of conflicts", headTries, codes.Aborted, headTries, authz.Aborted},
		{"unavailable", 1, codes.Unavailable, 1, authz.Unavailable},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := &spicedb{write: func(_ context.Context, n int64, r *v1.WriteRelationshipsRequest) error {
				for _, u := range r.GetUpdates() {
					if u.GetOperation() != v1.RelationshipUpdate_OPERATION_DELETE || u.GetRelationship().GetResource().GetObjectId() != "-" {
						t.Errorf("taking the head writes %s", u)
					}
				}
				if n <= c.conflict {
					return status.Error(c.code, "not this time")
				}
				return nil
			}}
			snap, err := remoteOver(t, s).Snapshot(t.Context(), authz.Freshness{})
			if s.writes.Load() != c.writes {
				t.Errorf("%d writes, want %d", s.writes.Load(), c.writes)
			}
			if c.kind != authz.Internal {
				if authz.KindOf(err) != c.kind {
					t.Errorf("got %v, want kind %d", err, c.kind)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if want := strconv.FormatInt(c.writes, 10); snap.Revision().Token != want {
				t.Errorf("revision %q, want %q", snap.Revision().Token, want)
			}
			if schema, err := snap.Schema(t.Context()); err != nil || schema.Text != coreschema.Core {
				t.Errorf("schema: %v, %v", schema, err)
			}
		})
	}
}

// TestRemoteHeadIsShared: those who want the head while it is being taken share one write, the next.
func TestRemoteHeadIsShared(t *testing.T) {
	const rest = 8
	begun, release := make(chan struct{}), make(chan struct{})
	s := &spicedb{write: func(ctx context.Context, n int64, _ *v1.WriteRelationshipsRequest) error {
		if n > 1 {
			return nil
		}
		close(begun)
		select {
		case <-release:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}}
	e := remoteOver(t, s)
	var work sync.WaitGroup
	snapshot := func(want string) {
		snap, err := e.Snapshot(t.Context(), authz.Freshness{})
		if err != nil {
			t.Error(err)
		} else if got := snap.Revision().Token; got != want {
			t.Errorf("got revision %s, want %s", got, want)
		}
	}
	work.Go(func() { snapshot("1") })
	<-begun
	for range rest {
		work.Go(func() { snapshot("2") })
	}
	waiting := e.heads.Waiting
	for patience := time.Now().Add(10 * time.Second); waiting() < rest; runtime.Gosched() {
		if time.Now().After(patience) {
			t.Errorf("%d wait for the next taking, want %d", waiting(), rest)
			break
		}
	}
	close(release)
	work.Wait()
	if s.writes.Load() != 2 {
		t.Errorf("%d decisions cost %d writes, want 2", rest+1, s.writes.Load())
	}
}
