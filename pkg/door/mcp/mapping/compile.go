package mapping

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/google/cel-go/cel"

	"github.com/deputyauth/deputy/pkg/authz"
)

// Map is a file of mappings that was understood. It is immutable, and safe for concurrent use.
type Map struct {
	server         string
	tool, prompt   *Whole
	allow          map[string]bool
	tools, prompts map[string]*action
	resources      []*resource
	templates      map[string]bool
	// parts are those of the file that a call or an answer can use, in the order of the file's names.
	parts []string
}

// action is a tool or a prompt, or the resources of one pattern.
type action struct {
	// at is the part of the file, such as "tools.read_file".
	at      string
	checks  []*check
	ignore  []path
	covered []path
	results []*result
	// looks is how much is looked up for one call or one answer; 0 is maxLooks. Tests alone set it.
	looks int
}

type resource struct {
	action

	match *regexp.Regexp
}

// check is a Check that was understood.
type check struct {
	Check

	parts   []path
	reads   []path
	program cel.Program
}

// compile judges a file.
func compile(name string, f File) (*Map, error) {
	c := compiler{file: name}
	m := &Map{
		server: f.Server, tool: f.Tool, prompt: f.Prompt, allow: map[string]bool{},
		tools: map[string]*action{}, prompts: map[string]*action{}, templates: map[string]bool{},
	}
	c.require(f.Version == 1, "version", "has to be 1, the version of the format")
	c.require(serverName.MatchString(f.Server), "server", "has to be the server's name: "+NameRule)
	for at, whole := range map[string]*Whole{"tool": f.Tool, "prompt": f.Prompt} {
		if whole != nil {
			c.object(at, whole.Type, whole.Permission)
		}
	}
	for _, feature := range f.Allow {
		c.require(slices.Contains(Features(), feature), "allow", fmt.Sprintf("has %q; it can have %s", feature, strings.Join(Features(), ", ")))
		m.allow[feature] = true
	}
	for _, name := range slices.Sorted(maps.Keys(f.Tools)) {
		if a := c.action("tools."+name, f.Tools[name], f.Tool != nil, "tool"); !f.Tools[name].Undecided {
			m.tools[name] = a
			m.parts = append(m.parts, a.uses()...)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(f.Prompts)) {
		c.require(len(f.Prompts[name].Results) == 0, "prompts."+name, "has results, which only tools can have; leave them out")
		if a := c.action("prompts."+name, f.Prompts[name], f.Prompt != nil, "prompt"); !f.Prompts[name].Undecided {
			m.prompts[name] = a
			m.parts = append(m.parts, a.uses()...)
		}
	}
	for i, one := range f.Resources {
		if r := c.resource(fmt.Sprintf("resources[%d]", i), one); !one.Undecided {
			m.resources = append(m.resources, r)
			m.parts = append(m.parts, r.uses()...)
		}
	}
	for _, template := range f.Templates {
		m.templates[template] = true
	}
	if c.problem != nil {
		return nil, c.problem
	}
	return m, nil
}

// IsServerName reports whether a file of mappings can give a server this name: see NameRule.
func IsServerName(name string) bool { return serverName.MatchString(name) }

// NameRule says what the name of a server has to be.
const NameRule = `1 to 64 letters, digits, ".", "_" and "-", of which the first is a letter or a digit`

var serverName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// compiler notes the first problem of a file.
type compiler struct {
	file    string
	problem error
}

func (c *compiler) require(holds bool, at, message string) {
	if !holds && c.problem == nil {
		c.problem = &Problem{File: c.file, At: at, Message: message}
	}
}

var (
	typeName = regexp.MustCompile(`^([a-z][a-z0-9_]{1,61}[a-z0-9]/)*[a-z][a-z0-9_]{1,62}[a-z0-9]$`)
	relation = regexp.MustCompile(`^[a-z][a-z0-9_]{1,62}[a-z0-9]$`)
)

func (c *compiler) object(at, objectType, permission string) {
	c.require(typeName.MatchString(objectType), at, fmt.Sprintf("type is %q; write it as the schema does: document", objectType))
	c.require(!authz.IsCore(objectType), at, fmt.Sprintf("type is %s, a type of Deputy's core; name a type of your own", objectType))
	c.require(relation.MatchString(permission), at, fmt.Sprintf("permission is %q; write it as the schema does: read", permission))
}

func (c *compiler) action(at string, of Action, whole bool, kind string) *action {
	a := &action{at: at}
	always := whole
	for i, one := range of.Checks {
		a.checks = append(a.checks, c.check(fmt.Sprintf("%s.checks[%d]", at, i), one))
		always = always || one.Object != ""
	}
	c.require(always, at, fmt.Sprintf("has no check that needs no argument, so that nothing says whose agents may see it; "+
		"add %s: {type: …, permission: …} to the file, or a check with object", kind))
	for _, text := range of.Ignore {
		a.ignore = append(a.ignore, c.path(at+".ignore", text))
	}
	for i, one := range of.Results {
		a.results = append(a.results, c.result(fmt.Sprintf("%s.results[%d]", at, i), one))
	}
	c.cover(at, a)
	return a
}

// cover notes which arguments the checks are about.
func (c *compiler) cover(at string, a *action) {
	for _, one := range a.checks {
		a.covered = append(append(a.covered, one.parts...), one.reads...)
	}
	for _, ignored := range a.ignore {
		for _, used := range a.covered {
			c.require(!used.within(ignored), at+".ignore", fmt.Sprintf("has %s, and a check is about %s; leave one of them out", ignored, used))
		}
	}
	// A path that is resolved is sent on in the place of the one that came. So nothing may be judged by the one that came.
	for i, one := range a.checks {
		for j, other := range a.checks {
			if one.Canonical == nil || i == j || len(one.parts) != 1 {
				continue
			}
			for _, used := range slices.Concat(other.parts, other.reads) {
				c.require(other.Canonical != nil || !used.within(one.parts[0]) && !one.parts[0].within(used), at,
					fmt.Sprintf("has a check with canonical for %s, and another one for it without; give both canonical", used))
			}
		}
	}
}

func (c *compiler) check(at string, of Check) *check {
	one := &check{Check: of}
	c.object(at, of.Type, of.Permission)
	ways := 0
	for _, has := range []bool{len(of.ID) > 0, of.Object != "", of.CEL != ""} {
		if has {
			ways++
		}
	}
	c.require(ways == 1, at, "needs exactly one of id (arguments), object (an id) and cel (an expression)")
	c.require(of.Kind == "" || slices.Contains([]string{"text", "integer", "boolean"}, of.Kind), at,
		fmt.Sprintf("kind is %q; it can be text, integer or boolean", of.Kind))
	for _, text := range of.ID {
		one.parts = append(one.parts, c.path(at+".id", text))
	}
	c.require(oneList(one.parts), at+".id", "takes elements of two lists; give each list a check of its own")
	for _, text := range of.Reads {
		one.reads = append(one.reads, c.path(at+".reads", text))
		c.require(!strings.ContainsAny(text, ".["), at+".reads", "has to name whole arguments, not parts of them")
	}
	c.require((of.CEL != "") == (len(of.Reads) > 0), at, "cel and reads go together: reads names the arguments that the expression is about")
	if of.CEL != "" {
		var err error
		if one.program, err = compileCEL(of.CEL); err != nil {
			c.require(false, at+".cel", err.Error())
		}
	}
	if of.Object != "" {
		_, err := authz.EncodeID(of.Object)
		c.require(err == nil, at+".object", fmt.Sprint("the id ", err))
		c.require(!of.Optional && of.Kind == "" && of.Canonical == nil, at, "object takes no optional, kind or canonical")
	}
	if of.Canonical != nil {
		c.require(len(of.ID) == 1 && (of.Kind == "" || of.Kind == "text"), at, "canonical is for an id of one argument that is a text")
		one.Canonical = c.canonical(at+".canonical", *of.Canonical)
	}
	return one
}

func (c *compiler) canonical(at string, of Canonical) *Canonical {
	if err := of.prepare(); err != nil {
		c.require(false, at, err.Error())
	}
	return &of
}

func (c *compiler) resource(at string, of Resource) *resource {
	r := &resource{action: action{at: at}}
	var err error
	if r.match, err = regexp.Compile(`^(?:` + of.Match + `)$`); err != nil || of.Match == "" {
		c.require(false, at+".match", "has to be a regular expression (RE2) for the whole URI")
		return r
	}
	for i, one := range of.Checks {
		r.checks = append(r.checks, c.check(fmt.Sprintf("%s.checks[%d]", at, i), one))
	}
	for _, text := range of.Ignore {
		r.ignore = append(r.ignore, c.path(at+".ignore", text))
	}
	c.require(len(of.Checks) > 0, at, "has no checks; add one")
	c.cover(at, &r.action)
	for _, used := range slices.Concat(r.covered, r.ignore) {
		c.require(len(used) == 1 && slices.Contains(r.match.SubexpNames(), used[0].name), at,
			fmt.Sprintf("uses %s, which is no named group of match; write it as (?P<%[1]s>…)", used))
	}
	for i, group := range r.match.SubexpNames() {
		c.require(i == 0 || group != "" || r.match.NumSubexp() == 0, at+".match", "has a group without a name; write (?:…), or name it with (?P<name>…)")
	}
	return r
}

// path reads the path of an argument.
func (c *compiler) path(at, text string) path {
	p, ok := parsePath(text)
	c.require(ok, at, fmt.Sprintf("has %q; write an argument as name, name.member or name[]", text))
	return p
}
