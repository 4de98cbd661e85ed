package follow

import (
	"context"
	"errors"
	"time"

	core "github.com/authzed/spicedb/pkg/proto/core/v1"
	"github.com/authzed/spicedb/pkg/tuple"
)

// Errors of an authority. What wraps none of these is passing: a connection that broke, a server that does not answer.
var (
	// ErrMissed says that what has changed since a position cannot be told any more: it has left the window.
	ErrMissed = errors.New("the position has left the window in which the primary can tell what has changed since")
	// ErrOther says that a position is of another authority, or of another history of this one.
	ErrOther = errors.New("the position is not one of this primary's history")
	// ErrTooMany says that more has changed since a position than was asked for.
	ErrTooMany = errors.New("more has changed since the position than one local commit holds")
	// ErrStandby says that the server is no primary: its head may be behind what was acknowledged.
	ErrStandby = errors.New("the server is no primary, and its head is not taken")
	// ErrMigration says that the authority's tables are not those that this version of Deputy reads.
	ErrMigration = errors.New("SpiceDB's tables are not at the migration that this version of Deputy follows")
)

// Identity says who an authority is, in words that an operator can read. Two positions of different identities have nothing in common.
type Identity string

// Transaction is one of an authority's transactions.
type Transaction struct {
	// ID is the transaction's number. No number is used twice in one history.
	ID uint64 `json:"id"`
	// Began is when it began, by the authority's clock.
	Began time.Time `json:"began"`
}

// Position is a state of an authority. The zero value is none.
type Position struct {
	// Authority is whose state it is.
	Authority Identity `json:"authority"`
	// State says which transactions it shows, in the authority's own words: for PostgreSQL a pg_snapshot.
	State string `json:"state"`
	// At is a time by the authority's clock: every transaction that the state does not show committed after it.
	At time.Time `json:"at"`
	// Known are transactions that the state shows and that the authority must still have.
	Known []Transaction `json:"known,omitempty"`
}

// Definitions are the schema, and what else is stored beside relationships.
type Definitions struct {
	// Types are the definitions of object types.
	Types []*core.NamespaceDefinition
	// Caveats are the definitions of caveats.
	Caveats []*core.CaveatDefinition
	// Counters are the counters that are registered.
	Counters []Counter
}

// Counter is a counter of relationships, without its value.
type Counter struct {
	// Name is what it is called.
	Name string
	// Filter says what it counts.
	Filter *core.RelationshipFilter
}

// Changes lead from one position to a later one of the same authority.
type Changes struct {
	// To is the position that they lead to: the head when they were read.
	To Position
	// Transactions is how many transactions of SpiceDB's are in To and were not in the position before, heartbeats included.
	Transactions int
	// Written are the relationships that To shows and that were written since.
	Written []tuple.Relationship
	// Deleted are those that the position before showed, and that To does not, whatever their caveats and expirations. None of them is in Written.
	Deleted []tuple.Relationship
	// Definitions are those that were written since, as To shows them.
	Definitions Definitions
	// DeletedTypes, DeletedCaveats and DeletedCounters name definitions that To does not show any more.
	DeletedTypes, DeletedCaveats, DeletedCounters []string
}

// Empty reports whether both positions show the same.
func (c *Changes) Empty() bool {
	d := &c.Definitions
	return len(c.Written)+len(c.Deleted)+len(d.Types)+len(d.Caveats)+len(d.Counters)+
		len(c.DeletedTypes)+len(c.DeletedCaveats)+len(c.DeletedCounters) == 0
}

// Page is some of the relationships of a state.
type Page struct {
	// Relationships are in the authority's own order. Some may have expired.
	Relationships []tuple.Relationship
	// Next is where the next page begins; empty after the last one.
	Next string
}

// Authority is where writes go and where the truth is. It is safe for concurrent use. Every method reads one snapshot of the
// authority's, or fails.
type Authority interface {
	// Head returns the authority's state now: every write that was acknowledged before the call is in it. Errors: ErrStandby, ErrMigration.
	Head(ctx context.Context) (Position, error)
	// ChangesSince returns the authority's state now, as Head does, and what has changed since a position, in one round trip where it can. At
	// most limit relationships are returned in each of the lists. Errors: ErrStandby, ErrMigration, ErrOther, ErrMissed, ErrTooMany.
	ChangesSince(ctx context.Context, from Position, limit int) (Changes, error)
	// At returns a state to be read. It asks nothing of the authority yet.
	At(p Position) State
	// Revision returns a position as SpiceDB prints its revisions of this authority. It asks nothing of the authority.
	Revision(p Position) (string, error)
	// Shows reports whether a position shows all that a revision does which SpiceDB has printed. It asks nothing of the authority.
	Shows(p Position, revision string) (bool, error)
}

// Parted is an Authority that can say what has changed in parts, however much that is.
type Parted interface {
	Authority
	// ChangesInParts is ChangesSince without a limit. It calls take with each part that has size relationships of one of the two kinds, and returns
	// the rest, which has the definitions too. All parts are of one snapshot of the authority's, deletions come before what was written, and both are
	// take's to keep.
	//
	// Other than with ChangesSince, all that was deleted after the position is named, more than once where that happened more than once: also what the
	// position does not show, and what was written again since. So a copy that has some of what a later state shows comes out right too, if it
	// deletes before it writes. take's error ends the call and is returned; so does a failure of the authority's, after which what was taken may
	// be missing deletions.
	ChangesInParts(ctx context.Context, from Position, size int, take func(deleted, written []tuple.Relationship) error) (Changes, error)
}

// State is an authority's state, as it was at one position. It is safe for concurrent use. Errors of all methods: those of
// Authority.ChangesSince but ErrTooMany.
type State interface {
	// Definitions returns the schema.
	Definitions(ctx context.Context) (Definitions, error)
	// Page returns up to limit relationships, from where the page before ended, or the first ones.
	Page(ctx context.Context, next string, limit int) (Page, error)
	// Of returns those of some relationships that the state shows. Some may have expired. Their order is not defined.
	Of(ctx context.Context, refs []tuple.RelationshipReference) ([]tuple.Relationship, error)
	// Digests returns a digest of each bucket in which a relationship lives at a moment. Their order is not defined.
	Digests(ctx context.Context, moment time.Time) ([]Digest, error)
	// Bucket calls fn with the relationships of a bucket that live at a moment, up to limit of them, until fn returns an error, which it returns. Their
	// order is not defined.
	Bucket(ctx context.Context, b Bucket, moment time.Time, limit int, fn func(*tuple.Relationship) error) error
}
