package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/authzed/spicedb/pkg/schemadsl/compiler"
	"github.com/authzed/spicedb/pkg/schemadsl/generator"
	"github.com/authzed/spicedb/pkg/schemadsl/input"

	"github.com/deputyauth/deputy/schema"
)

// flatSchema is a schema without imports and partials, as any SpiceDB takes it.
type flatSchema struct {
	text string
	// How many of each there are in it, the core's included.
	definitions int
	caveats     int
}

// flattenFile reads and flattens a composable schema; "-" is standard input, whose imports are looked
// up in the current folder.
func flattenFile(ctx context.Context, path string, stdin io.Reader) (flatSchema, error) {
	if path == "-" {
		text, err := io.ReadAll(stdin)
		if err != nil {
			return flatSchema{}, fmt.Errorf("reading standard input: %w", err)
		}
		return flatten(ctx, "standard input", string(text), os.DirFS("."))
	}
	text, err := readNamed("FILE", path)
	if err != nil {
		return flatSchema{}, err
	}
	return flatten(ctx, path, string(text), os.DirFS(filepath.Dir(path)))
}

// flatten compiles a composable schema with its imports, puts what it lacks of the core in front, and
// writes the result as text. Definitions that the schema shares with the core stay as they are: it is
// the server that compares them.
//
// The text is SpiceDB's own generator's. It keeps comments, and leaves out parentheses where its
// precedence does not need them; a test compares the meaning of random expressions before and after.
// What the compiler does not check is whether the types that relations name exist: that is done by the
// server, with the whole schema before it.
func flatten(ctx context.Context, name, text string, imports fs.FS) (flatSchema, error) {
	compiled, err := compile(name, text, compiler.SourceFS(imports))
	if err != nil {
		return flatSchema{}, err
	}
	if len(compiled.OrderedDefinitions) == 0 {
		return flatSchema{}, fmt.Errorf("%s defines nothing", name)
	}
	core, err := compile("core.zed", schema.Core)
	if err != nil {
		return flatSchema{}, err
	}
	has := map[string]bool{}
	for _, definition := range compiled.OrderedDefinitions {
		has[definition.GetName()] = true
	}
	var all []compiler.SchemaDefinition
	for _, definition := range core.OrderedDefinitions {
		if !has[definition.GetName()] {
			all = append(all, definition)
		}
	}
	all = append(all, compiled.OrderedDefinitions...)

	flat, complete, err := generator.GenerateSchema(ctx, all)
	if err != nil {
		return flatSchema{}, fmt.Errorf("%s: %w", name, err)
	}
	if !complete {
		return flatSchema{}, fmt.Errorf("%s cannot be written as flat schema text", name)
	}
	result := flatSchema{text: flat + "\n"}
	for _, definition := range all {
		if _, isCaveat := definition.(interface{ GetSerializedExpression() []byte }); isCaveat {
			result.caveats++
		} else {
			result.definitions++
		}
	}
	return result, nil
}

// compile compiles schema text. The error names the file, line and column.
func compile(name, text string, options ...compiler.Option) (*compiler.CompiledSchema, error) {
	compiled, err := compiler.Compile(compiler.InputSchema{Source: input.Source(name), SchemaString: text},
		compiler.AllowUnprefixedObjectType(), options...)
	if at, ok := errors.AsType[compiler.WithContextError](err); ok {
		line, column, positionErr := at.SourceRange.Start().LineAndColumn()
		if positionErr == nil {
			return nil, fmt.Errorf("%s:%d:%d: %s", at.SourceRange.Source(), line+1, column+1, at.BaseMessage)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return compiled, nil
}
