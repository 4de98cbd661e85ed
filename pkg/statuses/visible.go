package statuses

import (
	"context"
	"errors"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/deputyauth/deputy/pkg/authz"
)

// Code returns the gRPC code of a kind of error.
func Code(kind authz.Kind) codes.Code { return codeOf[kind] }

// codeOf is the one place where kinds become gRPC codes.
var codeOf = map[authz.Kind]codes.Code{
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

// Of returns the status of an error: its kind as a code, its reason, its field and the time after which to try again.
func Of(e *authz.Error) *status.Status {
	return Retry(New(Code(e.Kind), e.Reason, e.Field, Text(e)), e.RetryAfter)
}

// Raised returns an error with the status that it has as one of pkg/authz; any other as it is.
func Raised(err error) error {
	if e, ok := errors.AsType[*authz.Error](err); ok {
		return Of(e).Err()
	}
	return err
}

// Text is the message of an error that callers see: without operation and cause.
func Text(e *authz.Error) string {
	if e.Field == "" {
		return e.Message
	}
	return e.Field + " " + e.Message
}

// late is the message where an engine does not answer within the caller's time.
const late = "the engine did not answer in time; try again" + WriteUnknown

// WriteUnknown ends the messages of failures after which it is not known whether a write was made. They are of engines, which do not know for which call
// they work; see WroteNothing.
const WriteUnknown = ". Whether a write was made is not known"

// WroteNothing returns the status for a call that makes no writes, so that it speaks of none.
func WroteNothing(st *status.Status) *status.Status {
	message, found := strings.CutSuffix(st.Message(), WriteUnknown)
	if !found {
		return st
	}
	reworded := st.Proto()
	reworded.Message = message
	return status.FromProto(reworded)
}

// Visible returns what of an error callers may see. What carries no kind is Internal, without a word
// more. An engine that does not answer while the caller still waits is Unavailable.
func Visible(ctx context.Context, err error) *authz.Error {
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
