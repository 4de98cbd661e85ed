package store

import (
	"errors"
	"fmt"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"github.com/authzed/spicedb/pkg/spiceerrors"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/statuses"
)

// ErrConflict is the cause when a transaction read what another one changed before it could commit. The
// transaction is tried again by itself; it surfaces, with status ABORTED, only where retries are off
// or have not helped. A function given to ReadWriteTx that returns it is tried again too.
var ErrConflict = conflict{}

// ErrClosed is what everything returns once the store is closed.
var ErrClosed error = &refused{
	code: codes.Unavailable, reason: authz.ReasonEngineUnavailable, message: "the server is stopping; try again elsewhere",
}

// ErrDamaged is the cause when the store finds something that it did not write.
var ErrDamaged = errors.New("the store is damaged")

// ErrInUse is the cause when another process, or another Store, has the directory open.
var ErrInUse = errors.New("the directory is in use")

// ErrStillOpen is the cause when a store that was closed may still use its files: something reads it, or its disk does not answer.
var ErrStillOpen = errors.New("its files are still in use")

// conflict is the type of ErrConflict. It is SpiceDB's retryable ABORTED.
type conflict struct{}

func (conflict) Error() string {
	return "the transaction conflicts with another one; try again, or write less at once"
}

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
func (e *refused) GRPCStatus() *status.Status { return statuses.New(e.code, e.reason, "", e.message) }

// damage is an error of something that the store did not write. What was found is for the log.
type damage struct{ error }

// GRPCStatus is what an API says.
func (damage) GRPCStatus() *status.Status {
	return statuses.New(codes.Unavailable, authz.ReasonEngineUnavailable, "",
		"the store is damaged where this call reads it; the server's operator has to restore a backup, and the server's log says what is damaged")
}

// Unwrap returns the error itself.
func (d damage) Unwrap() error { return d.error }

// damaged returns an error that says what was found.
func damaged(format string, args ...any) error {
	return damage{fmt.Errorf("%w: found %s; restore a backup into an empty directory", ErrDamaged, fmt.Sprintf(format, args...))}
}
