package decision_test

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/deputyauth/deputy/pkg/daemon"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/schema"
	"github.com/deputyauth/deputy/tests/harness"
)

// newer are the relations that the core has had since lists go by what is live.
var newer = regexp.MustCompile(`(?m)^\trelation (listed|listed_for|over|purged|indexed): .*$`)

// TestOldCore: over the data of an older Deputy, whose core lacks relations, the server starts, refuses decisions, and says what to do. What takes
// access away goes through. Once the schema is written again everything is as it was, and is found.
func TestOldCore(t *testing.T) {
	cfg := daemon.Config{Engine: harness.Embedded(t)}
	w := newWorld(t, harness.Start(t, cfg))
	r := newRunaway(w)
	kept := w.delegate(&deputyv1.CreateDelegationRequest{AgentId: "sub", Unscoped: true, AllowDirect: true})
	run := w.startWith(&deputyv1.StartSessionRequest{AgentId: "sub", Targets: []*deputyv1.SessionTarget{target(kept)}})
	w.allow(inSession(run).view("document:plan"))
	old := newer.ReplaceAllString(schema.Core, "")
	for {
		for _, of := range []string{"session listed", "delegation listed", "delegation listed_for", "delegation indexed"} {
			kind, relation, _ := strings.Cut(of, " ")
			_, err := v1.NewPermissionsServiceClient(w.Admin).DeleteRelationships(t.Context(), &v1.DeleteRelationshipsRequest{
				RelationshipFilter: &v1.RelationshipFilter{ResourceType: kind, OptionalRelation: relation},
			})
			w.ok(err)
		}
		// Past the services, which do not take such a core. The server may have listed something meanwhile.
		if _, err := v1.NewSchemaServiceClient(w.Engine()).WriteSchema(t.Context(), &v1.WriteSchemaRequest{Schema: old + domain}); err == nil {
			break
		} else if t.Context().Err() != nil {
			t.Fatal(err)
		}
	}
	w.Stop()
	<-w.Stopped
	w.ok(w.Close())
	w.Failed = true // it is closed already
	w.Server = harness.Start(t, cfg)

	_, err := w.Permissions().CheckPermission(t.Context(), inSession(run).view("document:plan").CheckPermissionRequest)
	w.fails(err, codes.FailedPrecondition, "CORE_SCHEMA_DIFFERS", "")
	if message := status.Convert(err).Message(); !strings.Contains(message, "deputy schema write FILE once") {
		t.Errorf("it does not say what to do: %s", message)
	}
	by := r.braked(brakeAgent("bot"))
	if by.GetSessionsEnded() == 0 || !by.GetComplete() {
		t.Errorf("a brake answers %v", by)
	}
	_, err = w.Delegations().RevokeDelegation(t.Context(), &deputyv1.RevokeDelegationRequest{DelegationId: r.alices.GetDelegationId()})
	w.ok(err)

	w.WriteSchema(t, schema.Core+domain)
	w.allow(inSession(run).view("document:plan"))
	r.resume("agent:bot")
	w.deny(r.forAlice(), byActor)
	if live := w.live("sub"); !slices.Contains(live, run.GetSessionId()) {
		t.Errorf("live are %v, and not the session from before", live)
	}
	if live := w.live("bot"); len(live) != 0 {
		t.Errorf("live are %v after a brake", live)
	}
}
