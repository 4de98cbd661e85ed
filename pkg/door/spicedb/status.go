package spicedb

import (
	"context"
	"errors"
	"fmt"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/statuses"
)

// failure returns a status with an ErrorInfo. field is the offending part of the request, such as
// "updates[3]", or "".
func failure(code codes.Code, reason, field, message string) error {
	if field != "" {
		message = field + ": " + message
	}
	return statuses.New(code, reason, field, message).Err()
}

// withWhatThereIs adds to SpiceDB's words about a name that the schema lacks, or about a subject that a relation does not admit,
// what the schema has: of what is written the relations only. Code and details stay SpiceDB's.
func (c *call) withWhatThereIs(ctx context.Context, err error, written bool) error {
	st := status.Convert(err)
	info := statuses.Info(st)
	reason := v1.ErrorReason(v1.ErrorReason_value[info.GetReason()])
	if !namesUnknown[reason] || c.rights.Relays {
		return err
	}
	schema, failed := c.schema(ctx)
	if failed != nil {
		return err
	}
	of, has := info.GetMetadata(), ""
	switch t := schema.Types[of["definition_name"]]; {
	case t == nil && reason == v1.ErrorReason_ERROR_REASON_UNKNOWN_DEFINITION:
		has = schema.HasTypes(of["definition_name"])
	case t == nil:
	case reason == v1.ErrorReason_ERROR_REASON_UNKNOWN_RELATION_OR_PERMISSION && written:
		has = t.HasRelations(of["relation_or_permission_name"])
	case reason == v1.ErrorReason_ERROR_REASON_UNKNOWN_RELATION_OR_PERMISSION:
		has = t.HasMembers(of["relation_or_permission_name"])
	case reason == v1.ErrorReason_ERROR_REASON_INVALID_SUBJECT_TYPE && c.rights.Bounds.Objects.All():
		has = schema.Admitted(t.Name, of["relation_name"])
	}
	if has == "" {
		return err
	}
	with := st.Proto()
	with.Message = statuses.Bounded(st.Message() + "; " + has)
	return status.FromProto(with).Err()
}

// namesUnknown lists the reasons of SpiceDB's that withWhatThereIs adds to.
var namesUnknown = map[v1.ErrorReason]bool{
	v1.ErrorReason_ERROR_REASON_UNKNOWN_DEFINITION:             true,
	v1.ErrorReason_ERROR_REASON_UNKNOWN_RELATION_OR_PERMISSION: true,
	v1.ErrorReason_ERROR_REASON_INVALID_SUBJECT_TYPE:           true,
}

// schemaFailure returns the status for a call that has no schema, or no relationships, to be judged by.
func schemaFailure(ctx context.Context, err error) error {
	if ctx.Err() != nil || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return status.FromContextError(errors.Join(ctx.Err(), err)).Err()
	}
	// What the engine says of itself is for callers, and says what to do.
	if known, ok := errors.AsType[*authz.Error](err); ok {
		switch {
		case known.Kind == authz.Unavailable:
			return failure(codes.Unavailable, known.Reason, "", known.Message)
		case known.Kind == authz.OutOfRange:
			return failure(codes.OutOfRange, known.Reason, "", known.Message)
		case busy(err):
			return failure(codes.ResourceExhausted, known.Reason, "", known.Message)
		}
	}
	return failure(codes.Unavailable, authz.ReasonEngineUnavailable, "", "what the call is judged by cannot be read; try again")
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
		if e.RetryAfter > 0 {
			return err // of its caller or the server, likewise
		}
		return failure(codes.ResourceExhausted, e.Reason, e.Field, e.Message)
	case authz.Canceled:
		return failure(codes.Canceled, e.Reason, "", e.Message)
	case authz.Unauthenticated, authz.Denied, authz.Unavailable:
		return err // of its caller, and the gate answers as before the message
	default:
		return failure(codes.Internal, e.Reason, "", e.Message)
	}
}

// busy reports whether the engine has too much to do, which says nothing of what it was asked.
func busy(err error) bool {
	e, ok := errors.AsType[*authz.Error](err)
	return ok && e.Reason == authz.ReasonBusy
}

// outOfBounds refuses what reaches beyond the caller's bounds, in the same words whether it is there or not.
func outOfBounds(field, message string) error {
	return failure(codes.PermissionDenied, authz.ReasonOutOfBounds, field, message)
}

// noType is SpiceDB's answer to the name of a type that the schema does not have.
func noType(name string) *status.Status {
	return statuses.SpiceDB(codes.FailedPrecondition, v1.ErrorReason_ERROR_REASON_UNKNOWN_DEFINITION.String(),
		fmt.Sprintf("object definition `%s` not found", name), map[string]string{"definition_name": name})
}
