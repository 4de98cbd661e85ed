package door

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/deputyauth/deputy/pkg/authz"
)

// domain is the google.rpc.ErrorInfo domain of what the door itself refuses; SpiceDB's own failures keep
// theirs.
const domain = "deputy.dev"

// reasonNotServed is the reason for a method that the door does not know to be harmless.
const reasonNotServed = "METHOD_NOT_SERVED"

// reasonLate is the reason for an import that takes too long, or stays open without a message.
const reasonLate = "IMPORT_TOO_SLOW"

// errIdle is the status of an import whose caller says nothing for so long.
func errIdle(idle time.Duration) error {
	return failure(codes.DeadlineExceeded, reasonLate, "", fmt.Sprintf(
		"the import had no message for %s and was ended; nothing was written: send the relationships without pause, then close the stream", idle))
}

// errSlow is the status of an import that takes longer than that.
func errSlow(limit time.Duration) error {
	return failure(codes.DeadlineExceeded, reasonLate, "", fmt.Sprintf(
		"the import took longer than %s and was ended; nothing was written: split it into several calls", limit))
}

// failure returns a status with an ErrorInfo. field is the offending part of the request, such as
// "updates[3]", or "".
func failure(code codes.Code, reason, field, message string) error {
	info := &errdetails.ErrorInfo{Reason: reason, Domain: domain}
	if field != "" {
		info.Metadata = map[string]string{"field": field}
		message = field + ": " + message
	}
	st := status.New(code, message)
	if detailed, err := st.WithDetails(info); err == nil {
		st = detailed
	}
	return st.Err()
}

// upstreamFailure returns the status that the caller gets for a call that failed upstream. It is
// SpiceDB's own, details included, except where the connection failed and not the call: its address and
// Deputy's credentials are nobody's business outside.
func upstreamFailure(err error) error {
	st := status.Convert(err)
	if len(st.Proto().GetDetails()) > 0 {
		return err
	}
	code := st.Code()
	if code == codes.Unavailable {
		return failure(code, authz.ReasonEngineUnavailable, "", "the engine does not answer")
	}
	if code == codes.Unauthenticated || code == codes.PermissionDenied {
		// SpiceDB itself knows neither: this is about the key that Deputy shows.
		return failure(codes.Internal, authz.ReasonEngineRefused, "", "the engine refuses Deputy")
	}
	return err
}

// schemaFailure returns the status for a guard that has no schema to judge by.
func schemaFailure(ctx context.Context, err error) error {
	if ctx.Err() != nil || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return status.FromContextError(errors.Join(ctx.Err(), err)).Err()
	}
	return failure(codes.Unavailable, authz.ReasonEngineUnavailable, "", "the schema to judge the write by cannot be read")
}
