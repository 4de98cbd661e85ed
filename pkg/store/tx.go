package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"github.com/authzed/spicedb/pkg/datastore"
	"github.com/authzed/spicedb/pkg/datastore/options"
	core "github.com/authzed/spicedb/pkg/proto/core/v1"
	"github.com/authzed/spicedb/pkg/tuple"
	"google.golang.org/grpc/codes"

	"github.com/deputyauth/deputy/pkg/authz"
)

// maxAttempts is how often a transaction is tried, patientAttempts how often before it holds the commit
// slot, so that others wait for it.
const (
	maxAttempts     = 10
	patientAttempts = 3
)

// ReadWriteTx is datastore.Datastore's. Transactions are serializable: each behaves as if it ran alone at
// its revision. fn runs without any lock and may run again, after a conflict; it must not keep the
// transaction. Its own error is returned as it is. A transaction that wrote nothing takes no revision and
// returns the one that it read at.
//
// If ctx ends while the commit is under way, it is not known whether it took place.
func (s *Store) ReadWriteTx(ctx context.Context, fn datastore.TxUserFunc, opts ...options.RWTOptionsOption) (datastore.Revision, error) {
	config := options.NewRWTOptionsWithOptions(opts...)
	for attempt := 1; ; attempt++ {
		if attempt <= patientAttempts {
			if err := s.slot.pass(ctx); err != nil {
				return datastore.NoRevision, err
			}
		} else if attempt == patientAttempts+1 {
			// Held over all attempts that follow: between two of them the others would begin.
			release, err := s.slot.hold(ctx)
			if err != nil {
				return datastore.NoRevision, err
			}
			defer release()
		}
		at, err := s.try(ctx, fn, config)
		switch {
		case err == nil:
			return at, nil
		case !errors.Is(err, ErrConflict), config.DisableRetries, attempt == maxAttempts:
			return datastore.NoRevision, err
		case ctx.Err() != nil:
			return datastore.NoRevision, ctx.Err()
		}
	}
}

// try runs a transaction once.
func (s *Store) try(ctx context.Context, fn datastore.TxUserFunc, config *options.RWTOptions) (Revision, error) {
	return s.within(ctx, func(tx *transaction) error {
		if config.SchemaHashPrecondition != "" {
			if err := tx.checkSchemaHash(config.SchemaHashPrecondition); err != nil {
				return err
			}
		}
		return fn(ctx, tx)
	}, func(tx *transaction) (*proposal, error) { return tx.own.propose(config.Metadata, s.config.Narrows) })
}

// within begins a transaction, calls write in it, ends it, and commits what propose makes of it. Without writes it commits nothing, and returns the
// revision that the transaction has read at. Errors are those of write, propose and commit.
func (s *Store) within(ctx context.Context, write func(*transaction) error, propose func(*transaction) (*proposal, error)) (Revision, error) {
	tx, err := s.begin()
	if err != nil {
		return 0, err
	}
	// The commit takes the transaction's lease over.
	release := tx.lease.release
	defer func() {
		tx.finish()
		s.pending.Add(-int64(tx.counted))
		release()
	}()
	if err := write(tx); err != nil {
		return 0, err
	}
	tx.finish()
	if !tx.own.any {
		return tx.view.at, nil
	}
	p, err := propose(tx)
	if err != nil {
		return 0, err
	}
	release = func() {}
	return s.commit(ctx, tx, p)
}

// transaction is a datastore.ReadWriteTransaction. It is safe for concurrent use, one call after the
// other.
type transaction struct {
	mu sync.Mutex
	reader
	own   writes
	reads readSet
	lease *lease
	ended bool
	// counted is what of pending is the transaction's.
	counted int
}

// account counts what the transaction holds, and refuses what is too much: for one, or for all of them together.
func (tx *transaction) account() error {
	s := tx.view.store
	held := s.pending.Add(int64(tx.own.size - tx.counted))
	tx.counted = tx.own.size
	switch limit := int64(s.config.TransactionBytes); { //nolint:gosec // far below
	case int64(tx.counted) > limit:
		return tooLarge(s.config.TransactionBytes)
	case held > maxTransactions*limit:
		return &refused{code: codes.ResourceExhausted, reason: authz.ReasonBusy, message: fmt.Sprintf(
			"the transactions under way hold %d MiB, and may hold no more; try again when some have ended, or write less at once",
			maxTransactions*limit>>20)}
	default:
		return nil
	}
}

// maxTransactions is how many transactions of the largest size may be under way at once.
const maxTransactions = 4

var _ datastore.ReadWriteTransaction = (*transaction)(nil)

// begin begins a transaction at the head.
func (s *Store) begin() (*transaction, error) {
	if err := s.enter(); err != nil {
		return nil, err
	}
	defer s.leave()
	tx := &transaction{
		own:   writes{byKey: map[string]*write{}},
		reads: readSet{keys: map[string]struct{}{}},
	}
	tx.turn = &tx.mu
	tx.lease = s.leases.takeHead(s)
	tx.view = view{store: s, at: tx.lease.at, now: tx.lease.now, own: &tx.own, reads: &tx.reads, lease: tx.lease}
	return tx, nil
}

// finish ends a transaction's reads and writes. Calls after the first do nothing.
func (tx *transaction) finish() {
	tx.mu.Lock()
	defer tx.mu.Unlock()
	if !tx.ended {
		tx.ended = true
		tx.view.close()
		tx.err = errors.New("store: the transaction has ended")
	}
}

// checkSchemaHash refuses a transaction whose caller knows another schema.
func (tx *transaction) checkSchemaHash(expected string) error {
	tx.mu.Lock()
	defer tx.mu.Unlock()
	hash, err := tx.view.schemaHash()
	switch {
	case err != nil:
		return err
	case hash == "":
		return datastore.ErrSchemaNotFound
	case hash != expected:
		return datastore.ErrSchemaHashPreconditionFailed
	default:
		return nil
	}
}

// exclusively runs fn unless the transaction has ended.
func (tx *transaction) exclusively(fn func() error) (err error) {
	tx.mu.Lock()
	defer tx.mu.Unlock()
	if tx.err != nil {
		return tx.err
	}
	defer tx.view.store.shield("writing", &err)
	if err := tx.view.store.checkOpen(tx.lease); err != nil {
		return err
	}
	tx.own.any = true
	return fn()
}

// WriteRelationships is datastore.ReadWriteTransaction's.
func (tx *transaction) WriteRelationships(_ context.Context, mutations []tuple.RelationshipUpdate) error {
	return tx.exclusively(func() error {
		for _, m := range mutations {
			r, err := rowOf(m.Relationship.RelationshipReference)
			if err != nil {
				return err
			}
			if err := tx.mutate(m.Operation, r, r.forward(), m.Relationship); err != nil {
				return err
			}
		}
		return nil
	})
}

// mutate applies one update.
func (tx *transaction) mutate(op tuple.UpdateOperation, r row, key []byte, rel tuple.Relationship) error {
	there, found, exists, err := tx.view.exists(key)
	if err != nil {
		return err
	}
	switch op {
	case tuple.UpdateOperationCreate:
		if exists {
			tx.reads.point(key)
			existing := tuple.Relationship{RelationshipReference: rel.RelationshipReference}
			return datastore.NewCreateRelationshipExistsError(&existing)
		}
	case tuple.UpdateOperationDelete:
		if !found {
			tx.reads.point(key)
			return nil
		}
		tx.own.set(key, true, r, gone, there, true)
		return tx.account()
	case tuple.UpdateOperationTouch:
	default:
		return fmt.Errorf("store: unknown operation %v", op)
	}
	value, err := appendValue(nil, rel)
	if err != nil {
		return err
	}
	tx.own.set(key, true, r, value, there, found)
	return tx.account()
}

// DeleteRelationships is datastore.ReadWriteTransaction's. Relationships that have expired are deleted and counted too, as
// by SpiceDB's own datastores; under a limit only as far as it leaves room beside the others.
func (tx *transaction) DeleteRelationships(
	_ context.Context, filter *v1.RelationshipFilter, opts ...options.DeleteOptionsOption,
) (deleted uint64, limited bool, err error) {
	o := options.NewDeleteOptionsWithOptionsAndDefaults(opts...)
	err = tx.exclusively(func() error {
		var limit uint64
		if o.DeleteLimit != nil {
			limit = *o.DeleteLimit
		}
		deleted, limited, err = tx.deleteMatching(filter, limit)
		return err
	})
	return deleted, limited, err
}

func (tx *transaction) deleteMatching(filter *v1.RelationshipFilter, limit uint64) (deleted uint64, limited bool, err error) {
	if err := filter.Validate(); err != nil {
		return 0, false, err
	}
	f, err := datastore.RelationshipsFilterFromPublicFilter(filter)
	if err != nil {
		return 0, false, err
	}
	q := &query{
		resourceType: f.OptionalResourceType, resourceIDs: f.OptionalResourceIds, resourceIDPrefix: f.OptionalResourceIDPrefix,
		relation: f.OptionalResourceRelation, subjects: f.OptionalSubjectsSelectors, expired: true,
	}
	room := tx.view.store.config.TransactionBytes / writeBytes
	var found, expired []tuple.RelationshipReference
	if err := tx.view.answer(q, func(rel tuple.Relationship) error {
		// Nobody sees what has expired, so it never makes a delete too large: of that as many go as there is room for.
		if !tx.view.hasExpired(rel.OptionalExpiration) {
			found = append(found, rel.RelationshipReference)
		} else if uint64(len(expired)) < room && (limit == 0 || uint64(len(expired)) < limit) {
			expired = append(expired, rel.RelationshipReference)
		}
		switch {
		case uint64(len(found)) > room:
			return tooLarge(tx.view.store.config.TransactionBytes)
		case limit > 0 && uint64(len(found)) == limit:
			return errStop
		default:
			return nil
		}
	}); err != nil {
		return 0, false, err
	}
	limited = limit > 0 && uint64(len(found)) == limit
	if limit > 0 {
		room = min(room, limit)
	}
	expired = expired[:min(uint64(len(expired)), room-uint64(len(found)))]
	for i, ref := range append(found, expired...) {
		r, err := rowOf(ref)
		if err != nil {
			return 0, false, err
		}
		key := r.forward()
		if i >= len(found) && uint64(tx.own.size)+writeBytes+3*uint64(len(key)) > tx.view.store.config.TransactionBytes { //nolint:gosec // a size
			break
		}
		if err := tx.mutate(tuple.UpdateOperationDelete, r, key, tuple.Relationship{}); err != nil {
			return 0, false, err
		}
		deleted++
	}
	return deleted, limited, nil
}

// BulkLoad is datastore.ReadWriteTransaction's: every relationship is created, and one that exists fails
// the load; see view.exists.
func (tx *transaction) BulkLoad(ctx context.Context, source datastore.BulkWriteRelationshipSource) (loaded uint64, err error) {
	err = tx.exclusively(func() error {
		l := &load{tx: tx}
		for {
			rel, err := source.Next(ctx)
			if err != nil {
				return err
			}
			if rel == nil {
				loaded = l.count
				return l.flush()
			}
			if err := l.add(rel); err != nil {
				return err
			}
			if err := ctx.Err(); err != nil {
				return err
			}
		}
	})
	if err != nil {
		return 0, err
	}
	return loaded, nil
}

// load is a bulk load: relationships are looked up some thousand at a time, in the order of their keys.
type load struct {
	tx    *transaction
	batch []loading
	size  int
	count uint64
}

// loading is a relationship on its way.
type loading struct {
	key   []byte
	row   row
	value []byte
}

// loadSize is how many relationships are looked up at a time, unless their values take more than loadBytes before.
const loadSize, loadBytes = 4096, 4 << 20

// add takes a relationship. The source may use its memory again.
func (l *load) add(rel *tuple.Relationship) error {
	r, err := rowOf(rel.RelationshipReference)
	if err != nil {
		return err
	}
	value, err := appendValue(nil, *rel)
	if err != nil {
		return err
	}
	l.batch = append(l.batch, loading{r.forward(), r, value})
	l.count++
	l.size += len(value)
	if len(l.batch) < loadSize && l.size < loadBytes {
		return nil
	}
	return l.flush()
}

// flush creates what was taken.
func (l *load) flush() error {
	slices.SortFunc(l.batch, func(a, b loading) int { return bytes.Compare(a.key, b.key) })
	for _, in := range l.batch {
		there, found, exists, err := l.tx.view.exists(in.key)
		if err != nil {
			return err
		}
		if exists {
			existing := tuple.Relationship{RelationshipReference: in.row.reference()}
			return datastore.NewCreateRelationshipExistsError(&existing)
		}
		l.tx.own.set(in.key, true, in.row, in.value, there, found)
	}
	l.batch, l.size = l.batch[:0], 0
	return l.tx.account()
}

// setRecord writes a record.
func (tx *transaction) setRecord(kind byte, name string, value []byte) error {
	if err := checkComponent(name); err != nil {
		return err
	}
	key := recordKey(kind, name)
	before, _, found, err := tx.view.get(key)
	if err != nil {
		return err
	}
	tx.own.set(key, false, row{}, value, before, found)
	return tx.account()
}

// LegacyWriteNamespaces is datastore.LegacySchemaWriter's.
func (tx *transaction) LegacyWriteNamespaces(_ context.Context, definitions ...*core.NamespaceDefinition) error {
	return tx.exclusively(func() error {
		for _, d := range definitions {
			encoded, err := marshal(d)
			if err != nil {
				return fmt.Errorf("store: definition %s: %w", d.GetName(), err)
			}
			if err := tx.setRecord(kindNamespace, d.GetName(), encodeRecord(encoded)); err != nil {
				return err
			}
		}
		return nil
	})
}

// LegacyDeleteNamespaces is datastore.LegacySchemaWriter's.
func (tx *transaction) LegacyDeleteNamespaces(
	_ context.Context, names []string, option datastore.DeleteNamespacesRelationshipsOption,
) error {
	if len(names) == 0 {
		return nil
	}
	return tx.exclusively(func() error {
		for _, name := range names {
			if _, _, found, err := tx.view.get(recordKey(kindNamespace, name)); err != nil {
				return err
			} else if !found {
				return datastore.NewNamespaceNotFoundErr(name)
			}
			if err := tx.setRecord(kindNamespace, name, gone); err != nil {
				return err
			}
			if option == datastore.DeleteNamespacesAndRelationships {
				if _, _, err := tx.deleteMatching(&v1.RelationshipFilter{ResourceType: name}, 0); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// LegacyWriteCaveats is datastore.LegacySchemaWriter's.
func (tx *transaction) LegacyWriteCaveats(_ context.Context, definitions []*core.CaveatDefinition) error {
	return tx.exclusively(func() error {
		seen := map[string]bool{}
		for _, d := range definitions {
			if seen[d.GetName()] {
				return fmt.Errorf("store: caveat %s is written twice at once", d.GetName())
			}
			seen[d.GetName()] = true
			encoded, err := marshal(d)
			if err != nil {
				return fmt.Errorf("store: caveat %s: %w", d.GetName(), err)
			}
			if err := tx.setRecord(kindCaveat, d.GetName(), encodeRecord(encoded)); err != nil {
				return err
			}
		}
		return nil
	})
}

// LegacyDeleteCaveats is datastore.LegacySchemaWriter's.
func (tx *transaction) LegacyDeleteCaveats(_ context.Context, names []string) error {
	return tx.exclusively(func() error {
		for _, name := range names {
			if err := tx.setRecord(kindCaveat, name, gone); err != nil {
				return err
			}
		}
		return nil
	})
}

// WriteStoredSchema is datastore.ReadWriteTransaction's.
func (tx *transaction) WriteStoredSchema(_ context.Context, schema *core.StoredSchema) error {
	return tx.exclusively(func() error {
		encoded, err := marshal(schema)
		if err != nil {
			return fmt.Errorf("store: the schema: %w", err)
		}
		if err := tx.setRecord(kindSchema, "", encodeRecord(encoded)); err != nil {
			return err
		}
		// A schema without a hash takes the hash of the one before with it.
		hash := gone
		if h := schema.GetV1().GetSchemaHash(); h != "" {
			hash = encodeRecord([]byte(h))
		}
		return tx.setRecord(kindSchemaHash, "", hash)
	})
}

// RegisterCounter is datastore.CounterRegisterer's.
func (tx *transaction) RegisterCounter(_ context.Context, name string, filter *core.RelationshipFilter) error {
	return tx.exclusively(func() error {
		_, found, err := tx.counter(name)
		if err != nil {
			return err
		}
		if found {
			return datastore.NewCounterAlreadyRegisteredErr(name, filter)
		}
		return tx.setCounter(datastore.RelationshipCounter{Name: name, Filter: filter})
	})
}

// UnregisterCounter is datastore.CounterRegisterer's.
func (tx *transaction) UnregisterCounter(_ context.Context, name string) error {
	return tx.exclusively(func() error {
		_, found, err := tx.counter(name)
		if err != nil {
			return err
		}
		if !found {
			return datastore.NewCounterNotRegisteredErr(name)
		}
		return tx.setRecord(kindCounter, name, gone)
	})
}

// StoreCounterValue is datastore.CounterRegisterer's.
func (tx *transaction) StoreCounterValue(_ context.Context, name string, value int, computedAt datastore.Revision) error {
	return tx.exclusively(func() error {
		c, found, err := tx.counter(name)
		if err != nil {
			return err
		}
		if !found {
			return datastore.NewCounterNotRegisteredErr(name)
		}
		c.Count, c.ComputedAtRevision = value, computedAt
		return tx.setCounter(c)
	})
}

func (tx *transaction) setCounter(c datastore.RelationshipCounter) error {
	value, err := encodeCounter(c)
	if err != nil {
		return err
	}
	return tx.setRecord(kindCounter, c.Name, value)
}

// slot lets a transaction that conflicted again and again go alone. It is a courtesy, not a lock: what is
// right is decided at the commit, and a holder that takes too long is passed.
type slot struct {
	mu     sync.Mutex
	holder chan struct{} // closed when the holder is done; nil if there is none
}

// slotPatience is how long others wait for a transaction that holds the slot.
const slotPatience = 2 * time.Second

// hold waits until the slot is free, within patience, and takes it.
func (s *slot) hold(ctx context.Context) (release func(), err error) {
	patience := time.NewTimer(slotPatience)
	defer patience.Stop()
	for {
		s.mu.Lock()
		holder := s.holder
		if holder == nil {
			mine := make(chan struct{})
			s.holder = mine
			s.mu.Unlock()
			return func() {
				s.mu.Lock()
				s.holder = nil
				s.mu.Unlock()
				close(mine)
			}, nil
		}
		s.mu.Unlock()
		select {
		case <-holder:
		case <-patience.C:
			return func() {}, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// pass waits while another transaction holds the slot, within patience.
func (s *slot) pass(ctx context.Context) error {
	s.mu.Lock()
	holder := s.holder
	s.mu.Unlock()
	if holder == nil {
		return nil
	}
	patience := time.NewTimer(slotPatience)
	defer patience.Stop()
	select {
	case <-holder:
	case <-patience.C:
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}
