package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"github.com/authzed/spicedb/pkg/datastore"
	"github.com/jackc/pgx/v5/pgconn"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/statuses"
)

const secret = "secret of 10.0.0.1"

// refusalOf is an error of PostgreSQL's.
func refusalOf(sqlState string) error {
	return fmt.Errorf("%s: %w", secret, &pgconn.PgError{Code: sqlState, Message: secret})
}

// TestDatastoreFailures holds what each kind of a datastore's failure becomes, also where SpiceDB wraps it.
func TestDatastoreFailures(t *testing.T) {
	precondition := statuses.New(codes.FailedPrecondition, authz.ReasonSchemaMoved, "", "theirs").Err()
	for name, c := range map[string]struct {
		err      error
		database bool
		want     string
	}{
		"the disk is full":             {refusalOf("53100"), true, "ResourceExhausted DISK_FULL"},
		"no connection is left":        {refusalOf("53300"), true, "Unavailable ENGINE_UNAVAILABLE"},
		"it stops":                     {refusalOf("57P01"), true, "Unavailable ENGINE_UNAVAILABLE"},
		"it only reads":                {refusalOf("25006"), true, "Unavailable ENGINE_UNAVAILABLE"},
		"a conflict":                   {refusalOf("40001"), true, "Aborted CONFLICT"},
		"no right":                     {refusalOf("42501"), true, "Unavailable ENGINE_REFUSED"},
		"another password":             {refusalOf("28P01"), true, "Unavailable ENGINE_REFUSED"},
		"too long an id":               {refusalOf("54000"), true, "InvalidArgument ENGINE_REFUSED"},
		"a connection breaks":          {fmt.Errorf("%s: %w", secret, io.ErrUnexpectedEOF), true, "Unavailable ENGINE_UNAVAILABLE"},
		"a driver gives up":            {fmt.Errorf("%s: %w", secret, context.Canceled), true, "Unavailable ENGINE_UNAVAILABLE"},
		"another error of a database":  {errors.New(secret), true, "Unavailable ENGINE_UNAVAILABLE"},
		"an error of one in process":   {errors.New(secret), false, "Internal INTERNAL"},
		"a revision that is gone":      {datastore.NewInvalidRevisionErr(datastore.NoRevision, datastore.RevisionStale), false, "OutOfRange REVISION_UNAVAILABLE"},
		"a status within":              {fmt.Errorf("%s: %w", secret, precondition), false, "FailedPrecondition SCHEMA_MOVED"},
		"a name that is not there":     {datastore.NewNamespaceNotFoundErr("document"), false, "Unknown "},
		"the end of a transaction":     {fmt.Errorf("%s: %w", secret, callersError{precondition}), false, "FailedPrecondition SCHEMA_MOVED"},
		"SpiceDB's, in a transaction":  {callersError{errors.New("theirs")}, true, "Unknown "},
		"a watch that was interrupted": {datastore.NewWatchDisconnectedErr(), true, "Unknown "},
	} {
		b := &bounded{complaints: new(authz.Seldom), log: zap.NewNop()}
		if c.database {
			b.patience = newPatience(time.Second, 1)
		}
		told := b.told(t.Context(), c.err)
		for _, err := range []error{told, fmt.Errorf("unable to read: %w", told)} {
			st := status.Convert(err)
			if got := st.Code().String() + " " + statuses.Info(st).GetReason(); got != c.want || strings.Contains(st.Message(), secret) {
				t.Errorf("%s: %s: %s, want %s", name, got, st.Message(), c.want)
			}
		}
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	b := &bounded{complaints: new(authz.Seldom), log: zap.NewNop()}
	if err := b.told(ended, context.Canceled); !errors.Is(err, context.Canceled) || statuses.Within(err) != nil {
		t.Errorf("the caller has left: %v", err)
	}
}

// TestSpiceDBFailures holds what SpiceDB says of itself and what becomes of it, in this process and elsewhere.
func TestSpiceDBFailures(t *testing.T) {
	detailed := func(reason v1.ErrorReason) *status.Status {
		st, err := status.New(codes.Aborted, secret).WithDetails(&errdetails.ErrorInfo{Reason: reason.String(), Domain: "authzed.com"})
		if err != nil {
			t.Fatal(err)
		}
		return st
	}
	const same = "Internal INTERNAL"
	for name, c := range map[string]struct {
		says           *status.Status
		inside, remote string
	}{
		"a defect":              {status.New(codes.Unknown, "BUG: "+secret+" /usr/src/bulkcheck.go:115"), same, "Unavailable ENGINE_UNAVAILABLE"},
		"its database":          {status.New(codes.Internal, secret), same, "Unavailable ENGINE_UNAVAILABLE"},
		"the connection":        {status.New(codes.Unavailable, secret), "Unavailable ENGINE_UNAVAILABLE", "Unavailable ENGINE_UNAVAILABLE"},
		"a wrong key":           {status.New(codes.Unauthenticated, secret), "Unavailable ENGINE_REFUSED", "Unavailable ENGINE_REFUSED"},
		"a key without a right": {status.New(codes.PermissionDenied, secret), "Unavailable ENGINE_REFUSED", "Unavailable ENGINE_REFUSED"},
		"it stops":              {status.New(codes.Canceled, secret), "Unavailable ENGINE_UNAVAILABLE", "Unavailable ENGINE_UNAVAILABLE"},
		"its time":              {status.New(codes.DeadlineExceeded, secret), "DeadlineExceeded ENGINE_UNAVAILABLE", "Unavailable ENGINE_UNAVAILABLE"},
		"it only reads": {
			detailed(v1.ErrorReason_ERROR_REASON_SERVICE_READ_ONLY), "Unavailable ENGINE_UNAVAILABLE", "Unavailable ENGINE_UNAVAILABLE",
		},
		"a conflict": {
			detailed(v1.ErrorReason_ERROR_REASON_SERIALIZATION_FAILURE),
			"Aborted ERROR_REASON_SERIALIZATION_FAILURE", "Aborted ERROR_REASON_SERIALIZATION_FAILURE",
		},
		"another's token": {
			status.New(codes.Unknown, "zedtoken is for a different datastore instance"), "OutOfRange REVISION_UNAVAILABLE", "OutOfRange REVISION_UNAVAILABLE",
		},
		"an unknown name": {
			status.New(codes.Unknown, "relation/permission `vue` not found under definition `document`"),
			"FailedPrecondition UNKNOWN_TYPE", "FailedPrecondition UNKNOWN_TYPE",
		},
		"a mistake of the caller's": {status.New(codes.InvalidArgument, "no such thing"), "InvalidArgument ", "InvalidArgument "},
	} {
		for where, want := range map[bool]string{false: c.inside, true: c.remote} {
			core, logs := observer.New(zap.DebugLevel)
			tells := &teller{remote: where, log: zap.New(core)}
			err := tells.told(t.Context(), c.says.Err())
			st := status.Convert(err)
			if got := st.Code().String() + " " + statuses.Info(st).GetReason(); got != want || strings.Contains(st.Message(), secret) {
				t.Errorf("%s, remote %v: %s: %s, want %s", name, where, got, st.Message(), want)
			}
			if st.Code() == codes.Internal && !strings.Contains(errors.Unwrap(err).Error(), secret) {
				t.Errorf("%s: the log does not get the cause: %v", name, errors.Unwrap(err))
			}
			if logs.FilterLevelExact(zap.ErrorLevel).Len() > 0 {
				t.Errorf("%s: %v", name, logs.All())
			}
		}
	}
}

// TestRemoteCallsEnd: a SpiceDB elsewhere that does not answer ends nobody's call later than a call may take, without a deadline
// of its caller's.
func TestRemoteCallsEnd(t *testing.T) {
	limits := usual
	limits.call = 50 * time.Millisecond
	e := remoteOver(t, &spicedb{write: func(ctx context.Context, _ int64, _ *v1.WriteRelationshipsRequest) error {
		<-ctx.Done()
		return ctx.Err()
	}}, (&teller{remote: true, bounds: &limits, log: zap.NewNop()}).options()...)
	_, err := v1.NewPermissionsServiceClient(e.Conn()).WriteRelationships(context.Background(), &v1.WriteRelationshipsRequest{})
	if st := status.Convert(err); st.Code() != codes.Unavailable || statuses.Info(st).GetReason() != authz.ReasonEngineUnavailable {
		t.Errorf("a call to a SpiceDB that is silent: %v", err)
	}
}
