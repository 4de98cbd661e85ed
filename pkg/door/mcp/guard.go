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
	// With an error nothing is allowed. It is given 1 to mapping.MaxAsks questions, or ten times as many about a list.
	Ask(ctx context.Context, call Call, asks []mapping.Ask) ([]Answer, error)
	// Refused records that the guard refuses a call by itself.
	Refused(ctx context.Context, call Call, why Refusal) error
}

// Answer is what a question came to. The zero Answer refuses.
type Answer struct {
	// Allowed says yes.
	Allowed bool
	// RefusedBy is what refused, in a word of the journal's, and Decision the id by which the journal finds the decision. They are for the log, and empty
	// where nothing is known.
	RefusedBy, Decision string
}

// Config is what a Guard is made of.
type Config struct {
	// Map says what calls are about, and Ask decides it.
	Map *mapping.Map
	Ask Asker
	// Pins are the tools that were approved.
	Pins *Pins
	// Tools is what is known of the server's tools. Guards of one server can share it; nil is one of the guard's own.
	Tools *Tools
	// Known are the lists of tools that the server gave before. Guards of one server with the same Map and Pins can share it; nil is one of the guard's own.
	Known *Known
	// Mirrored returns the values of the header that a call came with for an argument (see Mirror), by the header's name without MirrorPrefix. nil
	// says that the transport has no headers.
	Mirrored func(name string) []string
	// Timeout is how long the server may take for an answer; 0 is DefaultTimeout.
	Timeout time.Duration
	// Log gets what was refused: the tool, what refused it and the decision's id, without arguments. nil is none.
	Log *zap.Logger
}

const (
	// DefaultTimeout is how long a server may take for an answer.
	DefaultTimeout = 5 * time.Minute
	// stuck is how long a side may take to read a message.
	stuck = 10 * time.Second
	// maxInFlight is how many requests of one side may wait for an answer.
	maxInFlight = 64
	// maxListAsks is how many questions a list of tools, prompts or resources may come to. They are asked at one revision, as many at once as Deputy takes.
	maxListAsks = 10 * mapping.MaxAsks
)

// End is one of the two sides between which a guard stands: it takes what the guard sends there. It is safe for concurrent use.
type End interface {
	// Send hands a message over, and bounds how long that may take. ctx is that of the message in the course of which this one is sent, with all
	// that it carries, so that an end can find the way back. Where the message is a request to the server, ctx lasts as long as its answer
	// is waited for. An error ends a guard that serves lines; ErrNobody says that nobody is there to take the message, and does not.
	Send(ctx context.Context, m *jsonrpc.Message) error
}

// Dropper is an End at the agent that is told that a request gets no answer, because it was cancelled. ctx is that with which the request came.
type Dropper interface {
	Dropped(ctx context.Context)
}

// ErrNobody is the error of an End that cannot take a message, because nobody waits for messages of its kind.
var ErrNobody = errors.New("nobody is there to take the message")

// Guard relays the messages between one agent and one server. The agent, and whom it acts for, are the same for all of them.
type Guard struct {
	cfg            Config
	client, server End

	mu sync.Mutex
	// flights are the agent's requests that have no answer yet, by their own ids, and waiting those that were sent on, and the guard's own, by
	// the ids that the guard gave them. No such id is given twice, so that a late answer is nobody else's.
	flights, waiting map[jsonrpc.ID]*flight
	last             int64
	// asked are the server's requests that the agent has not answered yet.
	asked map[jsonrpc.ID]bool
	// answering are the requests whose answers are made or sent.
	answering sync.WaitGroup

	tools *Tools
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
	// listing says that the request that waits is for the first page of the tools, whose answer may be known. The guard's mu guards it.
	listing bool
	// answer gets one answer.
	answer chan *answer
	ctx    context.Context //nolint:containedctx // a request has its context, which a message of its own cancels
	cancel context.CancelCauseFunc
}

// answer is the server's answer to a request.
type answer struct {
	*jsonrpc.Message

	// known is the list of tools in the answer where it is known; then there is no Message. Else text is the answer's, of a request that is listing.
	known *toolList
	text  []byte
}

var (
	// ErrCanceled ends a request that the agent, or the server, has cancelled: no answer is expected. It is the cause of its context's end.
	ErrCanceled = errors.New("the request was cancelled")
	// errSlow ends a request that took too long.
	errSlow = errors.New("the server did not answer in time")
	// errStuck ends a guard whose other side does not read.
	errStuck = errors.New("a message was not read in time")
	// errServerEnded ends a guard without a server.
	errServerEnded = errors.New("the server has ended")
)

// New returns a guard that stands between two streams of lines: see Serve.
func New(cfg Config) *Guard { return Between(cfg, newLineWriter(), newLineWriter()) }

// Between returns a guard that stands between two ends. What they send is handed to FromClient and FromServer.
func Between(cfg Config, client, server End) *Guard {
	if cfg.Timeout == 0 {
		cfg.Timeout = DefaultTimeout
	}
	if cfg.Log == nil {
		cfg.Log = zap.NewNop()
	}
	if cfg.Tools == nil {
		cfg.Tools = &Tools{}
	}
	if cfg.Known == nil {
		cfg.Known = &Known{}
	}
	return &Guard{
		cfg: cfg, client: client, server: server, tools: cfg.Tools,
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

// Serve relays until the agent's lines end (nil), the server's do, a side does not read, or ctx is over. It is called once, of a guard that New
// returned. A reader that blocks is left blocking: the caller closes the streams afterwards.
func (g *Guard) Serve(ctx context.Context, s Streams) error {
	client, ofClient := g.client.(*lineWriter)
	server, ofServer := g.server.(*lineWriter)
	if !ofClient || !ofServer {
		return errors.New("a guard between two ends serves no lines")
	}
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	ended := make(chan error, 4)
	go func() {
		ended <- authz.Safely("mcp.write", func() error { return client.write(ctx, s.ToClient) })
	}()
	go func() {
		ended <- authz.Safely("mcp.write", func() error {
			if err := server.write(ctx, s.ToServer); err != nil {
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
		f.cancel(ErrCanceled)
		if g.client.Send(ctx, jsonrpc.Fail(f.id, jsonrpc.CodeInternal, "The server has ended.")) != nil {
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
	for lines := NewLineReader(from, rules.Bytes); ; {
		line, err := lines.Next()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case errors.Is(err, ErrTooLong):
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
	}
	return g.FromClient(ctx, m)
}

// FromClient judges one message of the agent's that jsonrpc.FromClient accepts. What a request comes to is found beside: ctx has to last until
// its answer was sent, and a request is over with it. An error ends a guard that serves lines.
func (g *Guard) FromClient(ctx context.Context, m *jsonrpc.Message) error {
	switch {
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

func send(ctx context.Context, to End, m *jsonrpc.Message, side string) error {
	if err := to.Send(ctx, m); err != nil {
		return fmt.Errorf("to the %s: %w", side, err)
	}
	return nil
}

// answers decides about a call: as many answers as questions, of which there may be most. With an error nothing is allowed.
func (g *Guard) answers(ctx context.Context, call Call, asks []mapping.Ask, most int) ([]Answer, error) {
	switch {
	case len(asks) == 0:
		return nil, nil
	case len(asks) > most:
		return nil, fmt.Errorf("%d questions, more than %d", len(asks), most)
	}
	answers, err := g.cfg.Ask.Ask(ctx, call, asks)
	if err != nil {
		return nil, err
	}
	if len(answers) != len(asks) {
		return nil, fmt.Errorf("%d answers to %d questions", len(answers), len(asks))
	}
	return answers, nil
}

// answered are the answers to questions. What is not among them is refused.
type answered map[mapping.Ask]Answer

// ask decides about a call. With an error nothing is allowed.
func (g *Guard) ask(ctx context.Context, call Call, asks []mapping.Ask, most int) (answered, error) {
	answers, err := g.answers(ctx, call, asks, most)
	if err != nil {
		return nil, err
	}
	all := make(answered, len(asks))
	for i, a := range asks {
		all[a] = answers[i]
	}
	return all, nil
}

// hold reports whether all questions are answered with yes, and returns the first answer that is not. None are not.
func (a answered) hold(asks []mapping.Ask) (refusal Answer, yes bool) {
	for _, one := range asks {
		if refusal := a[one]; !refusal.Allowed {
			return refusal, false
		}
	}
	return Answer{}, len(asks) > 0
}

// allowed are the questions that are answered with yes.
func (a answered) allowed() map[mapping.Ask]bool {
	yes := make(map[mapping.Ask]bool, len(a))
	for ask, answer := range a {
		yes[ask] = answer.Allowed
	}
	return yes
}
