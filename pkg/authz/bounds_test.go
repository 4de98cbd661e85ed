package authz

import (
	"strings"
	"testing"
)

// TestBoundsAdmit: nil and the zero Bounds admit nothing, Unbounded everything, and each bound what it names and no more.
func TestBoundsAdmit(t *testing.T) {
	t.Parallel()
	some := &Bounds{
		Tenants: NamesOf("acme"), Agents: NamesOf("bot"), Principals: NamesOf("user"), Objects: NamesOf("document"), IDs: PrefixesOf("acme-", "a:"),
	}
	encoded, err := EncodeID("a:1")
	if err != nil {
		t.Fatal(err)
	}
	user, service := Principal{Object{Type: TypeUser, ID: "alice"}}, Principal{Object{Type: TypeService, ID: "nightly"}}
	asks := map[string]struct {
		has    func(*Bounds) bool
		within bool
	}{
		"a tenant":                             {func(b *Bounds) bool { return b.HasTenant("acme") }, true},
		"another tenant":                       {func(b *Bounds) bool { return b.HasTenant("globex") }, false},
		"an agent":                             {func(b *Bounds) bool { return b.HasAgent("bot") }, true},
		"another agent":                        {func(b *Bounds) bool { return b.HasAgent("bo") }, false},
		"a user":                               {func(b *Bounds) bool { return b.HasPrincipal(user) }, true},
		"a service":                            {func(b *Bounds) bool { return b.HasPrincipal(service) }, false},
		"a type":                               {func(b *Bounds) bool { return b.HasType("document") }, true},
		"another type":                         {func(b *Bounds) bool { return b.HasType("folder") }, false},
		"an object":                            {func(b *Bounds) bool { return b.HasObject(Object{Type: "document", ID: "acme-1"}) }, true},
		"an object of another type":            {func(b *Bounds) bool { return b.HasObject(Object{Type: "folder", ID: "acme-1"}) }, false},
		"an object of another prefix":          {func(b *Bounds) bool { return b.HasObject(Object{Type: "document", ID: "globex-1"}) }, false},
		"an object whose id is stored encoded": {func(b *Bounds) bool { return b.HasObject(Object{Type: "document", ID: encoded}) }, true},
		"an object without an id":              {func(b *Bounds) bool { return b.HasObject(Object{Type: "document"}) }, false},
	}
	for name, ask := range asks {
		for of, c := range map[string]struct {
			b    *Bounds
			want bool
		}{"nil": {nil, false}, "the zero Bounds": {&Bounds{}, false}, "Unbounded": {Unbounded(), true}, "bounds": {some, ask.within}} {
			if got := ask.has(c.b); got != c.want {
				t.Errorf("%s: %s: %v, want %v", of, name, got, c.want)
			}
		}
	}
	for of, c := range map[string]struct {
		b        *Bounds
		confined bool
	}{"nil": {nil, true}, "the zero Bounds": {&Bounds{}, true}, "Unbounded": {Unbounded(), false}, "bounds": {some, true}} {
		if got := c.b.Confined(); got != c.confined {
			t.Errorf("%s is confined: %v, want %v", of, got, c.confined)
		}
	}
}

// TestBoundsWithin: bounds lie within others exactly where each name and each id that they admit is admitted there, too; the oracle tries all
// of a small world.
func TestBoundsWithin(t *testing.T) {
	t.Parallel()
	names := []Names{{}, AllNames(), NamesOf("a"), NamesOf("b"), NamesOf("a", "b")}
	for _, n := range names {
		for _, of := range names {
			want := true
			for _, name := range []string{"a", "b", "c"} { // c stands for all that nobody names
				want = want && (!n.Has(name) || of.Has(name))
			}
			if got := n.Within(of); got != want {
				t.Errorf("%v within %v: %v, want %v", n, of, got, want)
			}
		}
	}
	prefixes := []Prefixes{{}, AllPrefixes(), PrefixesOf(""), PrefixesOf("a"), PrefixesOf("ab"), PrefixesOf("b"), PrefixesOf("ab", "b"), PrefixesOf("a", "b")}
	for _, p := range prefixes {
		for _, of := range prefixes {
			want := true
			for id := range strings.FieldsSeq("a b c aa ab ac ba bb abc") {
				want = want && (!p.Match(id) || of.Match(id))
			}
			if got := p.Within(of); got != want {
				t.Errorf("%v within %v: %v, want %v", p, of, got, want)
			}
		}
	}
	// Each field counts.
	for field, less := range map[string]func(*Bounds){
		"tenants": func(b *Bounds) { b.Tenants = Names{} }, "agents": func(b *Bounds) { b.Agents = Names{} },
		"principals": func(b *Bounds) { b.Principals = Names{} }, "objects": func(b *Bounds) { b.Objects = Names{} },
		"ids": func(b *Bounds) { b.IDs = Prefixes{} }, "vouch": func(b *Bounds) { b.Vouch = false },
	} {
		narrow := Unbounded()
		less(narrow)
		if !narrow.Within(Unbounded()) || Unbounded().Within(narrow) || !narrow.Within(narrow) {
			t.Errorf("bounds with less %s are not narrower", field)
		}
	}
	if !(*Bounds)(nil).Within(nil) || Unbounded().Within(nil) || !(*Bounds)(nil).Within(&Bounds{}) {
		t.Error("nil is not what admits nothing")
	}
}
