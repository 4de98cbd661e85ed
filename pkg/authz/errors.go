package authz

import (
	"errors"
	"fmt"
	"time"
)

// Kind says what sort of failure an error is; pkg/rpc turns it into a gRPC code. The zero Kind is
// Internal: what carries no kind is nobody's business outside.
type Kind uint8

// ErrorDomain is the domain of every google.rpc.ErrorInfo that Deputy itself sends. SpiceDB's own failures keep theirs.
const ErrorDomain = "deputy.dev"

// The kinds, one for each status that callers can see.
const (
	Internal Kind = iota
	Invalid
	NotFound
	Exists
	Precondition
	OutOfRange
	Unavailable
	Denied
	Unauthenticated
	Aborted
	Exhausted
	Canceled
	Deadline
)

// Error is a failure with a kind, the request's field at fault and a reason that programs can read.
// Its message is written for callers: it holds no internals.
type Error struct {
	// Op names the operation, for logs: "delegate.Create".
	Op string
	// Kind is what sort of failure it is.
	Kind Kind
	// Reason is a stable UPPER_SNAKE_CASE word (google.rpc.ErrorInfo.reason).
	Reason string
	// Field is the request's field at fault, in proto notation ("resource.object_id"), or empty.
	Field string
	// Message says what is wrong, for a person.
	Message string
	// RetryAfter is how long to wait before the same call makes sense again; 0 says nothing of that.
	RetryAfter time.Duration
	// Err is the cause. It is logged, never sent.
	Err error
}

// Error returns the message with the field before it and the cause behind it.
func (e *Error) Error() string {
	s := e.Message
	if e.Field != "" {
		s = e.Field + " " + s
	}
	if e.Op != "" {
		s = e.Op + ": " + s
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Errorf returns an Error without a field.
func Errorf(kind Kind, reason, format string, args ...any) *Error {
	return &Error{Kind: kind, Reason: reason, Message: fmt.Sprintf(format, args...)}
}

// FieldErrorf returns an Error of kind Invalid about one field of the request.
func FieldErrorf(field, format string, args ...any) *Error {
	return &Error{Kind: Invalid, Reason: ReasonInvalidField, Field: field, Message: fmt.Sprintf(format, args...)}
}

// ForeignCursor is the error of a list or a lookup that is to go on at a cursor which another engine, or another evaluator, made.
func ForeignCursor() *Error {
	return FieldErrorf("cursor", "is of another engine or evaluator, whose places this one does not know: begin again without a cursor")
}

// NoAgent says that no agent is registered under an id.
func NoAgent(id AgentID) *Error {
	return Errorf(NotFound, ReasonAgentNotFound, "no agent is registered as %q", DecodeID(string(id)))
}

// NoDelegation says that no delegation has an id.
func NoDelegation(id DelegationID) *Error {
	return Errorf(NotFound, ReasonDelegationNotFound, "no delegation has the id %q", string(id))
}

// NoSession says that no session has an id.
func NoSession(id SessionID) *Error {
	return Errorf(NotFound, ReasonSessionNotFound, "no session has the id %q", string(id))
}

// NoPrincipal says that a user, a service or a tenant does not exist for the caller.
func NoPrincipal(o Object) *Error {
	return Errorf(NotFound, ReasonPrincipalNotFound, "%s does not exist", Show(o))
}

// KindOf returns the kind of the first Error in the chain, or Internal.
func KindOf(err error) Kind {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Kind
	}
	return Internal
}

// IsUnknown reports whether the failure is that the schema lacks a type, relation or permission.
func IsUnknown(err error) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && (e.Reason == ReasonUnknownType || e.Reason == ReasonUnknownPermission)
}

// Misfits reports whether the failure is that a value of the caveat context does not fit a caveat that was met.
func Misfits(err error) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && e.Reason == ReasonCaveatParameter
}

// The reasons that clients can rely on.
const (
	ReasonInvalidField        = "INVALID_FIELD"
	ReasonInvalidToken        = "INVALID_TOKEN"
	ReasonUnknownType         = "UNKNOWN_TYPE"
	ReasonUnknownPermission   = "UNKNOWN_PERMISSION"
	ReasonSessionNotFound     = "SESSION_NOT_FOUND"
	ReasonDelegationNotFound  = "DELEGATION_NOT_FOUND"
	ReasonAgentNotFound       = "AGENT_NOT_FOUND"
	ReasonPrincipalNotFound   = "PRINCIPAL_NOT_FOUND"
	ReasonAlreadyExists       = "ALREADY_EXISTS"
	ReasonNotTenantSafe       = "NOT_TENANT_SAFE"
	ReasonUnsafeShape         = "UNSAFE_SCHEMA_SHAPE"
	ReasonCoreSchema          = "CORE_SCHEMA_DIFFERS"
	ReasonSchemaMoved         = "SCHEMA_MOVED"
	ReasonSchemaInUse         = "SCHEMA_IN_USE"
	ReasonExpiredRows         = "EXPIRED_RELATIONSHIPS"
	ReasonTooManyCandidates   = "TOO_MANY_CANDIDATES"
	ReasonRevision            = "REVISION_UNAVAILABLE"
	ReasonSnapshotTooOld      = "SNAPSHOT_TOO_OLD"
	ReasonOtherAuthority      = "OTHER_AUTHORITY"
	ReasonNotActive           = "NOT_ACTIVE"
	ReasonNotEntitled         = "NOT_ENTITLED"
	ReasonNotConsented        = "NOT_CONSENTED"
	ReasonConsentToken        = "CONSENT_TOKEN_INVALID"
	ReasonConsentUsed         = "CONSENT_TOKEN_USED"
	ReasonTooDeep             = "TOO_DEEP"
	ReasonCaveatParameter     = "CAVEAT_PARAMETER_TYPE"
	ReasonEngineUnavailable   = "ENGINE_UNAVAILABLE"
	ReasonEngineRefused       = "ENGINE_REFUSED"
	ReasonConflict            = "CONFLICT"
	ReasonNoCopy              = "NO_COPY"
	ReasonNoStore             = "NO_STORE"
	ReasonDiskFull            = "DISK_FULL"
	ReasonJournalUnavailable  = "JOURNAL_UNAVAILABLE"
	ReasonNoJournal           = "NO_JOURNAL"
	ReasonNoCheckpoint        = "NO_CHECKPOINT"
	ReasonRecordNotFound      = "RECORD_NOT_FOUND"
	ReasonErased              = "ERASED"
	ReasonNotADecision        = "NOT_A_DECISION"
	ReasonJournalShare        = "JOURNAL_SHARE"
	ReasonRoleRequired        = "ROLE_REQUIRED"
	ReasonOutOfBounds         = "OUT_OF_BOUNDS"
	ReasonUnauthenticated     = "UNAUTHENTICATED"
	ReasonCallerChanged       = "CALLER_CHANGED"
	ReasonIdempotencyConflict = "IDEMPOTENCY_KEY_REUSED"
	ReasonTooLarge            = "TOO_LARGE"
	ReasonActorTokenInvalid   = "ACTOR_TOKEN_INVALID"  //nolint:gosec // no secret
	ReasonActorTokenMismatch  = "ACTOR_TOKEN_MISMATCH" //nolint:gosec // no secret
	ReasonActorTokenRequired  = "ACTOR_TOKEN_REQUIRED" //nolint:gosec // no secret
	ReasonIssuerUnavailable   = "ISSUER_UNAVAILABLE"
	ReasonBusy                = "BUSY"
	ReasonRateLimited         = "RATE_LIMITED"
	ReasonConcurrencyLimit    = "CONCURRENCY_LIMIT"
	ReasonOverloaded          = "OVERLOADED"
	ReasonMethodNotServed     = "METHOD_NOT_SERVED"
	ReasonNoSignals           = "NO_SIGNALS"
	ReasonSignalInvalid       = "SIGNAL_INVALID"
	ReasonSignalKey           = "SIGNAL_KEY"
	ReasonSignalIssuer        = "SIGNAL_ISSUER"
	ReasonSignalAudience      = "SIGNAL_AUDIENCE"
	ReasonSignalNotFound      = "SIGNAL_NOT_FOUND"
	ReasonSignalsUnavailable  = "SIGNALS_UNAVAILABLE"
)
