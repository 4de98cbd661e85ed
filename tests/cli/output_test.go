//go:build unix

package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/deputyauth/deputy/pkg/cli"
	"github.com/deputyauth/deputy/pkg/daemon"
	"github.com/deputyauth/deputy/tests/harness"
)

// commandLine is a program with an environment.
type commandLine map[string]string

// run runs one command line.
func (env commandLine) run(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = cli.Run(t.Context(), args, cli.Streams{In: strings.NewReader(""), Out: &out, Err: &errs}, func(name string) (string, bool) {
		value, found := env[name]
		return value, found
	})
	return code, out.String(), errs.String()
}

// commands returns the paths of all commands below one, as the shell is told of them.
func (env commandLine) commands(t *testing.T, path ...string) (all []string) {
	t.Helper()
	_, stdout, _ := env.run(t, append(append([]string{"__complete"}, path...), "")...)
	for line := range strings.Lines(stdout) {
		word, about, found := strings.Cut(strings.TrimSpace(line), "\t")
		if !found || about == "" || word == "help" {
			continue
		}
		below := append(slices.Clone(path), word)
		all = append(all, strings.Join(below, " "))
		all = append(all, env.commands(t, below...)...)
	}
	return all
}

// noJSON are the commands that have no flag -o: what they print is a text of its own, or nothing.
var noJSON = []string{
	"completion bash", "completion zsh", "completion fish", "completion powershell", "options", "schema fmt", "serve", "caller schema",
	"mcp guard",
}

// asked are command lines that succeed, or find something, in this order. $D is the delegation that was created last, $S the session
// that was started last, $R the decision that was made last, $JOURNAL the server's journal and $KEYS its keys, $DESK the example, $EXAMPLES
// those of MCP servers, $LISTS what such a server lists, and $TMP a folder.
var asked = []struct{ command, args string }{
	{"version", ""},
	{"init", "$TMP/project"},
	{"init", "--list"},
	{"demo", ""},
	{"test", "$DESK/supportdesk.yaml --mutation off"},
	{"test", "$TMP/project/schema/app.yaml --mutation off --watch=false"},
	{"schema compile", "$DESK/supportdesk.zed"},
	{"schema lint", "$DESK/supportdesk.zed"},
	{"schema lint", "--explain all"},
	{"schema lint", "--explain tenant-not-all"},
	{"schema diff", "$DESK/core.zed $DESK/supportdesk.zed"},
	{"schema write", "$DESK/supportdesk.zed"},
	{"schema read", ""},
	{"relationship import", "$DESK/relationships.txt"},
	{"relationship export", "$TMP/graph.txt"},
	{"relationship write", "document:acme-new#reader@user:alice"},
	{"relationship read", "document:acme-new"},
	{"relationship delete", "document:acme-new#reader@user:alice"},
	{"adopt", ""},
	{"schema plan", "$DESK/supportdesk.zed"},
	{"reach", "triage-bot --schema $DESK/supportdesk.zed"},
	{"signal list", ""},
	{"agent register", "new-bot --owner alice"},
	{"agent get", "triage-bot"},
	{"agent list", ""},
	{"agent suspend", "new-bot"},
	{"agent resume", "new-bot"},
	{"principal suspend", "user:alice"},
	{"principal resume", "user:alice"},
	{"delegation create", "--agent triage-bot --principal user:alice --tenant acme --unscoped --ttl 1h"},
	{"delegation get", "$D"},
	{"delegation list", "--agent triage-bot"},
	{"session start", "--agent triage-bot --target $D"},
	{"session get", "$S"},
	{"session list", "--agent triage-bot"},
	{"session renew", "$S"},
	{"check", "triage-bot ticket:acme-1042 view --session $S"},
	{"check", "triage-bot ticket:none view --session $S"},
	{"check", "triage-bot ticket:none view --session $S --watch"},
	{"explain", "triage-bot ticket:acme-1042 view --session $S"},
	{"filter", "triage-bot ticket view acme-1042 none --session $S"},
	{"lookup resources", "triage-bot ticket view --session $S"},
	{"lookup agents", "ticket:acme-1042 view"},
	{"reach", "triage-bot"},
	{"reach", "session:$S --list"},
	{"brake session", "$S --reason test --dry-run"},
	{"brake delegation", "$D --reason test --dry-run"},
	{"brake agent", "new-bot --reason test"},
	{"brake principal", "user:alice --reason test"},
	{"brake tenant", "acme --reason test"},
	{"session end", "$S"},
	{"purge", "--older-than 0s"},
	{"delegation revoke", "$D"},
	{"journal query", "--dir $JOURNAL"},
	{"journal tail", "--dir $JOURNAL --follow=false"},
	{"journal show", "$R --dir $JOURNAL --key-dir $KEYS"},
	{"journal prove", "$R --dir $JOURNAL --key-dir $KEYS"},
	{"journal checkpoint", "--dir $JOURNAL"},
	{"journal verify", "$JOURNAL"},
	{"journal export", "$TMP/journal.jsonl --dir $JOURNAL"},
	{"journal collect", "$JOURNAL --out $TMP/collected"},
	{"store statistics", ""},
	{"store compact", ""},
	{"backup", "$TMP/a.backup"},
	{"journal erase", "user:alice --all-tenants --key-dir $KEYS"},
	{"caller add", "billing --role checker --tenant acme --callers $TMP/callers.yaml"},
	{"caller rotate", "billing --expire-old 1h --callers $TMP/callers.yaml"},
	{"caller list", "--callers $TMP/callers.yaml"},
	{"caller check", "billing CheckPermission --tenant acme --callers $TMP/callers.yaml"},
	{"caller check", "billing StartSession --callers $TMP/callers.yaml"},
	{"caller revoke", "billing key-1 --callers $TMP/callers.yaml"},
	{"restore", "$TMP/a.backup --data-dir $TMP/restored"},
	{"journal keys", "$TMP/journal-keys"},
	{"mcp map", "--tools $LISTS"},
	{"mcp lint", "$EXAMPLES/tickets/guard.yaml --tools $LISTS --schema $EXAMPLES/tickets/tickets.zed"},
	{"mcp test", "$EXAMPLES/tickets/guard.yaml $EXAMPLES/tickets/cases.yaml"},
}

// elsewhere are commands whose output other tests look at, because they take more than a server.
var elsewhere = []string{"migrate", "migrate repair", "promote", "signal apply", "signal drop", "mcp approve", "follow status", "follow verify"}

// TestJSON: every command prints JSON with -o json, and nothing else, or refuses the flag. A new command has to be asked here.
func TestJSON(t *testing.T) {
	embedded := harness.Embedded(t)
	s := harness.Start(t, daemon.Config{Engine: embedded, SignalsDir: t.TempDir()})
	env := commandLine{"DEPUTY_ENDPOINT": s.Daemon.Addr().String(), "DEPUTY_KEY": harness.AdminKey}
	desk, err := filepath.Abs("../../schema/supportdesk")
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(filepath.Dir(desk)) // for fixtures, which read nothing outside
	examples, lists := filepath.Join(desk, "../../examples"), filepath.Join(desk, "../../pkg/door/mcp/mapping/offer/testdata/everything.json")
	fill := map[string]string{
		"$EXAMPLES": examples, "$LISTS": lists,
		"$DESK": desk, "$TMP": t.TempDir(), "$JOURNAL": daemon.JournalDir(embedded.Dir), "$KEYS": daemon.KeyDir(embedded.Dir),
	}
	done := slices.Concat(noJSON, elsewhere)
	for _, a := range asked {
		args := append(strings.Fields(a.command), "-o", "json")
		for word := range strings.FieldsSeq(a.args) {
			for name, value := range fill {
				word = strings.ReplaceAll(word, name, value)
			}
			args = append(args, word)
		}
		code, stdout, stderr := env.run(t, args...)
		if code > cli.ExitDenied || stderr != "" || !isJSON(stdout) {
			t.Errorf("%s %s: exit code %d, standard error %q, and not JSON:\n%s", a.command, a.args, code, stderr, stdout)
		}
		if field := map[string]string{"delegation create": "delegationId", "session start": "sessionId"}[a.command]; field != "" {
			if id := regexp.MustCompile(`"` + field + `": "(\w+)"`).FindStringSubmatch(stdout); id != nil {
				fill["$"+strings.ToUpper(field[:1])] = id[1]
			}
		}
		if id := regexp.MustCompile(`"decisionId": "(\w+)"`).FindStringSubmatch(stdout); a.command == "check" && id != nil {
			fill["$R"] = id[1]
		}
		done = append(done, a.command)
	}
	all := env.commands(t)
	if len(all) < len(asked)/2 {
		t.Fatalf("the shell is told of %d commands only: %q", len(all), all)
	}
	for _, command := range all {
		path := strings.Fields(command)
		if len(env.commands(t, path...)) == 0 && !slices.Contains(done, command) {
			t.Errorf("%s is not asked for JSON: give it a row in asked", command)
		}
	}
}

// TestNoJSON: a command that prints no JSON does not take the flag, also where it has no FILE to leave standard output to it.
func TestNoJSON(t *testing.T) {
	env := commandLine{"DEPUTY_KEY": harness.AdminKey}
	for _, command := range append(slices.Clone(noJSON), "relationship export", "relationship export -", "backup -") {
		code, stdout, stderr := env.run(t, append(strings.Fields(command), "-o", "json")...)
		if code != cli.ExitError || stdout != "" || !strings.Contains(stderr, "-o") {
			t.Errorf("%s -o json: exit code %d, %q, %q", command, code, stdout, stderr)
		}
	}
}

// TestErrorsAsJSON: with -o json, whatever is wrong with a command line is a line of JSON on standard error. So is what a server says.
func TestErrorsAsJSON(t *testing.T) {
	s := harness.Start(t, daemon.Config{Engine: harness.Embedded(t)})
	env := commandLine{"DEPUTY_ENDPOINT": s.Daemon.Addr().String(), "DEPUTY_KEY": harness.ServiceKey}
	for _, command := range env.commands(t) {
		for _, flag := range []string{"-o json", "--output=json", "-ojson", "--format json"} {
			args := slices.Concat(strings.Fields(command), []string{"--nonsense"}, strings.Fields(flag))
			code, stdout, stderr := env.run(t, args...)
			if code != cli.ExitError || stdout != "" || !strings.Contains(errorOf(t, stderr).Message, "--nonsense") {
				t.Errorf("%s: exit code %d, %q, %q", args, code, stdout, stderr)
			}
		}
	}
	_, _, stderr := env.run(t, "check", "", "ticket:1", "view", "-o", "json")
	if got := errorOf(t, stderr); got.Code != "INVALID_ARGUMENT" || got.Reason != "INVALID_FIELD" || !strings.HasPrefix(got.Message, "AGENT ") {
		t.Errorf("the server's error is %+v", got)
	}
	env["DEPUTY_OUTPUT"] = "json"
	if _, _, stderr = env.run(t, "agent"); !strings.Contains(errorOf(t, stderr).Message, "needs a subcommand") {
		t.Errorf("with the format in the environment the error is %s", stderr)
	}
}

// failed is an error as -o json prints it.
type failed struct{ Code, Reason, Message string }

// errorOf reads one.
func errorOf(t *testing.T, stderr string) failed {
	t.Helper()
	var of struct{ Error failed }
	if err := json.Unmarshal([]byte(stderr), &of); err != nil || strings.Count(stderr, "\n") != 1 || of.Error.Message == "" {
		t.Errorf("standard error is not one line of JSON with an error: %s", stderr)
	}
	return of.Error
}

// isJSON reports whether a text is JSON, one value or several.
func isJSON(text string) bool {
	decoder := json.NewDecoder(strings.NewReader(text))
	for n := 0; ; n++ {
		var value any
		if err := decoder.Decode(&value); err != nil {
			return errors.Is(err, io.EOF) && n > 0
		}
	}
}
