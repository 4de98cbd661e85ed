package spicedb

import (
	"context"
	"testing"
	"time"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/statuses"
)

// failingOver is a database whose history is known, and what it really is.
type failingOver struct{ known, really string }

func (k *failingOver) History(context.Context) (string, error) { return k.known, nil }

func (k *failingOver) HistoryNow(context.Context) (string, error) {
	k.known = k.really
	return k.really, nil
}

// TestTokensCarryHistory: a sealed token is good in the history of the database that it was read in, whether this server knows of that history
// already or not, and in no other one. A database that became another one during a call gives a token that is good nowhere.
func TestTokensCarryHistory(t *testing.T) {
	history := &failingOver{"first", "first"}
	cfg := Config{
		Histories: history, SnapshotMaxAge: time.Hour,
		Rights: func(context.Context) Rights { return Rights{Seals: true} },
	}
	d := &Door{cfg: cfg, seals: newSealer([]byte("a key"))}
	request := &v1.CheckPermissionRequest{}
	route := &route{sealed: sealedIn(request.ProtoReflect().Descriptor())}
	// sealed gives out a token as an answer does, in a call during which something happens.
	sealed := func(meanwhile func()) *v1.ZedToken {
		t.Helper()
		c := d.call(t.Context(), route)
		if err := c.open(t.Context(), request); err != nil {
			t.Fatal(err)
		}
		meanwhile()
		var out v1.ZedToken
		for range 2 { // an answer may have it twice
			if err := proto.Unmarshal(sealsToken(c, withText("GhUKEzE=")), &out); err != nil {
				t.Fatal(err)
			}
		}
		return &out
	}
	opened := func(token *v1.ZedToken) (string, string) {
		t.Helper()
		r := &v1.CheckPermissionRequest{Consistency: &v1.Consistency{Requirement: &v1.Consistency_AtLeastAsFresh{AtLeastAsFresh: proto.CloneOf(token)}}}
		err := d.call(t.Context(), route).open(t.Context(), r)
		return r.GetConsistency().GetAtLeastAsFresh().GetToken(), statuses.Info(status.Convert(err)).GetReason()
	}
	first := sealed(func() {})
	if got, refused := opened(first); got != "GhUKEzE=" || refused != "" {
		t.Errorf("a token of today's history opens as %q, refused for %q", got, refused)
	}
	none := sealed(func() { history.really = "second" })
	second := sealed(func() {})
	history.known = "first" // as of a server that has not asked since
	if got, refused := opened(second); got != "GhUKEzE=" || refused != "" {
		t.Errorf("a token of a history that this server does not know of yet opens as %q, refused for %q", got, refused)
	}
	for name, token := range map[string]*v1.ZedToken{"another history": first, "no history": none} {
		if _, refused := opened(token); refused != authz.ReasonRevision {
			t.Errorf("a token of %s is refused for %q", name, refused)
		}
	}
	// So are cursors, everybody's.
	page := &v1.ReadRelationshipsRequest{OptionalCursor: &v1.Cursor{}}
	route.sealed = sealedIn(page.ProtoReflect().Descriptor())
	d.cfg.Rights = func(context.Context) Rights { return Rights{Bounds: authz.Unbounded()} }
	turned := func(meanwhile func()) string {
		t.Helper()
		c := d.call(t.Context(), route)
		if err := c.open(t.Context(), &v1.ReadRelationshipsRequest{}); err != nil {
			t.Fatal(err)
		}
		var out v1.Cursor
		if err := proto.Unmarshal(sealsCursor(c, withText("YSBwbGFjZQ==")), &out); err != nil {
			t.Fatal(err)
		}
		meanwhile()
		page.OptionalCursor.Token = out.GetToken()
		return statuses.Info(status.Convert(d.call(t.Context(), route).open(t.Context(), page))).GetReason()
	}
	if refused := turned(func() {}); refused != "" || page.GetOptionalCursor().GetToken() != "YSBwbGFjZQ==" {
		t.Errorf("a cursor of today's history opens as %q, refused for %q", page.GetOptionalCursor().GetToken(), refused)
	}
	if refused := turned(func() { history.really = "third" }); refused != authz.ReasonRevision {
		t.Errorf("a cursor of another history is refused for %q", refused)
	}
	history.known, history.really = "second", "second"
	route.sealed = sealedIn(request.ProtoReflect().Descriptor())
	d.cfg.Rights = cfg.Rights
	// A server that does not follow takes them for what they are to it.
	d.cfg.Histories = nil
	if got, refused := opened(second); got != "GhUKEzE=" || refused != "" {
		t.Errorf("without a history a token opens as %q, refused for %q", got, refused)
	}
}
