// Package source reads schemas: the files of a composable schema, the definitions that they compile to, the places
// where each definition, relation and permission is written, and the layout of the text.
//
// SpiceDB's parser, compiler, generator and type system do the work. They do not tell which file a
// position belongs to, because imports and partials are gone once a schema is compiled. That is taken from
// the parser's tree.
//
// A Schema is not changed after it was read, so it may be used by several goroutines, as long as none
// of them changes the definitions in it.
package source

import (
	"context"
	"errors"
	"io/fs"
	"path"
	"sync"

	caveattypes "github.com/authzed/spicedb/pkg/caveats/types"
	core "github.com/authzed/spicedb/pkg/proto/core/v1"
	"github.com/authzed/spicedb/pkg/schemadsl/compiler"
	"github.com/authzed/spicedb/pkg/schemadsl/generator"
	"github.com/authzed/spicedb/pkg/schemadsl/input"

	"github.com/deputyauth/deputy/pkg/schema"
	coreschema "github.com/deputyauth/deputy/schema"
)

// Schema is a composable schema: its files, and the definitions that they compile to.
type Schema struct {
	// Root is the path of the root file, as it was given.
	Root string
	// Files are the files that the schema is made of, each once: the root first, then what it imports in
	// the order in which it is read.
	Files []File
	// Objects are the compiled definitions, the core's included where it was added. Their source
	// positions carry no file: see Within.
	Objects []*core.NamespaceDefinition
	// Caveats are the compiled caveats.
	Caveats []*core.CaveatDefinition
	// Ordered are Objects and Caveats together, in the order in which a flat schema has them.
	Ordered []compiler.SchemaDefinition
	// CoreAdded reports whether definitions of Deputy's core were put in front (Options.Core).
	CoreAdded bool

	texts []*text
	index index

	modelled sync.Once
	model    *schema.Schema
	unknown  error // why there is no model
}

// Model returns the schema's model. It is made once, and everybody shares it. Errors: those of schema.Read, which refuses
// what this version of Deputy does not know.
func (s *Schema) Model() (*schema.Schema, error) {
	s.modelled.Do(func() { s.model, s.unknown = schema.Read(s.Objects) })
	return s.model, s.unknown
}

// File is one file of a schema.
type File struct {
	// Path is the path within the file system that the schema was read from.
	Path string
	// Text is the whole text.
	Text string
}

// Options say how a schema is read.
type Options struct {
	// Core puts those definitions of Deputy's core in front of the schema that it lacks. Definitions that the
	// schema shares with the core stay as the schema has them.
	Core bool
	// At is where the first character of the text stands in an enclosing file, such as the block of a
	// YAML file; positions in the root are then reported there. Zero: the text is a file of its own.
	At Position
	// Indent is by how many columns the enclosing file indents the lines after the first.
	Indent int
}

// MaxBytes is how large a schema may be, all its files together.
const MaxBytes = 4 << 20

// Load reads the schema in the file at path. Imports are looked up beside the file that has them, and
// never leave the folder of path. Errors are *Error.
func Load(fsys fs.FS, name string, o Options) (*Schema, error) {
	if !fs.ValidPath(name) {
		return nil, &Error{Position{File: name}, "not a path within the folder"}
	}
	reader := &reader{fsys: fsys}
	data, err := reader.ReadFile(name)
	if err != nil {
		return nil, asError(name, err)
	}
	folder, err := fs.Sub(fsys, path.Dir(name))
	if err != nil {
		return nil, asError(name, err)
	}
	return Parse(name, string(data), folder, o)
}

// Parse reads the schema in a text. name stands for it in positions; imports is the folder that its
// imports are looked up in, nil if it may have none. Errors are *Error.
func Parse(name, content string, imports fs.FS, o Options) (*Schema, error) {
	root := newText(name, content)
	if o.At.Line > 0 {
		root.shift = shift{at: o.At, indent: o.Indent}
	}
	read := &reader{fsys: imports, folder: path.Dir(name)}
	if err := read.admit(root); err != nil {
		return nil, err
	}
	compiled, err := compiler.Compile(
		compiler.InputSchema{Source: rootSource, SchemaString: content},
		compiler.AllowUnprefixedObjectType(),
		compiler.CaveatTypeSet(caveattypes.Default.TypeSet),
		compiler.SourceFS(read),
	)
	if read.failed != nil {
		return nil, read.failed
	}
	if err != nil {
		return nil, read.compileError(err)
	}
	s := &Schema{
		Root: name, texts: read.texts,
		Objects: compiled.ObjectDefinitions, Caveats: compiled.CaveatDefinitions, Ordered: compiled.OrderedDefinitions,
	}
	for _, t := range s.texts {
		s.Files = append(s.Files, File{Path: t.path, Text: t.content})
	}
	if len(s.Ordered) == 0 {
		return nil, &Error{Position{File: root.file()}, "defines nothing"}
	}
	if s.index, err = newIndex(s.texts); err != nil {
		return nil, err
	}
	if o.Core {
		if err := s.addCore(); err != nil {
			return nil, err
		}
	}
	if err := s.validate(context.Background()); err != nil {
		return nil, err
	}
	return s, nil
}

// rootSource is the root's name for the compiler. No import can have it, so the two never mix.
const rootSource = input.Source("")

// embeddedCore is core.zed, compiled once. It is read only.
var embeddedCore = sync.OnceValues(func() (*compiler.CompiledSchema, error) {
	return compiler.Compile(
		compiler.InputSchema{Source: "core.zed", SchemaString: coreschema.Core},
		compiler.AllowUnprefixedObjectType(),
		compiler.CaveatTypeSet(caveattypes.Default.TypeSet),
	)
})

// addCore puts the core's definitions that the schema does not have in front of its own.
func (s *Schema) addCore() error {
	embedded, err := embeddedCore()
	if err != nil {
		return &Error{Position{File: "core.zed"}, err.Error()}
	}
	has := map[string]bool{}
	for _, definition := range s.Ordered {
		has[definition.GetName()] = true
	}
	var (
		ordered []compiler.SchemaDefinition
		objects []*core.NamespaceDefinition
		caveats []*core.CaveatDefinition
	)
	for _, definition := range embedded.OrderedDefinitions {
		if has[definition.GetName()] {
			continue
		}
		ordered = append(ordered, definition)
		switch d := definition.(type) {
		case *core.NamespaceDefinition:
			objects = append(objects, d)
		case *core.CaveatDefinition:
			caveats = append(caveats, d)
		}
	}
	s.CoreAdded = len(ordered) > 0
	s.Ordered = append(ordered, s.Ordered...)
	s.Objects = append(objects, s.Objects...)
	s.Caveats = append(caveats, s.Caveats...)
	return nil
}

// Flat returns the schema as any SpiceDB takes it: one text without imports and partials, the added core
// included. The text is SpiceDB's generator's: it keeps comments and leaves out parentheses where its
// precedence does not need them.
func (s *Schema) Flat() (string, error) {
	flat, complete, err := generator.GenerateSchema(context.Background(), s.Ordered)
	if err == nil && !complete {
		err = errors.New("it cannot be written as flat text")
	}
	if err != nil {
		return "", asError(s.Root, err)
	}
	return flat + "\n", nil
}
