package authz

import (
	"strings"
	"testing"
)

// TestNearest: a slip finds the word that was meant, and another word finds none.
func TestNearest(t *testing.T) {
	t.Parallel()
	known := []string{"view", "reply", "close", "agent", "session", "delegation", "allow_direct", strings.Repeat("k", maxWord+1)}
	for word, want := range map[string]string{
		"veiw": "view", "vew": "view", "vieww": "view", "View": "view", "repyl": "reply", "delegaton": "delegation",
		"allowDirect": "allow_direct", "delgatoin": "delegation", "": "", "x": "", "vx": "", "read": "", "closed": "close",
		strings.Repeat("k", maxWord): "", strings.Repeat("k", maxWord+1): "",
	} {
		if got := Nearest(word, known); got != want {
			t.Errorf("%q: %q, want %q", word, got, want)
		}
	}
	if got := Nearest("a", nil); got != "" {
		t.Errorf("of no words: %q", got)
	}
	if got := Nearest("b", []string{"a"}); got != "" {
		t.Errorf("one letter that is another: %q", got)
	}
}

// TestWords: very many words are counted and not all named.
func TestWords(t *testing.T) {
	t.Parallel()
	if got := Words([]string{"view", "reply"}); got != "view, reply" {
		t.Error(got)
	}
	many := strings.Split(strings.Repeat("a", maxWords+2), "")
	if got := Words(many); !strings.HasSuffix(got, "a and 2 more") || strings.Count(got, ",") != maxWords-1 {
		t.Error(got)
	}
}

// TestNoType: an unknown type is named with what there is, the domain's types first, and with the one that was meant.
func TestNoType(t *testing.T) {
	t.Parallel()
	s := &Schema{Types: map[string]*Type{"ticket": {}, "comment": {}}}
	for _, core := range CoreTypes {
		s.Types[core] = &Type{}
	}
	has := `does not exist: the schema has comment, ticket, user, service, agent, tenant, delegation, session`
	for name, want := range map[string]string{
		"tiket": `"tiket" ` + has + `; did you mean "ticket"?`, "folder": `"folder" ` + has, "t\x1b": `"t\x1b" ` + has,
	} {
		if got := s.NoType(name); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}

// TestNoMember: an unknown permission or relation is named with what its type has, and with the one that was meant.
func TestNoMember(t *testing.T) {
	t.Parallel()
	ticket := &Type{Name: "ticket", Members: map[string]bool{"view": true, "reply": true, "tenant": false, "reader": false}}
	has := "ticket has the permissions reply, view and the relations reader, tenant"
	for _, c := range []struct {
		got, want string
	}{
		{ticket.NoMember("veiw"), `"veiw" does not exist: ` + has + `; did you mean "view"?`},
		{ticket.NoMember("raeder"), `"raeder" does not exist: ` + has + `; did you mean "reader"?`},
		{ticket.NoMember("close"), `"close" does not exist: ` + has},
		{ticket.NoRelation("veiw"), `"veiw" does not exist: ticket has the relations reader, tenant`},
		{ticket.NoRelation("raeder"), `"raeder" does not exist: ticket has the relations reader, tenant; did you mean "reader"?`},
		{(&Type{Name: "a", Members: map[string]bool{"own": true}}).NoRelation("owm"), `"owm" does not exist: a has no relations`},
		{ticket.NoRelation("view"), `"view" is a permission, which holds no relationships: ticket has the relations reader, tenant`},
		{(&Type{Name: "user"}).NoMember("view"), `"view" does not exist: user has neither permissions nor relations`},
		{(&Type{Name: "a", Members: map[string]bool{"own": true}}).NoMember("view"), `"view" does not exist: a has the permissions own`},
		{(&Type{Name: "a", Members: map[string]bool{"own": false}}).NoMember("view"), `"view" does not exist: a has the relations own`},
	} {
		if c.got != c.want {
			t.Errorf("%s, want %s", c.got, c.want)
		}
	}
}

// TestWrongCore: what is missing is not said to have been removed, and what adds it is named.
func TestWrongCore(t *testing.T) {
	t.Parallel()
	const upgraded = "; an older Deputy's core lacks some: after an upgrade run deputy schema write FILE once, with your own definitions"
	for difference, want := range map[string]string{
		"definition user: missing; caveat issued: missing": "the schema lacks Deputy's core: definition user, caveat issued; " +
			"deputy schema write FILE adds what is missing",
		"definition service: missing; definition user: missing relation, active": "the schema lacks Deputy's core: definition service; " +
			"deputy schema write FILE adds what is missing; besides, the core definitions differ from core.zed: definition user: missing relation, active; " + LeaveCoreOut() + upgraded,
		"definition user: missing relation, active": "the core definitions differ from core.zed: definition user: missing relation, active; " + LeaveCoreOut() + upgraded,
		"definition user: missing relation, active; definition user: unexpected relation, friend": "the core definitions differ from core.zed: " +
			"definition user: missing relation, active; definition user: unexpected relation, friend; " + LeaveCoreOut(),
	} {
		if got := (&Schema{CoreDifference: difference, Types: map[string]*Type{"document": {}}}).WrongCore(); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	const none = "no schema has been written yet"
	empty := &Schema{CoreDifference: none}
	for want, got := range map[string]string{
		none: empty.WrongCore(), "the schema has no types": empty.HasTypes("user"),
		"document#reader admits nothing": empty.Admitted("document", "reader"),
	} {
		if got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}
