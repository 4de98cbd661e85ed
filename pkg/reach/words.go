package reach

import (
	"fmt"
	"slices"
	"strings"

	deputy "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// Object returns "type:id", or "" for none.
func Object(o *deputy.ObjectReference) string {
	if o.GetObjectType() == "" && o.GetObjectId() == "" {
		return ""
	}
	return o.GetObjectType() + ":" + o.GetObjectId()
}

// Subject returns "type:id" or "type:id#relation", or "" for none.
func Subject(s *deputy.SubjectReference) string {
	text := Object(s.GetObject())
	if s.GetOptionalRelation() != "" {
		text += "#" + s.GetOptionalRelation()
	}
	return text
}

// FlagWord returns a flag in a word or two. What is not known to this version is "unknown".
func FlagWord(f deputy.ReachFlag) string {
	switch f {
	case deputy.ReachFlag_REACH_FLAG_STANDING:
		return "standing"
	case deputy.ReachFlag_REACH_FLAG_UNSCOPED:
		return "unscoped"
	case deputy.ReachFlag_REACH_FLAG_WILDCARD:
		return "wildcard"
	case deputy.ReachFlag_REACH_FLAG_SINGLE_SET:
		return "single set"
	default:
		return "unknown"
	}
}

// FlagMeaning says what a flag means, and what a reviewer does about it.
func FlagMeaning(f deputy.ReachFlag) string {
	switch f {
	case deputy.ReachFlag_REACH_FLAG_STANDING:
		return "the delegation, or a grant to the agent, has no end: give it an expiration, so that it does not outlive its purpose"
	case deputy.ReachFlag_REACH_FLAG_UNSCOPED:
		return "no delegation of the chain has a scope, so that all that agent and principal both reach is open: delegate a scope"
	case deputy.ReachFlag_REACH_FLAG_WILDCARD:
		return "a grant to everybody of a type, such as user:*, is among the grants: check that everybody is meant"
	case deputy.ReachFlag_REACH_FLAG_SINGLE_SET:
		return "objects are reached only because of one membership: the people who edit that set decide about them"
	default:
		return "the server flags something that this version does not know: look at it with a newer version"
	}
}

// FlagWords returns flags in words, with commas.
func FlagWords(flags []deputy.ReachFlag) string {
	words := make([]string, len(flags))
	for i, f := range flags {
		words[i] = FlagWord(f)
	}
	return strings.Join(slices.Compact(words), ", ")
}

// Gate returns a gate in a word. A gate that is not known refuses as well.
func Gate(g deputy.Gate) string {
	if _, known := deputy.Gate_name[int32(g)]; !known {
		return "a gate that this version does not know"
	}
	return strings.ToLower(strings.TrimPrefix(g.String(), "GATE_"))
}

// Agents returns the agents of a party's chain. A session's own delegation is the same agent's as the one that it holds: where all of them
// are one agent, it is named once.
func Agents(p *deputy.ReachParty) string {
	chain := p.GetAgentChain()
	if len(chain) == 0 {
		chain = []string{p.GetAgentId()}
	}
	return strings.Join(slices.Compact(slices.Clone(chain)), " > ")
}

// Delegation returns the delegation under which a party acts.
func Delegation(p *deputy.ReachParty) string {
	if chain := p.GetDelegationChain(); len(chain) > 0 {
		return chain[len(chain)-1]
	}
	return ""
}

// What the answer for an object is in words.
const (
	answerHas         = "reached"
	answerConditional = "conditional"
	answerFailed      = "unknown"
)

// Answer returns what is known of an object in words: "reached", "conditional on amount, hour", or "unknown: " and why.
func Answer(o *deputy.ReachObject) string {
	word := answer(o)
	switch {
	case word == answerFailed && o.GetError().GetMessage() != "":
		return word + ": " + o.GetError().GetMessage()
	case word == answerConditional && len(o.GetMissingContext()) > 0:
		return word + " on " + strings.Join(o.GetMissingContext(), ", ")
	default:
		return word
	}
}

// answer is the first word of Answer. An answer that is not known to this version is not known at all.
func answer(o *deputy.ReachObject) string {
	switch {
	case o.GetError() != nil:
		return answerFailed
	case o.GetPermissionship() == deputy.Permissionship_PERMISSIONSHIP_HAS_PERMISSION:
		return answerHas
	case o.GetPermissionship() == deputy.Permissionship_PERMISSIONSHIP_CONDITIONAL_PERMISSION:
		return answerConditional
	default:
		return answerFailed
	}
}

// Kind returns relationships of one kind in words: "reader of folder, as member of group:staff".
func Kind(g *deputy.ReachGrants) string {
	return g.GetRelation() + " of " + g.GetResourceObjectType() + ", " + how(Object(g.GetHolder()), g.GetSubject())
}

// how says by which subject a relationship names a holder.
func how(holder string, subject *deputy.SubjectReference) string {
	switch {
	case subject.GetObject().GetObjectId() == "*":
		return "as every " + subject.GetObject().GetObjectType()
	case subject.GetOptionalRelation() != "":
		return "as " + subject.GetOptionalRelation() + " of " + Object(subject.GetObject())
	case Object(subject.GetObject()) == holder:
		return "directly"
	default:
		return "as " + Subject(subject)
	}
}

// Plural returns a number with a noun: "1 object", "2 objects".
func Plural(n uint64, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
