package file

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"github.com/deputyauth/deputy/pkg/authz"
)

// Problem is what is wrong with a file of callers. Its message shows no key.
type Problem struct { //nolint:errname // as in pkg/fixture
	// File is the file as it was named, and Line the line, which is 0 where it is about all of the file.
	File string
	Line int
	// Message says what is wrong, and what to do.
	Message string
}

// Error returns the problem as one line: FILE:LINE: message.
func (p *Problem) Error() string {
	if p.Line == 0 {
		return p.File + ": " + p.Message
	}
	return fmt.Sprintf("%s:%d: %s", p.File, p.Line, p.Message)
}

// parse reads the one document of a YAML file, which is a mapping. The nodes are as they are written: no alias was followed, and none is
// there (see reader.plain), so that a file takes no more memory than its length allows.
func parse(name string, text []byte) (*yaml.Node, error) {
	if !utf8.Valid(text) {
		return nil, &Problem{name, 0, "is not UTF-8; save it in that encoding"}
	}
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	document := &yaml.Node{}
	if err := decoder.Decode(document); errors.Is(err, io.EOF) {
		return nil, &Problem{name, 0, "is empty; a file without callers has the line: callers: []"}
	} else if err != nil {
		return nil, syntax(name, err)
	}
	if err := decoder.Decode(&yaml.Node{}); !errors.Is(err, io.EOF) {
		return nil, &Problem{name, 0, `holds more than one YAML document; leave out the line "---" between them`}
	}
	return document, nil
}

// parserLine finds where the parser stopped.
var parserLine = regexp.MustCompile(`^yaml: line (\d+): `)

// indicators are what the parser quotes of YAML itself: "did not find expected ',' or ']'".
var indicators = regexp.MustCompile(`'[-,:?\[\]{}]'`)

// inCollection are the parser's errors about what is missing in a list or a mapping.
var inCollection = regexp.MustCompile(`^did not find expected (key|',' or '[\]}]'|'-' indicator)$`)

// syntax says where a file is no YAML. The parser's own words are left out where they quote the file, which may hold a key by mistake.
func syntax(name string, err error) error {
	p := &Problem{File: name, Message: "is not valid YAML"}
	text := err.Error()
	if at := parserLine.FindStringSubmatch(text); at != nil {
		p.Line, _ = strconv.Atoi(at[1])
		text = text[len(at[0]):]
	}
	text = strings.TrimPrefix(text, "yaml: ")
	if inCollection.MatchString(text) {
		p.Line++ // of these errors, which are about a list or a mapping, the parser counts lines from 0
	}
	if !strings.ContainsAny(indicators.ReplaceAllString(text, ""), "'\"`") {
		p.Message += ": " + text
	}
	return p
}

// reader reads nodes of one file.
type reader struct{ file string }

func (r reader) problem(n *yaml.Node, format string, args ...any) error {
	return &Problem{r.file, n.Line, fmt.Sprintf(format, args...)}
}

// kinds are what nodes are called in messages.
var kinds = map[string]string{
	"!!map": "a mapping", "!!seq": "a list", "!!null": "nothing", "!!bool": "true or false", "!!int": "a number", "!!float": "a number",
	"!!timestamp": "a time", "!!str": "a text",
}

// plain refuses what a callers file does not need of YAML, and a node that is not of one of the tags.
func (r reader) plain(n *yaml.Node, what string, tags ...string) error {
	switch {
	case n.Kind == yaml.AliasNode || n.Anchor != "":
		return r.problem(n, "%s uses an anchor or an alias (& or *); write the value out", what)
	case slices.Contains(tags, n.ShortTag()):
		return nil
	case tags[0] == "!!str" && n.Kind == yaml.ScalarNode && n.ShortTag() != "!!null":
		return r.problem(n, "%s has to be a text, and YAML reads it as %s; put it in quotes", what, describe(n))
	default:
		return r.problem(n, "%s has to be %s, not %s", what, kinds[tags[0]], describe(n))
	}
}

func describe(n *yaml.Node) string {
	if kind, ok := kinds[n.ShortTag()]; ok {
		return kind
	}
	return "a value with a YAML tag"
}

// fields are the values of a mapping by their keys.
type fields map[string]*yaml.Node

// mapping reads a mapping whose keys are all among those that are known, and which has those that are required.
func (r reader) mapping(n *yaml.Node, what string, required []string, known ...string) (fields, error) {
	if err := r.plain(n, what, "!!map"); err != nil {
		return nil, err
	}
	known = slices.Concat(required, known)
	all := fields{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if err := r.plain(key, "a name in "+what, "!!str"); err != nil {
			return nil, err
		}
		if !slices.Contains(known, key.Value) {
			return nil, r.problem(key, "%s has no %s%s", what, quoted(key.Value), hint(key.Value, known))
		}
		if all[key.Value] != nil {
			return nil, r.problem(key, "%s has %s twice; leave one of them out", what, key.Value)
		}
		all[key.Value] = value
	}
	for _, name := range required {
		if all[name] == nil {
			return nil, r.problem(n, "%s has no %s, which is required", what, name)
		}
	}
	return all, nil
}

// hint says what was probably meant, or what there is.
func hint(word string, known []string) string {
	if near := authz.Nearest(word, known); near != "" {
		return fmt.Sprintf("; did you mean %s?", near)
	}
	return "; it can have " + strings.Join(known, ", ")
}

// quoted shows a word of the file in a message, unless it is so long that it may be a key: 32 random bytes are 64 hex digits.
func quoted(word string) string {
	const most = 64
	if len(word) >= most {
		return fmt.Sprintf("text of %d bytes", len(word))
	}
	return strconv.Quote(word)
}

// text reads a text, which is not empty.
func (r reader) text(n *yaml.Node, what string) (string, error) {
	if err := r.plain(n, what, "!!str"); err != nil {
		return "", err
	}
	if n.Value == "" {
		return "", r.problem(n, "%s is empty", what)
	}
	return n.Value, nil
}

// texts reads a list, not empty, of texts that are all different. Where each is not nil it judges each text.
func (r reader) texts(n *yaml.Node, what string, each func(text string) error) ([]string, error) {
	if err := r.plain(n, what, "!!seq"); err != nil {
		return nil, err
	}
	if len(n.Content) == 0 {
		return nil, r.problem(n, "%s is an empty list; name one or more", what)
	}
	seen := map[string]bool{}
	list := make([]string, 0, len(n.Content))
	for _, element := range n.Content {
		text, err := r.text(element, "an element of "+what)
		if err != nil {
			return nil, err
		}
		if seen[text] {
			return nil, r.problem(element, "%s has %s twice", what, quoted(text))
		}
		seen[text] = true
		if each != nil {
			if err := each(text); err != nil {
				return nil, r.problem(element, "%s: %v", what, err)
			}
		}
		list = append(list, text)
	}
	return list, nil
}

// set reads a list of texts, or the word all. The list is nil for the word, and for a node that is not there.
func (r reader) set(n *yaml.Node, what string, each func(text string) error) (list []string, all bool, err error) {
	switch {
	case n == nil:
		return nil, true, nil
	case n.Kind == yaml.ScalarNode && n.ShortTag() == "!!str":
		if err := r.plain(n, what, "!!str"); err != nil {
			return nil, false, err
		}
		if n.Value != everything {
			return nil, false, r.problem(n, "%s has to be a list, or the word %s: write %s: [%s]", what, everything, what, n.Value)
		}
		return nil, true, nil
	}
	if n.Kind == yaml.SequenceNode && len(n.Content) == 0 {
		return nil, false, r.problem(n, "%s is an empty list; name one or more, or write: %s: %s", what, what, everything)
	}
	list, err = r.texts(n, what, func(text string) error {
		if text == everything {
			return fmt.Errorf("the word %s stands alone, not in a list: write %s: %s, or leave it out of the list", everything, what, everything)
		}
		if each == nil {
			return nil
		}
		return each(text)
	})
	return list, false, err
}

// everything stands for all names.
const everything = "all"

// elements reads the elements of a list, which may be empty, and has no more than most.
func (r reader) elements(n *yaml.Node, what string, most int) ([]*yaml.Node, error) {
	if err := r.plain(n, what, "!!seq"); err != nil {
		return nil, err
	}
	if len(n.Content) > most {
		return nil, r.problem(n, "%s has %d elements; it can have %d", what, len(n.Content), most)
	}
	return n.Content, nil
}

// moment reads a time. YAML may take it for a time itself.
func (r reader) moment(n *yaml.Node, what string) (time.Time, error) {
	if n == nil {
		return time.Time{}, nil
	}
	if err := r.plain(n, what, "!!str", "!!timestamp"); err != nil {
		return time.Time{}, err
	}
	at, err := time.Parse(time.RFC3339, n.Value)
	if err != nil || at.IsZero() || strings.ContainsAny(n.Value, ",tz") {
		return time.Time{}, r.problem(n, "%s has to be a time such as 2027-11-28T15:00:00Z (RFC 3339)", what)
	}
	return at, nil
}

// lasts reads a duration.
func (r reader) lasts(n *yaml.Node, what string) (time.Duration, error) {
	if n == nil {
		return 0, nil
	}
	text, err := r.text(n, what)
	if err != nil {
		return 0, err
	}
	d, err := time.ParseDuration(text)
	if err != nil || !plainDuration.MatchString(text) {
		return 0, r.problem(n, "%s has to be a duration such as 30s, 10m or 1h, not %s", what, quoted(text))
	}
	return d, nil
}

var plainDuration = regexp.MustCompile(`^([0-9]+(ms|h|m|s))+$`)

// flag reads true or false.
func (r reader) flag(n *yaml.Node, what string) (bool, error) {
	if n == nil {
		return false, nil
	}
	if err := r.plain(n, what, "!!bool"); err != nil {
		return false, err
	}
	return strings.EqualFold(n.Value, "true"), nil
}

// number reads a whole number, 1 or more, in decimal digits.
func (r reader) number(n *yaml.Node, what string) (int, error) {
	if err := r.plain(n, what, "!!int", "!!float"); err != nil {
		return 0, err
	}
	if !plainNumber.MatchString(n.Value) {
		return 0, r.problem(n, "%s has to be a whole number, 1 or more, such as 2000", what)
	}
	value, err := strconv.Atoi(n.Value)
	if err != nil {
		return 0, r.problem(n, "%s has to be a whole number, 1 or more, such as 2000", what)
	}
	return value, nil
}

var plainNumber = regexp.MustCompile(`^[1-9][0-9]{0,9}$`)

// size reads a number of bytes, with its unit.
func (r reader) size(n *yaml.Node, what string) (int, error) {
	text, err := r.text(n, what)
	if err != nil {
		return 0, err
	}
	bytes, err := ParseSize(text)
	if err != nil {
		return 0, r.problem(n, "%s %v", what, err)
	}
	return bytes, nil
}

// ParseSize reads a number of bytes, such as 64KiB or 1MiB. The error goes on after the words that name it.
func ParseSize(text string) (int, error) {
	parts := plainSize.FindStringSubmatch(text)
	if parts == nil {
		return 0, fmt.Errorf("has to be a size such as 64KiB or 1MiB, not %s", quoted(text))
	}
	value, err := strconv.Atoi(parts[1])
	if err != nil {
		return 0, fmt.Errorf("has to be a size such as 64KiB or 1MiB, not %s", quoted(text))
	}
	if parts[2] == "MiB" {
		return value << 20, nil
	}
	return value << 10, nil
}

var plainSize = regexp.MustCompile(`^([1-9][0-9]{0,5})(KiB|MiB)$`)

// names lists the names of what is there, sorted.
func (f fields) names(among ...string) []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(f)), func(name string) bool { return !slices.Contains(among, name) })
}
