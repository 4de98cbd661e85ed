//go:build unix

package cli

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/deputyauth/deputy/pkg/cli"
	"github.com/deputyauth/deputy/tests/pgtest"
	"github.com/deputyauth/deputy/tests/process"
)

// program is the name under which this test binary is the command line.
const program = process.Program

// TestMain is the command line when the binary is called by its name, and else the tests.
func TestMain(m *testing.M) { process.Main(func() int { return pgtest.Run(m) }) }

// TestScripts runs the scripts that need nothing but Go. Beside testscript's commands they have:
//
//	server              starts a server in this process, and sets $DEPUTY_ENDPOINT, $DEPUTY_KEY and
//	                    $ADMIN_KEY for it
//	desk                loads schema/supportdesk into it, as `schema write` and `relationship import` do
//	[!] deputy ARG…     runs the command line; it has to succeed or, with "!", to fail with exit code 2
//	                    and one line "deputy: …" on standard error
//	denied ARG…         runs it; it has to end with exit code 1 and without a word on standard error
//	admin ARG…          is deputy with the admin's key
//	capture NAME PATH   sets $NAME to what stands at PATH ("session.leaves.0.tenantId") in the JSON that
//	                    was printed last
//	[!] serve ARG…      starts `deputy serve` as a process of its own, waits until it listens, and sets
//	                    $DEPUTY_ENDPOINT; with "!" it has to fail as "! deputy" does, and to leave no file that was
//	                    not there, but for those that $LEAVES names
//	shutdown            sends it SIGTERM; it has to end with exit code 0. Its log is then in serve.log
//	hangup              sends it SIGHUP, and waits until it has read its file of callers
//	certificate [NAME]  writes cert.pem and key.pem for 127.0.0.1, which signs itself; with a name NAME.pem and
//	                    NAME-key.pem, for NAME.internal, too
//	mode PERM FILE      asserts a file's permissions
//	sql TEXT            has the database at $POSTGRES_URI run a statement
//
// $DESK is the folder schema/supportdesk, and $CORE the file schema/core.zed.
//
// Whatever is printed or logged, no key may be in it: that is looked for after each command.
func TestScripts(t *testing.T) {
	testscript.Run(t, params(t, "testdata/scripts", nil))
}

// TestPostgresScripts runs the scripts that need a PostgreSQL, whose empty database is $POSTGRES_URI.
func TestPostgresScripts(t *testing.T) {
	scripts, err := filepath.Glob("testdata/postgres/*.txtar")
	if err != nil || len(scripts) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, script := range scripts {
		t.Run(strings.TrimSuffix(filepath.Base(script), ".txtar"), func(t *testing.T) {
			p := params(t, "", map[string]string{"POSTGRES_URI": pgtest.Database(t)})
			p.Files = []string{script}
			testscript.Run(t, p)
		})
	}
}

// params returns how to run the scripts in a folder.
func params(t *testing.T, dir string, env map[string]string) testscript.Params {
	t.Helper()
	bin := installed(t)
	desk, err := filepath.Abs("../../schema/supportdesk")
	if err != nil {
		t.Fatal(err)
	}
	core, err := filepath.Abs("../../schema/core.zed")
	if err != nil {
		t.Fatal(err)
	}
	return testscript.Params{
		Dir: dir,
		Setup: func(e *testscript.Env) error {
			e.Setenv("PATH", bin+string(os.PathListSeparator)+e.Getenv("PATH"))
			e.Setenv("DESK", desk)
			e.Setenv("CORE", core)
			e.Values[servingKey{}] = &serving{}
			for name, value := range env {
				e.Setenv(name, value)
			}
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"server":      startServer,
			"desk":        loadDesk,
			"deputy":      runDeputy,
			"denied":      runDenied,
			"admin":       runAdmin,
			"capture":     capture,
			"serve":       startServe,
			"shutdown":    shutDown,
			"hangup":      hangUp,
			"certificate": writeCertificate,
			"mode":        checkMode,
			"sql":         runSQL,
		},
	}
}

// installed returns a folder with the command line in it.
func installed(t *testing.T) string {
	t.Helper()
	bin := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(self, filepath.Join(bin, program)); err != nil {
		t.Fatal(err)
	}
	return bin
}

// runSQL is `sql`.
func runSQL(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: sql TEXT")
	}
	conn, err := pgx.Connect(context.Background(), ts.Getenv("POSTGRES_URI"))
	ts.Check(err)
	_, err = conn.Exec(context.Background(), args[0])
	ts.Check(errors.Join(err, conn.Close(context.Background())))
}

// runDeputy is `deputy`.
func runDeputy(ts *testscript.TestScript, neg bool, args []string) {
	want := cli.ExitOK
	if neg {
		want = cli.ExitError
	}
	deputy(ts, want, args)
}

// runDenied is `denied`.
func runDenied(ts *testscript.TestScript, neg bool, args []string) {
	if neg {
		ts.Fatalf("denied takes no !")
	}
	deputy(ts, cli.ExitDenied, args)
}

// runAdmin is `admin`.
func runAdmin(ts *testscript.TestScript, neg bool, args []string) {
	key := ts.Getenv("DEPUTY_KEY")
	ts.Setenv("DEPUTY_KEY", ts.Getenv("ADMIN_KEY"))
	defer ts.Setenv("DEPUTY_KEY", key)
	runDeputy(ts, neg, args)
}

// deputy runs the command line and asserts its exit code, that an error is one line, and that nothing
// that it prints is a key.
func deputy(ts *testscript.TestScript, want int, args []string) {
	err := ts.Exec(program, args...)
	code := 0
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		code = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	stderr := ts.ReadFile("stderr")
	if code != want {
		ts.Fatalf("exit code %d, want %d", code, want)
	}
	if want == cli.ExitError && (!strings.HasPrefix(stderr, "deputy: ") || strings.Count(stderr, "\n") != 1) {
		ts.Fatalf("an error has to be one line that starts with %q:\n%s", "deputy: ", stderr)
	}
	if want == cli.ExitDenied && stderr != "" {
		ts.Fatalf("a refusal is no error, but standard error has:\n%s", stderr)
	}
	noKey(ts, "standard output", ts.ReadFile("stdout"))
	noKey(ts, "standard error", stderr)
}

// noKey asserts that no key of the script's servers is in a text.
func noKey(ts *testscript.TestScript, where, text string) {
	for _, name := range []string{"DEPUTY_KEY", "ADMIN_KEY", "DEPUTY_PRESHARED_KEY", "DEPUTY_ADMIN_PRESHARED_KEY"} {
		if key := ts.Getenv(name); key != "" && strings.Contains(text, key) {
			ts.Fatalf("$%s is in %s:\n%s", name, where, text)
		}
	}
}
