package differential

import (
	"cmp"
	"time"

	core "github.com/authzed/spicedb/pkg/proto/core/v1"
	"github.com/authzed/spicedb/pkg/schemadsl/compiler"
	"github.com/authzed/spicedb/pkg/tuple"
	"google.golang.org/grpc/codes"
)

// maxDispatches is how many steps a check may take from the question down: SpiceDB's default for the depth.
const maxDispatches = 50

// state is what is known of a membership. The zero value is no.
type state uint8

const (
	no state = iota
	yes
	conditional
	failed
)

// String returns the state in lower case.
func (s state) String() string { return [...]string{"no", "yes", "conditional", "failed"}[s] }

// finding is what the walk found out about one node, before any caveat was evaluated.
type finding struct {
	state state
	// condition is what a conditional finding depends on.
	condition *condition
	// trouble holds the codes of all errors met anywhere below, also in branches that do not decide.
	trouble codeSet
	// pooled tells that an intersection arrow was met whose caveats SpiceDB may mix with those of another
	// resource, see Reference.pools.
	pooled bool
	// stalls tells that an intersection arrow was met that leads to several types, to one of them in trouble.
	stalls bool
	// weight is the size of the largest condition that was built on the way.
	weight int
}

// Verdict is the reference's answer to one question.
type Verdict struct {
	Answer
	// Trouble holds the codes of all errors that were met, also in branches that do not decide. Where the
	// answer is an error, it is one of them.
	Trouble codeSet
	// Pooled tells that SpiceDB may have mixed caveats of other resources into the answer.
	Pooled bool
	// Stalls tells that SpiceDB may never answer.
	Stalls bool
	// Weight is how many caveats the largest condition names that was built on the way, counted as SpiceDB
	// builds it: as a tree.
	Weight int
}

// Reference answers checks over a list of relationships and a compiled schema. Which of its permissions are
// aliases the schema has to say: that is not a matter of its text alone, see desk.edition. It is not safe for
// concurrent use.
type Reference struct {
	types   map[string]map[string]*core.Relation
	rows    map[tuple.ObjectAndRelation][]tuple.Relationship
	caveats *caveatBook
	// caveated counts, for a relation and a subject, the rows with a caveat.
	caveated map[edge]int
	walks    map[tuple.ObjectAndRelation]*walk
}

// edge is a row without the id of its resource.
type edge struct {
	resourceType, relation string
	subject                tuple.ObjectAndRelation
}

func edgeOf(rel tuple.Relationship) edge {
	return edge{rel.Resource.ObjectType, rel.Resource.Relation, rel.Subject}
}

// NewReference returns a reference over what has not expired by now.
func NewReference(schema *compiler.CompiledSchema, relationships []tuple.Relationship, now time.Time) *Reference {
	r := &Reference{
		types:    map[string]map[string]*core.Relation{},
		rows:     map[tuple.ObjectAndRelation][]tuple.Relationship{},
		caveats:  newCaveatBook(schema.CaveatDefinitions),
		caveated: map[edge]int{},
		walks:    map[tuple.ObjectAndRelation]*walk{},
	}
	for _, definition := range schema.ObjectDefinitions {
		relations := map[string]*core.Relation{}
		for _, relation := range definition.GetRelation() {
			relations[relation.GetName()] = relation
		}
		r.types[definition.GetName()] = relations
	}
	for _, rel := range relationships {
		if rel.OptionalExpiration != nil && !rel.OptionalExpiration.After(now) {
			continue
		}
		r.rows[rel.Resource] = append(r.rows[rel.Resource], rel)
		if rel.OptionalCaveat != nil {
			r.caveated[edgeOf(rel)]++
		}
	}
	return r
}

// Check answers one question.
func (r *Reference) Check(resource, subject tuple.ObjectAndRelation, context map[string]any) Verdict {
	if subject.ObjectID == tuple.PublicWildcard || resource.ObjectID == tuple.PublicWildcard {
		return failure(codes.InvalidArgument)
	}
	if !r.knows(resource.RelationReference()) {
		return failure(codes.FailedPrecondition)
	}
	if !r.knows(subject.RelationReference()) && (r.types[subject.ObjectType] == nil || subject.Relation != tuple.Ellipsis) {
		return failure(codes.FailedPrecondition)
	}
	found := r.walkTo(subject).dispatch(resource, maxDispatches)
	verdict := Verdict{Trouble: found.trouble, Pooled: found.pooled, Stalls: found.stalls, Weight: found.weight}
	outcome := value{state: found.state, trouble: found.trouble}
	if found.state == conditional {
		outcome = r.caveats.evaluate(found.condition, context)
		verdict.Trouble |= outcome.trouble
	}
	verdict.Answer = outcome.answer()
	return verdict
}

func failure(code codes.Code) Verdict {
	v := value{state: failed, trouble: setOf(code)}
	return Verdict{Answer: v.answer(), Trouble: v.trouble}
}

func (r *Reference) knows(relation tuple.RelationReference) bool {
	return r.types[relation.ObjectType][relation.Relation] != nil
}

// walkTo returns the walk that looks for a subject. It is kept, because what it has found holds for every
// question about that subject.
func (r *Reference) walkTo(subject tuple.ObjectAndRelation) *walk {
	w := r.walks[subject]
	if w == nil {
		w = &walk{Reference: r, subject: subject, known: map[place]finding{}}
		r.walks[subject] = w
	}
	return w
}

// walk looks for one subject.
type walk struct {
	*Reference
	subject tuple.ObjectAndRelation
	known   map[place]finding
}

// place is a node at so many steps before the limit.
type place struct {
	node  tuple.ObjectAndRelation
	steps int
}

// dispatch tells whether the subject is in a node, with so many steps left.
func (w *walk) dispatch(node tuple.ObjectAndRelation, steps int) finding {
	at := place{node, steps}
	found, ok := w.known[at]
	if !ok {
		found = w.look(node, steps)
		w.known[at] = found
	}
	return found
}

func (w *walk) look(node tuple.ObjectAndRelation, steps int) finding {
	if steps == 0 || !w.knows(node.RelationReference()) {
		return broken(codes.FailedPrecondition)
	}
	if node.ObjectType != w.subject.ObjectType {
		// An alias is read as what it stands for, without a step.
		node.Relation = w.resolve(node.ObjectType, node.Relation)
	}
	if node == w.subject {
		return finding{state: yes}
	}
	relation := w.types[node.ObjectType][node.Relation]
	if relation.GetUsersetRewrite() == nil {
		return w.direct(node, relation, steps)
	}
	return w.rewrite(node, relation.GetUsersetRewrite(), steps)
}

// resolve returns what a permission is nothing but another name for, or the name itself.
func (r *Reference) resolve(objectType, name string) string {
	return cmp.Or(r.types[objectType][name].GetAliasingRelation(), name)
}

// direct looks at the rows of a relation: those that name the subject first, then those that name usersets.
func (w *walk) direct(node tuple.ObjectAndRelation, relation *core.Relation, steps int) finding {
	var names, wildcards, usersets bool
	for _, allowed := range relation.GetTypeInformation().GetAllowedDirectRelations() {
		if allowed.GetNamespace() == w.subject.ObjectType {
			if allowed.GetPublicWildcard() != nil {
				wildcards = true
			} else if allowed.GetRelation() == w.subject.Relation {
				names = true
			}
		}
		// A wildcard has no relation, which is not an ellipsis either: SpiceDB then looks for usersets.
		usersets = usersets || allowed.GetRelation() != tuple.Ellipsis
	}
	// Everyone of a type, also the usersets of that type.
	everyone := tuple.ONR(w.subject.ObjectType, tuple.PublicWildcard, tuple.Ellipsis)
	var parts []finding
	for _, rel := range w.rows[node] {
		if names && rel.Subject == w.subject || wildcards && rel.Subject == everyone {
			parts = append(parts, under(rel.OptionalCaveat, finding{state: yes}))
		}
	}
	if found := union(parts); found.state == yes || !usersets {
		return found
	}
	for _, rel := range w.rows[node] {
		if rel.Subject.Relation != tuple.Ellipsis {
			parts = append(parts, under(rel.OptionalCaveat, w.dispatch(rel.Subject, steps-1)))
		}
	}
	return union(parts)
}

func (w *walk) rewrite(node tuple.ObjectAndRelation, rewrite *core.UsersetRewrite, steps int) finding {
	all := func(children []*core.SetOperation_Child) []finding {
		parts := make([]finding, 0, len(children))
		for _, child := range children {
			parts = append(parts, w.operand(node, child, steps))
		}
		return parts
	}
	switch {
	case rewrite.GetUnion() != nil:
		return union(all(rewrite.GetUnion().GetChild()))
	case rewrite.GetIntersection() != nil:
		return intersection(all(rewrite.GetIntersection().GetChild()))
	default:
		parts := all(rewrite.GetExclusion().GetChild())
		return exclusion(parts[0], parts[1:])
	}
}

func (w *walk) operand(node tuple.ObjectAndRelation, child *core.SetOperation_Child, steps int) finding {
	switch child := child.GetChildType().(type) {
	case *core.SetOperation_Child_ComputedUserset:
		return w.computed(node.WithRelation(child.ComputedUserset.GetRelation()), steps)
	case *core.SetOperation_Child_UsersetRewrite:
		return w.rewrite(node, child.UsersetRewrite, steps)
	case *core.SetOperation_Child_TupleToUserset:
		arrow := child.TupleToUserset
		parts := w.arrow(node, arrow.GetTupleset().GetRelation(), arrow.GetComputedUserset().GetRelation(), steps)
		return union(parts)
	case *core.SetOperation_Child_FunctionedTupleToUserset:
		arrow := child.FunctionedTupleToUserset
		parts := w.arrow(node, arrow.GetTupleset().GetRelation(), arrow.GetComputedUserset().GetRelation(), steps)
		if arrow.GetFunction() == core.FunctionedTupleToUserset_FUNCTION_ANY {
			return union(parts)
		}
		// All of none is no.
		found := intersection(parts)
		w.suspect(&found, w.rows[node.WithRelation(arrow.GetTupleset().GetRelation())])
		return found
	case *core.SetOperation_Child_XSelf:
		if node.WithRelation(tuple.Ellipsis) == w.subject {
			return finding{state: yes}
		}
		return finding{}
	default: // nil
		return finding{}
	}
}

// computed goes to another relation. Where that is the subject itself, it takes no step.
func (w *walk) computed(target tuple.ObjectAndRelation, steps int) finding {
	if target == w.subject {
		return finding{state: yes}
	}
	return w.dispatch(target, steps-1)
}

// arrow goes from a node over the subjects of its rows to a relation of each of them. The relations of
// those subjects do not count.
func (w *walk) arrow(node tuple.ObjectAndRelation, over, to string, steps int) []finding {
	var parts []finding
	for _, rel := range w.rows[node.WithRelation(over)] {
		target := rel.Subject.WithRelation(to)
		found := finding{}
		switch {
		case target == w.subject:
			found = finding{state: yes}
		case w.types[target.ObjectType] == nil:
			found = broken(codes.FailedPrecondition)
		case w.knows(target.RelationReference()):
			found = w.dispatch(target, steps-1)
		}
		parts = append(parts, under(rel.OptionalCaveat, found))
	}
	return parts
}

// suspect notes what SpiceDB may get wrong about an intersection arrow over some rows.
//
// It evaluates many resources of one type at once, and then takes the caveats of all their rows to a subject
// for each of them. And where the subjects are of several types, it evaluates those at the same time; if
// one of them fails before another has begun, it waits for the other in vain.
func (r *Reference) suspect(found *finding, rows []tuple.Relationship) {
	for _, rel := range rows {
		others := r.caveated[edgeOf(rel)]
		if rel.OptionalCaveat != nil {
			others--
		}
		found.pooled = found.pooled || others > 0
		if found.trouble != 0 && rel.Subject.RelationReference() != rows[0].Subject.RelationReference() {
			found.stalls = true
		}
	}
}

func broken(code codes.Code) finding { return finding{state: failed, trouble: setOf(code)} }

// under is what was found at the end of a row that has a caveat.
func under(caveat *core.ContextualizedCaveat, found finding) finding {
	if caveat == nil || found.state == no || found.state == failed {
		return found
	}
	row := &condition{caveat: caveat, size: 1}
	if found.state == yes {
		found.state, found.condition = conditional, row
	} else {
		found.condition = join(and, []*condition{row, found.condition})
	}
	found.weight = max(found.weight, found.condition.size)
	return found
}

// gather adds up what does not depend on the operator, and counts the parts by state.
func gather(parts []finding) (sum finding, count [failed + 1]int, conditions []*condition) {
	for _, part := range parts {
		sum.trouble |= part.trouble
		sum.pooled = sum.pooled || part.pooled
		sum.stalls = sum.stalls || part.stalls
		sum.weight = max(sum.weight, part.weight)
		count[part.state]++
		if part.state == conditional {
			conditions = append(conditions, part.condition)
		}
	}
	return sum, count, conditions
}

// depends makes a finding conditional.
func (f *finding) depends(c *condition) {
	f.state, f.condition, f.weight = conditional, c, max(f.weight, c.size)
}

// union: a definite yes decides, whatever else failed.
func union(parts []finding) finding {
	sum, count, conditions := gather(parts)
	switch {
	case count[yes] > 0:
		sum.state = yes
	case count[failed] > 0:
		sum.state = failed
	case count[conditional] > 0:
		sum.depends(join(or, conditions))
	}
	return sum
}

// intersection: a definite no decides, whatever else failed. Of nothing it is no.
func intersection(parts []finding) finding {
	sum, count, conditions := gather(parts)
	switch {
	case count[no] > 0 || len(parts) == 0:
	case count[failed] > 0:
		sum.state = failed
	case count[conditional] > 0:
		sum.depends(join(and, conditions))
	default:
		sum.state = yes
	}
	return sum
}

// exclusion: a base that is no decides, and so does a definite yes among what is taken away.
func exclusion(base finding, taken []finding) finding {
	sum, count, conditions := gather(taken)
	sum.trouble |= base.trouble
	sum.pooled = sum.pooled || base.pooled
	sum.stalls = sum.stalls || base.stalls
	sum.weight = max(sum.weight, base.weight)
	switch {
	case base.state == no || count[yes] > 0:
	case base.state == failed || count[failed] > 0:
		sum.state = failed
	case base.state == yes && count[conditional] == 0:
		sum.state = yes
	default:
		var parts []*condition
		if base.state == conditional {
			parts = append(parts, base.condition)
		}
		for _, c := range conditions {
			parts = append(parts, &condition{op: not, parts: []*condition{c}, size: c.size})
		}
		sum.depends(join(and, parts))
	}
	return sum
}
