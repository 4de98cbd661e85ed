// Package cases runs the cases of a file of mappings, without a server and without Deputy: the questions of calls, their refusals, and filtered
// answers. It counts the parts of the mapping that no case uses.
package cases

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/deputyauth/deputy/pkg/door/mcp/jsonrpc"
	"github.com/deputyauth/deputy/pkg/door/mcp/mapping"
)

// MaxBytes is the length of a file of cases.
const MaxBytes = 4 << 20

// File is a file of cases.
type File struct {
	// Name is the file as it was named.
	Name string `yaml:"-"`
	// Version is 1.
	Version int `yaml:"version"`
	// Fixture is a file of fixtures, beside this one, in which cases are decided; mostly empty.
	Fixture string `yaml:"fixture"`
	// Cases are in the order of the file.
	Cases []Case `yaml:"cases"`
}

// Case is one call and its expected outcome.
type Case struct {
	line, column int

	// About says in words what the case is about.
	About string `yaml:"about"`
	// Tool, Prompt and Resource name what is called. One of them is set; Resource is a URI.
	Tool     string `yaml:"tool"`
	Prompt   string `yaml:"prompt"`
	Resource string `yaml:"resource"`
	// Arguments are those of a tool or a prompt.
	Arguments Value `yaml:"arguments"`
	// Asks are all questions of the call, in any order: "type:id#permission".
	Asks []string `yaml:"asks"`
	// Refused is a part of the message with which the call is refused before anything is asked.
	Refused string `yaml:"refused"`
	// Sends are the arguments that the server gets, where they matter.
	Sends Value `yaml:"sends"`
	// Answer is an answer of the server, Allowed are the questions about it that Deputy allows, and Keeps is the answer that is left, or the text
	// of its content.
	Answer  Value    `yaml:"answer"`
	Allowed []string `yaml:"allowed"`
	Keeps   Value    `yaml:"keeps"`
	// Decide are outcomes of the call for somebody, in the graph of the fixture.
	Decide []Decision `yaml:"decide"`
}

// Decision is the outcome of a call for somebody.
type Decision struct {
	// Agent acts, in the Session or under the Delegation of that name, for OnBehalfOf in the Tenant.
	Agent      string `yaml:"agent"`
	Session    string `yaml:"session"`
	Delegation string `yaml:"delegation"`
	OnBehalfOf string `yaml:"on_behalf_of"`
	Tenant     string `yaml:"tenant"`
	// Expect is "allowed" or "refused".
	Expect string `yaml:"expect"`
}

// Value is a JSON value that is written in YAML. The zero Value is not set.
type Value struct {
	// JSON is the value.
	JSON jsonrpc.Value
	// Set says that the file has it.
	Set bool
}

// UnmarshalYAML reads any value that JSON has.
func (v *Value) UnmarshalYAML(node *yaml.Node) error {
	var read any
	if err := node.Decode(&read); err != nil {
		return err
	}
	text, err := json.Marshal(read)
	if err != nil {
		return fmt.Errorf("line %d: is nothing that JSON can say: the names in an object have to be texts", node.Line)
	}
	if v.JSON, err = jsonrpc.ParseValue(text, jsonrpc.FromServer()); err != nil {
		return fmt.Errorf("line %d: %w", node.Line, err)
	}
	v.Set = true
	return nil
}

// Read reads the text of a file of cases. name is the file's name in errors, which are *mapping.Problem.
func Read(name string, text []byte) (*File, error) {
	f := &File{Name: name}
	if err := mapping.DecodeStrictly(name, text, f, "a file of cases needs version: 1 and cases", File{}, Case{}, Decision{}); err != nil {
		return nil, err
	}
	f.place(text)
	refuse := func(line int, message string, args ...any) (*File, error) {
		return nil, &mapping.Problem{File: name, Line: line, Message: fmt.Sprintf(message, args...)}
	}
	switch {
	case f.Version != 1:
		return refuse(0, "version has to be 1, the version of the format")
	case len(f.Cases) == 0:
		return refuse(0, "has no cases; add one")
	}
	for i := range f.Cases {
		c := &f.Cases[i]
		if err := c.check(f.Fixture != ""); err != nil {
			return refuse(c.line, "%v", err)
		}
	}
	return f, nil
}

// place notes where the cases stand.
func (f *File) place(text []byte) {
	var root struct {
		Cases []yaml.Node `yaml:"cases"`
	}
	if err := yaml.Unmarshal(text, &root); err != nil || len(root.Cases) != len(f.Cases) {
		return // it was read before
	}
	for i := range f.Cases {
		f.Cases[i].line, f.Cases[i].column = root.Cases[i].Line, root.Cases[i].Column
	}
}

// check judges what a case says, whatever the mapping.
func (c *Case) check(fixture bool) error {
	named := 0
	for _, name := range []string{c.Tool, c.Prompt, c.Resource} {
		if name != "" {
			named++
		}
	}
	switch {
	case named != 1:
		return errors.New("a case needs exactly one of tool, prompt and resource")
	case (c.Asks == nil) == (c.Refused == ""):
		return errors.New("a case needs either asks, the questions of the call, or refused, a part of the message")
	case c.Resource != "" && c.Arguments.Set:
		return errors.New("a resource has no arguments")
	case c.Refused != "" && (c.Sends.Set || c.Answer.Set || c.Decide != nil):
		return errors.New("a call that is refused sends nothing, has no answer, and is not decided")
	case c.Answer.Set != c.Keeps.Set:
		return errors.New("answer and keeps go together: what the server answers, and what is left of it")
	case c.Answer.Set && c.Tool == "":
		return errors.New("only answers of tools are filtered")
	case c.Allowed != nil && !c.Answer.Set:
		return errors.New("allowed is about the questions of an answer; add answer")
	case c.Decide != nil && !fixture:
		return errors.New("decide needs a fixture: name one in the file, beside version")
	}
	for _, text := range slices.Concat(c.Asks, c.Allowed) {
		if _, err := parseAsk(text); err != nil {
			return err
		}
	}
	for _, d := range c.Decide {
		if d.Expect != Allowed && d.Expect != Refused {
			return fmt.Errorf("expect is %q; it can be allowed or refused", d.Expect)
		}
	}
	return nil
}

// What a decision comes to.
const (
	Allowed = "allowed"
	Refused = "refused"
)

// parseAsk reads "type:id#permission".
func parseAsk(text string) (mapping.Ask, error) {
	objectType, rest, one := strings.Cut(text, ":")
	at := strings.LastIndex(rest, "#")
	if !one || at < 1 || objectType == "" || at == len(rest)-1 {
		return mapping.Ask{}, fmt.Errorf("%q is no question; write it as type:id#permission", text)
	}
	return mapping.Ask{Type: objectType, ID: rest[:at], Permission: rest[at+1:]}, nil
}

// written is an Ask as files write it.
func written(a mapping.Ask) string { return a.Type + ":" + a.ID + "#" + a.Permission }

// Decide decides one question for somebody: whether it is allowed, and the answer in words.
type Decide func(ctx context.Context, d Decision, a mapping.Ask) (allowed bool, answer string, err error)

// Result is what a case came to.
type Result struct {
	// Line and Column are where the case stands, and Name is what it is about.
	Line, Column int
	Name         string
	// Problems are the differences from the case; none: it passes.
	Problems []string
}

// Part is a part of the mapping, and whether a case uses it.
type Part struct {
	// At is the part, such as "tools.read_file.checks[0]", and Line and Column where it stands.
	At           string
	Line, Column int
	// Kind is "tools", "prompts", "resources", "checks", "ignore" or "results".
	Kind string
	Used bool
}

// Report is what the cases came to.
type Report struct {
	Results []Result
	Parts   []Part
}

// Failed counts the cases that do not pass.
func (r *Report) Failed() (n int) {
	for _, one := range r.Results {
		if len(one.Problems) > 0 {
			n++
		}
	}
	return n
}

// Used counts the parts of a kind that a case uses, and all of them; of every kind if kind is "".
func (r *Report) Used(kind string) (used, all int) {
	for _, p := range r.Parts {
		if kind == "" || p.Kind == kind {
			all++
			if p.Used {
				used++
			}
		}
	}
	return used, all
}

// Run runs the cases of a file against a mapping. decide is called where cases are decided, and may be nil where none is.
func Run(ctx context.Context, source *mapping.Source, f *File, decide Decide) (*Report, error) {
	r := &Report{}
	used := map[string]bool{}
	for i := range f.Cases {
		c := &f.Cases[i]
		run := &run{m: source.Map, file: f.Name, c: c, used: used}
		if err := run.call(ctx, decide); err != nil {
			return nil, err
		}
		r.Results = append(r.Results, Result{c.line, c.column, c.name(), run.problems})
	}
	for _, at := range source.Map.Parts() {
		line, column := source.Place(at)
		r.Parts = append(r.Parts, Part{at, line, column, kindOf(at), used[at]})
	}
	slices.SortStableFunc(r.Parts, func(a, b Part) int { return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column)) })
	return r, nil
}

// kindOf is the kind of a part.
func kindOf(at string) string {
	if name, _, found := strings.Cut(at[strings.LastIndexByte(at, '.')+1:], "["); found && at[len(at)-1] == ']' {
		return name
	}
	kind, _, _ := strings.Cut(at, ".")
	return kind
}

// name is what a case is called.
func (c *Case) name() string {
	if c.About != "" {
		return c.About
	}
	called := c.Tool + c.Prompt + c.Resource
	if c.Arguments.Set {
		called += " " + c.Arguments.JSON.String()
	}
	return called
}

// run is one case that is run.
type run struct {
	m        *mapping.Map
	file     string
	c        *Case
	used     map[string]bool
	problems []string
}

func (r *run) problemf(format string, args ...any) {
	r.problems = append(r.problems, fmt.Sprintf(format, args...))
}

// call makes the call. Errors are those of decide.
func (r *run) call(ctx context.Context, decide Decide) error {
	c := r.c
	var call *mapping.Call
	var err error
	switch {
	case c.Tool != "":
		call, err = r.m.CallTool(c.Tool, c.Arguments.JSON)
	case c.Prompt != "":
		call, err = r.m.GetPrompt(c.Prompt, c.Arguments.JSON)
	default:
		call, err = r.m.CallResource(c.Resource)
	}
	if err != nil {
		message := err.Error()
		if refusal, ok := errors.AsType[*mapping.Refusal](err); ok && refusal.Detail != "" {
			message += " (" + refusal.Detail + ")"
		}
		if c.Refused == "" {
			r.problemf("it is refused: %s", message)
		} else if !strings.Contains(message, c.Refused) {
			r.problemf("it is refused with another message: %s", message)
		}
		return nil
	}
	for _, at := range call.Used() {
		r.used[at] = true
	}
	if c.Refused != "" {
		r.problemf("it is not refused, and asks %s", strings.Join(texts(call.Asks), ", "))
		return nil
	}
	r.compare("asks", texts(call.Asks), normal(c.Asks))
	if c.Sends.Set && canonical(call.Arguments) != canonical(c.Sends.JSON) {
		r.problemf("it sends %s", call.Arguments)
	}
	if c.Answer.Set {
		r.answer(call)
	}
	return r.decide(ctx, call, decide)
}

// compare notes the questions that are missing, and those that come besides.
func (r *run) compare(word string, got, want []string) {
	for _, one := range want {
		if !slices.Contains(got, one) {
			r.problemf("it does not %s %s", strings.TrimSuffix(word, "s"), one)
		}
	}
	for _, one := range got {
		if !slices.Contains(want, one) {
			r.problemf("it %s %s too", word, one)
		}
	}
}

// answer filters the answer.
func (r *run) answer(call *mapping.Call) {
	c := r.c
	kept := c.Answer.JSON
	if r.m.Filters(c.Tool) {
		output, err := r.m.FilterResult(c.Tool, call.Arguments, c.Answer.JSON)
		if err != nil {
			r.problemf("the answer is refused: %v", err)
			return
		}
		for _, at := range output.Used {
			r.used[at] = true
		}
		allowed := map[mapping.Ask]bool{}
		for _, text := range c.Allowed {
			a, _ := parseAsk(text) // it was read before
			if !slices.Contains(output.Asks, a) {
				r.problemf("the answer does not ask %s, which is allowed; it asks %s", text, strings.Join(texts(output.Asks), ", "))
			}
			allowed[a] = true
		}
		kept = output.Keep(allowed)
	} else if c.Allowed != nil {
		r.problemf("the answers of %q are not filtered: it has no results", c.Tool)
	}
	if text, ok := c.Keeps.JSON.Text(); ok {
		if got := content(kept); got != strings.TrimRight(text, "\n") {
			r.problemf("what is left of the answer is the text %q", got)
		}
		return
	}
	if canonical(kept) != canonical(c.Keeps.JSON) {
		r.problemf("what is left of the answer is %s", kept)
	}
}

// content is the text in the content of an answer.
func content(answer jsonrpc.Value) string {
	var all []string
	for _, block := range answer.At("content").Elements() {
		text, _ := block.At("text").Text()
		all = append(all, text)
	}
	return strings.TrimRight(strings.Join(all, "\n"), "\n")
}

// decide decides the call for the actors that the case names.
func (r *run) decide(ctx context.Context, call *mapping.Call, decide Decide) error {
	for _, d := range r.c.Decide {
		got, why := Allowed, ""
		for _, a := range call.Asks {
			allowed, answer, err := decide(ctx, d, a)
			if err != nil {
				return &mapping.Problem{File: r.file, Line: r.c.line, Message: err.Error()}
			}
			if !allowed {
				got, why = Refused, ": "+written(a)+" comes to "+answer
				break
			}
		}
		if got != d.Expect {
			r.problemf("for %s %s it is %s%s", d.Agent, strings.TrimSpace(d.Session+d.Delegation+" "+d.OnBehalfOf), got, why)
		}
	}
	return nil
}

// texts are questions as files write them.
func texts(asks []mapping.Ask) []string {
	all := make([]string, len(asks))
	for i, a := range asks {
		all[i] = written(a)
	}
	return all
}

// normal are the questions of a case, each once.
func normal(asks []string) []string {
	all := slices.Clone(asks)
	slices.Sort(all)
	return slices.Compact(all)
}

// canonical is a value with its names in order.
func canonical(v jsonrpc.Value) string {
	text, err := json.Marshal(v.Any()) // sorts them
	if err != nil {
		return v.String()
	}
	return string(text)
}
