//go:build unix

package cli

import (
	"bufio"
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/deputyauth/deputy/tests/process"
)

// devServer starts `deputy serve --dev` with further arguments and no environment but a folder for temporary files. It
// returns what the server prints up to the blank line that ends it, and what ends the server and returns how it ended.
func devServer(t *testing.T, temporary string, args ...string) (printed string, stop func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	serve := exec.CommandContext(ctx, filepath.Join(installed(t), process.Program),
		append([]string{"serve", "--dev", "--addr", "127.0.0.1:0"}, args...)...)
	serve.Env = []string{"TMPDIR=" + temporary}
	log := &bytes.Buffer{}
	serve.Stderr = log
	out, err := serve.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := serve.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		printed += lines.Text() + "\n"
		if lines.Text() == "deputy schema read" { // the last line to copy
			break
		}
	}
	if lines.Err() != nil || !strings.HasSuffix(printed, "deputy schema read\n") {
		_ = serve.Wait()
		t.Fatalf("serve --dev printed %q (%v)\n%s", printed, lines.Err(), log)
	}
	return printed, func() error {
		_ = serve.Process.Signal(syscall.SIGINT)
		err := serve.Wait()
		if key := printedKey(printed); key != "" && strings.Contains(log.String(), key) {
			t.Errorf("the key is in the log:\n%s", log)
		}
		return err
	}
}

// printedKey returns the key that a server printed, or "".
func printedKey(printed string) string {
	_, rest, _ := strings.Cut(printed, "export DEPUTY_KEY=")
	value, _, _ := strings.Cut(rest, "\n")
	return value
}

// copied has a shell do the lines that a server printed for another terminal, and then further ones.
func copied(t *testing.T, printed string, further ...string) string {
	t.Helper()
	_, lines, found := strings.Cut(printed, "another terminal:\n")
	if !found {
		t.Fatalf("no lines to copy in\n%s", printed)
	}
	shell := exec.CommandContext(t.Context(), "sh", "-e", "-c", lines+strings.Join(further, "\n"))
	shell.Env = []string{"PATH=" + installed(t) + string(os.PathListSeparator) + os.Getenv("PATH")}
	out, err := shell.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s%s", err, lines, out)
	}
	return string(out)
}

// TestDevServer: one command starts a server, the lines that it prints connect another terminal, and nothing is left
// of it once it ends.
func TestDevServer(t *testing.T) {
	temporary := t.TempDir()
	printed, stop := devServer(t, temporary)
	if left, _ := os.ReadDir(temporary); len(left) != 1 || !strings.Contains(printed, left[0].Name()) {
		t.Errorf("the server has its data in %v, and printed\n%s", left, printed)
	}
	out := copied(t, printed, "deputy principal resume user:alice", "deputy agent register bot --owner user:alice", "deputy agent list")
	if !strings.Contains(out, "definition delegation") || !strings.Contains(out, "bot") {
		t.Errorf("the lines answered\n%s", out)
	}
	if err := stop(); err != nil {
		t.Errorf("the server ended with %v, want exit code 0", err)
	}
	if left, _ := os.ReadDir(temporary); len(left) != 0 {
		t.Errorf("the server left %v behind", left)
	}
}

// TestDevServerKeepsADirectory: in a directory that is named, a development server goes on with what it kept there, and
// another server can take it over. A schema that is there stays.
func TestDevServerKeepsADirectory(t *testing.T) {
	temporary, data := t.TempDir(), filepath.Join(t.TempDir(), "data")
	mine := filepath.Join(t.TempDir(), "mine.zed")
	if err := os.WriteFile(mine, []byte("definition mine {}"), 0o600); err != nil {
		t.Fatal(err)
	}
	printed, stop := devServer(t, temporary, "--data-dir", data)
	copied(t, printed, "deputy schema write "+mine)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	first := printedKey(printed)
	printed, stop = devServer(t, temporary, "--data-dir", data)
	if out := copied(t, printed); !strings.Contains(out, "definition mine") {
		t.Errorf("the schema that was there is gone:\n%s", out)
	}
	if second := printedKey(printed); len(second) < 16 || second == first {
		t.Errorf("the keys are %q and %q, want two", first, second)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(temporary); len(left) != 0 {
		t.Errorf("the server left %v behind", left)
	}
	// An admin key that is set is used, and is not printed.
	key := strings.Repeat("own-admin-key", 2)
	printed, stop = devServer(t, temporary, "--data-dir", data, "--admin-preshared-key", key)
	if strings.Contains(printed, key) || printedKey(printed) != "" {
		t.Errorf("a key is printed:\n%s", printed)
	}
	copied(t, strings.Replace(printed, "# DEPUTY_KEY", "export DEPUTY_KEY="+key+" #", 1))
	if err := stop(); err != nil {
		t.Fatal(err)
	}
}
