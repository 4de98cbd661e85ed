package mcp

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/client"
	"github.com/deputyauth/deputy/pkg/door/mcp/jsonrpc"
	"github.com/deputyauth/deputy/pkg/door/mcp/mapping"
)

// failure is an error that the agent is told, as an error of JSON-RPC.
type failure struct {
	code    int
	message string
}

func (f *failure) Error() string { return f.message }

// refused is a refusal that the agent's model is told: of a tool call as a result, of anything else as an error.
type refused struct {
	message string
	// by is the answer of Deputy's that refuses. Where the guard refuses by itself it has a word, and no decision.
	by Answer
}

func (r *refused) Error() string { return r.message }

// refusal is a refusal that is told so.
func refusal(told string, by Answer) error { return &refused{told, by} }

// What refusals are told.
const (
	noTool     = "There is no such tool, or the agent may not call it for the person that it acts for."
	noPrompt   = "There is no such prompt, or the agent may not get it for the person that it acts for."
	noResource = "There is no such resource, or the agent may not read it for the person that it acts for."
	noAnswer   = "Nothing is allowed, because no decision could be made. Try again later."
)

// admits refuses a request or a notification that the table does not let through.
func (g *Guard) admits(row Method, m *jsonrpc.Message) error {
	if row.Does == Refuses || row.Feature != "" && !g.cfg.Map.Allows(row.Feature) {
		return &failure{jsonrpc.CodeNoMethod, "The guard does not let this method through."}
	}
	for _, member := range m.Params.Members() {
		if member.Name == "_meta" || slices.Contains(row.Params, member.Name) {
			if slices.Contains(again, member.Name) && !g.asksForInput() {
				return &failure{jsonrpc.CodeInvalidParams, "params has " + member.Name + ", and the server may ask this agent for nothing."}
			}
			continue
		}
		return &failure{jsonrpc.CodeInvalidParams, fmt.Sprintf("params has a member that the guard does not let through; it can have %s.",
			strings.Join(append([]string{"_meta"}, row.Params...), ", "))}
	}
	if meta, found := m.Params.Get("_meta"); found && meta.Kind() != jsonrpc.Object {
		return &failure{jsonrpc.CodeInvalidParams, "_meta has to be an object."}
	}
	return nil
}

// asksForInput reports whether there is anything that the server may ask the agent for.
func (g *Guard) asksForInput() bool {
	return g.cfg.Map.Allows("elicitation") || g.cfg.Map.Allows("roots") || g.cfg.Map.Allows("sampling")
}

// request begins what a request comes to. An error ends the guard.
func (g *Guard) request(ctx context.Context, m *jsonrpc.Message) error {
	row := lookUp(Client, m.Method, false)
	if err := g.admits(row, m); err != nil {
		g.cfg.Log.Info("refused a request of the agent", append(about(m), zap.Error(err))...)
		return g.toClient(ctx, g.answerTo(m, nil, err))
	}
	f, err := g.begin(ctx, m)
	if err != nil {
		return g.toClient(ctx, g.answerTo(m, nil, err))
	}
	if row.Does == Passes { // in the order in which they came
		if err := g.sendOn(f, m.Method, g.narrowed(m)); err != nil {
			g.end(f)
			return err
		}
	}
	g.answering.Go(func() {
		defer g.letGo(f)
		var result jsonrpc.Value
		err := authz.Safely("mcp.request", func() (err error) { //nolint:contextcheck // the request's context is f's
			if result, err = g.come(f, row, m); errors.Is(err, errUnpinned) {
				err = g.refuse(f, client.ToolNotApproved, err)
			}
			return err
		})
		canceled := errors.Is(context.Cause(f.ctx), ErrCanceled) //nolint:contextcheck // as above
		g.end(f)                                                 // the agent may use the id again once it has the answer
		if canceled {
			if d, ok := g.client.(Dropper); ok {
				d.Dropped(ctx)
			}
			return
		}
		if err := g.toClient(ctx, g.answerTo(m, &result, err)); err != nil {
			g.cfg.Log.Warn("an answer could not be sent", zap.Error(err))
		}
	})
	return nil
}

// come waits for what a request comes to.
func (g *Guard) come(f *flight, row Method, m *jsonrpc.Message) (jsonrpc.Value, error) {
	switch m.Method {
	case "tools/list":
		return g.listTools(f, m)
	case "tools/call":
		return g.callTool(f, m)
	case "resources/list":
		return g.listResources(f, m)
	case "resources/templates/list":
		return g.listTemplates(f, m)
	case "prompts/list":
		return g.listPrompts(f, m)
	case "resources/read", "resources/subscribe", "resources/unsubscribe":
		return g.resource(f, m)
	case "prompts/get":
		return g.getPrompt(f, m)
	case "completion/complete":
		return g.complete(f, m)
	case "subscriptions/listen":
		return g.listen(f, m)
	}
	if row.Does != Passes {
		return jsonrpc.Value{}, &failure{jsonrpc.CodeNoMethod, "The guard does not let this method through."}
	}
	result, err := g.await(f)
	if err != nil {
		return jsonrpc.Value{}, err
	}
	switch m.Method {
	case "initialize":
		return g.initialized(result)
	case "server/discover":
		return g.discovered(result)
	}
	return plainResult(result) // ping and logging/setLevel answer nothing
}

// plainResult is a result of a method in whose course a server asks for nothing: with the members that have one of the names, and no others.
func plainResult(result jsonrpc.Value, names ...string) (jsonrpc.Value, error) {
	kind, found := result.Get("resultType")
	if text, _ := kind.Text(); found && text != "complete" {
		return jsonrpc.Value{}, &refused{message: "The server's answer is of a kind that the guard does not let through."}
	}
	return only(result, append(names, "resultType")...), nil
}

// relayPlain is relay for a method in whose course a server asks for nothing; see plainResult.
func (g *Guard) relayPlain(f *flight, m *jsonrpc.Message, names ...string) (jsonrpc.Value, error) {
	result, err := g.relay(f, m)
	if err != nil {
		return jsonrpc.Value{}, err
	}
	return plainResult(result, names...)
}

// answerTo makes the answer to a request of what it came to.
func (g *Guard) answerTo(m *jsonrpc.Message, result *jsonrpc.Value, err error) *jsonrpc.Message {
	if err == nil && result != nil {
		return &jsonrpc.Message{ID: m.ID, Result: *result}
	}
	if told, ok := errors.AsType[*serverFailure](err); ok {
		return &jsonrpc.Message{ID: m.ID, Failure: told.failure}
	}
	if r, ok := errors.AsType[*refused](err); ok {
		g.cfg.Log.Info("refused a request of the agent", append(about(m), zap.String("why", r.message),
			zap.String("refused_by", r.by.RefusedBy), zap.String("decision", r.by.Decision))...)
		if m.Method != "tools/call" {
			return jsonrpc.Fail(m.ID, jsonrpc.CodeInvalidParams, r.message)
		}
		return &jsonrpc.Message{ID: m.ID, Result: refusedResult(m, r.message)}
	}
	if f, ok := errors.AsType[*failure](err); ok {
		return jsonrpc.Fail(m.ID, f.code, f.message)
	}
	text := "The guard failed."
	switch {
	case errors.Is(err, errSlow):
		text = "The server did not answer in time."
	case errors.Is(err, errUnpinned):
		text = "The server's tools are not those that were approved. An operator has to look at them: deputy mcp approve."
	}
	g.cfg.Log.Warn("a request failed", append(about(m), zap.Error(err))...)
	return jsonrpc.Fail(m.ID, jsonrpc.CodeInternal, text)
}

// about is what the log says of a request: its method, and the tool or the prompt. It has no arguments, and no URI.
func about(m *jsonrpc.Message) []zap.Field {
	fields := []zap.Field{zap.String("method", word(m.Method, maxName))}
	if name, ok := m.Params.At("name").Text(); ok {
		fields = append(fields, zap.String("name", word(name, maxName)))
	}
	return fields
}

// refusedResult is a refusal as the result of a tool, so that the model reads it.
func refusedResult(m *jsonrpc.Message, message string) jsonrpc.Value {
	text := jsonrpc.ObjectOf(jsonrpc.Member{Name: "type", Value: jsonrpc.Text("text")}, jsonrpc.Member{Name: "text", Value: jsonrpc.Text("Refused: " + message)})
	result := jsonrpc.ObjectOf(
		jsonrpc.Member{Name: "content", Value: jsonrpc.List([]jsonrpc.Value{text})}, jsonrpc.Member{Name: "isError", Value: jsonrpc.Truth(true)})
	if isNew(m) {
		result = result.With("resultType", jsonrpc.Text("complete"))
	}
	return result
}

// isNew reports whether a request is of the wire 2026-07-28, each of whose requests says its version.
func isNew(m *jsonrpc.Message) bool {
	_, found := m.Params.At("_meta").Get("io.modelcontextprotocol/protocolVersion")
	return found
}

// begin notes that a request is in flight.
func (g *Guard) begin(ctx context.Context, m *jsonrpc.Message) (*flight, error) {
	f := &flight{call: Call{Server: g.cfg.Map.Server(), Method: m.Method}, id: m.ID}
	f.answer = make(chan *answer, 1)
	if token := m.Params.At("_meta", progressToken); token.Kind() != jsonrpc.Null {
		if _, ok := jsonrpc.IDOf(token); ok {
			f.token = token
		}
	}
	f.ctx, f.cancel = context.WithCancelCause(ctx)
	if name, _ := m.Params.At("name").Text(); m.Method == "tools/call" {
		f.filtered = g.cfg.Map.Filters(name)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.flights[m.ID] != nil:
		return nil, &failure{jsonrpc.CodeInvalidRequest, "The id is that of a request that has no answer yet."}
	case len(g.flights) >= maxInFlight:
		return nil, &failure{jsonrpc.CodeInternal, fmt.Sprintf("%d requests have no answer yet. Wait for one.", maxInFlight)}
	}
	g.flights[m.ID] = f
	return f, nil
}

// end forgets a request.
func (g *Guard) end(f *flight) {
	f.cancel(nil)
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.flights, f.id)
	delete(g.waiting, f.sent)
}

// letGo notes that nothing is left of the server's answers to a request.
func (g *Guard) letGo(f *flight) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.held, f.held = g.held-f.held, 0
}

// sendOn sends a request to the server, under an id of the guard's. An error ends the guard, or the request is over.
func (g *Guard) sendOn(f *flight, method string, params jsonrpc.Value) error {
	return g.sendFor(f, method, params, false)
}

// sendFor is sendOn. listing says that the answer may be a list of tools that is known.
func (g *Guard) sendFor(f *flight, method string, params jsonrpc.Value, listing bool) error {
	g.mu.Lock()
	if err := context.Cause(f.ctx); err != nil {
		g.mu.Unlock()
		return err
	}
	delete(g.waiting, f.sent)
	g.last++
	f.sent, _ = jsonrpc.IDOf(jsonrpc.Whole(g.last))
	f.listing = listing
	g.waiting[f.sent] = f
	g.mu.Unlock()
	if meta := params.At("_meta"); f.token.Kind() != jsonrpc.Null && meta.Kind() == jsonrpc.Object {
		if _, found := meta.Get(progressToken); found { // the guard's own, as the id
			params = params.With("_meta", meta.With(progressToken, f.sent.Value()))
		}
	}
	return g.toServer(f.ctx, &jsonrpc.Message{ID: f.sent, Method: method, Params: params})
}

// serverFailure is an error of the server's, which the agent gets as it is.
type serverFailure struct{ failure jsonrpc.Value } //nolint:errname // it is an answer

func (*serverFailure) Error() string { return "the server answered with an error" }

// await waits for the server's answer.
func (g *Guard) await(f *flight) (jsonrpc.Value, error) { return g.awaitFor(f, false) }

// awaitFor waits for the server's answer, where it is endless as long as it takes.
func (g *Guard) awaitFor(f *flight, endless bool) (jsonrpc.Value, error) {
	one, err := g.answerOf(f, endless)
	if err != nil {
		return jsonrpc.Value{}, err
	}
	return one.Result, nil
}

// answerOf is awaitFor for an answer that may be a list of tools that is known. It has no Failure.
func (g *Guard) answerOf(f *flight, endless bool) (*answer, error) {
	ctx := f.ctx
	if !endless {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, g.cfg.Timeout, errSlow)
		defer cancel()
	}
	select {
	case one := <-f.answer:
		if one.known == nil && one.Failure.Kind() == jsonrpc.Object {
			return nil, &serverFailure{one.Failure}
		}
		return one, nil
	case <-ctx.Done():
	}
	err := context.Cause(ctx)
	if errors.Is(err, errSlow) {
		params := jsonrpc.ObjectOf(jsonrpc.Member{Name: "requestId", Value: f.sent.Value()}, jsonrpc.Member{Name: "reason", Value: jsonrpc.Text(err.Error())})
		if err := g.toServer(f.ctx, &jsonrpc.Message{Method: "notifications/cancelled", Params: params}); err != nil {
			return nil, err
		}
	}
	return nil, err
}

// relay sends a request on and waits for its answer.
func (g *Guard) relay(f *flight, m *jsonrpc.Message) (jsonrpc.Value, error) {
	params, err := g.asAsked(f, g.narrowed(m))
	if err != nil {
		return jsonrpc.Value{}, err
	}
	if err := g.sendOn(f, m.Method, params); err != nil {
		return jsonrpc.Value{}, err
	}
	return g.await(f)
}

// refuse has it recorded that the guard refuses a call by itself, and returns what the agent is told: why, or that nothing is answered without a
// record.
func (g *Guard) refuse(f *flight, why Refusal, told error) error {
	// An agent that takes its request back is recorded all the same.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(f.ctx), stuck)
	defer cancel()
	if err := g.cfg.Ask.Refused(ctx, f.call, why); err != nil {
		g.cfg.Log.Warn("a refusal is not recorded", append(f.about(), zap.Error(err))...)
		return &refused{message: noAnswer}
	}
	if r, ok := errors.AsType[*refused](told); ok && r.by == (Answer{}) {
		r.by.RefusedBy = strings.ToLower(strings.TrimPrefix(why.String(), "TOOL_REFUSAL_"))
	}
	return told
}

// about is what the log says of a request.
func (f *flight) about() []zap.Field {
	return []zap.Field{zap.String("method", word(f.call.Method, maxName)), zap.String("name", word(f.call.Name, maxName))}
}

// noDecision is a refusal because nobody decided.
func (g *Guard) noDecision(f *flight, err error) error {
	g.cfg.Log.Warn("no decision", append(f.about(), zap.Error(err))...)
	return &refused{message: noAnswer}
}

// decide returns an error unless all questions about the call are answered with yes.
func (g *Guard) decide(f *flight, asks []mapping.Ask, told string) error {
	answers, err := g.ask(f.ctx, f.call, asks, mapping.MaxAsks)
	if err != nil {
		return g.noDecision(f, err)
	}
	if by, yes := answers.hold(asks); !yes {
		return refusal(told, by)
	}
	return nil
}

// toldAs is a refusal of the mapping's as the agent is told.
func (g *Guard) toldAs(err error) error {
	if r, ok := errors.AsType[*mapping.Refusal](err); ok {
		if r.Detail != "" {
			g.cfg.Log.Info("a path leads where it must not", zap.String("why", r.Detail))
		}
		return &refused{message: r.Message}
	}
	return err
}

// wrong is what the agent is told of a call whose arguments are wrong. What may not even be seen is told nothing about its arguments.
func (g *Guard) wrong(f *flight, wrong error, seen []mapping.Ask, unseen string) error {
	if err := g.decide(f, seen, unseen); err != nil {
		return err
	}
	return g.toldAs(wrong)
}

// uriOnly are the arguments of what names a resource and nothing else.
func uriOnly(uri string) jsonrpc.Value {
	return jsonrpc.ObjectOf(jsonrpc.Member{Name: "uri", Value: jsonrpc.Text(uri)})
}

// callTool decides a call, and filters its answer.
func (g *Guard) callTool(f *flight, m *jsonrpc.Message) (jsonrpc.Value, error) {
	name, ok := m.Params.At("name").Text()
	if !ok {
		return jsonrpc.Value{}, &failure{jsonrpc.CodeInvalidParams, "name has to be a text."}
	}
	f.call.Name, f.call.Arguments = name, m.Params.At("arguments")
	seen, mapped := g.cfg.Map.ListTool(name)
	call, wrong := g.cfg.Map.CallTool(name, m.Params.At("arguments"))
	switch {
	case !mapped:
		return jsonrpc.Value{}, g.refuse(f, client.ToolUnmapped, &refused{message: noTool})
	case wrong != nil:
		return jsonrpc.Value{}, g.refuse(f, client.ToolArguments, g.wrong(f, wrong, seen, noTool))
	}
	f.call.Arguments = call.Arguments
	answers, err := g.ask(f.ctx, f.call, call.Asks, mapping.MaxAsks)
	if err != nil {
		return jsonrpc.Value{}, g.noDecision(f, err)
	}
	if by, yes := answers.hold(seen); !yes {
		return jsonrpc.Value{}, refusal(noTool, by)
	}
	if by, yes := answers.hold(call.Asks); !yes {
		return jsonrpc.Value{}, refusal(mapping.NotAllowed, by)
	}
	decided := time.Now()
	if err := g.pinned(f, m); err != nil {
		return jsonrpc.Value{}, g.filteredFailure(name, err)
	}
	if time.Since(decided) > soon { // the server took its time for the list of its tools, and a right that was taken away meanwhile is gone
		if err := g.decide(f, call.Asks, mapping.NotAllowed); err != nil {
			return jsonrpc.Value{}, err
		}
	}
	if err := g.agrees(name, m.Params.At("arguments")); err != nil {
		return jsonrpc.Value{}, err
	}
	sent := *m
	if _, found := m.Params.Get("arguments"); found {
		sent.Params = m.Params.With("arguments", call.Arguments)
	}
	result, err := g.relay(f, &sent)
	if err != nil {
		return jsonrpc.Value{}, g.filteredFailure(name, err)
	}
	return g.called(f, name, call.Arguments, result)
}

// filteredFailure leaves out the words of an error of a tool whose answers are filtered.
func (g *Guard) filteredFailure(name string, err error) error {
	if _, ok := errors.AsType[*serverFailure](err); ok && g.cfg.Map.Filters(name) {
		return &failure{jsonrpc.CodeInternal, "The tool failed. Its message is not passed on, because its answers are filtered."}
	}
	return err
}

// called judges the answer of a tool.
func (g *Guard) called(f *flight, name string, arguments, result jsonrpc.Value) (jsonrpc.Value, error) {
	if asked, err := g.input(result); asked || err != nil {
		return g.asking(f, result), err
	}
	if !g.cfg.Map.Filters(name) {
		return result, nil
	}
	output, err := g.cfg.Map.FilterResult(name, arguments, result)
	if err != nil {
		return jsonrpc.Value{}, g.toldAs(err)
	}
	answers, err := g.ask(f.ctx, f.call, output.Asks, mapping.MaxAsks)
	if err != nil {
		return jsonrpc.Value{}, g.noDecision(f, err)
	}
	return output.Keep(answers.allowed()), nil
}

// input judges a result that asks for input, and refuses results of kinds that the guard does not know. asked says that it is one.
func (g *Guard) input(result jsonrpc.Value) (asked bool, err error) {
	if _, task := result.Get("task"); task {
		return false, &refused{message: "The server began a task, which the guard does not let through."}
	}
	kind, found := result.Get("resultType")
	text, ok := kind.Text()
	switch {
	case !found || ok && text == "complete":
		return false, nil
	case !ok || text != "input_required":
		return false, &refused{message: "The server's answer is of a kind that the guard does not let through."}
	case !g.asksForInput():
		return false, &refused{message: "The server asks for input, which the guard does not let through."}
	}
	requests, found := result.Get("inputRequests")
	state, hasState := result.Get("requestState")
	if found && requests.Kind() != jsonrpc.Object || hasState && state.Kind() != jsonrpc.String {
		return false, &refused{message: "The server asks for input in a way that the guard does not know."}
	}
	for _, request := range requests.Members() {
		method, _ := request.Value.At("method").Text()
		row := lookUp(Server, method, false)
		if row.Does != Passes || !row.New || !g.cfg.Map.Allows(row.Feature) {
			return false, &refused{message: "The server asks for input of a kind that the guard does not let through."}
		}
	}
	return true, nil
}

// asking is a result that asks for input, without anything that would be filtered in one that does not. Each request is written anew of what was
// judged of it, so that an agent finds no other method in it, and the state is of use for this call alone.
func (g *Guard) asking(f *flight, result jsonrpc.Value) jsonrpc.Value {
	var requests []jsonrpc.Member
	for _, request := range result.At("inputRequests").Members() {
		requests = append(requests, jsonrpc.Member{Name: request.Name, Value: only(request.Value, "method", "params")})
	}
	asked := only(result, "resultType", "inputRequests", "requestState")
	if requests != nil {
		asked = asked.With("inputRequests", jsonrpc.ObjectOf(requests...))
	}
	return asked.With("requestState", g.sealed(f, asked))
}

// only is an object with those of its members that have one of the names.
func only(object jsonrpc.Value, names ...string) jsonrpc.Value {
	kept := []jsonrpc.Member{}
	for _, member := range object.Members() {
		if slices.Contains(names, member.Name) {
			kept = append(kept, member)
		}
	}
	return jsonrpc.ObjectOf(kept...)
}

// getPrompt decides a prompt.
func (g *Guard) getPrompt(f *flight, m *jsonrpc.Message) (jsonrpc.Value, error) {
	name, ok := m.Params.At("name").Text()
	if !ok {
		return jsonrpc.Value{}, &failure{jsonrpc.CodeInvalidParams, "name has to be a text."}
	}
	f.call.Name, f.call.Arguments = name, m.Params.At("arguments")
	seen, mapped := g.cfg.Map.ListPrompt(name)
	if !mapped {
		return jsonrpc.Value{}, g.refuse(f, client.ToolUnmapped, &refused{message: noPrompt})
	}
	call, wrong := g.cfg.Map.GetPrompt(name, m.Params.At("arguments"))
	if wrong != nil {
		return jsonrpc.Value{}, g.refuse(f, client.ToolArguments, g.wrong(f, wrong, seen, noPrompt))
	}
	f.call.Arguments = call.Arguments
	if err := g.decide(f, call.Asks, noPrompt); err != nil {
		return jsonrpc.Value{}, err
	}
	sent := *m
	if _, found := m.Params.Get("arguments"); found {
		sent.Params = m.Params.With("arguments", call.Arguments)
	}
	result, err := g.relay(f, &sent)
	if err != nil {
		return jsonrpc.Value{}, err
	}
	if asked, err := g.input(result); asked || err != nil {
		return g.asking(f, result), err
	}
	return result, nil
}

// resource decides a resource that is read or subscribed to.
func (g *Guard) resource(f *flight, m *jsonrpc.Message) (jsonrpc.Value, error) {
	uri, ok := m.Params.At("uri").Text()
	if !ok {
		return jsonrpc.Value{}, &failure{jsonrpc.CodeInvalidParams, "uri has to be a text."}
	}
	f.call.Arguments = uriOnly(uri)
	if m.Method == "resources/unsubscribe" {
		g.subscribed.end(uri) // an agent that may not read it any more hears no more of it, whatever the server does
	}
	asks, err := g.cfg.Map.ReadResource(uri)
	if err != nil {
		return jsonrpc.Value{}, g.refuse(f, client.ToolUnmapped, &refused{message: noResource})
	}
	if err := g.decide(f, asks, noResource); err != nil {
		return jsonrpc.Value{}, err
	}
	switch m.Method {
	case "resources/subscribe":
		fresh, err := g.subscribed.begin(uri)
		if err != nil {
			return jsonrpc.Value{}, err
		}
		result, err := g.relayPlain(f, m)
		if err != nil && fresh {
			g.subscribed.end(uri)
		}
		return result, err
	case "resources/unsubscribe":
		return g.relayPlain(f, m)
	}
	result, err := g.relay(f, m)
	if err != nil {
		return result, err
	}
	if asked, err := g.input(result); asked || err != nil {
		return g.asking(f, result), err
	}
	// A server may answer with other resources than the one that it was asked for, and with more than resources.
	return g.keepURIs(f, only(result, "resultType", "contents", "cacheScope", "ttlMs"), "contents", uri)
}

// complete decides a completion.
func (g *Guard) complete(f *flight, m *jsonrpc.Message) (jsonrpc.Value, error) {
	kind, _ := m.Params.At("ref", "type").Text()
	name, ok := m.Params.At("ref", "name").Text()
	f.call.Name, f.call.Arguments = name, m.Params.Without("_meta")
	asks, mapped := g.cfg.Map.ListPrompt(name)
	if kind != "ref/prompt" || !ok || !mapped {
		return jsonrpc.Value{}, g.refuse(f, client.ToolUnmapped, &refused{message: noPrompt})
	}
	if err := g.decide(f, asks, noPrompt); err != nil {
		return jsonrpc.Value{}, err
	}
	argument, _ := m.Params.At("argument", "name").Text()
	if !g.cfg.Map.Ignores(name, argument) {
		return jsonrpc.Value{}, g.refuse(f, client.ToolArguments,
			&refused{message: "Nothing is proposed for this argument, because it names an object, or is not mapped."})
	}
	sent := *m
	sent.Params = m.Params.With("ref", only(m.Params.At("ref"), "type", "name")).With("argument", only(m.Params.At("argument"), "name", "value"))
	if context, found := m.Params.Get("context"); found {
		known := []jsonrpc.Member{}
		for _, one := range context.At("arguments").Members() {
			if g.cfg.Map.Ignores(name, one.Name) {
				known = append(known, one)
			}
		}
		sent.Params = sent.Params.With("context", jsonrpc.ObjectOf(jsonrpc.Member{Name: "arguments", Value: jsonrpc.ObjectOf(known...)}))
	}
	return g.relayPlain(f, &sent, "completion")
}

// listened are the kinds of notifications that an agent can subscribe to.
var listened = []string{"toolsListChanged", "promptsListChanged", "resourcesListChanged", "resourceSubscriptions"}

// listen decides a subscription.
func (g *Guard) listen(f *flight, m *jsonrpc.Message) (jsonrpc.Value, error) {
	var asks []mapping.Ask
	var uris []string
	for _, member := range m.Params.At("notifications").Members() {
		if !slices.Contains(listened, member.Name) {
			return jsonrpc.Value{}, &failure{jsonrpc.CodeInvalidParams, "notifications has a member that the guard does not let through; it can have " +
				strings.Join(listened, ", ") + "."}
		}
	}
	wanted := m.Params.At("notifications", "resourceSubscriptions")
	f.call.Arguments = m.Params.Without("_meta")
	for _, one := range wanted.Elements() {
		uri, _ := one.Text()
		these, err := g.cfg.Map.ReadResource(uri)
		if err != nil {
			return jsonrpc.Value{}, g.refuse(f, client.ToolUnmapped, &refused{message: noResource})
		}
		asks, uris = append(asks, these...), append(uris, uri)
	}
	if wanted.Kind() != jsonrpc.Null && wanted.Kind() != jsonrpc.Array {
		return jsonrpc.Value{}, &failure{jsonrpc.CodeInvalidParams, "resourceSubscriptions has to be a list."}
	}
	if len(asks) > 0 {
		if err := g.decide(f, asks, noResource); err != nil {
			return jsonrpc.Value{}, err
		}
	}
	if err := g.subscribed.add(uris...); err != nil {
		return jsonrpc.Value{}, err
	}
	defer g.subscribed.remove(uris...)
	if err := g.sendOn(f, m.Method, g.narrowed(m)); err != nil {
		return jsonrpc.Value{}, err
	}
	result, err := g.awaitFor(f, true)
	if err != nil {
		return jsonrpc.Value{}, err
	}
	if result, err = plainResult(result, "_meta"); err != nil {
		return jsonrpc.Value{}, err
	}
	if meta, found := result.Get("_meta"); found {
		result = inClientsWords(f, result.With("_meta", only(meta, subscriptionID)))
	}
	return result, nil
}

// told judges a notification of the agent's. An error ends the guard.
func (g *Guard) told(ctx context.Context, m *jsonrpc.Message) error {
	row := lookUp(Client, m.Method, true)
	if err := g.admits(row, m); err != nil {
		g.cfg.Log.Info("dropped a notification of the agent", zap.String("method", word(m.Method, maxName)), zap.Error(err))
		return nil
	}
	switch m.Method {
	case "notifications/cancelled":
		id, ok := jsonrpc.IDOf(m.Params.At("requestId"))
		g.mu.Lock()
		f := g.flights[id]
		var sent jsonrpc.ID
		if f != nil {
			sent = f.sent
			f.cancel(ErrCanceled)
		}
		g.mu.Unlock()
		if !ok || sent.IsZero() {
			return nil // the server knows nothing of it
		}
		return g.toServer(ctx, &jsonrpc.Message{Method: m.Method, Params: g.narrowed(m).With("requestId", sent.Value())})
	case "notifications/progress":
		g.mu.Lock()
		asked := len(g.asked)
		g.mu.Unlock()
		if asked == 0 {
			return nil
		}
	}
	return g.toServer(ctx, &jsonrpc.Message{Method: m.Method, Params: g.narrowed(m)})
}
