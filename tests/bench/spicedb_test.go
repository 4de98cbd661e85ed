package bench

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"testing"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"golang.org/x/sync/errgroup"

	"github.com/deputyauth/deputy/pkg/daemon"
	"github.com/deputyauth/deputy/pkg/engine"
	"github.com/deputyauth/deputy/tests/harness"
	"github.com/deputyauth/deputy/tests/pgtest"
)

func run(m *testing.M) int { return pgtest.Run(m) }

// TestSpiceDB measures SpiceDB's own CheckPermission and LookupResources over each datastore, through
// Deputy's door, at the same graph.
func TestSpiceDB(t *testing.T) {
	g := sized(scaled(87_300, 5_000))
	for _, e := range []struct {
		name string
		open func(testing.TB) engine.Config
	}{
		{"embedded", func(t testing.TB) engine.Config { return engine.Config{Kind: engine.Embedded, Dir: t.TempDir()} }},
		{"memory", func(testing.TB) engine.Config { return engine.Config{Kind: engine.Memory} }},
		{"postgres", harness.Postgres},
	} {
		t.Run(e.name, func(t *testing.T) {
			s := harness.Start(t, daemon.Config{Engine: e.open(t)})
			s.WriteSchema(t, schemaText())
			client := v1.NewPermissionsServiceClient(s.Admin)
			var group errgroup.Group
			group.SetLimit(2)
			for tenant := range g.tenants {
				group.Go(func() error { return importAll(t.Context(), client, messages(tenant)) })
			}
			if err := group.Wait(); err != nil {
				t.Fatal(err)
			}
			check := func(w, i int) error {
				r := rand.New(rand.NewPCG(uint64(w), uint64(i)))
				tenant := r.IntN(g.tenants)
				_, err := client.CheckPermission(t.Context(), &v1.CheckPermissionRequest{
					Resource: &v1.ObjectReference{ObjectType: "document", ObjectId: document(tenant, r.IntN(documentsPerTenant))}, Permission: "view",
					Subject: &v1.SubjectReference{Object: &v1.ObjectReference{ObjectType: "user", ObjectId: user(tenant, r.IntN(usersPerTenant))}},
				})
				return err
			}
			add(t, "SpiceDB's CheckPermission on "+e.name+", 32 workers", rounds(scaled(3, 1), func() float64 { return rate(t, 32, lasting(), check) }), "/s")
			add(t, "SpiceDB's LookupResources on "+e.name+", 1 worker", rounds(scaled(3, 1), func() float64 {
				return rate(t, 1, lasting(), func(_, i int) error {
					return lookup(t.Context(), client, user(i%g.tenants, 1+i%(usersPerTenant-1)))
				})
			}), "/s")
		})
	}
}

func lookup(ctx context.Context, client v1.PermissionsServiceClient, user string) error {
	stream, err := client.LookupResources(ctx, &v1.LookupResourcesRequest{
		ResourceObjectType: "document", Permission: "view",
		Subject: &v1.SubjectReference{Object: &v1.ObjectReference{ObjectType: "user", ObjectId: user}},
	})
	if err != nil {
		return err
	}
	for {
		if _, err := stream.Recv(); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}
