package source

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	core "github.com/authzed/spicedb/pkg/proto/core/v1"

	"github.com/deputyauth/deputy/pkg/schema"
	coreschema "github.com/deputyauth/deputy/schema"
)

// folder makes a file system of names and texts.
func folder(files map[string]string) fstest.MapFS {
	fsys := fstest.MapFS{}
	for name, text := range files {
		fsys[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return fsys
}

//nolint:dupword // "use import" stands before an import
func TestErrorsHaveAPlace(t *testing.T) {
	const user = "definition user {}\n"
	for name, test := range map[string]struct {
		files map[string]string // the root is dir/root.zed
		want  string
	}{
		"broken syntax":    {map[string]string{"root.zed": user + "definition document {\n\trelation viewer user\n}\n"}, "dir/root.zed:3:18: Expected one of: [Colon], found: Identifier"},
		"wide characters":  {map[string]string{"root.zed": "/* čeština */ definition user {} definition document { relation xxx user }"}, "dir/root.zed:1:69: Expected one of: [Colon], found: Identifier"},
		"odd character":    {map[string]string{"root.zed": user + "definition é {\n\trelation ☃: user\n}"}, "dir/root.zed:3:11: Expected identifier, found token unreadable text"},
		"ends too early":   {map[string]string{"root.zed": user + "definition document {\n\trelation aaa: user\n\n"}, "dir/root.zed:3:20: Expected end of statement or definition, found: end of file"},
		"broken import":    {map[string]string{"root.zed": "use import\nimport \"broken.zed\"\n", "broken.zed": "definition user {\n  relation : user\n}"}, "dir/broken.zed:2:12: Expected identifier, found token Colon"},
		"missing import":   {map[string]string{"root.zed": "use import\n// parts\nimport \"absent.zed\""}, `dir/root.zed:3:1: failed to read import "absent.zed": open absent.zed: file does not exist`},
		"import outside":   {map[string]string{"root.zed": "use import\nimport \"../secret.zed\""}, `dir/root.zed:2:1: import path "../secret.zed" contains '..'; paths must stay within their directory`},
		"absolute import":  {map[string]string{"root.zed": "use import\n  import \"/etc/passwd\""}, `dir/root.zed:2:3: import path "/etc/passwd" is outside the directory where the root schema is defined`},
		"cycle of imports": {map[string]string{"root.zed": "use import\nimport \"a/a.zed\"", "a/a.zed": "use import\n\nimport \"b.zed\"", "a/b.zed": "use import\n\n\nimport \"c.zed\"", "a/c.zed": "use import\nimport \"b.zed\""}, "dir/a/c.zed:2:1: circular import detected: a/b.zed has been visited on this branch"},
		"import of itself": {map[string]string{"root.zed": "use import\nimport \"root.zed\""}, "dir/root.zed:2:1: circular import detected: root.zed has been visited on this branch"},
		"nothing":          {map[string]string{"root.zed": "// only a comment"}, "dir/root.zed: defines nothing"},
		"only a partial":   {map[string]string{"root.zed": "use partial\npartial a {\n\trelation bbb: user\n}"}, "dir/root.zed: defines nothing"},

		"type twice":                {map[string]string{"root.zed": user + user}, "dir/root.zed:2:1: found name reused between multiple definitions and/or caveats: user"},
		"type twice, imported":      {map[string]string{"root.zed": "use import\nimport \"a.zed\"\n" + user, "a.zed": user}, "dir/root.zed:3:1: found name reused between multiple definitions and/or caveats: user"},
		"relation twice":            {map[string]string{"root.zed": user + "definition document {\n\trelation aaa: user\n\trelation aaa: user\n}"}, "dir/root.zed:4:2: document has aaa twice, first at dir/root.zed:3:2"},
		"relation twice, a partial": {map[string]string{"root.zed": "use import\nuse partial\nimport \"p.zed\"\n" + user + "definition document {\n\trelation aaa: user\n\t...ppp\n}", "p.zed": "use partial\npartial ppp {\n  relation aaa: user\n}"}, "dir/root.zed:7:2: document has aaa twice, first at dir/root.zed:6:2"},
		"partial twice":             {map[string]string{"root.zed": "use import\nuse partial\nimport \"p.zed\"\npartial ppp {\n}\n" + user, "p.zed": "use partial\npartial ppp {\n}"}, "dir/p.zed:2:1: partial ppp is defined twice, first at dir/root.zed:4:1"},
		"unknown partial":           {map[string]string{"root.zed": "use partial\n" + user + "definition document {\n\t...nowhere\n}"}, "dir/root.zed:4:2: could not find partial reference with name nowhere"},
		"partial in a circle":       {map[string]string{"root.zed": "use partial\npartial a {\n\t...a\n}\n" + user}, "dir/root.zed:3:2: partial a is not defined, or is a part of itself"},

		"unknown type":              {map[string]string{"root.zed": user + "definition document {\n\trelation aaa: user | starship\n}"}, "dir/root.zed:3:23: could not lookup definition `starship` for relation `aaa`: object definition `starship` not found"},
		"unknown type in a partial": {map[string]string{"root.zed": "use import\nuse partial\nimport \"parts/p.zed\"\n" + user + "definition document {\n\trelation zzz: user\n\t...ppp\n}", "parts/p.zed": "use partial\npartial ppp {\n\n  relation aaa: ship\n}"}, "dir/parts/p.zed:4:17: could not lookup definition `ship` for relation `aaa`: object definition `ship` not found"},
		"unknown type, read above":  {map[string]string{"root.zed": "use import\nuse partial\nimport \"p.zed\"\n" + user + "definition document {\n\tpermission bbb = aaa\n\t...ppp\n}", "p.zed": "use partial\npartial ppp {\n  relation aaa: ship\n}"}, "dir/p.zed:3:17: could not lookup definition `ship` for relation `aaa`: object definition `ship` not found"},
		"unknown relation":          {map[string]string{"root.zed": user + "definition document {\n\trelation aaa: user#bbb\n}"}, "dir/root.zed:3:16: relation/permission `bbb` not found under definition `user`"},
		"unknown member":            {map[string]string{"root.zed": user + "definition document {\n\trelation aaa: user\n\tpermission bbb = aaa + ccc\n\tpermission ddd = bbb\n}"}, "dir/root.zed:4:25: relation/permission `ccc` not found under definition `document`"},
		"names in a circle":         {map[string]string{"root.zed": user + "definition document {\n\tpermission aaa = bbb\n\tpermission bbb = ccc\n\tpermission ccc = bbb\n}"}, "dir/root.zed:4:2: permissions of document are names for each other, in a circle, and say nothing else: bbb = ccc = bbb"},
		"unknown caveat":            {map[string]string{"root.zed": user + "definition document {\n\trelation aaa: user with never\n}"}, "dir/root.zed:3:16: could not lookup caveat `never` for relation `aaa`: caveat with name `never` not found"},
		"subject twice":             {map[string]string{"root.zed": user + "definition document {\n\trelation aaa: user | user\n}"}, "dir/root.zed:3:23: found duplicate allowed subject type `user` on relation `aaa` under definition `document`"},
		"broken caveat":             {map[string]string{"root.zed": user + "caveat ccc(a int) {\n\ta > 1 &&\n\t  b < 2\n}"}, "dir/root.zed:4:4: invalid expression for caveat `ccc`: undeclared reference to 'b' (in container '')"},
		"caveat that is no bool":    {map[string]string{"root.zed": user + "caveat ccc(a int) {\n\ta + 1\n}"}, "dir/root.zed:3:2: invalid expression for caveat `ccc`: caveat expression must result in a boolean value: found `int`"},
		"unused parameter":          {map[string]string{"root.zed": user + "caveat ccc(a int, b int) {\n\ta > 1\n}"}, "dir/root.zed:2:1: parameter b of caveat ccc is unused"},
		"deep":                      {map[string]string{"root.zed": user + "definition ddd {\n\tpermission aaa = " + strings.Repeat("(", 100_000)}, "dir/root.zed:3:219: nested more than 200 deep"},
		"long":                      {map[string]string{"root.zed": user + "definition ddd {\n\tpermission aaa = bbb" + strings.Repeat(" - bbb", 100_000) + "\n}"}, "dir/root.zed:3:30023: more than 5000 operators in one expression"},
		"not UTF-8":                 {map[string]string{"root.zed": user + "// ok \xff"}, "dir/root.zed:2:7: not UTF-8 text"},
		"not UTF-8, imported":       {map[string]string{"root.zed": "use import\nimport \"a.zed\"", "a.zed": "\xff"}, "dir/a.zed:1:1: not UTF-8 text"},
		"too large":                 {map[string]string{"root.zed": user + "//" + strings.Repeat("x", MaxBytes)}, "dir/root.zed: the schema is larger than 4 MiB"},
		"too large, together":       {map[string]string{"root.zed": "use import\nimport \"a.zed\"\n//" + strings.Repeat("x", MaxBytes/2), "a.zed": "//" + strings.Repeat("x", MaxBytes/2)}, "dir/a.zed: the schema is larger than 4 MiB"},
		"no file":                   {nil, "dir/root.zed: file does not exist"},
	} {
		files := map[string]string{"secret.zed": user}
		for path, text := range test.files {
			files["dir/"+path] = text
		}
		for range 3 { // SpiceDB's type system walks a map: its order must not show
			_, err := Load(folder(files), "dir/root.zed", Options{})
			if err == nil || err.Error() != test.want {
				t.Errorf("%s: the error is\n%v, want\n%s", name, err, test.want)
			}
			if at, ok := errors.AsType[*Error](err); !ok || at.File == "" {
				t.Errorf("%s: a %T is not an *Error with a file", name, err)
			}
		}
	}
}

// A schema inside a YAML file is reported where it stands there.
//
// TestCoreBesideAnotherForm: a core that does not fit what the schema has under its names is complained about there.
func TestCoreBesideAnotherForm(t *testing.T) {
	t.Parallel()
	text := "definition user {}\ndefinition document {\n\trelation reader: user\n}\n\ndefinition tenant {\n\trelation member: user\n}\n"
	want := "s.zed:6:1: Deputy's delegation cannot be added to the schema, which has definitions of the core's names in another form: "
	if _, err := Parse("s.zed", text, nil, Options{Core: true}); err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("%v, want %s", err, want)
	}
	if _, err := Parse("s.zed", text, nil, Options{}); err != nil {
		t.Errorf("without the core: %v", err)
	}
}

//nolint:dupword // "use import" stands before an import
func TestPositionsInAnEnclosingFile(t *testing.T) {
	yaml := "# fixture\nschema: |-\n    definition user {}\n    definition document {\n    \trelation aaa: user\n    \tpermission bbb = aaa + ccc\n    }\n"
	text := "definition user {}\ndefinition document {\n\trelation aaa: user\n\tpermission bbb = aaa + ccc\n}"
	at := Options{At: Position{File: "tests/a.yaml", Line: 3, Column: 5}, Indent: 4}

	_, err := Parse("tests/a.yaml", text, nil, at)
	if want := "tests/a.yaml:6:29: relation/permission `ccc` not found under definition `document`"; err == nil || err.Error() != want {
		t.Errorf("the error is %v, want %s", err, want)
	}
	if line := strings.Split(yaml, "\n")[6-1]; line[29-1] != 'c' {
		t.Errorf("column 29 of %q is not the c: the test is wrong", line)
	}

	s, err := Parse("tests/a.yaml", strings.Replace(text, " + ccc", "", 1), nil, at)
	if err != nil {
		t.Fatal(err)
	}
	user, _ := s.Type("user")
	if user.String() != "tests/a.yaml:3:5" || user.End.String() != "tests/a.yaml:3:23" {
		t.Errorf("user is at %s to %s", user, user.End)
	}
	if a, _ := s.Member(schema.Name{Type: "document", Member: "aaa"}); a.String() != "tests/a.yaml:5:6" {
		t.Errorf("document#aaa is at %s", a)
	}
	if _, err := Parse("a.yaml", "use import\nimport \"x.zed\"", nil, at); err == nil || !strings.Contains(err.Error(), "tests/a.yaml:4:5: ") || !strings.Contains(err.Error(), "no folder to import from") {
		t.Errorf("an import without a folder: %v", err)
	}
}

//nolint:dupword // "use import" stands before an import
func TestPlaces(t *testing.T) {
	s, err := Load(folder(map[string]string{
		"dir/root.zed": `use import
use partial
import "parts/sharing.zed"

/**
 * document is a text.
 * It has readers.
 */
definition document {
	relation reader: user
	// lint:ignore no-tenant it is public
	// owner owns it: ünïcode.

	/* and more */
	relation owner: user // not about anything
	...sharing

	permission view = reader +
		writer & /* only */ owner
}

// limit is one.
caveat limit(a int) {
	a < 1
}
`,
		"dir/parts/sharing.zed": "use partial\nuse import\nimport \"user.zed\"\n\npartial sharing {\n\t...deeper\n}\n",
		"dir/parts/user.zed":    "use partial\n\npartial deeper {\n\t/** writer writes. */\n\trelation writer: user | user:*\n}\ndefinition user {}\n",
	}), "dir/root.zed", Options{Core: true})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	say := func(name string, place Place, ok bool) {
		var comments []string
		for _, c := range place.Comments {
			comments = append(comments, fmt.Sprintf("%d:%d %s", c.Line, c.Column, c.Text))
		}
		got = append(got, fmt.Sprintf("%s %v %s-%d:%d %q %q %q", name, ok, place, place.End.Line, place.End.Column, place.Doc, place.Partial, comments))
	}
	for _, m := range []string{"reader", "owner", "writer", "view", "nothing"} {
		place, ok := s.Member(schema.Name{Type: "document", Member: m})
		say(m, place, ok)
	}
	for _, name := range []string{"document", "user", "session"} {
		place, ok := s.Type(name)
		say(name, place, ok)
	}
	for _, name := range []string{"limit", "issued"} {
		place, ok := s.Caveat(name)
		say(name, place, ok)
	}
	want := []string{
		`reader true dir/root.zed:10:2-10:23 "" "" []`,
		`owner true dir/root.zed:15:2-15:22 "owner owns it: ünïcode.\nand more" "" ["11:5 lint:ignore no-tenant it is public" "12:5 owner owns it: ünïcode." "14:5 and more"]`,
		`writer true dir/parts/user.zed:5:2-5:32 "writer writes." "deeper" ["4:6 writer writes."]`,
		`view true dir/root.zed:18:2-19:28 "" "" []`,
		`nothing false -0:0 "" "" []`,
		`document true dir/root.zed:9:1-20:2 "document is a text.\nIt has readers." "" ["6:4 document is a text." "7:4 It has readers."]`,
		`user true dir/parts/user.zed:7:1-7:19 "" "" []`,
		`session false -0:0 "" "" []`,
		`limit true dir/root.zed:23:1-25:2 "limit is one." "" ["22:4 limit is one."]`,
		`issued false -0:0 "" "" []`,
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("got  %s\nwant %s", got[i], want[i])
		}
	}

	var files []string
	for _, f := range s.Files {
		files = append(files, f.Path)
	}
	if !slices.Equal(files, []string{"dir/root.zed", "dir/parts/sharing.zed", "dir/parts/user.zed"}) {
		t.Errorf("the files are %q", files)
	}

	document := s.Objects[slices.IndexFunc(s.Objects, func(d *core.NamespaceDefinition) bool { return d.GetName() == "document" })]
	for _, m := range document.GetRelation() {
		switch m.GetName() {
		case "writer":
			if p := s.Within(schema.Name{Type: "document", Member: "writer"}, m.GetTypeInformation().GetAllowedDirectRelations()[1].GetSourcePosition()); p.String() != "dir/parts/user.zed:5:26" {
				t.Errorf("user:* is at %s", p)
			}
		case "view":
			operand := m.GetUsersetRewrite().GetIntersection().GetChild()[1]
			if p := s.Within(schema.Name{Type: "document", Member: "view"}, operand.GetSourcePosition()); p.String() != "dir/root.zed:19:23" {
				t.Errorf("the second owner is at %s", p)
			}
		}
	}
	if p := s.Within(schema.Name{Type: "document", Member: "view"}, nil); p.String() != "dir/root.zed:18:2" {
		t.Errorf("a part without a position is at %s, want the member's place", p)
	}
	if p := s.Within(schema.Name{Type: "document", Member: "nothing"}, &core.SourcePosition{}); p != (Position{}) {
		t.Errorf("a member that is not there is at %s", p)
	}
}

// The whole support desk is found where it is.
func TestPlacesOfTheSupportDesk(t *testing.T) {
	s, err := Load(coreschema.SupportDesk, "supportdesk/supportdesk.zed", Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, definition := range s.Objects {
		if place, ok := s.Type(definition.GetName()); !ok || !strings.HasPrefix(s.at(t, place), "definition "+definition.GetName()+" {") {
			t.Errorf("%s is at %s", definition.GetName(), place)
		}
		for _, m := range definition.GetRelation() {
			place, ok := s.Member(schema.Name{Type: definition.GetName(), Member: m.GetName()})
			said := s.at(t, place)
			if !ok || !strings.HasPrefix(said, "relation "+m.GetName()+":") && !strings.HasPrefix(said, "permission "+m.GetName()+" =") || place.Doc == "" {
				t.Errorf("%s#%s is at %s, documented %q", definition.GetName(), m.GetName(), place, place.Doc)
			}
		}
	}
}

// at returns what stands at a place.
func (s *Schema) at(t *testing.T, place Place) string {
	t.Helper()
	for _, f := range s.Files {
		if f.Path == place.File {
			return strings.Split(f.Text, "\n")[place.Line-1][place.Column-1:]
		}
	}
	t.Fatalf("%s is in no file", place)
	return ""
}

// A link may not lead out of the folder, and what cannot be opened is an error like the others.
func TestLoadRefusesPaths(t *testing.T) {
	for _, path := range []string{"../root.zed", "/root.zed", ""} {
		if _, err := Load(fstest.MapFS{}, path, Options{}); err == nil || !strings.Contains(err.Error(), "not a path within the folder") {
			t.Errorf("%q: %v", path, err)
		}
	}
	if _, err := Load(fstest.MapFS{"dir": {Mode: fs.ModeDir}}, "dir", Options{}); err == nil || !strings.HasPrefix(err.Error(), "dir: ") {
		t.Errorf("a folder: %v", err)
	}
}

// FuzzParse: whatever the text, there is a schema or an *Error, and its flat text says the same again.
//
//nolint:dupword // "use import" stands before an import
func FuzzParse(f *testing.F) {
	f.Add("use expiration\ndefinition user {}\ndefinition document {\n\trelation aaa: user with expiration | user:*\n\tpermission bbb = (aaa - aaa) & aaa.all(ccc)\n}")
	f.Add("use partial\npartial ppp {\n\t...qqq\n}\npartial qqq {\n\trelation aaa: user\n}\ndefinition user {\n\t...ppp\n}")
	f.Add("caveat ccc(a map<list<int>>, b ipaddress) {\n\ta == b || '''x''' == \"\"\"y\"\"\"\n}\n// é")
	f.Add("use import\nimport \"a.zed\"\r\n/* */;definition aaa/bbb {};")
	f.Add("use typechecking\nuse self\ndefinition user {\n\trelation aaa: user\n\tpermission bbb: user = self + nil + aaa->aaa\n}")
	imports := folder(map[string]string{"a.zed": "definition imported {}"})
	f.Fuzz(func(t *testing.T, text string) {
		s, err := Parse("fuzz.zed", text, imports, Options{Core: true})
		if err != nil {
			if at, ok := errors.AsType[*Error](err); !ok || at.File == "" || strings.Contains(err.Error(), "\n") {
				t.Fatalf("the error is %v", err)
			}
			return
		}
		if _, err := s.Flat(); err != nil {
			t.Fatalf("%q has no flat text: %v", text, err)
		}
	})
}

// TestMixesOperators: each operator is told from those beside it, and not from those in other parentheses.
func TestMixesOperators(t *testing.T) {
	for expression, want := range map[string]bool{
		"aaa": false, "aaa + bbb + ccc": false, "aaa - bbb - ccc": false, "aaa->bbb - ccc": false, "aaa + bbb - ccc": false,
		"aaa - bbb + ccc": true, "aaa & bbb + ccc": true, "aaa + bbb & ccc": true, "aaa & bbb - ccc": true, "aaa - bbb & ccc": true,
		"(aaa - bbb) + ccc": false, "aaa - (bbb + ccc)": false, "aaa + (bbb & ccc - aaa)": true, "aaa.all(bbb) - bbb": false,
		"(aaa & bbb) - (bbb + /* - */ ccc)": false,
	} {
		s, err := Parse("a.zed", "definition user {}\ndefinition ddd {\n\trelation aaa: user\n\trelation bbb: user\n\trelation ccc: user\n"+
			"\tpermission vvv = "+expression+"\n}\n", nil, Options{})
		if err != nil {
			t.Fatal(err)
		}
		if got := s.MixesOperators(schema.Name{Type: "ddd", Member: "vvv"}); got != want {
			t.Errorf("%s: %v, want %v", expression, got, want)
		}
	}
}

// TestModel: the model is read once, by whichever goroutine asks first.
func TestModel(t *testing.T) {
	s, err := Load(coreschema.SupportDesk, "supportdesk/supportdesk.zed", Options{Core: true})
	if err != nil {
		t.Fatal(err)
	}
	models := make(chan *schema.Schema)
	for range 4 {
		go func() {
			m, _ := s.Model()
			models <- m
		}()
	}
	first := <-models
	for range 3 {
		if m := <-models; m != first || len(m.Types) != len(s.Objects) {
			t.Errorf("another model, of %d types", len(m.Types))
		}
	}
}
