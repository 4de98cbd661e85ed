package mcp

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/door/mcp/jsonrpc"
)

// leave is how long a server may take to end once its input has.
const leave = 3 * time.Second

// Process is a server that runs as a process of its own, and speaks on its standard input and output. Whoever can start the same program, or
// reach what it reaches, goes around the guard.
type Process struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out io.ReadCloser
	// over is closed once the process has ended.
	over chan struct{}
}

// Start starts a server. It gets the environment but for the variables of Deputy's own, among which are keys. errs gets what it says on its
// standard error. On Linux the server is killed where this process ends without Stop, however that ends.
func Start(ctx context.Context, command []string, errs io.Writer) (*Process, error) {
	cmd := exec.CommandContext(ctx, command[0], command[1:]...) //nolint:gosec // whoever runs the guard names the server
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
	p := &Process{cmd, in, out, make(chan struct{})}
	if err := p.start(); err != nil {
		return nil, fmt.Errorf("the server %s cannot be started: %w", command[0], err)
	}
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
	return g.Serve(ctx, Streams{FromClient: from, ToClient: to, FromServer: p.out, ToServer: p.in})
}

// Stop ends the server, and the processes that it started and left in its group: first its input, and what does not end by that is killed. It is called
// once.
func (p *Process) Stop() {
	_ = p.in.Close()
	late := time.AfterFunc(leave, func() { killGroup(p.cmd.Process) })
	defer late.Stop()
	_ = p.cmd.Wait() // how it ended is nobody's concern any more
	killGroup(p.cmd.Process)
	close(p.over)
}

// Tools asks the server for all its tools.
func (p *Process) Tools(ctx context.Context) ([]jsonrpc.Value, error) {
	return ReadTools(ctx, p.out, p.in)
}

// ReadTools asks a server for all its tools, as an agent does that begins. It closes from where ctx is over before.
func ReadTools(ctx context.Context, from io.ReadCloser, to io.Writer) ([]jsonrpc.Value, error) {
	t, over := newTalk(ctx, from, to)
	defer over()
	return ToolsOf(t.ask, t.tell)
}
