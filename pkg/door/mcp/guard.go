package mcp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/door/mcp/jsonrpc"
	"github.com/deputyauth/deputy/pkg/door/mcp/mapping"
)

// Asker decides about one agent that acts for one principal. It is safe for concurrent use.
type Asker interface {
	// Ask decides the questions that a call comes to, and records them with the call: as many answers as questions, in their order, at one revision.
	// With an error nothing is allowed. It is given 1 to mapping.MaxAsks questions.
	Ask(ctx context.Context, call Call, asks []mapping.Ask) ([]bool, error)
	// Refused records that the guard refuses a call by itself.
	Refused(ctx context.Context, call Call, why Refusal) error
}

// Config is what a Guard is made of.
type Config struct {
	// Map says what calls are about, and Ask decides it.
	Map *mapping.Map
	Ask Asker
	// Pins are the tools that were approved.
	Pins *Pins
	// Timeout is how long the server may take for an answer; 0 is DefaultTimeout.
	Timeout time.Duration
	// Log gets what was refused, without arguments. nil is none.
	Log *zap.Logger
}

const (
	// DefaultTimeout is how long a server may take for an answer.
	DefaultTimeout = 5 * time.Minute
	// stuck is how long a side may take to read a message.
	stuck = 10 * time.Second
	// maxInFlight is how many requests of one side may wait for an answer.
	maxInFlight = 64
)

// Guard relays the messages between one agent and one server. The agent, and whom it acts for, are the same for all of them.
type Guard struct {
	cfg            Config
	client, server *lineWriter

	mu sync.Mutex
	// flights are the agent's requests that have no answer yet, by their own ids, and waiting those that were sent on, and the guard's own, by
	// the ids that the guard gave them. No such id is given twice, so that a late answer is nobody else's.
	flights, waiting map[jsonrpc.ID]*flight
	last             int64
	// asked are the server's requests that the agent has not answered yet.
	asked map[jsonrpc.ID]bool
	// answering are the requests whose answers are made or sent.
	answering sync.WaitGroup

	tools tools
}

// flight is a request on its way.
type flight struct {
	// call is what is judged of it. It belongs to the goroutine that answers the request.
	call Call
	// id is the agent's, and sent the one that the server got; zero before that.
	id, sent jsonrpc.ID
	token    jsonrpc.Value
	// filtered says that it calls a tool whose answers are filtered.
	filtered bool
	// answer gets one message.
	answer chan *jsonrpc.Message
	ctx    context.Context //nolint:containedctx // a request has its context, which a message of its own cancels
	cancel context.CancelCauseFunc
}

var (
	// errCanceled ends a request that the agent, or the server, has cancelled: no answer is expected.
	errCanceled = errors.New("the request was cancelled")
	// errSlow ends a request that took too long.
	errSlow = errors.New("the server did not answer in time")
	// errStuck ends a guard whose other side does not read.
	errStuck = errors.New("a message was not read in time")
	// errServerEnded ends a guard without a server.
	errServerEnded = errors.New("the server has ended")
)

// New returns a guard.
func New(cfg Config) *Guard {
	if cfg.Timeout == 0 {
		cfg.Timeout = DefaultTimeout
	}
	if cfg.Log == nil {
		cfg.Log = zap.NewNop()
	}
	return &Guard{
		cfg: cfg, client: newLineWriter(), server: newLineWriter(),
		flights: map[jsonrpc.ID]*flight{}, waiting: map[jsonrpc.ID]*flight{}, asked: map[jsonrpc.ID]bool{},
	}
}

// Streams are the lines of the two sides.
type Streams struct {
	FromClient io.Reader
	ToClient   io.Writer
	FromServer io.Reader
	ToServer   io.Writer
}

// Serve relays until the agent's lines end (nil), the server's do, a side does not read, or ctx is over. It is called once. A reader that
// blocks is left blocking: the caller closes the streams afterwards.
func (g *Guard) Serve(ctx context.Context, s Streams) error {
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	ended := make(chan error, 4)
	go func() {
		ended <- authz.Safely("mcp.write", func() error { return g.client.write(ctx, s.ToClient) })
	}()
	go func() {
		ended <- authz.Safely("mcp.write", func() error {
			if err := g.server.write(ctx, s.ToServer); err != nil {
				return fmt.Errorf("%w: %w", errServerEnded, err)
			}
			return nil
		})
	}()
	go func() {
		ended <- authz.Safely("mcp.server", func() error { return g.readServer(ctx, s.FromServer) })
	}()
	go func() {
		ended <- authz.Safely("mcp.agent", func() error { return g.readClient(ctx, s.FromClient) })
	}()
	select {
	case err := <-ended:
		if errors.Is(err, errServerEnded) {
			g.abandon(ctx)
		}
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// abandon answers the requests that are still in flight: the server will not.
func (g *Guard) abandon(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, stuck)
	defer cancel()
	g.mu.Lock()
	left := make([]*flight, 0, len(g.flights))
	for _, f := range g.flights {
		left = append(left, f)
	}
	g.mu.Unlock()
	for _, f := range left {
		f.cancel(errCanceled)
		if g.client.send(ctx, jsonrpc.Fail(f.id, jsonrpc.CodeInternal, "The server has ended.")) != nil {
			return
		}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = authz.Safely("mcp.wait", func() error {
			g.answering.Wait()
			return nil
		})
	}()
	select { // those that were being answered have their answers
	case <-done:
	case <-ctx.Done():
	}
}

// readClient reads what the agent sends, until its end.
func (g *Guard) readClient(ctx context.Context, from io.Reader) error {
	rules := jsonrpc.FromClient()
	for lines := newLineReader(from, rules.Bytes); ; {
		line, err := lines.next()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case errors.Is(err, errTooLong):
			err = g.toClient(ctx, jsonrpc.Fail(jsonrpc.ID{}, jsonrpc.CodeInvalidRequest, fmt.Sprintf("The message has more than %d bytes.", rules.Bytes)))
		case err != nil:
			return fmt.Errorf("the agent's messages cannot be read: %w", err)
		case len(line) > 0:
			err = g.fromClient(ctx, line, rules)
		}
		if err != nil {
			return err
		}
	}
}

// fromClient judges one message of the agent's.
func (g *Guard) fromClient(ctx context.Context, line []byte, rules jsonrpc.Rules) error {
	m, err := jsonrpc.Parse(line, rules)
	switch problem, refused := errors.AsType[*jsonrpc.Problem](err); {
	case refused:
		g.cfg.Log.Info("refused a message of the agent", zap.String("why", problem.Message))
		return g.toClient(ctx, jsonrpc.Fail(problem.ID, problem.Code, "The guard refuses the message: "+problem.Message+"."))
	case err != nil:
		return err
	case m.IsRequest():
		return g.request(ctx, m)
	case m.IsNotification():
		return g.told(ctx, m)
	}
	g.mu.Lock()
	asked := g.asked[m.ID]
	delete(g.asked, m.ID)
	g.mu.Unlock()
	if !asked {
		g.cfg.Log.Info("dropped an answer of the agent to a request that there is not")
		return nil
	}
	return g.toServer(ctx, m)
}

// toClient sends a message to the agent. An error ends the guard.
func (g *Guard) toClient(ctx context.Context, m *jsonrpc.Message) error {
	return send(ctx, g.client, m, "agent")
}

// toServer sends a message to the server. An error ends the guard.
func (g *Guard) toServer(ctx context.Context, m *jsonrpc.Message) error {
	return send(ctx, g.server, m, "server")
}

func send(ctx context.Context, to *lineWriter, m *jsonrpc.Message, side string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, stuck, errStuck)
	defer cancel()
	if err := to.send(ctx, m); err != nil {
		return fmt.Errorf("to the %s: %w", side, err)
	}
	return nil
}

// ask decides about a call. With an error nothing is allowed.
func (g *Guard) ask(ctx context.Context, call Call, asks []mapping.Ask) (map[mapping.Ask]bool, error) {
	allowed := map[mapping.Ask]bool{}
	if len(asks) == 0 {
		return allowed, nil
	}
	if len(asks) > mapping.MaxAsks {
		return nil, fmt.Errorf("%d questions, more than %d", len(asks), mapping.MaxAsks)
	}
	answers, err := g.cfg.Ask.Ask(ctx, call, asks)
	if err != nil {
		return nil, err
	}
	if len(answers) != len(asks) {
		return nil, fmt.Errorf("%d answers to %d questions", len(answers), len(asks))
	}
	for i, a := range asks {
		allowed[a] = answers[i]
	}
	return allowed, nil
}

// all reports whether all questions are answered with yes. None are not.
func (g *Guard) all(ctx context.Context, call Call, asks []mapping.Ask) (bool, error) {
	allowed, err := g.ask(ctx, call, asks)
	if err != nil || len(asks) == 0 {
		return false, err
	}
	return holds(allowed, asks), nil
}

func holds(allowed map[mapping.Ask]bool, asks []mapping.Ask) bool {
	for _, a := range asks {
		if !allowed[a] {
			return false
		}
	}
	return true
}
