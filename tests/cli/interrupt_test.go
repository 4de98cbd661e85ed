//go:build unix

package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/deputyauth/deputy/pkg/cli"
	"github.com/deputyauth/deputy/pkg/daemon"
	"github.com/deputyauth/deputy/schema"
	"github.com/deputyauth/deputy/tests/harness"
)

// interrupted starts a command line, sends it SIGINT once ready returns, and returns what it said on standard error. It has to end
// with exit code 130, and with nothing on standard output.
func interrupted(t *testing.T, env []string, ready func(stdin io.Writer), args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), filepath.Join(installed(t), program), args...)
	var stdout, stderr bytes.Buffer
	cmd.Env, cmd.Stdout, cmd.Stderr = append([]string{"PATH=" + os.Getenv("PATH")}, env...), &stdout, &stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ready(stdin)
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	err = cmd.Wait()
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != cli.ExitInterrupted || stdout.Len() > 0 {
		t.Errorf("%s ended with %v and %q, want exit code %d", args, err, stdout.String(), cli.ExitInterrupted)
	}
	if strings.Count(stderr.String(), "\n") != 1 {
		t.Errorf("%s said, in other than one line:\n%s", args, stderr.String())
	}
	return stderr.String()
}

// beyondPipe is more than a pipe holds: once it is written, the other side is reading.
const beyondPipe = 1 << 17

// TestInterruptWhileReading: a command that waits for its input ends on the first Ctrl-C, and says which it was.
func TestInterruptWhileReading(t *testing.T) {
	said := interrupted(t, []string{"DEPUTY_KEY=key"}, func(stdin io.Writer) {
		if _, err := io.WriteString(stdin, strings.Repeat("// a schema\n", beyondPipe/12)); err != nil {
			t.Fatal(err)
		}
	}, "schema", "write", "-")
	if !strings.HasPrefix(said, "deputy: deputy schema write was interrupted") {
		t.Errorf("it said %s", said)
	}
}

// TestInterruptWhileCalling: a call that was under way may have been carried out, which is said.
func TestInterruptWhileCalling(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = silent.Close() }()
	for asked, want := range map[string]string{
		"":        "deputy: deputy agent suspend was interrupted; the server may have done what it was asked to\n",
		"-o json": `{"error":{"code":"CANCELLED","reason":"","message":"deputy agent suspend was interrupted; the server may have done what it was asked to"}}` + "\n",
	} {
		args := append([]string{"agent", "suspend", "bot", "--endpoint", silent.Addr().String()}, strings.Fields(asked)...)
		said := interrupted(t, []string{"DEPUTY_KEY=key"}, func(io.Writer) {
			conn, err := silent.Accept()
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = conn.Close() })
			if _, err := conn.Read(make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
		}, args...)
		if said != want {
			t.Errorf("it said %s, want %s", said, want)
		}
	}
}

// TestInterruptImport: an import that is interrupted says how far it was, so that it can go on from there.
func TestInterruptImport(t *testing.T) {
	s := harness.Start(t, daemon.Config{Engine: harness.Embedded(t)})
	s.WriteSchema(t, schema.Core+"definition document {\n\trelation tenant: tenant\n}\n")
	env := []string{"DEPUTY_ENDPOINT=" + s.Daemon.Addr().String(), "DEPUTY_KEY=" + harness.AdminKey}
	said := interrupted(t, env, func(stdin io.Writer) {
		for n := 0; n < beyondPipe; {
			written, err := fmt.Fprintf(stdin, "document:%s#tenant@tenant:t%d\n", strings.Repeat("x", 400), n)
			if err != nil {
				t.Fatal(err)
			}
			n += written
		}
	}, "relationship", "import", "-", "--batch", "1")
	if !strings.Contains(said, "deputy relationship import was interrupted: ") || !strings.Contains(said, "--skip ") {
		t.Errorf("it said %s", said)
	}
}
