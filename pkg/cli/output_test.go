package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/spf13/cobra"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

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

// TestFieldsAreFlags: what the API calls a field is called what the command line calls it, and stays as it is where there is neither a
// flag nor an argument.
func TestFieldsAreFlags(t *testing.T) {
	create, check := &cobra.Command{Use: "create --agent AGENT"}, &cobra.Command{Use: "check AGENT RESOURCE PERMISSION [FILE...]"}
	lookup := &cobra.Command{Use: "resources AGENT TYPE PERMISSION"}
	differ := &cobra.Command{Use: "reach ACTOR"}
	differ.Flags().String("consistency", "", "")
	differ.Flags().String("diff", "", "")
	if err := differ.Flags().Set("diff", "abc"); err != nil {
		t.Fatal(err)
	}
	for cmd, flags := range map[*cobra.Command][]string{
		create: {"agent", "principal", "owner", "parent", "scope", "target", "granted-by"}, check: {"context", "session", "on-behalf-of", "tenant", "consistency"},
	} {
		for _, name := range flags {
			cmd.Flags().String(name, "", "")
		}
	}
	for _, test := range []struct {
		cmd                  *cobra.Command
		field, message, want string
	}{
		{check, "agent_id", "is required", "AGENT is required"},
		{check, "permission", "is not a name", "PERMISSION is not a name"},
		{check, "resource.object_type", "is unknown", "the type of RESOURCE is unknown"},
		{check, "on_behalf_of.object_id", "is empty", "the id of --on-behalf-of is empty"},
		{check, "tenant_id", "is required: the session acts in several", "--tenant is required: the session acts in several"},
		{check, "session_id", "is malformed", "--session is malformed"},
		{check, "consistency.at_exact_snapshot", "is too old", "--consistency is too old"},
		{differ, "consistency.at_exact_snapshot", "is too old", "--diff is too old"},
		{check, "context.amount", "is a text", "amount in --context is a text"},
		{lookup, "resource.object_type", "is unknown", "TYPE is unknown"},
		{lookup, "resource_object_type", "is required", "TYPE is required"},
		{check, "owner_ids", "has none", "owner_ids has none"},
		{check, "", "a word_with_lines stays", "a word_with_lines stays"},
		{create, "owner_ids[1]", "is empty", "--owner number 2 is empty"},
		{create, "targets[0].delegation_id", "is empty", "--target is empty"},
		{create, "parent_delegation_id", "is not live", "--parent is not live"},
		{create, "principal.object.object_type", "must be user", "the type of --principal must be user"},
		{create, "scope[2].relation", "is not one", "the relation of --scope number 3 is not one"},
		{create, "agent_id", "is required, or parent_delegation_id", "--agent is required, or --parent"},
		{create, "", "granted_by is nobody", "--granted-by is nobody"},
	} {
		s, err := status.New(codes.InvalidArgument, strings.TrimSpace(test.field+" "+test.message)).WithDetails(
			&errdetails.ErrorInfo{Reason: "INVALID_FIELD", Metadata: map[string]string{"field": test.field}})
		if err != nil {
			t.Fatal(err)
		}
		if got := describe(test.cmd, s.Err()).Message; got != test.want {
			t.Errorf("%s %s reads %q, want %q", test.field, test.message, got, test.want)
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

// TestOthersTextMovesNoTerminal: what others sent is shown, in tables and as JSON, so that it neither moves the cursor nor looks like another row.
func TestOthersTextMovesNoTerminal(t *testing.T) {
	t.Parallel()
	const sent = "a\x1b[31m\x07\nb\tc\r\u202e\u009b\u200b\u2028d"
	var out bytes.Buffer
	row(&out, sent, "next")
	field(&out, "agent", sent)
	if err := writeJSON(&out, &deputy.Record{AgentId: sent}, ""); err != nil {
		t.Fatal(err)
	}
	if err := writeJSON(&out, &deputy.Record{AgentId: sent}, "  "); err != nil {
		t.Fatal(err)
	}
	table := &recordTable{c: &connection{program: &program{Streams: Streams{Out: &out, Err: io.Discard}}}, widths: make([]int, len(recordColumns))}
	if err := errors.Join(table.add(&deputy.FoundRecord{Record: &deputy.Record{AgentId: sent, Method: sent}}), table.flush()); err != nil {
		t.Fatal(err)
	}
	for _, r := range out.String() {
		if !unicode.IsPrint(r) && r != '\n' && r != '\t' {
			t.Errorf("%q is written", r)
		}
	}
	if n := strings.Count(out.String(), "\nb"); n > 0 {
		t.Errorf("a text is on lines of its own:\n%s", out.String())
	}
}

// TestFailuresNameTheProgramsOwnSettings: the settings of a client are named to those who run one. A server that is refused by the one that it follows has
// other ones.
func TestFailuresNameTheProgramsOwnSettings(t *testing.T) {
	for _, test := range []struct {
		cmd  string
		want bool
	}{{"check", true}, {"serve", false}} {
		root := newRoot(&program{Streams: Streams{Out: io.Discard, Err: io.Discard}})
		cmd, _, err := root.Find([]string{test.cmd})
		if err != nil {
			t.Fatal(err)
		}
		refused := fmt.Errorf("engine: db:1: %w", status.Error(codes.Unauthenticated, "the key is not known"))
		if got := describe(cmd, refused).line; strings.Contains(got, "--key") != test.want || !strings.Contains(got, "the key is not known") {
			t.Errorf("deputy %s says %q", test.cmd, got)
		}
	}
}

// TestAnswering: of what is followed it is said whether it answers, how long ago it did, and why it does not.
func TestAnswering(t *testing.T) {
	before := durationpb.New(19 * time.Second)
	for _, test := range []struct {
		contact *deputy.CopyContact
		want    string
	}{
		{&deputy.CopyContact{Answers: true, Answered: durationpb.New(240 * time.Millisecond)}, "yes, 240ms ago"},
		{&deputy.CopyContact{Answered: before, Failure: "connection refused"}, "no: it has given no answer for 19s (connection refused)"},
		{&deputy.CopyContact{Answered: before}, "no: it has given no answer for 19s"},
		{&deputy.CopyContact{}, "no: it has given no answer since the server started"},
	} {
		if got := answering(test.contact); got != test.want {
			t.Errorf("it says %q, want %q", got, test.want)
		}
	}
}

// TestDescribeSession: of a frozen session whose baseline cannot be read any more it is said that every check is refused, and why.
func TestDescribeSession(t *testing.T) {
	for lost, want := range map[string]string{"": "", "it is gone: start the session anew": "baseline: lost, and every check is refused: it is gone: start the session anew"} {
		var out strings.Builder
		describeSession(&out, &deputy.Session{SessionId: "s1", Frozen: true, BaselineLost: lost})
		said := ""
		for line := range strings.Lines(out.String()) {
			if strings.HasPrefix(line, "baseline") {
				said = strings.Join(strings.Fields(strings.Replace(line, "\t", ": ", 1)), " ")
			}
		}
		if said != want {
			t.Errorf("it says %q, want %q", said, want)
		}
	}
}

// TestServing: of a copy that does not serve it is said how long ago it was known to be the head, and not that the primary answers.
func TestServing(t *testing.T) {
	position := &deputy.CopyPosition{State: "1"}
	for _, test := range []struct {
		copy *deputy.GetCopyResponse
		want string
	}{
		{&deputy.GetCopyResponse{Serves: true, Position: position}, "yes"},
		{&deputy.GetCopyResponse{}, "no: calls are passed on to the primary until there is a copy"},
		{
			&deputy.GetCopyResponse{Position: position, Age: durationpb.New(19 * time.Second)},
			"no: for 19s the copy has not been known to be the primary's newest state; calls are passed on to the primary, which may not answer either: " +
				"the server's log says why",
		},
		{
			&deputy.GetCopyResponse{Position: position, Age: durationpb.New(19 * time.Second), Contact: &deputy.CopyContact{Answers: true}},
			"no: for 19s the copy has not been known to be the primary's newest state; calls are passed on to the primary",
		},
		{
			&deputy.GetCopyResponse{Position: position, Age: durationpb.New(19 * time.Second), Contact: &deputy.CopyContact{}},
			"no: for 19s the copy has not been known to be the primary's newest state; calls are UNAVAILABLE until the primary answers",
		},
	} {
		if got := serving(test.copy); got != test.want {
			t.Errorf("it says %q, want %q", got, test.want)
		}
	}
}
