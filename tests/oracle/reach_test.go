package oracle_test

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/tests/oracle"
)

// readReach reads a reach with its objects, and returns a line for each party, each object of one and each count, and the revision. What it says
// of one place has to agree: the objects with their counts.
func (w *world) readReach(request *deputyv1.ReadReachRequest) (lines map[string]string, at *deputyv1.ZedToken) {
	w.t.Helper()
	lines = map[string]string{}
	note := func(key, value string) {
		if lines[key] != "" {
			w.t.Fatalf("told twice: %s", key)
		}
		lines[key] = value
	}
	for {
		stream, err := w.deputy.reach.ReadReach(w.ctx, request)
		if err != nil {
			w.t.Fatalf("reach: %v", err)
		}
		var end *deputyv1.ReachEnd
		party, has, conditional := "", map[string]uint64{}, map[string]uint64{}
		for {
			message, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				w.t.Fatalf("reach: %v", err)
			}
			switch m := message.GetResult().(type) {
			case *deputyv1.ReadReachResponse_Party:
				p := m.Party
				party = partyKey(p.GetDelegationChain(), p.GetPrincipal(), p.GetTenantId())
				clear(has)
				clear(conditional)
				note(party, partyLine(p.GetAgentChain(), p.GetRefusedBy() != 0, p.GetUnscoped(), p.GetNeedsSession(), p.GetFrozen(), p.GetPrincipalSet() != nil))
			case *deputyv1.ReadReachResponse_Object:
				o := m.Object
				kind := o.GetResource().GetObjectType() + "#" + o.GetPermission()
				verdict := verdicts[o.GetPermissionship()]
				note(fmt.Sprintf("%s: %s on %s", party, kind, o.GetResource().GetObjectId()), fmt.Sprint(verdict, o.GetMissingContext()))
				if verdict == oracle.Allowed {
					has[kind]++
				} else {
					conditional[kind]++
				}
			case *deputyv1.ReadReachResponse_Count:
				kind := m.Count.GetResourceObjectType() + "#" + m.Count.GetPermission()
				if m.Count.GetHas() != has[kind] || m.Count.GetConditional() != conditional[kind] || m.Count.GetFailed() != 0 {
					w.t.Fatalf("%s: %d and %d of %s, and the count is %v", party, has[kind], conditional[kind], kind, m.Count)
				}
				note(party+": "+kind, fmt.Sprint(has[kind], conditional[kind]))
			case *deputyv1.ReadReachResponse_End:
				end = m.End
			default:
				w.t.Fatalf("a message of no kind: %v", message)
			}
		}
		if end == nil || end.GetComplete() == (end.GetNext() != nil) || end.GetLookedUpAt().GetToken() == "" {
			w.t.Fatalf("a stream that ends with %v", end)
		}
		if end.GetComplete() {
			return lines, end.GetLookedUpAt()
		}
		request.Cursor, request.Consistency = end.GetNext(), nil
	}
}

func partyKey(chain []string, principal *deputyv1.ObjectReference, tenant string) string {
	return fmt.Sprintf("%v for %s:%s in %s", chain, principal.GetObjectType(), principal.GetObjectId(), tenant)
}

func partyLine(agents []string, refused, unscoped, needsSession, frozen, set bool) string {
	return fmt.Sprintf("%v, refused %v, unscoped %v, needs a session %v, frozen %v, by a set %v", agents, refused, unscoped, needsSession, frozen, set)
}

// wantReach is what the oracle says of a reach in a state, in the lines of readReach: each party and object by a decision of its own.
func (r *random) wantReach(state *oracle.State, now time.Time, request *deputyv1.ReadReachRequest, given oracle.Context, met map[string]int) map[string]string {
	lines := map[string]string{}
	kinds := map[string][]string{"document": {"edit", "view", "sign"}, "folder": {"edit", "view"}}
	if len(request.GetPermissions()) > 0 {
		kinds = map[string][]string{"document": {"viewer"}, "folder": {"viewer"}, "group": {"member"}}
	}
	session := state.Sessions[request.GetSessionId()]
	for id, d := range state.Delegations {
		switch {
		case request.GetSessionId() != "" && !slices.Contains(session.Leaves, id),
			request.GetDelegationId() != "" && request.GetDelegationId() != id,
			request.GetAgentId() != "" && (d.Agent != request.GetAgentId() || d.Session != "" || !d.Active || d.Revoked || !d.Until.After(now)),
			request.GetTenantId() != "" && request.GetTenantId() != d.Tenant:
			continue
		}
		for _, p := range r.principals() {
			if request.GetOnBehalfOf() != nil && request.GetOnBehalfOf().GetObjectId() != p.ID {
				continue
			}
			covered := d.Principal.Object == p
			if d.Principal.Relation != "" {
				until, stands := state.Standing[oracle.Standing{Tenant: d.Principal.ID, Relation: d.Principal.Relation, Who: p}]
				covered = stands && (until.IsZero() || until.After(now))
			}
			if !covered {
				continue
			}
			chain := state.Chain(id)
			q := oracle.Question{
				Agent: d.Agent, Session: request.GetSessionId(), AnySession: request.GetSessionId() == "", Principal: p, Tenant: d.Tenant, Context: given,
			}
			var agents, ids []string
			unscoped, frozen := true, session.Baseline != nil
			for i := range chain {
				one := &chain[i]
				if one.Revoked { // which takes away the marks of both
					one.Unscoped, one.Direct = false, false
				}
				agents, ids, unscoped = append(agents, one.Agent), append(ids, one.ID), unscoped && one.Unscoped
				frozen = frozen || one.Session != "" && state.Sessions[one.Session].Baseline != nil
			}
			party := partyKey(ids, reference(p), d.Tenant)
			q.Resource, q.Permission = r.documents[0], "view"
			refused := state.Weigh(q, id, now).Side == oracle.ByActor
			needs := request.GetSessionId() == "" && !oracle.Direct(chain)
			lines[party] = partyLine(agents, refused, unscoped, needs, frozen, d.Principal.Relation != "")
			met[fmt.Sprint("refused ", refused)]++
			if refused {
				continue
			}
			for kind, permissions := range kinds {
				if len(request.GetResourceObjectTypes()) > 0 && !slices.Contains(request.GetResourceObjectTypes(), kind) {
					continue
				}
				objects := map[string][]oracle.Object{"document": r.documents, "folder": r.folders, "group": r.groups}[kind]
				for _, permission := range permissions {
					has, conditional := 0, 0
					for _, o := range objects {
						q.Resource, q.Permission = o, permission
						a := state.Weigh(q, id, now)
						switch a.Verdict {
						case oracle.Denied:
							continue
						case oracle.Allowed:
							has++
						default:
							conditional++
						}
						met[a.Verdict.String()]++
						lines[fmt.Sprintf("%s: %s#%s on %s", party, kind, permission, o.ID)] = fmt.Sprint(a.Verdict, a.Missing.Names())
					}
					lines[fmt.Sprintf("%s: %s#%s", party, kind, permission)] = fmt.Sprint(has, conditional)
				}
			}
		}
	}
	return lines
}

// drawReach draws whose reach is read, and how it is narrowed.
func (r *random) drawReach(given oracle.Context) *deputyv1.ReadReachRequest {
	request := &deputyv1.ReadReachRequest{WithObjects: true, Context: caveatContext(given)}
	switch {
	case len(r.grants) > 0 && r.chance(35):
		request.Of = &deputyv1.ReadReachRequest_DelegationId{DelegationId: pick(r, r.grants)}
	case len(r.runs) > 0 && r.chance(45):
		request.Of = &deputyv1.ReadReachRequest_SessionId{SessionId: pick(r, r.runs)}
	default:
		request.Of = &deputyv1.ReadReachRequest_AgentId{AgentId: pick(r, r.agents).ID}
	}
	if r.chance(20) {
		request.OnBehalfOf = reference(pick(r, r.principals()))
	}
	if r.chance(20) {
		request.TenantId = pick(r, r.tenants).ID
	}
	if r.chance(25) {
		request.Permissions = []string{"member", "viewer"}
	} else if r.chance(25) {
		request.ResourceObjectTypes = []string{pick(r, []string{"document", "folder"})}
	}
	return request
}

// TestReachEqualsDecisions draws worlds and reads what agents, delegations and sessions reach: for each party, type, permission and object it is what
// the oracle decides, at the head, and at a revision from before changes as it was then.
func TestReachEqualsDecisions(t *testing.T) {
	d := openDeputy(t, domain)
	met := map[string]int{}
	try(t, 12, func(rt *rapid.T) {
		r := newRandom(t.Context(), rt, d, usual)
		for range 4 + r.below(6) {
			r.drawDelegation()
			if r.chance(50) {
				r.drawSession()
			}
		}
		for range r.below(3) {
			r.drawChange()
		}
		type then struct {
			request *deputyv1.ReadReachRequest
			want    map[string]string
		}
		var past []then
		for range 8 {
			given := r.drawContext()
			request := r.drawReach(given)
			want := r.wantReach(r.state, time.Now(), request, given, met)
			got, at := r.readReach(request)
			if !maps.Equal(got, want) {
				rt.Fatalf("%v\n%s", request, differing(got, want))
			}
			request.Consistency = &deputyv1.Consistency{Requirement: &deputyv1.Consistency_AtExactSnapshot{AtExactSnapshot: at}}
			request.Cursor = nil
			past = append(past, then{request, want})
		}
		for range 2 + r.below(4) {
			r.drawChange()
		}
		for _, one := range past {
			got, _ := r.readReach(one.request)
			if !maps.Equal(got, one.want) {
				rt.Fatalf("as it was then: %v\n%s", one.request, differing(got, one.want))
			}
		}
	})
	t.Log(met)
	for _, kind := range []string{"refused true", "refused false", oracle.Allowed.String(), oracle.Conditional.String()} {
		if met[kind] == 0 && chosenChecks == "" {
			t.Errorf("the worlds no longer try %q", kind)
		}
	}
}

// differing lists what two reaches do not have in common.
func differing(got, want map[string]string) (text string) {
	for _, key := range slices.Sorted(maps.Keys(want)) {
		if got[key] != want[key] {
			text += fmt.Sprintf("  %s: got %q, want %q\n", key, got[key], want[key])
		}
	}
	for _, key := range slices.Sorted(maps.Keys(got)) {
		if want[key] == "" {
			text += fmt.Sprintf("  %s: got %q, want nothing\n", key, got[key])
		}
	}
	return text
}
