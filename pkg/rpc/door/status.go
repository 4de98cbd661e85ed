package door

import (
	"context"
	"errors"
	"regexp"
	"strings"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/deputyauth/deputy/pkg/authz"
)

// reasonNotServed is the reason for a method that the door does not know to be harmless.
const reasonNotServed = "METHOD_NOT_SERVED"

// maxFailure is the longest message of a status, in bytes: some quote what the caller sent.
const maxFailure = 2 << 10

// failure returns a status with an ErrorInfo. field is the offending part of the request, such as
// "updates[3]", or "".
func failure(code codes.Code, reason, field, message string) error {
	info := &errdetails.ErrorInfo{Reason: reason, Domain: authz.ErrorDomain}
	if field != "" {
		info.Metadata = map[string]string{"field": field}
		message = field + ": " + message
	}
	if len(message) > maxFailure {
		message = strings.ToValidUTF8(message[:maxFailure], "") + "…"
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
	if code == codes.Unknown && unknownName.MatchString(st.Message()) {
		return failure(codes.FailedPrecondition, authz.ReasonUnknownType, "", st.Message())
	}
	if code == codes.Unknown || code == codes.Internal {
		return concealed{err}
	}
	return err
}

// withWhatThereIs adds to SpiceDB's words about a name that the schema lacks, or about a subject that a relation does not admit,
// what the schema has. Code and details stay SpiceDB's.
func (d *Door) withWhatThereIs(ctx context.Context, err error) error {
	st := status.Convert(err)
	var info *errdetails.ErrorInfo
	for _, detail := range st.Details() {
		if of, ok := detail.(*errdetails.ErrorInfo); ok {
			info = of
		}
	}
	reason := v1.ErrorReason(v1.ErrorReason_value[info.GetReason()])
	if !namesUnknown[reason] {
		return err
	}
	schema, failed := d.cfg.Schema(ctx)
	if failed != nil {
		return err
	}
	of, has := info.GetMetadata(), ""
	switch t := schema.Types[of["definition_name"]]; {
	case t == nil && reason == v1.ErrorReason_ERROR_REASON_UNKNOWN_DEFINITION:
		has = schema.HasTypes(of["definition_name"])
	case t == nil:
	case reason == v1.ErrorReason_ERROR_REASON_UNKNOWN_RELATION_OR_PERMISSION:
		has = t.HasMembers(of["relation_or_permission_name"])
	case reason == v1.ErrorReason_ERROR_REASON_INVALID_SUBJECT_TYPE:
		has = schema.Admitted(t.Name, of["relation_name"])
	}
	if has == "" {
		return err
	}
	with := st.Proto()
	with.Message += "; " + has
	return status.FromProto(with).Err()
}

// namesUnknown lists the reasons of SpiceDB's that withWhatThereIs adds to.
var namesUnknown = map[v1.ErrorReason]bool{
	v1.ErrorReason_ERROR_REASON_UNKNOWN_DEFINITION:             true,
	v1.ErrorReason_ERROR_REASON_UNKNOWN_RELATION_OR_PERMISSION: true,
	v1.ErrorReason_ERROR_REASON_INVALID_SUBJECT_TYPE:           true,
}

// unknownName matches the texts with which SpiceDB's reflection says, without a status, that the schema has no such name.
var unknownName = regexp.MustCompile("^(object definition|relation/permission|caveat) `[a-z0-9_/]*` not found( under definition `[a-z0-9_/]*`)?$")

// concealed is a failure of SpiceDB's own making. Its text, which was seen to hold a stack, is for the log; the caller gets the code.
type concealed struct{ cause error }

func (c concealed) Error() string { return c.cause.Error() }

func (c concealed) Unwrap() error { return c.cause }

// GRPCStatus is what the caller gets.
func (c concealed) GRPCStatus() *status.Status {
	return status.Convert(failure(codes.Internal, "INTERNAL", "", "internal error"))
}

// schemaFailure returns the status for a guard that has no schema, or no relationships, to judge by.
func schemaFailure(ctx context.Context, err error) error {
	if ctx.Err() != nil || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return status.FromContextError(errors.Join(ctx.Err(), err)).Err()
	}
	return failure(codes.Unavailable, authz.ReasonEngineUnavailable, "", "what the write is judged by cannot be read")
}

// receiveFailure returns the status for a message that could not be received.
func receiveFailure(err error) error {
	e, ok := errors.AsType[*authz.Error](err)
	if !ok {
		return err
	}
	switch e.Kind {
	case authz.Invalid:
		return failure(codes.InvalidArgument, e.Reason, e.Field, e.Message)
	case authz.Exhausted:
		return failure(codes.ResourceExhausted, e.Reason, e.Field, e.Message)
	case authz.Canceled:
		return status.Error(codes.Canceled, e.Message)
	default:
		return status.Error(codes.Internal, e.Message)
	}
}
