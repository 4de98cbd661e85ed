package journal

import (
	"context"

	"github.com/deputyauth/deputy/pkg/statuses"
)

// Failure is what a record holds of an error: the google.rpc.Code and the reason that its caller is answered.
func Failure(ctx context.Context, err error) (code int32, reason string) {
	e := statuses.Visible(ctx, err)
	return int32(statuses.Code(e.Kind)), e.Reason //nolint:gosec // codes are small
}
