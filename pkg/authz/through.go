package authz

// Through says by which relationship a subject has a permission on a resource. The zero Through says nothing.
type Through struct {
	// Outcome is that of the check: without a yes or a condition nothing else is set.
	Outcome Outcome
	// Grant is the last relationship of a path from the resource: it names the subject, a set that the subject is in, or all of its type. Nil where
	// there is none to be told: the resource is the subject itself, the path leads through what is hidden, or it would take too long to find.
	Grant *Relationship
	// Only are the sets that the subject itself is named in and without which the outcome would be no. They are looked for where Grant names a set and
	// the outcome is yes.
	Only []Subject
	// Cut says that not all sets that the subject is named in were looked at.
	Cut bool
}
