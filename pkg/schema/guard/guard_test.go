package guard

import (
	"maps"
	"slices"
	"strings"
	"testing"

	core "github.com/authzed/spicedb/pkg/proto/core/v1"
	"google.golang.org/protobuf/proto"

	"github.com/deputyauth/deputy/pkg/authz"
	coreschema "github.com/deputyauth/deputy/schema"
)

// modelOf compiles text or ends the test.
func modelOf(t *testing.T, text string) *authz.Schema {
	t.Helper()
	m, err := Compile(text)
	if err != nil {
		t.Fatal(err)
	}
	return m.Schema
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
		{"a lost member", "\trelation active: tenant\n", "", "definition tenant: missing relation, active"},
		{"order of allowed types", "user | service | tenant#member | tenant#admin\n", "tenant#admin | service | user | tenant#member\n", ""},
		{"other definitions", "caveat issued(", "caveat other(a int) {\n\ta > 0\n}\n\ndefinition document {\n\trelation tenant: tenant\n}\n\ncaveat issued(", ""},
		{"a missing type", "definition service {", "definition servant {", "definition service: missing"},
		{"a caveat's words", `at != "" || until != ""`, `at == "" || until != ""`, "caveat issued: expression has changed"},
		{"a caveat's parameter", "issued(at string,", "issued(extra string, at string,", "caveat issued: added parameter, extra"},
		{"a caveat's type", "key string)", "key any)", "caveat issued: "},
		{"a wildcard", "relation admin: user |", "relation admin: user:* | user |", "definition tenant: relation allowed type added, admin, user:*"},
		{"a lost expiration", "relation active: session with expiration", "relation active: session", "definition session: relation allowed type added, active, session; definition session: relation allowed type missing, active, session with expiration"},
		{"a new member", "relation revoked: delegation", "relation revoked: delegation\n\trelation extra: user", "definition delegation: added relation, extra"},
		{"a permission", "permission access = member + admin + agent", "permission access = member + admin", "definition tenant: changed permission implementation, access"},
		{"a relation turned permission", "relation ended: session", "permission ended = active", "definition session: added permission, ended; definition session: missing relation, ended"},
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
		m, err := Read(compiled.ObjectDefinitions, compiled.CaveatDefinitions)
		if err != nil || m.Schema.CoreDifference != "" {
			t.Errorf("%v %v", m, err)
		}
	})
	t.Run("everything is missing", func(t *testing.T) {
		m, err := Read(nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		if m.Schema.CoreDifference != NoSchema {
			t.Errorf("%q does not say %q", m.Schema.CoreDifference, NoSchema)
		}
	})
	t.Run("all of the core is missing", func(t *testing.T) {
		m := modelOf(t, "definition document {}")
		for _, want := range []string{"definition session: missing", "caveat baseline: missing"} {
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
		if _, err := Read(compiled.ObjectDefinitions, compiled.CaveatDefinitions); err != nil {
			t.Fatal(err)
		}
		for i, d := range compiled.ObjectDefinitions {
			if !proto.Equal(d, before[i]) {
				t.Errorf("%s was changed", d.GetName())
			}
		}
	})
}

func TestRequestedRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"definition":                                "line 1",
		"use import\n" + `import "core.zed"`:        "not allowed",
		"definition document { permission view = }": "line 1",
	} {
		_, err := Requested(text)
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
