package mcp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

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
}

// Start starts a server. It gets the environment but for the variables of Deputy's own, among which are keys. errs gets what it says on its
// standard error.
func Start(ctx context.Context, command []string, errs io.Writer) (*Process, error) {
	cmd := exec.CommandContext(ctx, command[0], command[1:]...) //nolint:gosec // whoever runs the guard names the server
	cmd.Stderr = errs
	cmd.WaitDelay = leave
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
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
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("the server %s cannot be started: %w", command[0], err)
	}
	return &Process{cmd, in, out}, nil
}

// Serve relays between the agent's lines and the server until one of them ends, and returns the error with which that was. The server is
// left running: see Stop.
func (p *Process) Serve(ctx context.Context, g *Guard, from io.Reader, to io.Writer) error {
	return g.Serve(ctx, Streams{FromClient: from, ToClient: to, FromServer: p.out, ToServer: p.in})
}

// Stop ends the server: first its input, and what does not end by that is killed.
func (p *Process) Stop() {
	_ = p.in.Close()
	over := time.AfterFunc(leave, func() { _ = p.cmd.Process.Kill() })
	defer over.Stop()
	_ = p.cmd.Wait() // how it ended is nobody's concern any more
}

// Tools asks the server for all its tools.
func (p *Process) Tools(ctx context.Context) ([]jsonrpc.Value, error) {
	return ReadTools(ctx, p.out, p.in)
}

// ReadTools asks a server for all its tools, as an agent does that begins. It closes from where ctx is over before.
func ReadTools(ctx context.Context, from io.ReadCloser, to io.Writer) ([]jsonrpc.Value, error) {
	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(done)
		_ = from.Close() // ends a read
	})
	defer func() {
		if !stop() {
			<-done
		}
	}()
	lines, last := NewLineReader(from, jsonrpc.FromServer().Bytes), int64(0)
	tell := func(m *jsonrpc.Message) error {
		_, err := to.Write(append(m.Append(nil), '\n'))
		return err
	}
	ask := func(method string, params jsonrpc.Value) (jsonrpc.Value, error) {
		last++
		id, _ := jsonrpc.IDOf(jsonrpc.Whole(last))
		if err := tell(&jsonrpc.Message{ID: id, Method: method, Params: params}); err != nil {
			return jsonrpc.Value{}, err
		}
		for range 10_000 { // what comes besides
			text, err := lines.Next()
			if err != nil {
				return jsonrpc.Value{}, errors.Join(err, ctx.Err())
			}
			m, err := jsonrpc.Parse(text, jsonrpc.FromServer())
			switch {
			case err != nil:
				return jsonrpc.Value{}, fmt.Errorf("the server's answer to %s: %w", method, err)
			case m.IsRequest():
				if err := tell(jsonrpc.Fail(m.ID, jsonrpc.CodeNoMethod, "There is no agent.")); err != nil {
					return jsonrpc.Value{}, err
				}
			case m.IsAnswer() && m.ID == id && m.Failure.Kind() == jsonrpc.Object:
				text, _ := m.Failure.At("message").Text()
				return jsonrpc.Value{}, fmt.Errorf("the server does not answer %s: %s", method, text)
			case m.IsAnswer() && m.ID == id:
				return m.Result, nil
			}
		}
		return jsonrpc.Value{}, fmt.Errorf("the server does not answer %s", method)
	}
	return ToolsOf(ask, tell)
}

// ToolsOf asks a server for all its tools, as an agent does that begins. ask returns the result of a request, and tell sends a notification.
func ToolsOf(ask func(method string, params jsonrpc.Value) (jsonrpc.Value, error), tell func(m *jsonrpc.Message) error) ([]jsonrpc.Value, error) {
	text := func(name, value string) jsonrpc.Member { return jsonrpc.Member{Name: name, Value: jsonrpc.Text(value)} }
	_, err := ask("initialize", jsonrpc.ObjectOf(
		text("protocolVersion", "2025-11-25"), jsonrpc.Member{Name: "capabilities", Value: jsonrpc.ObjectOf()},
		jsonrpc.Member{Name: "clientInfo", Value: jsonrpc.ObjectOf(text("name", "deputy"), text("version", "1"))}))
	if err != nil {
		return nil, err
	}
	if err := tell(&jsonrpc.Message{Method: "notifications/initialized"}); err != nil {
		return nil, err
	}
	all, _, err := PagesOf(jsonrpc.ObjectOf(), func(params jsonrpc.Value) (jsonrpc.Value, error) { return ask("tools/list", params) })
	return all, err
}
