package guard

import (
	"slices"
	"strings"
	"testing"

	"github.com/deputyauth/deputy/pkg/authz"
	coreschema "github.com/deputyauth/deputy/schema"
)

// TestFeedsAgents gives the relationships, other than those whose subject is an agent or a delegation, that can change
// what one reaches, all as "type#relation@subject", sorted.
func TestFeedsAgents(t *testing.T) {
	for _, c := range []struct {
		name, schema string
		want         string
	}{
		{"users only", `definition document { relation reader: user | service
			permission view = reader }`, ""},
		{"agents beside users", `definition document { relation reader: user | agent | delegation | agent:* }`, ""},
		{"a set with agents", `definition group { relation member: user | agent }
			definition document { relation reader: user | group#member }`, "document#reader@group#member"},
		{"a set without", `definition group { relation member: user | group#member }
			definition document { relation reader: group#member | agent }`, ""},
		{"a set of a set", `definition group { relation member: group#inner
			relation inner: delegation }
			definition document { relation reader: group#member }`, "document#reader@group#member group#member@group#inner"},
		{"a set that is a permission", `definition group { relation one: user
			relation two: agent
			permission member = one - two }
			definition document { relation reader: group#member }`, "document#reader@group#member"},
		{"sets that name each other", `definition group { relation member: user | group#member }
			definition crew { relation member: agent | crew#member }`, "crew#member@crew#member"},
		{"an arrow", `definition folder { relation reader: agent }
			definition document { relation folder: folder
			permission view = folder->reader }`, "document#folder@folder"},
		{"an arrow that nobody follows to agents", `definition folder { relation owner: user
			relation reader: agent }
			definition document { relation folder: folder
			permission view = folder->owner }`, ""},
		{"an arrow over itself", `definition folder { relation parent: folder
			relation reader: user | agent
			permission view = reader + parent->view }`, "folder#parent@folder"},
		{"an arrow whatever the subject's relation", `definition folder { relation reader: agent }
			definition document { relation folder: folder | folder#reader
			permission view = folder->reader }`, "document#folder@folder document#folder@folder#reader"},
		{"only the types that lead to agents", `definition folder { relation reader: agent }
			definition shelf { relation reader: user }
			definition document { relation place: folder | shelf
			permission view = place->reader }`, "document#place@folder"},
		{"all of them, where all have to hold", `definition folder { relation reader: agent }
			definition shelf { relation reader: user }
			definition document { relation place: folder | shelf
			permission view = place.all(reader) }`, "document#place@folder document#place@shelf"},
		{"what is taken away", `definition folder { relation barred: agent }
			definition document { relation folder: folder
			relation reader: user
			permission view = reader - folder->barred }`, "document#folder@folder"},
		{"nested", `definition folder { relation reader: agent }
			definition document { relation folder: folder
			relation other: folder
			relation reader: user
			permission inner = (reader & (other.any(reader) + nil))
			permission view = (reader - folder->reader) }`, "document#folder@folder document#other@folder"},
		{"what the core's sets hold", `definition document { relation reader: tenant#member | tenant#agent | tenant#access | agent#owner }`,
			"document#reader@tenant#access document#reader@tenant#agent"},
		{"the tenant, where it says who has access", `definition document { relation tenant: tenant
			permission view = tenant->access }`, "document#tenant@tenant"},
		{"self", `use self
			definition document { relation over: agent | user
			relation inside: document
			permission own = self
			permission view = over->active + inside->own }`, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			flags, definitions := "", c.schema
			if rest, ok := strings.CutPrefix(definitions, "use self"); ok {
				flags, definitions = "use self\n", rest
			}
			var got []string
			for _, typ := range modelOf(t, flags+coreschema.Core+broken(definitions)).Types {
				for e := range typ.FeedsAgents {
					if slices.Contains(authz.CoreTypes, typ.Name) || authz.ActsForPrincipal(e.SubjectType) && e.SubjectRelation == "" {
						continue
					}
					text := typ.Name + "#" + e.Relation + "@" + e.SubjectType
					if e.SubjectRelation != "" {
						text += "#" + e.SubjectRelation
					}
					if text == "document#reader@agent#owner" { // the guard refuses every subject of that type
						continue
					}
					got = append(got, text)
				}
			}
			slices.Sort(got)
			if strings.Join(got, " ") != c.want {
				t.Errorf("got %v, want %s", got, c.want)
			}
		})
	}
}
