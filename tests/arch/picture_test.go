package arch

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// drawn matches an arrow of docs/architecture.md: the rooms by their short names, each with its path where it is met first.
var (
	drawn   = regexp.MustCompile(`^\s*(\w+)(?:\[([\w/]+)\])? --> (\w+)(?:\[([\w/]+)\])?$`)
	pathRow = regexp.MustCompile(`^\| ` + "`([a-z/0-9]+)` " + `\|`)
)

// TestPictureIsTheHouse: what docs/architecture.md draws is allowed and used, and CONTRIBUTING.md names every room of pkg.
func TestPictureIsTheHouse(t *testing.T) {
	page := read(t, "../../docs/architecture.md")
	_, rest, _ := strings.Cut(page, "```mermaid\n")
	picture, _, found := strings.Cut(rest, "```\n")
	if !found {
		t.Fatal("docs/architecture.md has no picture")
	}
	for _, problem := range pictured(picture, arrows) {
		t.Error(problem)
	}
	contributing := read(t, "../../CONTRIBUTING.md")
	for _, room := range unnamed(contributing, arrows) {
		t.Errorf("CONTRIBUTING.md does not name %s: say in its table what the room is for", room)
	}
}

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// pictured returns what is wrong with a picture of a table of arrows.
func pictured(picture string, table map[string][]string) (problems []string) {
	paths, drawnArrows := map[string]string{}, map[string][]string{}
	count := 0
	for line := range strings.Lines(picture) {
		m := drawn.FindStringSubmatch(strings.TrimRight(line, "\n"))
		if m == nil {
			continue
		}
		count++
		for _, of := range [][2]string{{m[1], m[2]}, {m[3], m[4]}} {
			if of[1] != "" {
				paths[of[0]] = of[1]
			}
		}
		drawnArrows[paths[m[1]]] = append(drawnArrows[paths[m[1]]], paths[m[3]])
		if from, to := paths[m[1]], paths[m[3]]; !slices.Contains(table[from], to) {
			problems = append(problems, "the picture has "+from+" import "+to+", which the house does not: redraw docs/architecture.md")
		}
	}
	if count == 0 {
		problems = append(problems, "the picture has no arrows")
	}
	for from, all := range table {
		for _, to := range all {
			if !slices.Contains(undrawn, from) && !slices.Contains(undrawn, to) && !leads(drawnArrows, from, to) {
				problems = append(problems, from+" imports "+to+", and no way in the picture leads there: draw it in docs/architecture.md")
			}
		}
	}
	slices.Sort(problems)
	return problems
}

// undrawn are the rooms that the page says are left out, and what is no room of pkg.
var undrawn = []string{"pkg/authz", "pkg/statuses", "pkg/daemon", "pkg/cli", "pkg/client", "pkg/gen", "schema", "cmd/deputy", "tests", "tests/oracle"}

// leads reports whether there is a way from one room to another.
func leads(arrows map[string][]string, from, to string) bool {
	seen := map[string]bool{}
	var visit func(at string) bool
	visit = func(at string) bool {
		if at == to {
			return true
		}
		if seen[at] {
			return false
		}
		seen[at] = true
		return slices.ContainsFunc(arrows[at], visit)
	}
	return visit(from)
}

// unnamed returns the rooms of pkg that no row of a page's tables begins with.
func unnamed(page string, table map[string][]string) (rooms []string) {
	var named []string
	for line := range strings.Lines(page) {
		if m := pathRow.FindStringSubmatch(line); m != nil {
			named = append(named, m[1])
		}
	}
	for room := range table {
		if strings.HasPrefix(room, "pkg/") && !slices.Contains(named, room) {
			rooms = append(rooms, room)
		}
	}
	slices.Sort(rooms)
	return rooms
}

// TestPictureBites shows that each kind of wrong picture is found.
func TestPictureBites(t *testing.T) {
	table := map[string][]string{"pkg/a": {"pkg/b"}, "pkg/b": {}}
	for picture, want := range map[string]int{
		"a[pkg/a] --> b[pkg/b]\n": 0, "b[pkg/b] --> a[pkg/a]\n": 2, "a[pkg/a] --> c[pkg/c]\n": 2, "": 2,
		"  a[pkg/a] --> b[pkg/b]\n  b --> a\n": 1,
	} {
		if got := pictured(picture, table); len(got) != want {
			t.Errorf("%q: %q, want %d", picture, got, want)
		}
	}
	if got := unnamed("| `pkg/a` | a room |\nand `pkg/b`\n", table); !slices.Equal(got, []string{"pkg/b"}) {
		t.Errorf("%q, want pkg/b", got)
	}
}
