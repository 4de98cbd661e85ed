package cli

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/deputyauth/deputy/pkg/notation"
)

// readAll reads relationships to the end and returns them as text, or the error.
func readAll(name, text string) (string, error) {
	reader, err := newRelationshipReader(name, strings.NewReader(text))
	if err != nil {
		return "", err
	}
	var lines []string
	for {
		relationship, err := reader.next()
		if errors.Is(err, io.EOF) {
			return strings.Join(lines, "\n"), nil
		}
		if err != nil {
			return "", err
		}
		line, err := notation.Text(relationship.Relationship)
		if err != nil {
			return "", err
		}
		lines = append(lines, fmt.Sprintf("%d:%d %s", relationship.line, relationship.column, line))
	}
}

func TestReadRelationships(t *testing.T) {
	const validation = `schema: |-
  definition user {}
relationships: |
  // the plan

  document:plan#viewer@user:alice
  document:plan#viewer@user:bob
assertions:
  assertTrue: []
`
	for _, test := range []struct{ name, text, want string }{
		{"graph.txt", "document:plan#viewer@user:alice\n", "1:1 document:plan#viewer@user:alice"},
		{"graph.txt", "// comment\n\n\tdocument:plan#viewer@user:alice  \r\n// end", "3:2 document:plan#viewer@user:alice"},
		{"graph.txt", "document:plan#viewer@user:alice", "1:1 document:plan#viewer@user:alice"},
		{"graph.txt", "", ""},
		{"graph.txt", "document:plan#viewer@group:staff#member", "1:1 document:plan#viewer@group:staff#member"},
		{"graph.txt", "document:plan#viewer@user:*", "1:1 document:plan#viewer@user:*"},
		{"graph.txt", "document:plan#viewer@user:alice#...", "1:1 document:plan#viewer@user:alice"},
		{"graph.txt", `document:a#viewer@user:b[cap:{"limit": 5, "at": "x]<y"}][expiration:2027-01-02T03:04:05Z]`,
			`1:1 document:a#viewer@user:b[cap:{"at":"x]<y","limit":5}][expiration:2027-01-02T03:04:05Z]`},
		{"graph.txt", "document:a#viewer@user:b[cap]", "1:1 document:a#viewer@user:b[cap]"},
		{"all.yaml", validation, "6:3 document:plan#viewer@user:alice\n7:3 document:plan#viewer@user:bob"},
		{"all.yml", `relationships: "document:plan#viewer@user:alice"`, "1:16 document:plan#viewer@user:alice"},
	} {
		got, err := readAll(test.name, test.text)
		if err != nil || got != test.want {
			t.Errorf("%s with %q: %q, %v; want %q", test.name, test.text, got, err, test.want)
		}
	}
}

func TestReadRelationshipsRefused(t *testing.T) {
	for _, test := range []struct{ name, text, want string }{
		{"graph.txt", "\n document:plan viewer alice\n", `graph.txt:2:11: the id "plan viewer alice" is not followed by "#"`},
		{"graph.txt", "document:plan#viewer@user:al ice", "graph.txt:1:"},
		{"graph.txt", "document:plan#viewer@user:alice@example.com", "graph.txt:1:"},
		{"graph.txt", `document:a#viewer@user:b[cap:{"limit":}]`, "graph.txt:1:"},
		{"graph.txt", `document:a#viewer@user:b[expiration:tomorrow]`, "graph.txt:1:"},
		{"graph.txt", "# comment", "graph.txt:1:"},
		{"graph.txt", "document:a#viewer@user:b\n" + strings.Repeat("x", maxLineBytes+1), "graph.txt:2: is longer than"},
		{"all.yaml", "relationships: |\n  document:a#viewer@user:b\n  broken\n", `all.yaml:3:3: "broken" is not followed by ":"`},
		{"all.yaml", "schema: |\n  x\n", `all.yaml: has no text block "relationships"`},
		{"all.yaml", "relationships: [a, b]\n", `all.yaml: has no text block "relationships"`},
		{"all.yaml", "relationships: |\nbroken: [", "all.yaml: is not a SpiceDB validation file"},
		{"all.yaml", "", `all.yaml: has no text block "relationships"`},
	} {
		got, err := readAll(test.name, test.text)
		if err == nil || !strings.HasPrefix(err.Error(), test.want) {
			t.Errorf("%s with %.40q: %q, %v; want an error %q…", test.name, test.text, got, err, test.want)
		}
		if err != nil && len(err.Error()) > 500 {
			t.Errorf("%s: the error has %d bytes", test.name, len(err.Error()))
		}
	}
}
