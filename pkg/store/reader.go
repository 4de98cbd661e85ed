package store

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/authzed/spicedb/pkg/datastore"
	"github.com/authzed/spicedb/pkg/datastore/options"
	core "github.com/authzed/spicedb/pkg/proto/core/v1"
	"github.com/authzed/spicedb/pkg/tuple"
	"google.golang.org/protobuf/proto"
)

// reader is a datastore.Reader. One without a transaction is safe for concurrent use.
type reader struct {
	view view
	// err is why nothing can be read.
	err error
	// turn is held by each call on a transaction; nil without one.
	turn *sync.Mutex
}

// take takes the turn, and returns what gives it back.
func (r *reader) take() (give func()) {
	if r.turn == nil {
		return func() {}
	}
	r.turn.Lock()
	return r.turn.Unlock
}

var _ datastore.Reader = (*reader)(nil)

// QueryRelationships is datastore.Reader's. The options that let a store skip caveats and expirations are
// ignored, see view.read.
func (r *reader) QueryRelationships(
	_ context.Context, f datastore.RelationshipsFilter, opts ...options.QueryOptionsOption,
) (datastore.RelationshipIterator, error) {
	o := options.NewQueryOptionsWithOptions(opts...)
	q := &query{
		resourceType: f.OptionalResourceType, resourceIDs: f.OptionalResourceIds, resourceIDPrefix: f.OptionalResourceIDPrefix,
		relation: f.OptionalResourceRelation, subjects: f.OptionalSubjectsSelectors,
		caveat: f.OptionalCaveatNameFilter, expiry: f.OptionalExpirationOption,
		order: o.Sort, after: o.After, before: o.BeforeOrEqual,
	}
	if o.Limit != nil {
		q.limit = *o.Limit
	}
	return r.iterate(q)
}

// ReverseQueryRelationships is datastore.Reader's; see QueryRelationships.
func (r *reader) ReverseQueryRelationships(
	_ context.Context, f datastore.SubjectsFilter, opts ...options.ReverseQueryOptionsOption,
) (datastore.RelationshipIterator, error) {
	o := options.NewReverseQueryOptionsWithOptions(opts...)
	q := &query{
		subjects: []datastore.SubjectsSelector{f.AsSelector()}, reverse: true,
		order: o.SortForReverse, after: o.AfterForReverse,
	}
	if o.ResRelation != nil {
		q.resourceType, q.relation = o.ResRelation.Namespace, o.ResRelation.Relation
	}
	if o.LimitForReverse != nil {
		q.limit = *o.LimitForReverse
	}
	return r.iterate(q)
}

// iterate returns the answer to a query, to be read once. What goes wrong is said while it is read.
func (r *reader) iterate(q *query) (datastore.RelationshipIterator, error) {
	defer r.take()()
	if r.err != nil {
		return nil, r.err
	}
	if err := q.checkCursor(); err != nil {
		return nil, err
	}
	return func(yield func(tuple.Relationship, error) bool) {
		defer r.take()()
		// A panic of the caller's own is the caller's.
		theirs, more := false, true
		defer func() {
			if theirs {
				return
			}
			if met := recover(); met != nil && more {
				yield(tuple.Relationship{}, r.view.store.panicked("reading", met))
			}
		}()
		if r.err != nil {
			yield(tuple.Relationship{}, r.err)
			return
		}
		r.view.run(q, func(rel tuple.Relationship, err error) bool {
			if r.turn != nil {
				// The function that takes the relationships may use the transaction.
				r.turn.Unlock()
				defer r.turn.Lock()
			}
			theirs = true
			more = yield(rel, err)
			theirs = false
			return more
		})
	}, nil
}

// LegacyReadNamespaceByName is datastore.LegacySchemaReader's.
func (r *reader) LegacyReadNamespaceByName(_ context.Context, name string) (*core.NamespaceDefinition, datastore.Revision, error) {
	defer r.take()()
	found, from, err := readRecord[core.NamespaceDefinition](r, kindNamespace, name)
	if err == nil && found == nil {
		err = datastore.NewNamespaceNotFoundErr(name)
	}
	return found, from, err
}

// LegacyListAllNamespaces is datastore.LegacySchemaReader's.
func (r *reader) LegacyListAllNamespaces(context.Context) ([]datastore.RevisionedNamespace, error) {
	defer r.take()()
	return listRecords[core.NamespaceDefinition](r, kindNamespace)
}

// LegacyLookupNamespacesWithNames is datastore.LegacySchemaReader's.
func (r *reader) LegacyLookupNamespacesWithNames(_ context.Context, names []string) ([]datastore.RevisionedNamespace, error) {
	defer r.take()()
	return lookupRecords[core.NamespaceDefinition](r, kindNamespace, names)
}

// LegacyReadCaveatByName is datastore.LegacySchemaReader's.
func (r *reader) LegacyReadCaveatByName(_ context.Context, name string) (*core.CaveatDefinition, datastore.Revision, error) {
	defer r.take()()
	found, from, err := readRecord[core.CaveatDefinition](r, kindCaveat, name)
	if err == nil && found == nil {
		err = datastore.NewCaveatNameNotFoundErr(name)
	}
	return found, from, err
}

// LegacyListAllCaveats is datastore.LegacySchemaReader's.
func (r *reader) LegacyListAllCaveats(context.Context) ([]datastore.RevisionedCaveat, error) {
	defer r.take()()
	return listRecords[core.CaveatDefinition](r, kindCaveat)
}

// LegacyLookupCaveatsWithNames is datastore.LegacySchemaReader's.
func (r *reader) LegacyLookupCaveatsWithNames(_ context.Context, names []string) ([]datastore.RevisionedCaveat, error) {
	defer r.take()()
	return lookupRecords[core.CaveatDefinition](r, kindCaveat, names)
}

// definition is a stored definition: a pointer to D that can be read from bytes.
type definition[D any] interface {
	*D
	datastore.SchemaDefinition
	UnmarshalVT(encoded []byte) error
}

// readRecord returns a definition, or nil if there is none.
func readRecord[D any, P definition[D]](r *reader, kind byte, name string) (read P, from datastore.Revision, err error) {
	if r.err != nil {
		return nil, datastore.NoRevision, r.err
	}
	defer r.view.store.shield("reading", &err)
	if err := checkComponent(name); err != nil {
		return nil, datastore.NoRevision, err
	}
	value, at, found, err := r.view.get(recordKey(kind, name))
	if err != nil || !found {
		return nil, datastore.NoRevision, err
	}
	read, err = decodeRecord[D, P](value)
	return read, writtenAt(at), err
}

// listRecords returns all definitions of a kind, by name.
func listRecords[D any, P definition[D]](r *reader, kind byte) (found []datastore.RevisionedDefinition[P], err error) {
	if r.err != nil {
		return nil, r.err
	}
	defer r.view.store.shield("reading", &err)
	err = r.view.walk([]span{under([]byte{kind}, true)}, time.Time{}, func(_ []byte, from Revision, value []byte) error {
		read, err := decodeRecord[D, P](value)
		found = append(found, datastore.RevisionedDefinition[P]{Definition: read, LastWrittenRevision: writtenAt(from)})
		return err
	})
	return found, err
}

// lookupRecords returns those of the named definitions that there are, by name.
func lookupRecords[D any, P definition[D]](r *reader, kind byte, names []string) ([]datastore.RevisionedDefinition[P], error) {
	names = slices.Compact(slices.Sorted(slices.Values(names)))
	found := make([]datastore.RevisionedDefinition[P], 0, len(names))
	for _, name := range names {
		read, from, err := readRecord[D, P](r, kind, name)
		if err != nil {
			return nil, err
		}
		if read != nil {
			found = append(found, datastore.RevisionedDefinition[P]{Definition: read, LastWrittenRevision: from})
		}
	}
	return found, nil
}

// decodeRecord reads a record's value: a byte of flags, as a row's, and the definition.
func decodeRecord[D any, P definition[D]](value []byte) (P, error) {
	read := P(new(D))
	if len(value) == 0 || read.UnmarshalVT(value[1:]) != nil {
		return nil, damaged("a malformed definition")
	}
	return read, nil
}

// marshal encodes a definition. Equal ones have equal encodings: writing the same again changes nothing.
func marshal(m proto.Message) ([]byte, error) {
	return proto.MarshalOptions{Deterministic: true}.Marshal(m)
}

// encodeRecord is the inverse of decodeRecord.
func encodeRecord(encoded []byte) []byte { return append([]byte{0}, encoded...) }

// writtenAt says where a record is from. What a transaction wrote itself is at no revision yet.
func writtenAt(from Revision) datastore.Revision {
	if from == 0 {
		return datastore.NoRevision
	}
	return from
}

// ReadStoredSchema is datastore.Reader's.
func (r *reader) ReadStoredSchema(context.Context) (_ *datastore.ReadOnlyStoredSchema, err error) {
	defer r.take()()
	if r.err != nil {
		return nil, r.err
	}
	defer r.view.store.shield("reading", &err)
	value, _, found, err := r.view.get(recordKey(kindSchema, ""))
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, datastore.ErrSchemaNotFound
	}
	read := &core.StoredSchema{}
	if len(value) == 0 || read.UnmarshalVT(value[1:]) != nil {
		return nil, damaged("a malformed schema")
	}
	return datastore.NewReadOnlyStoredSchemaWithSize(read, len(value)), nil
}

// schemaHash returns the hash of the stored schema, or "".
func (v *view) schemaHash() (string, error) {
	value, _, found, err := v.get(recordKey(kindSchemaHash, ""))
	if err != nil || !found || len(value) == 0 {
		return "", err
	}
	return string(value[1:]), nil
}

// CountRelationships is datastore.CounterReader's: it counts them.
func (r *reader) CountRelationships(_ context.Context, name string) (n int, err error) {
	defer r.take()()
	if r.err != nil {
		return 0, r.err
	}
	defer r.view.store.shield("counting", &err)
	c, found, err := r.counter(name)
	if err != nil {
		return 0, err
	}
	if !found {
		return 0, datastore.NewCounterNotRegisteredErr(name)
	}
	f, err := datastore.RelationshipsFilterFromCoreFilter(c.Filter)
	if err != nil {
		return 0, fmt.Errorf("store: counter %s: %w", name, err)
	}
	err = r.view.answer(&query{
		resourceType: f.OptionalResourceType, resourceIDs: f.OptionalResourceIds, resourceIDPrefix: f.OptionalResourceIDPrefix,
		relation: f.OptionalResourceRelation, subjects: f.OptionalSubjectsSelectors,
	}, func(tuple.Relationship) error { n++; return nil })
	return n, err
}

// LookupCounters is datastore.CounterReader's.
func (r *reader) LookupCounters(context.Context) (found []datastore.RelationshipCounter, err error) {
	defer r.take()()
	if r.err != nil {
		return nil, r.err
	}
	defer r.view.store.shield("reading", &err)
	err = r.view.walk([]span{under([]byte{kindCounter}, true)}, time.Time{}, func(key []byte, _ Revision, value []byte) error {
		c, err := decodeCounter(recordName(key), value)
		found = append(found, c)
		return err
	})
	return found, err
}

// counter returns a counter as it is stored.
func (r *reader) counter(name string) (c datastore.RelationshipCounter, found bool, err error) {
	if r.err != nil {
		return c, false, r.err
	}
	if err := checkComponent(name); err != nil {
		return c, false, err
	}
	value, _, found, err := r.view.get(recordKey(kindCounter, name))
	if err != nil || !found {
		return c, false, err
	}
	c, err = decodeCounter(name, value)
	return c, true, err
}

// A counter's value: a byte of flags, the revision that it was computed at (8 bytes; 0 if it never was),
// its count (a varint), its filter (a core.RelationshipFilter).
func encodeCounter(c datastore.RelationshipCounter) ([]byte, error) {
	filter, err := c.Filter.MarshalVT()
	if err != nil {
		return nil, fmt.Errorf("store: counter %s: %w", c.Name, err)
	}
	at, _ := c.ComputedAtRevision.(Revision)
	value := binary.BigEndian.AppendUint64([]byte{0}, uint64(at))
	value = binary.AppendVarint(value, int64(c.Count))
	return append(value, filter...), nil
}

func decodeCounter(name string, value []byte) (datastore.RelationshipCounter, error) {
	if len(value) < 9 {
		return datastore.RelationshipCounter{}, damaged("a malformed counter")
	}
	d := decoder{rest: value[9:]}
	c := datastore.RelationshipCounter{
		Name:               name,
		Count:              int(d.int()),
		Filter:             &core.RelationshipFilter{},
		ComputedAtRevision: writtenAt(Revision(binary.BigEndian.Uint64(value[1:]))),
	}
	if d.failed || c.Filter.UnmarshalVT(d.rest) != nil {
		return datastore.RelationshipCounter{}, damaged("a malformed counter")
	}
	return c, nil
}
