package evaluate

import (
	"context"

	"github.com/authzed/spicedb/pkg/tuple"

	"github.com/deputyauth/deputy/pkg/authz"
)

// ResourcesAmong calls yield with each candidate whose check is not a refusal, in order. An error of yield ends it.
func (w *Walk) ResourcesAmong(ctx context.Context, c *Candidates, check func(id string) Check, yield func(Found) error) error {
	return w.decide(ctx, c, check, func(found Found) error {
		if found.Outcome == authz.No {
			return nil
		}
		return yield(found)
	})
}

// SubjectsAmong is LookupSubjects among candidates, which SubjectCandidates returned for the same resource and kind. Where relationships lead in a
// circle, the check of a subject that no row names fails. That is no answer for everybody else if no relationship on the way has a wildcard, because
// then nothing leads to them: it is left out.
func (w *Walk) SubjectsAmong(
	ctx context.Context, c *Candidates, resource tuple.ObjectAndRelation, of SubjectKind, given map[string]any, yield func(Found) error,
) (everybody Wildcard, err error) {
	target, sub, err := w.program.resolve(&Check{Resource: resource, Subject: of.subject(nobody)})
	if err != nil {
		return Wildcard{}, err
	}
	check := func(id string) Check { return Check{Resource: resource, Subject: of.subject(id), Context: given} }
	if w.program.admitsAll(target, sub.of) {
		answers, err := w.checkAll(ctx, []Check{check(nobody)})
		if err != nil {
			return Wildcard{}, err
		}
		everybody.Answer = answers[0]
	}
	whole := c.from == ""
	err = w.decide(ctx, c, check, func(found Found) error {
		switch {
		case everybody.Outcome == authz.No || found.Outcome == authz.Yes || found.Outcome == everybody.Outcome:
		case len(everybody.Except) == maxExcept && everybody.Outcome == authz.Failed: // nobody is to be told them
		case len(everybody.Except) == maxExcept:
			return tooManyExceptions()
		default:
			everybody.Except = append(everybody.Except, found)
		}
		if found.Outcome == authz.No {
			return nil
		}
		return yield(found)
	})
	if whole && everybody.Outcome == authz.Failed && of.Relation == "" && !c.wildcard {
		everybody = Wildcard{}
	}
	return everybody, err
}

// AdmitsEverybody reports whether a wildcard of a kind of subjects may be on the way to a permission of an object. It is false where the schema does
// not have one of the two.
func (p *Program) AdmitsEverybody(resource tuple.ObjectAndRelation, of SubjectKind) bool {
	target, sub, err := p.resolve(&Check{Resource: resource, Subject: of.subject(nobody)})
	return err == nil && p.admitsAll(target, sub.of)
}
