package rpc

import (
	"testing"

	"github.com/deputyauth/deputy/pkg/authz"
)

// Items whose tokens the gate did not read are not taken for items that need none.
func TestItemsWithoutProofsAreRefused(t *testing.T) {
	if _, err := itemProofs(t.Context(), 2); err == nil || authz.KindOf(err) != authz.Internal {
		t.Errorf("items whose tokens were not read: %v", err)
	}
}
