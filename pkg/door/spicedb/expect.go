package spicedb

import (
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	"github.com/deputyauth/deputy/pkg/authz"
)

// expectation sees to what a call expects of the schema in force, and returns the metadata that goes
// upstream with it. A caller that reads the schema is told how a write would be guarded, so that nobody sends an
// expectation to a server that would not understand it.
func (d *Door) expectation(r *route, down grpc.ServerStream) (metadata.MD, error) {
	md := d.forwarded(down.Context())
	if r.readsSchema {
		guard := authz.SchemaGuardChecked
		if d.cfg.ComparesSchema {
			guard = authz.SchemaGuardLocked
		}
		down.SetTrailer(metadata.Pairs(authz.MetadataSchemaGuard, guard))
	}
	expected, expects := md[authz.MetadataExpectSchema]
	switch {
	case !expects:
		return md, nil
	case r.guard == nil:
		// A read is right whatever the schema is.
		delete(md, authz.MetadataExpectSchema)
		return md, nil
	case !r.writesSchema:
		return nil, failure(codes.InvalidArgument, authz.ReasonInvalidField, authz.MetadataExpectSchema, "only WriteSchema can expect a schema")
	case len(expected) != 1:
		return nil, failure(codes.InvalidArgument, authz.ReasonInvalidField, authz.MetadataExpectSchema, "a write can expect one schema only")
	case d.cfg.ComparesSchema:
		return md, nil
	}
	schema, err := d.cfg.Schema(down.Context())
	if err != nil {
		return nil, schemaFailure(down.Context(), err)
	}
	if authz.SchemaDigest(schema.Text) != expected[0] {
		return nil, failure(codes.FailedPrecondition, authz.ReasonSchemaMoved, "",
			"the schema in force is not the one that this write expects; nothing was written")
	}
	down.SetTrailer(metadata.Pairs(authz.MetadataSchemaGuard, authz.SchemaGuardChecked))
	delete(md, authz.MetadataExpectSchema)
	return md, nil
}
