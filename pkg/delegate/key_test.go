package delegate

import (
	"reflect"
	"testing"
	"time"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/facts"
)

// filled returns the request for everything that each creating call can ask for.
func filled() (Spec, Start, []authz.Object) {
	alice, plan := authz.Object{Type: "user", ID: "alice"}, authz.Object{Type: "document", ID: "plan"}
	scope := []facts.Grant{{Resource: plan, Relation: "reader"}, {Resource: plan, Relation: "writer"}}
	spec := Spec{
		Agent: "bot", Principal: authz.Subject{Object: authz.Object{Type: "tenant", ID: "acme"}, Relation: "member"}, Tenant: "acme", GrantedBy: alice,
		Parent: "d1", Scope: scope, Unscoped: true, AllowDirect: true, TTL: time.Hour, Key: "k", Consent: &Consent{Token: "0123"},
	}
	start := Start{
		Agent: "bot", Targets: []Target{{Delegation: "d1", Principals: []authz.Principal{{Object: alice}}, Scope: scope}, {Delegation: "d2"}},
		TTL: time.Hour, Frozen: true, Tenant: "acme", Key: "k",
	}
	return spec, start, []authz.Object{alice, {Type: "user", ID: "bob"}}
}

// TestKeyDigestStays: a digest that any version has stored is the one that every other makes of the same request. If this fails, take
// back what changed the digest: with another one, each retry after an upgrade is refused.
func TestKeyDigestStays(t *testing.T) {
	t.Parallel()
	d := New(nil, []byte("a key"), time.Hour, time.Now)
	spec, start, owners := filled()
	older := spec
	older.Consent = nil // which older versions did not know
	olderStart := start
	olderStart.Tenant = "" // nor this
	for name, c := range map[string]struct{ got, want string }{
		"delegation":       {d.keyDigest("k", older.request()), "4f3fdccaca8438c8195bca0abda8afea"},
		"with a consent":   {d.keyDigest("k", spec.request()), "36a2bcaab76dd06502f25c1ef3ffab97"},
		"plain delegation": {d.keyDigest("k", (&Spec{Agent: "bot", Tenant: "acme", TTL: time.Minute}).request()), "7b97e2c66a962e85f86152f32b89f660"},
		"session":          {d.keyDigest("k", olderStart.request()), "e71de9351c686c84e58f642c9082150d"},
		"in one tenant":    {d.keyDigest("k", start.request()), "1e001dec74a5e105cf7591a03dd024e5"},
		"plain session":    {d.keyDigest("k", (&Start{Agent: "bot", Targets: []Target{{Delegation: "d1"}}}).request()), "8b16de0046f8ede32867de039eb2e67a"},
		"agent":            {d.keyDigest("k", registration(owners)), "d7a9bb7c0656e811c036c42219035c23"},
		"without a key":    {d.keyDigest("", registration(owners)), ""},
		"with another key": {d.keyDigest("l", registration(owners)), "885815d4e4151498363a49cc329adb02"},
	} {
		if c.got != c.want {
			t.Errorf("%s: the digest is now %s, not %s", name, c.got, c.want)
		}
	}
}

// TestKeysOfCallers: the first caller has the ids that it had before there were others, so that its retries survive the upgrade, and
// every other caller has ids and digests of its own, whatever its name. The ids were computed apart, as the comments of mint and digest say.
func TestKeysOfCallers(t *testing.T) {
	t.Parallel()
	d := New(nil, []byte("a key"), time.Hour, time.Now)
	service, other := d.For("service", nil).First(), d.For("other", nil)
	for name, c := range map[string]struct{ got, want string }{
		"service's delegation": {service.mint(authz.TypeDelegation, "k", 0), "9a7e735a83ab2a3be0734955d52a4082"},
		"service's leaf":       {service.mint(authz.TypeSession, "k", 3), "be1f1e5f74d07cbb8d36c4d3f8a03220"},
		"other's delegation":   {other.mint(authz.TypeDelegation, "k", 0), "c4080479d257785acb9a535359f63f00"},
	} {
		if c.got != c.want {
			t.Errorf("%s: the id is now %s, not %s", name, c.got, c.want)
		}
	}
	spec, _, _ := filled()
	seen := map[string]string{}
	for caller, of := range map[string]*Delegate{
		"the first": service, "service": d.For("service", nil), "other": other, "admin": d.For("admin", nil), "": d.For("", nil),
	} {
		for _, made := range []string{of.mint(authz.TypeDelegation, "k", 0), of.keyDigest("k", spec.request())} {
			if whose, taken := seen[made]; taken {
				t.Errorf("%q makes %s, as does %q", caller, made, whose)
			}
			seen[made] = caller
		}
	}
}

// TestKeyDigestCoversTheRequest: requests that differ in anything but their key have different digests.
func TestKeyDigestCoversTheRequest(t *testing.T) {
	t.Parallel()
	d := New(nil, []byte("a key"), time.Hour, time.Now)
	seen := map[string]string{}
	once := func(name string, r request) {
		t.Helper()
		digest := d.keyDigest("k", r)
		if other, ok := seen[digest]; ok {
			t.Errorf("%s has the digest of %s", name, other)
		}
		seen[digest] = name
	}
	spec, start, owners := filled()
	once("spec", spec.request())
	once("start", start.request())
	once("owners", registration(owners))
	once("one owner", registration(owners[:1]))
	// Each field of each struct is set to zero in turn, so that one which is added cannot be forgotten.
	for i := range reflect.TypeFor[Spec]().NumField() {
		if field := reflect.TypeFor[Spec]().Field(i).Name; field != "Key" {
			less, _, _ := filled()
			reflect.ValueOf(&less).Elem().Field(i).SetZero()
			once("spec without "+field, less.request())
		}
	}
	for i := range reflect.TypeFor[Start]().NumField() {
		if field := reflect.TypeFor[Start]().Field(i).Name; field != "Key" {
			_, less, _ := filled()
			reflect.ValueOf(&less).Elem().Field(i).SetZero()
			once("start without "+field, less.request())
		}
	}
	for i := range reflect.TypeFor[Target]().NumField() {
		_, less, _ := filled()
		reflect.ValueOf(&less.Targets[0]).Elem().Field(i).SetZero()
		once("target without "+reflect.TypeFor[Target]().Field(i).Name, less.request())
	}
	// What belongs to one target is not taken for another's.
	_, moved, _ := filled()
	moved.Targets[0].Principals, moved.Targets[1].Principals = nil, moved.Targets[0].Principals
	once("start with the other target's principals", moved.request())
	_, swapped, _ := filled()
	swapped.Targets[0], swapped.Targets[1] = swapped.Targets[1], swapped.Targets[0]
	once("start with targets in another order", swapped.request())
	spec.Scope = spec.Scope[:1]
	once("spec with one grant", spec.request())
}
