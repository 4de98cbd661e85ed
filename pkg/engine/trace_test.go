package engine

import (
	"testing"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
)

// TestTraceOrder: a trace is in the same order each time, though SpiceDB lists what it dispatched as it comes.
func TestTraceOrder(t *testing.T) {
	t.Parallel()
	node := func(resource, permission, user string) *v1.CheckDebugTrace {
		return &v1.CheckDebugTrace{
			Resource:   &v1.ObjectReference{ObjectType: "document", ObjectId: resource},
			Permission: permission,
			Subject:    &v1.SubjectReference{Object: &v1.ObjectReference{ObjectType: "user", ObjectId: user}},
		}
	}
	want := []*v1.CheckDebugTrace{node("b", "edit", "alice"), node("a", "view", "alice"), node("a", "view", "bob"), node("b", "view", "alice")}
	for _, came := range [][]int{{0, 1, 2, 3}, {3, 2, 1, 0}, {2, 0, 3, 1}} {
		root := node("plan", "view", "alice")
		sub := &v1.CheckDebugTrace_SubProblems{}
		for _, i := range came {
			sub.Traces = append(sub.Traces, want[i])
		}
		root.Resolution = &v1.CheckDebugTrace_SubProblems_{SubProblems: sub}
		for i, c := range trace(root).Children {
			if w := want[i]; c.Permission != w.GetPermission() || c.Resource.ID != w.GetResource().GetObjectId() || c.Subject.ID != w.GetSubject().GetObject().GetObjectId() {
				t.Errorf("they came as %v: place %d has %+v, want %v", came, i, c, w)
			}
		}
	}
}
