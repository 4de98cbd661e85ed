package decision_test

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"google.golang.org/grpc/codes"

	"github.com/deputyauth/deputy/pkg/daemon"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/tests/harness"
)

// TestDatabaseThatDoesNotAnswer: where PostgreSQL stops, each caller is told so in its time, in both APIs, and callers
// who have left leave nothing behind that grows. The callers that the server lets in are told that the database is not
// available; the others are told that there is no place for them.
func TestDatabaseThatDoesNotAnswer(t *testing.T) {
	postgres := harness.Postgres(t)
	stall := harness.Between(t, &postgres)
	w := newWorld(t, harness.Start(t, daemon.Config{Engine: postgres}))
	d := w.delegate(&deputyv1.CreateDelegationRequest{Unscoped: true, AllowDirect: true})
	c := under(d).view("document:plan")
	w.allow(c)
	before := runtime.NumGoroutine()
	stall.Hold()
	defer stall.Release()
	const callers = 400
	var asked sync.WaitGroup
	var unavailable, full atomic.Int32
	for i := range callers {
		asked.Go(func() {
			// Two in a hundred set no deadline, which is 10 s.
			ctx, limit := t.Context(), 10*time.Second
			if i%100 > 1 {
				limit = 6 * time.Second
				bounded, cancel := context.WithTimeout(ctx, limit)
				defer cancel()
				ctx = bounded
			}
			start := time.Now()
			var err error
			if i%2 == 0 {
				_, err = w.Permissions().CheckPermission(ctx, c.CheckPermissionRequest)
			} else {
				_, err = v1.NewPermissionsServiceClient(w.Service).CheckPermission(ctx, &v1.CheckPermissionRequest{
					Consistency: &v1.Consistency{Requirement: &v1.Consistency_FullyConsistent{FullyConsistent: true}},
					Resource:    &v1.ObjectReference{ObjectType: "document", ObjectId: "plan"}, Permission: "view",
					Subject: &v1.SubjectReference{Object: &v1.ObjectReference{ObjectType: "user", ObjectId: "alice"}},
				})
			}
			took := time.Since(start)
			switch code := statusOf(err); {
			case code == codes.Unavailable:
				unavailable.Add(1)
			case code == codes.ResourceExhausted:
				full.Add(1)
			case code == codes.DeadlineExceeded && i%2 == 1: // SpiceDB's own API answers a deadline with the deadline.
			default:
				t.Errorf("caller %d: %v, want UNAVAILABLE or RESOURCE_EXHAUSTED", i, err)
			}
			if took > limit+limit/10 {
				t.Errorf("caller %d had its answer after %s, with %s", i, took, limit)
			}
		})
	}
	asked.Wait()
	if unavailable.Load() == 0 {
		t.Errorf("no caller was told that the database is not available, and %d that there is no place", full.Load())
	}
	// 256 questions may still wait for the database, and each is one goroutine.
	bound := before + 256 + 64
	for deadline := time.Now().Add(20 * time.Second); runtime.NumGoroutine() > bound; <-time.After(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d goroutines, %d before: callers who have left are still there", runtime.NumGoroutine(), before)
		}
	}
	stall.Release()
	w.allow(c)
}
