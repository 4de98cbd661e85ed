package mcp

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/deputyauth/deputy/pkg/door/mcp/jsonrpc"
	"github.com/deputyauth/deputy/pkg/door/mcp/mapping"
)

const (
	// maxPages is how many pages the server's list of tools may have.
	maxPages = 100
	// lookAgain is after which time the tools are compared anew with those that were approved, although the server says nothing of a change.
	lookAgain = time.Minute
)

// Tools is what is known of a server's tools. The zero Tools knows nothing. It is safe for concurrent use.
type Tools struct {
	mu sync.Mutex
	// at is when they were those that were approved.
	at time.Time
	// change counts the server's notifications of a change.
	change int
	// mirrors are the arguments that headers mirror, by the tools' names.
	mirrors map[string][]Mirror
}

// Mirrors returns the arguments of a tool that headers mirror, as the server said when its tools were compared the last time.
func (t *Tools) Mirrors(name string) []Mirror {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.mirrors[name]
}

// approved notes that the tools are those that were approved, unless they have changed since.
func (t *Tools) approved(mirrors map[string][]Mirror, change int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.change == change {
		t.at, t.mirrors = time.Now(), mirrors
	}
}

// changed forgets the comparison.
func (t *Tools) changed() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.change, t.at = t.change+1, time.Time{}
}

// pinned returns an error unless the server's tools are those that were approved. It asks the server where that was not done lately.
func (g *Guard) pinned(f *flight, m *jsonrpc.Message) error {
	g.tools.mu.Lock()
	fresh := time.Since(g.tools.at) < lookAgain
	g.tools.mu.Unlock()
	if fresh {
		return nil
	}
	_, err := g.fetchTools(f, m)
	return err
}

// fetchTools asks the server for all its tools, and compares them with those that were approved, unless it gives an answer that is known. meta is that
// of the first page.
func (g *Guard) fetchTools(f *flight, m *jsonrpc.Message) (*toolList, error) {
	g.tools.mu.Lock()
	change := g.tools.change
	g.tools.mu.Unlock()
	params := jsonrpc.ObjectOf()
	if meta, found := g.narrowed(m).Get("_meta"); found {
		params = params.With("_meta", meta.Without(progressToken))
	}
	var last *answer
	pages := 0
	all, first, err := PagesOf("tools", params, func(params jsonrpc.Value) (jsonrpc.Value, error) {
		if err := g.sendFor(f, "tools/list", params, pages == 0); err != nil {
			return jsonrpc.Value{}, err
		}
		pages++
		var err error
		if last, err = g.answerOf(f, false); err != nil {
			return jsonrpc.Value{}, err
		}
		if last.known != nil {
			return last.known.result, nil
		}
		return last.Result, nil
	})
	if err != nil {
		return nil, err
	}
	list := last.known
	if list == nil {
		if err := g.cfg.Pins.Check(all); err != nil {
			g.tools.changed()
			return nil, fmt.Errorf("%w: %w", errUnpinned, err)
		}
		result, err := plainResult(first, "cacheScope", "ttlMs")
		if err != nil {
			return nil, err
		}
		list = newToolList(g.cfg.Map, result.With("tools", jsonrpc.List(all)))
		if pages == 1 {
			g.cfg.Known.add(list, last.text)
		}
	}
	g.tools.approved(list.mirrors, change)
	return list, nil
}

// PagesOf asks for all pages of a server's list, of which first is the first. The list is the member name of each result. ask returns a page's result.
func PagesOf(
	name string, params jsonrpc.Value, ask func(params jsonrpc.Value) (jsonrpc.Value, error),
) (all []jsonrpc.Value, first jsonrpc.Value, err error) {
	for page := range maxPages {
		result, err := ask(params)
		if err != nil {
			return nil, first, err
		}
		if page == 0 {
			first = result
		}
		list := result.At(name)
		if list.Kind() != jsonrpc.Array {
			return nil, first, fmt.Errorf("the server's list of %s is no list", name)
		}
		if all = append(all, list.Elements()...); len(all) > mapping.MaxAsks {
			return nil, first, fmt.Errorf("the server has more than %d %s", mapping.MaxAsks, name)
		}
		next, more := result.Get("nextCursor")
		if !more || next.Kind() == jsonrpc.Null {
			return all, first, nil
		}
		params = params.With("cursor", next)
	}
	return nil, first, fmt.Errorf("the server's list of %s has more than %d pages", name, maxPages)
}

// listMembers are what an answer to a list has beside its elements.
var listMembers = []string{"nextCursor", "cacheScope", "ttlMs"}

// listTools answers with the tools that the agent may see, in the server's order.
func (g *Guard) listTools(f *flight, m *jsonrpc.Message) (jsonrpc.Value, error) {
	if _, found := m.Params.Get("cursor"); found {
		return jsonrpc.Value{}, &failure{jsonrpc.CodeInvalidParams, "The list has one page: there is no such cursor."}
	}
	expected := g.cfg.Known.expects(isNew(m))
	early := g.askAhead(f, expected)
	list, err := g.fetchTools(f, m)
	g.cfg.Known.gave(isNew(m), list, expected)
	if err != nil {
		return jsonrpc.Value{}, err
	}
	answers, err := g.decided(f, list, early)
	if err != nil {
		return jsonrpc.Value{}, err
	}
	return private(list.shown(answers)), nil
}

// keep keeps the elements of a list about which all questions are answered with yes, in one question to Deputy.
func (g *Guard) keep(f *flight, list []jsonrpc.Value, asks func(one jsonrpc.Value) ([]mapping.Ask, bool)) ([]jsonrpc.Value, error) {
	each := make([][]mapping.Ask, len(list))
	var all []mapping.Ask
	seen := map[mapping.Ask]bool{}
	for i, one := range list {
		these, _ := asks(one)
		each[i] = these
		for _, a := range these {
			if !seen[a] {
				all, seen[a] = append(all, a), true
			}
		}
	}
	answers, err := g.ask(f.ctx, f.call, all, maxListAsks)
	if err != nil {
		return nil, err
	}
	kept := []jsonrpc.Value{}
	for i, one := range list {
		if _, yes := answers.hold(each[i]); yes {
			kept = append(kept, one)
		}
	}
	return kept, nil
}

// listResources filters a page of resources.
func (g *Guard) listResources(f *flight, m *jsonrpc.Message) (jsonrpc.Value, error) {
	result, err := g.relayPlain(f, m, append(slices.Clone(listMembers), "resources")...)
	if err != nil {
		return jsonrpc.Value{}, err
	}
	return g.keepURIs(f, result, "resources", "")
}

// keepURIs keeps of a list the elements whose URIs may be read. asked was decided already.
func (g *Guard) keepURIs(f *flight, result jsonrpc.Value, name, asked string) (jsonrpc.Value, error) {
	var kept []jsonrpc.Value
	foreign := []jsonrpc.Value{}
	list := result.At(name)
	if list.Kind() != jsonrpc.Array {
		return jsonrpc.Value{}, &failure{jsonrpc.CodeInternal, "The server's answer has no list of " + name + "."}
	}
	uri := func(one jsonrpc.Value) string {
		text, _ := one.At("uri").Text()
		return text
	}
	for _, one := range list.Elements() {
		if asked == "" || uri(one) != asked {
			foreign = append(foreign, one)
		}
	}
	allowed, err := g.keep(f, foreign, func(one jsonrpc.Value) ([]mapping.Ask, bool) {
		asks, err := g.cfg.Map.ReadResource(uri(one))
		return asks, err == nil
	})
	if err != nil {
		return jsonrpc.Value{}, err
	}
	may := map[string]bool{}
	for _, one := range allowed {
		may[uri(one)] = true
	}
	for _, one := range list.Elements() {
		if may[uri(one)] || asked != "" && uri(one) == asked {
			kept = append(kept, one)
		}
	}
	return private(result.With(name, jsonrpc.List(kept))), nil
}

// listTemplates keeps the templates that the file of mappings names.
func (g *Guard) listTemplates(f *flight, m *jsonrpc.Message) (jsonrpc.Value, error) {
	result, err := g.relayPlain(f, m, append(slices.Clone(listMembers), "resourceTemplates")...)
	if err != nil {
		return jsonrpc.Value{}, err
	}
	kept := []jsonrpc.Value{}
	for _, one := range result.At("resourceTemplates").Elements() {
		if template, ok := one.At("uriTemplate").Text(); ok && g.cfg.Map.Template(template) {
			kept = append(kept, one)
		}
	}
	return private(result.With("resourceTemplates", jsonrpc.List(kept))), nil
}

// listPrompts filters a page of prompts.
func (g *Guard) listPrompts(f *flight, m *jsonrpc.Message) (jsonrpc.Value, error) {
	result, err := g.relayPlain(f, m, append(slices.Clone(listMembers), "prompts")...)
	if err != nil {
		return jsonrpc.Value{}, err
	}
	kept, err := g.keep(f, result.At("prompts").Elements(), func(one jsonrpc.Value) ([]mapping.Ask, bool) {
		name, _ := one.At("name").Text()
		return g.cfg.Map.ListPrompt(name)
	})
	if err != nil {
		return jsonrpc.Value{}, err
	}
	return private(result.With("prompts", jsonrpc.List(kept))), nil
}
