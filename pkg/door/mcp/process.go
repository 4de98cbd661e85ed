package mcp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/deputyauth/deputy/pkg/authz"
)

// leave is how long a server may take to end once its input has.
const leave = 3 * time.Second

// Process is a server that runs as a process of its own, and speaks on its standard input and output. A process that can
// start the same program, or reach what the program reaches, goes around the guard.
type Process struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *output
	// wait waits for the process to end, and may be called more than once.
	wait func() error
	// over is closed once the process has ended.
	over chan struct{}
	// release ends the watch over the process and those that it started.
	release func()
}

// output is what a server writes. It notes that there is anything.
type output struct {
	io.ReadCloser

	said atomic.Bool
}

// Read is io.Reader's.
func (o *output) Read(p []byte) (int, error) {
	n, err := o.ReadCloser.Read(p)
	if n > 0 {
		o.said.Store(true)
	}
	return n, err
}

// Start starts a server. It gets the environment but for the variables of Deputy's own, among which are keys. errs gets what it says on its
// standard error. On Unix the server, and the processes that it started and left in its group, are killed where this process ends without Stop, however
// that ends.
func Start(ctx context.Context, command []string, errs io.Writer) (*Process, error) {
	cmd := exec.CommandContext(ctx, command[0], command[1:]...) //nolint:gosec // the operator of the guard names the server
	cmd.Stderr = errs
	cmd.WaitDelay = leave
	cmd.Cancel = func() error { return interruptGroup(cmd.Process) }
	cmd.SysProcAttr = attributes()
	for _, variable := range os.Environ() {
		if !strings.HasPrefix(variable, "DEPUTY_") {
			cmd.Env = append(cmd.Env, variable)
		}
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p := &Process{cmd: cmd, in: in, out: &output{ReadCloser: out}, wait: sync.OnceValue(cmd.Wait), over: make(chan struct{})}
	if err := p.start(); err != nil {
		return nil, fmt.Errorf("the server %s cannot be started: %w", command[0], err)
	}
	p.release = watchGroup(cmd.Process) //nolint:contextcheck // it lasts as long as the group
	return p, nil
}

// start starts the process, in a thread that lasts as long as it does: where the thread ends, Linux takes this for the end of the parent.
func (p *Process) start() error {
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := authz.Safely("mcp.start", p.cmd.Start)
		if started <- err; err == nil {
			<-p.over
		}
	}()
	return <-started
}

// Serve relays between the agent's lines and the server until one of them ends, and returns the error with which that was. The server is
// left running: see Stop.
func (p *Process) Serve(ctx context.Context, g *Guard, from io.Reader, to io.Writer) error {
	return p.explain(ctx, g.Serve(ctx, Streams{FromClient: from, ToClient: to, FromServer: p.out, ToServer: p.in}))
}

// expected is what an MCP server does, for an operator who named another program.
const expected = "an MCP server reads JSON-RPC messages from its standard input, answers each in a line on its standard output, and runs until its input ends"

// maxShown is how many characters an error shows of a command, or of what it has said.
const maxShown = 100

// name is the command as errors name it: without its arguments, which may hold keys.
func (p *Process) name() string { return fmt.Sprintf("%.*q", maxShown, p.cmd.Args[0]) }

// explain says how a conversation with the process went wrong: that it has ended, and how, or that it is no MCP server.
func (p *Process) explain(ctx context.Context, err error) error {
	stranger, isStranger := errors.AsType[*notServerError](err)
	switch {
	case err == nil:
		return nil
	case isStranger:
		return fmt.Errorf("the command %s is no MCP server: %w; %s", p.name(), stranger, expected)
	case errors.Is(err, errServerEnded) && ctx.Err() == nil:
		return p.ended()
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("the command %s %w; %s", p.name(), context.DeadlineExceeded, expected)
	default:
		return err
	}
}

// ended says how a process ended that has closed its output, or does not read its input any more. It waits a moment for its end.
func (p *Process) ended() error {
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = authz.Safely("mcp.ended", p.wait) // how it ended is in its state
	}()
	late := time.NewTimer(leave)
	defer late.Stop()
	how := "still runs, and has closed its output or reads nothing more,"
	select {
	case <-done:
		how = "has ended (" + p.cmd.ProcessState.String() + ")"
	case <-late.C:
	}
	if !p.out.said.Load() {
		return fmt.Errorf("the command %s %s without an answer; %s", p.name(), how, expected)
	}
	return fmt.Errorf("the command %s %s in the middle of the conversation", p.name(), how)
}

// Stop ends the server, and the processes that it started and left in its group: first its input, and what does not end by that is killed. It is called
// once.
func (p *Process) Stop() {
	_ = p.in.Close()
	late := time.AfterFunc(leave, func() { killGroup(p.cmd.Process) })
	defer late.Stop()
	_ = p.wait() // how it ended is nobody's concern any more
	killGroup(p.cmd.Process)
	p.release()
	close(p.over)
}

// Definitions asks the server for what an operator approves of it.
func (p *Process) Definitions(ctx context.Context) (Definitions, error) {
	all, err := ReadDefinitions(ctx, p.out, p.in)
	return all, p.explain(ctx, err)
}

// ReadDefinitions asks a server for its definitions, as an agent does that begins. It closes from where ctx is over before.
func ReadDefinitions(ctx context.Context, from io.ReadCloser, to io.Writer) (Definitions, error) {
	t, over := newTalk(ctx, from, to)
	defer over()
	return DefinitionsOf(t.ask, t.tell)
}
