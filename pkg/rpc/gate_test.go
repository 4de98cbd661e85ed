package rpc

import (
	"strings"
	"testing"

	"github.com/deputyauth/deputy/pkg/authz"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// TestGatesAreNumberedAlike: a gate goes over the wire by its number, so the contract and pkg/authz number them alike.
func TestGatesAreNumberedAlike(t *testing.T) {
	t.Parallel()
	if got, want := len(authz.Gates), len(deputyv1.Gate_name)-1; got != want {
		t.Errorf("%d gates, and the contract has %d", got, want)
	}
	for _, g := range authz.Gates {
		if got, want := deputyv1.Gate(g).String(), "GATE_"+strings.ToUpper(g.String()); got != want {
			t.Errorf("the gate %s is %s in the contract, want %s", g, got, want)
		}
	}
}
