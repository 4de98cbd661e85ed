package decision_test

import (
	"errors"
	"io"
	"regexp"
	"slices"
	"testing"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/deputyauth/deputy/pkg/daemon"
	"github.com/deputyauth/deputy/pkg/engine"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/tests/harness"
)

// TestForeignTokens: tokens and cursors of one engine are refused by every other, in both APIs, and told as what they are. Their
// servers have the same token key, as after a move from one engine to another, so that every seal is a good one.
func TestForeignTokens(t *testing.T) {
	here := map[string]func(testing.TB) engine.Config{
		"embedded": harness.Embedded, "another store": harness.Embedded, "memory": harness.Engines()["memory"], "remote": harness.Remote,
	}
	t.Run("without a database", func(t *testing.T) { foreign(t, here) })
	t.Run("with postgres", func(t *testing.T) {
		here["postgres"] = harness.Postgres
		foreign(t, here)
	})
}

// home is a server, and what a client has from it.
type home struct {
	*world
	delegation *deputyv1.Delegation
	token      *deputyv1.ZedToken
	zedToken   *v1.ZedToken
	// lookup and list are cursors of deputy.v1, and the others of authzed.api.v1.
	lookup, list            *deputyv1.Cursor
	read, reachable, export *v1.Cursor
}

func foreign(t *testing.T, engines map[string]func(testing.TB) engine.Config) {
	homes := map[string]*home{}
	for name, open := range engines {
		homes[name] = settle(t, harness.Start(t, daemon.Config{Engine: open(t)}))
	}
	for from, theirs := range homes {
		for to, h := range homes {
			for _, b := range bringings {
				err := b.bring(h, theirs)
				switch code := status.Code(err); {
				case from == to && err != nil:
					t.Errorf("%s, at home on %s: %v", b.name, to, err)
				case from != to && !slices.Contains(b.want, code):
					t.Errorf("%s of %s, brought to %s: %v, want %v", b.name, from, to, err, b.want)
				case from != to && code != codes.OK && toldTooMuch.MatchString(status.Convert(err).Message()):
					t.Errorf("%s of %s, brought to %s, tells of internals: %v", b.name, from, to, err)
				}
			}
		}
	}
}

var toldTooMuch = regexp.MustCompile(`internal|SQLSTATE|ERROR|consistency middleware|rpc error|store: |revision string`)

// settle collects what a client has after a while.
func settle(t *testing.T, s *harness.Server) *home {
	t.Helper()
	w := newWorld(t, s)
	h := &home{world: w}
	h.delegation = w.delegate(&deputyv1.CreateDelegationRequest{Unscoped: true, AllowDirect: true})
	w.delegate(&deputyv1.CreateDelegationRequest{Unscoped: true, AllowDirect: true})
	h.token = w.allow(under(h.delegation).view("document:plan")).GetCheckedAt()
	w.ok(h.lookUp(nil, &h.lookup))
	list, err := w.Delegations().ListDelegations(t.Context(), &deputyv1.ListDelegationsRequest{AgentId: "bot", Limit: 1})
	w.ok(err)
	h.list = list.GetNext()
	plain := v1.NewPermissionsServiceClient(w.Admin)
	check, err := plain.CheckPermission(t.Context(), h.question(&v1.Consistency{Requirement: &v1.Consistency_FullyConsistent{FullyConsistent: true}}))
	w.ok(err)
	h.zedToken = check.GetCheckedAt()
	h.read = first(w, streamOf(plain.ReadRelationships(t.Context(), h.reading(exactly(h.zedToken), nil)))).GetAfterResultCursor()
	h.reachable = first(w, streamOf(plain.LookupResources(t.Context(), h.reaching(exactly(h.zedToken), nil)))).GetAfterResultCursor()
	h.export = first(w, streamOf(plain.ExportBulkRelationships(t.Context(), &v1.ExportBulkRelationshipsRequest{
		Consistency: exactly(h.zedToken), OptionalLimit: 1,
	}))).GetAfterResultCursor()
	if h.lookup == nil || h.list == nil || h.read == nil || h.reachable == nil || h.export == nil {
		t.Fatal("a cursor is missing")
	}
	return h
}

// stream is a stream and the error of its opening.
type stream[M any] struct {
	receiver[M]
	err error
}

type receiver[M any] interface{ Recv() (M, error) }

func streamOf[M any](s grpc.ServerStreamingClient[M], err error) stream[*M] {
	return stream[*M]{s, err}
}

// first returns the first answer of a stream.
func first[M any](w *world, s stream[M]) M {
	w.Helper()
	w.ok(s.err)
	answer, err := s.Recv()
	w.ok(err)
	return answer
}

// readOut reads a stream to its end, and returns how that came.
func readOut[M any](s stream[M]) error {
	for s.err == nil {
		_, s.err = s.Recv()
	}
	if errors.Is(s.err, io.EOF) {
		return nil
	}
	return s.err
}

// lookUp looks up what alice's delegation reaches, from a cursor on, and keeps the next cursor.
func (h *home) lookUp(from *deputyv1.Cursor, next **deputyv1.Cursor) error {
	s, err := h.Permissions().LookupResources(h.Context(), &deputyv1.LookupResourcesRequest{
		AgentId: "bot", Via: &deputyv1.LookupResourcesRequest_DelegationId{DelegationId: h.delegation.GetDelegationId()},
		ResourceObjectType: "document", Permission: "view", Limit: 1, Cursor: from,
	})
	for err == nil {
		var resp *deputyv1.LookupResourcesResponse
		if resp, err = s.Recv(); resp.GetEnd().GetNext() != nil && next != nil {
			*next = resp.GetEnd().GetNext()
		}
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

func (h *home) question(at *v1.Consistency) *v1.CheckPermissionRequest {
	return &v1.CheckPermissionRequest{
		Consistency: at, Resource: &v1.ObjectReference{ObjectType: "document", ObjectId: "plan"}, Permission: "view",
		Subject: &v1.SubjectReference{Object: &v1.ObjectReference{ObjectType: "user", ObjectId: "alice"}},
	}
}

func (h *home) reading(at *v1.Consistency, from *v1.Cursor) *v1.ReadRelationshipsRequest {
	return &v1.ReadRelationshipsRequest{
		Consistency: at, RelationshipFilter: &v1.RelationshipFilter{ResourceType: "document"}, OptionalLimit: 1, OptionalCursor: from,
	}
}

func (h *home) reaching(at *v1.Consistency, from *v1.Cursor) *v1.LookupResourcesRequest {
	return &v1.LookupResourcesRequest{
		Consistency: at, ResourceObjectType: "document", Permission: "view", Subject: h.question(nil).GetSubject(), OptionalLimit: 1, OptionalCursor: from,
	}
}

func exactly(t *v1.ZedToken) *v1.Consistency {
	return &v1.Consistency{Requirement: &v1.Consistency_AtExactSnapshot{AtExactSnapshot: t}}
}

func after(t *v1.ZedToken) *v1.Consistency {
	return &v1.Consistency{Requirement: &v1.Consistency_AtLeastAsFresh{AtLeastAsFresh: t}}
}

var (
	refused = []codes.Code{codes.OutOfRange}
	// unread: SpiceDB tells a token that it cannot read from one that it can.
	unread = []codes.Code{codes.OutOfRange, codes.InvalidArgument}
	// freshest: SpiceDB takes a token of elsewhere, as a lower bound, for a wish for the head. So does Deputy where SpiceDB runs
	// elsewhere, since only SpiceDB can read it; the head is what is answered at anyway.
	freshest = []codes.Code{codes.OutOfRange, codes.InvalidArgument, codes.OK}
	// misplaced: a cursor is good for one datastore.
	misplaced = []codes.Code{codes.InvalidArgument}
)

// bringings are what can be brought, to whom, and what comes of it elsewhere.
var bringings = []struct {
	name  string
	want  []codes.Code
	bring func(h, theirs *home) error
}{
	{"deputy, a snapshot", refused, func(h, theirs *home) error {
		_, err := h.Permissions().CheckPermission(h.Context(), under(h.delegation).view("document:plan").at(theirs.token).CheckPermissionRequest)
		return err
	}},
	{"deputy, a session's token", freshest, func(h, theirs *home) error {
		_, err := h.Permissions().CheckPermission(h.Context(), under(h.delegation).view("document:plan").after(theirs.token).CheckPermissionRequest)
		return err
	}},
	{"deputy, a cursor of a lookup", misplaced, func(h, theirs *home) error {
		was := h.delegation
		h.delegation = theirs.delegation // the cursor is one for this request
		defer func() { h.delegation = was }()
		return h.lookUp(theirs.lookup, nil)
	}},
	{"deputy, a cursor of a list", misplaced, func(h, theirs *home) error {
		_, err := h.Delegations().ListDelegations(h.Context(), &deputyv1.ListDelegationsRequest{AgentId: "bot", Limit: 1, Cursor: theirs.list})
		return err
	}},
	{"authzed, a check at a snapshot", unread, func(h, theirs *home) error {
		_, err := v1.NewPermissionsServiceClient(h.Admin).CheckPermission(h.Context(), h.question(exactly(theirs.zedToken)))
		return err
	}},
	{"authzed, a check after", freshest, func(h, theirs *home) error {
		_, err := v1.NewPermissionsServiceClient(h.Admin).CheckPermission(h.Context(), h.question(after(theirs.zedToken)))
		return err
	}},
	{"authzed, a read at a snapshot", unread, func(h, theirs *home) error {
		return readOut(streamOf(v1.NewPermissionsServiceClient(h.Admin).ReadRelationships(h.Context(), h.reading(exactly(theirs.zedToken), nil))))
	}},
	{"authzed, a lookup after", freshest, func(h, theirs *home) error {
		return readOut(streamOf(v1.NewPermissionsServiceClient(h.Admin).LookupResources(h.Context(), h.reaching(after(theirs.zedToken), nil))))
	}},
	{"authzed, a cursor of a read", misplaced, func(h, theirs *home) error {
		return readOut(streamOf(v1.NewPermissionsServiceClient(h.Admin).ReadRelationships(h.Context(), h.reading(exactly(theirs.zedToken), theirs.read))))
	}},
	{"authzed, a cursor of a lookup", misplaced, func(h, theirs *home) error {
		return readOut(streamOf(v1.NewPermissionsServiceClient(h.Admin).LookupResources(h.Context(), h.reaching(exactly(theirs.zedToken), theirs.reachable))))
	}},
	{"authzed, a cursor of an export", misplaced, func(h, theirs *home) error {
		return readOut(streamOf(v1.NewPermissionsServiceClient(h.Admin).ExportBulkRelationships(h.Context(), &v1.ExportBulkRelationshipsRequest{
			OptionalLimit: 1, OptionalCursor: theirs.export,
		})))
	}},
	{"authzed, the old export's snapshot", unread, func(h, theirs *home) error {
		//nolint:staticcheck // it is served, so it refuses too
		return readOut(streamOf(v1.NewExperimentalServiceClient(h.Admin).BulkExportRelationships(h.Context(), &v1.BulkExportRelationshipsRequest{
			OptionalLimit: 1, Consistency: exactly(theirs.zedToken),
		})))
	}},
	{"authzed, the schema at a snapshot", unread, func(h, theirs *home) error {
		_, err := v1.NewSchemaServiceClient(h.Admin).ReflectSchema(h.Context(), &v1.ReflectSchemaRequest{Consistency: exactly(theirs.zedToken)})
		return err
	}},
	{"authzed, the start of a watch", unread, func(h, theirs *home) error {
		s, err := v1.NewWatchServiceClient(h.Admin).Watch(h.Context(), &v1.WatchRequest{OptionalStartCursor: theirs.zedToken})
		if err == nil && h != theirs { // at home it waits for the next change
			_, err = s.Recv()
		}
		return err
	}},
}
