package engine

import (
	"cmp"
	"context"
	"slices"

	caveattypes "github.com/authzed/spicedb/pkg/caveats/types"
	"github.com/authzed/spicedb/pkg/datastore"
	"github.com/authzed/spicedb/pkg/datastore/options"
	core "github.com/authzed/spicedb/pkg/proto/core/v1"
	"github.com/authzed/spicedb/pkg/schemadsl/compiler"
	"github.com/authzed/spicedb/pkg/schemadsl/generator"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	"github.com/deputyauth/deputy/pkg/authz"
)

// expecting is a datastore whose transactions refuse to commit over another schema than the call that they
// belong to expects, see authz.MetadataExpectSchema, and which remove what a schema write drops, see dropping.
//
// SpiceDB's own options.WithSchemaHashPrecondition does not serve: the hash is one of the unified schema
// storage, which has no row in the schema mode that Deputy uses, and the data layer retries with the newest
// hash where the one that it was given has gone. So the definitions are read and compared in the transaction
// itself. Every datastore that the engine has serializes transactions, and runs the function anew in a new
// one after a conflict; so of two that expect the same schema, and change it, one is refused.
type expecting struct{ datastore.Datastore }

var _ datastore.UnwrappableDatastore = expecting{}

// Unwrap returns the datastore itself, for code that looks for what it can do besides.
func (e expecting) Unwrap() datastore.Datastore { return e.Datastore }

// ReadWriteTx is the datastore's. What the call expects comes with the metadata of the gRPC call that ctx
// belongs to.
func (e expecting) ReadWriteTx(ctx context.Context, fn datastore.TxUserFunc, opts ...options.RWTOptionsOption) (datastore.Revision, error) {
	expected := metadata.ValueFromIncomingContext(ctx, authz.MetadataExpectSchema)
	at, err := e.Datastore.ReadWriteTx(ctx, func(ctx context.Context, tx datastore.ReadWriteTransaction) error {
		if len(expected) > 0 {
			text, err := schemaText(ctx, tx)
			if err != nil {
				return err
			}
			if digest := authz.SchemaDigest(text); len(expected) != 1 || expected[0] != digest {
				return errSchemaMoved()
			}
		}
		d := &dropping{ReadWriteTransaction: tx}
		if err := fn(ctx, d); err != nil {
			return err
		}
		return d.finish(ctx)
	}, opts...)
	if err != nil || len(expected) == 0 {
		return at, err
	}
	// It reaches the caller as proof that somebody has looked. The write stands without it, too.
	_ = grpc.SetTrailer(ctx, metadata.Pairs(authz.MetadataSchemaGuard, authz.SchemaGuardLocked))
	return at, nil
}

// errSchemaMoved is FAILED_PRECONDITION, not ABORTED: Spanner's client runs a function that fails with
// ABORTED again, without end.
func errSchemaMoved() error {
	return refusal(codes.FailedPrecondition, authz.ReasonSchemaMoved, "the schema in force is not the one that this write expects; nothing was written")
}

// schemaText returns the schema's text as SpiceDB's ReadSchema does, or "" if there is none.
func schemaText(ctx context.Context, reader datastore.LegacySchemaReader) (string, error) {
	namespaces, err := reader.LegacyListAllNamespaces(ctx)
	if err != nil {
		return "", err
	}
	caveats, err := reader.LegacyListAllCaveats(ctx)
	if err != nil || len(namespaces) == 0 {
		return "", err
	}
	types := make([]*core.NamespaceDefinition, len(namespaces))
	for i, n := range namespaces {
		types[i] = n.Definition
	}
	conditions := make([]*core.CaveatDefinition, len(caveats))
	for i, c := range caveats {
		conditions[i] = c.Definition
	}
	return textOf(ctx, types, conditions)
}

// textOf returns the text of definitions.
func textOf(ctx context.Context, namespaces []*core.NamespaceDefinition, caveats []*core.CaveatDefinition) (string, error) {
	definitions := make([]compiler.SchemaDefinition, 0, len(namespaces)+len(caveats))
	for _, c := range caveats {
		definitions = append(definitions, c)
	}
	for _, n := range namespaces {
		definitions = append(definitions, n)
	}
	byName := func(a, b compiler.SchemaDefinition) int { return cmp.Compare(a.GetName(), b.GetName()) }
	slices.SortFunc(definitions[:len(caveats)], byName)
	slices.SortFunc(definitions[len(caveats):], byName)
	text, _, err := generator.GenerateSchemaWithCaveatTypeSet(ctx, definitions, caveattypes.Default.TypeSet)
	return text, err
}
