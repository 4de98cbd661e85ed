package cli

import (
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/deputyauth/deputy/pkg/schema/source"
)

// flatSchema is a schema without imports and partials, as any SpiceDB takes it.
type flatSchema struct {
	text string
	// How many of each there are in it, the core's included.
	definitions int
	caveats     int
}

// flattenFile reads and flattens a composable schema; see readSchemaFile. What it lacks of the core is
// put in front. Definitions that the schema shares with the core stay as they are: it is the server that
// compares them.
func flattenFile(path string, stdin io.Reader) (flatSchema, error) {
	s, err := readSchemaFile(path, stdin)
	if err != nil {
		return flatSchema{}, err
	}
	return flatten(s)
}

// readSchemaFile reads a composable schema with the core; "-" is standard input, whose imports are
// looked up in the current folder. Imports do not leave the folder of the file, not by a link either.
func readSchemaFile(path string, stdin io.Reader) (*source.Schema, error) {
	text, err := readSchemaText(path, stdin)
	if err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(filepath.Dir(path)) // of "-" too, that is "."
	if err != nil {
		return nil, fmt.Errorf("the schema cannot be read: %w", err)
	}
	defer func() { _ = root.Close() }()
	return source.Parse(schemaName(path), text, root.FS(), source.Options{Core: true})
}

// readSchemaText reads a file of a schema, or standard input if path is "-". Of what is larger than a
// schema may be it reads just enough to be refused.
func readSchemaText(path string, stdin io.Reader) (string, error) {
	if extension := filepath.Ext(path); extension == ".yaml" || extension == ".yml" {
		return "", fmt.Errorf("%s is a YAML file, and schemas are .zed files; if it is a fixture, run: deputy test %s", path, path)
	}
	if path != "-" {
		file, err := os.Open(path) //nolint:gosec // reading it is what was asked for
		if err != nil {
			return "", fmt.Errorf("the schema cannot be read: %w", err)
		}
		defer func() { _ = file.Close() }()
		stdin = file
	}
	text, err := io.ReadAll(io.LimitReader(stdin, source.MaxBytes+1))
	if err != nil {
		return "", fmt.Errorf("reading %s: %w", path, err)
	}
	return string(text), nil
}

func flatten(s *source.Schema) (flatSchema, error) {
	text, err := s.Flat()
	if err != nil {
		return flatSchema{}, err
	}
	return flatSchema{text: text, definitions: len(s.Objects), caveats: len(s.Caveats)}, nil
}
