package oracle_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"pgregory.net/rapid"

	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/tests/oracle"
)

// filter filters objects of a type, and returns the three lists of the answer.
func (w *world) filter(q oracle.Question, ids []string, omit bool) (*deputyv1.FilterResourcesResponse, error) {
	w.t.Helper()
	request := &deputyv1.FilterResourcesRequest{
		AgentId: q.Agent, OnBehalfOf: reference(q.Principal), TenantId: q.Tenant, ResourceObjectType: q.Resource.Type, ResourceObjectIds: ids,
		Permission: q.Permission, Context: caveatContext(q.Context), OmitConditional: omit,
	}
	switch {
	case q.Session != "":
		request.Via = &deputyv1.FilterResourcesRequest_SessionId{SessionId: q.Session}
	case q.Delegation != "":
		request.Via = &deputyv1.FilterResourcesRequest_DelegationId{DelegationId: q.Delegation}
	}
	return w.deputy.permissions.FilterResources(w.ctx, request)
}

// shown lists what an answer says of objects, by list.
func shown(allowed, conditional, failed []string, actor bool) string {
	return fmt.Sprintf("allowed %v, conditional %v, failed %v, the actor is refused %v", allowed, conditional, failed, actor)
}

// TestFilterEqualsBulk draws worlds and filters lists of objects, some of which are there twice, absent, foreign, or no ids: each list of the answer is what
// CheckBulkPermissions says of the same objects one by one, in order; and what is wrong with the case is wrong with each item.
func TestFilterEqualsBulk(t *testing.T) {
	d := openDeputy(t, domain)
	met := map[string]int{}
	try(t, 20, func(rt *rapid.T) {
		r := newRandom(t.Context(), rt, d, usual)
		for range 3 + r.below(6) {
			r.drawDelegation()
			if r.chance(60) {
				r.drawSession()
			}
		}
		for range r.below(4) {
			r.drawChange()
		}
		for range 15 {
			q := r.drawQuestion()
			ids := make([]string, 1+r.below(25))
			var questions []oracle.Question
			for i := range ids {
				switch one := r.below(20); one {
				case 0:
					ids[i] = "absent"
				case 1:
					ids[i] = "*"
				default:
					ids[i] = pick(r, r.all(q.Resource.Type)).ID
				}
				one := q
				one.Resource.ID = ids[i]
				questions = append(questions, one)
			}
			omit := r.chance(30)
			found, err := r.filter(q, ids, omit)
			answers, errs := r.askAll(questions)
			if err != nil {
				met["refused"]++
				for i := range ids {
					if status.Code(errs[i]) != status.Code(err) && ids[i] != "*" {
						r.fail(fmt.Sprintf("a filter fails with %v, a check of %s with %v", err, ids[i], errs[i]), q)
					}
				}
				continue
			}
			var allowed, conditional, failed []string
			actor := slices.ContainsFunc(ids, func(id string) bool { return id != "*" })
			for i, a := range answers {
				switch {
				case errs[i] != nil:
					failed = append(failed, fmt.Sprint(ids[i], " ", status.Code(errs[i])))
				case a.Verdict == oracle.Allowed:
					allowed = append(allowed, ids[i])
				case a.Verdict == oracle.Conditional && !omit:
					conditional = append(conditional, fmt.Sprint(ids[i], " ", a.missing))
				}
				actor = actor && (a.Side == oracle.ByActor || ids[i] == "*")
			}
			var gotConditional, gotFailed []string
			for _, c := range found.GetConditional() {
				gotConditional = append(gotConditional, fmt.Sprint(c.GetObjectId(), " ", c.GetMissingContext()))
			}
			for _, f := range found.GetFailed() {
				gotFailed = append(gotFailed, fmt.Sprint(f.GetObjectId(), " ", codes.Code(f.GetError().GetCode())))
			}
			want := shown(allowed, conditional, failed, actor)
			got := shown(found.GetAllowedObjectIds(), gotConditional, gotFailed, found.GetRefusedBy() == deputyv1.RefusedBy_REFUSED_BY_ACTOR)
			if got != want {
				r.fail(fmt.Sprintf("filtered %s\n a filter: %s\nin bulk: %s", strings.Join(ids, ", "), got, want), q)
			}
			if found.GetCheckedAt().GetToken() == "" {
				r.fail("a filter without a revision", q)
			}
			met["allowed"] += len(allowed)
			met["conditional"] += len(conditional)
			met["failed"] += len(failed)
			if actor {
				met["by actor"]++
			}
		}
	})
	t.Log(met)
	for _, kind := range []string{"allowed", "conditional", "failed", "by actor", "refused"} {
		if met[kind] == 0 && chosenChecks == "" {
			t.Errorf("the worlds no longer try %q", kind)
		}
	}
}
