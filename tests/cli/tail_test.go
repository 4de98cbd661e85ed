//go:build unix

package cli

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/deputyauth/deputy/pkg/cli"
	"github.com/deputyauth/deputy/pkg/daemon"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/tests/harness"
)

// TestTail: deputy journal tail prints the records that there are, and those that are written while it runs, over the network and of a directory. With
// --follow=false it ends after the first.
func TestTail(t *testing.T) {
	dir := t.TempDir()
	callers := filepath.Join(dir, "callers.yaml")
	env := commandLine{}
	key := filepath.Join(dir, "watcher.key")
	if code, _, stderr := env.run(t, "caller", "add", "watcher", "--role", "auditor", "--all-tenants", "--callers", callers, "--out", key); code != cli.ExitOK {
		t.Fatal(stderr)
	}
	store := harness.Embedded(t)
	s := harness.Start(t, daemon.Config{
		Engine: store, CallersPath: callers, PresharedKeys: []string{harness.ServiceKey}, AdminPresharedKeys: []string{harness.AdminKey},
	})
	for name, from := range map[string][]string{
		"network":   {"--endpoint", s.Daemon.Addr().String(), "--key-file", key},
		"directory": {"--dir", daemon.JournalDir(store.Dir)},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			ask := func(agent string) {
				t.Helper()
				if _, err := s.Agents().GetAgent(ctx, &deputyv1.GetAgentRequest{AgentId: agent}); err == nil {
					t.Fatalf("there is an agent %s", agent)
				}
			}
			first, later := name+"-first", name+"-later"
			ask(first)
			args := append([]string{"journal", "tail", "--kind", "read", "--caller", "admin", "--last", "1"}, from...)
			cmd := exec.CommandContext(ctx, filepath.Join(installed(t), program), args...)
			var stderr bytes.Buffer
			cmd.Env, cmd.Stderr = []string{"PATH=" + os.Getenv("PATH")}, &stderr
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			lines := bufio.NewScanner(out)
			for _, want := range []string{"AGENT", first, later, later} {
				if want == later {
					ask(later)
				}
				if !lines.Scan() || !strings.Contains(lines.Text(), " "+want+" ") {
					t.Fatalf("the line is %q, want one with %s (%v): %s", lines.Text(), want, cmd.Wait(), stderr.String())
				}
			}
			if err := cmd.Process.Signal(os.Interrupt); err != nil {
				t.Fatal(err)
			}
			if lines.Scan() {
				t.Errorf("there is one more line: %s", lines.Text())
			}
			err = cmd.Wait()
			if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != cli.ExitInterrupted {
				t.Errorf("it ended with %v: %s", err, stderr.String())
			}
			still := exec.CommandContext(ctx, cmd.Path, append(args, "--follow=false")...)
			still.Env = cmd.Env
			printed, err := still.Output()
			if err != nil || strings.Count(string(printed), "\n") != 2 || !strings.Contains(string(printed), " "+later+" ") {
				t.Errorf("without --follow it ended with %v:\n%s", err, printed)
			}
		})
	}
}
