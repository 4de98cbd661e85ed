package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/deputyauth/deputy/pkg/authz"
)

// byteOrderMark is what some editors put at the beginning of a text. It is no part of the text.
var byteOrderMark = []byte("\ufeff")

// fillFromFile sets every flag that neither the command line nor the environment set and the file
// names. The file is YAML, TOML or JSON by its ending; its keys are the flags' names. A key that is
// not known is an error, so that a misspelt restriction is not ignored; one that is known but has no
// flag in the set belongs to another subcommand.
func fillFromFile(flags *pflag.FlagSet, path string, known []string) error {
	settings, err := readSettings(path)
	if err != nil {
		return fmt.Errorf("config %s: %w", path, err)
	}
	said := saidSoFar(flags)
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		if !slices.Contains(known, name) {
			hint := "settings have the names of the flags of deputy serve"
			if flags.Lookup(name) != nil {
				hint = "--" + name + " is for the command line only"
			} else if meant := authz.Nearest(name, known); meant != "" {
				hint = fmt.Sprintf("did you mean %q?", meant)
			}
			return fmt.Errorf("config %s: unknown setting %q; %s", path, name, hint)
		}
		f := flags.Lookup(name)
		if f == nil || said(name) {
			continue
		}
		values, err := texts(settings[name], slices.Contains(typed, f.Value.Type()))
		if err == nil {
			err = set(flags, f, values)
		}
		if err != nil {
			return fmt.Errorf("config %s: %s %w", path, name, err)
		}
		if f.Annotations == nil {
			f.Annotations = map[string][]string{}
		}
		f.Annotations[originAnnotation] = []string{name + " in " + path}
	}
	return nil
}

// readSettings reads a configuration file. A value of YAML is the text that is written there, because a parser's own
// reading of 0123 would be a key that nobody wrote. TOML and JSON tell texts from numbers by quotes. An error has nothing
// of the file in it but the line, because parsers quote what they cannot read, and that may be a key.
func readSettings(path string) (map[string]any, error) {
	text, err := os.ReadFile(path) //nolint:gosec // reading it is what was asked for
	if missing, ok := errors.AsType[*fs.PathError](err); ok {
		return nil, missing.Err
	} else if err != nil {
		return nil, err
	}
	text = bytes.TrimPrefix(text, byteOrderMark)
	var settings map[string]any
	format := strings.TrimPrefix(filepath.Ext(path), ".")
	switch format {
	case "yaml", "yml":
		settings, err = readYAML(text)
	case "toml":
		err = toml.Unmarshal(text, &settings)
	case "json":
		object := &structpb.Struct{}
		err = protojson.Unmarshal(text, object) // it refuses a name that stands there twice
		settings = object.AsMap()
	default:
		return nil, errors.New("has to end in .yaml, .toml or .json")
	}
	line := ""
	if broken, ok := errors.AsType[*toml.DecodeError](err); ok {
		row, _ := broken.Position()
		line = fmt.Sprintf("line %d", row)
	} else if err != nil {
		line = lineNumber.FindString(err.Error())
		if twice := definedTwice.FindStringSubmatch(err.Error()); twice != nil {
			line = fmt.Sprintf("the setting on %s is on %s too", twice[1], twice[2])
		}
	}
	switch {
	case err == nil:
		return settings, nil
	case line != "":
		return nil, fmt.Errorf("is not valid %s (%s)", format, line)
	default:
		return nil, fmt.Errorf("is not valid %s", format)
	}
}

// lineNumber finds where a parser stopped.
var lineNumber = regexp.MustCompile(`line \d+`)

// definedTwice finds both lines of a setting that a YAML file has twice.
var definedTwice = regexp.MustCompile(`(line \d+): mapping key .* already defined at (line \d+)`)

// readYAML reads a YAML file with one map.
func readYAML(text []byte) (map[string]any, error) {
	var all map[string]written
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	if err := decoder.Decode(&all); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if err := decoder.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, errors.New("there is more than one document")
	}
	settings := map[string]any{}
	for name, w := range all {
		settings[name] = w.value
	}
	return settings, nil
}

// written is a value in a YAML file: a text as it is written, a list, a map, or nil.
type written struct{ value any }

// UnmarshalYAML is yaml.Unmarshaler's. It is not called for null.
func (w *written) UnmarshalYAML(node *yaml.Node) error {
	switch node.Kind {
	case yaml.ScalarNode:
		if tag := node.ShortTag(); !slices.Contains([]string{"!!str", "!!int", "!!float", "!!bool", "!!timestamp"}, tag) {
			return fmt.Errorf("line %d: a value is tagged %s", node.Line, tag)
		}
		w.value = node.Value
	case yaml.SequenceNode:
		var elements []*written // of elements without a pointer yaml leaves out those that are null
		if err := node.Decode(&elements); err != nil {
			return err
		}
		list := []any{}
		for _, element := range elements {
			if element == nil {
				element = &written{}
			}
			list = append(list, element.value)
		}
		w.value = list
	default:
		w.value = map[string]any{}
	}
	return nil
}

// typed are the types of the flags that TOML and JSON may give a value without quotes.
var typed = []string{"bool", "int", "int64", "float64", "duration"}

// texts turns a value from a configuration file into what the command line would have carried: one
// text, or one for each element of a list. A value that is no text is taken only where it cannot be mistaken for one.
func texts(value any, unquoted bool) ([]string, error) {
	switch v := value.(type) {
	case nil:
		return nil, errors.New("has no value")
	case string:
		return []string{v}, nil
	case []any:
		var all []string
		for _, element := range v {
			one, err := texts(element, unquoted)
			if err != nil {
				return nil, err
			}
			all = append(all, one...)
		}
		return all, nil
	case map[string]any:
		return nil, errors.New("wants a value or a list, not a map")
	}
	if !unquoted {
		return nil, errors.New("wants a text: put it in quotes")
	}
	if number, ok := value.(float64); ok {
		return []string{strconv.FormatFloat(number, 'f', -1, 64)}, nil
	}
	return []string{fmt.Sprint(value)}, nil
}
