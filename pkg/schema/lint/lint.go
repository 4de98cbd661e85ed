// Package lint finds mistakes that the compiler lets pass and that Deputy's decisions stumble over: shapes that
// SpiceDB evaluates wrongly, types without a tenant, permissions that no agent can have, agents that get access
// through a grant to another subject. Rules lists them; each rule explains itself.
//
// A finding about a member is silenced by a comment right above that member, or above its definition:
//
//	// lint:ignore RULE reason
package lint

import (
	"cmp"
	"context"
	"slices"

	core "github.com/authzed/spicedb/pkg/proto/core/v1"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/schema"
	"github.com/deputyauth/deputy/pkg/schema/source"
)

// Severity is how bad a finding is.
type Severity string

// The severities.
const (
	// Error is for a mistake that refuses decisions, or lets a subject in that should stay out.
	Error Severity = "error"
	// Warning is for a shape that is likely not meant, slow, or hard to read.
	Warning Severity = "warning"
)

// Finding is one thing that a rule has found.
type Finding struct {
	// Rule is the name of the rule: see Rules.
	Rule     string
	Severity Severity
	// Position is where it stands. If the schema lacks something altogether, only the file is known.
	source.Position
	// Message describes the mistake, in one line.
	Message string
	// Suggestion proposes a change, in one line; "" where the message does already.
	Suggestion string
	// Suppressed is the reason that a comment gives for leaving it as it is; "" if there is none, and the
	// finding counts.
	Suppressed string
}

// Options say how a schema is checked.
type Options struct {
	// Globals are the object types that belong to no tenant, as the server's --global-types.
	Globals []string
}

// Check returns the findings of all rules in a schema, in the order in which it is written; suppressed ones
// are among them. The schema should have been read with the core (source.Options.Core), as it will be
// written. Errors: those of SpiceDB's own checks, and those of the schema's model.
func Check(s *source.Schema, o Options) ([]Finding, error) {
	model, err := s.Model()
	if err != nil {
		return nil, err
	}
	c := &checker{
		schema: s, model: model, subjects: model.Subjects(), formulas: model.Formulas(), components: model.Components(), options: o,
	}
	for _, definition := range s.Objects {
		if t := model.Types[definition.GetName()]; !authz.IsCore(t.Name) {
			c.types = append(c.types, t)
			c.members = append(c.members, t.Members...)
		}
	}
	if err := c.checkCore(); err != nil {
		return nil, err
	}
	c.checkDefinitions()
	c.checkTenants()
	c.checkReach()
	c.checkEmpty()
	c.checkPools()
	c.checkSubjects()
	c.checkRecursion()
	if err := c.checkWithSpiceDB(context.Background()); err != nil {
		return nil, err
	}
	c.suppress()
	return c.sorted(), nil
}

// checker collects findings.
type checker struct {
	schema     *source.Schema
	model      *schema.Schema
	subjects   *schema.Subjects
	formulas   *schema.Formulas
	components map[*schema.Member]int
	// types and members are those that the rules are about: all but the core's, in the order of the schema.
	types   []*schema.Type
	members []*schema.Member
	options Options
	found   []finding
}

// finding is a Finding with the relation or permission that it is about. A type or a caveat is a Name
// without a member.
type finding struct {
	Finding
	about schema.Name
}

// report adds a finding. at is the part of the member that it is about; nil for the whole member, type or caveat.
// Core definitions that were added are written nowhere, and nothing is reported about them.
func (c *checker) report(rule string, about schema.Name, at *core.SourcePosition, message, suggestion string) {
	place, ok := c.place(about)
	if !ok {
		return
	}
	position := place.Position
	if at != nil {
		position = c.schema.Within(about, at)
	}
	for _, f := range c.found {
		// A member of a partial is written once, and belongs to several types.
		if place.Partial != "" && f.Rule == rule && f.Position == position {
			return
		}
	}
	c.add(rule, about, position, message, suggestion)
}

// add adds a finding at a place, with the severity of its rule.
func (c *checker) add(rule string, about schema.Name, at source.Position, message, suggestion string) {
	c.found = append(c.found, finding{Finding{
		Rule: rule, Severity: severities[rule], Position: at, Message: message, Suggestion: suggestion,
	}, about})
}

// place is where a member, type or caveat is written.
func (c *checker) place(about schema.Name) (source.Place, bool) {
	if about.Member != "" {
		return c.schema.Member(about)
	}
	if place, ok := c.schema.Type(about.Type); ok {
		return place, true
	}
	return c.schema.Caveat(about.Type)
}

// sorted returns the findings by file, in the order of the schema's files, and place.
func (c *checker) sorted() []Finding {
	order := map[string]int{}
	for i, f := range c.schema.Files {
		order[f.Path] = i
	}
	findings := make([]Finding, 0, len(c.found))
	for _, f := range c.found {
		findings = append(findings, f.Finding)
	}
	slices.SortStableFunc(findings, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(order[a.File], order[b.File]), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column), cmp.Compare(a.Rule, b.Rule))
	})
	return findings
}
