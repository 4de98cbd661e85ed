package triples

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	core "github.com/authzed/spicedb/pkg/proto/core/v1"
	"github.com/authzed/spicedb/pkg/tuple"
	"github.com/authzed/spicedb/pkg/validationfile/blocks"
	"google.golang.org/protobuf/types/known/structpb"
)

// stranger is an id that no file has: it holds only what everybody does.
const stranger = "nobody"

// triple is a resource with its permission, and a subject.
type triple struct{ resource, subject tuple.ObjectAndRelation }

// String is the triple as SpiceDB writes it.
func (a triple) String() string {
	return tuple.StringONR(a.resource) + "@" + tuple.StringONR(a.subject)
}

// names is what a file speaks of.
type names struct {
	// ids are those of all objects, of whatever type.
	ids map[string]bool
	// objects and subjects are written as subjects; objects have no relation and are not everybody.
	objects, subjects map[tuple.ObjectAndRelation]bool
}

// note adds the two sides of a relationship.
func (n names) note(resource, subject tuple.ObjectAndRelation) {
	for _, o := range []tuple.ObjectAndRelation{resource, subject} {
		if o.ObjectID != tuple.PublicWildcard {
			n.ids[o.ObjectID] = true
			n.objects[tuple.ONR(o.ObjectType, o.ObjectID, tuple.Ellipsis)] = true
		}
	}
	n.subjects[subject] = true
}

// names reads what the file's relationships, assertions and expectations speak of. Every type has a
// stranger and everybody as subjects besides.
func (f file) names() names {
	n := names{map[string]bool{}, map[tuple.ObjectAndRelation]bool{}, map[tuple.ObjectAndRelation]bool{}}
	for _, r := range f.parsed.Relationships.Relationships {
		n.note(r.Resource, r.Subject)
	}
	for _, a := range f.assertions() {
		n.note(a.Relationship.Resource, a.Relationship.Subject)
	}
	for resource, expected := range f.parsed.ExpectedRelations.ValidationMap {
		for _, e := range expected {
			if e.SubjectWithExceptions == nil {
				continue
			}
			n.note(resource.ObjectAndRelation, e.SubjectWithExceptions.Subject.Subject)
			for _, x := range e.SubjectWithExceptions.Exceptions {
				n.note(resource.ObjectAndRelation, x.Subject)
			}
		}
	}
	for _, d := range f.definitions {
		n.subjects[tuple.ONR(d.GetName(), stranger, tuple.Ellipsis)] = true
		n.subjects[tuple.ONR(d.GetName(), tuple.PublicWildcard, tuple.Ellipsis)] = true
	}
	return n
}

// assertions lists the file's assertions of all three kinds.
func (f file) assertions() []blocks.Assertion {
	a := f.parsed.Assertions
	return slices.Concat(a.AssertTrue, a.AssertCaveated, a.AssertFalse)
}

// members lists an object's relations and permissions.
func (f file) members(o tuple.ObjectAndRelation) []tuple.ObjectAndRelation {
	var members []tuple.ObjectAndRelation
	for _, d := range f.definitions {
		for _, relation := range d.GetRelation() {
			if d.GetName() == o.ObjectType {
				members = append(members, tuple.ONR(o.ObjectType, o.ObjectID, relation.GetName()))
			}
		}
	}
	return members
}

// triples lists what is asked of a file, each once and in the same order in every run:
//
//   - every id on every type with each of its relations and permissions, for every subject that the file names,
//     for strangers and for everybody: what SpiceDB's own test enumerates, and a little more;
//   - every object with each of its relations and permissions, for every object and userset that can be, itself
//     included;
//   - names that the schema does not have.
func (f file) triples() []triple {
	n := f.names()
	all := map[triple]bool{}
	for _, d := range f.definitions {
		for id := range n.ids {
			for _, resource := range f.members(tuple.ONR(d.GetName(), id, tuple.Ellipsis)) {
				for subject := range n.subjects {
					all[triple{resource, subject}] = true
				}
			}
		}
	}
	var usersets []tuple.ObjectAndRelation
	for object := range n.objects {
		usersets = append(usersets, f.members(object)...)
	}
	for _, resource := range usersets {
		for _, subject := range usersets {
			all[triple{resource, subject}] = true
		}
		for subject := range n.objects {
			all[triple{resource, subject}] = true
		}
	}
	for _, a := range f.assertions() {
		all[triple{a.Relationship.Resource, a.Relationship.Subject}] = true
	}
	listed := sorted(all)
	plain := slices.IndexFunc(listed, func(a triple) bool { return a.subject.ObjectID != tuple.PublicWildcard })
	return append(listed, unknown(listed[plain])...)
}

// closer lists fewer triples: every object with each of its relations and permissions, for every subject that
// the file names, and for strangers.
func (f file) closer() []triple {
	n := f.names()
	all := map[triple]bool{}
	for object := range n.objects {
		for _, resource := range f.members(object) {
			for subject := range n.subjects {
				if subject.ObjectID != tuple.PublicWildcard {
					all[triple{resource, subject}] = true
				}
			}
		}
	}
	return sorted(all)
}

func sorted(all map[triple]bool) []triple {
	return slices.SortedFunc(maps.Keys(all), func(a, b triple) int { return strings.Compare(a.String(), b.String()) })
}

// crowd lists further relationships that make the file's objects wide: for each relation of an object that has
// any, size more like one of them, with other subjects of its kind, which lead nowhere.
func (f file) crowd(size int) []tuple.RelationshipUpdate {
	type place struct{ resource, kind tuple.ObjectAndRelation }
	seen := map[place]bool{}
	var more []tuple.RelationshipUpdate
	for _, r := range f.parsed.Relationships.Relationships {
		p := place{r.Resource, tuple.ONR(r.Subject.ObjectType, "", r.Subject.Relation)}
		if seen[p] || r.Subject.ObjectID == tuple.PublicWildcard {
			continue
		}
		seen[p] = true
		for i := range size {
			r.Subject.ObjectID = fmt.Sprintf("crowd%05d", i)
			more = append(more, tuple.Touch(r))
		}
	}
	return more
}

// thin deletes every other relationship.
func (f file) thin() []tuple.RelationshipUpdate {
	var less []tuple.RelationshipUpdate
	for i, r := range f.parsed.Relationships.Relationships {
		if i%2 == 0 {
			less = append(less, tuple.Delete(r))
		}
	}
	return less
}

// caveated puts every relationship that its relation admits with a caveat under that caveat, with nothing
// written to it: so conditions meet in intersections and exclusions, which they hardly do in the files.
func (f file) caveated() []tuple.RelationshipUpdate {
	var changed []tuple.RelationshipUpdate
	for _, r := range f.parsed.Relationships.Relationships {
		for _, allowed := range f.allowed(r.Resource) {
			everybody := allowed.GetPublicWildcard() != nil
			if allowed.GetRequiredCaveat() != nil && allowed.GetRequiredExpiration() == nil && allowed.GetNamespace() == r.Subject.ObjectType &&
				everybody == (r.Subject.ObjectID == tuple.PublicWildcard) && (everybody || allowed.GetRelation() == r.Subject.Relation) {
				r.OptionalCaveat = &core.ContextualizedCaveat{CaveatName: allowed.GetRequiredCaveat().GetCaveatName()}
				changed = append(changed, tuple.Touch(r))
			}
		}
	}
	return changed
}

// allowed lists what a relation admits.
func (f file) allowed(at tuple.ObjectAndRelation) []*core.AllowedRelation {
	for _, d := range f.definitions {
		for _, relation := range d.GetRelation() {
			if d.GetName() == at.ObjectType && relation.GetName() == at.Relation {
				return relation.GetTypeInformation().GetAllowedDirectRelations()
			}
		}
	}
	return nil
}

// unknown lists triples with one name that the schema does not have.
func unknown(known triple) []triple {
	var all []triple
	for _, spoil := range []func(*triple){
		func(a *triple) { a.resource.ObjectType = "absent" },
		func(a *triple) { a.resource.Relation = "absent" },
		func(a *triple) { a.subject.ObjectType = "absent" },
		func(a *triple) { a.subject.Relation = "absent" },
	} {
		spoiled := known
		spoil(&spoiled)
		all = append(all, spoiled)
	}
	return all
}

// contexts lists the contexts with which every triple is asked, each once: none, those of the assertions,
// those of the relationships (which lose where both name a field), and one for each caveat in which nothing
// has a type that a caveat takes.
func (f file) contexts(t *testing.T) []*structpb.Struct {
	t.Helper()
	all := []*structpb.Struct{nil}
	seen := map[string]bool{}
	add := func(c *structpb.Struct) {
		if key := string(compact(t, c)); len(c.GetFields()) > 0 && !seen[key] {
			seen[key] = true
			all = append(all, c)
		}
	}
	for _, a := range f.assertions() {
		add(pack(t, a.CaveatContext))
	}
	for _, r := range f.parsed.Relationships.Relationships {
		if r.OptionalCaveat != nil {
			add(r.OptionalCaveat.GetContext())
		}
	}
	for _, c := range f.caveats {
		wrong := map[string]any{}
		for parameter := range c.GetParameterTypes() {
			wrong[parameter] = []any{true}
		}
		add(pack(t, wrong))
	}
	return all
}

// questions lists the triples without a context, and then those of objects that the file names with each of its
// contexts: an object that has no relationships has no caveats either.
func (f file) questions(t *testing.T, triples []triple) []question {
	t.Helper()
	objects := f.names().objects
	var all []question
	for _, c := range f.contexts(t) {
		for i, x := range triples {
			there := objects[tuple.ONR(x.resource.ObjectType, x.resource.ObjectID, tuple.Ellipsis)]
			if c == nil || there && x.subject.ObjectID != tuple.PublicWildcard {
				all = append(all, question{x, c, i})
			}
		}
	}
	return all
}

// pack makes a context of a map; nil stays nil.
func pack(t *testing.T, fields map[string]any) *structpb.Struct {
	t.Helper()
	if fields == nil {
		return nil
	}
	packed, err := structpb.NewStruct(fields)
	if err != nil {
		t.Fatal(err)
	}
	return packed
}

// compact is a context in one line, the same for the same context in every run.
func compact(t *testing.T, c *structpb.Struct) []byte {
	t.Helper()
	if c == nil {
		return nil
	}
	text, err := json.Marshal(c.AsMap())
	if err != nil {
		t.Fatal(err)
	}
	return text
}
