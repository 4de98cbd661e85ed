package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"regexp"
	"strings"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"github.com/authzed/spicedb/pkg/datastore"
	"github.com/jackc/pgx/v5/pgconn"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/statuses"
)

// A failure passes three places, and leaves each as something that a caller may read:
//
//	datastore ── bounded.told ──→ SpiceDB's server ── teller ──→ the connection ── Failure ──→ deputy.v1
//	                                                                           └─────────────→ authzed.api.v1
//
// bounded.told gives every error of a datastore a status, unless SpiceDB has one for it: SpiceDB would pass it on with the
// database's host and user in its text. teller does the same for what SpiceDB says of itself, in this process or elsewhere.
// The cause stays behind, for the log, where it is written once in a while: what fails, fails at every call.

// SpiceDB's reasons for a type, relation or permission that the schema does not have.
const (
	reasonUnknownDefinition = "ERROR_REASON_UNKNOWN_DEFINITION"
	reasonUnknownRelation   = "ERROR_REASON_UNKNOWN_RELATION_OR_PERMISSION"
	reasonPrecondition      = "ERROR_REASON_WRITE_OR_DELETE_PRECONDITION_FAILURE"
	reasonExists            = "ERROR_REASON_ATTEMPT_TO_RECREATE_RELATIONSHIP"
	// reasonTooDeep and reasonParameter are SpiceDB's of a single check: what it leads to is too deep, or a value of
	// the context does not fit a caveat.
	reasonTooDeep   = "ERROR_REASON_MAXIMUM_DEPTH_EXCEEDED"
	reasonParameter = "ERROR_REASON_CAVEAT_PARAMETER_TYPE_ERROR"
	// reasonCursor is SpiceDB's of a cursor that it did not make, or made for another call.
	reasonCursor = "ERROR_REASON_INVALID_CURSOR"
)

// What callers read where nothing is wrong with their call.
const (
	messageUnavailable = "the engine does not answer; try again" + statuses.WriteUnknown
	messageReadOnly    = "the engine takes no writes at present: its database, or SpiceDB itself, only reads; " +
		"nothing was written; try again when the server's operator has ended that"
	messageFull     = "the database has no room left: nothing was written; try again when the server's operator has made room"
	messageDenied   = "the engine refuses what the server asks of it; the server's operator finds the reason in its log"
	messageConflict = "the write conflicted with another one; nothing was written; try again"
	messageTooLong  = "the database does not take a value of the call: an id or a context is too long, or holds what it cannot keep"
	messageSpiceDB  = "SpiceDB failed at this call; try again. Its own log says why" + statuses.WriteUnknown
	messageInternal = "internal error"
	messageLate     = "the engine did not answer in time; try again" + statuses.WriteUnknown
	messageRevision = "the revision cannot be read: it was collected, belongs to another deployment, or lies in the future"
)

func unavailable() *status.Status {
	return statuses.New(codes.Unavailable, authz.ReasonEngineUnavailable, "", messageUnavailable)
}

func readOnly() *status.Status {
	return statuses.New(codes.Unavailable, authz.ReasonEngineUnavailable, "", messageReadOnly)
}

// told returns an error of the datastore with the status that it stands for, or as it is where it is SpiceDB's business: it
// has a status for those, or it is the end of the caller's context, which ctx is.
func (b *bounded) told(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if callers, ok := errors.AsType[callersError](err); ok {
		return callers.error
	}
	st := b.statusOf(ctx, err)
	if st == nil {
		return err
	}
	if already, ok := errors.AsType[statusError](err); ok {
		err = already.cause
	}
	if code := st.Code(); code == codes.Unavailable || code == codes.Internal {
		if kept, ok := b.complaints.Next(); ok {
			fields := []zap.Field{zap.Int("messages left out before", kept), zap.Error(err)}
			if see := databaseSettings(err); see != "" {
				fields = append(fields, zap.String("what to do", see))
			}
			b.log.Warn("the datastore fails", fields...)
		}
	}
	return statusError{cause: err, status: st}
}

// statusOf returns the status of an error of the datastore, nil where that is up to SpiceDB.
func (b *bounded) statusOf(ctx context.Context, err error) *status.Status {
	refused, isRefusal := errors.AsType[*pgconn.PgError](err)
	switch {
	case ctx.Err() != nil && isRefusal && refused.Code == "57014":
		return nil // the database ended the statement because the caller has left
	case isRefusal:
		return refusedBy(refused.Code, err)
	case errors.As(err, new(datastore.InvalidRevisionError)):
		return statuses.New(codes.OutOfRange, authz.ReasonRevision, "", "the revision cannot be read: "+err.Error())
	case statuses.Within(err) != nil:
		return statuses.Within(err)
	case ctx.Err() != nil && endedContext(err), isSpiceDBs(err):
		return nil
	case b.patience != nil, endedContext(err), isConnection(err):
		// A database that cannot be reached. Drivers also say that a context has ended where a connection has.
		return unavailable()
	default:
		return statuses.New(codes.Internal, "INTERNAL", "", messageInternal)
	}
}

// refusedBy returns the status for an SQLSTATE of PostgreSQL or CockroachDB.
func refusedBy(sqlState string, err error) *status.Status {
	within := func(classes ...string) bool {
		for _, class := range classes {
			if strings.HasPrefix(sqlState, class) {
				return true
			}
		}
		return false
	}
	switch {
	case within("25006"):
		return readOnly()
	case within("53100"):
		return statuses.New(codes.ResourceExhausted, authz.ReasonDiskFull, "", messageFull)
	case within("40", "23", "55P03"):
		return statuses.New(codes.Aborted, authz.ReasonConflict, "", messageConflict)
	case within("22023") && strings.Contains(err.Error(), "is in the future"):
		return statuses.New(codes.OutOfRange, authz.ReasonRevision, "", messageRevision)
	case within("22", "54"):
		return statuses.New(codes.InvalidArgument, authz.ReasonEngineRefused, "", messageTooLong)
	case within("28", "3D", "3F", "42"):
		return statuses.New(codes.Unavailable, authz.ReasonEngineRefused, "", messageDenied)
	default:
		return unavailable()
	}
}

// endedContext reports whether an error says that a context has ended, whosever that is.
func endedContext(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

// isConnection reports whether an error is one of a network connection.
func isConnection(err error) bool {
	_, isNetwork := errors.AsType[net.Error](err)
	return isNetwork || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}

// isSpiceDBs reports whether an error is one that SpiceDB's handlers give a status: something is not there, or they are told to
// stop watching.
func isSpiceDBs(err error) bool {
	for _, target := range []any{
		new(datastore.ErrNotFound), new(datastore.CounterNotRegisteredError), new(datastore.CounterAlreadyRegisteredError),
		new(datastore.WatchDisconnectedError), new(datastore.WatchCanceledError), new(datastore.WatchDisabledError),
		new(datastore.WatchRetryableError), new(datastore.ReadOnlyError), new(datastore.MaximumChangesSizeExceededError),
	} {
		if errors.As(err, target) {
			return true
		}
	}
	return errors.Is(err, datastore.ErrSchemaNotFound) || errors.Is(err, datastore.ErrSchemaHashPreconditionFailed)
}

// statusError is an error with the status that callers get. Its text is the status' too: SpiceDB wraps errors, and puts the text
// of the whole into the message.
type statusError struct {
	cause  error
	status *status.Status
}

// Error is what callers read.
func (e statusError) Error() string { return e.status.Message() }

// GRPCStatus is what callers get.
func (e statusError) GRPCStatus() *status.Status { return e.status }

// Unwrap is the cause, for code that looks for its kind.
func (e statusError) Unwrap() error { return e.cause }

// teller makes what SpiceDB answers over the engine's connection fit to be read: by Failure, which knows nothing but the
// connection, and by callers of authzed.api.v1. Statuses that are about the call pass as they are.
type teller struct {
	// remote says that SpiceDB runs elsewhere: then its calls get an end too, which the gate gives them here.
	remote bool
	// own is the gate's, which is told by it for whom a call is made; "" where SpiceDB runs elsewhere.
	own        string
	bounds     *bounds
	log        *zap.Logger
	complaints authz.Seldom
}

// options have a connection use the teller.
func (t *teller) options() []grpc.DialOption {
	return []grpc.DialOption{grpc.WithChainUnaryInterceptor(t.unary), grpc.WithChainStreamInterceptor(t.stream)}
}

// limited returns the context that a call to SpiceDB is made with.
func (t *teller) limited(ctx context.Context, method string) (context.Context, context.CancelFunc) {
	ctx = naming(ctx, t.own)
	limit := t.bounds.limit(method)
	if !t.remote || limit == 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, limit)
}

func (t *teller) unary(
	ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, call grpc.UnaryInvoker, opts ...grpc.CallOption,
) error {
	limited, cancel := t.limited(ctx, method)
	defer cancel()
	return t.told(ctx, call(limited, method, req, reply, conn, opts...))
}

func (t *teller) stream(
	ctx context.Context, desc *grpc.StreamDesc, conn *grpc.ClientConn, method string, call grpc.Streamer, opts ...grpc.CallOption,
) (grpc.ClientStream, error) {
	limited, cancel := t.limited(ctx, method)
	stream, err := call(limited, desc, conn, method, opts...)
	if err != nil {
		cancel()
		return nil, t.told(ctx, err)
	}
	return &toldStream{stream, t, ctx, cancel}, nil
}

// toldStream is a stream whose end is told.
type toldStream struct {
	grpc.ClientStream
	teller *teller
	caller context.Context //nolint:containedctx // a stream has its context
	cancel context.CancelFunc
}

// RecvMsg is grpc.ClientStream's.
func (s *toldStream) RecvMsg(m any) error {
	err := s.ClientStream.RecvMsg(m)
	if err != nil {
		s.cancel()
	}
	return s.teller.told(s.caller, err)
}

// SendMsg is grpc.ClientStream's.
func (s *toldStream) SendMsg(m any) error { return s.teller.told(s.caller, s.ClientStream.SendMsg(m)) }

// Header is grpc.ClientStream's.
func (s *toldStream) Header() (metadata.MD, error) {
	header, err := s.ClientStream.Header()
	return header, s.teller.told(s.caller, err)
}

// told returns what callers may read of a call's failure. ctx is the caller's context.
func (t *teller) told(ctx context.Context, err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	if st := t.statusOf(ctx, status.Convert(err)); st != nil {
		return statusError{cause: err, status: st}
	}
	return err
}

// Told returns what callers may read of the failure of one item of an answer. Calls that are answered item by item write nothing.
func (e *Engine) Told(st *status.Status) *status.Status {
	if told := e.teller.statusOf(context.Background(), st); told != nil {
		st = told
	}
	return statuses.WroteNothing(st)
}

// statusOf returns the status to be told instead of SpiceDB's; nil for one that is told as it is.
func (t *teller) statusOf(ctx context.Context, st *status.Status) *status.Status {
	switch info := statuses.Info(st); {
	case info.GetDomain() == authz.ErrorDomain:
		return nil
	case info.GetReason() == v1.ErrorReason_ERROR_REASON_SERVICE_READ_ONLY.String():
		return readOnly()
	case info.GetReason() == v1.ErrorReason_ERROR_REASON_SERIALIZATION_FAILURE.String():
		reworded := st.Proto()
		reworded.Message = messageConflict
		return status.FromProto(reworded)
	case info != nil:
		return nil
	}
	switch st.Code() {
	case codes.Unavailable:
		t.complain(st)
		return unavailable()
	case codes.Unauthenticated, codes.PermissionDenied:
		// SpiceDB itself knows neither: this is about the key that Deputy shows.
		t.complain(st)
		return statuses.New(codes.Unavailable, authz.ReasonEngineRefused, "", messageDenied)
	case codes.Canceled, codes.DeadlineExceeded:
		return t.ended(ctx, st.Code())
	case codes.Unknown, codes.Internal:
		return t.flaw(st)
	case codes.InvalidArgument:
		if !unreadableToken.MatchString(st.Message()) {
			return nil
		}
		return statuses.New(codes.InvalidArgument, authz.ReasonInvalidToken, "",
			"the token cannot be read: it was changed, or belongs to another kind of datastore; take one from an answer of this server")
	default:
		return nil
	}
}

// ended returns the status of a call that came to no end, where that is not its caller's doing.
func (t *teller) ended(ctx context.Context, code codes.Code) *status.Status {
	switch {
	case ctx.Err() != nil:
		return nil
	case code == codes.DeadlineExceeded && !t.remote:
		return statuses.New(code, authz.ReasonEngineUnavailable, "",
			"the engine has not come to an end in the time that a call may take; ask for less at a time")
	default:
		return unavailable()
	}
}

// unknownName matches the texts with which SpiceDB's reflection says, without a status, that the schema has no such name.
var unknownName = regexp.MustCompile("^(object definition|relation/permission|caveat) `[a-z0-9_/]*` not found( under definition `[a-z0-9_/]*`)?$")

// wrongContext matches the texts with which SpiceDB says, without a status, that a relationship that is to be written has a context
// that its caveat does not take.
var wrongContext = regexp.MustCompile("^(unknown parameter `|could not convert context parameter `)")

// foreignToken is in what SpiceDB says, without a code of its own, of a ZedToken that another datastore made.
const foreignToken = "different datastore instance"

// unreadableToken matches what SpiceDB says of a ZedToken that it cannot read.
var unreadableToken = regexp.MustCompile(`^invalid revision requested$|^failed to decode start revision`)

// flaw returns the status for one with which SpiceDB says that something is wrong with itself. Its text, which was seen to hold
// stacks and addresses, is for the log.
func (t *teller) flaw(st *status.Status) *status.Status {
	switch {
	case unknownName.MatchString(st.Message()):
		return statuses.New(codes.FailedPrecondition, authz.ReasonUnknownType, "", st.Message())
	case wrongContext.MatchString(st.Message()):
		return statuses.New(codes.InvalidArgument, authz.ReasonInvalidField, "", "the context of a relationship's caveat: "+st.Message())
	case strings.Contains(st.Message(), foreignToken):
		return statuses.New(codes.OutOfRange, authz.ReasonRevision, "", messageRevision)
	case t.remote:
		t.complain(st)
		return statuses.New(codes.Unavailable, authz.ReasonEngineUnavailable, "", messageSpiceDB)
	default:
		return statuses.New(codes.Internal, "INTERNAL", "", messageInternal)
	}
}

// complain logs a failure of SpiceDB's, once in a while.
func (t *teller) complain(st *status.Status) {
	if kept, ok := t.complaints.Next(); ok {
		failed := "SpiceDB fails"
		if t.remote {
			failed = "the server of --remote-endpoint fails"
		}
		t.log.Warn(failed, zap.Int("messages left out before", kept), zap.Stringer("code", st.Code()), zap.String("says", st.Message()))
	}
}

// Failure turns an error of the connection or of the datastore into an *authz.Error. The message is
// Deputy's own; SpiceDB's stays behind it, for the log.
func Failure(op string, err error) error {
	if err == nil {
		return nil
	}
	out := &authz.Error{Op: op, Err: err}
	st := statuses.Within(err)
	if st == nil {
		st = status.FromContextError(err)
	}
	code := st.Code()
	if errors.As(err, new(datastore.InvalidRevisionError)) || statuses.Info(st).GetReason() == authz.ReasonInvalidToken {
		code = codes.OutOfRange // Deputy itself shows SpiceDB only tokens that it once had
	}
	switch code {
	case codes.Canceled:
		out.Kind, out.Message = authz.Canceled, "the call was cancelled"
	case codes.DeadlineExceeded:
		out.Kind, out.Reason, out.Message = authz.Deadline, authz.ReasonEngineUnavailable, messageLate
	case codes.Unavailable:
		out.Kind, out.Reason, out.Message = authz.Unavailable, authz.ReasonEngineUnavailable, messageUnavailable
	case codes.ResourceExhausted:
		out.Kind, out.Reason, out.Message = authz.Exhausted, authz.ReasonEngineRefused, "the engine's limits do not admit this"
	case codes.Aborted:
		out.Kind, out.Reason, out.Message = authz.Aborted, authz.ReasonConflict, messageConflict
	case codes.OutOfRange:
		out.Kind, out.Reason, out.Message = authz.OutOfRange, authz.ReasonRevision, messageRevision
	case codes.AlreadyExists:
		out.Kind, out.Reason, out.Message = authz.Exists, authz.ReasonAlreadyExists, "a relationship of the write exists already"
	case codes.InvalidArgument:
		out.Kind, out.Reason, out.Message = authz.Invalid, authz.ReasonEngineRefused, "the engine refuses the request"
	case codes.FailedPrecondition, codes.NotFound:
		out.Kind, out.Reason, out.Message = authz.Precondition, authz.ReasonEngineRefused, "the engine cannot answer this with its schema and data"
	default:
		out.Message = "the engine failed"
	}
	info := statuses.Info(st)
	if info.GetDomain() == authz.ErrorDomain && (code == codes.Unavailable || code == codes.ResourceExhausted || code == codes.Aborted) {
		out.Reason, out.Message, out.RetryAfter = info.GetReason(), st.Message(), statuses.RetryAfter(st)
	}
	switch info.GetReason() {
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
	case reasonCursor:
		foreign := authz.ForeignCursor()
		out.Kind, out.Reason, out.Field, out.Message = foreign.Kind, foreign.Reason, foreign.Field, foreign.Message
	case reasonExists:
		out.Kind, out.Reason, out.Message = authz.Exists, authz.ReasonAlreadyExists, "a relationship of the write exists already"
	}
	return out
}

// misfit passes on which caveat and parameter SpiceDB found a value not to fit, and not the value, which may be a relationship's.
func misfit(st *status.Status) string {
	of := statuses.Info(st).GetMetadata()
	name := ""
	if of["caveat_name"] != "" && of["parameter_name"] != "" {
		name = fmt.Sprintf(" %q of the caveat %q", of["parameter_name"], of["caveat_name"])
	}
	return "the parameter" + name + " does not take the value that the context has for it, or that was written with a relationship"
}
