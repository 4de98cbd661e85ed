package source

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"

	core "github.com/authzed/spicedb/pkg/proto/core/v1"
	spiceschema "github.com/authzed/spicedb/pkg/schema"
	"github.com/authzed/spicedb/pkg/spiceerrors"
	"golang.org/x/sync/errgroup"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/schema"
)

// validate has SpiceDB check more than its compiler does: whether the types, relations and caveats exist
// that the schema names, and whatever else its server would refuse.
func (s *Schema) validate(ctx context.Context) error {
	for _, caveat := range s.Caveats {
		if err := s.validateCaveat(caveat); err != nil {
			return err
		}
	}
	// Read anew: the shared model is that of what is there when somebody asks for it, and not before.
	if model, err := schema.Read(s.Objects); err == nil {
		if cycle := model.AliasCycle(); cycle != nil {
			return s.typeError(cycle[0].Type, cycle[0].Member, schema.AliasCycleError(cycle))
		}
	}
	failures := make([]error, len(s.Objects))
	var group errgroup.Group
	group.SetLimit(runtime.GOMAXPROCS(0))
	for i, definition := range s.Objects {
		group.Go(func() error {
			failures[i] = s.validateDefinition(ctx, definition)
			return nil
		})
	}
	_ = group.Wait() // the first failure counts, in the schema's order
	for i, definition := range s.Objects {
		if failures[i] == nil {
			continue
		}
		// SpiceDB checks members in the order of a map and says no file. Checked one by one, with no more
		// than what each needs, the member that is wrong is known.
		model, err := s.Model()
		if err != nil {
			return asError(s.Root, err)
		}
		for _, part := range parts(model.Types[definition.GetName()]) {
			if err := s.validateDefinition(ctx, part); err != nil {
				member := part.GetRelation()[0].GetName()
				return s.typeError(definition.GetName(), member, err)
			}
		}
		return s.typeError(definition.GetName(), "", failures[i])
	}
	return nil
}

func (s *Schema) validateDefinition(ctx context.Context, definition *core.NamespaceDefinition) error {
	typed, err := spiceschema.NewDefinition(definition)
	if err != nil {
		return err
	}
	// A type system remembers by relation name alone which relations have wildcards, so each definition
	// gets its own.
	types := spiceschema.NewTypeSystem(spiceschema.ResolverForPredefinedDefinitions(spiceschema.PredefinedElements{
		Definitions: s.Objects, Caveats: s.Caveats,
	}))
	_, err = types.Validate(ctx, typed)
	return err
}

// typeError puts the type system's error at the member that it is about.
func (s *Schema) typeError(objectType, member string, err error) *Error {
	if _, own := s.Type(objectType); !own {
		return s.coreError(objectType, err)
	}
	var at *core.SourcePosition
	if e, ok := spiceerrors.AsWithSourceError(err); ok && e.LineNumber > 0 {
		at = &core.SourcePosition{ZeroIndexedLineNumber: e.LineNumber - 1, ZeroIndexedColumnPosition: e.ColumnPosition - 1}
	}
	position := s.Within(schema.Name{Type: objectType, Member: member}, at)
	if position.Line == 0 {
		place, _ := s.Type(objectType)
		position = place.Position
	}
	if position.File == "" {
		position.File = s.Root
	}
	return &Error{position, oneLine(err.Error()) + s.typeHint(err.Error())}
}

// coreError is the error in a definition that was added: it relies on a definition of the core that the schema has in
// another form. It stands where the schema has the first of those.
func (s *Schema) coreError(objectType string, err error) *Error {
	position := Position{File: s.Root}
	if embedded, coreErr := embeddedCore(); coreErr == nil {
		for _, definition := range embedded.OrderedDefinitions {
			if place, own := s.Type(definition.GetName()); own && (position.Line == 0 || strings.Contains(err.Error(), "`"+definition.GetName()+"`")) {
				position = place.Position
			}
		}
	}
	return &Error{position, fmt.Sprintf("Deputy's %s cannot be added to the schema, which has definitions of the core's names in another form: %s; %s",
		objectType, oneLine(err.Error()), authz.LeaveCoreOut())}
}

// parts returns a type's members as definitions of their own: each first, with the members of the type
// that it reads after it. Those that read least come first, so an error in a part is one in its
// first member.
func parts(t *schema.Type) []*core.NamespaceDefinition {
	members := map[string]*schema.Member{}
	for _, m := range t.Members {
		members[m.Member] = m
	}
	var found []*core.NamespaceDefinition
	for _, m := range t.Members {
		part := &core.NamespaceDefinition{
			Name: t.Name, Metadata: t.Definition.GetMetadata(), SourcePosition: t.Definition.GetSourcePosition(),
		}
		seen := map[*schema.Member]bool{nil: true}
		var take func(m *schema.Member)
		take = func(m *schema.Member) {
			if seen[m] {
				return
			}
			seen[m] = true
			part.Relation = append(part.Relation, m.Definition)
			for _, a := range m.Allowed {
				if a.Type == t.Name {
					take(members[a.Relation])
				}
			}
			for _, leaf := range m.Leaves {
				// What an arrow leads to is another object's, which the type system looks up for itself.
				if leaf.IsArrow() {
					take(members[leaf.Through])
				} else {
					take(members[leaf.Member])
				}
			}
		}
		take(m)
		found = append(found, part)
	}
	slices.SortStableFunc(found, func(a, b *core.NamespaceDefinition) int {
		return cmp.Compare(len(a.GetRelation()), len(b.GetRelation()))
	})
	return found
}

// validateCaveat refuses a caveat with a parameter that its expression does not use, as SpiceDB's server
// does. SpiceDB's own check of that is not public.
func (s *Schema) validateCaveat(caveat *core.CaveatDefinition) error {
	unused, err := unusedParameter(caveat)
	if err == nil && unused == "" {
		return nil
	}
	place, _ := s.Caveat(caveat.GetName())
	position := place.Position
	if position.File == "" {
		position.File = s.Root
	}
	if err != nil {
		return &Error{position, oneLine(fmt.Sprintf("caveat %s: %v", caveat.GetName(), err))}
	}
	return &Error{position, fmt.Sprintf("parameter %s of caveat %s is unused", unused, caveat.GetName())}
}

// unusedParameter returns the first parameter, by name, that the expression does not use, or "".
func unusedParameter(caveat *core.CaveatDefinition) (string, error) {
	names := slices.Sorted(maps.Keys(caveat.GetParameterTypes()))
	if len(names) == 0 {
		return "", errors.New("it has no parameter")
	}
	compiled, err := schema.CompileCaveat(caveat)
	if err != nil {
		return "", err
	}
	used, err := compiled.ReferencedParameters(names)
	if err != nil {
		return "", err
	}
	for _, name := range names {
		if !used.Has(name) {
			return name, nil
		}
	}
	return "", nil
}
