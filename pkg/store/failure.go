package store

import (
	"errors"
	"fmt"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"github.com/authzed/spicedb/pkg/spiceerrors"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// ErrConflict is the cause when a transaction read what another one changed before it could commit. The
// transaction is tried again by itself; it surfaces, with status ABORTED, only where retries are off
// or have not helped. A function given to ReadWriteTx that returns it is tried again too.
var ErrConflict = conflict{}

// ReasonDiskFull is the reason (google.rpc.ErrorInfo) of a write that is refused because its disk has too
// little room.
const ReasonDiskFull = "DISK_FULL"

// ErrClosed is what everything returns once the store is closed.
var ErrClosed = errors.New("store: it is closed")

// ErrDamaged is the cause when the store finds something that it did not write.
var ErrDamaged = errors.New("the store is damaged")

// ErrInUse is the cause when another process, or another Store, has the directory open.
var ErrInUse = errors.New("the directory is in use")

// conflict is the type of ErrConflict. It is SpiceDB's retryable ABORTED.
type conflict struct{}

func (conflict) Error() string {
	return "the transaction conflicts with another one; try again, or write less at once"
}

// errorDomain is Deputy's (authz.ErrorDomain), which this room does not know.
const errorDomain = "deputy.dev"

// GRPCStatus is what an API says.
func (c conflict) GRPCStatus() *status.Status {
	return spiceerrors.WithCodeAndDetails(c, codes.Aborted,
		spiceerrors.ForReason(v1.ErrorReason_ERROR_REASON_SERIALIZATION_FAILURE, nil))
}

// refused is a write that the store does not take, with the status that an API gives.
type refused struct {
	code codes.Code
	// reason is what a program reads, or empty.
	reason  string
	message string
	cause   error
}

func (e *refused) Error() string { return e.message }

func (e *refused) Unwrap() error { return e.cause }

// GRPCStatus is what an API says. The cause is for the log.
func (e *refused) GRPCStatus() *status.Status {
	st := status.New(e.code, e.message)
	if e.reason != "" {
		if detailed, err := st.WithDetails(&errdetails.ErrorInfo{Reason: e.reason, Domain: errorDomain}); err == nil {
			return detailed
		}
	}
	return st
}

// damaged returns an error that says what was found.
func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: found %s; restore a backup into an empty directory", ErrDamaged, fmt.Sprintf(format, args...))
}
