package judge_test

import (
	"context"
	"strings"
	"testing"
	"time"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/engine"
	"github.com/deputyauth/deputy/pkg/judge"
	"github.com/deputyauth/deputy/schema"
)

// brittle is a real engine whose snapshots panic when facts are read.
type brittle struct{ authz.Graph }

func (b brittle) Snapshot(ctx context.Context, f authz.Freshness) (authz.Snapshot, error) {
	snap, err := b.Graph.Snapshot(ctx, f)
	return brittleSnapshot{snap}, err
}

type brittleSnapshot struct{ authz.Snapshot }

func (brittleSnapshot) Read(context.Context, ...authz.Filter) ([][]authz.Relationship, error) {
	panic("the facts are broken")
}

// A panic on one item of a bulk call is met in a goroutine of its own. It fails the call, and nothing is decided.
func TestPanicOnAnItem(t *testing.T) {
	e, err := engine.Open(t.Context(), engine.Config{Kind: engine.Memory})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	if _, err := v1.NewSchemaServiceClient(e.Conn()).WriteSchema(t.Context(), &v1.WriteSchemaRequest{Schema: schema.Core}); err != nil {
		t.Fatal(err)
	}
	ask := authz.Case{
		Agent: "bot", Delegation: "d", Tenant: "acme", Resource: authz.Object{Type: authz.TypeTenant, ID: "acme"}, Permission: "access",
		Principal: authz.Principal{Object: authz.Object{Type: authz.TypeUser, ID: "alice"}},
	}
	j := judge.New(brittle{e}, []string{authz.TypeTenant}, time.Now)
	alone := ask
	alone.Delegation = ""
	// By agent alone, several facts are read at once, outside of a page that is filled.
	for name, ask := range map[string]authz.Case{"by delegation": ask, "by agent alone": alone} {
		results, _, err := j.Decide(t.Context(), judge.By{Within: authz.Unbounded()}, judge.Questions(ask, ask, ask), authz.Freshness{}, false)
		if authz.KindOf(err) != authz.Internal || results != nil {
			t.Errorf("%s: %v, %v, want an error that is the server's own", name, results, err)
		}
		if err == nil || !strings.Contains(err.Error(), "the facts are broken") || !strings.Contains(err.Error(), "panic_test.go") {
			t.Errorf("%s: %v, want the panic with its stack, for the log", name, err)
		}
	}
	if _, _, err := judge.New(e, []string{authz.TypeTenant}, time.Now).Decide(t.Context(), judge.By{Within: authz.Unbounded()}, judge.Questions(ask, ask), authz.Freshness{}, false); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}
