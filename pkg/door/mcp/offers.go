package mcp

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/deputyauth/deputy/pkg/door/mcp/jsonrpc"
)

// Offers asks the server for all that it lists, as an agent does that begins: an object with serverInfo, and with tools, prompts, resources and
// resourceTemplates as far as the server has them.
func (p *Process) Offers(ctx context.Context) (jsonrpc.Value, error) {
	offers, err := ReadOffers(ctx, p.out, p.in)
	return offers, p.explain(ctx, err)
}

// ReadOffers asks a server for all that it lists. It closes from where ctx is over before.
func ReadOffers(ctx context.Context, from io.ReadCloser, to io.Writer) (jsonrpc.Value, error) {
	t, over := newTalk(ctx, from, to)
	defer over()
	began, err := t.begin()
	if err != nil {
		return jsonrpc.Value{}, err
	}
	offers := jsonrpc.ObjectOf(jsonrpc.Member{Name: "serverInfo", Value: began.At("serverInfo")})
	for _, list := range []struct{ capability, method, name string }{
		{"tools", "tools/list", "tools"},
		{"prompts", "prompts/list", "prompts"},
		{"resources", "resources/list", "resources"},
		{"resources", "resources/templates/list", "resourceTemplates"},
	} {
		if began.At("capabilities", list.capability).Kind() != jsonrpc.Object {
			continue
		}
		all, _, err := PagesOf(list.name, jsonrpc.ObjectOf(), func(params jsonrpc.Value) (jsonrpc.Value, error) { return t.ask(list.method, params) })
		if _, refused := errors.AsType[*unanswered](err); refused && list.capability == "resources" {
			continue // some servers have resources and no templates, or the other way round
		}
		if err != nil {
			return jsonrpc.Value{}, err
		}
		offers = offers.With(list.name, jsonrpc.List(all))
	}
	return offers, nil
}

// talk is a conversation in which a server is asked one question after another.
type talk struct {
	ctx   context.Context //nolint:containedctx // that of the whole conversation
	lines *LineReader
	to    io.Writer
	last  int64
}

// newTalk begins a conversation, and returns the function that ends it. It closes from where ctx is over before.
func newTalk(ctx context.Context, from io.ReadCloser, to io.Writer) (*talk, func()) {
	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(done)
		_ = from.Close() // ends a read
	})
	return &talk{ctx: ctx, lines: NewLineReader(from, jsonrpc.FromServer().Bytes), to: to}, func() {
		if !stop() {
			<-done
		}
	}
}

// unanswered is the error of a server that does not answer a method.
type unanswered struct{ method, message string }

// Error returns the message.
func (n *unanswered) Error() string {
	return fmt.Sprintf("the server does not answer %s: %s", n.method, n.message)
}

// notServerError is the error of a program that says something, and does not speak the protocol.
type notServerError struct {
	method string
	// line is what it says.
	line string
	// echoes says that it sends back what it gets.
	echoes bool
	// why is what is wrong with the line as a message.
	why error
}

// Error goes on after words that name the program.
func (s *notServerError) Error() string {
	if s.echoes {
		return fmt.Sprintf("it sends %s back as it gets it", s.method)
	}
	return fmt.Sprintf("it answers %s with %.*q (%v)", s.method, maxShown, s.line, s.why)
}

func (t *talk) tell(m *jsonrpc.Message) error {
	if _, err := t.to.Write(append(m.Append(nil), '\n')); err != nil {
		return t.gone(err)
	}
	return nil
}

// gone is the error of a server with which there is no talking any more: the end of the time that there was, where that is why.
func (t *talk) gone(err error) error {
	if t.ctx.Err() != nil {
		return t.ctx.Err()
	}
	return fmt.Errorf("%w: %w", errServerEnded, err)
}

// ask asks a question, and refuses what the server asks meanwhile.
func (t *talk) ask(method string, params jsonrpc.Value) (jsonrpc.Value, error) {
	t.last++
	id, _ := jsonrpc.IDOf(jsonrpc.Whole(t.last))
	if err := t.tell(&jsonrpc.Message{ID: id, Method: method, Params: params}); err != nil {
		return jsonrpc.Value{}, err
	}
	for range 10_000 { // what comes besides
		text, err := t.lines.Next()
		switch {
		case errors.Is(err, ErrTooLong):
			return jsonrpc.Value{}, fmt.Errorf("the server's answer to %s has more than %d bytes", method, jsonrpc.FromServer().Bytes)
		case err != nil:
			return jsonrpc.Value{}, t.gone(err)
		case len(text) == 0:
			continue
		}
		m, err := jsonrpc.Parse(text, jsonrpc.FromServer())
		switch {
		case err != nil && t.last == 1:
			return jsonrpc.Value{}, &notServerError{method: method, line: string(text), why: err}
		case err != nil:
			return jsonrpc.Value{}, fmt.Errorf("the server's answer to %s: %w", method, err)
		case m.IsRequest() && m.ID == id && m.Method == method:
			return jsonrpc.Value{}, &notServerError{method: method, echoes: true}
		case m.IsRequest():
			if err := t.tell(jsonrpc.Fail(m.ID, jsonrpc.CodeNoMethod, "There is no agent.")); err != nil {
				return jsonrpc.Value{}, err
			}
		case m.IsAnswer() && m.ID == id && m.Failure.Kind() == jsonrpc.Object:
			text, _ := m.Failure.At("message").Text()
			return jsonrpc.Value{}, &unanswered{method, text}
		case m.IsAnswer() && m.ID == id:
			return m.Result, nil
		}
	}
	return jsonrpc.Value{}, fmt.Errorf("the server does not answer %s", method)
}

// begin says hello, and returns the server's answer.
func (t *talk) begin() (jsonrpc.Value, error) { return hello(t.ask, t.tell) }

// hello is how an agent begins. It returns the server's answer.
func hello(ask func(method string, params jsonrpc.Value) (jsonrpc.Value, error), tell func(m *jsonrpc.Message) error) (jsonrpc.Value, error) {
	text := func(name, value string) jsonrpc.Member { return jsonrpc.Member{Name: name, Value: jsonrpc.Text(value)} }
	began, err := ask("initialize", jsonrpc.ObjectOf(
		text("protocolVersion", "2025-11-25"), jsonrpc.Member{Name: "capabilities", Value: jsonrpc.ObjectOf()},
		jsonrpc.Member{Name: "clientInfo", Value: jsonrpc.ObjectOf(text("name", "deputy"), text("version", "1"))}))
	if err != nil {
		return jsonrpc.Value{}, err
	}
	return began, tell(&jsonrpc.Message{Method: "notifications/initialized"})
}

// DefinitionsOf asks a server for its definitions, as an agent does that begins. ask returns the result of a request, and tell sends a notification.
func DefinitionsOf(ask func(method string, params jsonrpc.Value) (jsonrpc.Value, error), tell func(m *jsonrpc.Message) error) (all Definitions, err error) {
	began, err := hello(ask, tell)
	if err != nil {
		return Definitions{}, err
	}
	all.Instructions, _ = began.At("instructions").Text()
	all.Tools, _, err = PagesOf("tools", jsonrpc.ObjectOf(), func(params jsonrpc.Value) (jsonrpc.Value, error) { return ask("tools/list", params) })
	return all, err
}
