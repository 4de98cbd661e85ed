package authz

// Explaining is how a check is to be explained.
type Explaining struct {
	// Trace asks for SpiceDB's check trace too.
	Trace bool
	// Hidden reports whether an object does not exist for the reader of the explanation; nil hides nothing. Its error ends the call.
	Hidden func(Object) (bool, error)
}

// Explanation says why one check came to its outcome. It says what a decision conceals: it is for callers that may have
// decisions explained, and not for logs.
type Explanation struct {
	// Outcome and Missing are those of the check; see Answer.
	Outcome Outcome
	Missing []string
	// Reason is how it came to that, a tree; nil where there is nothing to say but the outcome.
	Reason *Reason
	// Nearest are grants that were missing: each of these sets, written alone, makes the check yes. The first one is the nearest. Only
	// where the outcome is No, and none where nothing near does.
	Nearest [][]Grant
	// Cut says that the tree was too large to be shown whole.
	Cut bool
	// Trace is SpiceDB's check trace: where it was asked for, and from engines that have nothing else, which leave Reason nil.
	Trace *Trace
}

// Trace is one node of SpiceDB's check trace.
type Trace struct {
	Resource     Object
	Permission   string
	IsPermission bool
	Subject      Subject
	Outcome      Outcome
	Caveat       string
	Children     []Trace
}

// Grant is a relationship that is not there.
type Grant struct {
	Resource Object
	Relation string
	Subject  Subject
	// Caveat is the caveat that the schema wants of such a relationship, and Expires says that it wants an expiration.
	Caveat  string
	Expires bool
}

// String returns the grant in SpiceDB's notation, ids decoded.
func (g Grant) String() string {
	text := Show(g.Resource) + "#" + g.Relation + "@" + ShowSubject(g.Subject)
	if g.Caveat != "" {
		text += "[" + g.Caveat + "]"
	}
	return text
}

// ReasonKind is what a Reason is about.
type ReasonKind uint8

// The kinds, in the order of deputy.v1's ReasonKind.
const (
	_ ReasonKind = iota
	// ReasonMember is a relation or permission of an object; its children say how it came to its outcome.
	ReasonMember
	// ReasonRelationship is a relationship. It names the subject, or all of its type; or it leads on to its child.
	ReasonRelationship
	// ReasonOperation is an intersection, an exclusion, a union within these, or an arrow with .all; its children are its parts.
	ReasonOperation
	// ReasonSelf is the subject itself.
	ReasonSelf
	// ReasonAbsent is a relation of an object in which no relationship is that names the subject, or that an arrow could follow.
	ReasonAbsent
	// ReasonCycle is a member that leads back to itself.
	ReasonCycle
	// ReasonAbove is a member that is explained elsewhere in the tree.
	ReasonAbove
	// ReasonDepth is a member that is too many steps away to be looked at.
	ReasonDepth
	// ReasonHidden is something that does not exist for the caller.
	ReasonHidden
	// ReasonCut is a part that was left out, because the tree would have been too large.
	ReasonCut
)

// Reason is a node of an explanation.
type Reason struct {
	Kind ReasonKind
	// Outcome is what the part comes to by itself. That of a relationship is its caveat's, together with that of its child.
	Outcome Outcome
	// Object and Member are the relation or permission that it is about.
	Object Object
	Member string
	// Expression is what a permission, or an operation, is computed from, as the schema writes it.
	Expression string
	// Operation is that of a ReasonOperation: "union", "intersection", "exclusion" or "all".
	Operation string
	// Subtracted says that the part is right of a minus, so that its yes refuses.
	Subtracted bool
	// Admits says of an absent relationship that the relation admits one that names the subject.
	Admits bool
	// Relationship is what a ReasonRelationship is about. Of a ReasonAbsent it is one that has expired; nil if there is none.
	Relationship *Relationship
	// Caveat is what the relationship's caveat came to; nil without one.
	Caveat *CaveatReason
	// Detail is why there is no outcome, in a sentence, where it is Failed.
	Detail string
	// Children are what the outcome comes from; parts that make no difference to it are left out.
	Children []*Reason
	// Others is how many further children, that came to the same, are not shown: at least so many.
	Others int
}

// CaveatReason is what a caveat of a relationship came to.
type CaveatReason struct {
	Name    string
	Outcome Outcome
	// Values are those of its parameters that were given, in the order of their names.
	Values []CaveatValue
	// Missing names the parameters that it depends on and that were not given, in order.
	Missing []string
}

// CaveatValue is the value of a caveat's parameter.
type CaveatValue struct {
	Name string
	// Value is a JSON value.
	Value any
	// Written says that it was written with the relationship. Otherwise it is the request's.
	Written bool
}
