package mcp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"go.uber.org/zap"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/door/mcp/jsonrpc"
	"github.com/deputyauth/deputy/pkg/door/mcp/mapping"
)

// subscriptionID is where the server names the request by which a subscription began.
const subscriptionID = "io.modelcontextprotocol/subscriptionId"

// readServer reads what the server sends. It always returns an error: without the server there is no guard.
func (g *Guard) readServer(ctx context.Context, from io.Reader) error {
	rules := jsonrpc.FromServer()
	for lines := NewLineReader(from, rules.Bytes); ; {
		line, err := lines.Next()
		switch {
		case errors.Is(err, io.EOF):
			return errServerEnded
		case errors.Is(err, ErrTooLong):
			return fmt.Errorf("the server sent a message of more than %d bytes", rules.Bytes)
		case err != nil:
			return fmt.Errorf("%w: %w", errServerEnded, err)
		case len(line) > 0:
			err = g.fromServer(ctx, line, rules, func(jsonrpc.ID) bool { return true })
		}
		if err != nil {
			return err
		}
	}
}

// FromServer judges one message that the server sends in answer to one request, or of its own accord where request is the zero ID: there it
// answers nothing. ctx is that with which the request was sent. The text is the caller's again when it returns.
func (g *Guard) FromServer(ctx context.Context, text []byte, request jsonrpc.ID) error {
	return g.fromServer(ctx, text, jsonrpc.FromServer(), func(id jsonrpc.ID) bool { return id == request && !id.IsZero() })
}

// fromServer judges one message of the server's. answers says which requests it may answer. An error ends a guard that serves lines.
func (g *Guard) fromServer(ctx context.Context, line []byte, rules jsonrpc.Rules, answers func(jsonrpc.ID) bool) error {
	if list, id := g.cfg.Known.find(line); list != nil && answers(id) && g.answeredWith(id, list) {
		return nil
	}
	m, err := jsonrpc.Parse(line, rules)
	switch problem, wrong := errors.AsType[*jsonrpc.Problem](err); {
	case wrong:
		g.cfg.Log.Warn("dropped a message of the server", zap.String("why", problem.Message))
		if !problem.ID.IsZero() && !problem.Request && answers(problem.ID) {
			g.answered(jsonrpc.Fail(problem.ID, jsonrpc.CodeInternal, "The guard does not let the server's answer through: "+problem.Message+"."), nil)
		}
		return nil
	case err != nil:
		return err
	case m.IsAnswer() && !answers(m.ID):
		g.cfg.Log.Warn("dropped an answer of the server that came in the place of another one")
		return nil
	case m.IsAnswer():
		g.answered(m, line)
		return nil
	case m.IsRequest():
		return g.askedByServer(ctx, m)
	default:
		return g.toldByServer(ctx, m)
	}
}

// What an agent is told in the place of an answer that does not fit into the memory for answers: never, or not now.
const (
	TooHeavy = "The server's answer is too large for the guard. Ask for less."
	TooMany  = "The server's answers that wait for the agent are too large for one more. Wait for one, and try again."
)

// answered hands an answer to the request that waits for it. text is the answer's, and the caller's.
func (g *Guard) answered(m *jsonrpc.Message, text []byte) {
	g.mu.Lock()
	defer g.mu.Unlock()
	f := g.waiting[m.ID]
	if f == nil || m.ID.IsZero() {
		g.cfg.Log.Info("dropped an answer of the server to a request that there is not, or no longer")
		return
	}
	delete(g.waiting, m.ID)
	one := &answer{Message: m}
	switch weight := jsonrpc.Weight(text); {
	case weight > maxHeld:
		one.Message = jsonrpc.Fail(m.ID, jsonrpc.CodeInternal, TooHeavy)
	case g.held+weight > maxHeld:
		one.Message = jsonrpc.Fail(m.ID, jsonrpc.CodeInternal, TooMany)
	default:
		g.held, f.held = g.held+weight, f.held+weight
	}
	if f.listing && len(text) <= maxKnownBytes {
		one.text = bytes.Clone(text)
	}
	f.answer <- one // it has room for one, and a request is in waiting only until its answer
}

// answeredWith hands a known list to the request that waits for one; false where there is no such request.
func (g *Guard) answeredWith(id jsonrpc.ID, list *toolList) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	f := g.waiting[id]
	if f == nil || !f.listing {
		return false
	}
	delete(g.waiting, id)
	f.answer <- &answer{known: list} // as in answered
	return true
}

// Awaits reports whether a request that was sent to the server has no answer yet.
func (g *Guard) Awaits(request jsonrpc.ID) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.waiting[request] != nil
}

// askedByServer judges a request of the server's.
func (g *Guard) askedByServer(ctx context.Context, m *jsonrpc.Message) error {
	row := lookUp(Server, m.Method, false)
	if row.Does != Passes || row.Feature != "" && !g.cfg.Map.Allows(row.Feature) {
		g.cfg.Log.Info("refused a request of the server", zap.String("method", word(m.Method, maxName)))
		return g.toServer(ctx, jsonrpc.Fail(m.ID, jsonrpc.CodeNoMethod, "The guard does not let this method through."))
	}
	g.mu.Lock()
	full := len(g.asked) >= maxInFlight || g.asked[m.ID]
	if !full {
		g.asked[m.ID] = true
	}
	g.mu.Unlock()
	if full {
		return g.toServer(ctx, jsonrpc.Fail(m.ID, jsonrpc.CodeInternal, "Too many requests have no answer yet, or one with this id has none."))
	}
	err := g.toClient(ctx, m)
	if !errors.Is(err, ErrNobody) {
		return err
	}
	g.mu.Lock()
	delete(g.asked, m.ID)
	g.mu.Unlock()
	return g.toServer(ctx, jsonrpc.Fail(m.ID, jsonrpc.CodeInternal, "The agent takes no requests now."))
}

// toldByServer judges a notification of the server's.
func (g *Guard) toldByServer(ctx context.Context, m *jsonrpc.Message) error {
	row := lookUp(Server, m.Method, true)
	if row.Does == Refuses || row.Feature != "" && !g.cfg.Map.Allows(row.Feature) {
		g.cfg.Log.Info("dropped a notification of the server", zap.String("method", word(m.Method, maxName)))
		return nil
	}
	if id, ok := jsonrpc.IDOf(m.Params.At("_meta", subscriptionID)); ok {
		g.mu.Lock()
		f := g.waiting[id]
		g.mu.Unlock()
		if f == nil {
			return nil
		}
		m.Params = inClientsWords(f, m.Params)
	}
	switch m.Method {
	case "notifications/tools/list_changed":
		g.tools.changed()
	case "notifications/progress":
		params, awaited := g.progress(m.Params)
		if !awaited {
			return nil
		}
		m.Params = params
	case "notifications/cancelled":
		return g.canceledByServer(ctx, m)
	case "notifications/resources/updated":
		return g.updated(ctx, m)
	}
	return g.toClient(ctx, m)
}

// inClientsWords calls the request by which a subscription began what the agent calls it.
func inClientsWords(f *flight, in jsonrpc.Value) jsonrpc.Value {
	meta := in.At("_meta")
	if _, found := meta.Get(subscriptionID); !found {
		return in
	}
	return in.With("_meta", meta.With(subscriptionID, f.id.Value()))
}

// progress returns the params of progress as the agent gets them; false where it is of no request that waits for an answer. The server knows a request
// by the id that the guard gave it, and so nothing of one request comes out as another's, whatever tokens the agent gave them.
func (g *Guard) progress(params jsonrpc.Value) (jsonrpc.Value, bool) {
	id, ok := jsonrpc.IDOf(params.At(progressToken))
	if !ok {
		return params, false
	}
	g.mu.Lock()
	f := g.waiting[id]
	g.mu.Unlock()
	if f == nil || f.token.Kind() == jsonrpc.Null {
		return params, false
	}
	if f.filtered { // anything else may name what the answer must not
		figures := []jsonrpc.Member{{Name: progressToken, Value: f.token}}
		for _, member := range only(params, "progress", "total").Members() {
			if _, isNumber := member.Value.Digits(); isNumber {
				figures = append(figures, member)
			}
		}
		params = jsonrpc.ObjectOf(figures...)
	}
	return params.With(progressToken, f.token), true
}

// canceledByServer passes on that the server wants no answer to a request of its own, or ends one of the agent's.
func (g *Guard) canceledByServer(ctx context.Context, m *jsonrpc.Message) error {
	id, ok := jsonrpc.IDOf(m.Params.At("requestId"))
	if !ok {
		return nil
	}
	g.mu.Lock()
	asked, f := g.asked[id], g.waiting[id]
	delete(g.asked, id)
	g.mu.Unlock()
	switch {
	case asked:
		return g.toClient(ctx, m)
	case f != nil:
		f.cancel(ErrCanceled)
		m.Params = m.Params.With("requestId", f.id.Value())
		return g.toClient(ctx, m)
	}
	return nil
}

// updated decides whether the agent is told of a change. What the server sends next waits for the decision.
func (g *Guard) updated(ctx context.Context, m *jsonrpc.Message) error {
	uri, _ := m.Params.At("uri").Text()
	if !g.subscribed.has(uri) {
		return nil
	}
	asks, err := g.cfg.Map.ReadResource(uri)
	if err != nil {
		return nil //nolint:nilerr // what may not be read is not told
	}
	return authz.Safely("mcp.updated", func() error {
		call := Call{Server: g.cfg.Map.Server(), Method: m.Method, Arguments: uriOnly(uri)}
		answers, err := g.ask(ctx, call, asks, mapping.MaxAsks)
		if err != nil {
			return nil //nolint:nilerr // the same
		}
		if _, yes := answers.hold(asks); !yes {
			return nil
		}
		return g.toClient(ctx, m)
	})
}
