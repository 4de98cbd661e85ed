package diff

import (
	"encoding/json"
	"strings"
	"testing"
)

const (
	reportOld = "definition document {\n\trelation reader: user\n\trelation old: user\n\tpermission view = reader\n}\n"
	reportNew = "// commented\ndefinition document {\n\trelation reader: user | user:*\n\trelation fresh: user\n\tpermission view = reader\n}\n"
)

func reported(t *testing.T) []Change {
	t.Helper()
	all, err := Diff(parse(t, "old, 1.zed", reportOld), parse(t, "new.zed", reportNew))
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestText(t *testing.T) {
	const comment = "new.zed:2:1: compatible: the comment changed on document (was at old, 1.zed:1:1)\n"
	want := `new.zed:4:2: compatible: relation document#fresh is new: nobody is in it yet
old, 1.zed:3:2: breaking: relation document#old is gone: requests that name it fail, and SpiceDB refuses the schema while it has relationships
new.zed:3:26: widening: relation document#reader admits user:* (was at old, 1.zed:2:2): one such relationship lets everybody of the type in
new.zed:5:2: widening: permission document#view is affected through document#reader (was at old, 1.zed:4:2): every subject that had it keeps it, and others may get it
` + comment + `Changes: 1 breaking, 2 widening, 1 compatible
`
	for verbose, want := range map[bool]string{true: want, false: strings.Replace(want, comment, "", 1)} {
		var b strings.Builder
		if err := Text(&b, reported(t), verbose); err != nil || b.String() != want {
			t.Errorf("got %v\n%s\nwant\n%s", err, &b, want)
		}
	}
	var b strings.Builder
	if err := Text(&b, nil, false); err != nil || b.String() != "Nothing changes for anybody.\n" {
		t.Errorf("no change: %v, %q", err, &b)
	}
}

func TestGitHub(t *testing.T) {
	all := append(reported(t), Change{Kind: CaveatChanged, Caveat: "late", Old: "a % b\n", New: "a", Breaking: true, Widening: true})
	want := `::notice file=new.zed,line=4,col=2,title=schema diff%3A compatible::relation document#fresh is new: nobody is in it yet
::error file=old%2C 1.zed,line=3,col=2,title=schema diff%3A breaking::relation document#old is gone: requests that name it fail, and SpiceDB refuses the schema while it has relationships
::warning file=new.zed,line=3,col=26,title=schema diff%3A widening::relation document#reader admits user:*: one such relationship lets everybody of the type in
::warning file=new.zed,line=5,col=2,title=schema diff%3A widening::permission document#view is affected through document#reader: every subject that had it keeps it, and others may get it
::error title=schema diff%3A breaking%2C widening::caveat late was "a %25 b\n" and is "a"
`
	var b strings.Builder
	if err := GitHub(&b, all, func(c Change) bool { return c.Breaking }); err != nil || b.String() != want {
		t.Errorf("got %v\n%s\nwant\n%s", err, &b, want)
	}
}

func TestJSON(t *testing.T) {
	var b strings.Builder
	if err := JSON(&b, reported(t)); err != nil {
		t.Fatal(err)
	}
	var got struct {
		Breaking, Widening, Compatible int
		Changes                        []map[string]any
	}
	if err := json.Unmarshal([]byte(b.String()), &got); err != nil {
		t.Fatal(err)
	}
	if got.Breaking != 1 || got.Widening != 2 || got.Compatible != 1 || len(got.Changes) != 5 {
		t.Fatalf("got %+v", got)
	}
	for key, want := range map[string]any{
		"class": "widening", "kind": "type-added", "type": "document", "member": "reader", "new": "user:*",
		"breaking": false, "widening": true, "oldAt": "old, 1.zed:2:2", "newAt": "new.zed:3:26",
	} {
		if got.Changes[2][key] != want {
			t.Errorf("%s is %v, want %v", key, got.Changes[2][key], want)
		}
	}
	b.Reset()
	arrow := []Change{{Kind: PermissionChanged, New: "folder->view"}}
	if err := JSON(&b, arrow); err != nil || !strings.Contains(b.String(), `"new": "folder->view"`) {
		t.Errorf("an arrow: %v, %s", err, &b)
	}
	b.Reset()
	if err := JSON(&b, nil); err != nil || !strings.Contains(b.String(), `"changes": []`) {
		t.Errorf("no change: %v, %s", err, &b)
	}
}
