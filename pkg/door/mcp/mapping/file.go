package mapping

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/smallfile"
)

// What a file may hold.
const (
	// MaxBytes is the length of a file.
	MaxBytes = 1 << 20
	// MaxAsks is how many questions one call, one list or one result may come to. It is what the server takes at once.
	MaxAsks = 1000
)

// File is a file of mappings as it is written.
type File struct {
	// Version is 1.
	Version int `yaml:"version"`
	// Server is the server's name, the first part of the ids of its tools and prompts.
	Server string `yaml:"server"`
	// Tool and Prompt are asked of every tool and every prompt, whatever the arguments. The object's id is SERVER/NAME.
	Tool   *Whole `yaml:"tool"`
	Prompt *Whole `yaml:"prompt"`
	// Allow names what passes besides: see Features.
	Allow []string `yaml:"allow"`
	// Tools and Prompts are by their names.
	Tools   map[string]Action `yaml:"tools"`
	Prompts map[string]Action `yaml:"prompts"`
	// Resources are asked in their order, and exactly one has to match a URI.
	Resources []Resource `yaml:"resources"`
	// Templates are the URI templates that are listed, as the server writes them.
	Templates []string `yaml:"templates"`
}

// Whole is a question about a tool or a prompt as such.
type Whole struct {
	// Type is the type of the object that stands for it, and Permission the permission.
	Type       string `yaml:"type"`
	Permission string `yaml:"permission"`
}

// Action is a tool or a prompt.
type Action struct {
	// Checks are what a call takes.
	Checks []Check `yaml:"checks"`
	// Ignore are the arguments that no check is about.
	Ignore []string `yaml:"ignore"`
	// Results are the parts of the answer that are let through, filtered. None: all of it, as it is. Only tools have some.
	Results []Result `yaml:"results"`
	// Undecided hides and refuses it, as though the file did not name it. `deputy mcp map` writes that where it does not know enough.
	Undecided bool `yaml:"undecided"`
}

// Check is one permission on one object, or on as many as a list in the arguments names.
type Check struct {
	// Permission is asked, of an object of the Type.
	Permission string `yaml:"permission"`
	Type       string `yaml:"type"`
	// ID are the arguments that make up the object's id.
	ID Names `yaml:"id"`
	// Object is the id of an object that is always the same. Such a check decides also whether the tool is listed.
	Object string `yaml:"object"`
	// CEL is an expression that makes the ids, a text or a list of texts, of the arguments that Reads names.
	CEL   string   `yaml:"cel"`
	Reads []string `yaml:"reads"`
	// Kind is what the arguments are: text (the default), integer or boolean.
	Kind string `yaml:"kind"`
	// Optional leaves the check out where the arguments are missing or the list is empty.
	Optional bool `yaml:"optional"`
	// Canonical says that the argument is a path.
	Canonical *Canonical `yaml:"canonical"`
}

// Names are one name or a list of names.
type Names []string

// UnmarshalYAML reads a text or a list of texts.
func (n *Names) UnmarshalYAML(node *yaml.Node) error {
	if node.Kind == yaml.ScalarNode {
		*n = Names{node.Value}
		return nil
	}
	return node.Decode((*[]string)(n))
}

// Resource maps the URIs that match.
type Resource struct {
	// Match is a regular expression for the whole URI. Its named groups are the arguments.
	Match  string  `yaml:"match"`
	Checks []Check `yaml:"checks"`
	// Ignore are the groups that no check is about.
	Ignore []string `yaml:"ignore"`
	// Undecided refuses them, as though the file did not have the pattern.
	Undecided bool `yaml:"undecided"`
}

// Result is a part of a tool's answer that is filtered.
type Result struct {
	// In is where: "content" for every text in it, "structuredContent.a.b" for one text, "structuredContent.a[]" for the elements of a list.
	In string `yaml:"in"`
	// Lines is a regular expression for one line of a text, whose group id is the object's id. Lines that do not match are left out.
	Lines string `yaml:"lines"`
	// ID is the member of an element that has the object's id, or "" for the element itself.
	ID string `yaml:"id"`
	// Under is the argument that has the folder in which the names of the answer lie.
	Under      string     `yaml:"under"`
	Permission string     `yaml:"permission"`
	Type       string     `yaml:"type"`
	Canonical  *Canonical `yaml:"canonical"`
}

// Features are what a file can allow besides calls.
func Features() []string {
	return []string{"completion", "elicitation", "logging", "roots", "sampling"}
}

// Problem is what is wrong with a file.
type Problem struct { //nolint:errname // as in pkg/fixture
	// File is the file as it was named, and Line the line, which is 0 where At says where.
	File string
	Line int
	// At is the part of the file: "tools.read_file.checks[0]".
	At string
	// Message says what is wrong, and what to do.
	Message string
	// cause is why the file cannot be read, or nil.
	cause error
}

// Unwrap returns why the file cannot be read, or nil.
func (p *Problem) Unwrap() error { return p.cause }

// Error returns the problem as one line.
func (p *Problem) Error() string {
	at := p.File
	if p.Line > 0 {
		at += ":" + strconv.Itoa(p.Line)
	}
	if p.At != "" {
		at += ": " + p.At
	}
	return at + ": " + p.Message
}

// Open reads a file of mappings. Errors are *Problem.
func Open(path string) (*Map, error) {
	text, err := ReadFile(path, MaxBytes)
	if err != nil {
		return nil, err
	}
	return Decode(path, text)
}

// ReadFile returns the text of a file that has most bytes or fewer. Errors are *Problem.
func ReadFile(path string, most int) ([]byte, error) {
	text, err := smallfile.Read(path, most)
	if err != nil {
		if failed, ok := errors.AsType[*fs.PathError](err); ok {
			err = failed.Err
		}
		return nil, &Problem{File: path, Message: "cannot be read: " + err.Error(), cause: err}
	}
	return text, nil
}

// Decode reads the text of a file of mappings. name is the file's name in errors, which are *Problem.
func Decode(name string, text []byte) (*Map, error) {
	if len(text) > MaxBytes {
		return nil, &Problem{File: name, Message: fmt.Sprintf("is longer than %d bytes", MaxBytes)}
	}
	var f File
	if err := DecodeStrictly(name, text, &f, needs, parts()...); err != nil {
		return nil, err
	}
	return compile(name, f)
}

// needs says what a file of mappings begins with.
const needs = "a file of mappings needs version: 1, server and tools"

// DecodeStrictly reads a text that is one YAML document without unknown names. name is the file's name in errors, which are *Problem. needs
// says what an empty file lacks, and parts are values of the types that the file is made of, whose names an error suggests.
func DecodeStrictly(name string, text []byte, into any, needs string, parts ...any) error {
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	decoder.KnownFields(true)
	if err := decoder.Decode(into); errors.Is(err, io.EOF) {
		return &Problem{File: name, Message: "is empty; " + needs}
	} else if err != nil {
		return unreadable(name, err, needs, parts)
	}
	if err := decoder.Decode(&yaml.Node{}); !errors.Is(err, io.EOF) {
		return &Problem{File: name, Message: `holds more than one YAML document; leave out the line "---" between them`}
	}
	return nil
}

var (
	parserLine   = regexp.MustCompile(`line (\d+): `)
	unknownField = regexp.MustCompile(`^field (\S+) not found in type (\w+\.\w+)$`)
	wrongKind    = regexp.MustCompile("^cannot unmarshal !!(\\w+) (?:`(.*)` )?into (\\S+)$")
	setTwice     = regexp.MustCompile(`^mapping key (".*") already defined at line (\d+)$`)
)

// kinds are the words for what YAML, and a Go type, call a value.
var kinds = map[string]string{
	"str": "a text", "int": "a number", "float": "a number", "bool": "true or false", "null": "nothing", "seq": "a list", "map": "a map", "timestamp": "a time",
	"string": "a text", "int64": "a number", "float64": "a number",
}

// kindOf is the word for the kind of a value in YAML or of a Go type.
func kindOf(name string) string {
	switch word, known := kinds[name]; {
	case known:
		return word
	case strings.HasPrefix(name, "[]"):
		return "a list"
	default:
		return "a map, with a line NAME: VALUE for each of its parts" // a struct, or a map
	}
}

// unreadable says where a file is no file of mappings, in the words of the file.
func unreadable(name string, err error, needs string, parts []any) error {
	p := &Problem{File: name}
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	if wrong, ok := errors.AsType[*yaml.TypeError](err); ok && len(wrong.Errors) > 0 {
		text = wrong.Errors[0]
	}
	if at := parserLine.FindStringSubmatchIndex(text); at != nil {
		p.Line, _ = strconv.Atoi(text[at[2]:at[3]])
		text = text[:at[0]] + text[at[1]:]
	}
	if field := unknownField.FindStringSubmatch(text); field != nil {
		known := knownFields(field[2], parts)
		text = fmt.Sprintf("there is no %s here; there are %s", strconv.Quote(field[1]), strings.Join(known, ", "))
		if near := authz.Nearest(field[1], known); near != "" {
			text = fmt.Sprintf("there is no %s here; did you mean %s?", strconv.Quote(field[1]), near)
		}
	}
	if twice := setTwice.FindStringSubmatch(text); twice != nil {
		text = fmt.Sprintf("there is a second %s here; the first is in line %s", twice[1], twice[2])
	}
	if kind := wrongKind.FindStringSubmatch(text); kind != nil {
		there, wanted := kindOf(kind[1]), kindOf(kind[3])
		if kind[2] != "" {
			there += fmt.Sprintf(" (%.40q)", kind[2])
		}
		text = fmt.Sprintf("here is %s, and there has to be %s", there, wanted)
		if p.Line <= 1 && needs != "" {
			text += "; " + needs
		}
	}
	p.Message = text
	return p
}

// parts are the types that a file of mappings is made of.
func parts() []any {
	return []any{File{}, Whole{}, Action{}, Check{}, Resource{}, Result{}, Canonical{}}
}

// knownFields are the names in a part of the file, of the type that has a name.
func knownFields(part string, among []any) (names []string) {
	for _, one := range among {
		if of := reflect.TypeOf(one); of.String() == part {
			for field := range of.Fields() {
				names = append(names, field.Tag.Get("yaml"))
			}
		}
	}
	return slices.DeleteFunc(names, func(name string) bool { return name == "" || name == "-" })
}
