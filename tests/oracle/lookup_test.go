package oracle_test

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/tests/oracle"
)

// lookUpResources pages through a lookup, so many results at a time, and returns what each found with
// its verdict. Every page but the last is full, no result comes twice, and every stream ends as it says.
func (w *world) lookUpResources(q oracle.Question, limit uint32) map[string]string {
	w.t.Helper()
	found := map[string]string{}
	request := &deputyv1.LookupResourcesRequest{
		AgentId:            q.Agent,
		OnBehalfOf:         reference(q.Principal),
		TenantId:           q.Tenant,
		ResourceObjectType: q.Resource.Type,
		Permission:         q.Permission,
		Context:            caveatContext(q.Context),
		Limit:              limit,
	}
	switch {
	case q.Session != "":
		request.Via = &deputyv1.LookupResourcesRequest_SessionId{SessionId: q.Session}
	case q.Delegation != "":
		request.Via = &deputyv1.LookupResourcesRequest_DelegationId{DelegationId: q.Delegation}
	}
	for {
		stream, err := w.deputy.permissions.LookupResources(w.ctx, request)
		if err != nil {
			w.t.Fatalf("lookup: %v", err)
		}
		var end *deputyv1.LookupEnd
		results := uint64(0)
		for {
			message, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				w.t.Fatalf("lookup: %v\n%s", err, show(q))
			}
			if end != nil {
				w.t.Fatalf("a result after the end")
			}
			if end = message.GetEnd(); end != nil {
				continue
			}
			results++
			r := message.GetResource()
			w.note(found, resourceKey(r.Resource.ObjectId, r.Principal, r.TenantId, r.DelegationId), r.Permissionship, r.MissingContext)
		}
		if next := w.pageEnd(end, results, limit); next != nil {
			request.Cursor = next
			continue
		}
		return found
	}
}

// resourceKey names one result of LookupResources.
func resourceKey(id string, principal *deputyv1.ObjectReference, tenant, delegation string) string {
	return fmt.Sprintf("%s for %s:%s in %s under %s", id, principal.GetObjectType(), principal.GetObjectId(), tenant, delegation)
}

// note keeps one result with its verdict.
func (w *world) note(found map[string]string, key string, permissionship deputyv1.Permissionship, missing []string) {
	w.t.Helper()
	if found[key] != "" {
		w.t.Fatalf("found twice: %s", key)
	}
	found[key] = fmt.Sprint(verdicts[permissionship], missing)
}

// pageEnd asserts what the last message of a stream has to say, and returns where to go on.
func (w *world) pageEnd(end *deputyv1.LookupEnd, results uint64, limit uint32) *deputyv1.Cursor {
	w.t.Helper()
	switch {
	case end == nil:
		w.t.Fatalf("a stream without an end")
	case end.Results != results:
		w.t.Fatalf("%d results, the end says %d", results, end.Results)
	case results > uint64(limit):
		w.t.Fatalf("%d results, the limit is %d", results, limit)
	case end.Complete && end.Next != nil || !end.Complete && end.Next == nil:
		w.t.Fatalf("complete %v, next %v", end.Complete, end.Next)
	case !end.Complete && results < uint64(limit):
		w.t.Fatalf("%d results and more to come, the limit is %d", results, limit)
	case end.LookedUpAt.GetToken() == "":
		w.t.Fatalf("a lookup without a revision")
	}
	return end.Next
}

// same asserts that a lookup found exactly what was expected.
func (w *world) same(what string, q oracle.Question, got, want map[string]string) {
	w.t.Helper()
	if maps.Equal(got, want) {
		return
	}
	var b strings.Builder
	for _, key := range slices.Sorted(maps.Keys(want)) {
		if got[key] != want[key] {
			fmt.Fprintf(&b, "\n  %s: got %q, want %q", key, got[key], want[key])
		}
	}
	for _, key := range slices.Sorted(maps.Keys(got)) {
		if want[key] == "" {
			fmt.Fprintf(&b, "\n  %s: got %q, want nothing", key, got[key])
		}
	}
	w.fail(what+b.String(), q)
}

// TestLookupResourcesEqualsChecks draws worlds and looks up what each session, delegation and agent
// reaches: it is, for each delegation alone, exactly what the oracle allows or allows conditionally, and
// all delegations together reach what CheckPermission says object by object.
func TestLookupResourcesEqualsChecks(t *testing.T) {
	d := openDeputy(t, domain)
	var met tally
	try(t, 12, func(rt *rapid.T) {
		r := newRandom(t.Context(), rt, d, size{tenants: 2, users: 3, services: 1, agents: 3, groups: 2, folders: 3, documents: 6})
		for range 3 + r.below(5) {
			r.drawDelegation()
			r.drawSession()
		}
		for range r.below(3) {
			r.drawChange()
		}
		for range 8 {
			q := r.drawQuestion()
			q.Resource.ID = ""
			if q.Session == "" && (q.Principal == (oracle.Object{}) || q.Tenant == "") {
				continue
			}
			if _, ok := r.state.Sessions[q.Session]; q.Session != "" && !ok {
				continue
			}
			if q.Session != "" && r.chance(50) {
				q.Principal, q.Tenant = oracle.Object{}, ""
			}
			limit := uint32(1 + r.below(8))
			found := r.lookUpResources(q, limit)
			r.same("lookup", q, found, r.reached(q, &met))
			r.matchesChecks(q, found)
		}
	})
	met.wantAll(t, "HAS_PERMISSION UNSPECIFIED", "NO_PERMISSION OBJECT")
}

// TestLookupResourcesFindsNothingTwice looks up, page by page, documents that alice may view for two
// reasons each: SpiceDB finds such a document once for either.
func TestLookupResourcesFindsNothingTwice(t *testing.T) {
	w := newWorld(t.Context(), t, openDeputy(t, domain))
	alice, _, tenant, agent, plan := w.office()
	shelf := w.object("folder", "shelf")
	w.grant(shelf, "viewer", oracle.Subject{Object: alice}, oracle.Condition{})
	w.grant(shelf, "viewer", oracle.Subject{Object: agent}, oracle.Condition{})
	for i := range 5 {
		o := w.object("document", fmt.Sprint("draft", i))
		w.grant(o, "folder", oracle.Subject{Object: shelf}, oracle.Condition{})
		w.grant(o, "viewer", oracle.Subject{Object: alice}, oracle.Condition{})
	}
	w.flush()
	id := w.mustDelegate(oracle.Delegation{Agent: agent.ID, Principal: oracle.Subject{Object: alice}, Tenant: tenant.ID, GrantedBy: alice, Unscoped: true, Direct: true})
	q := oracle.Question{Agent: agent.ID, Delegation: id, Principal: alice, Tenant: tenant.ID, Resource: plan, Permission: "view"}
	for _, limit := range []uint32{1, 2, 4, 6, 100} {
		if found := w.lookUpResources(q, limit); len(found) != 6 {
			t.Errorf("with a limit of %d: found %d of 6: %v", limit, len(found), found)
		}
	}
}

// all returns the world's objects of a type.
func (r *random) all(typ string) []oracle.Object {
	if typ == "folder" {
		return r.folders
	}
	return r.documents
}

// reached is what the oracle expects of a lookup: every delegation that the question leaves, alone, with
// every object.
func (r *random) reached(q oracle.Question, met *tally) map[string]string {
	now := time.Now()
	want := map[string]string{}
	for id, d := range r.state.Delegations {
		one := q
		switch {
		case q.Session != "":
			if !slices.Contains(r.state.Sessions[q.Session].Leaves, id) ||
				q.Principal != (oracle.Object{}) && q.Principal != d.Principal.Object || q.Tenant != "" && q.Tenant != d.Tenant {
				continue
			}
			one.Principal, one.Tenant = d.Principal.Object, d.Tenant
		case q.Delegation != "" && q.Delegation != id:
			continue
		}
		for _, o := range r.all(q.Resource.Type) {
			one.Resource = o
			a := r.state.Weigh(one, id, now)
			met.add([]oracle.Answer{a})
			if a.Verdict != oracle.Denied {
				want[resourceKey(o.ID, reference(one.Principal), one.Tenant, id)] = fmt.Sprint(a.Verdict, a.Missing.Names())
			}
		}
	}
	return want
}

// matchesChecks asks the server object by object, for each principal and tenant that the lookup could be
// for, and asserts that the lookup found what is not denied, and nothing else.
func (r *random) matchesChecks(q oracle.Question, found map[string]string) {
	r.rt.Helper()
	pairs := map[string]oracle.Question{}
	if q.Session == "" {
		pairs[""] = q
	}
	for _, id := range r.state.Sessions[q.Session].Leaves {
		d, one := r.state.Delegations[id], q
		if q.Principal != (oracle.Object{}) && q.Principal != d.Principal.Object || q.Tenant != "" && q.Tenant != d.Tenant {
			continue
		}
		one.Principal, one.Tenant = d.Principal.Object, d.Tenant
		pairs[d.Principal.String()+d.Tenant] = one
	}
	for _, key := range slices.Sorted(maps.Keys(pairs)) {
		one := pairs[key]
		for _, o := range r.all(q.Resource.Type) {
			one.Resource = o
			a, err := r.ask(one)
			if err != nil {
				r.rt.Fatalf("%s: %v", show(one), err)
			}
			best := oracle.Denied
			under := strings.TrimSuffix(resourceKey(o.ID, reference(one.Principal), one.Tenant, ""), " ")
			for k, verdict := range found {
				if strings.HasPrefix(k, under) {
					best = max(best, oracle.Conditional)
					if strings.HasPrefix(verdict, oracle.Allowed.String()) {
						best = oracle.Allowed
					}
				}
			}
			if a.Verdict != best {
				r.fail(fmt.Sprintf("check says %s, the lookup %s", a.Verdict, best), one)
			}
		}
	}
}

// lookUpAgents pages through LookupAgents as lookUpResources does through the other.
func (w *world) lookUpAgents(q oracle.Question, limit uint32) map[string]string {
	w.t.Helper()
	found := map[string]string{}
	request := &deputyv1.LookupAgentsRequest{
		Resource: reference(q.Resource), Permission: q.Permission, OnBehalfOf: reference(q.Principal), Context: caveatContext(q.Context), Limit: limit,
	}
	for {
		stream, err := w.deputy.audit.LookupAgents(w.ctx, request)
		if err != nil {
			w.t.Fatalf("lookup: %v", err)
		}
		var end *deputyv1.LookupEnd
		results := uint64(0)
		for {
			message, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				w.t.Fatalf("lookup: %v\n%s", err, show(q))
			}
			if end = message.GetEnd(); end != nil {
				continue
			}
			results++
			a := message.GetAgent()
			if a.AgentId != a.AgentChain[len(a.AgentChain)-1] {
				w.t.Fatalf("agent %s, chain %v", a.AgentId, a.AgentChain)
			}
			w.note(found, agentKey(a.AgentChain, a.Principal, a.TenantId, a.DelegationId, a.NeedsSession), a.Permissionship, a.MissingContext)
		}
		if next := w.pageEnd(end, results, limit); next != nil {
			request.Cursor = next
			continue
		}
		return found
	}
}

// agentKey names one result of LookupAgents.
func agentKey(agents []string, principal *deputyv1.ObjectReference, tenant, delegation string, needsSession bool) string {
	return fmt.Sprintf("%v for %s:%s in %s under %s, needs a session %v", agents, principal.GetObjectType(), principal.GetObjectId(), tenant, delegation, needsSession)
}

// TestLookupAgentsEqualsChecks draws worlds and looks up who reaches each object: every delegation, apart
// from the leaves of sessions, for every principal that it covers, as the oracle says for an agent that
// starts a session where it needs one. Those that need none are asked for one by one as well.
func TestLookupAgentsEqualsChecks(t *testing.T) {
	d := openDeputy(t, domain)
	var met tally
	try(t, 15, func(rt *rapid.T) {
		r := newRandom(t.Context(), rt, d, usual)
		for range 4 + r.below(7) {
			r.drawDelegation()
			if r.chance(30) {
				r.drawSession()
			}
		}
		for range r.below(3) {
			r.drawChange()
		}
		for range 6 {
			q := oracle.Question{
				Resource:   pick(r, slices.Concat(r.documents, r.folders)),
				Permission: pick(r, []string{"view", "edit"}),
				Context:    r.drawContext(),
				AnySession: true,
			}
			if r.chance(30) {
				q.Principal = pick(r, r.principals())
			}
			now := time.Now()
			q.Tenant = r.state.Tenants(q.Resource, now)
			want := map[string]string{}
			var direct []oracle.Question
			for id, d := range r.state.Delegations {
				if d.Session != "" {
					continue
				}
				for _, p := range r.principals() {
					if q.Principal != (oracle.Object{}) && q.Principal != p {
						continue
					}
					one := q
					one.Agent, one.Principal = d.Agent, p
					a := r.state.Weigh(one, id, now)
					met.add([]oracle.Answer{a})
					if a.Verdict == oracle.Denied {
						continue
					}
					needsSession := !oracle.Direct(r.state.Chain(id))
					want[agentKey(a.Agents, reference(p), d.Tenant, id, needsSession)] = fmt.Sprint(a.Verdict, a.Missing.Names())
					if !needsSession {
						one.AnySession, one.Delegation = false, id
						direct = append(direct, one)
					}
				}
			}
			r.same("lookup", q, r.lookUpAgents(q, uint32(1+r.below(8))), want)
			r.compare(direct)
		}
	})
	met.wantAll(t, "HAS_PERMISSION UNSPECIFIED", "NO_PERMISSION ACTOR", "NO_PERMISSION OBJECT")
}
