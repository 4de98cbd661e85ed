package diff

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	caveattypes "github.com/authzed/spicedb/pkg/caveats/types"
	spicediff "github.com/authzed/spicedb/pkg/diff"
	caveatdiff "github.com/authzed/spicedb/pkg/diff/caveats"
	typediff "github.com/authzed/spicedb/pkg/diff/namespace"
	core "github.com/authzed/spicedb/pkg/proto/core/v1"
	"github.com/authzed/spicedb/pkg/schemadsl/generator"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/schema"
	"github.com/deputyauth/deputy/pkg/schema/source"
)

// side is one of the two schemas.
type side struct {
	*source.Schema

	model    *schema.Schema
	formulas *schema.Formulas
	subjects *schema.Subjects
}

func newSide(s *source.Schema) (*side, error) {
	model, err := s.Model()
	if err != nil {
		return nil, err
	}
	return &side{s, model, model.Formulas(), model.Subjects()}, nil
}

// holds are the types of the objects that a kind of subject can stand for.
func (s *side) holds(a schema.Allowed) map[string]bool {
	if a.IsUserset() {
		return s.subjects.Of(a.Names())
	}
	return map[string]bool{a.Type: true}
}

// typeAt is where a type is written.
func (s *side) typeAt(name string) source.Position {
	place, _ := s.Type(name)
	return place.Position
}

// caveatAt is where a caveat is written.
func (s *side) caveatAt(name string) source.Position {
	place, _ := s.Caveat(name)
	return place.Position
}

// memberAt is where a member is written; nowhere for one that the schema does not have.
func (s *side) memberAt(m schema.Name) source.Position { return s.Within(m, nil) }

// Diff returns the differences in the meaning of two schemas, in an order that depends on nothing else.
// Changes of comments only are among them, as CommentChanged; the layout, the order of definitions, members
// and operands, and how files are cut make no difference. Errors: a definition that SpiceDB's tools do not
// understand, and those of the schemas' models.
func Diff(before, after *source.Schema) ([]Change, error) {
	d := &differ{changed: map[schema.Name]bool{}}
	var err error
	if d.before, err = newSide(before); err != nil {
		return nil, err
	}
	if d.after, err = newSide(after); err != nil {
		return nil, err
	}
	d.effects = newEffects(d.before, d.after)
	old, now, err := unequal(before, after)
	if err != nil {
		return nil, err
	}
	found, err := spicediff.DiffSchemas(old, now, caveattypes.Default.TypeSet)
	if err != nil {
		return nil, fmt.Errorf("comparing the schemas: %w", err)
	}
	d.definitions(found)
	if err := d.caveats(found.ChangedCaveats); err != nil {
		return nil, err
	}
	for _, name := range slices.Sorted(maps.Keys(found.ChangedNamespaces)) {
		if err := d.members(name, found.ChangedNamespaces[name].Deltas()); err != nil {
			return nil, err
		}
	}
	d.permissions()
	d.affected(d.effects.spread())
	slices.SortStableFunc(d.changes, func(a, b Change) int {
		return cmp.Or(order(a)-order(b), cmp.Compare(a.Type, b.Type), cmp.Compare(a.Member, b.Member), cmp.Compare(a.Caveat, b.Caveat),
			cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Old, b.Old), cmp.Compare(a.New, b.New))
	})
	return d.changes, nil
}

// order puts differences of the text first, their consequences next, and comments last.
func order(c Change) int {
	switch c.Kind {
	case PermissionAffected:
		return 1
	case CommentChanged:
		return 2
	default:
		return 0
	}
}

// unequal returns both schemas without the members that have the same text in both. SpiceDB's own comparison of all members of a
// large schema would take seconds.
func unequal(before, after *source.Schema) (old, now spicediff.DiffableSchema, err error) {
	old.CaveatDefinitions, now.CaveatDefinitions = before.Caveats, after.Caveats
	types := map[string]*core.NamespaceDefinition{}
	for _, o := range before.Objects {
		reduced := &core.NamespaceDefinition{Name: o.GetName(), Metadata: o.GetMetadata(), Relation: o.GetRelation()}
		types[o.GetName()] = reduced
		old.ObjectDefinitions = append(old.ObjectDefinitions, reduced)
	}
	for _, o := range after.Objects {
		reduced := &core.NamespaceDefinition{Name: o.GetName(), Metadata: o.GetMetadata(), Relation: o.GetRelation()}
		now.ObjectDefinitions = append(now.ObjectDefinitions, reduced)
		if was := types[o.GetName()]; was != nil {
			if err := reduce(was, reduced); err != nil {
				return old, now, err
			}
		}
	}
	return old, now, nil
}

// reduce leaves those members out of two definitions that have the same text in both.
func reduce(before, after *core.NamespaceDefinition) error {
	texts := map[string]string{}
	same := map[string]bool{}
	for _, d := range []*core.NamespaceDefinition{before, after} {
		for _, r := range d.GetRelation() {
			text, err := memberText(r)
			if err != nil {
				return err
			}
			same[r.GetName()] = texts[r.GetName()] == text
			texts[r.GetName()] = text
		}
	}
	for _, d := range []*core.NamespaceDefinition{before, after} {
		d.Relation = slices.DeleteFunc(slices.Clone(d.GetRelation()), func(r *core.Relation) bool { return same[r.GetName()] })
	}
	return nil
}

func memberText(r *core.Relation) (string, error) {
	return generator.GenerateRelationSource(r, caveattypes.Default.TypeSet)
}

// differ collects the changes.
type differ struct {
	before, after *side
	effects       *effects
	// changed are the permissions whose expression is written differently.
	changed map[schema.Name]bool
	changes []Change
}

// definitions notes the definitions and caveats that came and went.
func (d *differ) definitions(found *spicediff.SchemaDiff) {
	for _, name := range found.AddedNamespaces {
		d.add(Change{Kind: DefinitionAdded, Type: name, NewAt: d.after.typeAt(name), Why: "nothing referred to it before"})
	}
	for _, name := range found.RemovedNamespaces {
		d.add(Change{Kind: DefinitionRemoved, Type: name, Breaking: true, OldAt: d.before.typeAt(name),
			Why: "requests that name it fail, and SpiceDB refuses the schema while it has relationships"})
	}
	for _, name := range found.AddedCaveats {
		d.add(Change{Kind: CaveatAdded, Caveat: name, NewAt: d.after.caveatAt(name), Why: "no relationship has it yet"})
	}
	for _, name := range found.RemovedCaveats {
		d.add(Change{Kind: CaveatRemoved, Caveat: name, Breaking: true, OldAt: d.before.caveatAt(name),
			Why: "relationships with it can no longer be written, nor be evaluated where they stand"})
	}
}

// caveats notes the changes to caveats that stay, and their effects on the relations that admit them.
func (d *differ) caveats(changed map[string]caveatdiff.Diff) error {
	does := map[string]effect{}
	for _, name := range slices.Sorted(maps.Keys(changed)) {
		for _, delta := range changed[name].Deltas() {
			c := Change{Caveat: name, OldAt: d.before.caveatAt(name), NewAt: d.after.caveatAt(name)}
			var is effect
			switch delta.Type {
			case caveatdiff.CaveatCommentsChanged:
				c.Kind = CommentChanged
			case caveatdiff.CaveatAdded, caveatdiff.CaveatRemoved:
				continue // they are not among those that stay
			case caveatdiff.AddedParameter:
				c.Kind, c.New, is = ParameterAdded, delta.ParameterName, effect{narrows: everybody}
				c.Why = "checks that gave all it asked for become conditional until they give this too"
			case caveatdiff.RemovedParameter:
				c.Kind, c.Old, is = ParameterRemoved, delta.ParameterName, effect{everybody, everybody}
				c.Why = "SpiceDB refuses it: relationships may hold a value for it"
			case caveatdiff.ParameterTypeChanged:
				c.Kind, is = ParameterChanged, effect{everybody, everybody}
				c.Old = delta.ParameterName + " " + parameterType(delta.PreviousType)
				c.New = delta.ParameterName + " " + parameterType(delta.CurrentType)
				c.Why = "SpiceDB refuses it: relationships may hold a value of the old type"
			case caveatdiff.CaveatExpressionChanged:
				var err error
				if c.Old, err = expressionText(d.before.Caveats, name); err != nil {
					return err
				}
				if c.New, err = expressionText(d.after.Caveats, name); err != nil {
					return err
				}
				if c.Old == c.New {
					continue // its serialized form holds positions
				}
				c.Kind, is = CaveatChanged, effect{everybody, everybody}
				c.Why = "what a caveat admits cannot be compared: it may let somebody in and lock somebody out"
			}
			c.Breaking, c.Widening = is.narrows != 0, is.widens != 0
			does[name] = does[name].or(is)
			d.add(c)
		}
	}
	for _, m := range d.after.model.Members {
		for _, a := range m.Allowed {
			d.effects.add(m.Name, does[a.Caveat], schema.Name{Member: a.Caveat})
		}
	}
	return nil
}

// members notes the changes to the members of a definition that stays.
func (d *differ) members(objectType string, deltas []typediff.Delta) error {
	for _, delta := range deltas {
		m := schema.Name{Type: objectType, Member: delta.RelationName}
		var admitted schema.Allowed
		if delta.AllowedType != nil {
			var err error
			if admitted, err = schema.ReadAllowed(delta.AllowedType); err != nil {
				return fmt.Errorf("comparing the schemas: %s: %w", m, err)
			}
		}
		c := Change{Type: objectType, Member: m.Member, OldAt: d.before.memberAt(m), NewAt: d.after.memberAt(m)}
		if c.Member == "" {
			c.OldAt, c.NewAt = d.before.typeAt(objectType), d.after.typeAt(objectType)
		}
		var is effect
		switch delta.Type {
		case typediff.NamespaceCommentsChanged, typediff.ChangedRelationComment, typediff.ChangedPermissionComment:
			c.Kind = CommentChanged
		case typediff.AddedRelation:
			c.Kind, c.Why = RelationAdded, "nobody is in it yet"
		case typediff.RemovedRelation:
			c.Kind, is = RelationRemoved, effect{narrows: everybody}
			c.Why = "requests that name it fail, and SpiceDB refuses the schema while it has relationships"
		case typediff.AddedPermission:
			// Arrows that found nothing there find something now.
			c.Kind, c.Why = PermissionAdded, "nobody could ask for it before"
			d.effects.add(m, effect{widens: everybody}, m)
		case typediff.RemovedPermission:
			c.Kind, is = PermissionRemoved, effect{narrows: everybody}
			c.Why = "requests that name it fail"
		case typediff.RelationAllowedTypeAdded:
			c.Kind, c.New, c.NewAt = TypeAdded, admitted.String(), d.after.Within(m, admitted.At)
			is.widens, c.Why = d.admits(admitted, d.before.model.Member(m).Allowed)
		case typediff.RelationAllowedTypeRemoved:
			c.Kind, c.Old, c.OldAt, c.Breaking = TypeRemoved, admitted.String(), d.before.Within(m, admitted.At), true
			is.narrows = d.effects.kinds(d.before.holds(admitted))
			c.Why = "such relationships can no longer be written, and SpiceDB refuses the schema while there are any"
		case typediff.ChangedPermissionImpl:
			// SpiceDB tells folder.any(view) from folder->view, which are two spellings of one thing.
			if d.before.model.Member(m).Text() != d.after.model.Member(m).Text() {
				d.changed[m] = true
			}
			continue // judged with all others
		default:
			return fmt.Errorf("comparing the schemas: %s: a difference of an unknown kind: %s", m, delta.Type)
		}
		d.effects.add(m, is, m)
		c.Breaking, c.Widening = c.Breaking || is.narrows != 0, is.widens != 0
		d.tenant(&c)
		d.add(c)
	}
	return nil
}

// tenant makes a change to the member that an object's tenants are computed from count as both: a decision wants
// exactly one tenant, so one tenant more locks subjects out, and one less can let them in.
func (d *differ) tenant(c *Change) {
	if c.Member != authz.TenantMember || authz.IsCore(c.Type) || !c.Breaking && !c.Widening {
		return
	}
	c.Breaking, c.Widening = true, true
	c.Why += "; and which tenant an object is in changes with it: decisions want exactly one"
}

// admits says whom a kind of subject lets into a relation that did not admit it, and why it does or does not.
func (d *differ) admits(a schema.Allowed, before []schema.Allowed) (kinds, string) {
	conditional := false
	for _, b := range before {
		if b.Names() != a.Names() || a.Wildcard && !b.Wildcard {
			continue
		}
		if (b.Caveat == "" || b.Caveat == a.Caveat) && (a.Expires || !b.Expires) {
			return 0, fmt.Sprintf("it admits %s already", b)
		}
		conditional = true
	}
	holds := d.after.holds(a)
	who := strings.Join(slices.Sorted(maps.Keys(holds)), " or ")
	why := fmt.Sprintf("one such relationship lets in every %s that has %s", who, a.Names())
	switch {
	case who == "":
		why = fmt.Sprintf("nobody can have %s", a.Names())
	case a.Wildcard:
		why = "one such relationship lets everybody of the type in"
	case conditional:
		why = "subjects that needed a caveat or expiration can be let in without it"
	case !a.IsUserset():
		why = fmt.Sprintf("a relationship can name a %s here, which none could before", who)
	}
	return d.effects.kinds(holds), why
}

// permissions compares the expressions that are written differently, and those of the same type that are computed from them.
func (d *differ) permissions() {
	types := map[string]bool{}
	for m := range d.changed {
		types[m.Type] = true
	}
	for _, m := range d.after.model.Members {
		was := d.before.model.Member(m.Name)
		if !types[m.Type] || !m.IsPermission() || !was.IsPermission() {
			continue
		}
		rewritten := d.effects.rewritten(m.Name, d.changed)
		if len(rewritten) == 0 {
			continue
		}
		is, proven := compare(d.before.formulas.Of(was), d.after.formulas.Of(m))
		is = d.effects.within(m.Name, is)
		if d.changed[m.Name] {
			c := Change{Kind: PermissionChanged, Type: m.Type, Member: m.Member, Breaking: is.narrows != 0, Widening: is.widens != 0,
				OldAt: d.before.memberAt(m.Name), NewAt: d.after.memberAt(m.Name),
				Old: was.Expression.String(), New: m.Expression.String(), Why: whyExpression(is, proven)}
			d.tenant(&c)
			d.add(c)
		} else {
			d.effects.foreign[m.Name] = is
		}
		d.effects.add(m.Name, is, rewritten...)
	}
}

func whyExpression(is effect, proven bool) string {
	switch {
	case !proven:
		return fmt.Sprintf("it has more than %d operands, too many to compare: it may let somebody in and lock somebody out", schema.MaxVariables)
	case is.none():
		return "it means the same"
	case is.narrows == 0:
		return "every subject that had it keeps it, and others may get it"
	case is.widens == 0:
		return "no other subject gets it, and some may lose it"
	default:
		return "some may get it, and some may lose it"
	}
}

// affected notes the permissions that mean something else although their own text says the same, with the causes.
func (d *differ) affected(causes map[schema.Name][]string) {
	for m, is := range d.effects.foreign {
		if is.none() || len(causes[m]) == 0 || !d.before.model.Member(m).IsPermission() || !d.after.model.Member(m).IsPermission() {
			continue
		}
		c := Change{Kind: PermissionAffected, Type: m.Type, Member: m.Member, Breaking: is.narrows != 0, Widening: is.widens != 0, Through: causes[m],
			OldAt: d.before.memberAt(m), NewAt: d.after.memberAt(m), Why: whyExpression(is, true)}
		d.tenant(&c)
		d.add(c)
	}
}

func (d *differ) add(c Change) { d.changes = append(d.changes, c) }

// expressionText returns the expression of the caveat of that name.
func expressionText(all []*core.CaveatDefinition, name string) (string, error) {
	for _, c := range all {
		if c.GetName() != name {
			continue
		}
		compiled, err := schema.CompileCaveat(c)
		if err != nil {
			return "", err
		}
		return compiled.ExprString()
	}
	return "", nil
}

// parameterType returns a type as the schema writes it.
func parameterType(t *core.CaveatTypeReference) string {
	var b bytes.Buffer
	b.WriteString(t.GetTypeName())
	for i, child := range t.GetChildTypes() {
		b.WriteString([]string{"<", ", "}[min(i, 1)] + parameterType(child))
	}
	if len(t.GetChildTypes()) > 0 {
		b.WriteString(">")
	}
	return b.String()
}
