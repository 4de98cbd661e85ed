package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	deputy "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/pkg/notation"
)

// terminal is how many columns a tree has, and narrowest how many of them a line has for its text at least. A branch that is too deep for
// that is not shown.
const terminal, narrowest = 80, 28

// branch is a line of a tree with the lines below it.
type branch struct {
	text  string
	below []branch
}

// writeTree writes branches with lines that show what belongs to what:
//
//	├ agent  yes
//	└ principal  no
//	  └ document:plan#view@user:bob  no
//
// A line that is too long goes on below its beginning.
func writeTree(w io.Writer, branches []branch, indent string) {
	for i, b := range branches {
		mark, on := "├ ", "│ "
		if i == len(branches)-1 {
			mark, on = "└ ", "  "
		}
		if terminal-len([]rune(indent)) < narrowest {
			row(w, indent+"└ more: see -o json")
			return
		}
		further := on
		if len(b.below) > 0 {
			further += "│ "
		} else {
			further += "  "
		}
		for n, line := range wrapped(notation.Visible(b.text), terminal-len([]rune(indent))-2) {
			if n == 0 {
				row(w, indent+mark+line)
			} else {
				row(w, indent+further+line)
			}
		}
		writeTree(w, b.below, indent+on)
	}
}

// wrapped cuts a text into lines, at blanks where there are some. The lines after the first have two columns less.
func wrapped(text string, width int) (lines []string) {
	rest := []rune(text)
	for len(rest) > width {
		cut := width
		for cut > 0 && rest[cut] != ' ' {
			cut--
		}
		if cut == 0 {
			cut = width
		}
		lines = append(lines, strings.TrimRight(string(rest[:cut]), " "))
		rest = []rune(strings.TrimLeft(string(rest[cut:]), " "))
		if len(lines) == 1 {
			width -= 2
		}
	}
	return append(lines, string(rest))
}

// gateBranches are the gates of a candidate, each with its conditions. Those that hold and are no checks are only counted.
func gateBranches(gates []*deputy.GateExplanation) (out []branch) {
	for _, gate := range gates {
		b := branch{text: gateName(gate.GetGate()) + ": " + outcome(gate.GetOutcome())}
		hold := 0
		for _, c := range gate.GetConditions() {
			if c.GetOutcome() == deputy.Outcome_OUTCOME_YES && c.GetExplanation() == nil {
				hold++
				continue
			}
			b.below = append(b.below, conditionBranch(c))
		}
		switch {
		case hold == 1 && len(b.below) == 0:
			b.text += " (" + gate.GetConditions()[0].GetCondition() + ")"
		case hold > 0 && len(b.below) == 0:
			b.text += fmt.Sprintf(" (%d facts hold)", hold)
		case hold == 1:
			b.text += " (1 fact holds)"
		case hold > 1:
			b.text += fmt.Sprintf(" (%d facts hold)", hold)
		}
		out = append(out, b)
	}
	return out
}

// conditionBranch is a condition with its explanation.
func conditionBranch(c *deputy.ConditionExplanation) branch {
	b := branch{text: c.GetCondition()}
	if c.GetAtBaseline() {
		b.text += " (at the baseline)"
	}
	b.text += ": " + outcome(c.GetOutcome())
	if c.GetDetail() != "" {
		b.text += ", " + c.GetDetail()
	}
	if missing := c.GetMissingContext(); len(missing) > 0 {
		b.text += ", missing context: " + strings.Join(missing, ", ")
	}
	why := c.GetExplanation()
	if why.GetReason() == nil {
		return b
	}
	whom := subjectOf(c.GetCondition())
	b.below = reasons{whom}.of(why.GetReason(), true)
	for i, set := range why.GetNearest() {
		var grants []string
		for _, g := range set.GetGrants() {
			text := object(g.GetResource()) + "#" + g.GetRelation() + "@" + subject(g.GetSubject())
			if g.GetCaveat() != "" {
				text += "[" + g.GetCaveat() + "]"
			}
			if g.GetNeedsExpiration() {
				text += " with an expiration"
			}
			grants = append(grants, text)
		}
		text := "it would be yes with " + strings.Join(grants, " and ")
		if i > 0 {
			text = "or with " + strings.Join(grants, " and ")
		}
		b.below = append(b.below, branch{text: text})
	}
	if why.GetCut() {
		b.below = append(b.below, branch{text: "parts were left out, because there is too much to show"})
	}
	return b
}

// subjectOf returns the subject of a condition that is a check: "document:plan#view@user:bob, at the head revision", or
// "document:plan#tenant is tenant:acme and no other".
func subjectOf(condition string) string {
	condition, _, _ = strings.Cut(condition, ", at the head revision")
	if only, found := strings.CutSuffix(condition, " and no other"); found {
		return only[strings.LastIndex(only, " ")+1:]
	}
	return condition[strings.LastIndex(condition, "@")+1:]
}

// reasons puts reasons into words, for a subject.
type reasons struct{ subject string }

// of returns the lines of a reason. top says that the line above has its outcome and its name already.
func (s reasons) of(r *deputy.Reason, top bool) []branch {
	member := object(r.GetObject()) + "#" + r.GetRelation()
	switch r.GetKind() {
	case deputy.ReasonKind_REASON_KIND_MEMBER:
		return s.member(r, member, top)
	case deputy.ReasonKind_REASON_KIND_RELATIONSHIP:
		return s.relationship(r)
	case deputy.ReasonKind_REASON_KIND_OPERATION:
		b := branch{text: minus(r) + r.GetExpression() + ": " + outcome(r.GetOutcome())}
		for _, c := range r.GetChildren() {
			b.below = append(b.below, s.operand(c)...)
		}
		b.below = append(b.below, others(r)...)
		return []branch{b}
	case deputy.ReasonKind_REASON_KIND_SELF:
		if r.GetOutcome() == deputy.Outcome_OUTCOME_YES {
			return []branch{{text: "self: " + s.subject + " is the subject itself"}}
		}
		return []branch{{text: "self: " + object(r.GetObject()) + " is not " + s.subject}}
	case deputy.ReasonKind_REASON_KIND_ABSENT:
		return []branch{{text: minus(r) + s.absent(r, member)}}
	case deputy.ReasonKind_REASON_KIND_CYCLE:
		return []branch{{text: "which leads back to " + member}}
	case deputy.ReasonKind_REASON_KIND_ABOVE:
		return []branch{{text: minus(r) + member + ": " + outcome(r.GetOutcome()) + ", as explained elsewhere"}}
	case deputy.ReasonKind_REASON_KIND_DEPTH:
		return []branch{{text: member + " is more steps away than a check may take"}}
	case deputy.ReasonKind_REASON_KIND_HIDDEN:
		return []branch{{text: "something that you may not see"}}
	default:
		return []branch{{text: "the rest is left out"}}
	}
}

// member returns the lines of a relation or permission. If that holds, they are those of its relationships alone.
func (s reasons) member(r *deputy.Reason, name string, top bool) []branch {
	below := s.children(r)
	if r.GetAdmits() {
		below = append([]branch{{text: s.absent(r, name)}}, below...)
	}
	if c := r.GetCaveat(); c != nil {
		below = append(below, branch{text: "its caveat " + c.GetName() + ": " + outcome(c.GetOutcome())})
	}
	switch {
	case len(below) == 0:
		if top {
			return nil
		}
		return []branch{{text: minus(r) + name + ": " + outcome(r.GetOutcome())}}
	case top && (r.GetExpression() == "" || r.GetOutcome() == deputy.Outcome_OUTCOME_YES && !operates(r)):
		return below
	case top:
		return []branch{{text: r.GetRelation() + " = " + r.GetExpression(), below: below}}
	case !r.GetSubtracted() && !operates(r) && (r.GetOutcome() == deputy.Outcome_OUTCOME_YES || r.GetExpression() == ""):
		return below
	}
	text := minus(r) + name
	if r.GetExpression() != "" {
		text += " = " + r.GetExpression()
	}
	return []branch{{text: text + ": " + outcome(r.GetOutcome()), below: below}}
}

// operates reports whether a permission has one operation with the same expression for its only child, so that one line is enough for both.
func operates(r *deputy.Reason) bool {
	c := r.GetChildren()
	return len(c) == 1 && c[0].GetKind() == deputy.ReasonKind_REASON_KIND_OPERATION && c[0].GetExpression() == r.GetExpression()
}

// children returns the lines of a reason's children.
func (s reasons) children(r *deputy.Reason) (below []branch) {
	if operates(r) {
		return s.of(r.GetChildren()[0], false)[0].below
	}
	for _, c := range r.GetChildren() {
		below = append(below, s.of(c, false)...)
	}
	return append(below, others(r)...)
}

// operand returns the lines of an operand of an operation, with its outcome.
func (s reasons) operand(r *deputy.Reason) []branch {
	if r.GetKind() != deputy.ReasonKind_REASON_KIND_MEMBER {
		return s.of(r, false)
	}
	b := branch{text: minus(r) + object(r.GetObject()) + "#" + r.GetRelation() + ": " + outcome(r.GetOutcome())}
	if r.GetAdmits() {
		b.below = append(b.below, branch{text: s.absent(r, object(r.GetObject())+"#"+r.GetRelation())})
	}
	b.below = append(b.below, s.children(r)...)
	return []branch{b}
}

// minus marks what is right of a minus.
func minus(r *deputy.Reason) string {
	if r.GetSubtracted() {
		return "minus "
	}
	return ""
}

// others returns the line that counts the children that are not shown.
func others(r *deputy.Reason) []branch {
	switch n := r.GetOthers(); n {
	case 0:
		return nil
	case 1:
		return []branch{{text: "and 1 other"}}
	default:
		return []branch{{text: fmt.Sprintf("and %d others", n)}}
	}
}

// absent says that no relationship names the subject or leads to it.
func (s reasons) absent(r *deputy.Reason, name string) string {
	switch {
	case r.GetRelationship().GetExpiresAt() != nil:
		return name + "@" + s.subject + " expired at " + r.GetRelationship().GetExpiresAt().AsTime().Format(time.RFC3339)
	case r.GetAdmits():
		return name + " does not name " + s.subject
	default:
		return name + " has nothing that leads to " + s.subject
	}
}

// relationship returns the lines of a relationship and those of the object to which it leads: at the same depth where they make up one
// path.
func (s reasons) relationship(r *deputy.Reason) []branch {
	rel := r.GetRelationship()
	text := object(rel.GetResource()) + "#" + rel.GetRelation() + "@" + subject(rel.GetSubject())
	if rel.GetCaveat() != "" {
		text += "[" + rel.GetCaveat() + "]"
	}
	if rel.GetExpiresAt() != nil {
		text += ", until " + rel.GetExpiresAt().AsTime().Format(time.RFC3339)
	}
	if rel.GetSubject().GetObject().GetObjectId() == "*" {
		text += ", which is every " + rel.GetSubject().GetObject().GetObjectType()
	}
	if c := r.GetCaveat(); c != nil {
		text += ", where " + caveat(c)
	}
	if r.GetDetail() != "" {
		text += ": " + r.GetDetail()
	}
	here := branch{text: text}
	var next []branch
	for _, c := range r.GetChildren() {
		next = append(next, s.of(c, false)...)
	}
	if r.GetOutcome() == deputy.Outcome_OUTCOME_YES || len(next) == 1 && len(next[0].below) == 0 {
		return append([]branch{here}, next...)
	}
	here.below = next
	return []branch{here}
}

// caveat says what a caveat came to, and with which values.
func caveat(c *deputy.CaveatReason) string {
	text := c.GetName() + " is "
	switch c.GetOutcome() {
	case deputy.Outcome_OUTCOME_YES:
		text += "true"
	case deputy.Outcome_OUTCOME_CONDITIONAL:
		text += "open"
	case deputy.Outcome_OUTCOME_ERROR:
		text += "broken"
	default:
		text += "false"
	}
	var said []string
	for _, v := range c.GetValues() {
		value, err := json.Marshal(v.GetValue().AsInterface())
		if err != nil {
			continue
		}
		from := "given"
		if v.GetWritten() {
			from = "written"
		}
		said = append(said, v.GetName()+" = "+notation.Shorten(string(value))+" ("+from+")")
	}
	if missing := c.GetMissing(); len(missing) > 0 {
		said = append(said, "missing: "+strings.Join(missing, ", "))
	}
	if len(said) > 0 {
		text += ": " + strings.Join(said, ", ")
	}
	return text
}
