package authz_test

import (
	"math"
	"strings"
	"testing"

	"github.com/deputyauth/deputy/pkg/authz"
)

// TestExactNumbers: a number that a double may have rounded is named, wherever it is in a context.
func TestExactNumbers(t *testing.T) {
	const most = 1<<53 - 1
	for want, given := range map[string]map[string]any{
		"amount is":        {"amount": float64(1 << 53)},
		"debt is":          {"amount": 1.0, "debt": float64(-1 << 53)},
		"orders[1].sum is": {"orders": []any{float64(most), map[string]any{"sum": 1e18}}},
		"many is":          {"many": math.Inf(1)},
		"none is":          {"none": math.NaN()},
	} {
		if err := authz.ExactNumbers(given); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%v: the error is %v, want %q", given, err, want)
		}
	}
	exact := map[string]any{
		"a": float64(most), "b": -float64(most), "c": 0.1, "d": "9007199254740993", "e": nil, "f": true, "g": []any{map[string]any{"h": 1.5}},
	}
	if err := authz.ExactNumbers(exact); err != nil {
		t.Errorf("%v: %v", exact, err)
	}
}
