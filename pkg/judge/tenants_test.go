package judge

import (
	"testing"
	"time"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/engine"
	"github.com/deputyauth/deputy/schema"
)

// TestTenantOfAnObject: an object is in a tenant only where that is its one tenant, without a condition. In several, in all by a wildcard, or where a context
// would decide it, it is in none: so it exists for no caller that is bound to tenants.
func TestTenantOfAnObject(t *testing.T) {
	e, err := engine.Open(t.Context(), engine.Config{Kind: engine.Memory})
	if err != nil {
		t.Fatal(err)
	}
	crowdIn(t, e, e)
	if _, err := v1.NewSchemaServiceClient(e.Conn()).WriteSchema(t.Context(), &v1.WriteSchemaRequest{Schema: schema.Core + domain + `
caveat late(hour int) {
	hour > 17
}

definition paper {
	relation tenant: tenant | tenant:* | tenant with late
}
`}); err != nil {
		t.Fatal(err)
	}
	late := rel("paper:late", "tenant", "tenant:acme")
	late.Caveat = "late"
	touch(t, e, rel("paper:one", "tenant", "tenant:acme"), late, rel("paper:two", "tenant", "tenant:acme"), rel("paper:two", "tenant", "tenant:globex"),
		rel("paper:all", "tenant", "tenant:*"))
	c, err := New(e, nil, time.Now).open(t.Context(), authz.Unbounded(), authz.Freshness{})
	if err != nil {
		t.Fatal(err)
	}
	for id, want := range map[string]authz.TenantID{"one": "acme", "late": "", "two": "", "all": "", "none": ""} {
		if got, err := c.tenantOf(t.Context(), authz.Object{Type: "paper", ID: id}); err != nil || got != want {
			t.Errorf("paper:%s is in %q, %v, want %q", id, got, err, want)
		}
	}
}
