package engine

import (
	"cmp"
	"context"
	"time"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/schema"
	"github.com/deputyauth/deputy/pkg/schema/guard"
)

// headTimeout bounds a shared taking of the head: as long as a call waits for the engine whose caller sets no deadline.
const headTimeout = 10 * time.Second

// head is the head revision and the schema, as one taking found them.
type head struct {
	token authz.Revision
	model model
}

// headTries is how often the write that takes the head is tried where it conflicts with others.
const headTries = 3

// remoteSnapshot pins a revision of a SpiceDB that runs elsewhere.
func (e *Engine) remoteSnapshot(ctx context.Context, f authz.Freshness) (authz.Snapshot, error) {
	var (
		at  head
		err error
	)
	switch {
	case !f.Exactly.IsZero():
		at.token = f.Exactly
		_, at.model, err = e.remoteSchema(ctx)
	case f.Stale && (f.AtLeast.IsZero() || f.Also.IsZero()):
		if at.token, err = e.remoteStale(ctx, cmp.Or(f.AtLeast, f.Also)); err == nil {
			_, at.model, err = e.remoteSchema(ctx)
		}
	default:
		// The head follows the bounds, which somebody was given before they asked.
		if at, err = e.heads.Get(ctx, headTimeout, e.remoteHead); ctx.Err() != nil {
			err = Failure("engine.Snapshot", ctx.Err())
		}
	}
	if err == nil && e.followed != nil && f.Exactly.IsZero() {
		err = e.followed.reaches(at.token, f.Bounds()...)
	}
	if err != nil {
		return nil, err
	}
	s := e.at(at.token)
	s.remote = at.model
	return s, nil
}

// remoteHead takes a revision that follows every write that was acknowledged before it was asked for,
// and the schema. Concurrent callers share it; see turns.Shared.
//
// SpiceDB shares a head look-up between callers, and keeps a finished one joinable while its callers
// overlap, so no number of look-ups is known to be fresh. The token of a write is: so the head is taken
// by a write that changes nothing, the deletion of a mark that is not there. For the same reason it may
// be tried again at once where it conflicts with other writes.
func (e *Engine) remoteHead(ctx context.Context) (head, error) {
	token, m, err := e.remoteSchema(ctx)
	if err != nil || m.Schema.CoreDifference != "" {
		return head{token, m}, err
	}
	if e.followed != nil {
		token, err = e.followedHead(ctx, func() (string, error) { return e.followed.head(ctx) })
		if err != nil && authz.KindOf(err) == authz.Internal {
			err = &authz.Error{
				Op: "engine.Head", Kind: authz.Unavailable, Reason: authz.ReasonEngineUnavailable, Message: "the primary does not answer", Err: err,
			}
		}
		return head{token, m}, err
	}
	nobody := authz.Object{Type: authz.TypeTenant, ID: "-"}
	nothing := []authz.Update{{Operation: authz.Delete, Relationship: authz.Relationship{
		Resource: nobody, Relation: "suspended", Subject: authz.Subject{Object: nobody},
	}}}
	for range headTries {
		if token, err = e.Write(ctx, nothing, nil); authz.KindOf(err) != authz.Aborted {
			break
		}
	}
	return head{token, m}, err
}

// remoteSchema reads the schema at the head revision.
func (e *Engine) remoteSchema(ctx context.Context) (authz.Revision, model, error) {
	resp, err := v1.NewSchemaServiceClient(e.conn).ReadSchema(ctx, &v1.ReadSchemaRequest{})
	if status.Code(err) == codes.NotFound {
		// Nothing has been written yet.
		return authz.Revision{}, model{Model: &guard.Model{Schema: &authz.Schema{CoreDifference: guard.NoSchema}}}, nil
	}
	if err != nil {
		return authz.Revision{}, model{}, Failure("engine.Schema", err)
	}
	m, err := e.models.get(resp.GetSchemaText(), func() (*guard.Model, error) {
		m, err := guard.Compile(resp.GetSchemaText())
		if err == nil && e.readsWhole {
			for _, t := range m.Schema.Types {
				t.UnsafeShape = ""
			}
		}
		return m, err
	})
	return authz.Revision{Token: resp.GetReadAt().GetToken()}, m, err
}

// remoteVerified returns the schema with the types marked whose relationships SpiceDB would count although they
// have expired. The first call with a schema waits until all rows in doubt were counted, see remoteStrays.
func (e *Engine) remoteVerified(ctx context.Context, m model, at *v1.Consistency) (*authz.Schema, error) {
	if e.trusted || m.Schema.CoreDifference != "" {
		return m.Schema, nil
	}
	return e.strays.get(ctx, m, nil, func(ctx context.Context) ([]*schema.Member, error) { return e.remoteStrays(ctx, m.Definitions, at) })
}

// remoteStale asks for the revision that SpiceDB itself would choose, not before the lower bound.
func (e *Engine) remoteStale(ctx context.Context, atLeast authz.Revision) (authz.Revision, error) {
	consistency := &v1.Consistency{Requirement: &v1.Consistency_MinimizeLatency{MinimizeLatency: true}}
	if !atLeast.IsZero() {
		consistency = &v1.Consistency{Requirement: &v1.Consistency_AtLeastAsFresh{
			AtLeastAsFresh: &v1.ZedToken{Token: atLeast.ZedToken()},
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
		return authz.Revision{}, Failure("engine.Snapshot", err)
	}
	return authz.Revision{Token: resp.GetCheckedAt().GetToken()}, nil
}
