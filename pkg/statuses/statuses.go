// Package statuses makes the gRPC statuses that Deputy itself answers with, all of them: so they have one shape, an ErrorInfo
// with a reason and Deputy's domain.
package statuses

import (
	"errors"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/deputyauth/deputy/pkg/authz"
)

// maxMessage is the longest message of a status, in bytes: some quote what the caller sent, and a message is sent as a header.
const maxMessage = 2 << 10

// New returns a status. The reason is one of pkg/authz, or "" for a status that needs none; field is the field of the request
// that is wrong, or "". The message is what callers read: it holds no internals, and says what to do.
func New(code codes.Code, reason, field, message string) *status.Status {
	message = Bounded(message)
	st := status.New(code, message)
	if reason == "" {
		return st
	}
	info := &errdetails.ErrorInfo{Reason: reason, Domain: authz.ErrorDomain}
	detailed, err := st.WithDetails(info)
	if field != "" {
		info.Metadata = map[string]string{"field": field}
		detailed, err = st.WithDetails(info, &errdetails.BadRequest{
			FieldViolations: []*errdetails.BadRequest_FieldViolation{{Field: field, Description: message}},
		})
	}
	if err != nil {
		return st
	}
	return detailed
}

// Retry adds to a status how long to wait before the same call makes sense again (google.rpc.RetryInfo); 0 adds nothing.
func Retry(st *status.Status, after time.Duration) *status.Status {
	if after <= 0 {
		return st
	}
	if detailed, err := st.WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(after)}); err == nil {
		return detailed
	}
	return st
}

// RetryAfter returns how long a status says to wait; 0 where it says nothing.
func RetryAfter(st *status.Status) time.Duration {
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.RetryInfo); ok {
			return info.GetRetryDelay().AsDuration()
		}
	}
	return 0
}

// Bounded returns a message that is no longer than a status of Deputy's may have, its end cut off if need be.
func Bounded(message string) string {
	if len(message) > maxMessage {
		return strings.ToValidUTF8(message[:maxMessage], "") + "…"
	}
	return message
}

// Within returns the status of the first error in the chain that has one, as that error has it; nil if none has. gRPC's own
// status.FromError puts the text of the whole chain into the message, and what lies around a status is not made for callers.
func Within(err error) *status.Status {
	var has interface{ GRPCStatus() *status.Status }
	if !errors.As(err, &has) {
		return nil
	}
	return has.GRPCStatus()
}

// Info returns the ErrorInfo of a status, Deputy's or SpiceDB's; nil if it has none.
func Info(st *status.Status) *errdetails.ErrorInfo {
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			return info
		}
	}
	return nil
}

// spiceDBDomain is the domain of the ErrorInfo in SpiceDB's own statuses.
const spiceDBDomain = "authzed.com"

// SpiceDB returns a status as SpiceDB makes it, for what Deputy answers in its place: with its domain and the metadata of its reason.
func SpiceDB(code codes.Code, reason, message string, metadata map[string]string) *status.Status {
	st := status.New(code, Bounded(message))
	if detailed, err := st.WithDetails(&errdetails.ErrorInfo{Reason: reason, Domain: spiceDBDomain, Metadata: metadata}); err == nil {
		return detailed
	}
	return st
}
