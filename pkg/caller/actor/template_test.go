package actor

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/deputyauth/deputy/pkg/authz"
)

func template(t testing.TB, kind Kind, text string) Template {
	t.Helper()
	parsed, err := ParseTemplate(kind, text)
	if err != nil {
		t.Fatalf("%s %v", kind, err)
	}
	return parsed
}

// claims are the claims of a token, as JSON has them.
type claims map[string]any

// Text is Texts's.
func (c claims) Text(name string) (string, error) {
	switch value := c[name].(type) {
	case nil:
		return "", errors.New("is missing")
	case string:
		if value == "" {
			return "", errors.New("is empty")
		}
		return value, nil
	default:
		return "", errors.New("is not a string")
	}
}

// actor are the claims of the actor; nil without one.
func (c claims) actor() Texts {
	if of, ok := c["act"].(claims); ok {
		return of
	}
	return nil
}

// TestRender: ids are made of claims as the templates say, for issuers that disagree about who is who.
func TestRender(t *testing.T) {
	t.Parallel()
	rfc8693 := claims{"sub": "alice", "act": claims{"sub": "bot"}, "org_id": "acme"}
	workos := claims{"sub": "agent_01", "act": claims{"sub": "user_01"}, "org_id": "org_01"}
	entra := claims{"sub": "pairwise", "oid": "00000000-0001", "tid": "99999999-0001", "azp": "client-1", "appid": "client-1"}
	for _, c := range []struct {
		kind   Kind
		text   string
		claims claims
		want   string
	}{
		{Agent, "{act.sub}", rfc8693, "bot"},
		{Principal, "user:{sub}", rfc8693, "alice"},
		{Tenant, "{org_id}", rfc8693, "acme"},
		{Tenant, "acme", rfc8693, "acme"},
		{Agent, "workos/{sub}", workos, "workos/agent_01"},
		{Principal, "user:workos/{act.sub}", workos, "workos/user_01"},
		{Agent, "entra/{azp}", entra, "entra/client-1"},
		{Principal, "user:{oid}@{tid}", entra, "00000000-0001@99999999-0001"},
		{Tenant, "{tid}", entra, "99999999-0001"},
		{Agent, "{a}@{b}", claims{"a": "x@y", "b": "z%40"}, "x%40y@z%2540"},
		{Agent, "{a}@{b}@{c}", claims{"a": "@", "b": "%", "c": "-"}, "%40@%25@-"},
		{Agent, "{a}", claims{"a": "x@y%"}, "x@y%"},
		{Agent, "a-{https://acme.com/org.id}-z", claims{"https://acme.com/org.id": "1"}, "a-1-z"},
	} {
		if got, err := template(t, c.kind, c.text).Render(c.claims, c.claims.actor()); err != nil || got != c.want {
			t.Errorf("%s %s of %v: %q, %v; want %q", c.kind, c.text, c.claims, got, err, c.want)
		}
	}
	for _, c := range []struct {
		text, says string
		claims     claims
	}{
		{"{act.sub}", `has no "act.sub", of which the agent is made: it is missing`, claims{"sub": "alice"}},
		{"{act.sub}", `has no usable "act.sub", of which the agent is made: it is missing`, claims{"act": claims{"iss": "x"}}},
		{"{sub}", "it is empty", claims{"sub": ""}},
		{"{sub}", "it is not a string", claims{"sub": []string{"a"}}},
		{"{sub}", "it is not a string", claims{"sub": 7}},
		{"{sub}", `begin with "="`, claims{"sub": "=stored:=41"}},
	} {
		if got, err := template(t, Agent, c.text).Render(c.claims, c.claims.actor()); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s of %v: %q, %v; want %q", c.text, c.claims, got, err, c.says)
		}
	}
}

// drawTemplate draws a template that can be parsed, and how many claims it has.
func drawTemplate(r *rand.Rand) (string, int) {
	pieces := []string{"", "a", "b/", "%", "%4", "idp/", "@", "4", ":x:"}
	marks := strings.Fields(separators)
	n := 1 + r.IntN(maxFields)
	text := pieces[r.IntN(len(pieces))]
	for i := range n {
		text += fmt.Sprintf("{c%d}", i)
		if i < n-1 {
			text += marks[r.IntN(len(marks))]
		}
		text += pieces[r.IntN(len(pieces))]
	}
	return text, n
}

func drawValue(r *rand.Rand) string {
	const letters = "ab4%@/:-._~|,;+!#=&$ 2540E"
	value := make([]byte, 1+r.IntN(6))
	for i := range value {
		value[i] = letters[r.IntN(len(letters))]
	}
	return string(value)
}

// TestInjective: the claims can be read back from the id, so that no two lists of claims make one id; and what is read back from any text makes that
// text again.
func TestInjective(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: much work of one goroutine")
	}
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	for range 200_000 {
		text, n := drawTemplate(r)
		parsed, err := ParseTemplate(Agent, text)
		if err != nil {
			continue // one that begins with "=", say
		}
		members, values := claims{}, make([]string, n)
		for i := range values {
			values[i] = drawValue(r)
			members[fmt.Sprintf("c%d", i)] = values[i]
		}
		id, err := parsed.Render(members, nil)
		if err != nil {
			continue
		}
		if back, ok := parsed.Parse(id); !ok || !slices.Equal(back, values) {
			t.Fatalf("%s of %q is %q, which is read back as %q, %v", text, values, id, back, ok)
		}
		// A text that differs in one byte is either no id of the template's, or that of other claims.
		changed := []byte(id)
		changed[r.IntN(len(changed))] = "ab4%@/:-"[r.IntN(8)]
		if back, ok := parsed.Parse(string(changed)); ok {
			for i, value := range back {
				members[fmt.Sprintf("c%d", i)] = value
			}
			if again, err := parsed.Render(members, nil); err != nil || again != string(changed) {
				t.Fatalf("%q is read by %s as %q, which makes %q, %v", changed, text, back, again, err)
			}
		}
	}
}

// TestOverlap: templates that are let through together make no id in common, whatever the claims; an oracle tries claims.
func TestOverlap(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: much work of one goroutine")
	}
	t.Parallel()
	r := rand.New(rand.NewPCG(3, 4))
	apart, together := 0, 0
	for range 20_000 {
		first, _ := drawTemplate(r)
		second, n := drawTemplate(r)
		a, errA := ParseTemplate(Agent, first)
		b, errB := ParseTemplate(Agent, second)
		if errA != nil || errB != nil {
			continue
		}
		if Overlap(a, b) != Overlap(b, a) {
			t.Fatalf("%s and %s overlap in one order only", first, second)
		}
		if Overlap(a, b) {
			together++
			continue
		}
		apart++
		for range 5 {
			members := claims{}
			for i := range n {
				members[fmt.Sprintf("c%d", i)] = drawValue(r)
			}
			id, err := b.Render(members, nil)
			if err != nil {
				continue
			}
			if back, ok := a.Parse(id); ok {
				t.Fatalf("%s makes %q, which %s makes of %q", second, id, first, back)
			}
		}
	}
	if apart < 1000 || together < 1000 {
		t.Errorf("%d pairs were apart and %d together: the test says nothing", apart, together)
	}
	for _, c := range []struct {
		kind          Kind
		first, second string
		want          bool
	}{
		{Agent, "{sub}", "b/{sub}", true},
		{Agent, "a/{sub}", "b/{sub}", false},
		{Agent, "a{sub}", "a/{sub}", true},
		{Principal, "user:{sub}", "service:{sub}", false},
		{Principal, "user:{sub}", "user:b/{sub}", true},
		{Tenant, "acme", "acme", true},
		{Tenant, "acme", "acme2", false},
		{Tenant, "acme", "ac{tid}", true},
		{Tenant, "acme", "acme2{tid}", false},
	} {
		if got := Overlap(template(t, c.kind, c.first), template(t, c.kind, c.second)); got != c.want {
			t.Errorf("%s and %s overlap: %v; want %v", c.first, c.second, got, c.want)
		}
	}
	if Overlap(template(t, Agent, "{sub}"), template(t, Tenant, "{sub}")) {
		t.Error("an agent and a tenant are taken for one")
	}
}

// FuzzTemplate: whatever a template is and whatever the claims, nothing panics, and an id can be read back as what it was made of.
func FuzzTemplate(f *testing.F) {
	f.Add(uint8(1), "idp/{act.sub}", "bot", "x")
	f.Add(uint8(2), "user:{sub}@{tid}", "a@b", "%40")
	f.Add(uint8(3), "acme", "", "")
	f.Add(uint8(1), "{a}%{b}", "a", "b")
	f.Add(uint8(1), "{sub}-{tid}--", "-", "--")
	f.Fuzz(func(t *testing.T, kind uint8, text, first, second string) {
		parsed, err := ParseTemplate(Kind(kind%3+1), text)
		if err != nil {
			return
		}
		members := claims{}
		var names, want []string
		for i, field := range parsed.fields {
			if slices.Contains(names, field.claim) {
				return // it is read twice, as one value
			}
			value := []string{first, second}[i%2]
			names, want = append(names, field.claim), append(want, value)
			members[strings.TrimPrefix(field.claim, "act.")] = value
		}
		if len(members) != len(names) {
			return // "sub" and "act.sub" have one name here
		}
		id, err := parsed.Render(members, members)
		if err != nil {
			return
		}
		if back, ok := parsed.Parse(id); !ok || !slices.Equal(back, want) && len(want) > 0 {
			t.Errorf("%s of %q is %q, which is read back as %q, %v", text, want, id, back, ok)
		}
		if stored, err := authz.EncodeID(id); err == nil && authz.DecodeID(stored) != id {
			t.Errorf("%q is stored as %q, which is shown as %q", id, stored, authz.DecodeID(stored))
		}
	})
}

// FuzzParse: whatever text is read back, nothing panics, and what is read makes the text again.
func FuzzParse(f *testing.F) {
	f.Add("{c0}@{c1}", "a%40b@c")
	f.Add("idp/{c0}", "idp/x")
	f.Add("{c0}/{c1}/{c2}", "%2F/%25/%2f")
	f.Fuzz(func(t *testing.T, text, id string) {
		parsed, err := ParseTemplate(Agent, text)
		if err != nil {
			return
		}
		back, ok := parsed.Parse(id)
		if !ok {
			return
		}
		of, members := claims{}, claims{}
		for i, field := range parsed.fields {
			to, name := of, field.claim
			if inner, nested := strings.CutPrefix(name, "act."); nested {
				to, name = members, inner
			}
			if was, twice := to[name]; twice && was != back[i] {
				return // one claim with two values: no token says that
			}
			to[name] = back[i]
		}
		if again, err := parsed.Render(of, members); err != nil || again != id {
			t.Errorf("%q is read by %s as %q, which makes %q, %v", id, text, back, again, err)
		}
	})
}
