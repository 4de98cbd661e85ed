package bench

import (
	"context"
	"testing"
	"time"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"github.com/authzed/spicedb/pkg/tuple"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/deputyauth/deputy/pkg/daemon"
	"github.com/deputyauth/deputy/pkg/engine"
	"github.com/deputyauth/deputy/tests/harness"
)

// TestImport measures an import through the API: client, server and store in one process, four streams, a
// tenant or two a stream. What was acknowledged is on the disk.
func TestImport(t *testing.T) {
	g := sized(scaled(1_000_000, 10_000))
	requests := make([][]*v1.ImportBulkRelationshipsRequest, g.tenants)
	for tenant := range requests {
		requests[tenant] = messages(tenant)
	}
	value := rounds(scaled(3, 1), func() float64 {
		s := harness.Start(t, daemon.Config{Engine: engine.Config{Kind: engine.Embedded, Dir: t.TempDir()}})
		s.WriteSchema(t, schemaText())
		client := v1.NewPermissionsServiceClient(s.Admin)
		start := time.Now()
		var group errgroup.Group
		group.SetLimit(4)
		for _, messages := range requests {
			group.Go(func() error { return importAll(t.Context(), client, messages) })
		}
		if err := group.Wait(); err != nil {
			t.Fatal(err)
		}
		took := time.Since(start)
		// Once more is a duplicate.
		if err := importAll(t.Context(), client, requests[0]); status.Code(err) != codes.AlreadyExists {
			t.Fatalf("a duplicate import: %v", err)
		}
		return float64(g.relationships()) / took.Seconds()
	})
	atLeast(t, "bulk import through the API, durable, duplicates detected", value, "relationships/s", 200_000)
}

// messages are a tenant's relationships as they travel.
func messages(tenant int) (all []*v1.ImportBulkRelationshipsRequest) {
	current := &v1.ImportBulkRelationshipsRequest{}
	_ = eachOf(tenant, func(r tuple.Relationship) error {
		current.Relationships = append(current.Relationships, tuple.ToV1Relationship(r))
		if len(current.GetRelationships()) == 1000 {
			all = append(all, current)
			current = &v1.ImportBulkRelationshipsRequest{}
		}
		return nil
	})
	return append(all, current)
}

func importAll(ctx context.Context, client v1.PermissionsServiceClient, messages []*v1.ImportBulkRelationshipsRequest) error {
	stream, err := client.ImportBulkRelationships(ctx)
	if err != nil {
		return err
	}
	for _, m := range messages {
		if err := stream.Send(m); err != nil {
			break // CloseAndRecv says why
		}
	}
	_, err = stream.CloseAndRecv()
	return err
}
