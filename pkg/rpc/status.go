package rpc

import (
	"context"

	"google.golang.org/grpc/status"

	"github.com/deputyauth/deputy/pkg/caller"
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

// toStatusOf is toStatus for a call of a method: the failure of one that writes nothing does not speak of writes.
func toStatusOf(ctx context.Context, method string, err error) error {
	err = toStatus(ctx, err)
	m := caller.MethodOf(method)
	if err == nil || m == nil {
		return err
	}
	switch m.Effect {
	case deputyv1.Effect_EFFECT_WRITES, deputyv1.Effect_EFFECT_NARROWS, deputyv1.Effect_EFFECT_UNSPECIFIED:
		return err
	default:
		return statuses.WroteNothing(status.Convert(err)).Err()
	}
}

// toErrorStatus is toStatus for one item of a bulk call, which writes nothing.
func toErrorStatus(ctx context.Context, err error) *deputyv1.ErrorStatus {
	e := statuses.Visible(ctx, err)
	message := statuses.WroteNothing(statuses.Of(e)).Message()
	return &deputyv1.ErrorStatus{Code: int32(statuses.Code(e.Kind)), Message: message, Reason: e.Reason, Field: e.Field} //nolint:gosec // codes are small
}
