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
	paths := map[string]string{}
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
		if from, to := paths[m[1]], paths[m[3]]; !slices.Contains(table[from], to) {
			problems = append(problems, "the picture has "+from+" import "+to+", which the house does not: redraw docs/architecture.md")
		}
	}
	if count == 0 {
		problems = append(problems, "the picture has no arrows")
	}
	return problems
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
		"a[pkg/a] --> b[pkg/b]\n": 0, "b[pkg/b] --> a[pkg/a]\n": 1, "a[pkg/a] --> c[pkg/c]\n": 1, "": 1,
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
