// Package offer reads the lists of an MCP server, and proposes a file of mappings for it.
//
// The lists are text of others'. They are read for the names and kinds of arguments, and come to no more than a proposal: a tool about which
// the names leave anything open stays hidden until somebody decides it.
package offer

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"

	"github.com/deputyauth/deputy/pkg/door/mcp/jsonrpc"
	"github.com/deputyauth/deputy/pkg/door/mcp/mapping"
)

// What is read of a server's lists.
const (
	// MaxBytes is the length of a file with lists.
	MaxBytes = 4 << 20
	// maxListed is how many tools, prompts, resources or templates there may be.
	maxListed = mapping.MaxAsks
	// maxArguments is how many arguments of one tool are read, and maxDepth how deep they may lie in each other.
	maxArguments = 200
	maxDepth     = 8
	// maxName is the length of a name.
	maxName = 256
)

// Offer is what a server has.
type Offer struct {
	// Server is the name that the server gives itself, or "".
	Server string
	// Tools and Prompts are in the server's order.
	Tools, Prompts []Action
	// Resources are URIs, and Templates are URI templates.
	Resources, Templates []string
}

// Action is a tool or a prompt.
type Action struct {
	Name, Description string
	Arguments         []Argument
	// Open are the reasons for which the arguments cannot be told from the schema, in words.
	Open []string
	// Lists says that its answers hold a list of objects, after its own schema of them, and Listed are the lists there whose elements name objects.
	Lists  bool
	Listed []Listed
	// Writes says that the server does not call it read-only. A server that says it is read-only is not believed.
	Writes bool
}

// Listed is a list in the answers of a tool, as its own schema has them. Its elements name objects.
type Listed struct {
	// In is the list as a file of mappings writes it, such as "structuredContent.tickets[]", and Name its own name, the last of the path.
	In, Name string
	// IDs are the members of an element that may be its id. An element that is an id itself has one, without a path.
	IDs []Argument
}

// Argument is one value that a call may have.
type Argument struct {
	// Path is the argument as a file of mappings writes it: "name", "name.member", "name[]" for each element of a list.
	Path string
	// Name is its own name, the last of the path.
	Name string
	// Kind is "string", "integer", "number", "boolean", "object" or "array", or "" where the schema does not say.
	Kind string
	// Required says that a call has to have it, and Enum that the schema lists its values.
	Required, Enum bool
}

// Parse reads the text of a file with a server's lists: the result of tools/list, or an answer with such a result, or an object that has prompts,
// resources, resourceTemplates and serverInfo too, as the results of those methods have them.
func Parse(text []byte) (*Offer, error) {
	rules := jsonrpc.FromServer()
	rules.Bytes = MaxBytes
	v, err := jsonrpc.ParseValue(text, rules)
	if err != nil {
		return nil, fmt.Errorf("this is no list of tools: %w", err)
	}
	if result, found := v.Get("result"); found {
		v = result
	}
	if v.At("tools").Kind() != jsonrpc.Array {
		return nil, errors.New(`this is no list of tools: it has no list "tools"; save the result of the method tools/list in it`)
	}
	return Of(v)
}

// Of reads lists that are members of an object: tools, prompts, resources, resourceTemplates. One that is not there is empty.
func Of(v jsonrpc.Value) (*Offer, error) {
	o := &Offer{}
	o.Server, _ = v.At("serverInfo", "name").Text()
	var err error
	if o.Tools, err = actions(v, "tools", "tool", toolOf); err != nil {
		return nil, err
	}
	if o.Prompts, err = actions(v, "prompts", "prompt", promptOf); err != nil {
		return nil, err
	}
	if o.Resources, err = texts(v, "resources", "uri"); err != nil {
		return nil, err
	}
	if o.Templates, err = texts(v, "resourceTemplates", "uriTemplate"); err != nil {
		return nil, err
	}
	return o, nil
}

// actions reads the list of tools or of prompts.
func actions(v jsonrpc.Value, list, kind string, read func(jsonrpc.Value, *Action) error) ([]Action, error) {
	elements := v.At(list).Elements()
	if len(elements) > maxListed {
		return nil, fmt.Errorf("it has %d %s, more than %d", len(elements), list, maxListed)
	}
	all := make([]Action, 0, len(elements))
	seen := map[string]bool{}
	for i, one := range elements {
		name, ok := one.At("name").Text()
		switch {
		case !ok || name == "":
			return nil, fmt.Errorf("%s[%d] has no name", list, i)
		case seen[name]:
			return nil, fmt.Errorf("it has two %s with the name %s", list, quote(name))
		}
		if err := plain(name); err != nil {
			return nil, fmt.Errorf("the name of %s[%d] %w", list, i, err)
		}
		seen[name] = true
		a := Action{Name: name, Writes: kind == "tool"}
		a.Description, _ = one.At("description").Text()
		if strings.ContainsFunc(a.Description, func(r rune) bool { return unicode.IsControl(r) && !strings.ContainsRune("\n\r\t", r) }) {
			return nil, fmt.Errorf("the description of the %s %s holds a control character", kind, quote(name))
		}
		if err := read(one, &a); err != nil {
			return nil, fmt.Errorf("the %s %s %w", kind, quote(name), err)
		}
		all = append(all, a)
	}
	return all, nil
}

func toolOf(one jsonrpc.Value, a *Action) error {
	readOnly, said := one.At("annotations", "readOnlyHint").Truth()
	a.Writes = said && !readOnly
	a.Lists = hasList(one.At("outputSchema"), 0)
	a.listed(one.At("outputSchema"), "structuredContent.", 0)
	schema := one.At("inputSchema")
	if schema.Kind() != jsonrpc.Object {
		a.open("it has no schema of its arguments")
		return nil
	}
	return a.read(schema, "", true, 0)
}

func promptOf(one jsonrpc.Value, a *Action) error {
	for _, argument := range one.At("arguments").Elements() {
		name, _ := argument.At("name").Text()
		required, _ := argument.At("required").Truth()
		if err := a.add(Argument{Path: name, Name: name, Kind: "string", Required: required}); err != nil {
			return err
		}
	}
	return nil
}

// open notes why the arguments cannot be told.
func (a *Action) open(why string) {
	if !slices.Contains(a.Open, why) {
		a.Open = append(a.Open, why)
	}
}

// add adds an argument, unless a file of mappings cannot name it.
func (a *Action) add(one Argument) error {
	if err := plain(one.Name); err != nil {
		return fmt.Errorf("has an argument whose name %w", err)
	}
	switch {
	case !mapping.Writable(one.Name):
		a.open("its argument " + quote(one.Name) + " has a name that this file cannot write, so that a call with it is refused")
	case len(a.Arguments) >= maxArguments:
		a.open(fmt.Sprintf("it has more than %d arguments, and a call with one that is not here is refused", maxArguments))
	case slices.ContainsFunc(a.Arguments, func(other Argument) bool { return other.Path == one.Path }):
		a.open("it has the argument " + quote(one.Name) + " twice")
	default:
		a.Arguments = append(a.Arguments, one)
	}
	return nil
}

// keywords are those of JSON Schema that can bring in arguments besides properties.
var keywords = []string{"$ref", "$dynamicRef", "allOf", "anyOf", "dependentSchemas", "else", "if", "oneOf", "patternProperties", "then"}

// read reads the arguments in the schema of an object. prefix is the path of the object.
func (a *Action) read(schema jsonrpc.Value, prefix string, required bool, depth int) error {
	for _, word := range keywords {
		if _, found := schema.Get(word); found {
			a.open("its schema has " + word + ", which is not read, so that it may have other arguments")
		}
	}
	needs := map[string]bool{}
	for _, one := range schema.At("required").Elements() {
		name, _ := one.Text()
		needs[name] = true
	}
	for _, property := range schema.At("properties").Members() {
		one := Argument{Path: prefix + property.Name, Name: property.Name, Required: required && needs[property.Name]}
		if err := a.value(property.Value, one, depth); err != nil {
			return err
		}
	}
	return nil
}

// value reads one argument, or those in it.
func (a *Action) value(schema jsonrpc.Value, one Argument, depth int) error {
	one.Kind = kindOf(schema)
	_, one.Enum = schema.Get("enum")
	if !mapping.Writable(one.Name) {
		return a.add(one)
	}
	switch one.Kind {
	case "object":
		if len(schema.At("properties").Members()) > 0 && depth < maxDepth {
			return a.read(schema, one.Path+".", one.Required, depth+1)
		}
	case "array":
		items := schema.At("items")
		switch of := kindOf(items); of {
		case "string", "integer", "number", "boolean":
			one.Path, one.Kind = one.Path+"[]", of
			_, one.Enum = items.Get("enum")
		case "object":
			if len(items.At("properties").Members()) > 0 && depth < maxDepth {
				return a.read(items, one.Path+"[].", one.Required, depth+1)
			}
		}
	}
	return a.add(one)
}

// kindOf is the one type of a schema that is not null, or "".
func kindOf(schema jsonrpc.Value) string {
	if slices.ContainsFunc(keywords, func(word string) bool { _, found := schema.Get(word); return found }) {
		return ""
	}
	kinds := []jsonrpc.Value{schema.At("type")}
	if kinds[0].Kind() == jsonrpc.Array {
		kinds = kinds[0].Elements()
	}
	found := ""
	for _, one := range kinds {
		text, ok := one.Text()
		switch {
		case !ok || found != "" && text != "null":
			return ""
		case text != "null":
			found = text
		}
	}
	if !slices.Contains([]string{"string", "integer", "number", "boolean", "object", "array"}, found) {
		return ""
	}
	return found
}

// hasList reports whether a schema has a list of objects in it, or one whose name says that it names some, beside MCP's own list of content.
func hasList(schema jsonrpc.Value, depth int) bool {
	return depth < maxDepth && slices.ContainsFunc(schema.At("properties").Members(), func(m jsonrpc.Member) bool {
		if kindOf(m.Value) != "array" {
			return hasList(m.Value, depth+1)
		}
		if depth == 0 && m.Name == "content" {
			return false
		}
		switch kind := kindOf(m.Value.At("items")); kind {
		case "string", "integer", "number", "boolean":
			return NamesObject(m.Name, kind)
		default:
			return true
		}
	})
}

// maxListedLists is how many lists are read in the answers of one tool.
const maxListedLists = 20

// listed finds the lists in the schema of an object, but for those in the elements of others. prefix is the path of the object.
func (a *Action) listed(schema jsonrpc.Value, prefix string, depth int) {
	for _, property := range schema.At("properties").Members() {
		if depth >= maxDepth || len(a.Listed) >= maxListedLists || plain(property.Name) != nil || !mapping.Writable(property.Name) {
			continue
		}
		switch kindOf(property.Value) {
		case "object":
			a.listed(property.Value, prefix+property.Name+".", depth+1)
		case "array":
			one := Listed{In: prefix + property.Name + "[]", Name: property.Name}
			items := property.Value.At("items")
			switch kind := kindOf(items); kind {
			case "string", "integer":
				one.IDs = []Argument{{Name: property.Name, Kind: kind}}
			case "object":
				for _, member := range items.At("properties").Members() {
					kind := kindOf(member.Value)
					if (kind == "string" || kind == "integer") && plain(member.Name) == nil && mapping.Writable(member.Name) {
						one.IDs = append(one.IDs, Argument{Path: member.Name, Name: member.Name, Kind: kind})
					}
				}
			}
			if len(one.IDs) > 0 {
				a.Listed = append(a.Listed, one)
			}
		}
	}
}

// texts reads one text of each element of a list.
func texts(v jsonrpc.Value, list, name string) ([]string, error) {
	elements := v.At(list).Elements()
	if len(elements) > maxListed {
		return nil, fmt.Errorf("it has %d %s, more than %d", len(elements), list, maxListed)
	}
	all := make([]string, 0, len(elements))
	for i, one := range elements {
		text, ok := one.At(name).Text()
		if !ok || text == "" {
			return nil, fmt.Errorf("%s[%d] has no %s", list, i, name)
		}
		if strings.ContainsFunc(text, unicode.IsControl) {
			return nil, fmt.Errorf("the %s of %s[%d] holds a control character", name, list, i)
		}
		all = append(all, text)
	}
	return all, nil
}

// plain returns an error for a name that no file should hold.
func plain(name string) error {
	switch {
	case strings.ContainsFunc(name, unicode.IsControl):
		return errors.New("holds a control character")
	case len(name) > maxName:
		return fmt.Errorf("is %d bytes long, more than %d", len(name), maxName)
	}
	return nil
}
