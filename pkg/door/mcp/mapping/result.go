package mapping

import (
	"errors"
	"fmt"
	"regexp"
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
	found := &reading{arguments: arguments, has: map[Ask]bool{}, led: map[named]string{}}
	var parts []keeper
	for i, r := range m.tools[tool].results {
		before := found.objects
		keep, err := r.read(found, answer)
		if err != nil {
			return nil, err
		}
		if found.objects > before {
			o.Used = append(o.Used, fmt.Sprintf("%s.results[%d]", m.tools[tool].at, i))
		}
		parts = append(parts, keep)
	}
	o.Asks = found.asks
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

// maxObjects is how many lines and elements of one answer may name objects, each as often as it does.
const maxObjects = 100 * MaxAsks

// reading is what was found in an answer so far.
type reading struct {
	arguments jsonrpc.Value
	// objects counts the lines and elements that name an object, and asks are the questions about those objects, each once.
	objects int
	asks    []Ask
	has     map[Ask]bool
	// looks is what was looked up, and led where it led: to the id of an object, or to nowhere, which is "".
	looks looks
	led   map[named]string
}

// named is a path as an answer names it.
type named struct {
	in   *Canonical
	path string
}

// add notes a question about what a line or an element names.
func (f *reading) add(a Ask) error {
	if f.objects++; f.objects > maxObjects {
		return refuse("The answer has more than %d lines and elements that name objects. Ask for less.", maxObjects)
	}
	if f.has[a] {
		return nil
	}
	if len(f.asks) == MaxAsks {
		return refuse("The answer is about more than the %d objects that can be judged at once. Ask for less.", MaxAsks)
	}
	f.asks, f.has[a] = append(f.asks, a), true
	return nil
}

// resolve returns the id of the object to which a path leads; "" where it leads to none.
func (f *reading) resolve(in *Canonical, path string) (string, error) {
	before := named{in, path}
	if id, known := f.led[before]; known {
		return id, nil
	}
	used := f.looks.used
	where, err := in.resolve(path, &f.looks)
	if errors.Is(err, errLooks) {
		return "", refuse("The paths in the answer take more look-ups than one answer may. Ask for less.")
	}
	if f.looks.used > used { // else it is found out at once
		f.led[before] = where.id
	}
	return where.id, nil
}

// read finds the objects of one part of an answer.
func (r *result) read(found *reading, answer jsonrpc.Value) (keeper, error) {
	if r.In == "content" {
		return r.content(found, answer)
	}
	list := r.at[len(r.at)-1].each
	place := r.at
	if list {
		place = r.at[:len(r.at)-1]
	}
	v, there := place.get(answer)
	switch {
	case !there:
		return func(_ map[Ask]bool, to jsonrpc.Value) jsonrpc.Value { return to }, nil
	case list && v.Kind() != jsonrpc.Array:
		return nil, refuse("The server's answer has %s at %s, and the mapping expects a list.", v.Kind(), place)
	case list:
		return r.elements(found, place, v)
	}
	text, ok := v.Text()
	if !ok {
		return nil, refuse("The server's answer has %s at %s, and the mapping expects a text.", v.Kind(), place)
	}
	keep, err := r.text(found, text)
	if err != nil {
		return nil, err
	}
	return func(allowed map[Ask]bool, to jsonrpc.Value) jsonrpc.Value {
		return deepSet(place, to, jsonrpc.Text(keep(allowed)))
	}, nil
}

// content finds the objects of every text.
func (r *result) content(found *reading, answer jsonrpc.Value) (keeper, error) {
	var keeps []func(map[Ask]bool) string
	for _, block := range answer.At("content").Elements() {
		if kind, _ := block.At("type").Text(); kind != "text" {
			continue // what is no text is left out
		}
		text, _ := block.At("text").Text()
		keep, err := r.text(found, text)
		if err != nil {
			return nil, err
		}
		keeps = append(keeps, keep)
	}
	return func(allowed map[Ask]bool, to jsonrpc.Value) jsonrpc.Value {
		blocks := []jsonrpc.Value{}
		for _, keep := range keeps {
			blocks = append(blocks, textBlock(keep(allowed)))
		}
		return to.With("content", jsonrpc.List(blocks))
	}, nil
}

// text finds the objects of the lines of a text.
func (r *result) text(found *reading, text string) (func(map[Ask]bool) string, error) {
	type line struct {
		text string
		ask  Ask
	}
	var lines []line
	for one := range strings.SplitSeq(text, "\n") {
		one = strings.TrimSuffix(one, "\r")
		match := r.lines.FindStringSubmatch(one)
		if match == nil {
			continue
		}
		ask, ok, err := r.ask(found, match[r.lines.SubexpIndex("id")])
		if err != nil {
			return nil, err
		}
		if ok {
			lines = append(lines, line{one, ask})
		}
	}
	return func(allowed map[Ask]bool) string {
		var kept []string
		for _, l := range lines {
			if allowed[l.ask] {
				kept = append(kept, l.text)
			}
		}
		return strings.Join(kept, "\n")
	}, nil
}

// elements finds the objects of the elements of a list.
func (r *result) elements(found *reading, place path, list jsonrpc.Value) (keeper, error) {
	asks := make([]Ask, len(list.Elements()))
	for i, e := range list.Elements() {
		v, there := r.id.get(e)
		if !there {
			continue
		}
		text, ok := v.Text()
		if digits, isNumber := v.Digits(); isNumber && !strings.ContainsAny(digits, ".eE") {
			text, ok = digits, true
		}
		if !ok {
			continue
		}
		var err error
		if asks[i], _, err = r.ask(found, text); err != nil {
			return nil, err
		}
	}
	return func(allowed map[Ask]bool, to jsonrpc.Value) jsonrpc.Value {
		kept := []jsonrpc.Value{}
		for i, e := range list.Elements() {
			if asks[i] != (Ask{}) && allowed[asks[i]] {
				kept = append(kept, e)
			}
		}
		return deepSet(place, to, jsonrpc.List(kept))
	}, nil
}

// ask makes the question about one id of an answer; false where it can be none, so that what it names is left out. An error is about the whole answer.
func (r *result) ask(found *reading, id string) (Ask, bool, error) {
	if r.under != nil {
		v, _ := r.under.get(found.arguments)
		folder, ok := v.Text()
		if !ok {
			return Ask{}, false, nil
		}
		id = strings.TrimSuffix(folder, "/") + "/" + id
	}
	if r.Canonical != nil {
		var err error
		if id, err = found.resolve(r.Canonical, id); err != nil || id == "" {
			return Ask{}, false, err
		}
	}
	if _, err := authz.EncodeID(id); err != nil {
		return Ask{}, false, nil //nolint:nilerr // it names nothing that anybody may see
	}
	ask := Ask{r.Type, id, r.Permission}
	return ask, true, found.add(ask)
}

// deepSet is set for a path whose objects may be missing.
func deepSet(p path, v, to jsonrpc.Value) jsonrpc.Value {
	if len(p) == 0 {
		return to
	}
	inner, _ := v.Get(p[0].name)
	return v.With(p[0].name, deepSet(p[1:], inner, to))
}
