package cli

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	authzed "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"
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
		line, err := relationshipText(relationship)
		if err != nil {
			return "", err
		}
		lines = append(lines, fmt.Sprintf("%d %s", reader.line, line))
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
		{"graph.txt", "document:plan#viewer@user:alice\n", "1 document:plan#viewer@user:alice"},
		{"graph.txt", "// comment\n\n\tdocument:plan#viewer@user:alice  \r\n// end", "3 document:plan#viewer@user:alice"},
		{"graph.txt", "document:plan#viewer@user:alice", "1 document:plan#viewer@user:alice"},
		{"graph.txt", "", ""},
		{"graph.txt", "document:plan#viewer@group:staff#member", "1 document:plan#viewer@group:staff#member"},
		{"graph.txt", "document:plan#viewer@user:*", "1 document:plan#viewer@user:*"},
		{"graph.txt", "document:plan#viewer@user:alice#...", "1 document:plan#viewer@user:alice"},
		{"graph.txt", `document:a#viewer@user:b[cap:{"limit": 5, "at": "x]<y"}][expiration:2027-01-02T03:04:05Z]`,
			`1 document:a#viewer@user:b[cap:{"at":"x]<y","limit":5}][expiration:2027-01-02T03:04:05Z]`},
		{"graph.txt", "document:a#viewer@user:b[cap]", "1 document:a#viewer@user:b[cap]"},
		{"all.yaml", validation, "6 document:plan#viewer@user:alice\n7 document:plan#viewer@user:bob"},
		{"all.yml", `relationships: "document:plan#viewer@user:alice"`, "1 document:plan#viewer@user:alice"},
	} {
		got, err := readAll(test.name, test.text)
		if err != nil || got != test.want {
			t.Errorf("%s with %q: %q, %v; want %q", test.name, test.text, got, err, test.want)
		}
	}
}

func TestReadRelationshipsRefused(t *testing.T) {
	for _, test := range []struct{ name, text, want string }{
		{"graph.txt", "\ndocument:plan viewer alice\n", `graph.txt:2: "document:plan viewer alice": invalid relationship string`},
		{"graph.txt", "document:plan#viewer@user:al ice", "graph.txt:1:"},
		{"graph.txt", "document:plan#viewer@user:alice@example.com", "graph.txt:1:"},
		{"graph.txt", `document:a#viewer@user:b[cap:{"limit":}]`, "graph.txt:1:"},
		{"graph.txt", `document:a#viewer@user:b[expiration:tomorrow]`, "graph.txt:1:"},
		{"graph.txt", "# comment", "graph.txt:1:"},
		{"graph.txt", "document:a#viewer@user:b\n" + strings.Repeat("x", maxLineBytes+1), "graph.txt:2: is longer than"},
		{"all.yaml", "relationships: |\n  document:a#viewer@user:b\n  broken\n", "all.yaml:3:"},
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

// TestRelationshipTextRoundTrip: whatever is exported is imported as the same.
func TestRelationshipTextRoundTrip(t *testing.T) {
	id := rapid.StringMatching(`[a-zA-Z0-9/_|\-=+]{1,20}`)
	name := rapid.StringMatching(`[a-z][a-z0-9_]{1,10}[a-z0-9]`)
	rapid.Check(t, func(t *rapid.T) {
		r := &authzed.Relationship{
			Resource: &authzed.ObjectReference{ObjectType: name.Draw(t, "type"), ObjectId: id.Draw(t, "id")},
			Relation: name.Draw(t, "relation"),
			Subject: &authzed.SubjectReference{
				Object: &authzed.ObjectReference{ObjectType: name.Draw(t, "subject type"), ObjectId: id.Draw(t, "subject id")},
			},
		}
		if rapid.Bool().Draw(t, "userset") {
			r.Subject.OptionalRelation = name.Draw(t, "subject relation")
		}
		if rapid.Bool().Draw(t, "caveat") {
			r.OptionalCaveat = &authzed.ContextualizedCaveat{CaveatName: name.Draw(t, "caveat name")}
			fields := map[string]any{}
			for key, value := range rapid.MapOfN(name, rapid.String(), 0, 3).Draw(t, "context") {
				fields[key] = value
			}
			if rapid.Bool().Draw(t, "number") {
				fields["number"] = rapid.Float64().Draw(t, "value")
			}
			if len(fields) > 0 {
				context, err := structpb.NewStruct(fields)
				if err != nil {
					t.Skip(err)
				}
				r.OptionalCaveat.Context = context
			}
		}
		if rapid.Bool().Draw(t, "expires") {
			r.OptionalExpiresAt = &timestamppb.Timestamp{
				Seconds: rapid.Int64Range(0, 253402300799).Draw(t, "seconds"),
				Nanos:   rapid.Int32Range(0, 999999999).Draw(t, "nanos"),
			}
		}
		text, err := relationshipText(r)
		if err != nil {
			t.Fatal(err)
		}
		reader, err := newRelationshipReader("graph.txt", strings.NewReader(text+"\n"))
		if err != nil {
			t.Fatal(err)
		}
		back, err := reader.next()
		if err != nil {
			t.Fatal(err)
		}
		if !proto.Equal(r, back) {
			t.Fatalf("%s\nwas read from %s\nwritten for %s", back, text, r)
		}
	})
}
