package engine

import (
	"context"
	"fmt"
	"sync/atomic"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"github.com/authzed/spicedb/pkg/datastore"
	"github.com/authzed/spicedb/pkg/datastore/options"
	core "github.com/authzed/spicedb/pkg/proto/core/v1"
	"github.com/authzed/spicedb/pkg/tuple"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/deputyauth/deputy/pkg/authz"
)

// transaction is a transaction of a bounded datastore.
type transaction struct {
	boundedReader
	tx datastore.ReadWriteTransaction
	// loaded is what imports of the transaction have added to bounded.loading.
	loaded *load
}

// load is how much imports hold: relationships, and their size in bytes.
type load struct{ relationships, bytes atomic.Int64 }

// add adds to a load, and returns what it is then.
func (l *load) add(relationships, bytes int64) (int64, int64) {
	return l.relationships.Add(relationships), l.bytes.Add(bytes)
}

// do does something in the transaction that has no outcome but an error.
func (t *transaction) do(ctx context.Context, op string, do func(context.Context) error) error {
	_, err := ask(ctx, t.of, op, func(ctx context.Context) (struct{}, error) { return struct{}{}, do(ctx) })
	return err
}

// LegacyWriteCaveats is the datastore's.
func (t *transaction) LegacyWriteCaveats(ctx context.Context, caveats []*core.CaveatDefinition) error {
	return t.do(ctx, "datastore.WriteCaveats", func(ctx context.Context) error { return t.tx.LegacyWriteCaveats(ctx, caveats) })
}

// LegacyDeleteCaveats is the datastore's.
func (t *transaction) LegacyDeleteCaveats(ctx context.Context, names []string) error {
	return t.do(ctx, "datastore.DeleteCaveats", func(ctx context.Context) error { return t.tx.LegacyDeleteCaveats(ctx, names) })
}

// LegacyWriteNamespaces is the datastore's.
func (t *transaction) LegacyWriteNamespaces(ctx context.Context, types ...*core.NamespaceDefinition) error {
	return t.do(ctx, "datastore.WriteNamespaces", func(ctx context.Context) error { return t.tx.LegacyWriteNamespaces(ctx, types...) })
}

// LegacyDeleteNamespaces is the datastore's.
func (t *transaction) LegacyDeleteNamespaces(
	ctx context.Context, names []string, relationships datastore.DeleteNamespacesRelationshipsOption,
) error {
	return t.do(ctx, "datastore.DeleteNamespaces", func(ctx context.Context) error {
		return t.tx.LegacyDeleteNamespaces(ctx, names, relationships)
	})
}

// WriteStoredSchema is the datastore's.
func (t *transaction) WriteStoredSchema(ctx context.Context, schema *core.StoredSchema) error {
	return t.do(ctx, "datastore.WriteStoredSchema", func(ctx context.Context) error { return t.tx.WriteStoredSchema(ctx, schema) })
}

// RegisterCounter is the datastore's.
func (t *transaction) RegisterCounter(ctx context.Context, name string, filter *core.RelationshipFilter) error {
	return t.do(ctx, "datastore.RegisterCounter", func(ctx context.Context) error { return t.tx.RegisterCounter(ctx, name, filter) })
}

// UnregisterCounter is the datastore's.
func (t *transaction) UnregisterCounter(ctx context.Context, name string) error {
	return t.do(ctx, "datastore.UnregisterCounter", func(ctx context.Context) error { return t.tx.UnregisterCounter(ctx, name) })
}

// StoreCounterValue is the datastore's.
func (t *transaction) StoreCounterValue(ctx context.Context, name string, value int, at datastore.Revision) error {
	return t.do(ctx, "datastore.StoreCounterValue", func(ctx context.Context) error {
		return t.tx.StoreCounterValue(ctx, name, value, at)
	})
}

// WriteRelationships is the datastore's.
func (t *transaction) WriteRelationships(ctx context.Context, updates []tuple.RelationshipUpdate) error {
	return t.do(ctx, "datastore.WriteRelationships", func(ctx context.Context) error { return t.tx.WriteRelationships(ctx, updates) })
}

// DeleteRelationships is the datastore's.
func (t *transaction) DeleteRelationships(
	ctx context.Context, filter *v1.RelationshipFilter, opts ...options.DeleteOptionsOption,
) (deleted uint64, more bool, err error) {
	err = t.do(ctx, "datastore.DeleteRelationships", func(ctx context.Context) (err error) {
		deleted, more, err = t.tx.DeleteRelationships(ctx, filter, opts...)
		return err
	})
	return deleted, more, err
}

// BulkLoad is the datastore's, of a source that ends with an error where it is more than one import may hold.
func (t *transaction) BulkLoad(ctx context.Context, source datastore.BulkWriteRelationshipSource) (uint64, error) {
	return ask(ctx, t.of, "datastore.BulkLoad", func(ctx context.Context) (uint64, error) {
		return t.tx.BulkLoad(ctx, &measured{source: source, into: t})
	})
}

// measured is the source of an import.
type measured struct {
	source datastore.BulkWriteRelationshipSource
	into   *transaction
}

// Next is datastore.BulkWriteRelationshipSource's.
func (m *measured) Next(ctx context.Context) (*tuple.Relationship, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	rel, err := m.source.Next(ctx)
	if err != nil {
		return nil, callersError{err}
	}
	if rel == nil {
		return nil, nil //nolint:nilnil // that is how a source ends
	}
	size := int64(len(rel.Resource.ObjectType) + len(rel.Resource.ObjectID) + len(rel.Resource.Relation) +
		len(rel.Subject.ObjectType) + len(rel.Subject.ObjectID) + len(rel.Subject.Relation))
	if rel.OptionalCaveat != nil {
		size += int64(proto.Size(rel.OptionalCaveat))
	}
	limits := m.into.of.bounds
	relationships, bytes := m.into.loaded.add(1, size)
	allRelationships, allBytes := m.into.of.loading.add(1, size)
	if relationships > limits.imports || bytes > limits.importBytes {
		return nil, refusal(codes.ResourceExhausted, authz.ReasonEngineRefused, fmt.Sprintf(
			"one import holds at most %d relationships and %d MiB, because it is one transaction; nothing was written: split it into several calls",
			limits.imports, limits.importBytes>>20))
	}
	if allRelationships > limits.loads || allBytes > limits.loadBytes {
		return nil, refusal(codes.ResourceExhausted, authz.ReasonBusy, fmt.Sprintf(
			"the imports under way hold more than %d relationships or %d MiB together; nothing of this one was written: try again",
			limits.loads, limits.loadBytes>>20))
	}
	return rel, nil
}
