package mcp_test

import (
	"context"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/deputyauth/deputy/pkg/cli"
	"github.com/deputyauth/deputy/pkg/door/mcp"
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
		_ = os.Unsetenv(childVariable)                                                         // it is not the server's
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM) // as in cmd/deputy
		code := cli.Run(ctx, os.Args[1:], cli.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}, os.LookupEnv)
		stop()
		os.Exit(code)
	case "server":
		note("server", strconv.Itoa(os.Getpid()))
		begun := make(chan struct{}, 1)
		go func() {
			<-begun
			note("begun", "")
		}()
		_ = waiting(begun, make(chan struct{}, 1)).Run(context.Background(), &sdk.StdioTransport{})
		os.Exit(0)
	case "files":
		_ = files().Run(context.Background(), &sdk.StdioTransport{})
		os.Exit(0)
	case "stubborn":
		signal.Ignore(os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
		note("server", strconv.Itoa(os.Getpid()))
		<-time.After(2 * time.Minute) // it reads nothing, and so sees no end of its input
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

// pidOf is the process of a server that keeps notes, once it runs.
func pidOf(t *testing.T, notes string) string {
	t.Helper()
	var pid []byte
	eventually(t, "the server runs", func() (there bool) {
		var err error
		pid, err = os.ReadFile(filepath.Join(notes, "server"))
		return err == nil
	})
	if !runs(string(pid)) {
		t.Fatal("the server does not run")
	}
	t.Cleanup(func() { // where the test fails, nothing is left behind
		if number, err := strconv.Atoi(string(pid)); err == nil && runs(string(pid)) {
			_ = syscall.Kill(number, syscall.SIGKILL)
		}
	})
	return string(pid)
}

// guardInProcess is a guard that runs as a process of its own in front of a server that keeps notes.
type guardInProcess struct {
	*exec.Cmd

	in    io.WriteCloser
	out   io.Reader
	notes string
}

// startGuard starts one. The tools are those of the child that is called server, and the server is that of another name.
func startGuard(t *testing.T, server string) *guardInProcess {
	t.Helper()
	if _, err := os.Stat("/proc/self/stat"); err != nil {
		pgtest.Skip(t, "processes are looked up in /proc, which this system has not")
	}
	g := &guardInProcess{notes: t.TempDir()}
	config := filepath.Join(t.TempDir(), "guard.yaml")
	if err := os.WriteFile(config, []byte("version: 1\nserver: files\ntool: {type: mcp_tool, permission: call}\ntools: {wait: {}}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	env, err := exec.LookPath("env")
	if err != nil {
		t.Fatal(err)
	}
	child := func(name string) []string {
		return []string{"--", env, childVariable + "=" + name, notesVariable + "=" + g.notes, os.Args[0]}
	}
	w := open(t, everyone("wait")...)
	deputyEnv := map[string]string{"DEPUTY_ENDPOINT": w.addr, "DEPUTY_KEY": harness.ServiceKey}
	approve := append([]string{"mcp", "approve", "--config", config}, child("server")...)
	if code, errs := deputy(t.Context(), strings.NewReader(""), io.Discard, deputyEnv, approve...); code != cli.ExitOK {
		t.Fatal(errs)
	}
	if err := os.Remove(filepath.Join(g.notes, "server")); err != nil {
		t.Fatal(err)
	}
	args := append([]string{"mcp", "guard", "--config", config, "--agent", "bot", "--session", w.alice.Session}, child(server)...)
	g.Cmd = exec.CommandContext(t.Context(), os.Args[0], args...)
	g.Env = append(os.Environ(), childVariable+"=guard")
	for name, value := range deputyEnv {
		g.Env = append(g.Env, name+"="+value)
	}
	if g.in, err = g.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if g.out, err = g.StdoutPipe(); err != nil {
		t.Fatal(err)
	}
	g.Stderr = os.Stderr
	if err := g.Start(); err != nil {
		t.Fatal(err)
	}
	return g
}

// TestGuardKilled: a guard that is killed in the middle of a call leaves nothing: the client sees the end, and the server ends.
func TestGuardKilled(t *testing.T) {
	t.Parallel()
	guard := startGuard(t, "server")
	session, err := newClient(nil).Connect(t.Context(), &sdk.IOTransport{Reader: io.NopCloser(guard.out), Writer: guard.in}, nil)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		_, err := session.CallTool(t.Context(), &sdk.CallToolParams{Name: "wait"})
		ended <- err
	}()
	eventually(t, "the server begins the call", func() bool {
		_, err := os.Stat(filepath.Join(guard.notes, "begun"))
		return err == nil
	})
	pid := pidOf(t, guard.notes)
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
	eventually(t, "the server ends", func() bool { return !runs(pid) })
	_ = session.Close()
}

// TestStubbornServer: a server that reads nothing and ignores signals does not outlive a guard that is killed (on Linux), or whose agent is gone.
func TestStubbornServer(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*guardInProcess) error{
		"the guard is killed":  func(g *guardInProcess) error { return g.Process.Kill() },
		"the guard is stopped": func(g *guardInProcess) error { return g.Process.Signal(syscall.SIGINT) },
		"the agent is gone":    func(g *guardInProcess) error { return g.in.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			guard := startGuard(t, "stubborn")
			pid := pidOf(t, guard.notes)
			if err := end(guard); err != nil {
				t.Fatal(err)
			}
			_ = guard.Wait()
			eventually(t, "the server ends", func() bool { return !runs(pid) })
		})
	}
}

// TestServersChildren: what a server started itself ends with it, although the server leaves it behind.
func TestServersChildren(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat("/proc/self/stat"); err != nil {
		pgtest.Skip(t, "processes are looked up in /proc, which this system has not")
	}
	notes := t.TempDir()
	const script = `env "$0" "$1" "$2" </dev/null >/dev/null 2>&1 & cat >/dev/null`
	server, err := mcp.Start(t.Context(), []string{"sh", "-c", script, childVariable + "=stubborn", notesVariable + "=" + notes, os.Args[0]}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	pid := pidOf(t, notes)
	server.Stop()
	eventually(t, "the server's child ends", func() bool { return !runs(pid) })
}
