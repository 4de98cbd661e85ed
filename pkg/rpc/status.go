package rpc

import (
	"context"

	"google.golang.org/grpc/status"

	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/pkg/statuses"
)

// toStatus turns an error into the status that callers see.
func toStatus(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	// Only what is itself a status passes as it is: the door's. One that is merely the cause of an
	// error is the engine's, and stays behind it.
	if _, ok := err.(interface{ GRPCStatus() *status.Status }); ok {
		return err
	}
	return statuses.Of(statuses.Visible(ctx, err)).Err()
}

// toErrorStatus is toStatus for one item of a bulk call.
func toErrorStatus(ctx context.Context, err error) *deputyv1.ErrorStatus {
	e := statuses.Visible(ctx, err)
	return &deputyv1.ErrorStatus{Code: int32(statuses.Code(e.Kind)), Message: statuses.Text(e), Reason: e.Reason, Field: e.Field} //nolint:gosec // codes are small
}
