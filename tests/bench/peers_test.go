package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"github.com/authzed/spicedb/pkg/tuple"
	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/deputyauth/deputy/tests/harness"
	"github.com/deputyauth/deputy/tests/pgtest"
)

func run(m *testing.M) int { return pgtest.Run(m) }

// leg is one check: a peer needs several of them for what Deputy decides at once.
type leg struct{ resourceType, resource, permission, subjectType, subject string }

// peer is a server that is asked for checks.
type peer interface {
	// check asks for one in the call that is made for that.
	check(ctx context.Context, l leg) (bool, error)
	// all asks for several in one call, and returns whether all hold.
	all(ctx context.Context, legs ...leg) (bool, error)
	// revoke deletes the relationship that a leg names.
	revoke(ctx context.Context, l leg) error
}

// spicedb asks over authzed.api.v1, with the consistency that SpiceDB has where none is named.
type spicedb struct{ client v1.PermissionsServiceClient }

var (
	_ peer = spicedb{}
	_ peer = (*openfga)(nil)
)

func (l leg) ref() *v1.ObjectReference {
	return &v1.ObjectReference{ObjectType: l.resourceType, ObjectId: l.resource}
}

func (l leg) subjectRef() *v1.SubjectReference {
	return &v1.SubjectReference{Object: &v1.ObjectReference{ObjectType: l.subjectType, ObjectId: l.subject}}
}

// check asks with CheckPermission.
func (s spicedb) check(ctx context.Context, l leg) (bool, error) {
	answer, err := s.client.CheckPermission(ctx, &v1.CheckPermissionRequest{Resource: l.ref(), Permission: l.permission, Subject: l.subjectRef()})
	return answer.GetPermissionship() == v1.CheckPermissionResponse_PERMISSIONSHIP_HAS_PERMISSION, err
}

// all asks with one CheckBulkPermissions.
func (s spicedb) all(ctx context.Context, legs ...leg) (bool, error) {
	request := &v1.CheckBulkPermissionsRequest{}
	for _, l := range legs {
		request.Items = append(request.Items, &v1.CheckBulkPermissionsRequestItem{Resource: l.ref(), Permission: l.permission, Subject: l.subjectRef()})
	}
	answer, err := s.client.CheckBulkPermissions(ctx, request)
	if err != nil {
		return false, err
	}
	yes := len(answer.GetPairs()) == len(legs)
	for _, pair := range answer.GetPairs() {
		if failed := pair.GetError(); failed != nil {
			return false, fmt.Errorf("a check failed: %s", failed)
		}
		yes = yes && pair.GetItem().GetPermissionship() == v1.CheckPermissionResponse_PERMISSIONSHIP_HAS_PERMISSION
	}
	return yes, nil
}

// revoke deletes with WriteRelationships.
func (s spicedb) revoke(ctx context.Context, l leg) error {
	_, err := s.client.WriteRelationships(ctx, &v1.WriteRelationshipsRequest{Updates: []*v1.RelationshipUpdate{{
		Operation:    v1.RelationshipUpdate_OPERATION_DELETE,
		Relationship: &v1.Relationship{Resource: l.ref(), Relation: l.permission, Subject: l.subjectRef()},
	}}})
	return err
}

// lookup streams all documents that a user views.
func (s spicedb) lookup(ctx context.Context, user string) (found int, err error) {
	stream, err := s.client.LookupResources(ctx, &v1.LookupResourcesRequest{
		ResourceObjectType: "document", Permission: "view",
		Subject: &v1.SubjectReference{Object: &v1.ObjectReference{ObjectType: "user", ObjectId: user}},
	})
	if err != nil {
		return 0, err
	}
	for ; ; found++ {
		if _, err := stream.Recv(); errors.Is(err, io.EOF) {
			return found, nil
		} else if err != nil {
			return found, err
		}
	}
}

// startSpiceDB starts SpiceDB's own server, with the graph loaded.
func startSpiceDB(t testing.TB, g graph, s served) spicedb {
	t.Helper()
	s.Kind = "spicedb"
	conn := harness.Dial(t, start(t, s), harness.AdminKey)
	if _, err := v1.NewSchemaServiceClient(conn).WriteSchema(t.Context(), &v1.WriteSchemaRequest{Schema: schemaText()}, grpc.WaitForReady(true)); err != nil {
		t.Fatal(err)
	}
	client := v1.NewPermissionsServiceClient(conn)
	importGraph(t, client, g)
	if s.URI != "" {
		analyze(t, s.URI)
	}
	awaitGraph(t, spicedb{client}, g)
	return spicedb{client}
}

// awaitGraph returns once the peer sees the end of each tenant for good: SpiceDB answers at a revision that
// may be seconds old, and for a while at one of two.
func awaitGraph(t testing.TB, p peer, g graph) {
	t.Helper()
	var ends []leg
	for tenant := range g.tenants {
		var end leg
		_ = eachOf(tenant, func(r tuple.Relationship) error {
			end = leg{r.Resource.ObjectType, r.Resource.ObjectID, r.Resource.Relation, r.Subject.ObjectType, r.Subject.ObjectID}
			return nil
		})
		ends = append(ends, end)
	}
	start := time.Now()
	for since := start; time.Since(since) < time.Second; {
		for _, end := range ends {
			yes, err := p.check(t.Context(), end)
			switch {
			case err != nil && status.Code(err) != codes.FailedPrecondition:
				t.Fatal(err)
			case err != nil || !yes: // the revision may be from before the schema, too
				since = time.Now()
			}
		}
		if time.Since(start) > time.Minute {
			t.Fatal("the graph is not seen a minute after the import")
		}
	}
}

// importGraph loads the graph through the API.
func importGraph(t testing.TB, client v1.PermissionsServiceClient, g graph) {
	t.Helper()
	var group errgroup.Group
	group.SetLimit(2)
	for tenant := range g.tenants {
		group.Go(func() error { return importAll(t.Context(), client, messages(tenant)) })
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
}

// analyze tells PostgreSQL's planner what is there, as its own housekeeping does after a while.
func analyze(t testing.TB, uri string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), uri)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if _, err := conn.Exec(t.Context(), "ANALYZE"); err != nil {
		t.Fatal(err)
	}
}

// havePostgres reports whether there is a PostgreSQL to measure; if not, the run says so.
func havePostgres(t *testing.T) (have bool) {
	t.Helper()
	t.Run("postgres", func(t *testing.T) {
		pgtest.Database(t)
		have = true
	})
	return have
}
