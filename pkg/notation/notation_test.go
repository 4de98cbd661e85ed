package notation_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	core "github.com/authzed/spicedb/pkg/proto/core/v1"
	"github.com/authzed/spicedb/pkg/schemadsl/compiler"
	"github.com/authzed/spicedb/pkg/tuple"
	"google.golang.org/protobuf/types/known/structpb"
	"pgregory.net/rapid"

	"github.com/deputyauth/deputy/pkg/notation"
)

// TestParse: a relationship is read, and written in its one form.
func TestParse(t *testing.T) {
	for text, want := range map[string]string{
		"document:plan#viewer@user:alice":                                               "",
		"document:plan#viewer@group:staff#member":                                       "",
		"document:plan#viewer@user:*":                                                   "",
		"document:plan#viewer@user:alice#...":                                           "document:plan#viewer@user:alice",
		"app/document:plan#viewer@app/user:alice":                                       "",
		"document:a#viewer@user:b[cap]":                                                 "",
		"document:a#viewer@user:b[ip]":                                                  "",
		`document:a#viewer@user:b[ip:{"cidr":"x]@#:"}]`:                                 "",
		"document:a#viewer@user:b#...[ip]":                                              "document:a#viewer@user:b[ip]",
		"document:a#viewer@user:b#member[ip]":                                           "",
		"document:a#viewer@user:b[expiration]":                                          "",
		`document:a#viewer@user:b[expiration:{"a":1}][expiration:2027-01-02T03:04:05Z]`: "",
		"document:a#viewer@user:b[expiration:2027-01-02T03:04:05.123456789Z]":           "",
		"document:a#viewer@user:b[expiration:2027-01-02T04:04:05+01:00]":                "document:a#viewer@user:b[expiration:2027-01-02T03:04:05Z]",
		`document:a#viewer@user:b[cap:{"limit": 5, "at": "x]<y"}]`:                      `document:a#viewer@user:b[cap:{"at":"x]<y","limit":5}]`,
		`document:a#viewer@user:b[cap:{}]`:                                              "document:a#viewer@user:b[cap]",
		// 2^60 is exact as a double, and must not come back as 1152921504606847000.
		`document:a#viewer@user:b[cap:{"n":1152921504606846976}]`: "",
		`document:a#viewer@user:b[cap:{"n":-9007199254740992}]`:   "",
		`document:a#viewer@user:b[cap:{"n":[1e+300,0.1]}]`:        "",
	} {
		if want == "" {
			want = text
		}
		r, err := notation.Parse(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if got, err := notation.Text(r); err != nil || got != want {
			t.Errorf("%s is written as %s, %v; want %s", text, got, err, want)
		}
	}
}

// TestParseRefused: an error names the part that is wrong, and the column where it begins.
func TestParseRefused(t *testing.T) {
	for text, want := range map[string]string{
		"document:plan viewer alice":                                        `10: the id "plan viewer alice" is not followed by "#"`,
		"document":                                                          `1: "document" is not followed by ":"`,
		"document:plan#viewer":                                              `15: "viewer" is not followed by "@"`,
		"document:plan#viewer@user":                                         `22: "user" is not followed by ":"`,
		"Document:plan#viewer@user:alice":                                   `1: "Document" is not the name of a type`,
		"document:plan#V@user:alice":                                        `15: "V" is not the name of a relation`,
		"document:plan#viewer@user:alice@example.com":                       `27: the id "alice@example.com" has characters that SpiceDB does not store: Deputy stores it as =alice=40example=2Ecom`,
		"doc:a#reader@user:b doc:c#reader@user:d":                           `21: a second relationship begins at "doc:c#reader@user:d": write one a line`,
		"doc:a#reader@team:b#member  doc:c#reader@user:d[x]":                `29: a second relationship begins at "doc:c#reader@user:d[x]": write one a line`,
		"doc:a#reader@user:b[x] doc:c#reader@user:d":                        `24: a second relationship begins at "doc:c#reader@user:d": write one a line`,
		"document:plän#viewer@user:al ice":                                  `10: the id "plän" has characters`,
		"document:plan#viewer@user:ällice@ #Member":                         `27: the id "ällice@ "`,
		"document:#viewer@user:alice":                                       `10: the id "" is empty`,
		"document:*#viewer@user:alice":                                      `10: the resource's id is *`,
		"document:plan#viewer@user:alice#Member":                            `33: "Member" is not the name of a relation`,
		"document:plan#viewer@user:alice[a cap]":                            `33: "a cap" is not the name of a caveat`,
		"document:plan#viewer@user:alice[cap":                               `36: the caveat cap is not closed`,
		`document:plan#viewer@user:alice[cap:{"n":}]`:                       `37: the context of the caveat cap: `,
		`document:plan#viewer@user:alice[cap:{"n":1]`:                       `37: the context of the caveat cap: `,
		`document:plan#viewer@user:alice[cap:[1]]`:                          `37: the context of the caveat cap: must be a JSON object`,
		`document:plan#viewer@user:alice[cap:{"n":1,"n":2}]`:                `37: the context of the caveat cap: "n" is there twice`,
		`document:plan#viewer@user:alice[cap:{"n":9007199254740993}]`:       `37: the context of the caveat cap: 9007199254740993 would become 9007199254740992 as a number: write it as a text`,
		`document:plan#viewer@user:alice[cap:{"n":1e999}]`:                  `37: the context of the caveat cap: 1e999 is too large`,
		"document:plan#viewer@user:alice[expiration:tomorrow]":              `44: "tomorrow" is not a time`,
		"document:plan#viewer@user:alice[expiration:0000-01-01T00:00:00Z]":  `44: "0000-01-01T00:00:00Z" is not a time`,
		"document:plan#viewer@user:alice[cap][cap]":                         `37: "[cap]" is left over`,
		"document:plan#viewer@user:alice[expiration:2027-01-02T03:04:05Z]x": `65: "x" is left over`,
	} {
		_, err := notation.Parse(text)
		if err == nil {
			t.Errorf("%s is read", text)
			continue
		}
		if got := fmt.Sprintf("%d: %v", notation.ColumnOf(err), err); !strings.HasPrefix(got, want) {
			t.Errorf("%s:\n got %s\nwant %s", text, got, want)
		}
	}
}

func TestContext(t *testing.T) {
	got, err := notation.Context(` {"amount": 150, "who": {"role": ["x", null, true]}} `)
	if err != nil || got.GetFields()["amount"].GetNumberValue() != 150 {
		t.Errorf("the context is read as %v, %v", got, err)
	}
	for bad, want := range map[string]string{
		"":                                 `the JSON object is not closed`,
		"null":                             `must be a JSON object`,
		"[]":                               `must be a JSON object`,
		"{":                                `the JSON object is not closed`,
		`{"a":1} {}`:                       `"{}" is left over`,
		`{"a":{"b":1,"b":2}}`:              `"b" is there twice`,
		`{"a":[18446744073709551615]}`:     `18446744073709551615 would become 18446744073709551616`,
		strings.Repeat(`{"a":`, 101) + "1": "is nested deeper than 100 levels",
	} {
		if _, err := notation.Context(bad); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60s: the error is %v, want %q", bad, err, want)
		}
	}
}

// TestWrittenIsRead: whatever a schema can name and SpiceDB's API takes is read again from what is written of it, caveats with
// names of one or two letters and whole numbers beyond 2^53 included.
func TestWrittenIsRead(t *testing.T) {
	identifier := rapid.OneOf(rapid.StringMatching(`[a-z][a-z0-9]{0,5}`), rapid.StringMatching(`[a-z][a-z0-9_]{1,10}[a-z0-9]`),
		rapid.StringMatching(`[a-zA-Z_][a-zA-Z0-9_]{0,2}`))
	id := rapid.StringMatching(`[a-zA-Z0-9/_|\-=+]{1,20}`)
	accepted, short := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		caveat, parameter := identifier.Draw(t, "caveat"), identifier.Draw(t, "parameter")
		typeName, relation := identifier.Draw(t, "type"), identifier.Draw(t, "relation")
		text := fmt.Sprintf("use expiration\ncaveat %s(%s any) {\n  %s == 1\n}\ndefinition user {}\ndefinition %s {\n  relation %s: user with %s and expiration\n}\n",
			caveat, parameter, parameter, typeName, relation, caveat)
		compiled, err := compiler.Compile(compiler.InputSchema{Source: "s.zed", SchemaString: text}, compiler.AllowUnprefixedObjectType())
		if err != nil {
			return // nothing can be stored under a schema that is refused
		}
		r := tuple.Relationship{RelationshipReference: tuple.RelationshipReference{
			Resource: tuple.ObjectAndRelation{
				ObjectType: compiled.ObjectDefinitions[1].GetName(), ObjectID: id.Draw(t, "id"),
				Relation: compiled.ObjectDefinitions[1].GetRelation()[0].GetName(),
			},
			Subject: tuple.ObjectAndRelation{ObjectType: "user", ObjectID: id.Draw(t, "subject id"), Relation: tuple.Ellipsis},
		}}
		r.OptionalCaveat = &core.ContextualizedCaveat{CaveatName: compiled.CaveatDefinitions[0].GetName()}
		if fields := drawFields(t, parameter); fields != nil {
			if r.OptionalCaveat.Context, err = structpb.NewStruct(fields); err != nil {
				t.Fatal(err)
			}
		}
		if rapid.Bool().Draw(t, "expires") {
			at := time.Unix(rapid.Int64Range(0, 253402300799).Draw(t, "seconds"), rapid.Int64Range(0, 999999999).Draw(t, "nanos")).UTC()
			r.OptionalExpiration = &at
		}
		if tuple.ToV1Relationship(r).Validate() != nil {
			return // SpiceDB's API does not take it, so that nobody exports it
		}
		accepted++
		if len(r.OptionalCaveat.GetCaveatName()) < 3 {
			short++
		}
		written, err := notation.Text(r)
		if err != nil {
			t.Fatal(err)
		}
		read, err := notation.Parse(written)
		if err != nil {
			t.Fatalf("%s: %v", written, err)
		}
		if !tuple.Equal(r, read) {
			t.Fatalf("%s was read as %v, written for %v", written, read, r)
		}
	})
	if !testing.Short() && (accepted < 5 || short == 0) { // with -short few schemas are drawn
		t.Errorf("%d schemas were accepted, %d with a short name of a caveat", accepted, short)
	}
}

// drawFields draws a context of one parameter; nil for none.
func drawFields(t *rapid.T, parameter string) map[string]any {
	switch rapid.IntRange(0, 4).Draw(t, "kind of context") {
	case 0:
		return nil
	case 1:
		return map[string]any{parameter: rapid.String().Draw(t, "text")}
	case 2:
		return map[string]any{parameter: rapid.Float64().Draw(t, "number")}
	case 3:
		return map[string]any{parameter: float64(rapid.Int64().Draw(t, "whole number"))}
	default:
		return map[string]any{parameter: []any{map[string]any{"a]": nil, "b": true}, float64(rapid.Uint64().Draw(t, "large number"))}}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(`document:a#viewer@user:b[cap:{}]`)
	f.Add(`document:a#viewer@user:b[cap:{"n":[1,"x"]}][expiration:2027-01-02T03:04:05Z]`)
	f.Fuzz(func(t *testing.T, text string) {
		r, err := notation.Parse(text)
		if err != nil {
			return
		}
		written, err := notation.Text(r)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := notation.Parse(written); err != nil || !tuple.Equal(r, again) {
			t.Fatalf("%q is written as %q, which is read as %v, %v", text, written, again, err)
		}
	})
}
