package rpc

import (
	"context"
	"sync/atomic"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/caller"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// maxUnderWay is how many calls of known callers are under way at once, over all connections: one whose message has not come
// takes some 12 KiB. The last quarter is kept for calls that take access away, and the last eighth for those who can suspend in all tenants.
const maxUnderWay = 10_000

// deletes is what of authzed.api.v1 only takes away.
const deletes = "/authzed.api.v1.PermissionsService/DeleteRelationships"

// narrowing reports whether a method only takes access away.
func narrowing(m *caller.Method) bool {
	return m != nil && (m.Effect == deputyv1.Effect_EFFECT_NARROWS || m.Full == deletes)
}

// underWay counts the calls with a key that are under way. The zero value has a bound of 0; see NewGate.
type underWay struct {
	calls atomic.Int64
	most  int64
}

// begin counts a call, which end has to follow, unless there are too many. Errors: Exhausted.
func (u *underWay) begin(ctx context.Context, method string) (end func(), err error) {
	m := caller.MethodOf(method)
	if m != nil && m.Open {
		return func() {}, nil // health has bounds of its own
	}
	most := u.most
	switch {
	case caller.Of(ctx).Brakes():
	case narrowing(m):
		most -= u.most / 8
	default:
		most -= u.most / 4
	}
	if u.calls.Add(1) > most {
		u.end()
		return nil, authz.Errorf(authz.Exhausted, authz.ReasonBusy, "too many calls are under way; try again")
	}
	return u.end, nil
}

func (u *underWay) end() { u.calls.Add(-1) }
