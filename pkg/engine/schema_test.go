package engine

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	core "github.com/authzed/spicedb/pkg/proto/core/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/store"
	coreschema "github.com/deputyauth/deputy/schema"
)

// modelOf compiles text or ends the test.
func modelOf(t *testing.T, text string) *authz.Schema {
	t.Helper()
	m, err := schemaFromText(text)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// broken breaks the line before each closing brace, as SpiceDB's grammar wants it.
func broken(text string) string { return strings.ReplaceAll(text, " }", "\n}") }

func TestCoreModel(t *testing.T) {
	m := modelOf(t, coreschema.Core)
	if m.CoreDifference != "" {
		t.Errorf("core.zed differs from itself: %s", m.CoreDifference)
	}
	if m.Text != coreschema.Core {
		t.Error("the text was not kept")
	}
	if got := slices.Sorted(maps.Keys(m.Types)); !slices.Equal(got, slices.Sorted(slices.Values(authz.CoreTypes))) {
		t.Errorf("types: %v", got)
	}
	for name, typ := range m.Types {
		if typ.Name != name {
			t.Errorf("type %s calls itself %s", name, typ.Name)
		}
		if typ.UnsafeShape != "" {
			t.Errorf("the core has an unsafe shape: %s", typ.UnsafeShape)
		}
	}
	members := m.Types["tenant"].Members
	if permission, ok := members["access"]; !ok || !permission {
		t.Errorf("tenant#access is not a permission: %v", members)
	}
	if permission, ok := members["member"]; !ok || permission {
		t.Errorf("tenant#member is not a relation: %v", members)
	}
}

// TestCoreDifference changes core.zed in one place at a time.
func TestCoreDifference(t *testing.T) {
	for _, c := range []struct {
		name, old, new string
		want           string // "" means no difference
	}{
		{"a comment", "/** admin may consent for all members. */", "// other words", ""},
		{"layout of a caveat", `at != "" || until != "" || key != ""`, "at != \"\" ||\n\n\t\tuntil != \"\" || key != \"\"", ""},
		{"a lost member", "\trelation active: tenant\n", "", "definition tenant: removed relation, active"},
		{"order of allowed types", "user | service | tenant#member | tenant#admin\n", "tenant#admin | service | user | tenant#member\n", ""},
		{"other definitions", "caveat issued(", "caveat other(a int) {\n\ta > 0\n}\n\ndefinition document {\n\trelation tenant: tenant\n}\n\ncaveat issued(", ""},
		{"a missing type", "definition service {", "definition servant {", "definition service: namespace removed"},
		{"a caveat's words", `at != "" || until != ""`, `at == "" || until != ""`, "caveat issued: expression has changed"},
		{"a caveat's parameter", "issued(at string,", "issued(extra string, at string,", "caveat issued: added parameter, extra"},
		{"a caveat's type", "key string)", "key any)", "caveat issued: "},
		{"a wildcard", "relation admin: user |", "relation admin: user:* | user |", "definition tenant: relation allowed type added, admin, user:*"},
		{"a lost expiration", "relation active: session with expiration", "relation active: session", "definition session: relation allowed type added, active, session; definition session: relation allowed type removed, active, session with expiration"},
		{"a new member", "relation revoked: delegation", "relation revoked: delegation\n\trelation extra: user", "definition delegation: added relation, extra"},
		{"a permission", "permission access = member + admin + agent", "permission access = member + admin", "definition tenant: changed permission implementation, access"},
		{"a relation turned permission", "relation ended: session", "permission ended = active", "definition session: added permission, ended; definition session: removed relation, ended"},
	} {
		t.Run(c.name, func(t *testing.T) {
			text := strings.Replace(coreschema.Core, c.old, c.new, 1)
			if text == coreschema.Core {
				t.Fatalf("core.zed has no %q", c.old)
			}
			if c.name == "a missing type" {
				text = strings.ReplaceAll(strings.ReplaceAll(text, ": service", ": servant"), "| service", "| servant")
			}
			got := modelOf(t, text).CoreDifference
			if c.want == "" && got != "" || !strings.Contains(got, c.want) {
				t.Errorf("difference %q, want %q", got, c.want)
			}
		})
	}

	t.Run("members in another order", func(t *testing.T) {
		compiled, err := compile(coreschema.Core)
		if err != nil {
			t.Fatal(err)
		}
		slices.Reverse(compiled.ObjectDefinitions)
		for _, d := range compiled.ObjectDefinitions {
			slices.Reverse(d.GetRelation())
		}
		m, err := ModelDefinitions(compiled.ObjectDefinitions, compiled.CaveatDefinitions)
		if err != nil || m.CoreDifference != "" {
			t.Errorf("%v %v", m, err)
		}
	})
	t.Run("everything is missing", func(t *testing.T) {
		m, err := ModelDefinitions(nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		if m.CoreDifference != NoSchema {
			t.Errorf("%q does not say %q", m.CoreDifference, NoSchema)
		}
	})
	t.Run("all of the core is missing", func(t *testing.T) {
		m, err := schemaFromText("definition document {}")
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"definition session: namespace removed", "caveat baseline: caveat removed"} {
			if !strings.Contains(m.CoreDifference, want) {
				t.Errorf("%q does not say %q", m.CoreDifference, want)
			}
		}
	})
	t.Run("definitions are not changed", func(t *testing.T) {
		compiled, err := compile(coreschema.Core)
		if err != nil {
			t.Fatal(err)
		}
		before := make([]*core.NamespaceDefinition, len(compiled.ObjectDefinitions))
		for i, d := range compiled.ObjectDefinitions {
			before[i] = proto.Clone(d).(*core.NamespaceDefinition)
		}
		if _, err := ModelDefinitions(compiled.ObjectDefinitions, compiled.CaveatDefinitions); err != nil {
			t.Fatal(err)
		}
		for i, d := range compiled.ObjectDefinitions {
			if !proto.Equal(d, before[i]) {
				t.Errorf("%s was changed", d.GetName())
			}
		}
	})
}

func TestModelSchemaRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"definition":                                "line 1",
		"use import\n" + `import "core.zed"`:        "not allowed",
		"definition document { permission view = }": "line 1",
	} {
		_, err := ModelSchema(text)
		if authz.KindOf(err) != authz.Invalid || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

// TestFeedsTenant gives the relations that a tenant is computed from, all as "type#relation", sorted.
func TestFeedsTenant(t *testing.T) {
	for _, c := range []struct {
		name, schema string
		want         string
	}{
		{"a relation", `definition document { relation tenant: tenant
			relation reader: user }`, "document#tenant"},
		{"no tenant", `definition document { relation reader: user }`, ""},
		{"another name", `definition document { relation owner: tenant
			relation reader: user
			permission tenant = owner }`, "document#owner"},
		{"through a folder", `definition folder { relation tenant: tenant
			relation reader: user }
			definition document { relation folder: folder
			relation reader: user
			permission tenant = folder.all(tenant) }`, "document#folder folder#tenant"},
		{"any and plain arrows", `definition folder { relation tenant: tenant }
			definition shelf { relation tenant: tenant }
			definition document { relation folder: folder
			relation shelf: shelf
			permission tenant = folder.any(tenant) + shelf->tenant }`, "document#folder document#shelf folder#tenant shelf#tenant"},
		{"recursion", `definition folder { relation owner: tenant
			relation parent: folder
			permission tenant = owner + parent->tenant }`, "folder#owner folder#parent"},
		{"an arrow to another permission", `definition team { relation home: tenant
			relation lead: user
			permission seat = home }
			definition document { relation team: team
			permission tenant = team->seat }`, "document#team team#home"},
		{"intersection, exclusion, nesting and nil", `definition document { relation one: tenant
			relation two: tenant
			relation three: tenant
			relation four: tenant
			relation five: tenant
			permission inner = two - three
			permission tenant = (one & inner) + (four - nil) }`, "document#four document#one document#three document#two"},
		{"usersets", `definition group { relation tenants: tenant
			relation other: user }
			definition document { relation tenant: tenant | group#tenants }`, "document#tenant group#tenants"},
		{"a userset that is a permission", `definition group { relation home: tenant
			relation left: tenant
			permission tenants = home - left }
			definition document { relation tenant: tenant | group#tenants }`, "document#tenant group#home group#left"},
		{"usersets that name each other", `definition group { relation tenants: tenant | group#tenants }
			definition document { relation tenant: group#tenants }`, "document#tenant group#tenants"},
		{"the left of an arrow ignores what relation a subject has", `definition folder { relation tenant: tenant
			relation reader: user }
			definition document { relation folder: folder | folder#reader
			permission tenant = folder->tenant }`, "document#folder folder#tenant"},
		{"two types on the left of an arrow", `definition folder { relation tenant: tenant }
			definition project { relation tenant: tenant }
			definition document { relation parent: folder | project
			permission tenant = parent->tenant }`, "document#parent folder#tenant project#tenant"},
		{"a wildcard", `definition document { relation tenant: tenant:* }`, "document#tenant"},
		{"only partly with a tenant on the right", `definition folder { relation tenant: tenant }
			definition project { relation lead: user }
			definition document { relation parent: folder | project
			permission tenant = parent->tenant }`, "document#parent folder#tenant"},
		{"self", `use self
			definition document { relation owner: user
			permission tenant = self }`, ""},
		{"of a type that is reached, not of the type itself", `definition link { relation target: tenant }
			definition folder { relation link: link
			permission tenant = link->target }
			definition free { relation link: link }`, "folder#link link#target"},
	} {
		t.Run(c.name, func(t *testing.T) {
			flags, definitions := "", c.schema
			if rest, ok := strings.CutPrefix(definitions, "use self"); ok {
				flags, definitions = "use self\n", rest
			}
			var got []string
			for _, typ := range modelOf(t, flags+coreschema.Core+broken(definitions)).Types {
				if slices.Contains(authz.CoreTypes, typ.Name) {
					continue
				}
				for relation := range typ.FeedsTenant {
					got = append(got, typ.Name+"#"+relation)
				}
			}
			slices.Sort(got)
			if strings.Join(got, " ") != c.want {
				t.Errorf("got %v, want %s", got, c.want)
			}
		})
	}

	// The core's own: a delegation's tenant, and what its userset principals do not add.
	m := modelOf(t, coreschema.Core)
	for _, typ := range m.Types {
		want := typ.Name == "delegation"
		if typ.FeedsTenant["tenant"] != want || len(typ.FeedsTenant) > 1 {
			t.Errorf("%s: %v", typ.Name, typ.FeedsTenant)
		}
	}
}

// shapes are the ways in which one relation can mix a trait with usersets of the same type.
var shapes = []struct {
	allowed string // the allowed types of group#rel
	unsafe  bool   // what isUnsafe says
	// wrong says what SpiceDB v1.56.2 does for an expired group:direct, and for a caveated one.
	wrong bool
}{
	{"group with %s", false, false},
	{"group | group with %s", false, false},
	{"group with %s | user", false, false},
	{"group with %s | other#rel", false, false},
	{"group with %s | group#rel", true, true},
	{"group | group with %s | group#rel", true, true},
	{"group with %s | group#rel with %s", false, false},
	{"group with %s | group#rel | group#rel with %s", true, true},
	{"group | group#rel with %s", false, false},
	{"group with %s | group#rel | group#mate", true, false},
	{"group with %s | group#rel with %s | group#mate", true, true},
	{"group:* with %s | group#rel", true, true},
	{"group:* with %s | group | group#rel", true, true},
	{"group with %s | group:* with %s | group#rel | group#mate", true, true},
	{"group with %s | group:* with %s | group#rel", true, false},
	{"group with %s | group:* | group#rel", true, true},
}

// TestUnsafeShape asks SpiceDB itself which shapes it gets wrong, and that none of them is called safe.
func TestUnsafeShape(t *testing.T) {
	for _, trait := range []string{"expiration", "never"} {
		var b strings.Builder
		b.WriteString("use expiration\ncaveat never(on bool) { on && !on }\ndefinition user {}\n" +
			"definition other { relation rel: user }\ndefinition group { relation rel: user\nrelation mate: user }\n")
		for i, s := range shapes {
			fmt.Fprintf(&b, "definition thing%02d { relation rel: %s }\n", i, strings.ReplaceAll(s.allowed, "%s", trait))
		}
		text := broken(b.String())
		p, m := newProbe(t, text), modelOf(t, text)
		whole := embeddedProbe(t, text)
		for i, s := range shapes {
			thing := fmt.Sprintf("thing%02d", i)
			got := m.Types[thing].UnsafeShape
			if got != "" && got != thing+"#rel" || (got != "") != s.unsafe {
				t.Errorf("%s, %s: unsafe shape %q, want %t", s.allowed, trait, got, s.unsafe)
			}
			if wrong := p.answersWrongly(thing+":one", s.allowed, trait); wrong != s.wrong {
				t.Errorf("%s, %s: SpiceDB answers wrongly: %t, want %t", s.allowed, trait, wrong, s.wrong)
			} else if wrong && got == "" {
				t.Errorf("%s, %s: is called safe, and SpiceDB gets it wrong", s.allowed, trait)
			}
			if whole.answersWrongly(thing+":one", s.allowed, trait) {
				t.Errorf("%s, %s: SpiceDB answers wrongly over Deputy's own store", s.allowed, trait)
			}
		}
	}
}

// TestUnsafeShapeIsInherited: a type is unsafe too where its evaluation only leads to such a relation.
func TestUnsafeShapeIsInherited(t *testing.T) {
	text := broken(`use expiration
		definition user {}
		definition group { relation rel: user
		relation member: group with expiration | group#rel }
		definition usersets { relation reader: group#member }
		definition arrows { relation group: group
		permission reader = group->member }
		definition functions { relation group: group
		permission reader = group.all(member) }
		definition walks { relation left: group with expiration | group#rel
		permission reader = left->rel }
		definition plain { relation group: group
		permission reader = group->rel }
		definition leftmost { relation parent: walks
		permission reader = parent->reader }`)
	m := modelOf(t, text)
	for name, want := range map[string]string{
		"user": "", "group": "group#member", "usersets": "group#member", "arrows": "group#member",
		"functions": "group#member", "plain": "",
		// Its own relation can be asked for by itself.
		"walks": "walks#left",
		// From elsewhere it is only walked, which reads it in full.
		"leftmost": "",
	} {
		if got := m.Types[name].UnsafeShape; got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}

	// SpiceDB's own answers, with all groups on the left of all, though expired.
	p := newProbe(t, text)
	p.write("group:all", "member", "group:left", "expiration")
	p.write("walks:all", "left", "group:left", "expiration")
	p.write("group:left", "rel", "user:alice", "")
	p.write("usersets:one", "reader", "group:all#member", "")
	p.write("arrows:one", "group", "group:all", "")
	p.write("functions:one", "group", "group:all", "")
	p.write("leftmost:one", "parent", "walks:all", "")
	for resource, subject := range map[string]string{
		"usersets:one": "group:left", "arrows:one": "group:left", "functions:one": "group:left", "leftmost:one": "user:alice",
	} {
		has := p.check(resource, "reader", subject) == v1.CheckPermissionResponse_PERMISSIONSHIP_HAS_PERMISSION
		if flagged := m.Types[probeObject(resource).GetObjectType()].UnsafeShape != ""; has != flagged {
			t.Errorf("%s: the expired grant answers HAS: %t; called unsafe: %t", resource, has, flagged)
		}
	}
}

// TestCoreSurvivesSpiceDB: the core has no difference after SpiceDB stored it, read either way.
func TestCoreSurvivesSpiceDB(t *testing.T) {
	ctx := context.Background()
	e := newProbe(t, coreschema.Core).engine
	resp, err := v1.NewSchemaServiceClient(e.Conn()).ReadSchema(ctx, &v1.ReadSchemaRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if difference := modelOf(t, resp.GetSchemaText()).CoreDifference; difference != "" {
		t.Errorf("as text: %s", difference)
	}
	s, err := e.Snapshot(ctx, authz.Freshness{})
	if err != nil {
		t.Fatal(err)
	}
	m, err := s.Schema(ctx)
	if err != nil || m.CoreDifference != "" {
		t.Errorf("as definitions: %v %v", m, err)
	}
}

// probe asks an engine's SpiceDB, past everything else in this package.
type probe struct {
	*testing.T
	engine *Engine
	perms  v1.PermissionsServiceClient
}

func newProbe(t *testing.T, schema string) *probe {
	t.Helper()
	e, err := Open(context.Background(), Config{Kind: Memory})
	if err != nil {
		t.Fatal(err)
	}
	return probing(t, e, schema)
}

// embeddedProbe asks the SpiceDB over Deputy's own store.
func embeddedProbe(t *testing.T, schema string) *probe {
	t.Helper()
	s, err := store.Open(t.TempDir(), store.Config{CacheBytes: 1 << 20, MemTableBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	e, err := Over(context.Background(), Config{Kind: Embedded}, s)
	if err != nil {
		t.Fatal(err)
	}
	return probing(t, e, schema)
}

func probing(t *testing.T, e *Engine, schema string) *probe {
	t.Helper()
	t.Cleanup(func() { _ = e.Close() })
	if _, err := v1.NewSchemaServiceClient(e.Conn()).WriteSchema(context.Background(), &v1.WriteSchemaRequest{Schema: schema}); err != nil {
		t.Fatal(err)
	}
	return &probe{t, e, v1.NewPermissionsServiceClient(e.Conn())}
}

// probeObject reads "type:id".
func probeObject(s string) *v1.ObjectReference {
	objectType, id, _ := strings.Cut(s, ":")
	return &v1.ObjectReference{ObjectType: objectType, ObjectId: id}
}

// write grants; the subject is "type:id" or "type:id#relation", trait "", "expiration" (which is over)
// or a caveat.
func (p *probe) write(resource, relation, subject, trait string) {
	p.Helper()
	of, subjectRelation, _ := strings.Cut(subject, "#")
	r := &v1.Relationship{
		Resource: probeObject(resource), Relation: relation,
		Subject: &v1.SubjectReference{Object: probeObject(of), OptionalRelation: subjectRelation},
	}
	switch trait {
	case "":
	case "expiration":
		r.OptionalExpiresAt = timestamppb.New(time.Now().Add(-time.Hour))
	default:
		r.OptionalCaveat = &v1.ContextualizedCaveat{CaveatName: trait}
	}
	if _, err := p.perms.WriteRelationships(context.Background(), &v1.WriteRelationshipsRequest{Updates: []*v1.RelationshipUpdate{
		{Operation: v1.RelationshipUpdate_OPERATION_TOUCH, Relationship: r},
	}}); err != nil {
		p.Fatal(err)
	}
}

func (p *probe) check(resource, permission, subject string) v1.CheckPermissionResponse_Permissionship {
	p.Helper()
	resp, err := p.perms.CheckPermission(context.Background(), &v1.CheckPermissionRequest{
		Consistency: &v1.Consistency{Requirement: &v1.Consistency_FullyConsistent{FullyConsistent: true}},
		Resource:    probeObject(resource), Permission: permission,
		Subject: &v1.SubjectReference{Object: probeObject(subject)},
	})
	if err != nil {
		p.Fatal(err)
	}
	return resp.GetPermissionship()
}

// answersWrongly writes a direct grant that has the trait and must not count, and reports whether it
// does, or is lost: expired, it answers HAS; caveated, memdb does not see that it is conditional.
func (p *probe) answersWrongly(resource, allowed, trait string) bool {
	p.Helper()
	granted := "group:direct"
	switch {
	case strings.Contains(allowed, "group with"):
	case strings.Contains(allowed, "group:* with"):
		granted = "group:*"
	default:
		return false // no direct grant can have the trait
	}
	p.write(resource, "rel", granted, trait)
	wants := v1.CheckPermissionResponse_PERMISSIONSHIP_CONDITIONAL_PERMISSION
	if trait == "expiration" {
		wants = v1.CheckPermissionResponse_PERMISSIONSHIP_NO_PERMISSION
	}
	return p.check(resource, "rel", "group:direct") != wants
}
