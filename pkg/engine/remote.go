package engine

import (
	"context"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/deputyauth/deputy/pkg/authz"
)

// remoteSnapshot pins a revision of a SpiceDB that runs elsewhere.
func (e *Engine) remoteSnapshot(ctx context.Context, f authz.Freshness) (authz.Snapshot, error) {
	var (
		token  authz.Revision
		schema *authz.Schema
		err    error
	)
	switch {
	case !f.Exactly.IsZero():
		token = f.Exactly
		_, schema, err = e.remoteSchema(ctx)
	case f.Stale:
		if token, err = e.remoteStale(ctx, f.AtLeast); err == nil {
			_, schema, err = e.remoteSchema(ctx)
		}
	default:
		token, schema, err = e.remoteHead(ctx, f.AtLeast)
	}
	if err != nil {
		return nil, err
	}
	s := e.at(token)
	s.schema = schema
	return s, nil
}

// remoteHead takes the head revision together with the schema at it.
//
// SpiceDB shares a head look-up between callers, so that a look-up may return what was the head before
// it was asked for. A look-up that starts after another has returned cannot join anything that began
// before that one ended. So after a write, or with a lower bound that somebody was given, one look-up
// is made and thrown away before the one that counts.
func (e *Engine) remoteHead(ctx context.Context, atLeast authz.Revision) (authz.Revision, *authz.Schema, error) {
	e.mu.Lock()
	written, covered := e.written, e.seen >= e.written
	e.mu.Unlock()
	if !covered || !atLeast.IsZero() {
		if _, _, err := e.remoteSchema(ctx); err != nil {
			return authz.Revision{}, nil, err
		}
		e.mu.Lock()
		e.seen = max(e.seen, written)
		e.mu.Unlock()
	}
	return e.remoteSchema(ctx)
}

// remoteSchema reads the schema at the head revision.
func (e *Engine) remoteSchema(ctx context.Context) (authz.Revision, *authz.Schema, error) {
	resp, err := v1.NewSchemaServiceClient(e.conn).ReadSchema(ctx, &v1.ReadSchemaRequest{})
	if status.Code(err) == codes.NotFound {
		// Nothing has been written yet.
		return authz.Revision{}, &authz.Schema{CoreDifference: NoSchema}, nil
	}
	if err != nil {
		return authz.Revision{}, nil, failure("engine.Schema", err)
	}
	schema, err := e.models.get(resp.GetSchemaText(), func() (*authz.Schema, error) {
		return schemaFromText(resp.GetSchemaText())
	})
	return authz.Revision{Token: resp.GetReadAt().GetToken()}, schema, err
}

// remoteStale asks for the revision that SpiceDB itself would choose, not before the lower bound.
func (e *Engine) remoteStale(ctx context.Context, atLeast authz.Revision) (authz.Revision, error) {
	consistency := &v1.Consistency{Requirement: &v1.Consistency_MinimizeLatency{MinimizeLatency: true}}
	if !atLeast.IsZero() {
		consistency = &v1.Consistency{Requirement: &v1.Consistency_AtLeastAsFresh{
			AtLeastAsFresh: &v1.ZedToken{Token: atLeast.Token},
		}}
	}
	resp, err := v1.NewPermissionsServiceClient(e.conn).CheckBulkPermissions(ctx, &v1.CheckBulkPermissionsRequest{
		Consistency: consistency,
		Items: []*v1.CheckBulkPermissionsRequestItem{{
			Resource:   &v1.ObjectReference{ObjectType: authz.TypeTenant, ObjectId: "-"},
			Permission: "access",
			Subject:    &v1.SubjectReference{Object: &v1.ObjectReference{ObjectType: authz.TypeUser, ObjectId: "-"}},
		}},
	})
	if err != nil {
		return authz.Revision{}, failure("engine.Snapshot", err)
	}
	return authz.Revision{Token: resp.GetCheckedAt().GetToken()}, nil
}

// wrote notes that a write was acknowledged.
func (e *Engine) wrote() {
	e.mu.Lock()
	e.written++
	e.mu.Unlock()
}
