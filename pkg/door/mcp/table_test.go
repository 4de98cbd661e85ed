package mcp

import (
	"bufio"
	"os"
	"slices"
	"strings"
	"testing"
)

// TestTableIsTheProtocol: every method of the protocol's two schemas has a row that says in which wire it is, and no row is of a method that
// there is not. The files of methods are taken from the schemas (schema/VERSION/schema.ts); those of the tasks extension are added.
func TestTableIsTheProtocol(t *testing.T) {
	t.Parallel()
	for version, in := range map[string]func(Method) bool{
		"2025-11-25": func(m Method) bool { return m.Old }, "2026-07-28": func(m Method) bool { return m.New },
	} {
		var want, got []string
		f, err := os.Open("testdata/methods-" + version + ".txt")
		if err != nil {
			t.Fatal(err)
		}
		for lines := bufio.NewScanner(f); lines.Scan(); {
			want = append(want, lines.Text())
		}
		_ = f.Close()
		for _, m := range Methods {
			if in(m) {
				got = append(got, m.From.String()+" "+m.Name)
			}
			if m.Notification != strings.HasPrefix(m.Name, "notifications/") {
				t.Errorf("%s: notification %v", m.Name, m.Notification)
			}
		}
		slices.Sort(want)
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("%s: the table has\n%s\nwant\n%s", version, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
	if m := lookUp(Client, "tools/other", false); m.Does != Refuses {
		t.Errorf("a method that there is not: %v", m)
	}
	if m := lookUp(Server, "tools/call", false); m.Does != Refuses {
		t.Errorf("a method of the other side: %v", m)
	}
}
