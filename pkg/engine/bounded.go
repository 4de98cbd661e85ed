package engine

import (
	"context"
	"time"

	"github.com/authzed/spicedb/pkg/datastore"
	"github.com/authzed/spicedb/pkg/datastore/options"
	core "github.com/authzed/spicedb/pkg/proto/core/v1"
	"github.com/authzed/spicedb/pkg/tuple"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/schema"
)

// bounded is a datastore that works for nobody who has left, and that no call can wear out:
//
//   - It does nothing for a context that has ended, and stops in the middle of a read. SpiceDB's walks look at their
//     contexts nowhere else, and most datastores not at all: memdb and pkg/store answer at once, and SpiceDB's own
//     proxy takes deadlines and cancellation away before they reach a database.
//   - It counts what a call reads; see call.
//   - Over a database it gives up in time where there is no answer; see patience.
//   - A panic of the datastore becomes an error, in whichever goroutine SpiceDB asks it.
//
// So what remains in SpiceDB that can end the process is a panic of SpiceDB's own code in a goroutine of its own:
// those that walk the graph (dispatch of checks, lookups and expansions, over a schema that was compiled and
// relationships that were validated when they were written), and those that shut down. What callers send reaches
// them only after SpiceDB's handlers have validated it, in the handler's own goroutine, where gate recovers.
type bounded struct {
	datastore.Datastore
	bounds *bounds
	// loading is what the imports under way hold.
	loading *load
	// patience bounds what is asked of a database; nil for a datastore in this process.
	patience *patience
	// complaints keeps failures that every call meets from filling the log.
	complaints *authz.Seldom
	log        *zap.Logger
}

var _ datastore.UnwrappableDatastore = (*bounded)(nil)

// Unwrap returns the datastore itself, for code that looks for what it can do besides.
func (b *bounded) Unwrap() datastore.Datastore { return b.Datastore }

// panicked is deferred, and turns a panic of the datastore into the function's error.
func (b *bounded) panicked(op string, err *error) {
	if p := recover(); p != nil {
		*err = b.failed(op, p)
	}
}

// failed logs a panic and returns the error that stands for it.
func (b *bounded) failed(op string, panicked any) error {
	b.log.Error("the datastore panicked", zap.Error(authz.Panicked(op, panicked)))
	return refusal(codes.Internal, "INTERNAL", messageInternal)
}

// ask asks the datastore for one thing.
func ask[T any](ctx context.Context, b *bounded, op string, do func(context.Context) (T, error)) (T, error) {
	var none T
	if err := ctx.Err(); err != nil {
		return none, err
	}
	guarded := func(ctx context.Context) (out T, err error) {
		defer b.panicked(op, &err)
		out, err = do(ctx)
		return out, b.told(ctx, err)
	}
	if b.patience == nil {
		return guarded(ctx)
	}
	return wait(ctx, b.patience, guarded)
}

// UniqueID is the datastore's.
func (b *bounded) UniqueID(ctx context.Context) (string, error) {
	return ask(ctx, b, "datastore.UniqueID", b.Datastore.UniqueID)
}

// HeadRevision is the datastore's.
func (b *bounded) HeadRevision(ctx context.Context) (datastore.RevisionWithSchemaHash, error) {
	return ask(ctx, b, "datastore.HeadRevision", b.Datastore.HeadRevision)
}

// OptimizedRevision is the datastore's.
func (b *bounded) OptimizedRevision(ctx context.Context) (datastore.RevisionWithSchemaHash, error) {
	return ask(ctx, b, "datastore.OptimizedRevision", b.Datastore.OptimizedRevision)
}

// CheckRevision is the datastore's.
func (b *bounded) CheckRevision(ctx context.Context, revision datastore.Revision) error {
	_, err := ask(ctx, b, "datastore.CheckRevision", func(ctx context.Context) (struct{}, error) {
		return struct{}{}, b.Datastore.CheckRevision(ctx, revision)
	})
	return err
}

// Features is the datastore's.
func (b *bounded) Features(ctx context.Context) (*datastore.Features, error) {
	return ask(ctx, b, "datastore.Features", b.Datastore.Features)
}

// Statistics is the datastore's.
func (b *bounded) Statistics(ctx context.Context) (datastore.Stats, error) {
	return ask(ctx, b, "datastore.Statistics", b.Datastore.Statistics)
}

// ReadyState is the datastore's.
func (b *bounded) ReadyState(ctx context.Context) (datastore.ReadyState, error) {
	return ask(ctx, b, "datastore.ReadyState", b.Datastore.ReadyState)
}

// SnapshotReader is the datastore's.
func (b *bounded) SnapshotReader(revision datastore.Revision) datastore.Reader {
	return &boundedReader{b.Datastore.SnapshotReader(revision), b}
}

// ReadWriteTx is the datastore's. It runs in the caller's goroutine: no datastore takes away the context's end from
// a transaction. A database may take as long to begin one, and to end it, as it may take to answer.
func (b *bounded) ReadWriteTx(
	ctx context.Context, fn datastore.TxUserFunc, opts ...options.RWTOptionsOption,
) (at datastore.Revision, err error) {
	if err := ctx.Err(); err != nil {
		return datastore.NoRevision, err
	}
	defer b.panicked("datastore.ReadWriteTx", &err)
	// Within a transaction everything is asked of the one connection that it has, one after the other.
	inside := &bounded{Datastore: b.Datastore, bounds: b.bounds, loading: b.loading, complaints: b.complaints, log: b.log}
	var loaded load
	defer func() { b.loading.add(-loaded.relationships.Load(), -loaded.bytes.Load()) }()
	limited, over := ctx, (*time.Timer)(nil)
	if b.patience != nil {
		var cancel context.CancelFunc
		limited, cancel = context.WithCancel(ctx)
		defer cancel()
		over = time.AfterFunc(b.patience.limit, cancel)
		defer over.Stop()
	}
	at, err = b.Datastore.ReadWriteTx(limited, func(ctx context.Context, tx datastore.ReadWriteTransaction) error {
		if over != nil {
			over.Stop()
			defer over.Reset(b.patience.limit)
		}
		if err := fn(ctx, &transaction{boundedReader{tx, inside}, tx, &loaded}); err != nil {
			return callersError{err}
		}
		return nil
	}, opts...)
	return at, b.told(ctx, err)
}

// callersError is one with which the caller of a transaction ends it, or the source of an import: SpiceDB's own, or one that was
// told already.
type callersError struct{ error }

// Unwrap is the error itself, which datastores look for what they try again.
func (e callersError) Unwrap() error { return e.error }

// Watch is the datastore's.
func (b *bounded) Watch(
	ctx context.Context, after datastore.Revision, watch datastore.WatchOptions,
) (<-chan datastore.RevisionChanges, <-chan error) {
	changes, failed := b.Datastore.Watch(ctx, after, watch)
	told := make(chan error, 1)
	go func() {
		defer close(told)
		_ = authz.Safely("engine.Watch", func() error {
			// A datastore says why it ends, once. Not all close the channel then: those that refuse at once leave it open.
			select {
			case err, isError := <-failed:
				if isError {
					told <- b.told(ctx, err)
				}
			case <-ctx.Done():
			}
			return nil
		})
	}()
	return changes, told
}

// boundedReader is a reader of a bounded datastore.
type boundedReader struct {
	datastore.Reader
	of *bounded
}

// QueryRelationships is the datastore's.
func (r *boundedReader) QueryRelationships(
	ctx context.Context, filter datastore.RelationshipsFilter, opts ...options.QueryOptionsOption,
) (datastore.RelationshipIterator, error) {
	return r.of.rows(ctx, "datastore.QueryRelationships", func(ctx context.Context) (datastore.RelationshipIterator, error) {
		return r.Reader.QueryRelationships(ctx, filter, opts...)
	})
}

// ReverseQueryRelationships is the datastore's.
func (r *boundedReader) ReverseQueryRelationships(
	ctx context.Context, filter datastore.SubjectsFilter, opts ...options.ReverseQueryOptionsOption,
) (datastore.RelationshipIterator, error) {
	return r.of.rows(ctx, "datastore.ReverseQueryRelationships", func(ctx context.Context) (datastore.RelationshipIterator, error) {
		return r.Reader.ReverseQueryRelationships(ctx, filter, opts...)
	})
}

// revisioned is a definition with the revision that it was written at.
type revisioned[T any] struct {
	definition T
	at         datastore.Revision
}

// known refuses a definition that holds what is not known. SpiceDB reads the definitions that it evaluates one by one or by their
// names, and would leave such a part out where a newer one has stored it. All definitions at once it reads to show or to replace
// them, so that one which is not known can be mended.
func known(definition *core.NamespaceDefinition) error {
	if _, err := schema.Read([]*core.NamespaceDefinition{definition}); err != nil {
		return refusal(codes.FailedPrecondition, authz.ReasonEngineRefused, err.Error())
	}
	return nil
}

// LegacyReadNamespaceByName is the datastore's.
func (r *boundedReader) LegacyReadNamespaceByName(ctx context.Context, name string) (*core.NamespaceDefinition, datastore.Revision, error) {
	out, err := ask(ctx, r.of, "datastore.ReadNamespace", func(ctx context.Context) (out revisioned[*core.NamespaceDefinition], err error) {
		if out.definition, out.at, err = r.Reader.LegacyReadNamespaceByName(ctx, name); err == nil {
			err = known(out.definition)
		}
		return out, err
	})
	return out.definition, out.at, err
}

// LegacyReadCaveatByName is the datastore's.
func (r *boundedReader) LegacyReadCaveatByName(ctx context.Context, name string) (*core.CaveatDefinition, datastore.Revision, error) {
	out, err := ask(ctx, r.of, "datastore.ReadCaveat", func(ctx context.Context) (out revisioned[*core.CaveatDefinition], err error) {
		out.definition, out.at, err = r.Reader.LegacyReadCaveatByName(ctx, name)
		return out, err
	})
	return out.definition, out.at, err
}

// LegacyListAllNamespaces is the datastore's.
func (r *boundedReader) LegacyListAllNamespaces(ctx context.Context) ([]datastore.RevisionedNamespace, error) {
	return ask(ctx, r.of, "datastore.ListNamespaces", r.Reader.LegacyListAllNamespaces)
}

// LegacyListAllCaveats is the datastore's.
func (r *boundedReader) LegacyListAllCaveats(ctx context.Context) ([]datastore.RevisionedCaveat, error) {
	return ask(ctx, r.of, "datastore.ListCaveats", r.Reader.LegacyListAllCaveats)
}

// LegacyLookupNamespacesWithNames is the datastore's.
func (r *boundedReader) LegacyLookupNamespacesWithNames(ctx context.Context, names []string) ([]datastore.RevisionedNamespace, error) {
	return ask(ctx, r.of, "datastore.LookupNamespaces", func(ctx context.Context) ([]datastore.RevisionedNamespace, error) {
		found, err := r.Reader.LegacyLookupNamespacesWithNames(ctx, names)
		for i := 0; err == nil && i < len(found); i++ {
			err = known(found[i].Definition)
		}
		return found, err
	})
}

// LegacyLookupCaveatsWithNames is the datastore's.
func (r *boundedReader) LegacyLookupCaveatsWithNames(ctx context.Context, names []string) ([]datastore.RevisionedCaveat, error) {
	return ask(ctx, r.of, "datastore.LookupCaveats", func(ctx context.Context) ([]datastore.RevisionedCaveat, error) {
		return r.Reader.LegacyLookupCaveatsWithNames(ctx, names)
	})
}

// ReadStoredSchema is the datastore's.
func (r *boundedReader) ReadStoredSchema(ctx context.Context) (*datastore.ReadOnlyStoredSchema, error) {
	return ask(ctx, r.of, "datastore.ReadStoredSchema", r.Reader.ReadStoredSchema)
}

// LookupCounters is the datastore's.
func (r *boundedReader) LookupCounters(ctx context.Context) ([]datastore.RelationshipCounter, error) {
	return ask(ctx, r.of, "datastore.LookupCounters", r.Reader.LookupCounters)
}

// CountRelationships is the datastore's.
func (r *boundedReader) CountRelationships(ctx context.Context, name string) (int, error) {
	return ask(ctx, r.of, "datastore.CountRelationships", func(ctx context.Context) (int, error) {
		return r.Reader.CountRelationships(ctx, name)
	})
}

// rowsPerLook is after how many rows a read looks whether its call still wants them.
const rowsPerLook = 64

// rows reads relationships.
func (b *bounded) rows(
	ctx context.Context, op string, open func(context.Context) (datastore.RelationshipIterator, error),
) (datastore.RelationshipIterator, error) {
	record := callOf(ctx)
	if err := record.read(); err != nil {
		return nil, err
	}
	guarded := func(ctx context.Context) (found datastore.RelationshipIterator, err error) {
		defer b.panicked(op, &err)
		if found, err = open(ctx); err != nil {
			return nil, b.told(ctx, err)
		}
		return b.steps(ctx, op, found), nil
	}
	var each datastore.RelationshipIterator
	if b.patience != nil {
		// It is opened when it is first read, because a driver's iterator may go on with the context that it was opened with.
		each = b.patience.steps(ctx, guarded)
	} else {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		var err error
		if each, err = guarded(ctx); err != nil {
			return nil, err
		}
	}
	return func(yield func(tuple.Relationship, error) bool) {
		if err := ctx.Err(); err != nil {
			yield(tuple.Relationship{}, err)
			return
		}
		n := 0
		for rel, err := range each {
			if n++; err == nil && n%rowsPerLook == 0 {
				if err = ctx.Err(); err == nil {
					err = record.row(rowsPerLook)
				}
			}
			if !yield(rel, err) || err != nil {
				return
			}
		}
		if err := ctx.Err(); err != nil {
			// An iterator that ends because its call did must not read as one that has come to its end.
			yield(tuple.Relationship{}, err)
			return
		}
		_ = record.row(int64(n % rowsPerLook)) // where that is too much, the next read is refused
	}, nil
}

// steps is an iterator of the datastore whose panics become its error. Those of the loop over it stay the loop's.
func (b *bounded) steps(ctx context.Context, op string, found datastore.RelationshipIterator) datastore.RelationshipIterator {
	return func(yield func(tuple.Relationship, error) bool) {
		inside, over := false, false
		defer func() {
			if inside {
				return
			}
			if p := recover(); p != nil {
				if err := b.failed(op, p); !over {
					yield(tuple.Relationship{}, err)
				}
			}
		}()
		found(func(rel tuple.Relationship, err error) bool {
			inside = true
			goOn := yield(rel, b.told(ctx, err))
			inside, over = false, !goOn
			return goOn
		})
	}
}
