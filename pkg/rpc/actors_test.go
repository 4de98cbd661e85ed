package rpc

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/deputyauth/deputy/pkg/authz"
)

// Items whose tokens the gate did not read are not taken for items that need none.
func TestItemsWithoutProofsAreRefused(t *testing.T) {
	_, err := itemProofs(t.Context(), 2)
	require.Equal(t, authz.Internal, authz.KindOf(err))
}
