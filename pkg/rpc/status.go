package rpc

import (
	"context"
	"errors"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/deputyauth/deputy/pkg/authz"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/pkg/statuses"
)

// code is the one place where kinds become gRPC codes.
var code = map[authz.Kind]codes.Code{
	authz.Internal:        codes.Internal,
	authz.Invalid:         codes.InvalidArgument,
	authz.NotFound:        codes.NotFound,
	authz.Exists:          codes.AlreadyExists,
	authz.Precondition:    codes.FailedPrecondition,
	authz.OutOfRange:      codes.OutOfRange,
	authz.Unavailable:     codes.Unavailable,
	authz.Denied:          codes.PermissionDenied,
	authz.Unauthenticated: codes.Unauthenticated,
	authz.Aborted:         codes.Aborted,
	authz.Exhausted:       codes.ResourceExhausted,
	authz.Canceled:        codes.Canceled,
	authz.Deadline:        codes.DeadlineExceeded,
}

// late is the message where an engine does not answer within the caller's time.
const late = "the engine did not answer in time; try again. Whether a write was made is not known"

// visible returns what of an error callers may see. What carries no kind is Internal, without a word
// more. An engine that does not answer while the caller still waits is Unavailable.
func visible(ctx context.Context, err error) *authz.Error {
	var e *authz.Error
	if !errors.As(err, &e) || e.Kind == authz.Internal {
		switch {
		case errors.Is(err, context.Canceled):
			return authz.Errorf(authz.Canceled, "", "the call was cancelled")
		case errors.Is(err, context.DeadlineExceeded):
			return authz.Errorf(authz.Deadline, authz.ReasonEngineUnavailable, late)
		}
		return authz.Errorf(authz.Internal, "INTERNAL", "internal error")
	}
	if e.Kind == authz.Deadline && ctx.Err() == nil {
		return authz.Errorf(authz.Unavailable, authz.ReasonEngineUnavailable, late)
	}
	return e
}

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
	e := visible(ctx, err)
	return statuses.New(code[e.Kind], e.Reason, e.Field, text(e)).Err()
}

// toErrorStatus is toStatus for one item of a bulk call.
func toErrorStatus(ctx context.Context, err error) *deputyv1.ErrorStatus {
	e := visible(ctx, err)
	return &deputyv1.ErrorStatus{Code: int32(code[e.Kind]), Message: text(e), Reason: e.Reason, Field: e.Field} //nolint:gosec // codes are small
}

// text is the message that callers see: without operation and cause.
func text(e *authz.Error) string {
	if e.Field == "" {
		return e.Message
	}
	return e.Field + " " + e.Message
}
