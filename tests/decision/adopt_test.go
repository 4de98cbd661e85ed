package decision_test

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"google.golang.org/grpc/codes"

	"github.com/deputyauth/deputy/pkg/daemon"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/schema"
	"github.com/deputyauth/deputy/tests/harness"
)

// adoptable is a domain in which grants come directly, through a set, through a folder and through a wildcard.
const adoptable = `
definition group {
	relation tenant: tenant
	relation member: user | agent
}

definition folder {
	relation tenant: tenant
	relation reader: user | agent | group#member | delegation
}

definition paper {
	relation folder: folder
	relation editor: user | user:* | agent | agent:* | service
	permission tenant = folder.all(tenant)
	permission view = editor + folder->reader
}
`

// imported is a graph as another system leaves it: nothing in it is active, and a delegation and a session of scribe's are.
var imported = []string{
	"tenant:acme#member@user:alice", "tenant:acme#member@user:bob", "tenant:acme#agent@agent:scribe", "tenant:globex#agent@agent:scribe",
	"group:staff#tenant@tenant:acme", "group:staff#member@agent:scribe",
	"folder:inbox#tenant@tenant:acme", "folder:inbox#reader@group:staff#member", "folder:inbox#reader@user:alice",
	"folder:foreign#tenant@tenant:globex",
	"paper:plan#folder@folder:inbox", "paper:memo#folder@folder:inbox", "paper:open#folder@folder:foreign",
	"paper:plan#editor@user:alice", "paper:memo#editor@service:nightly", "paper:open#editor@agent:*",
	"delegation:old#active@delegation:old[expiration:2999-01-01T00:00:00Z]", "delegation:old#agent@agent:scribe",
	"delegation:old#principal@user:alice", "delegation:old#tenant@tenant:acme", "delegation:old#unscoped@delegation:old",
	`delegation:old#granted_by@user:alice[issued:{"at":"","until":"2999-01-01T00:00:00Z","key":""}]`,
	"delegation:old#allow_direct@user:alice[expiration:2999-01-01T00:00:00Z]",
	"delegation:half#agent@agent:scribe", "delegation:half#principal@tenant:acme#member", "delegation:half#tenant@tenant:acme",
	`session:run#agent@agent:scribe[issued:{"at":"","until":"2999-01-01T00:00:00Z","key":""}]`,
}

func newImported(t *testing.T, s *harness.Server) *world {
	t.Helper()
	s.WriteSchema(t, schema.Core+adoptable)
	s.Touch(t, imported...)
	return &world{t, s}
}

func (w *world) adoption() deputyv1.AdoptionServiceClient {
	return deputyv1.NewAdoptionServiceClient(w.Admin)
}

// review returns the candidates by name, and what follows.
func (w *world) review(r *deputyv1.ReviewAdoptionRequest) (map[string]*deputyv1.AdoptionCandidate, *deputyv1.AdoptionEnd) {
	w.Helper()
	stream, err := w.adoption().ReviewAdoption(w.Context(), r)
	w.ok(err)
	found := map[string]*deputyv1.AdoptionCandidate{}
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			w.Fatal("the stream has no end message")
		}
		w.ok(err)
		if m.GetEnd() != nil {
			return found, m.GetEnd()
		}
		o := m.GetCandidate().GetObject()
		found[o.GetObjectType()+":"+o.GetObjectId()] = m.GetCandidate()
	}
}

func named(names ...string) *deputyv1.ReviewAdoptionRequest {
	r := &deputyv1.ReviewAdoptionRequest{}
	for _, n := range names {
		r.Objects = append(r.Objects, harness.Ref(n))
	}
	return r
}

// holds are a candidate's holdings as "tenant type#permission ids".
func holds(c *deputyv1.AdoptionCandidate) []string {
	var out []string
	for _, h := range c.GetHoldings() {
		out = append(out, strings.TrimSpace(h.GetTenantId()+" "+h.GetObjectType()+"#"+h.GetPermission()+" "+strings.Join(h.GetObjectIds(), ",")))
	}
	return out
}

func (w *world) confirm(adoptions ...*deputyv1.Adoption) error {
	_, err := w.adoption().ConfirmAdoption(w.Context(), &deputyv1.ConfirmAdoptionRequest{Adoptions: adoptions})
	return err
}

// TestAdopt: a review lists what is named and not active with what it would hold; a confirmation with its digest makes that
// active, and nothing else; after a change it refuses.
func TestAdopt(t *testing.T) {
	harness.EachEngine(t, func(t *testing.T, s *harness.Server) {
		w := newImported(t, s)
		_, err := w.Principals().Resume(t.Context(), &deputyv1.ResumeRequest{Principal: harness.Ref("user:bob")})
		w.ok(err)
		all, end := w.review(&deputyv1.ReviewAdoptionRequest{})
		var names []string
		for n := range all {
			names = append(names, n)
		}
		slices.Sort(names)
		want := []string{"agent:*", "agent:scribe", "service:nightly", "tenant:acme", "tenant:globex", "user:alice"}
		if !slices.Equal(names, want) || !end.GetComplete() {
			t.Errorf("the review lists %v, complete %t, want %v", names, end.GetComplete(), want)
		}
		scribe := all["agent:scribe"]
		for name, want := range map[string][]string{
			"agent:*":         {"globex paper#editor open", "globex paper#view open"},
			"agent:scribe":    {"acme folder#reader inbox", "acme group#member staff", "acme paper#view memo,plan", "globex paper#editor open", "globex paper#view open"},
			"service:nightly": {"acme paper#editor memo", "acme paper#view memo"},
			"tenant:acme":     {"acme folder#tenant inbox", "acme group#tenant staff", "acme paper#tenant memo,plan"},
			"tenant:globex":   {"globex folder#tenant foreign", "globex paper#tenant open"},
			"user:alice":      {"acme folder#reader inbox", "acme paper#editor plan", "acme paper#view memo,plan"},
		} {
			if got := holds(all[name]); !slices.Equal(got, want) {
				t.Errorf("%s holds %q, want %q", name, got, want)
			}
		}
		if got := scribe.GetRelationships(); !slices.Equal(got, []string{"tenant:acme#agent@agent:scribe", "tenant:globex#agent@agent:scribe"}) {
			t.Errorf("scribe is named by %q", got)
		}
		if len(scribe.GetDelegations()) != 2 || scribe.GetDelegationsTotal() != 2 || len(scribe.GetSessions()) != 1 {
			t.Errorf("scribe's delegations %v, sessions %v", scribe.GetDelegations(), scribe.GetSessions())
		}
		// Also the delegation for the members of her tenant.
		if got := all["user:alice"].GetDelegationsTotal(); got != 2 {
			t.Errorf("alice has %d delegations", got)
		}
		one, _ := w.review(named("agent:scribe", "agent:nobody"))
		if one["agent:scribe"].GetDigest() != scribe.GetDigest() || one["agent:nobody"].GetRefusal() == "" || one["agent:nobody"].GetDigest() != "" {
			t.Errorf("by name: %v", one)
		}

		// A list in pages is the same list.
		var paged []string
		r := &deputyv1.ReviewAdoptionRequest{Limit: 1}
		for range 20 {
			page, end := w.review(r)
			for n, c := range page {
				paged = append(paged, n)
				if c.GetDigest() != all[n].GetDigest() {
					t.Errorf("%s has another digest in a page", n)
				}
			}
			if r.Cursor = end.GetNext(); end.GetComplete() {
				break
			}
		}
		if !slices.Equal(paged, want) {
			t.Errorf("in pages it is %v", paged)
		}

		adopt := func(name string, owners ...string) *deputyv1.Adoption {
			return &deputyv1.Adoption{Object: harness.Ref(name), OwnerIds: owners, Digest: all[name].GetDigest()}
		}
		for name, a := range map[string]*deputyv1.Adoption{
			"without an owner": adopt("agent:scribe"), "a user with an owner": adopt("user:alice", "bob"),
			"a wildcard": {Object: harness.Ref("agent:*")}, "a delegation": {Object: harness.Ref("delegation:old")},
		} {
			if err := w.confirm(a); statusOf(err) != codes.InvalidArgument {
				t.Errorf("%s: %v", name, err)
			}
		}
		w.fails(w.confirm(&deputyv1.Adoption{Object: harness.Ref("user:alice")}), codes.FailedPrecondition, "CONFLICT", "")
		w.fails(w.confirm(&deputyv1.Adoption{Object: harness.Ref("agent:nobody"), OwnerIds: []string{"bob"}}), codes.FailedPrecondition, "NOT_ACTIVE", "")

		// A change in between, wherever it comes from, refuses, and nothing of the call is written.
		for _, change := range []string{
			"folder:inbox#reader@agent:scribe", "paper:new#folder@folder:inbox", "paper:memo#editor@agent:*", "tenant:globex#agent@agent:scribe",
			"folder:inbox#reader@delegation:half",
		} {
			edit := s.Touch
			undo := s.Delete
			if strings.HasPrefix(change, "tenant:") {
				edit, undo = undo, edit
			}
			edit(t, change)
			w.fails(w.confirm(adopt("tenant:globex"), adopt("agent:scribe", "bob")), codes.FailedPrecondition, "CONFLICT", "")
			undo(t, change)
		}
		if again, _ := w.review(named("tenant:globex", "agent:scribe")); len(again) != 2 {
			t.Errorf("a confirmation that was refused activated something: %v", again)
		}

		direct := asAgent("scribe").actingFor("user:alice").in("acme").view("paper:plan")
		w.deny(direct, byActor)
		w.ok(w.confirm(adopt("agent:scribe", "bob"), adopt("user:alice")))
		w.deny(direct, byActor) // the tenant was not confirmed
		w.ok(w.confirm(adopt("tenant:acme"), adopt("agent:scribe", "bob")))
		w.allow(direct)
		rest, _ := w.review(&deputyv1.ReviewAdoptionRequest{})
		for _, gone := range []string{"agent:scribe", "user:alice", "tenant:acme"} {
			if rest[gone] != nil {
				t.Errorf("%s is still listed", gone)
			}
		}
		if len(rest) != 3 {
			t.Errorf("there are left %v", rest)
		}
		// Imported facts are never activated.
		half, err := w.Delegations().GetDelegation(t.Context(), &deputyv1.GetDelegationRequest{DelegationId: "half"})
		w.ok(err)
		if half.GetDelegation().GetState() != deputyv1.LifecycleState_LIFECYCLE_STATE_INACTIVE {
			t.Errorf("half an imported delegation is %v", half)
		}
	})
}

// TestAdoptNeverLiftsASuspension, by whichever way it comes.
func TestAdoptNeverLiftsASuspension(t *testing.T) {
	harness.EachEngine(t, func(t *testing.T, s *harness.Server) {
		w := newImported(t, s)
		all, _ := w.review(named("agent:scribe", "user:alice"))
		_, err := w.Agents().SuspendAgent(t.Context(), &deputyv1.SuspendAgentRequest{AgentId: "scribe"})
		w.ok(err)
		_, err = w.Principals().Suspend(t.Context(), &deputyv1.SuspendRequest{Principal: harness.Ref("user:alice")})
		w.ok(err)
		for name, c := range all {
			a := &deputyv1.Adoption{Object: c.GetObject(), Digest: c.GetDigest()}
			if name == "agent:scribe" {
				a.OwnerIds = []string{"bob"}
			}
			w.fails(w.confirm(a), codes.FailedPrecondition, "NOT_ACTIVE", "")
		}
		stopped, _ := w.review(named("agent:scribe", "user:alice"))
		for name, c := range stopped {
			if c.GetState() != deputyv1.LifecycleState_LIFECYCLE_STATE_STOPPED || c.GetDigest() != "" || c.GetRefusal() == "" {
				t.Errorf("%s: %v", name, c)
			}
		}
		register := &deputyv1.RegisterAgentRequest{AgentId: "scribe", OwnerIds: []string{"bob"}, Adopt: true}
		_, err = w.Agents().RegisterAgent(t.Context(), register)
		w.fails(err, codes.FailedPrecondition, "NOT_ACTIVE", "")
		// Lifted, it is what it was: not registered. Then it can be.
		resumed, err := w.Agents().ResumeAgent(t.Context(), &deputyv1.ResumeAgentRequest{AgentId: "scribe"})
		w.ok(err)
		if resumed.GetState() != deputyv1.LifecycleState_LIFECYCLE_STATE_INACTIVE {
			t.Errorf("an agent that was never registered is %v once it is resumed", resumed.GetState())
		}
		// An owner that the graph names registers nobody, however often the agent is suspended.
		s.Touch(t, "agent:scribe#owner@user:bob")
		resumes := func(want deputyv1.LifecycleState, suspensions int) {
			t.Helper()
			for range suspensions {
				_, err := w.Agents().SuspendAgent(t.Context(), &deputyv1.SuspendAgentRequest{AgentId: "scribe"})
				w.ok(err)
			}
			resumed, err := w.Agents().ResumeAgent(t.Context(), &deputyv1.ResumeAgentRequest{AgentId: "scribe"})
			w.ok(err)
			if got, err := w.Agents().GetAgent(t.Context(), &deputyv1.GetAgentRequest{AgentId: "scribe"}); err != nil || got.GetAgent().GetState() != want || resumed.GetState() != want {
				t.Errorf("resumed after %d suspensions it is %v, %v: want %v", suspensions, resumed.GetState(), got, want)
			}
		}
		for suspensions := range 3 {
			resumes(deputyv1.LifecycleState_LIFECYCLE_STATE_INACTIVE, suspensions)
		}
		_, err = w.Agents().RegisterAgent(t.Context(), register)
		w.ok(err)
		for suspensions := range 3 {
			resumes(deputyv1.LifecycleState_LIFECYCLE_STATE_ACTIVE, suspensions)
		}
	})
}

// TestRegisterAdopt: an id that relationships name is registered only where that is asked for, by an admin, with all owners that
// the graph names.
func TestRegisterAdopt(t *testing.T) {
	harness.EachEngine(t, func(t *testing.T, s *harness.Server) {
		w := newImported(t, s)
		register := &deputyv1.RegisterAgentRequest{AgentId: "scribe", OwnerIds: []string{"bob"}}
		_, err := w.Agents().RegisterAgent(t.Context(), register)
		w.fails(err, codes.AlreadyExists, "ALREADY_EXISTS", "")
		if err == nil || !strings.Contains(err.Error(), "--adopt") {
			t.Errorf("the error does not say how to adopt: %v", err)
		}
		register.Adopt = true
		_, err = deputyv1.NewAgentsServiceClient(s.Service).RegisterAgent(t.Context(), register)
		w.fails(err, codes.PermissionDenied, "ROLE_REQUIRED", "")
		s.Touch(t, "agent:scribe#owner@user:mallory")
		_, err = w.Agents().RegisterAgent(t.Context(), register)
		w.fails(err, codes.FailedPrecondition, "NOT_ENTITLED", "")
		c, _ := w.review(named("agent:scribe"))
		a := &deputyv1.Adoption{Object: harness.Ref("agent:scribe"), OwnerIds: []string{"bob"}, Digest: c["agent:scribe"].GetDigest()}
		w.fails(w.confirm(a), codes.FailedPrecondition, "NOT_ENTITLED", "")

		register.OwnerIds, register.IdempotencyKey = []string{"bob", "mallory", "nobody"}, "once"
		first, err := w.Agents().RegisterAgent(t.Context(), register)
		w.ok(err)
		if got := first.GetUnnamedOwnerIds(); !slices.Equal(got, []string{"nobody"}) {
			t.Errorf("owners that nothing named: %v", got)
		}
		again, err := w.Agents().RegisterAgent(t.Context(), register)
		w.ok(err)
		if !slices.Equal(again.GetAgent().GetOwnerIds(), register.GetOwnerIds()) {
			t.Errorf("a retry returns %v", again)
		}
		register.IdempotencyKey = ""
		_, err = w.Agents().RegisterAgent(t.Context(), register)
		w.fails(err, codes.AlreadyExists, "ALREADY_EXISTS", "")
		// With the flag a new agent is registered as without it.
		_, err = w.Agents().RegisterAgent(t.Context(), &deputyv1.RegisterAgentRequest{AgentId: "fresh", OwnerIds: []string{"bob"}, Adopt: true})
		w.ok(err)
	})
}

// TestSuspendingAnybody: what takes access away always goes through, and says where nothing names the id.
func TestSuspendingAnybody(t *testing.T) {
	harness.EachEngine(t, func(t *testing.T, s *harness.Server) {
		w := newImported(t, s)
		for name, unnamed := range map[string]bool{"user:alice": false, "user:alcie": true, "tenant:acme": false, "service:nobody": true} {
			stopped, err := w.Principals().Suspend(t.Context(), &deputyv1.SuspendRequest{Principal: harness.Ref(name)})
			w.ok(err)
			if stopped.GetUnnamed() != unnamed {
				t.Errorf("suspending %s says unnamed %t", name, stopped.GetUnnamed())
			}
			again, err := w.Principals().Resume(t.Context(), &deputyv1.ResumeRequest{Principal: harness.Ref(name)})
			w.ok(err)
			if again.GetUnnamed() {
				t.Errorf("%s was suspended, and is not known when it is resumed", name)
			}
		}
		for name, unnamed := range map[string]bool{"scribe": false, "scrbe": true} {
			stopped, err := w.Agents().SuspendAgent(t.Context(), &deputyv1.SuspendAgentRequest{AgentId: name})
			w.ok(err)
			if stopped.GetUnnamed() != unnamed {
				t.Errorf("suspending %s says unnamed %t", name, stopped.GetUnnamed())
			}
		}
		_, err := w.Agents().ResumeAgent(t.Context(), &deputyv1.ResumeAgentRequest{AgentId: "nobody"})
		w.fails(err, codes.NotFound, "AGENT_NOT_FOUND", "")
		fresh, err := w.Principals().Resume(t.Context(), &deputyv1.ResumeRequest{Principal: harness.Ref("user:fresh")})
		w.ok(err)
		if !fresh.GetUnnamed() {
			t.Error("nothing named user:fresh before")
		}
	})
}

// TestAdoptOutOfManyRelationships: a review of 100,000 relationships is streamed, and what is beyond a digest is said.
func TestAdoptOutOfManyRelationships(t *testing.T) {
	s := harness.Start(t, daemon.Config{Engine: harness.Embedded(t)})
	w := newImported(t, s)
	stream, err := v1.NewPermissionsServiceClient(s.Admin).ImportBulkRelationships(t.Context())
	w.ok(err)
	const users, each = 100, 1000
	for u := range users {
		var rels []*v1.Relationship
		for n := range each {
			rels = append(rels, &v1.Relationship{
				Resource: &v1.ObjectReference{ObjectType: "folder", ObjectId: fmt.Sprintf("f%d", n)}, Relation: "reader",
				Subject: &v1.SubjectReference{Object: &v1.ObjectReference{ObjectType: "user", ObjectId: fmt.Sprintf("u%d", u)}},
			})
		}
		w.ok(stream.Send(&v1.ImportBulkRelationshipsRequest{Relationships: rels}))
	}
	_, err = stream.CloseAndRecv()
	w.ok(err)
	all, end := w.review(&deputyv1.ReviewAdoptionRequest{})
	if !end.GetComplete() || len(all) != users+7 {
		t.Errorf("%d are listed, complete %t", len(all), end.GetComplete())
	}
	c := all["user:u7"]
	if h := c.GetHoldings(); len(h) != 1 || h[0].GetObjects() != each || len(h[0].GetObjectIds()) != 5 || h[0].GetTenantId() != "" {
		t.Errorf("u7 holds %v", h)
	}
	w.ok(w.confirm(&deputyv1.Adoption{Object: c.GetObject(), Digest: c.GetDigest()}))
}
