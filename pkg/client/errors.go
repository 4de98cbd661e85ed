package client

import (
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/status"
)

// Reason is the stable word that says why a call failed, such as "SESSION_NOT_FOUND": the reason of the
// google.rpc.ErrorInfo in the status. It is empty for an error that has none, and for nil.
func Reason(err error) string {
	s, ok := status.FromError(err)
	if !ok || s == nil {
		return ""
	}
	for _, detail := range s.Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			return info.GetReason()
		}
	}
	return ""
}

// withReason returns the status as an error with a reason, so that Reason reads the failure of one item
// as it does that of a call.
func withReason(s *status.Status, reason string) error {
	if reason != "" {
		if detailed, err := s.WithDetails(&errdetails.ErrorInfo{Reason: reason}); err == nil {
			return detailed.Err()
		}
	}
	return s.Err()
}
