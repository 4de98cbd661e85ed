package proxy

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/deputyauth/deputy/pkg/door/mcp"
	"github.com/deputyauth/deputy/pkg/door/mcp/jsonrpc"
)

// stateless takes a message of the wire 2026-07-28. It has a guard of its own, which shares nothing with others but what is known of the tools.
func (p *Proxy) stateless(w http.ResponseWriter, r *http.Request, caller Caller, use *use, m *jsonrpc.Message) error {
	if m.IsNotification() {
		// An agent cancels by closing the stream of the request, so that there is nothing on this wire that a notification could be about.
		w.WriteHeader(http.StatusAccepted)
		return nil
	}
	// An agent that goes away has cancelled its request.
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(r.Context()))
	defer cancel(mcp.ErrCanceled)
	defer context.AfterFunc(r.Context(), func() { cancel(mcp.ErrCanceled) })()
	answer := newReply(w, nil)
	answer.status = func(m *jsonrpc.Message) int { return statelessStatus(m, int(answer.upstream.Load())) }
	ctx = (&exchange{caller, answer, use}).in(ctx)
	cfg := p.cfg.Guard
	cfg.Tools, cfg.Log, cfg.Holder = p.tools, p.log(caller), caller.person().String()
	cfg.Mirrored = func(name string) []string { return r.Header.Values(mcp.MirrorPrefix + name) }
	end := &statelessEnd{upstream: p.cfg.Upstream, tools: p.tools}
	end.guard = mcp.Between(cfg, agent{}, end)
	if err := end.guard.FromClient(ctx, m); err != nil && !errors.Is(err, mcp.ErrNobody) {
		return err
	}
	var ends time.Time
	if m.Method == "subscriptions/listen" {
		ends = caller.Ends
	}
	answer.wait(r.Context(), ends, false)
	// An agent that hangs up keeps its place among the requests under way until the work for it is over: else it could begin any number of them.
	cancel(mcp.ErrCanceled)
	<-answer.done
	return nil
}

// statelessStatus is the status of an answer. Some errors have one of their own on this wire; for others it is the server's.
func statelessStatus(m *jsonrpc.Message, upstream int) int {
	if m.Failure.Kind() != jsonrpc.Object {
		return http.StatusOK
	}
	switch code, _ := m.Failure.At("code").Digits(); code {
	case "-32601":
		return http.StatusNotFound
	case "-32602", "-32020", "-32021", "-32022":
		return http.StatusBadRequest
	}
	if upstream == http.StatusBadRequest || upstream == http.StatusNotFound {
		return upstream
	}
	return http.StatusOK
}

// statelessEnd is the end of a guard at which the server is, on the wire 2026-07-28.
type statelessEnd struct {
	upstream *Upstream
	tools    *mcp.Tools
	guard    *mcp.Guard
}

// Send is mcp.End's.
func (e *statelessEnd) Send(ctx context.Context, m *jsonrpc.Message) error {
	if !m.IsRequest() {
		return nil // a server is told that a request was cancelled by the end of its stream, and it gets nothing else
	}
	header := http.Header{}
	header.Set(versionHeader, newVersion)
	header.Set(methodHeader, mcp.HeaderValue(m.Method))
	if name, ok := nameOf(m); ok {
		header.Set(nameHeader, mcp.HeaderValue(name))
		if m.Method == "tools/call" {
			for _, mirror := range e.tools.Mirrors(name) {
				if value, ok := mirror.Value(m.Params.At("arguments")); ok {
					header.Set(mcp.MirrorPrefix+mirror.Name, value)
				}
			}
		}
	}
	e.upstream.begin(ctx, &call{request: m, header: header, to: e.guard})
	return nil
}
