package mapping

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/text/unicode/norm"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/door/mcp/jsonrpc"
)

// Ask is one question: has the agent this permission on this object? Asks can be compared with ==.
type Ask struct {
	Type, ID, Permission string
}

// String returns "read file:notes/a.txt".
func (a Ask) String() string { return a.Permission + " " + a.Type + ":" + a.ID }

// Refusal is why a call is refused before anything is asked. Its message is made of the request and the file of mappings alone, so that it
// says nothing about the graph, or about the server.
type Refusal struct { //nolint:errname // as in pkg/fixture
	Message string
	// Detail is for the log: what was found about the file system, which the message does not say.
	Detail string
}

// NotAllowed is what a call is told that Deputy refuses, or whose path leads where it must not. Both are told the same, because where a link
// leads, and what is there, is nothing that a refusal should say.
const NotAllowed = "The agent may not do this, for the person that it acts for, with the objects that the call names."

// Error returns the message.
func (r *Refusal) Error() string { return r.Message }

func refuse(format string, args ...any) error { return &Refusal{Message: fmt.Sprintf(format, args...)} }

// Call is what a call comes to.
type Call struct {
	// Asks are the questions, each once. The call is allowed where all of them are answered with yes. There is at least one.
	Asks []Ask
	// Arguments are those that are sent on: with every path that was resolved in the place of the path that was given.
	Arguments jsonrpc.Value
	// action is what the file says of the call, and looks is what was looked up for it.
	action *action
	looks  looks
}

// Server is the server's name.
func (m *Map) Server() string { return m.server }

// Allows reports whether the file allows one of Features.
func (m *Map) Allows(feature string) bool { return m.allow[feature] }

// Tools are the names of the tools, sorted.
func (m *Map) Tools() []string { return slices.Sorted(maps.Keys(m.tools)) }

// Template reports whether a URI template is listed.
func (m *Map) Template(uriTemplate string) bool { return m.templates[uriTemplate] }

// ListTool returns the questions that decide whether a tool is listed: those of its calls that need no argument. None and false: the tool has
// no mapping.
func (m *Map) ListTool(name string) ([]Ask, bool) { return m.listed(m.tools[name], m.tool, name) }

// ListPrompt is ListTool for a prompt.
func (m *Map) ListPrompt(name string) ([]Ask, bool) { return m.listed(m.prompts[name], m.prompt, name) }

// CallTool returns what a call of a tool comes to. Arguments that are null are none. Errors are *Refusal.
func (m *Map) CallTool(name string, arguments jsonrpc.Value) (*Call, error) {
	a := m.tools[name]
	asks, mapped := m.ListTool(name)
	if !mapped {
		return nil, refuse("There is no tool %s.", quoted(name))
	}
	return a.call(asks, arguments)
}

// GetPrompt is CallTool for a prompt.
func (m *Map) GetPrompt(name string, arguments jsonrpc.Value) (*Call, error) {
	a := m.prompts[name]
	asks, mapped := m.ListPrompt(name)
	if !mapped {
		return nil, refuse("There is no prompt %s.", quoted(name))
	}
	return a.call(asks, arguments)
}

// ReadResource returns the questions about a URI. Errors are *Refusal.
func (m *Map) ReadResource(uri string) ([]Ask, error) {
	call, err := m.CallResource(uri)
	if err != nil {
		return nil, err
	}
	return call.Asks, nil
}

// CallResource is CallTool for the reading of a URI, whose parts are its arguments.
func (m *Map) CallResource(uri string) (*Call, error) {
	// Servers decode and normalise URIs in their own ways. What has more than one reading is refused. Browsers' parser, which Node.js has too, leaves
	// out tabs and ends of lines before it looks for steps, and blanks at the ends; and a step can end where the query or the fragment begins.
	steps := strings.FieldsFunc(uri, func(r rune) bool { return strings.ContainsRune("/:?#", r) })
	unseen := func(r rune) bool { return r != ' ' && blank(r) }
	if strings.ContainsAny(uri, `%\`) || strings.ContainsFunc(uri, unseen) || strings.Trim(uri, " ") != uri ||
		slices.Contains(steps, ".") || slices.Contains(steps, "..") {
		return nil, refuse("The URI has an escape, a backslash, a control character, a blank at an end or a step such as .., which servers read in " +
			"different ways. Write it without.")
	}
	if !norm.NFC.IsNormalString(uri) {
		return nil, refuse("The URI is not in Unicode's form NFC, and some systems take it for another one.")
	}
	var found *resource
	for _, r := range m.resources {
		if r.match.MatchString(uri) {
			if found != nil {
				return nil, refuse("The URI is mapped twice, so that nothing says which check counts.")
			}
			found = r
		}
	}
	if found == nil {
		return nil, refuse("There is no resource with this URI.")
	}
	groups := found.match.FindStringSubmatch(uri)
	var members []jsonrpc.Member
	for i, name := range found.match.SubexpNames() {
		if name != "" {
			members = append(members, jsonrpc.Member{Name: name, Value: jsonrpc.Text(groups[i])})
		}
	}
	arguments := jsonrpc.ObjectOf(members...)
	asks := found.constant()
	call, err := found.call(asks, arguments)
	if err != nil {
		return nil, err
	}
	if call.Arguments.String() != arguments.String() {
		return nil, refuse("The URI names a path that leads elsewhere. Write the path that it leads to.")
	}
	return call, nil
}

func (m *Map) listed(a *action, whole *Whole, name string) ([]Ask, bool) {
	if a == nil {
		return nil, false
	}
	var asks []Ask
	if whole != nil {
		asks = append(asks, Ask{whole.Type, join(m.server, name), whole.Permission})
	}
	return append(asks, a.constant()...), true
}

// constant returns the questions that need no argument.
func (a *action) constant() (asks []Ask) {
	for _, c := range a.checks {
		if c.Object != "" {
			asks = append(asks, Ask{c.Type, c.Object, c.Permission})
		}
	}
	return asks
}

// call judges arguments.
func (a *action) call(asks []Ask, arguments jsonrpc.Value) (*Call, error) {
	switch arguments.Kind() {
	case jsonrpc.Null:
		arguments = jsonrpc.ObjectOf()
	case jsonrpc.Object:
	default:
		return nil, refuse("The arguments have to be an object, not %s.", arguments.Kind())
	}
	if err := a.closed(nil, arguments); err != nil {
		return nil, err
	}
	call := &Call{Asks: asks, Arguments: arguments, action: a}
	for _, c := range a.checks {
		if err := c.ask(call, c.parts); err != nil {
			return nil, err
		}
	}
	call.Asks = unique(call.Asks)
	switch {
	case len(call.Asks) > MaxAsks:
		return nil, refuse("The call is about %d objects, more than the %d of one call. Make several calls.", len(call.Asks), MaxAsks)
	case len(call.Asks) == 0:
		return nil, refuse("The call names no object, so that there is nothing to decide it by.")
	}
	return call, nil
}

func unique(asks []Ask) []Ask {
	seen := map[Ask]bool{}
	return slices.DeleteFunc(asks, func(a Ask) bool {
		again := seen[a]
		seen[a] = true
		return again
	})
}

// closed refuses arguments that no check is about and that are not ignored.
func (a *action) closed(at path, v jsonrpc.Value) error {
	if len(at) > 0 {
		if slices.ContainsFunc(a.ignore, func(p path) bool { return at.within(p) }) || slices.ContainsFunc(a.covered, func(p path) bool { return at.within(p) }) {
			return nil
		}
		if !slices.ContainsFunc(slices.Concat(a.ignore, a.covered), func(p path) bool { return p.within(at) }) {
			return refuse("The argument %s is not mapped: nothing says what it may be. Leave it out.", at)
		}
	}
	switch v.Kind() {
	case jsonrpc.Object:
		for _, m := range v.Members() {
			if err := a.closed(append(slices.Clone(at), step{name: m.Name}), m.Value); err != nil {
				return err
			}
		}
	case jsonrpc.Array:
		for _, e := range v.Elements() {
			if err := a.closed(append(slices.Clone(at), step{each: true}), e); err != nil {
				return err
			}
		}
	default:
		return refuse("The argument %s has to be an object or a list, not %s.", at, v.Kind())
	}
	return nil
}

// ask adds the questions of a check. Where parts lead into a list, they are asked for each of its elements.
func (c *check) ask(call *Call, parts []path) error {
	switch {
	case c.Object != "":
		return nil
	case c.program != nil:
		return c.evaluate(call)
	}
	var list path
	for _, p := range parts {
		if l := p.first(); list == nil || l != nil && len(l) < len(list) {
			list = l
		}
	}
	if list == nil {
		return c.one(call, parts)
	}
	v, found := list[:len(list)-1].get(call.Arguments)
	switch {
	case !found && c.Optional:
		return nil
	case !found:
		return refuse("The argument %s is missing.", list[:len(list)-1])
	case v.Kind() != jsonrpc.Array:
		return refuse("The argument %s has to be a list, not %s.", list[:len(list)-1], v.Kind())
	case len(v.Elements()) == 0 && !c.Optional:
		return refuse("The argument %s is an empty list.", list[:len(list)-1])
	case len(call.Asks)+len(v.Elements()) > MaxAsks:
		return refuse("The call is about more than %d objects. Make several calls.", MaxAsks)
	}
	for i := range v.Elements() {
		these := make([]path, len(parts))
		for j, p := range parts {
			these[j] = p.each(list, i)
		}
		if err := c.ask(call, these); err != nil {
			return err
		}
	}
	return nil
}

// one adds the question about one object.
func (c *check) one(call *Call, parts []path) error {
	var texts []string
	for _, p := range parts {
		v, found := p.get(call.Arguments)
		if !found {
			continue
		}
		text, err := c.text(p, v)
		if err != nil {
			return err
		}
		texts = append(texts, text)
	}
	switch {
	case len(texts) == 0 && c.Optional:
		return nil
	case len(texts) < len(parts):
		for _, p := range parts {
			if _, found := p.get(call.Arguments); !found {
				return refuse("The argument %s is missing.", p)
			}
		}
	}
	id := texts[0]
	if len(parts) > 1 {
		id = join(texts...)
	}
	if c.Canonical != nil {
		resolved, err := c.Canonical.resolve(id, &call.looks)
		if errors.Is(err, errLooks) {
			return refuse("The paths of the call take more look-ups than one call may. Make several calls.")
		}
		if found, ok := errors.AsType[*lookedUp](err); ok {
			return &Refusal{NotAllowed, fmt.Sprintf("the argument %s %v", parts[0], found)}
		}
		if err != nil {
			return refuse("The argument %s %v.", parts[0], err)
		}
		call.Arguments = parts[0].set(call.Arguments, jsonrpc.Text(resolved.path))
		id = resolved.id
	}
	return c.add(call, parts[0].String(), id)
}

// add adds a question, whose id comes from what is named at.
func (c *check) add(call *Call, at, id string) error {
	if _, err := authz.EncodeID(id); err != nil {
		return refuse("The argument %s cannot be the id of an object: it %v.", at, err)
	}
	call.Asks = append(call.Asks, Ask{c.Type, id, c.Permission})
	return nil
}

// text returns an argument as a part of an id.
func (c *check) text(at path, v jsonrpc.Value) (string, error) {
	var text string
	var ok bool
	switch c.Kind {
	case "integer":
		text, ok = v.Digits()
		ok = ok && !strings.ContainsAny(text, ".eE")
	case "boolean":
		var truth bool
		truth, ok = v.Truth()
		text = strconv.FormatBool(truth)
	default:
		text, ok = v.Text()
	}
	kinds := map[string]string{"integer": "a whole number", "boolean": "true or false"}
	switch want := kinds[c.Kind]; {
	case ok && text == "":
		return "", refuse("The argument %s is empty.", at)
	case ok:
		return text, nil
	case want != "":
		return "", refuse("The argument %s has to be %s, not %s.", at, want, v.Kind())
	default:
		return "", refuse("The argument %s has to be a text, not %s.", at, v.Kind())
	}
}

// join makes one id of several parts, so that other parts make another id.
func join(parts ...string) string {
	escaped := make([]string, len(parts))
	for i, part := range parts {
		escaped[i] = strings.NewReplacer("%", "%25", "/", "%2F").Replace(part)
	}
	return strings.Join(escaped, "/")
}

// quoted shows a word of a request.
func quoted(word string) string {
	const most = 128
	if len(word) > most {
		return fmt.Sprintf("with a name of %d bytes", len(word))
	}
	return strconv.Quote(word)
}
