package mcp_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/deputyauth/deputy/pkg/cli"
	"github.com/deputyauth/deputy/tests/harness"
	"github.com/deputyauth/deputy/tests/pgtest"
)

// A test that kills processes runs this program again, as what childVariable says, which keeps notes in the directory that notesVariable names.
const (
	childVariable = "MCP_TEST_CHILD"
	notesVariable = "MCP_TEST_NOTES"
)

// asChild runs what a parent of this program asks for, and does not return then.
func asChild() {
	switch os.Getenv(childVariable) {
	case "guard":
		_ = os.Unsetenv(childVariable) // it is not the server's
		os.Exit(cli.Run(context.Background(), os.Args[1:], cli.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}, os.LookupEnv))
	case "server":
		note("server", strconv.Itoa(os.Getpid()))
		begun := make(chan struct{}, 1)
		go func() {
			<-begun
			note("begun", "")
		}()
		_ = waiting(begun, make(chan struct{}, 1)).Run(context.Background(), &sdk.StdioTransport{})
		os.Exit(0)
	}
}

func note(name, text string) {
	dir := os.Getenv(notesVariable)
	if os.WriteFile(filepath.Join(dir, name+".new"), []byte(text), 0o600) == nil {
		_ = os.Rename(filepath.Join(dir, name+".new"), filepath.Join(dir, name))
	}
}

// eventually waits until something holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	late := time.After(30 * time.Second)
	for !holds() {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("not in time: %s", what)
		}
	}
}

// runs reports whether a process runs: one that is dead and that nobody has asked after does not.
func runs(pid string) bool {
	text, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	return !strings.HasPrefix(rest, "Z") && !strings.HasPrefix(rest, "X")
}

// TestGuardKilled: a guard that is killed in the middle of a call leaves nothing: the client sees the end, and the server ends.
func TestGuardKilled(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat("/proc/self/stat"); err != nil {
		pgtest.Skip(t, "processes are looked up in /proc, which this system has not")
	}
	notes := t.TempDir()
	config := filepath.Join(t.TempDir(), "guard.yaml")
	if err := os.WriteFile(config, []byte("version: 1\nserver: files\ntool: {type: mcp_tool, permission: call}\ntools: {wait: {}}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	env, err := exec.LookPath("env")
	if err != nil {
		t.Fatal(err)
	}
	server := []string{"--", env, childVariable + "=server", notesVariable + "=" + notes, os.Args[0]}
	w := open(t, everyone("wait")...)
	deputyEnv := map[string]string{"DEPUTY_ENDPOINT": w.addr, "DEPUTY_KEY": harness.ServiceKey}
	if code, errs := deputy(t.Context(), strings.NewReader(""), io.Discard, deputyEnv, append([]string{"mcp", "approve", "--config", config}, server...)...); code != cli.ExitOK {
		t.Fatal(errs)
	}
	if err := os.Remove(filepath.Join(notes, "server")); err != nil {
		t.Fatal(err)
	}

	args := append([]string{"mcp", "guard", "--config", config, "--agent", "bot", "--session", w.alice.Session}, server...)
	guard := exec.CommandContext(t.Context(), os.Args[0], args...)
	guard.Env = append(os.Environ(), childVariable+"=guard")
	for name, value := range deputyEnv {
		guard.Env = append(guard.Env, name+"="+value)
	}
	in, err := guard.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := guard.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	guard.Stderr = os.Stderr
	if err := guard.Start(); err != nil {
		t.Fatal(err)
	}
	session, err := newClient(nil).Connect(t.Context(), &sdk.IOTransport{Reader: out, Writer: in}, nil)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		_, err := session.CallTool(t.Context(), &sdk.CallToolParams{Name: "wait"})
		ended <- err
	}()
	noted := func(name string) bool {
		_, err := os.Stat(filepath.Join(notes, name))
		return err == nil
	}
	eventually(t, "the server begins the call", func() bool { return noted("server") && noted("begun") })
	pid, err := os.ReadFile(filepath.Join(notes, "server"))
	if err != nil {
		t.Fatal(err)
	}
	if !runs(string(pid)) {
		t.Fatal("the server does not run")
	}
	if err := guard.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if err == nil {
			t.Error("the call is answered, although nobody could")
		}
	case <-time.After(30 * time.Second):
		t.Error("the client waits")
	}
	_ = guard.Wait()
	eventually(t, fmt.Sprintf("the server %s ends", pid), func() bool { return !runs(string(pid)) })
	_ = session.Close()
}
