package follow_test

import (
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// refuses fails the test where a node takes a token of the lost time, in whichever field.
func (l *lossy) refuses(t *testing.T, name string, n *node) {
	t.Helper()
	today := n.wants(t, of(l.check, "kept"), has).GetCheckedAt()
	atLeast := func(r *deputyv1.CheckPermissionRequest, token *deputyv1.ZedToken) {
		r.Consistency = &deputyv1.Consistency{Requirement: &deputyv1.Consistency_AtLeastAsFresh{AtLeastAsFresh: token}}
	}
	for field, set := range map[string]func(*deputyv1.CheckPermissionRequest){
		"at_exact_snapshot": func(r *deputyv1.CheckPermissionRequest) {
			r.Consistency = &deputyv1.Consistency{Requirement: &deputyv1.Consistency_AtExactSnapshot{AtExactSnapshot: l.token}}
		},
		"at_least_as_fresh": func(r *deputyv1.CheckPermissionRequest) { atLeast(r, l.token) },
		"session_token":     func(r *deputyv1.CheckPermissionRequest) { r.SessionToken = l.token },
		"at_least_as_fresh, beside a session_token of today": func(r *deputyv1.CheckPermissionRequest) {
			atLeast(r, l.token)
			r.SessionToken = today
		},
		"session_token, beside an at_least_as_fresh of today": func(r *deputyv1.CheckPermissionRequest) {
			atLeast(r, today)
			r.SessionToken = l.token
		},
	} {
		asked := of(l.check, "revoked")
		set(asked)
		resp, err := n.check(t, asked)
		if status.Code(err) != codes.OutOfRange {
			t.Errorf("%s: %s with a token of the lost time: %v, %v; want OUT_OF_RANGE", name, field, resp.GetPermissionship(), err)
		}
	}
}

// TestTokensOfALostTime: a token of the time that a failover has lost names a state that no database has had. It is refused, by servers that have
// seen that time and by one that has not, and also once the ids of the lost transactions are those of others.
func TestTokensOfALostTime(t *testing.T) {
	t.Parallel()
	l := losing(t)
	l.fail(t)
	anew := surviving(t, over(l.replica), nil)
	anew.wants(t, of(l.check, "kept"), has)
	l.refuses(t, "a new server, before the ids are used again", anew)
	l.reuse(t)
	l.refuses(t, "a new server", anew)
	for name, n := range map[string]*node{"the server that wrote": l.a, "the server that read": l.b} {
		eventually(t, "the server answers again", func() bool { return n.answer(t, of(l.check, "kept")) == has })
		l.refuses(t, name, n)
	}
}

// TestServesAfterALoss: a server that has seen what a failover has lost answers again by itself, from a copy of the history that is true now,
// though the database's counter is still behind.
func TestServesAfterALoss(t *testing.T) {
	t.Parallel()
	l := losing(t)
	l.fail(t)
	stop := l.watched(t)
	for name, n := range map[string]*node{"the server that wrote": l.a, "the server that read": l.b} {
		took := eventually(t, name+" answers again", func() bool { return n.answer(t, of(l.check, "kept")) == has })
		t.Logf("%s answers %s after the promotion", name, took.Round(time.Millisecond))
		l.settled(t, n)
		l.refuses(t, name, n)
	}
	stop()
	l.a.Delete(t, reader("revoked"))
	l.b.wants(t, of(l.check, "revoked"), no)
}

// TestServesAfterARestore is TestServesAfterALoss where the database was restored to a point in time, at the same address.
func TestServesAfterARestore(t *testing.T) {
	t.Parallel()
	l := &lossy{primary: primaryWith(t)}
	e := over(l.primary)
	l.a, l.b = surviving(t, e, nil), surviving(t, e, nil)
	l.check = l.a.furnish(t)
	for _, document := range []string{"kept", "ended", "revoked"} {
		l.a.Touch(t, grants(document)...)
	}
	l.a.Delete(t, reader("ended"))
	l.replica = l.primary.Copy(t)
	l.a.Touch(t, grants("granted")...)
	l.a.Touch(t, grants("lost-19")...)
	l.a.Delete(t, reader("revoked"))
	for _, n := range []*node{l.a, l.b} {
		l.token = n.wants(t, of(l.check, "revoked"), no).GetCheckedAt()
	}
	l.primary.Stop(t)
	l.replica.RestoreAt(t, l.primary)
	stop := l.watched(t)
	for name, n := range map[string]*node{"the server that wrote": l.a, "the server that read": l.b} {
		took := eventually(t, name+" answers again", func() bool { return n.answer(t, of(l.check, "kept")) == has })
		t.Logf("%s answers %s after the restore", name, took.Round(time.Millisecond))
		l.settled(t, n)
		l.refuses(t, name, n)
	}
	stop()
}
