package evaluate

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"github.com/authzed/spicedb/pkg/caveats"
	caveattypes "github.com/authzed/spicedb/pkg/caveats/types"
	core "github.com/authzed/spicedb/pkg/proto/core/v1"
	"github.com/authzed/spicedb/pkg/spiceerrors"
	"google.golang.org/grpc/codes"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/schema"
)

// caveat is a caveat of the schema, compiled when it is first needed.
type caveat struct {
	definition *core.CaveatDefinition

	once     sync.Once
	compiled *caveats.CompiledCaveat
	err      error
}

func (c *caveat) compile() (*caveats.CompiledCaveat, error) {
	c.once.Do(func() {
		defer authz.Recover("evaluate.compile", &c.err)
		c.compiled, c.err = schema.CompileCaveat(c.definition)
	})
	return c.compiled, c.err
}

// expression is a condition: a relationship's caveat, or several put together. It is immutable, and shared.
type expression struct {
	op expressionOp
	// caveat is a leaf's, and written the context that was written with it.
	caveat  string
	written map[string]any
	// a and b are what is put together; b is nil for opNot.
	a, b *expression
}

type expressionOp uint8

const (
	opCaveat expressionOp = iota
	opAnd
	opOr
	opNot
)

// leaf returns the condition of a row; nil if it has none.
func leaf(r *Row) *expression {
	if r.Caveat == "" {
		return nil
	}
	return &expression{op: opCaveat, caveat: r.Caveat, written: r.Context}
}

func and(a, b *expression) *expression {
	if a == b {
		return a
	}
	return &expression{op: opAnd, a: a, b: b}
}

func or(a, b *expression) *expression {
	if a == b {
		return a
	}
	return &expression{op: opOr, a: a, b: b}
}

func not(a *expression) *expression { return &expression{op: opNot, a: a} }

// judgement is what an expression came to.
type judgement struct {
	outcome authz.Outcome
	// missing are the parameters that were not given, when Conditional.
	missing map[string]bool
	// err says why, when Failed.
	err error
}

// circumstances are a request's context, in which expressions are judged; what one came to is kept.
type circumstances struct {
	program *Program
	given   map[string]any
	known   map[*expression]judgement
}

// judge evaluates an expression: true wins in an or, false in an and, whatever the other side comes to; else
// an error, else what is missing.
func (c *circumstances) judge(e *expression) judgement {
	if j, ok := c.known[e]; ok {
		return j
	}
	var j judgement
	switch e.op {
	case opCaveat:
		j = c.judgeCaveat(e.caveat, e.written)
	case opNot:
		j = c.judge(e.a)
		j.outcome = j.outcome.Not()
	case opAnd:
		j = c.judgeBoth(e, authz.Outcome.And, authz.No)
	case opOr:
		j = c.judgeBoth(e, authz.Outcome.Or, authz.Yes)
	}
	if c.known == nil {
		c.known = map[*expression]judgement{}
	}
	c.known[e] = j
	return j
}

// judgeBoth judges an and, or an or. The second side is not looked at if the first one comes to what wins.
func (c *circumstances) judgeBoth(e *expression, combine func(a, b authz.Outcome) authz.Outcome, wins authz.Outcome) judgement {
	a := c.judge(e.a)
	if a.outcome == wins {
		return a
	}
	b := c.judge(e.b)
	switch outcome := combine(a.outcome, b.outcome); {
	case outcome != a.outcome:
		return b
	case outcome != b.outcome || outcome != authz.Conditional:
		return a
	}
	missing := maps.Clone(a.missing)
	maps.Copy(missing, b.missing)
	return judgement{outcome: authz.Conditional, missing: missing}
}

// judgeCaveat evaluates one caveat. The context that was written with the relationship wins.
func (c *circumstances) judgeCaveat(name string, written map[string]any) judgement {
	fail := func(err error) judgement { return judgement{outcome: authz.Failed, err: err} }
	known, ok := c.program.caveats[name]
	if !ok {
		return fail(spiceerrors.WithCodeAndReason(fmt.Errorf("caveat with name `%s` not found", name), //nolint:err113 // its kind is the reason
			codes.FailedPrecondition, v1.ErrorReason_ERROR_REASON_UNKNOWN_CAVEAT))
	}
	compiled, err := known.compile()
	if err != nil {
		return fail(fmt.Errorf("evaluate: caveat %s: %w", name, err))
	}
	all := maps.Clone(c.given)
	if all == nil {
		all = map[string]any{}
	}
	maps.Copy(all, written)
	parameters, err := caveats.ConvertContextToParameters(
		caveattypes.Default.TypeSet, all, known.definition.GetParameterTypes(), caveats.SkipUnknownParameters)
	if err != nil {
		var detail caveats.ParameterConversionError
		return fail(caveatError(fmt.Errorf("type error for parameters for caveat `%s`: %w", name, err),
			v1.ErrorReason_ERROR_REASON_CAVEAT_PARAMETER_TYPE_ERROR, name, errors.As(err, &detail), detail))
	}
	result, err := caveats.EvaluateCaveat(compiled, parameters)
	if err != nil {
		var detail caveats.EvaluationError
		if !errors.As(err, &detail) {
			return fail(fmt.Errorf("evaluate: caveat %s: %w", name, err))
		}
		return fail(caveatError(fmt.Errorf("evaluation error for caveat %s: %w", name, detail),
			v1.ErrorReason_ERROR_REASON_CAVEAT_EVALUATION_ERROR, name, true, detail))
	}
	switch {
	case result.IsPartial():
		names, err := result.MissingVarNames()
		if err != nil {
			return fail(fmt.Errorf("evaluate: caveat %s: %w", name, err))
		}
		j := judgement{outcome: authz.Conditional, missing: make(map[string]bool, len(names))}
		for _, n := range names {
			j.missing[n] = true
		}
		return j
	case result.Value():
		return judgement{outcome: authz.Yes}
	default:
		return judgement{outcome: authz.No}
	}
}

// caveatError gives an error the status that SpiceDB gives it.
func caveatError(err error, reason v1.ErrorReason, name string, detailed bool, detail spiceerrors.HasMetadata) error {
	about := map[string]string{"caveat_name": name}
	if detailed {
		about = spiceerrors.CombineMetadata(detail, about)
	}
	return spiceerrors.WithCodeAndDetailsAsError(err, codes.InvalidArgument, spiceerrors.ForReason(reason, about))
}

// names returns what is missing, in order.
func (j judgement) names() []string { return slices.Sorted(maps.Keys(j.missing)) }
