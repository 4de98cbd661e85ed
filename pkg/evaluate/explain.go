package evaluate

import (
	"context"
	"errors"
	"maps"
	"slices"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/schema"
	"github.com/deputyauth/deputy/pkg/statuses"
)

// The walk that answered a check also explains it. Every outcome in an explanation is the walk's answer for that part, with as many
// dispatches left as it had there. So an explanation cannot come to another outcome than the check.
//
//	explain.go         a check that is no, conditional or an error: all parts that make it so (this file)
//	explainpath.go     a check that is yes: the path of fewest relationships
//	explainnearest.go  the grants that would make a no a yes: each set is tried, over the rows with the grants added

// Bounds of an explanation.
const (
	// maxBranches is how many relationships of a relation are shown, and maxTried how many are explained to choose those.
	maxBranches, maxTried = 5, 16
	// maxCounted is up to which number the others are counted.
	maxCounted = 1000
	// maxExplained is how many members of objects are explained, and maxReasons how many nodes are shown.
	maxExplained, maxReasons = 500, 150
)

// Explaining says how a check is to be explained.
type Explaining struct {
	// Hidden is as in authz.Explaining.
	Hidden func(authz.Object) (bool, error)
	// Expired returns a row of a relation with this subject that has expired. It may be nil.
	Expired func(objectType, id, relation, subjectType, subjectRelation, subjectID string) (r Row, found bool, err error)
}

// Explain answers a check as Check does, and says why. It returns no explanation where the check could not be walked: where the schema
// lacks a name, or where the rows or ctx failed.
func (w *Walk) Explain(ctx context.Context, c Check, how Explaining) (Answer, *authz.Explanation) {
	w.begin(ctx)
	defer w.end()
	answers := make([]Answer, 1)
	w.check([]Check{c}, answers)
	a := answers[0]
	m, sub, err := w.program.resolve(&c)
	if err != nil || w.err != nil || tooMuch(a.Err) {
		return a, nil
	}
	x := &explainer{
		Walk: w, Explaining: how, check: c, of: sub, circumstances: circumstances{program: w.program, given: c.Context},
		above: map[memberKey]bool{}, surveys: map[memberKey]*survey{}, paths: map[memberKey]*path{},
	}
	root, openings := x.member(m, w.object(m.of, c.Resource.ObjectID), maxDepth, a)
	why := &authz.Explanation{Outcome: a.Outcome, Missing: a.Missing}
	why.Reason = x.unfold(root)
	if a.Outcome == authz.No {
		why.Nearest = x.nearest(openings)
	}
	why.Cut = x.cut
	if w.err == nil {
		w.err = x.err
	}
	if w.err != nil {
		return Answer{Outcome: authz.Failed, Err: w.err}, nil
	}
	return a, why
}

// explainer explains one check. The check's subject is the only one of its walk.
type explainer struct {
	*Walk
	Explaining
	check         Check
	of            subject
	circumstances circumstances

	// above has the members that are being explained, and surveys those that were explained.
	above   map[memberKey]bool
	surveys map[memberKey]*survey
	// paths has the members to which a path was looked for; looked is how many members were looked at for that. veiled says that a path
	// may lead through hidden objects.
	paths  map[memberKey]*path
	looked int
	veiled bool
	// held has the edges that are yes, and heldEdges counts them.
	held      map[edgesKey][]*edge
	heldEdges int
	// later adds children to a reason once it is shown.
	later map[*authz.Reason]func() []*authz.Reason
	// hidden says of objects that were asked about whether they are hidden.
	hidden map[authz.Object]bool
	// seen has the reasons that unfold has shown, and shown counts them. cut says that something was left out for its size.
	seen  map[*authz.Reason]bool
	shown int
	cut   bool
	// err is why it could not be found out whether an object is hidden.
	err error
}

// only is the set that holds the check's subject alone.
const only set = 1

// outcome returns the subject's answer in a value.
func (x *explainer) outcome(v value) Answer { return x.conclude(&v, 0, x.circumstances) }

// dispatched returns the answer of a member to which an expression leads.
func (x *explainer) dispatched(m *member, o *object, left int) Answer {
	v, _ := x.computed(m, o, only, left+1)
	return x.outcome(v)
}

// part returns the answer of a part of an expression.
func (x *explainer) part(n *node, m *member, o *object, left int) Answer {
	v, _ := x.node(n, m, o, only, left)
	return x.outcome(v)
}

// survey explains a part that is not yes.
type survey struct {
	outcome authz.Outcome
	reasons []*authz.Reason
	// others counts the reasons with the same outcome that are left out.
	others int
	// openings are grants that may make the part yes.
	openings []opening
}

// about returns a reason about a member of an object. Its expression is added once it is shown.
func about(kind authz.ReasonKind, m *member, o *object, a Answer) *authz.Reason {
	return &authz.Reason{Kind: kind, Object: authz.Object{Type: o.of.name, ID: o.id}, Member: m.name, Outcome: a.Outcome}
}

// detail returns the message of an error without its causes.
func detail(err error) string {
	if err == nil {
		return ""
	}
	if st := statuses.Within(err); st != nil {
		return st.Message()
	}
	return "it could not be evaluated"
}

// member explains a member of an object with a number of dispatches left, which came to an answer.
func (x *explainer) member(m *member, o *object, left int, a Answer) (*authz.Reason, []opening) {
	if a.Outcome == authz.Yes {
		return x.shortest(m, o, left), nil
	}
	key := memberKey{m, o.id}
	known := x.surveys[key]
	switch {
	case x.above[key]:
		return about(authz.ReasonCycle, m, o, a), nil
	case left == 0:
		return about(authz.ReasonDepth, m, o, a), nil
	case known != nil && known.outcome == a.Outcome:
		return known.reasons[0], known.openings
	case len(x.surveys) >= maxExplained || x.failed():
		x.cut = true
		return about(authz.ReasonCut, m, o, a), nil
	}
	x.above[key] = true
	defer delete(x.above, key)
	r := about(authz.ReasonMember, m, o, a)
	var s survey
	body := m
	if m.alias != nil && x.of.of != m.of {
		body = m.alias // as Walk.member does
	}
	switch {
	case body.rewrite == nil && body != m:
		below := about(authz.ReasonMember, body, o, a)
		s = x.relationships(below, body, o, left, a.Outcome)
		below.Children, below.Others = s.reasons, s.others
		s.reasons, s.others = []*authz.Reason{below}, 0
	case body.rewrite == nil:
		s = x.relationships(r, body, o, left, a.Outcome)
	default:
		s = x.parts(body.rewrite, body, o, left, a.Outcome)
	}
	r.Children, r.Others = s.reasons, s.others
	x.surveys[key] = &survey{outcome: a.Outcome, reasons: []*authz.Reason{r}, openings: s.openings}
	return r, s.openings
}

// parts explains a part of an expression that came to an outcome other than yes, by the operands that make it so: for a no all operands of a
// union, for an error the first operand that has it.
func (x *explainer) parts(n *node, m *member, o *object, left int, want authz.Outcome) (s survey) {
	switch n.op {
	case schema.Union:
		for _, c := range n.children {
			if a := x.part(c, m, o, left); a.Outcome == want {
				found := x.parts(c, m, o, left, want)
				s.reasons, s.others = append(s.reasons, found.reasons...), s.others+found.others
				s.openings = append(s.openings, found.openings...)
				if want == authz.Failed {
					break
				}
			}
		}
		s.openings = best(s.openings)
	case schema.Intersection:
		r := operation(n, want)
		s.reasons = []*authz.Reason{r}
		r.Children, s.openings = x.intersection(n, m, o, left, want)
	case schema.Exclusion:
		r := operation(n, want)
		s.reasons = []*authz.Reason{r}
		r.Children, s.openings = x.exclusion(n, m, o, left, want)
	case schema.Computed:
		var r *authz.Reason
		r, s.openings = x.member(n.target, o, left-1, x.dispatched(n.target, o, left-1))
		s.reasons = []*authz.Reason{r}
	case schema.Arrow:
		s = x.leads(n.tupleset, o, x.arrows(n, o, left), want)
	case schema.ArrowAll:
		s = x.every(n, o, left, want)
	case schema.Self:
		s.reasons = []*authz.Reason{{Kind: authz.ReasonSelf, Object: authz.Object{Type: o.of.name, ID: o.id}, Outcome: want}}
	case schema.Nil:
		s.reasons = []*authz.Reason{operation(n, want)}
	}
	return s
}

// operation returns a reason about a part of an expression.
func operation(n *node, outcome authz.Outcome) *authz.Reason {
	return &authz.Reason{Kind: authz.ReasonOperation, Operation: n.op.String(), Expression: n.from.String(), Outcome: outcome}
}

// operand explains an operand of an intersection or an exclusion, in one reason.
func (x *explainer) operand(n *node, m *member, o *object, left int, a Answer) (*authz.Reason, []opening) {
	if a.Outcome == authz.Yes {
		return x.shortestPart(n, m, o, left), nil
	}
	s := x.parts(n, m, o, left, a.Outcome)
	if len(s.reasons) == 1 && s.others == 0 {
		return s.reasons[0], s.openings
	}
	r := operation(n, a.Outcome)
	r.Children, r.Others = s.reasons, s.others
	return r, s.openings
}

// brief names an operand without its reasons.
func brief(n *node, o *object, a Answer) *authz.Reason {
	if n.op != schema.Computed {
		return operation(n, a.Outcome)
	}
	return about(authz.ReasonMember, n.target, o, a)
}

// intersection explains an intersection: a no by the operands that are no, each with all of its reasons.
func (x *explainer) intersection(n *node, m *member, o *object, left int, want authz.Outcome) (reasons []*authz.Reason, openings []opening) {
	openings = []opening{{}}
	for _, c := range n.children {
		a := x.part(c, m, o, left)
		if a.Outcome != want {
			if reasons = append(reasons, brief(c, o, a)); a.Outcome != authz.Yes {
				openings = nil
			}
			continue
		}
		r, found := x.operand(c, m, o, left, a)
		reasons = append(reasons, r)
		openings = together(openings, found)
		if want == authz.Failed {
			break
		}
	}
	return reasons, openings
}

// exclusion explains an exclusion: a no by the base, if that is no, and by the parts that take the subject away.
func (x *explainer) exclusion(n *node, m *member, o *object, left int, want authz.Outcome) (reasons []*authz.Reason, openings []opening) {
	base := x.part(n.children[0], m, o, left)
	if base.Outcome == want {
		r, found := x.operand(n.children[0], m, o, left, base)
		reasons, openings = append(reasons, r), found
		if want == authz.Failed {
			return reasons, nil
		}
	} else {
		reasons = append(reasons, brief(n.children[0], o, base))
	}
	takes := want.Not()
	for _, c := range n.children[1:] {
		a := x.part(c, m, o, left)
		if a.Outcome != takes {
			continue
		}
		r, _ := x.operand(c, m, o, left, a)
		taken := *r
		taken.Subtracted = true
		reasons = append(reasons, &taken)
		if openings = nil; want == authz.Failed {
			break
		}
	}
	return reasons, openings
}

// edge is a relationship that leads on to a member of another object.
type edge struct {
	row    Row
	object *object
	// to is the member that is evaluated there with so many dispatches left; nil if there is none.
	to   *member
	left int
	// there is the member's answer, and out the same behind the relationship's caveat. firm says that out is yes without a condition.
	there, out Answer
	firm       bool
}

// comesTo notes the answers of an edge. v is the value of the member to which it leads.
func (e *edge) comesTo(x *explainer, v value) {
	e.there, e.firm = x.outcome(v), v.yes != 0
	if e.out = e.there; e.row.Caveat != "" {
		behind := v.under(leaf(&e.row))
		e.out, e.firm = x.outcome(behind), false
	}
}

// edges goes through the relationships that lead on, until fn returns false.
type edges func(fn func(e *edge) bool)

// usersets are the edges of a relation.
func (x *explainer) usersets(m *member, o *object, left int) edges {
	return func(fn func(e *edge) bool) {
		x.each(m, o, true, func(row *Row) bool {
			e := &edge{row: *row, left: left - 1}
			next, err := x.program.member(row.SubjectType, row.SubjectRelation)
			if err != nil {
				e.there = Answer{Outcome: authz.Failed, Err: err}
				e.out = e.there
				return fn(e)
			}
			e.to, e.object = next, x.subject(next.of, row)
			v, _ := x.Walk.member(next, e.object, only, e.left)
			e.comesTo(x, v)
			return fn(e)
		})
	}
}

// arrows are the edges that an arrow follows.
func (x *explainer) arrows(n *node, o *object, left int) edges {
	return func(fn func(e *edge) bool) {
		x.each(n.tupleset, o, false, func(row *Row) bool {
			e := &edge{row: *row, left: left - 1}
			t := x.program.types[row.SubjectType]
			if t == nil {
				e.there = Answer{Outcome: authz.Failed, Err: noType(row.SubjectType)}
				e.out = e.there
				return fn(e)
			}
			e.object = x.subject(t, row)
			if e.to = t.members[n.permission]; e.to != nil {
				v, _ := x.computed(e.to, e.object, only, left)
				e.comesTo(x, v)
			}
			return fn(e)
		})
	}
}

// hides reports whether the object to which an edge leads is hidden.
func (x *explainer) hides(e *edge) bool {
	if x.Hidden == nil || x.err != nil {
		return x.err != nil
	}
	to := authz.Object{Type: e.row.SubjectType, ID: e.row.SubjectID}
	hidden, known := x.hidden[to]
	if !known {
		if x.hidden == nil {
			x.hidden = map[authz.Object]bool{}
		}
		hidden, x.err = x.Hidden(to)
		x.hidden[to] = hidden || x.err != nil
	}
	return hidden
}

// hiddenReason stands for all hidden objects that an outcome comes from: how many they are is not told.
func hiddenReason(outcome authz.Outcome) *authz.Reason {
	return &authz.Reason{Kind: authz.ReasonHidden, Outcome: outcome}
}

// follow explains an edge to an object that is not hidden.
func (x *explainer) follow(o *object, e *edge) (*authz.Reason, []opening) {
	r := x.relationship(o, &e.row, e.out)
	if e.to == nil {
		if e.there.Outcome == authz.Failed {
			r.Detail = detail(e.there.Err)
		}
		return r, nil
	}
	if e.out.Outcome != e.there.Outcome && e.there.Outcome == authz.Yes {
		r.Children = []*authz.Reason{about(authz.ReasonMember, e.to, e.object, e.there)}
		return r, nil // the caveat alone explains it
	}
	child, found := x.member(e.to, e.object, e.left, e.there)
	r.Children = []*authz.Reason{child}
	if r.Caveat != nil && r.Caveat.Outcome != authz.Yes {
		return r, nil
	}
	return r, further(found)
}

// leads explains edges that came to an outcome other than yes.
func (x *explainer) leads(m *member, o *object, all edges, want authz.Outcome) (s survey) {
	type branch struct {
		reason   *authz.Reason
		openings []opening
	}
	var found []branch
	some, more, hidden := false, 0, 0
	all(func(e *edge) bool {
		some = true
		switch {
		case e.out.Outcome != want:
		case len(found) == maxTried:
			more++
		case x.hides(e):
			if hidden++; hidden == 1 && want != authz.No {
				found = append(found, branch{reason: hiddenReason(want)})
			}
		default:
			r, openings := x.follow(o, e)
			found = append(found, branch{r, openings})
		}
		return !x.tooMany(hidden) && more < maxCounted && (want != authz.Failed || len(found) == 0)
	})
	if !some || len(found) == 0 && want == authz.No {
		s.reasons = []*authz.Reason{about(authz.ReasonAbsent, m, o, Answer{Outcome: want})}
		return s
	}
	slices.SortStableFunc(found, func(a, b branch) int { return nearer(first(a.openings), first(b.openings)) })
	for i, b := range found {
		s.openings = append(s.openings, b.openings...)
		if i < maxBranches {
			s.reasons = append(s.reasons, b.reason)
		} else {
			more++
		}
	}
	if s.openings = best(s.openings); x.Hidden == nil {
		s.others = more
	}
	return s
}

// tooMany reports whether so many hidden objects were met that no more are asked about, and notes that something may be left out.
func (x *explainer) tooMany(hidden int) bool {
	x.cut = x.cut || hidden == maxCounted
	return hidden >= maxCounted
}

// every explains an arrow with .all: a no by the objects that lack the permission, or by the fact that the relation names no object.
func (x *explainer) every(n *node, o *object, left int, want authz.Outcome) (s survey) {
	r := operation(n, want)
	s.reasons, s.openings = []*authz.Reason{r}, []opening{{}}
	some, more, hidden := false, 0, 0
	x.arrows(n, o, left)(func(e *edge) bool {
		some = true
		switch {
		case e.out.Outcome == authz.Yes:
		case e.out.Outcome != want:
			s.openings = nil
		case len(r.Children) == maxBranches:
			s.openings = nil
			more++
		case x.hides(e):
			s.openings = nil
			hidden++
		default:
			child, found := x.follow(o, e)
			r.Children = append(r.Children, child)
			s.openings = together(s.openings, found)
		}
		return !x.tooMany(hidden) && more < maxCounted && (want != authz.Failed || len(r.Children) == 0)
	})
	if hidden > 0 && len(r.Children) == 0 {
		r.Children = []*authz.Reason{hiddenReason(want)}
	}
	if !some {
		r.Children, s.openings = []*authz.Reason{about(authz.ReasonAbsent, n.tupleset, o, Answer{})}, nil
	}
	if x.Hidden == nil {
		r.Others = more
	}
	return s
}

// relationships explains a relation. r is the reason about it.
func (x *explainer) relationships(r *authz.Reason, m *member, o *object, left int, want authz.Outcome) (s survey) {
	named := x.named(m, o)
	for i := range named {
		j := x.circumstances.judgeRow(&named[i])
		if j.outcome == want {
			s.reasons = append(s.reasons, x.relationship(o, &named[i], Answer{Outcome: j.outcome, Err: j.err}))
		}
		if want == authz.Failed && len(s.reasons) > 0 {
			return s
		}
	}
	if want == authz.No && m.admits(&x.of) {
		s.openings = x.unnamed(r, m, o, len(named) == 0)
	}
	if m.usersets {
		led := x.leads(m, o, x.usersets(m, o, left), want)
		if len(led.reasons) > 0 && led.reasons[0].Kind != authz.ReasonAbsent {
			s.reasons, s.others = append(s.reasons, led.reasons...), led.others
			s.openings = best(append(s.openings, led.openings...))
		}
	}
	if want == authz.No && len(s.reasons) == 0 {
		r.Kind = authz.ReasonAbsent
	}
	return s
}

// unnamed notes in the reason about a relation that the relation admits the subject and does not name it, and returns the grants that would
// name it. none says that no row names the subject, not even one whose caveat is false.
func (x *explainer) unnamed(r *authz.Reason, m *member, o *object, none bool) (openings []opening) {
	grant, expiring := x.grant(m, o)
	if none || grant.Caveat == "" {
		openings = []opening{{[]authz.Grant{grant}, 1}}
	}
	if r.Admits = none; !none || !expiring || x.Expired == nil {
		return openings
	}
	row, found, err := x.Expired(o.of.name, o.id, m.name, x.of.of.name, x.of.relation, x.of.id)
	if found {
		rel := Relationship(authz.Object{Type: o.of.name, ID: o.id}, &row)
		r.Relationship = &rel
	}
	if err != nil && x.Walk.err == nil {
		x.Walk.err = err
	}
	return openings
}

// named returns the rows of a relation that name the subject, or all objects of its type.
func (x *explainer) named(m *member, o *object) (named []Row) {
	rows, wide := x.relation(m, o)
	if !wide {
		for i := range rows {
			if rows[i].SubjectType == x.of.of.name && m.names(&rows[i], &x.of) {
				named = append(named, rows[i])
			}
		}
		return named
	}
	find := func(relation, id string) {
		if row, found, err := x.rows.Find(o.of.name, o.id, m.name, x.of.of.name, relation, id); err != nil {
			x.Walk.err = err
		} else if found {
			named = append(named, row)
		}
	}
	if m.admits(&x.of) {
		find(x.of.relation, x.of.id)
	}
	if m.admitsAll(&x.of) {
		find("", wildcard)
	}
	return named
}

// relationship returns a reason about a row that came to an answer.
func (x *explainer) relationship(o *object, row *Row, a Answer) *authz.Reason {
	rel := Relationship(authz.Object{Type: o.of.name, ID: o.id}, row)
	r := &authz.Reason{Kind: authz.ReasonRelationship, Relationship: &rel, Outcome: a.Outcome}
	if row.Caveat == "" {
		return r
	}
	j := x.circumstances.judgeRow(row)
	r.Detail = detail(j.err)
	r.Caveat = &authz.CaveatReason{Name: row.Caveat, Outcome: j.outcome, Missing: j.names()}
	if c := x.program.caveats[row.Caveat]; c != nil {
		for _, name := range slices.Sorted(maps.Keys(c.definition.GetParameterTypes())) {
			value, written := row.Context[name]
			given := written
			if !written {
				value, given = x.circumstances.given[name]
			}
			if given {
				r.Caveat.Values = append(r.Caveat.Values, authz.CaveatValue{Name: name, Value: value, Written: written})
			}
		}
	}
	return r
}

// grant returns the relationship by which a relation that admits the subject would name it. If the relation admits several kinds, grant
// prefers one that needs neither a caveat nor an expiration. expiring says that the relation admits relationships that expire.
func (x *explainer) grant(m *member, o *object) (g authz.Grant, expiring bool) {
	g = authz.Grant{
		Resource: authz.Object{Type: o.of.name, ID: o.id}, Relation: m.name,
		Subject: authz.Subject{Object: authz.Object{Type: x.of.of.name, ID: x.of.id}, Relation: x.of.relation},
	}
	found := false
	for _, a := range x.program.schema.Member(schema.Name{Type: o.of.name, Member: m.name}).Allowed {
		if a.Type != x.of.of.name || a.Relation != x.of.relation || a.Wildcard {
			continue
		}
		expiring = expiring || a.Expires
		if plainer := a.Caveat == "" && (g.Caveat != "" || !a.Expires); !found || plainer {
			g.Caveat, g.Expires, found = a.Caveat, a.Expires, true
		}
	}
	return g, expiring
}

// judgeRow judges the caveat of a row. A row without one is a yes.
func (c *circumstances) judgeRow(row *Row) judgement {
	e := leaf(row)
	if e == nil {
		return judgement{outcome: authz.Yes}
	}
	return c.judge(e)
}

// unfold makes a tree of reasons, which may share children, with at most maxReasons nodes.
func (x *explainer) unfold(r *authz.Reason) *authz.Reason {
	if x.seen == nil {
		x.seen = map[*authz.Reason]bool{}
	}
	x.shown++
	out := *r
	if r.Member != "" {
		if m := x.program.types[r.Object.Type].members[r.Member]; m.rewrite != nil {
			out.Expression = m.rewrite.from.String()
		}
	}
	if fn := x.later[r]; fn != nil {
		delete(x.later, r)
		r.Children = append(r.Children, fn()...)
		out.Children = r.Children
	}
	if x.seen[r] && r.Kind == authz.ReasonMember && len(r.Children) > 0 {
		out.Kind, out.Children, out.Others = authz.ReasonAbove, nil, 0
		return &out
	}
	x.seen[r] = true
	children := out.Children
	out.Children = nil
	for i, c := range children {
		if x.shown >= maxReasons {
			x.cut = true
			out.Children = append(out.Children, &authz.Reason{Kind: authz.ReasonCut, Outcome: out.Outcome})
			out.Others += len(children) - i - 1
			break
		}
		out.Children = append(out.Children, x.unfold(c))
	}
	return &out
}

// errNoPath is the error of an explanation that finds no path to a yes. Only a flaw of this package could cause it.
var errNoPath = errors.New("evaluate: no path was found to what holds")
