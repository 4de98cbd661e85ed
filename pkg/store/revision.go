package store

import (
	"fmt"
	"strconv"
	"time"

	"github.com/authzed/spicedb/pkg/datastore"
)

// Revision is a point in a store's history: nanoseconds since 1970, see the package's comment. It
// implements datastore.Revision. Zero is before everything.
type Revision uint64

var _ datastore.Revision = Revision(0)

// String returns the revision in decimal, as ZedTokens carry it.
func (r Revision) String() string { return strconv.FormatUint(uint64(r), 10) }

// Equal reports whether both are the same revision. One of another datastore's type is never equal.
func (r Revision) Equal(other datastore.Revision) bool {
	o, ok := other.(Revision)
	return ok && r == o
}

// GreaterThan reports whether the revision is after the other. Every revision is after NoRevision.
func (r Revision) GreaterThan(other datastore.Revision) bool {
	if other == datastore.NoRevision {
		return true
	}
	o, ok := other.(Revision)
	return ok && r > o
}

// LessThan reports whether the revision is before the other.
func (r Revision) LessThan(other datastore.Revision) bool {
	o, ok := other.(Revision)
	return ok && r < o
}

// ByteSortable reports that the texts of revisions sort as the revisions do: from 2001 to 2554 they have
// as many digits.
func (r Revision) ByteSortable() bool { return true }

// Time is when the revision was made, if the clock was right and did not move back.
func (r Revision) Time() time.Time { return time.Unix(0, int64(r)).UTC() } //nolint:gosec // clocks end in 2262

// revisionAt is the revision that a commit at that time would get.
func revisionAt(t time.Time) Revision { return Revision(max(t.UnixNano(), 0)) }

// parseRevision reads what String wrote.
func parseRevision(s string) (Revision, error) {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil || strconv.FormatUint(n, 10) != s {
		return 0, fmt.Errorf("store: %q is not a revision", s)
	}
	return Revision(n), nil
}
