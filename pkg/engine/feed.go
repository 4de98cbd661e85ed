package engine

import (
	"fmt"
	"slices"

	core "github.com/authzed/spicedb/pkg/proto/core/v1"
	"github.com/authzed/spicedb/pkg/tuple"

	"github.com/deputyauth/deputy/pkg/authz"
)

// feedAgents fills in, for each type, which relationships can change what an agent or a delegation reaches. The
// answer is a bound from the types alone: what it leaves out can change nothing for any of them, whatever is stored.
func (g memberGraph) feedAgents(types map[string]*authz.Type) error {
	holds, err := g.agentHolders()
	if err != nil {
		return err
	}
	for m, relation := range g {
		if isPermission(relation) {
			continue
		}
		for _, allowed := range relation.GetTypeInformation().GetAllowedDirectRelations() {
			if authz.ActsForPrincipal(allowed.GetNamespace()) || isUserset(allowed) && holds[member{allowed.GetNamespace(), allowed.GetRelation()}] {
				types[m.objectType].FeedsAgents[edge(m.name, allowed)] = true
			}
		}
	}
	for m, relation := range g {
		if !isPermission(relation) {
			continue
		}
		err := eachChild(relation.GetUsersetRewrite(), func(c child) error {
			g.feedArrow(types[m.objectType], c, holds)
			return nil
		})
		if err != nil {
			return fmt.Errorf("%s: %w", m, err)
		}
	}
	return nil
}

// feedArrow adds the relationships that an operand follows, if it is an arrow, to where an agent can hold something.
func (g memberGraph) feedArrow(t *authz.Type, c child, holds map[member]bool) {
	left := g[member{t.Name, c.tupleset}].GetTypeInformation().GetAllowedDirectRelations()
	leads := func(a *core.AllowedRelation) bool { return holds[member{a.GetNamespace(), c.relation}] }
	// Where all have to hold, an object on which no agent can hold anything takes away, too.
	all := c.all && slices.ContainsFunc(left, leads)
	for _, allowed := range left {
		if all || leads(allowed) {
			t.FeedsAgents[edge(c.tupleset, allowed)] = true
		}
	}
}

// agentHolders returns the relations and permissions in whose evaluation an agent or a delegation can turn up, also
// as the subject that an exclusion takes away.
func (g memberGraph) agentHolders() (map[member]bool, error) {
	holds := make(map[member]bool, len(g))
	for changed := true; changed; {
		changed = false
		for m, relation := range g {
			if holds[m] {
				continue
			}
			found, err := g.holdsAgent(m, relation, holds)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", m, err)
			}
			if found {
				holds[m], changed = true, true
			}
		}
	}
	return holds, nil
}

// holdsAgent reports whether the member holds an agent, given those that are known to.
func (g memberGraph) holdsAgent(m member, relation *core.Relation, holds map[member]bool) (bool, error) {
	if !isPermission(relation) {
		for _, allowed := range relation.GetTypeInformation().GetAllowedDirectRelations() {
			of := member{allowed.GetNamespace(), allowed.GetRelation()}
			if isUserset(allowed) && holds[of] || !isUserset(allowed) && authz.ActsForPrincipal(of.objectType) {
				return true, nil
			}
		}
		return false, nil
	}
	found := false
	err := eachChild(relation.GetUsersetRewrite(), func(c child) error {
		switch {
		case c.self:
			found = found || authz.ActsForPrincipal(m.objectType)
		case c.tupleset == "":
			found = found || holds[member{m.objectType, c.relation}]
		default:
			for _, allowed := range g[member{m.objectType, c.tupleset}].GetTypeInformation().GetAllowedDirectRelations() {
				found = found || holds[member{allowed.GetNamespace(), c.relation}]
			}
		}
		return nil
	})
	return found, err
}

// child is one operand of a permission's expression: a relation or permission of the same type, an arrow, or the
// object itself.
type child struct {
	// tupleset is the relation on the left of an arrow; empty where there is none.
	tupleset string
	// relation is the member, or what the arrow leads to.
	relation string
	// all says that the arrow asks for all objects on its left.
	all bool
	// self says that it is the object itself.
	self bool
	// subtracted says that what it comes to is taken away.
	subtracted bool
}

// eachChild calls f for all operands of an expression, at any depth, exclusions included. An expression of a kind
// that is not known is an error.
func eachChild(rewrite *core.UsersetRewrite, f func(child) error) error {
	operation, err := operationOf(rewrite)
	if err != nil {
		return err
	}
	each := f
	subtracting := func(c child) error {
		c.subtracted = true
		return each(c)
	}
	for i, operand := range operation.GetChild() {
		if i == 1 && rewrite.GetExclusion() != nil {
			f = subtracting
		}
		var err error
		switch c := operand.GetChildType().(type) {
		case *core.SetOperation_Child_ComputedUserset:
			err = f(child{relation: c.ComputedUserset.GetRelation()})
		case *core.SetOperation_Child_UsersetRewrite:
			err = eachChild(c.UsersetRewrite, f)
		case *core.SetOperation_Child_TupleToUserset:
			err = f(child{
				tupleset: c.TupleToUserset.GetTupleset().GetRelation(), relation: c.TupleToUserset.GetComputedUserset().GetRelation(),
			})
		case *core.SetOperation_Child_FunctionedTupleToUserset:
			arrow := c.FunctionedTupleToUserset
			switch arrow.GetFunction() {
			case core.FunctionedTupleToUserset_FUNCTION_ANY, core.FunctionedTupleToUserset_FUNCTION_ALL:
			default:
				return fmt.Errorf("an arrow has a function of an unknown kind: %s", arrow.GetFunction())
			}
			err = f(child{
				tupleset: arrow.GetTupleset().GetRelation(), relation: arrow.GetComputedUserset().GetRelation(),
				all: arrow.GetFunction() == core.FunctionedTupleToUserset_FUNCTION_ALL,
			})
		case *core.SetOperation_Child_XSelf:
			err = f(child{self: true})
		case *core.SetOperation_Child_XNil:
		default:
			err = fmt.Errorf("an expression is of an unknown kind: %T", c)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// operationOf returns the operation of an expression.
func operationOf(rewrite *core.UsersetRewrite) (*core.SetOperation, error) {
	switch o := rewrite.GetRewriteOperation().(type) {
	case *core.UsersetRewrite_Union:
		return o.Union, nil
	case *core.UsersetRewrite_Intersection:
		return o.Intersection, nil
	case *core.UsersetRewrite_Exclusion:
		return o.Exclusion, nil
	default:
		return nil, fmt.Errorf("a set operation is of an unknown kind: %T", o)
	}
}

func edge(relation string, allowed *core.AllowedRelation) authz.Edge {
	of := allowed.GetRelation()
	if of == tuple.Ellipsis {
		of = ""
	}
	return authz.Edge{Relation: relation, SubjectType: allowed.GetNamespace(), SubjectRelation: of}
}
