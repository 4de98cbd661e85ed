package callers_test

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

// page is the short table of docs/callers.md: which roles open a method, and to whom.
type page struct {
	services []string
	// rows are the methods of a service, those that are alike together, by what their cells say.
	rows map[string][]*pageRow
}

type pageRow struct {
	calls []call
	cells string
}

// names are the methods of a row, each with what its calls are about, where other calls of it are in other rows.
func (r *pageRow) names() string {
	var names []string
	for i, c := range r.calls {
		if slices.ContainsFunc(r.calls[:i], func(before call) bool { return before.method == c.method }) {
			continue
		}
		var abouts []string
		for _, one := range r.calls {
			if one.method == c.method {
				abouts = append(abouts, one.about)
			}
		}
		_, name, _ := strings.Cut(c.method, "/")
		all := 0
		for _, one := range calls {
			if one.method == c.method {
				all++
			}
		}
		if len(abouts) < all {
			name += " (" + strings.Join(abouts, "; ") + ")"
		}
		names = append(names, name)
	}
	return strings.Join(names, ", ")
}

func newPage() *page { return &page{rows: map[string][]*pageRow{}} }

// add adds a call, by what callers get in their own tenant and what callers without bounds get.
func (p *page) add(c call, own, unbound []string) {
	service, _, _ := strings.Cut(c.method, "/")
	if strings.HasPrefix(service, "grpc.") {
		return
	}
	var cells strings.Builder
	for i, column := range columns {
		if !slices.Contains(roles, column) {
			continue
		}
		word := "yes"
		switch {
		case unbound[i] == "role":
			word = ""
		case own[i] == "bounds":
			word = "unbound"
		}
		cells.WriteString(" " + word + " |")
	}
	if _, known := p.rows[service]; !known {
		p.services = append(p.services, service)
	}
	for _, row := range p.rows[service] {
		if row.cells == cells.String() {
			row.calls = append(row.calls, c)
			return
		}
	}
	p.rows[service] = append(p.rows[service], &pageRow{[]call{c}, cells.String()})
}

// String returns the table in Markdown.
func (p *page) String() string {
	var out strings.Builder
	fmt.Fprintf(&out, "| | %s |\n|%s\n", strings.Join(roles, " | "), strings.Repeat(" --- |", len(roles)+1))
	for _, service := range p.services {
		fmt.Fprintf(&out, "| **%s** |%s\n", service, strings.Repeat(" |", len(roles)))
		for _, row := range p.rows[service] {
			fmt.Fprintf(&out, "| %s |%s\n", row.names(), row.cells)
		}
	}
	return out.String()
}

// comparePage compares the part of a page between its markers with a table, or puts it there.
func comparePage(t *testing.T, file, table string) {
	t.Helper()
	const begin, end = "<!-- table -->\n", "<!-- /table -->"
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, found := strings.Cut(string(text), begin)
	shown, after, ended := strings.Cut(rest, end)
	if !found || !ended {
		t.Fatalf("%s has no table between %s and %s", file, strings.TrimSpace(begin), end)
	}
	if shown == table {
		return
	}
	if !*rewrite {
		t.Errorf("%s shows another table than the server's (make table puts it there):\n%s\nwant\n%s", file, shown, table)
		return
	}
	if err := os.WriteFile(file, []byte(before+begin+table+end+after), 0o644); err != nil {
		t.Fatal(err)
	}
}
