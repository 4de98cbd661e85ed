package judge

import (
	"context"
	"strings"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/decide"
)

// explaining returns how the checks of the call are to be explained; nil where they are not.
func (c *call) explaining(ctx context.Context) *authz.Explaining {
	if !c.explain {
		return nil
	}
	how := &authz.Explaining{Trace: c.trace}
	if !c.within.Everything() {
		how.Hidden = func(o authz.Object) (bool, error) {
			there, err := c.hasObject(ctx, o)
			return !there, err
		}
	}
	return how
}

// explainTenant explains the condition that an object is in its tenant and in no other: why it is in that one, or not. To a caller without
// bounds it also says in which other tenants the object is.
func (c *call) explainTenant(ctx context.Context, snap authz.Snapshot, condition *decide.Condition, tenants []authz.SubjectAnswer) error {
	if condition.Outcome != authz.Yes && !c.within.Everything() {
		return nil
	}
	query := *condition.Query
	query.Only, query.Explain = false, c.explaining(ctx)
	answers, err := snap.Check(ctx, []authz.Query{query})
	if err != nil {
		return err
	}
	condition.Explanation = answers[0].Explanation
	if condition.Outcome == authz.Yes {
		return nil
	}
	var names []string
	for _, t := range tenants {
		if t.ID != query.Subject.ID { // then no grant of the tenant makes it the only one
			condition.Explanation = alone(condition.Explanation)
		}
		name := authz.Show(authz.Object{Type: authz.TypeTenant, ID: t.ID})
		if t.Conditional {
			name += " under a condition"
		}
		names = append(names, name)
	}
	switch {
	case len(names) == 0:
		condition.Detail = "it is in no tenant"
	case len(names) < explainedTenants:
		condition.Detail = "it is in " + authz.Words(names)
	default: // there may be others, which nobody counted
		condition.Detail = "it is in " + strings.Join(names[:explainedTenants-1], ", ") + " and others"
	}
	return nil
}

// alone returns an explanation without the grants that would make its check a yes.
func alone(e *authz.Explanation) *authz.Explanation {
	if e == nil {
		return nil
	}
	without := *e
	without.Nearest = nil
	return &without
}

// translate makes reasons of the traces of engines that have nothing else, and drops traces that were not asked for.
func (c *call) translate(d *authz.Decision) {
	for i := range d.Candidates {
		for k := range d.Candidates[i].Conditions {
			why := d.Candidates[i].Conditions[k].Explanation
			if why == nil || why.Trace == nil {
				continue
			}
			if why.Reason == nil {
				left := maxTraced
				why.Reason = reasonOf(why.Trace, &left)
				why.Cut = left == 0
			}
			if !c.trace {
				why.Trace = nil
			}
		}
	}
}

// maxTraced is how many nodes of a trace become reasons.
const maxTraced = 150

// reasonOf makes a reason of a trace. A trace has no relationships, operations and values, so the reason has none either. Of a yes only the
// parts that are yes are kept.
func reasonOf(t *authz.Trace, left *int) *authz.Reason {
	*left--
	r := &authz.Reason{Kind: authz.ReasonMember, Object: t.Resource, Member: t.Permission, Outcome: t.Outcome}
	if t.Caveat != "" {
		r.Caveat = &authz.CaveatReason{Name: t.Caveat, Outcome: t.Outcome}
	}
	for i := range t.Children {
		child := &t.Children[i]
		switch {
		case t.Outcome == authz.Yes && child.Outcome != authz.Yes:
		case *left == 0:
			r.Others++
		default:
			r.Children = append(r.Children, reasonOf(child, left))
		}
	}
	return r
}
