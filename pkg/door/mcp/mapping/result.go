package mapping

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/door/mcp/jsonrpc"
)

// result is a Result that was understood.
type result struct {
	Result

	at    path
	lines *regexp.Regexp
	id    path
	under path
}

func (c *compiler) result(at string, of Result) *result {
	r := &result{Result: of, at: c.path(at+".in", of.In)}
	c.object(at, of.Type, of.Permission)
	each := len(r.at) > 0 && r.at[len(r.at)-1].each
	switch of.In {
	case "content":
		c.require(of.Lines != "", at, `needs lines, a regular expression with the group (?P<id>…)`)
	default:
		c.require(len(r.at) > 1 && r.at[0].name == "structuredContent", at+".in",
			`has to be content, or begin with "structuredContent."`)
		c.require(each == (of.Lines == ""), at, "needs lines for a text, and no lines for the elements of a list, which end in []")
		c.require(len(r.at.first()) == 0 || len(r.at.first()) == len(r.at), at+".in", "goes through more than one list")
	}
	if of.Lines != "" {
		var err error
		r.lines, err = regexp.Compile(`^(?:` + of.Lines + `)$`)
		c.require(err == nil && r.lines != nil && r.lines.SubexpIndex("id") > 0, at+".lines",
			"has to be a regular expression (RE2) for a whole line, with the group (?P<id>…)")
		c.require(of.ID == "", at, "has lines and id; id is for the elements of a list")
	}
	if of.ID != "" {
		r.id = c.path(at+".id", of.ID)
	}
	if of.Under != "" {
		r.under = c.path(at+".under", of.Under)
		c.require(r.under.first() == nil, at+".under", "has to be one argument")
	}
	if of.Canonical != nil {
		r.Canonical = c.canonical(at+".canonical", *of.Canonical)
	}
	return r
}

// Output is a tool's answer that is to be filtered.
type Output struct {
	// Asks are the questions about what is in it, each once. There may be none.
	Asks []Ask
	// Used are the parts of the file, among Map.Parts, that found objects in it.
	Used []string
	// keep makes the answer with what is allowed.
	keep func(allowed map[Ask]bool) jsonrpc.Value
}

// Keep returns the answer with only what is among the allowed. It is to be called with a subset of Asks.
func (o *Output) Keep(allowed map[Ask]bool) jsonrpc.Value { return o.keep(allowed) }

// Filters reports whether the answers of a tool are filtered.
func (m *Map) Filters(tool string) bool {
	return m.tools[tool] != nil && len(m.tools[tool].results) > 0
}

// FilterResult returns which objects are in the answer of a tool to arguments, which are those that were sent on. Only what the mapping's
// results are about is let through; the rest of the answer is left out. Errors are *Refusal.
func (m *Map) FilterResult(tool string, arguments, answer jsonrpc.Value) (*Output, error) {
	if failed, _ := answer.At("isError").Truth(); failed {
		// An error's text may name objects too.
		return &Output{keep: func(map[Ask]bool) jsonrpc.Value {
			return bare(answer, "The tool failed. Its message is not passed on, because its answers are filtered.").With("isError", jsonrpc.Truth(true))
		}}, nil
	}
	o := &Output{}
	var parts []func(allowed map[Ask]bool, to jsonrpc.Value) jsonrpc.Value
	for i, r := range m.tools[tool].results {
		asks, keep, err := r.read(arguments, answer)
		if err != nil {
			return nil, err
		}
		if len(asks) > 0 {
			o.Used = append(o.Used, fmt.Sprintf("%s.results[%d]", m.tools[tool].at, i))
		}
		o.Asks = append(o.Asks, asks...)
		parts = append(parts, keep)
	}
	if o.Asks = unique(o.Asks); len(o.Asks) > MaxAsks {
		return nil, refuse("The answer is about more than the %d objects that can be judged at once. Ask for less.", MaxAsks)
	}
	o.keep = func(allowed map[Ask]bool) jsonrpc.Value {
		kept := bare(answer, "")
		for _, part := range parts {
			kept = part(allowed, kept)
		}
		return kept
	}
	return o, nil
}

// bare is an answer without what the server said, but for what kind of answer it is.
func bare(answer jsonrpc.Value, text string) jsonrpc.Value {
	kept := jsonrpc.ObjectOf()
	if kind, ok := answer.At("resultType").Text(); ok {
		kept = kept.With("resultType", jsonrpc.Text(kind))
	}
	content := []jsonrpc.Value{}
	if text != "" {
		content = append(content, textBlock(text))
	}
	return kept.With("content", jsonrpc.List(content))
}

func textBlock(text string) jsonrpc.Value {
	return jsonrpc.ObjectOf(jsonrpc.Member{Name: "type", Value: jsonrpc.Text("text")}, jsonrpc.Member{Name: "text", Value: jsonrpc.Text(text)})
}

// keeper adds what is allowed to an answer.
type keeper func(allowed map[Ask]bool, to jsonrpc.Value) jsonrpc.Value

// read finds the objects of one part of an answer.
func (r *result) read(arguments, answer jsonrpc.Value) ([]Ask, keeper, error) {
	if r.In == "content" {
		return r.content(arguments, answer)
	}
	list := r.at[len(r.at)-1].each
	place := r.at
	if list {
		place = r.at[:len(r.at)-1]
	}
	v, found := place.get(answer)
	switch {
	case !found:
		return nil, func(_ map[Ask]bool, to jsonrpc.Value) jsonrpc.Value { return to }, nil
	case list && v.Kind() != jsonrpc.Array:
		return nil, nil, refuse("The server's answer has %s at %s, and the mapping expects a list.", v.Kind(), place)
	case list:
		return r.elements(arguments, place, v)
	}
	text, ok := v.Text()
	if !ok {
		return nil, nil, refuse("The server's answer has %s at %s, and the mapping expects a text.", v.Kind(), place)
	}
	asks, keep := r.text(arguments, text)
	return asks, func(allowed map[Ask]bool, to jsonrpc.Value) jsonrpc.Value {
		return deepSet(place, to, jsonrpc.Text(keep(allowed)))
	}, nil
}

// content finds the objects of every text.
func (r *result) content(arguments, answer jsonrpc.Value) (asks []Ask, _ keeper, _ error) {
	var keeps []func(map[Ask]bool) string
	for _, block := range answer.At("content").Elements() {
		if kind, _ := block.At("type").Text(); kind != "text" {
			continue // what is no text is left out
		}
		text, _ := block.At("text").Text()
		these, keep := r.text(arguments, text)
		asks, keeps = append(asks, these...), append(keeps, keep)
	}
	return asks, func(allowed map[Ask]bool, to jsonrpc.Value) jsonrpc.Value {
		blocks := []jsonrpc.Value{}
		for _, keep := range keeps {
			blocks = append(blocks, textBlock(keep(allowed)))
		}
		return to.With("content", jsonrpc.List(blocks))
	}, nil
}

// text finds the objects of the lines of a text.
func (r *result) text(arguments jsonrpc.Value, text string) ([]Ask, func(map[Ask]bool) string) {
	type line struct {
		text string
		ask  Ask
	}
	var asks []Ask
	var lines []line
	for one := range strings.SplitSeq(text, "\n") {
		one = strings.TrimSuffix(one, "\r")
		match := r.lines.FindStringSubmatch(one)
		if match == nil {
			continue
		}
		if ask, ok := r.ask(arguments, match[r.lines.SubexpIndex("id")]); ok {
			asks, lines = append(asks, ask), append(lines, line{one, ask})
		}
	}
	return asks, func(allowed map[Ask]bool) string {
		var kept []string
		for _, l := range lines {
			if allowed[l.ask] {
				kept = append(kept, l.text)
			}
		}
		return strings.Join(kept, "\n")
	}
}

// elements finds the objects of the elements of a list.
func (r *result) elements(arguments jsonrpc.Value, place path, list jsonrpc.Value) ([]Ask, keeper, error) {
	asks := make([]Ask, len(list.Elements()))
	for i, e := range list.Elements() {
		if v, found := r.id.get(e); found {
			if text, ok := v.Text(); ok {
				asks[i], _ = r.ask(arguments, text)
			} else if digits, ok := v.Digits(); ok && !strings.ContainsAny(digits, ".eE") {
				asks[i], _ = r.ask(arguments, digits)
			}
		}
	}
	asked := slices.DeleteFunc(slices.Clone(asks), func(a Ask) bool { return a == Ask{} })
	return asked, func(allowed map[Ask]bool, to jsonrpc.Value) jsonrpc.Value {
		kept := []jsonrpc.Value{}
		for i, e := range list.Elements() {
			if asks[i] != (Ask{}) && allowed[asks[i]] {
				kept = append(kept, e)
			}
		}
		return deepSet(place, to, jsonrpc.List(kept))
	}, nil
}

// ask makes the question about one id of an answer; false where it can be none, so that what it names is left out.
func (r *result) ask(arguments jsonrpc.Value, id string) (Ask, bool) {
	if r.under != nil {
		v, _ := r.under.get(arguments)
		folder, ok := v.Text()
		if !ok {
			return Ask{}, false
		}
		id = strings.TrimSuffix(folder, "/") + "/" + id
	}
	if r.Canonical != nil {
		where, err := r.Canonical.resolve(id)
		if err != nil {
			return Ask{}, false
		}
		id = where.id
	}
	if _, err := authz.EncodeID(id); err != nil {
		return Ask{}, false
	}
	return Ask{r.Type, id, r.Permission}, true
}

// deepSet is set for a path whose objects may be missing.
func deepSet(p path, v, to jsonrpc.Value) jsonrpc.Value {
	if len(p) == 0 {
		return to
	}
	inner, _ := v.Get(p[0].name)
	return v.With(p[0].name, deepSet(p[1:], inner, to))
}
