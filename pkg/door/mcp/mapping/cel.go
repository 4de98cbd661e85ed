package mapping

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/common/types/traits"
	"github.com/google/cel-go/ext"
)

// What an expression may take.
const (
	maxCEL     = 4096
	maxCELCost = 100_000
)

// compileCEL reads an expression over the arguments, which it knows as args.
func compileCEL(text string) (cel.Program, error) {
	if len(text) > maxCEL {
		return nil, fmt.Errorf("has more than %d bytes", maxCEL)
	}
	env, err := cel.NewEnv(cel.Variable("args", cel.MapType(cel.StringType, cel.DynType)), ext.Strings())
	if err != nil {
		return nil, fmt.Errorf("cannot be read: %w", err)
	}
	ast, issues := env.Compile(text)
	if issues.Err() != nil {
		return nil, fmt.Errorf("is no expression: %s", strings.Join(strings.Fields(issues.Err().Error()), " "))
	}
	out := ast.OutputType()
	if !slices.ContainsFunc([]*cel.Type{cel.StringType, cel.DynType, cel.ListType(cel.StringType), cel.ListType(cel.DynType)}, out.IsExactType) {
		return nil, fmt.Errorf("makes a %s; it has to make a string or a list of strings", out)
	}
	return env.Program(ast, cel.CostLimit(maxCELCost), cel.EvalOptions(cel.OptOptimize))
}

// evaluate adds the questions that an expression makes.
func (c *check) evaluate(call *Call) error {
	args := map[string]any{}
	for _, p := range c.reads {
		if v, found := p.get(call.Arguments); found {
			args[p.String()] = v.Any()
		}
	}
	if len(args) == 0 && c.Optional {
		return nil
	}
	out, _, err := c.program.Eval(map[string]any{"args": args})
	var ids []string
	if err == nil {
		ids, err = texts(out)
	}
	switch {
	case err != nil:
		return refuse("The arguments %s have no object: the mapping's expression came to nothing.", strings.Join(c.Reads, ", "))
	case len(ids) == 0 && !c.Optional:
		return refuse("The arguments %s name no object.", strings.Join(c.Reads, ", "))
	case len(call.Asks)+len(ids) > MaxAsks:
		return refuse("The call is about more than %d objects. Make several calls.", MaxAsks)
	}
	for _, id := range ids {
		if err := c.add(call, strings.Join(c.Reads, ", "), id); err != nil {
			return err
		}
	}
	return nil
}

var errNoTexts = errors.New("neither a string nor a list of strings")

// texts reads what an expression made.
func texts(out ref.Val) ([]string, error) {
	switch out := out.(type) {
	case types.String:
		return []string{string(out)}, nil
	case traits.Lister:
		var all []string
		for it := out.Iterator(); it.HasNext() == types.True; {
			one, ok := it.Next().(types.String)
			if !ok || len(all) > MaxAsks {
				return nil, errNoTexts
			}
			all = append(all, string(one))
		}
		return all, nil
	default:
		return nil, errNoTexts
	}
}
