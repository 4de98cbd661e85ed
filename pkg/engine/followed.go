package engine

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"github.com/authzed/spicedb/pkg/datalayer"
	"github.com/authzed/spicedb/pkg/datastore"
	"github.com/authzed/spicedb/pkg/zedtoken"
	"google.golang.org/grpc/codes"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/statuses"
)

// followedStore is what Remote knows of another Deputy server on the engine embedded, whose store this server follows. That one is asked for its head, which
// is its store's own, so that it needs no write (see remoteHead). It is printed as an authz.StoreRevision.
type followedStore struct {
	// head asks for the store's head, as it is printed.
	head func(ctx context.Context) (printed string, err error)

	mu sync.Mutex
	// id is that of the store that answered last, and floor the newest of its revisions that this server has read or written.
	id    string
	floor uint64
}

// Follows tells Remote that the server behind it is a Deputy on the engine embedded: head asks for its head, as the authority that is followed
// prints it. It is called before the engine is used.
func (e *Engine) Follows(ctx context.Context, head func(ctx context.Context) (printed string, err error)) error {
	e.followed = &followedStore{head: head}
	// A store of Deputy's reads caveats and expirations whatever the schema says, so no shape is evaluated wrongly there, and nothing strays.
	e.readsWhole, e.trusted = true, true
	_, err := e.followedHead(ctx, func() (string, error) { return head(ctx) })
	return err
}

var errPrinted = errors.New("engine: it is no revision of a Deputy store")

// decimal is a revision that is printed as a number.
type decimal uint64

var _ datastore.Revision = decimal(0)

// String is datastore.Revision's.
func (d decimal) String() string { return strconv.FormatUint(uint64(d), 10) }

// Equal is datastore.Revision's.
func (d decimal) Equal(other datastore.Revision) bool { o, ok := other.(decimal); return ok && d == o }

// GreaterThan is datastore.Revision's.
func (d decimal) GreaterThan(other datastore.Revision) bool {
	o, ok := other.(decimal)
	return ok && d > o
}

// LessThan is datastore.Revision's.
func (d decimal) LessThan(other datastore.Revision) bool {
	o, ok := other.(decimal)
	return ok && d < o
}

// ByteSortable is datastore.Revision's.
func (d decimal) ByteSortable() bool { return false }

// named is a store by its id, for SpiceDB's tokens.
type named string

var _ zedtoken.RevisionHolder = named("")

// UniqueID is zedtoken.RevisionHolder's.
func (n named) UniqueID(context.Context) (string, error) { return string(n), nil }

// RevisionFromString is zedtoken.RevisionHolder's.
func (n named) RevisionFromString(text string) (datastore.Revision, error) {
	number, err := strconv.ParseUint(text, 10, 64)
	if err != nil || decimal(number).String() != text {
		return nil, errPrinted
	}
	return decimal(number), nil
}

// followedHead is Head for Remote. A head that lies behind what this server has read or written before it was asked for is refused: the store was put
// back to an older state.
func (e *Engine) followedHead(ctx context.Context, take func() (string, error)) (authz.Revision, error) {
	a := e.followed
	a.mu.Lock()
	before, floor := a.id, a.floor
	a.mu.Unlock()
	printed, err := take()
	if err != nil {
		return authz.Revision{}, err
	}
	head, ok := authz.ParseStoreRevision(printed)
	if !ok {
		return authz.Revision{}, Failure("engine.Head", fmt.Errorf("%w: %q", errPrinted, printed))
	}
	if head.Store == before && head.Number < floor {
		return authz.Revision{}, Failure("engine.Head", setBack(errStoreWentBack))
	}
	if !a.saw(head, before) {
		return authz.Revision{}, Failure("engine.Head", setBack(errLeft))
	}
	token, err := zedtoken.NewFromRevision(ctx, decimal(head.Number), datalayer.NoSchemaHashInLegacyMode, named(head.Store))
	if err != nil {
		return authz.Revision{}, Failure("engine.Head", err)
	}
	return authz.Revision{Token: token.GetToken()}, nil
}

// setBack is what calls come to where the store that is followed is not the one that it was.
func setBack(err error) error {
	return statusError{cause: err, status: statuses.New(codes.Unavailable, authz.ReasonEngineUnavailable, "",
		"the primary is not one to decide by: its store was put back to an older state, or another store has just taken its place; "+
			"the server's operator finds more in its log")}
}

// errStoreWentBack is for a head that lies behind what was seen.
var errStoreWentBack = errors.New("the primary has gone back behind what this server has read or written: its store was put back to an older state. " +
	"Should the loss be final, start this server again")

// errLeft is for a head of a store that another one has taken the place of.
var errLeft = errors.New("another store has answered meanwhile: the primary was replaced, restored or promoted")

// saw notes a head that a store has answered with, asked while the one with the id before was the last that had answered. A store that was left does not
// come back: it returns false, and notes nothing, where a third one has answered since.
func (a *followedStore) saw(head authz.StoreRevision, before string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.id != head.Store {
		if a.id != before {
			return false
		}
		a.id, a.floor = head.Store, 0
	}
	a.floor = max(a.floor, head.Number)
	return true
}

// wrote notes a revision that a write was acknowledged at. One of another store than the one that answered last says nothing of that.
func (a *followedStore) wrote(r authz.Revision) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if number, err := a.numberLocked(r); err == nil {
		a.floor = max(a.floor, number)
	}
}

// numberLocked reads a token of the store that answered last. A token of another one is out of range.
func (a *followedStore) numberLocked(r authz.Revision) (uint64, error) {
	decoded, err := zedtoken.DecodeRevision(&v1.ZedToken{Token: r.ZedToken()}, named(a.id))
	if err == nil && decoded.Status == zedtoken.StatusValid {
		if number, ok := decoded.Revision.(decimal); ok {
			return uint64(number), nil
		}
	}
	return 0, datastore.NewInvalidRevisionErr(datastore.NoRevision, datastore.CouldNotDetermineRevision)
}

// printed is Printed for Remote.
func (a *followedStore) printed(r authz.Revision) (string, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	number, err := a.numberLocked(r)
	if err != nil {
		return "", Failure("engine.Printed", err)
	}
	return authz.StoreRevision{Number: number, Store: a.id}.String(), nil
}

// reaches refuses a head that does not show revisions: one of another store, or one that this store has not made.
func (a *followedStore) reaches(head authz.Revision, bounds ...authz.Revision) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, bound := range bounds {
		wanted, err := a.numberLocked(bound)
		if err != nil {
			return Failure("engine.Snapshot", err)
		}
		if number, err := a.numberLocked(head); err != nil || number < wanted {
			return Failure("engine.Snapshot", datastore.NewInvalidRevisionErr(datastore.NoRevision, datastore.CouldNotDetermineRevision))
		}
	}
	return nil
}

// storeID is the id of the store that answered last.
func (a *followedStore) storeID() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.id
}
