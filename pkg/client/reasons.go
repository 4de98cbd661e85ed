package client

import (
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/deputyauth/deputy/pkg/authz"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// Reason is the stable word that says why a call failed: the reason of the google.rpc.ErrorInfo in its status. A later server may have
// reasons that are not listed here. docs/api.md says when each of them is given.
type Reason string

// The reasons.
const (
	ReasonActorTokenInvalid    Reason = authz.ReasonActorTokenInvalid
	ReasonActorTokenMismatch   Reason = authz.ReasonActorTokenMismatch
	ReasonActorTokenRequired   Reason = authz.ReasonActorTokenRequired
	ReasonAgentNotFound        Reason = authz.ReasonAgentNotFound
	ReasonAlreadyExists        Reason = authz.ReasonAlreadyExists
	ReasonBusy                 Reason = authz.ReasonBusy
	ReasonCallerChanged        Reason = authz.ReasonCallerChanged
	ReasonCaveatParameterType  Reason = authz.ReasonCaveatParameter
	ReasonConcurrencyLimit     Reason = authz.ReasonConcurrencyLimit
	ReasonConflict             Reason = authz.ReasonConflict
	ReasonConsentTokenInvalid  Reason = authz.ReasonConsentToken
	ReasonConsentTokenUsed     Reason = authz.ReasonConsentUsed
	ReasonCoreSchemaDiffers    Reason = authz.ReasonCoreSchema
	ReasonDelegationNotFound   Reason = authz.ReasonDelegationNotFound
	ReasonDiskFull             Reason = authz.ReasonDiskFull
	ReasonEngineRefused        Reason = authz.ReasonEngineRefused
	ReasonEngineUnavailable    Reason = authz.ReasonEngineUnavailable
	ReasonErased               Reason = authz.ReasonErased
	ReasonExpiredRelationships Reason = authz.ReasonExpiredRows
	ReasonIdempotencyKeyReused Reason = authz.ReasonIdempotencyConflict
	ReasonInternal             Reason = "INTERNAL"
	ReasonInvalidField         Reason = authz.ReasonInvalidField
	ReasonInvalidToken         Reason = authz.ReasonInvalidToken
	ReasonIssuerUnavailable    Reason = authz.ReasonIssuerUnavailable
	ReasonJournalShare         Reason = authz.ReasonJournalShare
	ReasonJournalUnavailable   Reason = authz.ReasonJournalUnavailable
	ReasonMethodNotServed      Reason = authz.ReasonMethodNotServed
	ReasonNoCheckpoint         Reason = authz.ReasonNoCheckpoint
	ReasonNoCopy               Reason = authz.ReasonNoCopy
	ReasonNoJournal            Reason = authz.ReasonNoJournal
	ReasonNoSignals            Reason = authz.ReasonNoSignals
	ReasonNoStore              Reason = authz.ReasonNoStore
	ReasonNotADecision         Reason = authz.ReasonNotADecision
	ReasonNotActive            Reason = authz.ReasonNotActive
	ReasonNotConsented         Reason = authz.ReasonNotConsented
	ReasonNotEntitled          Reason = authz.ReasonNotEntitled
	ReasonNotTenantSafe        Reason = authz.ReasonNotTenantSafe
	ReasonOutOfBounds          Reason = authz.ReasonOutOfBounds
	ReasonOverloaded           Reason = authz.ReasonOverloaded
	ReasonPrincipalNotFound    Reason = authz.ReasonPrincipalNotFound
	ReasonRateLimited          Reason = authz.ReasonRateLimited
	ReasonRecordNotFound       Reason = authz.ReasonRecordNotFound
	ReasonRevisionUnavailable  Reason = authz.ReasonRevision
	ReasonRoleRequired         Reason = authz.ReasonRoleRequired
	ReasonSchemaInUse          Reason = authz.ReasonSchemaInUse
	ReasonSchemaMoved          Reason = authz.ReasonSchemaMoved
	ReasonSessionNotFound      Reason = authz.ReasonSessionNotFound
	ReasonSignalAudience       Reason = authz.ReasonSignalAudience
	ReasonSignalInvalid        Reason = authz.ReasonSignalInvalid
	ReasonSignalIssuer         Reason = authz.ReasonSignalIssuer
	ReasonSignalKey            Reason = authz.ReasonSignalKey
	ReasonSignalNotFound       Reason = authz.ReasonSignalNotFound
	ReasonSignalsUnavailable   Reason = authz.ReasonSignalsUnavailable
	ReasonSnapshotTooOld       Reason = authz.ReasonSnapshotTooOld
	ReasonOtherAuthority       Reason = authz.ReasonOtherAuthority
	ReasonStopping             Reason = "STOPPING"
	ReasonStreamStalled        Reason = "STREAM_STALLED"
	ReasonStreamTime           Reason = "STREAM_TIME"
	ReasonTooDeep              Reason = authz.ReasonTooDeep
	ReasonTooLarge             Reason = authz.ReasonTooLarge
	ReasonTooManyCandidates    Reason = authz.ReasonTooManyCandidates
	ReasonUnauthenticated      Reason = authz.ReasonUnauthenticated
	ReasonUnknownPermission    Reason = authz.ReasonUnknownPermission
	ReasonUnknownType          Reason = authz.ReasonUnknownType
	ReasonUnsafeSchemaShape    Reason = authz.ReasonUnsafeShape
)

// ReasonOf returns why a call, or one question of a bulk check, failed. It is empty for an error that carries no reason, and for nil.
func ReasonOf(err error) Reason { return Reason(infoOf(err).GetReason()) }

// FieldOf returns the request's field that is at fault, in the notation of protobuf: "resource.object_id". It is empty where none is.
func FieldOf(err error) string { return infoOf(err).GetMetadata()["field"] }

// RetryAfter returns how long the server says to wait before a call that failed is made again (google.rpc.RetryInfo); 0 where it says nothing.
func RetryAfter(err error) time.Duration {
	st, ok := status.FromError(err)
	if !ok {
		return 0
	}
	for _, detail := range st.Details() {
		if info, ok := detail.(*errdetails.RetryInfo); ok {
			return info.GetRetryDelay().AsDuration()
		}
	}
	return 0
}

// infoOf returns the ErrorInfo of an error, or nil.
func infoOf(err error) *errdetails.ErrorInfo {
	s, ok := status.FromError(err)
	if !ok || s == nil {
		return nil
	}
	for _, detail := range s.Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			return info
		}
	}
	return nil
}

// itemError turns the failure of one item into the status that a call would have failed with.
func itemError(e *deputyv1.ErrorStatus) error {
	// gRPC prints codes that it does not know.
	code := codes.Code(max(e.GetCode(), 0))
	if code == codes.OK {
		code = codes.Unknown
	}
	s := status.New(code, e.GetMessage())
	if e.GetReason() == "" {
		return s.Err()
	}
	info := &errdetails.ErrorInfo{Reason: e.GetReason(), Domain: authz.ErrorDomain}
	if e.GetField() != "" {
		info.Metadata = map[string]string{"field": e.GetField()}
	}
	if detailed, err := s.WithDetails(info); err == nil {
		s = detailed
	}
	return s.Err()
}
