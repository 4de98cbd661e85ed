package differential

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"strings"

	"github.com/authzed/spicedb/pkg/caveats"
	caveattypes "github.com/authzed/spicedb/pkg/caveats/types"
	core "github.com/authzed/spicedb/pkg/proto/core/v1"
	"google.golang.org/grpc/codes"

	"github.com/deputyauth/deputy/pkg/authz"
)

// codeSet is a set of status codes, a bit for each.
type codeSet uint32

func setOf(code codes.Code) codeSet { return 1 << code }

// Has tells whether a code is in the set.
func (s codeSet) Has(code codes.Code) bool { return s&setOf(code) != 0 }

// any returns one of the codes.
func (s codeSet) any() codes.Code {
	for code := range codes.Unauthenticated + 1 {
		if s.Has(code) {
			return code
		}
	}
	return codes.OK
}

// Answer is what anybody answers to a question, so that answers can be compared with ==.
type Answer struct {
	Outcome authz.Outcome
	// Missing holds the names of the missing fields, joined.
	Missing string
	// Code is the status of an answer that is an error.
	Code codes.Code
}

// String returns an answer as a person reads it.
func (a Answer) String() string {
	switch a.Outcome {
	case authz.Conditional:
		return "conditional on " + a.Missing
	case authz.Failed:
		return "error " + a.Code.String()
	default:
		return a.Outcome.String()
	}
}

// joined makes one text of names: answers in which a name is repeated, or stands elsewhere, differ.
func joined(names []string) string { return strings.Join(names, ",") }

// operator joins conditions.
type operator uint8

const (
	leaf operator = iota
	and
	or
	not
)

// condition is a tree of caveats. Parts are shared, so it is a graph in memory.
type condition struct {
	op     operator
	caveat *core.ContextualizedCaveat
	parts  []*condition
	// size is how many caveats a tree of the condition has.
	size int
}

func join(op operator, parts []*condition) *condition {
	if len(parts) == 1 {
		return parts[0]
	}
	c := &condition{op: op, parts: parts}
	for _, part := range parts {
		c.size = min(c.size+part.size, math.MaxInt32)
	}
	return c
}

// value is what a condition came to. Its state conditional means that it depends on what is missing.
type value struct {
	state   state
	missing []string
	trouble codeSet
}

func (v value) answer() Answer {
	switch v.state {
	case yes:
		return Answer{Outcome: authz.Yes}
	case conditional:
		return Answer{Outcome: authz.Conditional, Missing: joined(authz.Distinct(v.missing))}
	case failed:
		return Answer{Outcome: authz.Failed, Code: v.trouble.any()}
	default:
		return Answer{Outcome: authz.No}
	}
}

// caveatBook evaluates the caveats of a schema.
type caveatBook struct {
	definitions map[string]*core.CaveatDefinition
	compiled    map[string]*caveats.CompiledCaveat
	// known keeps what a caveat came to in a context.
	known map[caveatInContext]value
}

type caveatInContext struct {
	caveat  *core.ContextualizedCaveat
	context string
}

func newCaveatBook(definitions []*core.CaveatDefinition) *caveatBook {
	b := &caveatBook{
		definitions: map[string]*core.CaveatDefinition{},
		compiled:    map[string]*caveats.CompiledCaveat{},
		known:       map[caveatInContext]value{},
	}
	for _, d := range definitions {
		b.definitions[d.GetName()] = d
	}
	return b
}

// evaluate works out a condition: a definite part that decides wins over errors, and those over what is
// missing.
func (b *caveatBook) evaluate(c *condition, context map[string]any) value {
	// A map prints in the order of its keys.
	printed := fmt.Sprintf("%#v", context)
	known := map[*condition]value{}
	var evaluate func(*condition) value
	evaluate = func(c *condition) value {
		if v, ok := known[c]; ok {
			return v
		}
		var v value
		switch c.op {
		case leaf:
			v = b.caveat(c.caveat, context, printed)
		case not:
			v = evaluate(c.parts[0])
			switch v.state {
			case yes:
				v.state = no
			case no:
				v.state = yes
			}
		case and:
			v = weigh(c.parts, evaluate, no, yes)
		case or:
			v = weigh(c.parts, evaluate, yes, no)
		}
		known[c] = v
		return v
	}
	return evaluate(c)
}

// weigh joins parts of which one in the state decisive decides.
func weigh(parts []*condition, evaluate func(*condition) value, decisive, otherwise state) value {
	sum := value{state: otherwise}
	var count [failed + 1]int
	for _, part := range parts {
		v := evaluate(part)
		count[v.state]++
		sum.trouble |= v.trouble
		if v.state == conditional {
			sum.missing = append(sum.missing, v.missing...)
		}
	}
	switch {
	case count[decisive] > 0:
		sum.state = decisive
	case count[failed] > 0:
		sum.state = failed
	case count[conditional] > 0:
		sum.state = conditional
	}
	return sum
}

// caveat evaluates one caveat. What was written with the relationship wins over the question's context.
func (b *caveatBook) caveat(c *core.ContextualizedCaveat, context map[string]any, printed string) value {
	key := caveatInContext{c, printed}
	v, ok := b.known[key]
	if !ok {
		full := maps.Clone(context)
		if full == nil {
			full = map[string]any{}
		}
		maps.Copy(full, c.GetContext().AsMap())
		v = b.run(c.GetCaveatName(), full)
		b.known[key] = v
	}
	return v
}

func (b *caveatBook) run(name string, context map[string]any) value {
	definition := b.definitions[name]
	if definition == nil {
		return value{state: failed, trouble: setOf(codes.FailedPrecondition)}
	}
	compiled := b.compiled[name]
	if compiled == nil {
		types, err := caveattypes.DecodeParameterTypes(caveattypes.Default.TypeSet, definition.GetParameterTypes())
		if err == nil {
			compiled, err = caveats.DeserializeCaveatWithTypeSet(caveattypes.Default.TypeSet, definition.GetSerializedExpression(), types)
		}
		if err != nil {
			return value{state: failed, trouble: setOf(codes.Unknown)}
		}
		b.compiled[name] = compiled
	}
	parameters, err := caveats.ConvertContextToParameters(
		caveattypes.Default.TypeSet, context, definition.GetParameterTypes(), caveats.SkipUnknownParameters)
	if err != nil {
		return value{state: failed, trouble: setOf(codes.InvalidArgument)}
	}
	result, err := caveats.EvaluateCaveat(compiled, parameters)
	if err != nil {
		if _, wrong := errors.AsType[caveats.EvaluationError](err); wrong {
			return value{state: failed, trouble: setOf(codes.InvalidArgument)}
		}
		return value{state: failed, trouble: setOf(codes.Unknown)}
	}
	switch {
	case result.IsPartial():
		missing, err := result.MissingVarNames()
		if err != nil {
			return value{state: failed, trouble: setOf(codes.Unknown)}
		}
		return value{state: conditional, missing: missing}
	case result.Value():
		return value{state: yes}
	default:
		return value{state: no}
	}
}
