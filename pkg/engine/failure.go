package engine

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/authzed/spicedb/pkg/datastore"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/deputyauth/deputy/pkg/authz"
)

// SpiceDB's reasons for a type, relation or permission that the schema does not have.
const (
	reasonUnknownDefinition = "ERROR_REASON_UNKNOWN_DEFINITION"
	reasonUnknownRelation   = "ERROR_REASON_UNKNOWN_RELATION_OR_PERMISSION"
	reasonPrecondition      = "ERROR_REASON_WRITE_OR_DELETE_PRECONDITION_FAILURE"
	reasonExists            = "ERROR_REASON_ATTEMPT_TO_RECREATE_RELATIONSHIP"
	// reasonDiskFull is the embedded store's.
	reasonDiskFull = "DISK_FULL"
	// reasonTooDeep and reasonParameter are SpiceDB's of a single check: what it leads to is too deep, or a value of
	// the context does not fit a caveat.
	reasonTooDeep   = "ERROR_REASON_MAXIMUM_DEPTH_EXCEEDED"
	reasonParameter = "ERROR_REASON_CAVEAT_PARAMETER_TYPE_ERROR"
)

// Failure turns an error of the connection or of the datastore into an *authz.Error. The message is
// Deputy's own; SpiceDB's stays behind it, for the log.
func Failure(op string, err error) error {
	if err == nil {
		return nil
	}
	out := &authz.Error{Op: op, Err: err}
	st := status.Convert(err)
	code := st.Code()
	switch {
	case errors.As(err, &datastore.InvalidRevisionError{}),
		// SpiceDB answers a snapshot of another datastore with an error that has no code.
		code == codes.Unknown && strings.Contains(st.Message(), "different datastore instance"):
		code = codes.OutOfRange
	case errors.Is(err, context.DeadlineExceeded):
		code = codes.DeadlineExceeded
	case errors.Is(err, context.Canceled):
		code = codes.Canceled
	}
	switch code {
	case codes.Canceled:
		out.Kind, out.Message = authz.Canceled, "the call was cancelled"
	case codes.DeadlineExceeded:
		out.Kind, out.Reason, out.Message = authz.Deadline, authz.ReasonEngineUnavailable, "the engine did not answer in time"
	case codes.Unavailable:
		out.Kind, out.Reason, out.Message = authz.Unavailable, authz.ReasonEngineUnavailable, "the engine does not answer"
	case codes.ResourceExhausted:
		out.Kind, out.Reason, out.Message = authz.Exhausted, authz.ReasonEngineRefused, "the engine's limits do not admit this"
	case codes.Aborted:
		out.Kind, out.Reason, out.Message = authz.Aborted, authz.ReasonConflict, "the write conflicted with another one, try again"
	case codes.OutOfRange:
		out.Kind, out.Reason, out.Message = authz.OutOfRange, authz.ReasonRevision, "the revision cannot be read: it is gone, foreign or in the future"
	case codes.AlreadyExists:
		out.Kind, out.Reason, out.Message = authz.Exists, authz.ReasonAlreadyExists, "a relationship of the write exists already"
	case codes.InvalidArgument:
		out.Kind, out.Reason, out.Message = authz.Invalid, authz.ReasonEngineRefused, "the engine refuses the request"
	case codes.FailedPrecondition, codes.NotFound:
		out.Kind, out.Reason, out.Message = authz.Precondition, authz.ReasonEngineRefused, "the engine cannot answer this with its schema and data"
	default:
		out.Message = "the engine failed"
	}
	switch reasonOf(st) {
	case reasonUnknownDefinition:
		out.Kind, out.Reason, out.Message = authz.Precondition, authz.ReasonUnknownType, "the schema does not have this type"
	case reasonUnknownRelation:
		out.Kind, out.Reason, out.Message = authz.Precondition, authz.ReasonUnknownPermission, "the schema does not have this relation or permission"
	case reasonPrecondition:
		out.Kind, out.Reason, out.Message = authz.Precondition, authz.ReasonConflict, "a precondition of the write does not hold"
	case reasonTooDeep:
		out.Kind, out.Reason = authz.Precondition, authz.ReasonTooDeep
		out.Message = "the relationships lead further than the engine follows them, or back to where they began; " +
			"make the hierarchy flatter, or take out the relationship that closes the circle"
	case reasonParameter:
		out.Kind, out.Reason = authz.Invalid, authz.ReasonCaveatParameter
		out.Message = misfit(st)
	case authz.ReasonBusy:
		out.Reason, out.Message = authz.ReasonBusy, "the engine is busy with calls of this kind; try again"
	case reasonDiskFull:
		out.Reason, out.Message = authz.ReasonDiskFull, "the server's disk is nearly full: nothing is written until there is room, reads go on"
	case reasonExists:
		out.Kind, out.Reason, out.Message = authz.Exists, authz.ReasonAlreadyExists, "a relationship of the write exists already"
	}
	return out
}

// misfit passes on which caveat and parameter SpiceDB found a value not to fit, and not the value, which may be a relationship's.
func misfit(st *status.Status) string {
	of := infoOf(st).GetMetadata()
	name := ""
	if of["caveat_name"] != "" && of["parameter_name"] != "" {
		name = fmt.Sprintf(" %q of the caveat %q", of["parameter_name"], of["caveat_name"])
	}
	return "the parameter" + name + " does not take the value that the context has for it, or that was written with a relationship"
}

// reasonOf returns the reason of the status' ErrorInfo, or "".
func reasonOf(st *status.Status) string {
	return infoOf(st).GetReason()
}

// infoOf returns the status' ErrorInfo, or nil.
func infoOf(st *status.Status) *errdetails.ErrorInfo {
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			return info
		}
	}
	return nil
}

// readable is what SpiceDB says of a database, for Deputy's operators: without the connection string,
// which may hold a password, and with the command that they have.
func readable(err error, uri string) error {
	text := strings.ReplaceAll(err.Error(), "spicedb datastore migrate", "deputy migrate")
	if uri != "" {
		text = strings.ReplaceAll(text, uri, "[connection string]")
	}
	return errors.New(text)
}
