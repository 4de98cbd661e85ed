// Package lint judges a file of mappings: it finds calls and answers that the guard lets through although the author may not have meant that.
//
// A finding is silenced by a comment at the part of the file that it is about, or at a part around it:
//
//	search_files: # lint:ignore unfiltered-answer everybody may know the names of files
package lint

import (
	"cmp"
	"fmt"
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"

	"github.com/deputyauth/deputy/pkg/door/mcp/mapping"
	"github.com/deputyauth/deputy/pkg/door/mcp/mapping/offer"
)

// Severity is how bad a finding is.
type Severity string

// The severities.
const (
	// Error is for a part that cannot be meant: it refuses every call that it is about, or is about nothing.
	Error Severity = "error"
	// Warning is for a part that lets something by, or hides something.
	Warning Severity = "warning"
)

// Rule is a kind of findings.
type Rule struct {
	Name     string
	Severity Severity
	// Summary says in one line what is found.
	Summary string
}

// Rules returns all rules, by their names.
func Rules() []Rule {
	return []Rule{
		{"allows", Warning, "an entry of `allow`, each of which lets messages through that the guard does not filter"},
		{"canonical-not-shared", Warning, "`canonical` without `shared`: the guard follows no links, and the server may follow one"},
		{"ignored-object", Warning, "an ignored argument whose name says that it names an object"},
		{"open-pattern", Warning, "a pattern of resources that begins with no fixed text, or `matches` in `cel` without ^ and $"},
		{"undecided", Warning, "a tool, prompt or pattern that is marked undecided, so that the guard hides and refuses it"},
		{"unfiltered-answer", Warning, "a tool without `results` whose answers name objects that its arguments do not name"},
		{"unknown-argument", Error, "an argument that the server's tool or prompt does not have"},
		{"unknown-permission", Error, "a permission that the type does not have in the schema of `--schema`"},
		{"unknown-tool", Warning, "a tool or prompt that the server does not have"},
		{"unknown-type", Error, "a type that the schema of `--schema` does not have"},
		{"unmapped-argument", Warning, "an argument of the server's that the file does not name, so that the guard refuses each call with it"},
		{"unmapped-tool", Warning, "tools or prompts of the server's that the file does not name, so that the guard hides and refuses them"},
	}
}

// Finding is one thing that a rule has found.
type Finding struct {
	Rule     string
	Severity Severity
	// Line and Column count from 1. They are 0 where the file lacks something altogether.
	Line, Column int
	// Message says what is wrong, and Suggestion what to do about it; "" where the message does.
	Message, Suggestion string
	// Suppressed is the reason that a comment gives for leaving it; "" if there is none, and the finding counts.
	Suppressed string
}

// Options say what a file is compared with.
type Options struct {
	// Offer is what the server has; nil leaves out the rules that compare with it.
	Offer *offer.Offer
	// Schema has the relations and permissions of each type; nil leaves out the rules that compare with it.
	Schema map[string][]string
}

// Check returns the findings in a file, in the order of its lines.
func Check(source *mapping.Source, o Options) []Finding {
	c := &checker{source: source, options: o}
	c.whole("tool", source.File.Tool)
	c.whole("prompt", source.File.Prompt)
	c.allows()
	for _, kind := range c.kinds() {
		for name, a := range kind.actions {
			c.action(kind, name, a)
		}
		c.missing(kind)
	}
	for i, r := range source.File.Resources {
		c.resource(fmt.Sprintf("resources[%d]", i), r)
	}
	slices.SortFunc(c.found, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column), cmp.Compare(a.Rule, b.Rule), cmp.Compare(a.Message, b.Message))
	})
	return c.found
}

// checker collects findings.
type checker struct {
	source  *mapping.Source
	options Options
	found   []Finding
}

var ignored = regexp.MustCompile(`lint:ignore\s+([a-z-]+)[ \t]+(\S.*)`)

// report adds a finding about a part of the file.
func (c *checker) report(rule, at, suggestion, message string, args ...any) {
	f := Finding{Rule: rule, Message: fmt.Sprintf(message, args...), Suggestion: suggestion}
	for _, r := range Rules() {
		if r.Name == rule {
			f.Severity = r.Severity
		}
	}
	f.Line, f.Column = c.source.Place(at)
	for _, comment := range c.source.Comments(at) {
		for _, m := range ignored.FindAllStringSubmatch(comment, -1) {
			if m[1] == rule && f.Suppressed == "" {
				f.Suppressed = strings.TrimSpace(m[2])
			}
		}
	}
	c.found = append(c.found, f)
}

// kind is the tools or the prompts.
type kind struct {
	word, group string
	actions     map[string]mapping.Action
	offered     []offer.Action
}

func (c *checker) kinds() []kind {
	tools, prompts := kind{"tool", "tools", c.source.File.Tools, nil}, kind{"prompt", "prompts", c.source.File.Prompts, nil}
	if c.options.Offer != nil {
		tools.offered, prompts.offered = c.options.Offer.Tools, c.options.Offer.Prompts
	}
	return []kind{tools, prompts}
}

// allows finds what passes besides calls.
func (c *checker) allows() {
	passes := map[string]string{
		"completion":  "the values that the server proposes for the arguments of prompts reach the agent unfiltered, and can name objects",
		"elicitation": "the server can ask the person for input, through the agent's program",
		"logging":     "the server's log messages reach the agent unfiltered, and can name objects",
		"roots":       "the agent can tell the server which folders to open, if the server uses roots for that",
		"sampling":    "the server can have the agent's model answer the server's own prompts",
	}
	for i, feature := range c.source.File.Allow {
		c.report("allows", fmt.Sprintf("allow[%d]", i), "", "the guard lets %s through: %s", feature, passes[feature])
	}
}

// action finds what is wrong with a tool or a prompt.
func (c *checker) action(k kind, name string, a mapping.Action) {
	at := k.group + "." + name
	if a.Undecided {
		c.report("undecided", at+".undecided", "look at its checks, and remove this line once they are right",
			"the %s %s is marked undecided: the guard hides it and refuses its calls", k.word, quoted(name))
	}
	var offered *offer.Action
	for i := range k.offered {
		if k.offered[i].Name == name {
			offered = &k.offered[i]
		}
	}
	c.checks(at, a.Checks)
	for i, r := range a.Results {
		inner := fmt.Sprintf("%s.results[%d]", at, i)
		c.object(inner, r.Type, r.Permission)
		c.canonical(inner, r.Canonical)
	}
	c.ignored(at, name, a.Ignore, offered)
	if k.word == "tool" && len(a.Results) == 0 {
		c.answer(at, name, a, offered)
	}
	switch {
	case c.options.Offer == nil:
	case offered == nil:
		c.report("unknown-tool", at, "remove it, or write its name as the server does", "the server has no %s %s", k.word, quoted(name))
	default:
		c.arguments(at, k.word, a, offered)
	}
}

// checks finds what is wrong with checks.
func (c *checker) checks(at string, checks []mapping.Check) {
	for i, one := range checks {
		inner := fmt.Sprintf("%s.checks[%d]", at, i)
		c.object(inner, one.Type, one.Permission)
		c.canonical(inner, one.Canonical)
		for _, pattern := range celPatterns(one.CEL) {
			if !strings.HasPrefix(pattern, "^") || !strings.HasSuffix(pattern, "$") {
				c.report("open-pattern", inner+".cel", "write ^ at its beginning and $ at its end",
					"matches(%s) holds where any part of the text matches", quoted(pattern))
			}
		}
	}
}

// ignored finds ignored arguments of an action that look like objects.
func (c *checker) ignored(at, action string, names []string, offered *offer.Action) {
	for i, path := range names {
		name := path[strings.LastIndex(path, ".")+1:]
		kind := ""
		if offered != nil {
			for _, one := range offered.Arguments {
				if mapping.Covers(path, one.Path) {
					kind = one.Kind
				}
			}
		}
		if offer.NamesObject(action, strings.TrimRight(name, "[]"), kind) {
			c.report("ignored-object", fmt.Sprintf("%s.ignore[%d]", at, i), "add a check for it",
				"the argument %s is ignored, although its name says that it names an object", quoted(path))
		}
	}
}

// answer finds tools whose answers nobody filters although they name objects.
func (c *checker) answer(at, name string, a mapping.Action, offered *offer.Action) {
	pinned := slices.ContainsFunc(a.Checks, func(one mapping.Check) bool { return one.Object != "" || !one.Optional })
	each := slices.ContainsFunc(a.Checks, func(one mapping.Check) bool {
		return slices.ContainsFunc(one.ID, func(path string) bool { return strings.Contains(path, "[]") })
	})
	const suggestion = "add results, by which the guard filters its answers"
	switch {
	case !pinned:
		c.report("unfiltered-answer", at, suggestion, "no check says which object a call of %s is about, and the guard does not filter its answers", quoted(name))
	case offer.Lists(name):
		c.report("unfiltered-answer", at, suggestion,
			"the name of %s says that it answers with objects that its arguments do not name, and the guard does not filter its answers", quoted(name))
	case offered != nil && offered.Lists && !each:
		c.report("unfiltered-answer", at, suggestion, "the answers of %s hold lists, and the guard does not filter them", quoted(name))
	}
}

// arguments compares a tool or a prompt with the server's.
func (c *checker) arguments(at, word string, a mapping.Action, offered *offer.Action) {
	known := func(path string) bool {
		return slices.ContainsFunc(offered.Arguments, func(one offer.Argument) bool { return mapping.Covers(path, one.Path) || mapping.Covers(one.Path, path) })
	}
	var named []string
	note := func(at string, paths []string) {
		for i, path := range paths {
			named = append(named, path)
			if !known(path) && len(offered.Open) == 0 {
				c.report("unknown-argument", fmt.Sprintf("%s[%d]", at, i), "", "the server's %s %s has no argument %s", word, quoted(offered.Name), quoted(path))
			}
		}
	}
	for i, one := range a.Checks {
		inner := fmt.Sprintf("%s.checks[%d]", at, i)
		note(inner+".id", one.ID)
		note(inner+".reads", one.Reads)
	}
	note(at+".ignore", a.Ignore)
	for _, one := range offered.Arguments {
		if slices.ContainsFunc(named, func(path string) bool { return mapping.Covers(path, one.Path) }) {
			continue
		}
		refused := "the guard refuses each call with it"
		if one.Required {
			refused = "the guard refuses every call, because the server requires it"
		}
		c.report("unmapped-argument", at, "add a check for it, or list it under ignore",
			"the argument %s of %s is neither checked nor ignored: %s", quoted(one.Path), quoted(offered.Name), refused)
	}
}

// missing finds what the server has and the file does not.
func (c *checker) missing(k kind) {
	var names []string
	for _, one := range k.offered {
		if _, found := k.actions[one.Name]; !found {
			names = append(names, quoted(one.Name))
		}
	}
	const most = 20
	if left := len(names) - most; left > 0 {
		names = append(names[:most], fmt.Sprintf("and %d more", left))
	}
	if len(names) > 0 {
		c.report("unmapped-tool", k.group, "deputy mcp map proposes a mapping",
			"the guard hides %s of the server that the file does not name: %s", k.group, strings.Join(names, ", "))
	}
}

// resource finds what is wrong with a pattern of resources.
func (c *checker) resource(at string, r mapping.Resource) {
	if r.Undecided {
		c.report("undecided", at+".undecided", "look at its checks, and remove this line once they are right",
			"the pattern is marked undecided: the guard refuses the resources that it matches")
	}
	c.checks(at, r.Checks)
	c.ignored(at, "", r.Ignore, nil)
	if parsed, err := syntax.Parse(r.Match, syntax.Perl); err == nil && !fixed(parsed) {
		c.report("open-pattern", at+".match", "begin it with the scheme: file:///", "the pattern begins with no fixed text, so that it matches URIs of any kind")
	}
}

// fixed reports whether all texts that an expression matches begin with one of a few texts.
func fixed(of *syntax.Regexp) bool {
	switch of.Op {
	case syntax.OpLiteral:
		return true
	case syntax.OpCharClass:
		few := 0
		for i := 0; i+1 < len(of.Rune); i += 2 {
			few += int(of.Rune[i+1]-of.Rune[i]) + 1
		}
		return few <= 8 // as the parser puts the first letters of alternatives together
	case syntax.OpCapture, syntax.OpPlus:
		return fixed(of.Sub[0])
	case syntax.OpRepeat:
		return of.Min > 0 && fixed(of.Sub[0])
	case syntax.OpAlternate:
		return !slices.ContainsFunc(of.Sub, func(one *syntax.Regexp) bool { return !fixed(one) })
	case syntax.OpConcat:
		for _, one := range of.Sub {
			if one.Op != syntax.OpBeginText && one.Op != syntax.OpBeginLine && one.Op != syntax.OpEmptyMatch {
				return fixed(one)
			}
		}
		return false
	default:
		return false
	}
}

// whole finds what is wrong with the questions about tools or prompts as such.
func (c *checker) whole(at string, of *mapping.Whole) {
	if of != nil {
		c.object(at, of.Type, of.Permission)
	}
}

// object compares a type and a permission with the schema.
func (c *checker) object(at, objectType, permission string) {
	if c.options.Schema == nil {
		return
	}
	members, found := c.options.Schema[objectType]
	switch {
	case !found:
		c.report("unknown-type", at+".type", "", "the schema has no type %s: the guard refuses every call that is about one", objectType)
	case !slices.Contains(members, permission):
		c.report("unknown-permission", at+".permission", "", "the type %s has no permission %s: the guard refuses every call that needs it", objectType, permission)
	}
}

// canonical finds paths whose links nobody follows.
func (c *checker) canonical(at string, of *mapping.Canonical) {
	if of != nil && !of.Shared {
		c.report("canonical-not-shared", at+".canonical", "run the guard where it sees the server's files, with shared: true",
			"the guard follows no links below %s, and the server may follow one to a file that nobody has judged", of.Root)
	}
}

var matches = regexp.MustCompile(`\bmatches\(\s*(?:[^"'()]*,\s*)?r?(?:"((?:[^"\\]|\\.)*)"|'((?:[^'\\]|\\.)*)')`)

// celPatterns are the regular expressions that a CEL expression compares with.
func celPatterns(text string) (patterns []string) {
	for _, m := range matches.FindAllStringSubmatch(text, -1) {
		patterns = append(patterns, m[1]+m[2])
	}
	return patterns
}

// quoted shows a word of the file or of the server's.
func quoted(text string) string { return fmt.Sprintf("%+q", text) }
