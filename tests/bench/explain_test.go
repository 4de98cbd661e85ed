package bench

import (
	"context"
	"math/rand/v2"
	"testing"

	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

const explanations = "Deputy, explained"

// explain asks for one explanation a call.
func explain(client deputyv1.PermissionsServiceClient, draw drawing) asking {
	return func(ctx context.Context, r *rand.Rand) (bool, error) {
		answer, err := client.ExplainPermission(ctx, &deputyv1.ExplainPermissionRequest{Check: draw(r).request()})
		return answer.GetDecision().GetPermissionship() == deputyv1.Permissionship_PERMISSIONSHIP_HAS_PERMISSION, err
	}
}

// TestExplain measures explanations beside the decisions that they explain.
func TestExplain(t *testing.T) {
	g := sized(scaled(87_300, 5_000))
	d, runs := startSmall(t, g)
	draw := cold(runs)
	all := []contender{
		{name: deputyName, ask: decide(d.decisions, draw)},
		{name: explanations, ask: explain(deputyv1.NewPermissionsServiceClient(d.admin), draw)},
	}
	agree(t, 60, append([]contender{{name: bareName}}, all...))
	r := contest(t, "decisions and explanations, cold", 1, scaled(5, 1), all)
	atMost(t, "p50 of an explanation / of a decision, cold, 1 worker", r.slower(explanations, deputyName), "", 2)
}
