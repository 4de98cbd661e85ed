package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	deputy "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

func TestDescribe(t *testing.T) {
	bare := status.New(codes.InvalidArgument, "resource.object_id is empty")
	withReason, err := bare.WithDetails(&errdetails.ErrorInfo{Reason: "INVALID_FIELD", Domain: "deputy"})
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		err  error
		want string
	}{
		{errors.New("plain"), "plain"},
		{errors.New("two\n\tlines"), "two lines"},
		{bare.Err(), "INVALID_ARGUMENT: resource.object_id is empty"},
		{withReason.Err(), "INVALID_ARGUMENT (INVALID_FIELD): resource.object_id is empty"},
		{fmt.Errorf("graph.txt:1-9: %w; nothing was written", withReason.Err()),
			"graph.txt:1-9: INVALID_ARGUMENT (INVALID_FIELD): resource.object_id is empty; nothing was written"},
		{status.Error(codes.Canceled, "stop"), "CANCELLED: stop"},
		{status.Error(codes.Code(99), "what"), "CODE_99: what"},
		{fmt.Errorf("waiting: %w", context.DeadlineExceeded), "waiting: did not answer within --timeout"},
	} {
		if got := describe(nil, test.err).line; got != test.want {
			t.Errorf("%v reads %q, want %q", test.err, got, test.want)
		}
	}
}

// TestUnknownIsARefusal: a newer server may answer what this program does not know.
func TestUnknownIsARefusal(t *testing.T) {
	for _, p := range []deputy.Permissionship{0, 1, 4, 99} {
		if got := permissionship(p); got != "NO_PERMISSION" {
			t.Errorf("permissionship %d reads %s", p, got)
		}
	}
	if got := outcome(0); got != "no" {
		t.Errorf("outcome 0 reads %s", got)
	}
}

func TestWriteTable(t *testing.T) {
	var b strings.Builder
	err := writeTable(&b, func(w io.Writer) {
		row(w, "A", "LONGER", "C")
		row(w, "wide cell", "", "")
	})
	if want := "A          LONGER  C\nwide cell\n"; err != nil || b.String() != want {
		t.Errorf("the table is %q, %v; want %q", b.String(), err, want)
	}
}

// TestWriteJSON: the same message is the same bytes, and a field that is zero is there.
func TestWriteJSON(t *testing.T) {
	var b strings.Builder
	for range 20 {
		b.Reset()
		if err := writeJSON(&b, &deputy.ListAgentsResponse{Agents: []*deputy.Agent{{AgentId: "bot"}}}, ""); err != nil {
			t.Fatal(err)
		}
		want := `{"agents":[{"agentId":"bot","ownerIds":[],"state":"LIFECYCLE_STATE_UNSPECIFIED"}],"complete":false}` + "\n"
		if b.String() != want {
			t.Fatalf("the JSON is %s, want %s", b.String(), want)
		}
	}
}
