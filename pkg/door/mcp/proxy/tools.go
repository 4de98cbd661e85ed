package proxy

import (
	"context"
	"fmt"
	"net/http"

	"github.com/deputyauth/deputy/pkg/door/mcp"
	"github.com/deputyauth/deputy/pkg/door/mcp/jsonrpc"
)

// Definitions asks the server for what an operator approves of it, as an agent does that begins: on the wire 2025-11-25, and where the server does not
// speak it, on the one that follows it.
func (u *Upstream) Definitions(ctx context.Context) (mcp.Definitions, error) {
	session := &prober{upstream: u, header: http.Header{}}
	all, err := mcp.DefinitionsOf(func(method string, params jsonrpc.Value) (jsonrpc.Value, error) {
		return session.ask(ctx, method, params)
	},
		func(m *jsonrpc.Message) error { return u.tell(ctx, m, session.header) })
	if session.header.Get(sessionHeader) != "" {
		_ = u.leave(ctx, session.header) // the server has a time of its own after which sessions end
	}
	if err == nil || ctx.Err() != nil {
		return all, err
	}
	text := func(name, value string) jsonrpc.Member { return jsonrpc.Member{Name: name, Value: jsonrpc.Text(value)} }
	meta := jsonrpc.ObjectOf(text(metaVersion, newVersion),
		jsonrpc.Member{Name: "io.modelcontextprotocol/clientInfo", Value: jsonrpc.ObjectOf(text("name", "deputy"), text("version", "1"))},
		jsonrpc.Member{Name: "io.modelcontextprotocol/clientCapabilities", Value: jsonrpc.ObjectOf()})
	stateless := &prober{upstream: u, header: http.Header{versionHeader: {newVersion}}}
	ask := func(method string, params jsonrpc.Value) (jsonrpc.Value, error) {
		stateless.header.Set(methodHeader, method)
		return stateless.ask(ctx, method, params)
	}
	params := jsonrpc.ObjectOf(jsonrpc.Member{Name: "_meta", Value: meta})
	about, second := ask("server/discover", params)
	if second == nil {
		all.Instructions, _ = about.At("instructions").Text()
		all.Tools, _, second = mcp.PagesOf("tools", params, func(params jsonrpc.Value) (jsonrpc.Value, error) { return ask("tools/list", params) })
	}
	switch {
	case second != nil && second.Error() == err.Error():
		return mcp.Definitions{}, err
	case second != nil:
		return mcp.Definitions{}, fmt.Errorf("%w; and on the wire %s: %w", err, newVersion, second)
	}
	return all, nil
}

// prober asks a server, one request after the other, without an agent.
type prober struct {
	upstream *Upstream
	header   http.Header
	last     int64
	// waits is the id of the request that has no answer yet, and answer the answer.
	waits  jsonrpc.ID
	answer *jsonrpc.Message
}

// Awaits is receiver's.
func (c *prober) Awaits(request jsonrpc.ID) bool { return c.waits == request }

// FromServer is receiver's.
func (c *prober) FromServer(_ context.Context, text []byte, request jsonrpc.ID) error {
	m, err := jsonrpc.Parse(text, jsonrpc.FromServer())
	if err != nil {
		return err
	}
	if m.IsAnswer() && m.ID == request {
		c.answer, c.waits = m, jsonrpc.ID{}
	}
	return nil
}

func (c *prober) ask(ctx context.Context, method string, params jsonrpc.Value) (jsonrpc.Value, error) {
	c.last++
	c.waits, _ = jsonrpc.IDOf(jsonrpc.Whole(c.last))
	one := &call{request: &jsonrpc.Message{ID: c.waits, Method: method, Params: params}, header: c.header.Clone(), to: c}
	if method == "initialize" {
		one.named = func(id string) { c.header.Set(sessionHeader, id) }
	}
	c.answer = nil
	if err := c.upstream.run(ctx, one); err != nil {
		return jsonrpc.Value{}, err
	}
	if c.answer == nil {
		return jsonrpc.Value{}, fmt.Errorf("the server does not answer %s", method)
	}
	if c.answer.Failure.Kind() == jsonrpc.Object {
		text, _ := c.answer.Failure.At("message").Text()
		return jsonrpc.Value{}, fmt.Errorf("the server does not answer %s: %s", method, text)
	}
	if version, ok := c.answer.Result.At("protocolVersion").Text(); ok && method == "initialize" && known(version) {
		c.header.Set(versionHeader, version)
	}
	return c.answer.Result, nil
}
