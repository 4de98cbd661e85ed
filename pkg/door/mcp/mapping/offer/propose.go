package offer

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/door/mcp/mapping"
)

// Options say how a file is proposed.
type Options struct {
	// Server is the server's name in the file; that of the offer if left out.
	Server string
	// Root is the folder that the server's files lie in, absolute, which the guard sees too. Without it paths are left undecided.
	Root string
}

// Proposal is a file of mappings that was proposed.
type Proposal struct {
	// Text is the file.
	Text []byte
	// Tools and Prompts are how many there are, and Decided how many of the tools the file lets be seen.
	Tools, Prompts, Decided int
}

// Propose proposes a file of mappings, the same one for the same lists. It loads: what is not known is left out or marked undecided, so that
// the guard hides and refuses it. The text of a server's is in it only as names and as comments, quoted.
func Propose(o *Offer, options Options) (*Proposal, error) {
	w := &writer{options: options, types: map[string]bool{}}
	for i := range o.Tools {
		for _, one := range o.Tools[i].Arguments {
			if m, object := names(&o.Tools[i], one); object != "" && (m == anID || m == aPath) {
				w.types[object] = true
			}
		}
	}
	p := &Proposal{Tools: len(o.Tools), Prompts: len(o.Prompts)}
	w.line(0, "# Proposed from the lists of the server, by the names and the kinds of the arguments alone. Read every line.")
	w.line(0, "# A part that is undecided is hidden from agents and refused. Take the line away once its checks are the right ones.")
	w.line(0, "# The types and permissions are guesses too: deputy mcp lint --schema compares them with a schema.")
	w.line(0, "version: 1")
	w.line(0, "server: "+scalar(serverName(options.Server, o.Server)))
	w.line(0, "tool: {type: mcp_tool, permission: call}")
	if len(o.Prompts) > 0 {
		w.line(0, "prompt: {type: mcp_prompt, permission: get}")
	}
	w.group("tools", len(o.Tools))
	for i := range o.Tools {
		if w.action(&o.Tools[i], true) {
			p.Decided++
		}
	}
	if len(o.Prompts) > 0 {
		w.group("prompts", len(o.Prompts))
		for i := range o.Prompts {
			w.action(&o.Prompts[i], false)
		}
	}
	w.resources(o)
	p.Text = []byte(w.b.String())
	if _, err := mapping.Decode("the proposal", p.Text); err != nil {
		return nil, err
	}
	return p, nil
}

// writer writes the file.
type writer struct {
	b       strings.Builder
	options Options
	// types are those of objects that arguments of tools name by their ids, or by paths.
	types map[string]bool
}

func (w *writer) line(indent int, text string) {
	w.b.WriteString(strings.Repeat("  ", indent))
	w.b.WriteString(text)
	w.b.WriteByte('\n')
}

func (w *writer) group(name string, of int) {
	if of == 0 {
		w.line(0, name+": {}")
		return
	}
	w.line(0, name+":")
}

// proposed is what becomes of the arguments of one tool or prompt.
type proposed struct {
	checks, ignore, results, doubts []string
	// pinned says that a check that has to be there names the object.
	pinned bool
	// each says that one takes a list, and checks each element.
	each bool
}

func (p *proposed) doubtf(format string, args ...any) {
	if text := fmt.Sprintf(format, args...); !slices.Contains(p.doubts, text) {
		p.doubts = append(p.doubts, text)
	}
}

// action writes a tool or a prompt, and reports whether it can be seen.
func (w *writer) action(a *Action, tool bool) bool {
	p := &proposed{}
	for _, why := range a.Open {
		p.doubtf("%s", why)
	}
	permission := "write"
	if reads(a.Name) && !a.Writes || !tool {
		permission = "read"
	}
	pair := w.repositories(a, p, permission)
	for _, one := range a.Arguments {
		if !slices.Contains(pair, one.Path) {
			w.argument(a, one, p, permission, len(pair) > 0)
		}
	}
	switch {
	case !tool:
		p.doubtf("answers of prompts are not filtered: look at what it puts into them")
	case (!p.pinned || Lists(a.Name) || a.Lists && !p.each) && w.results(a, p):
		p.doubtf("only the elements of its answers that results name are let through: is each the id of an object, and is anything missing?")
	case !p.pinned:
		p.doubtf("none of its arguments names the object that it is about, and its answers are not filtered: add results, or an object")
	case Lists(a.Name):
		p.doubtf("by its name its answers name objects that its arguments do not: add results")
	case a.Lists && !p.each:
		p.doubtf("its answers hold lists: add results where they name objects")
	}
	if a.Description != "" {
		w.line(1, "# "+quote(shorten(a.Description)))
	}
	w.line(1, scalar(a.Name)+":")
	for _, why := range p.doubts {
		w.line(2, "# - "+why)
	}
	if len(p.doubts) > 0 {
		w.line(2, "undecided: true")
	}
	w.list("checks", p.checks)
	w.list("ignore", p.ignore)
	w.list("results", p.results)
	return len(p.doubts) == 0
}

// results proposes results for the lists in the answers of a tool whose elements have ids of a type that arguments name too. It reports whether there is
// one.
func (w *writer) results(a *Action, p *proposed) bool {
	for _, list := range a.Listed {
		member, object, ok := w.element(a, list)
		if !ok {
			continue
		}
		id, canonical := "", ""
		if member.Path != "" {
			id = ", id: " + scalar(member.Path)
		}
		if m, _ := means(member.Name, member.Kind, false); m == aPath {
			if w.options.Root == "" {
				continue
			}
			canonical = fmt.Sprintf(", canonical: {root: %s, shared: true}", scalar(w.options.Root))
		}
		p.results = append(p.results, fmt.Sprintf("{in: %s%s, permission: read, type: %s%s}", scalar(list.In), id, object, canonical))
	}
	return len(p.results) > 0
}

// element is the member of a list's elements that is their id, and the type of the objects: one that is called id before one that has the list's word in its
// name, and that before any other. It is none where two are as good.
func (w *writer) element(a *Action, list Listed) (id Argument, object string, ok bool) {
	own := singular(list.Name)
	best := 0
	for _, one := range list.IDs {
		m, of := means(one.Name, one.Kind, false)
		of = singular(of)
		good := 0
		switch {
		case m != anID && m != aPath:
		case of == "" && w.types[own]:
			of, good = own, 3
		case of == "" && w.types[about(a.Name)]:
			of, good = about(a.Name), 3
		case of == own && w.types[own]:
			good = 2
		case w.types[of]:
			good = 1
		}
		switch {
		case good > best:
			id, object, ok, best = one, of, true, good
		case good > 0 && good == best:
			ok = false
		}
	}
	return id, object, ok
}

// names is what an argument of a tool names: how, and the type of the object, or "".
func names(a *Action, one Argument) (m meaning, object string) {
	m, object = means(one.Name, one.Kind, one.Enum)
	if object = singular(object); m == anID && object == "" {
		object = about(a.Name)
	}
	if !typeName.MatchString(object) || authz.IsCore(object) {
		object = ""
	}
	return m, object
}

func (w *writer) list(name string, items []string) {
	if len(items) == 0 {
		return
	}
	w.line(2, name+":")
	for _, item := range items {
		w.line(3, "- "+item)
	}
}

// repositories proposes one check for an owner and a repository that stand side by side, and returns their paths.
func (w *writer) repositories(a *Action, p *proposed, permission string) []string {
	for _, owner := range a.Arguments {
		if owner.Name != "owner" || owner.Kind != "string" {
			continue
		}
		beside := strings.TrimSuffix(owner.Path, "owner")
		for _, name := range []string{"repo", "repository"} {
			if slices.ContainsFunc(a.Arguments, func(one Argument) bool { return one.Path == beside+name && one.Kind == "string" }) {
				p.checks = append(p.checks, fmt.Sprintf("{permission: %s, type: repository, id: [%s, %s]}", permission, scalar(owner.Path), scalar(beside+name)))
				p.pinned = true
				return []string{owner.Path, beside + name}
			}
		}
	}
	return nil
}

// argument proposes a check for an argument, or lists it under ignore.
func (w *writer) argument(a *Action, one Argument, p *proposed, permission string, within bool) {
	m, object := means(one.Name, one.Kind, one.Enum)
	shown := quote(one.Path)
	ignore := func(comment string) { p.ignore = append(p.ignore, scalar(one.Path)+" # "+comment) }
	switch {
	case m == harmless:
		ignore("by its name it names no object")
		return
	case m == unknown:
		ignore("LOOK: nothing says whether it names an object")
		p.doubtf("nothing says what %s names: look at it under ignore", shown)
		return
	case within && m == anID && strings.HasSuffix(strings.ToLower(one.Name), "number"):
		ignore("LOOK: it names something in the repository, and the repository is checked")
		p.doubtf("%s names something in the repository: does the repository decide it?", shown)
		return
	}
	kind := ""
	if one.Kind == "integer" || one.Kind == "number" {
		kind = ", kind: integer"
	}
	if one.Kind == "" {
		p.doubtf("the schema does not say what %s is", shown)
	}
	object = singular(object)
	if m == anID && object == "" {
		if object = about(a.Name); object == "" {
			p.doubtf("%s is the id of an object whose type nothing says", shown)
		}
	}
	if !typeName.MatchString(object) || authz.IsCore(object) {
		if object != "" {
			p.doubtf("%s names a %s, which is no type that a check can have: name one of your own", shown, printable(object))
		}
		object = "object"
	}
	canonical := ""
	switch m {
	case aPath:
		if w.options.Root != "" {
			canonical = fmt.Sprintf(", canonical: {root: %s, shared: true}", scalar(w.options.Root))
		} else {
			p.doubtf("%s is a path: add canonical: {root: …} to its check, or name the folder with --root", shown)
		}
	case aURI:
		p.doubtf("%s is a URI, which programs read in different ways: make its id with cel", shown)
	case aName:
		p.doubtf("%s names a %s, and nothing says that the name is its id", shown, printable(object))
	default: // an id
	}
	p.pinned, p.each = true, p.each || strings.Contains(one.Path, "[]")
	check := fmt.Sprintf("{permission: %s, type: %s, id: %s%s%s}", permission, object, scalar(one.Path), kind, canonical)
	if !one.Required {
		// A call without it could be about anything.
		check += " # a call has to have it, although the server does not ask for it"
	}
	p.checks = append(p.checks, check)
}

var typeName = regexp.MustCompile(`^[a-z][a-z0-9_]{1,62}[a-z0-9]$`)

// maxPatterns is how many resources are proposed.
const maxPatterns = 200

// variable is an expression of a URI template that stands for one text.
var variable = regexp.MustCompile(`\{\+?([A-Za-z][A-Za-z0-9_]*)\}`)

// resources writes patterns for the templates, and for the resources that no template makes. All of them are undecided.
func (w *writer) resources(o *Offer) {
	var patterns []*regexp.Regexp
	var lines [][]string
	left := 0
	add := func(match string, check string, comments ...string) {
		if len(lines) >= maxPatterns {
			left++
			return
		}
		lines = append(lines, append(comments, "- {match: "+scalar(match)+", undecided: true, checks: ["+check+"]}"))
	}
	for _, template := range o.Templates {
		match, name := pattern(template)
		if match == "" {
			lines = append(lines, []string{"# The template " + quote(shorten(template)) + " has no variable, or one that is not read: it is left out."})
			continue
		}
		compiled, err := regexp.Compile("^(?:" + match + ")$")
		if err != nil {
			continue
		}
		patterns = append(patterns, compiled)
		add(match, "{permission: read, type: resource, id: "+scalar(name)+"}", "# To have it listed: templates: ["+scalar(template)+"]")
	}
	for _, uri := range o.Resources {
		if slices.ContainsFunc(patterns, func(p *regexp.Regexp) bool { return p.MatchString(uri) }) {
			continue
		}
		if _, err := authz.EncodeID(uri); err != nil {
			lines = append(lines, []string{"# The resource " + quote(shorten(uri)) + " is left out: its URI cannot be the id of an object."})
			continue
		}
		add(regexp.QuoteMeta(uri), "{permission: read, type: resource, object: "+scalar(uri)+"}")
	}
	written := slices.ContainsFunc(lines, func(of []string) bool { return strings.HasPrefix(of[len(of)-1], "-") })
	if written {
		w.line(0, "resources:")
	}
	for _, of := range lines {
		for _, text := range of {
			w.line(1, text)
		}
	}
	if left > 0 {
		w.line(1, fmt.Sprintf("# %d more are left out; one pattern can stand for many.", left))
	}
}

// pattern is the regular expression for the URIs that a template with one variable makes, and the variable's name.
func pattern(template string) (match, name string) {
	found := variable.FindAllStringSubmatchIndex(template, -1)
	if len(found) != 1 || strings.ContainsAny(variable.ReplaceAllString(template, ""), "{}") {
		return "", ""
	}
	at := found[0]
	name = template[at[2]:at[3]]
	return regexp.QuoteMeta(template[:at[0]]) + "(?P<" + name + ">[^/]+)" + regexp.QuoteMeta(template[at[1]:]), name
}

// serverName is the first of some names that a file can have, with "-" for what it cannot have.
func serverName(given, own string) string {
	if given != "" {
		return given
	}
	name := strings.Trim(regexp.MustCompile(`[^A-Za-z0-9._-]+`).ReplaceAllString(own, "-"), "._-")
	if len(name) > 64 {
		name = name[:64]
	}
	if name == "" {
		return "server"
	}
	return name
}

// word is a text that YAML reads as itself without quotes.
var word = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_-]*$`)

// scalar is a text as YAML reads it back, in flow and in block.
func scalar(text string) string {
	// YAML takes some words for true, false, null or a number.
	reserved := []string{"y", "n", "yes", "no", "on", "off", "true", "false", "null", "nan", "inf"}
	if word.MatchString(text) && !slices.Contains(reserved, strings.ToLower(text)) {
		return text
	}
	return quote(text)
}

// quote is a text in double quotes, in ASCII: for YAML, whose escapes are these, and for comments.
func quote(text string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range text {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r >= ' ' && r < 0x7f:
			b.WriteRune(r)
		case r > 0xffff:
			fmt.Fprintf(&b, `\U%08X`, r)
		default:
			fmt.Fprintf(&b, `\u%04X`, r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// printable is a word in a comment.
func printable(text string) string {
	if word.MatchString(text) {
		return text
	}
	return quote(text)
}

// shorten makes one line of a text, and no long one.
func shorten(text string) string {
	const most = 120
	text = strings.Join(strings.Fields(text), " ")
	if runes := []rune(text); len(runes) > most {
		return string(runes[:most]) + "..."
	}
	return text
}
