package diff

import (
	"fmt"
	"strings"
	"testing"

	"github.com/deputyauth/deputy/pkg/schema/source"
)

// large is a schema of so many types, each with 15 members and leading to the one before it.
func large(types int, view string) string {
	var b strings.Builder
	for i := range types {
		fmt.Fprintf(&b, "// type%d is one of many.\ndefinition type%[1]d {\n\trelation tenant: tenant\n\trelation parent: type%d\n", i, max(0, i-1))
		for r := range 8 {
			fmt.Fprintf(&b, "\t// role%d holds grants.\n\trelation role%[1]d: user | agent | delegation | tenant#member\n", r)
		}
		fmt.Fprintf(&b, "\tpermission view = %s\n\tpermission edit = role4 + role5 - role6\n\tpermission audit = view & edit\n"+
			"\tpermission share = edit + parent->share\n\tpermission list = view + tenant->member\n}\n\n", view)
	}
	return b.String()
}

// BenchmarkDiff compares two large schemas: one that changes every type, and one that changes the first,
// which all others refer to. Reading both is in the figure, as the command does it.
func BenchmarkDiff(b *testing.B) {
	const types, view = 60, "role0 + role1 + (role2 & role3) + parent->view"
	before := large(types, view)
	for name, after := range map[string]string{
		"same":  before,
		"one":   strings.Replace(before, view, "role0 + role1 + role2 + parent->view", 1),
		"every": large(types, "role0 + role1 + role2 + parent->view"),
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if _, err := Diff(read(b, before), read(b, after)); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(len(before))/1024, "KiB")
		})
	}
}

func read(b *testing.B, text string) *source.Schema {
	b.Helper()
	return parse(b, "schema.zed", text)
}
