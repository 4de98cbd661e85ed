package file_test

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/caller"
	"github.com/deputyauth/deputy/pkg/caller/file"
	"github.com/deputyauth/deputy/pkg/caller/token"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// whole is a file that says all that can be said.
const whole = `# Who may call.
issuers:
  - issuer: https://login.example.com
    audiences: [deputy, "https://deputy.example.com"]
    algorithms: [RS256, EdDSA]
    types: [at+jwt]
    jwks_file: keys.json
    leeway: 10s
    stale: 2h
callers:
  - name: billing
    roles: [checker, schema-admin]
    tenants: [acme, "ac me@x"]
    agents: [triage-bot]
    principals: [user]
    objects: [ticket, crm/lead]
    id_prefixes: [acme-, "é"]
    authzed_api: [CheckPermission, ReadRelationships]
    vouch: true
    limits: {rate: 2000, burst: 4000, concurrent: 200, streams: 20, message: 1MiB, weight: 2}
    credentials:
      - {id: key-1, key: "sha256:` + digest1 + `", created: 2026-11-28T15:00:00Z, expires: "2027-11-28T15:00:00+01:00"}
      - {id: cert, spiffe: spiffe://example.org/billing}
      - {id: dns, dns: billing.internal}
      - {id: idp, issuer: "https://login.example.com", subject: billing-svc}
  - name: Ops.2
    roles: [admin]
    tenants: all
    agents: all
    authzed_api: all
    credentials: []
`

const (
	digest1 = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	digest2 = "1123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
)

func TestDecode(t *testing.T) {
	t.Parallel()
	got, err := file.Decode("/etc/deputy/callers.yaml", []byte(whole))
	if err != nil {
		t.Fatal(err)
	}
	at := func(text string) time.Time {
		when, err := time.Parse(time.RFC3339, text)
		if err != nil {
			t.Fatal(err)
		}
		return when
	}
	sum := [sha256.Size]byte{}
	if _, err := fmt.Sscanf(digest1, "%x", new([]byte)); err != nil {
		t.Fatal(err)
	}
	for i := range sum {
		sum[i] = []byte{0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef}[i%8]
	}
	want := []*caller.Caller{
		{
			Name: "billing", Roles: caller.RolesOf(deputyv1.Role_ROLE_CHECKER, deputyv1.Role_ROLE_SCHEMA_ADMIN),
			Bounds: &authz.Bounds{
				Tenants: authz.NamesOf("acme", "=ac=20me=40x"), Agents: authz.NamesOf("triage-bot"), Principals: authz.NamesOf("user"),
				Objects: authz.NamesOf("ticket", "crm/lead"), IDs: authz.PrefixesOf("acme-", "é"), Vouch: true,
			},
			Limits:  caller.Limits{Rate: 2000, Burst: 4000, Concurrent: 200, Streams: 20, Message: 1 << 20, Weight: 2},
			SpiceDB: authz.NamesOf("CheckPermission", "ReadRelationships"),
			Credentials: []caller.Credential{
				{ID: "key-1", Key: sum, Created: at("2026-11-28T15:00:00Z"), Expires: at("2027-11-28T15:00:00+01:00")},
				{ID: "cert", SPIFFE: "spiffe://example.org/billing"},
				{ID: "dns", DNS: "billing.internal"},
				{ID: "idp", Issuer: "https://login.example.com", Subject: "billing-svc"},
			},
		},
		{
			Name: "Ops.2", Roles: caller.RolesOf(deputyv1.Role_ROLE_ADMIN), SpiceDB: authz.AllNames(),
			Bounds: &authz.Bounds{
				Tenants: authz.AllNames(), Agents: authz.AllNames(), Principals: authz.AllNames(), Objects: authz.AllNames(), IDs: authz.AllPrefixes(),
			},
		},
	}
	if len(got.Callers) != len(want) {
		t.Fatalf("%d callers", len(got.Callers))
	}
	for i, c := range got.Callers {
		if !reflect.DeepEqual(c, want[i]) {
			t.Errorf("caller %d is\n%+v %+v, want\n%+v %+v", i, c, c.Bounds, want[i], want[i].Bounds)
		}
	}
	issuers := []token.Issuer{{
		Issuer: "https://login.example.com", Audiences: []string{"deputy", "https://deputy.example.com"}, Algorithms: []string{"RS256", "EdDSA"},
		Types: []string{"at+jwt"}, JWKSFile: "/etc/deputy/keys.json", Leeway: 10 * time.Second, Stale: 2 * time.Hour,
	}}
	if !reflect.DeepEqual(got.Issuers, issuers) {
		t.Errorf("the issuers are %+v", got.Issuers)
	}
}

// TestSignals: what a transmitter may send is read, and what is left out of it has its default.
func TestSignals(t *testing.T) {
	t.Parallel()
	read := func(signals string) (*caller.Signals, error) {
		got, err := file.Decode("f", []byte("issuers:\n- {issuer: \"https://idp\", audiences: [d], algorithms: [ES256]}\ncallers:\n"+
			"- {name: a, roles: [transmitter], tenants: [acme], credentials: []"+signals+"}\n"))
		if err != nil {
			return nil, err
		}
		return got.Callers[0].Signals, nil
	}
	got, err := read(`, signals: {issuer: "https://idp", audiences: [x], subjects: {user: "user:{id}", tenant: "tenant:okta-{id}"}}`)
	want := &caller.Signals{
		Issuer: "https://idp", Audiences: []string{"x"}, Kinds: authz.AllNames(), MaxSubjects: caller.DefaultMaxSubjects,
		Subjects: map[string]caller.SubjectName{"user": {Type: "user"}, "tenant": {Type: "tenant", Prefix: "okta-"}},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v; want %+v", got, err, want)
	}
	got, err = read(`, signals: {issuer: "https://idp", audiences: [x], subjects: {user: "user:{id}"}, kinds: [session-revoked], max_subjects: 7}`)
	if err != nil || got.Kinds.All() || !got.Kinds.Has("session-revoked") || got.MaxSubjects != 7 {
		t.Errorf("%+v, %v", got, err)
	}
	for signals, words := range map[string]string{
		``: "needs signals",
		`, signals: {issuer: "https://other", audiences: [x], subjects: {user: "user:{id}"}}`:                    "none of the file's issuers",
		`, signals: {issuer: "https://idp", audiences: [x], subjects: {}}`:                                       "1 to 16 members",
		`, signals: {issuer: "https://idp", audiences: [x], subjects: {user: alice}}`:                            "such as user:{id}",
		`, signals: {issuer: "https://idp", audiences: [x], subjects: {user: "user:{id}-x"}}`:                    "such as user:{id}",
		`, signals: {issuer: "https://idp", audiences: [x], subjects: {user: "document:{id}"}}`:                  `the type "document"`,
		`, signals: {issuer: "https://idp", audiences: [x], subjects: {User: "user:{id}"}}`:                      "no member of a subject",
		`, signals: {issuer: "https://idp", audiences: [x], subjects: {user: "user:{id}"}, kinds: [login]}`:      "no event that can take access away",
		`, signals: {issuer: "https://idp", audiences: [x], subjects: {user: "user:{id}"}, max_subjects: 10001}`: "1 to 10000",
		`, signals: {issuer: "https://idp", audiences: [], subjects: {user: "user:{id}"}}`:                       "audiences",
	} {
		if _, err := read(signals); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%s: %v; want %q", signals, err, words)
		}
	}
	if _, err := file.Decode("f", []byte("issuers:\n- {issuer: \"https://idp\", audiences: [d], algorithms: [ES256]}\ncallers:\n- {name: a, roles: [admin], "+
		"tenants: all, credentials: [], signals: {issuer: \"https://idp\", audiences: [x], subjects: {user: \"user:{id}\"}}}\n")); err == nil {
		t.Error("a caller that is no transmitter has signals")
	}
}

// TestLeftOut: what a caller leaves out of its bounds is everything, and what it leaves out of its rights is nothing.
func TestLeftOut(t *testing.T) {
	t.Parallel()
	got, err := file.Decode("f", []byte("callers:\n- {name: a, roles: [checker], tenants: [acme], credentials: []}\n"))
	if err != nil {
		t.Fatal(err)
	}
	c := got.Callers[0]
	b := c.Bounds
	if !b.Agents.All() || !b.Principals.All() || !b.Objects.All() || !b.IDs.All() {
		t.Errorf("the bounds are %+v", b)
	}
	if b.Vouch || !b.Confined() || c.SpiceDB.All() || len(c.SpiceDB.List()) != 0 {
		t.Errorf("the rights are %+v, %+v", b, c.SpiceDB)
	}
}

// one returns a file with a caller of which one line is another, or more lines are added.
func one(line string) string {
	lines := []string{"name: a", "roles: [checker]", "tenants: [acme]", "credentials: []"}
	key, _, _ := strings.Cut(line, ":")
	i := slices.IndexFunc(lines, func(l string) bool { return strings.HasPrefix(l, key+":") })
	if i < 0 {
		lines = append(lines, line)
	} else {
		lines[i] = line
	}
	return "callers:\n  - " + strings.Join(lines, "\n    ") + "\n"
}

// credential returns a file with a caller that has a credential.
func credential(fields string) string { return one("credentials: [{" + fields + "}]") }

// issuer returns a file with an issuer, which is on the second line.
func issuer(fields string) string {
	return "issuers:\n  - {" + fields + "}\ncallers: []\n"
}

// verdict is whether a text is a callers file.
type verdict int

const (
	accepted verdict = iota
	refused
	// refusedHere is refused by Decode alone: for what a JSON schema cannot say.
	refusedHere
)

// corpus are texts, with what Decode says of those that it refuses: the line, and words of the message.
type corpusCase struct {
	text    string
	verdict verdict
	line    int
	says    string
}

var corpus = slices.Concat([]corpusCase{
	{text: whole},
	{text: "callers: []\n"},
	{text: one("tenants: all")},
	{text: one("agents: all")},
	{text: one(`agents: [al, "a:b", "user:x"]`)},
	{text: one("vouch: false")},
	{text: one("limits: {}")},
	{text: one("limits: {rate: 1, message: 64KiB}")},
	{text: one("limits: {concurrent: 1000000, streams: 1, weight: 100}")},
	{text: one("principals: [service, user]")},
	{text: one("authzed_api: [WriteRelationships]")},
	{text: credential(`id: k, key: "sha256:` + digest1 + `"`)},
	{text: credential(`id: k, key: sha256:` + digest1)},
	{text: credential(`id: k, dns: a_b.c-d.1`)},
	{text: credential(`id: k, dns: localhost, created: 2026-11-28T15:00:00.5+02:00`)},
	{text: issuer(`issuer: "https://i.example", audiences: [a], algorithms: [ES256]`)},
	{text: issuer(`issuer: anything, audiences: [a], algorithms: [ES256], jwks_url: "https://i.example/keys", stale: 1h30m`)},

	{"", refusedHere, 0, "is empty; a file without callers has the line: callers: []"},
	{"# nothing\n", refusedHere, 0, "is empty"},
	{"callers: []\n---\ncallers: []\n", refusedHere, 0, "more than one YAML document"},
	{"callers: [\n", refusedHere, 1, "is not valid YAML"},
	{"callers: [\n{a: b\nc: d}]\n", refusedHere, 2, "did not find expected ',' or '}'"},
	{"\xff\xfe", refusedHere, 0, "is not UTF-8"},
	{"callers:\n\t- x\n", refusedHere, 2, "is not valid YAML"},
	{"callers: &a []\n", refusedHere, 1, "uses an anchor or an alias"},
	{"callers:\n- &c {name: a, roles: [checker], tenants: [acme], credentials: []}\n- *c\n", refusedHere, 2, "uses an anchor or an alias"},
	{"callers: []\ncallers: []\n", refusedHere, 2, "the file has callers twice"},
	{"[]\n", refused, 1, "the file has to be a mapping, not a list"},
	{"just a text\n", refused, 1, "the file has to be a mapping, not a text"},
	{"{}\n", refused, 1, "the file has no callers, which is required"},
	{"issuers: []\n", refused, 1, "the file has no callers, which is required"},
	{"callers: []\ncaller: []\n", refused, 2, `the file has no "caller"; did you mean callers?`},
	{"callers: []\nversion: 1\n", refused, 2, `the file has no "version"; it can have callers, issuers`},
	{"callers:\n", refused, 1, "callers has to be a list, not nothing"},
	{"callers: {}\n", refused, 1, "callers has to be a list, not a mapping"},
	{"callers: [a]\n", refused, 1, "a caller has to be a mapping, not a text"},
	{"1: []\ncallers: []\n", refused, 1, "a name in the file has to be a text"},
	{"<<: {callers: []}\n", refusedHere, 1, "a name in the file has to be"},
	{"callers: !foo []\n", refusedHere, 1, "callers has to be a list, not a value with a YAML tag"},

	{one("name: service"), refused, 2, "is service, which is the caller that the setting with that preshared key stands for"},
	{one("name: admin"), refused, 2, "choose another name"},
	{one("name: a b"), refused, 2, `is "a b"; a name is 1 to 64 letters`},
	{one(`name: ""`), refused, 2, "name is empty"},
	{one("name: 12"), refused, 2, "put it in quotes"},
	{one("name: true"), refused, 2, "put it in quotes"},
	{one("name: [a]"), refused, 2, "name has to be a text, not a list"},
	{one("name: " + strings.Repeat("a", 65)), refused, 2, "is text of 65 bytes; a name is"},
	{one("color: red"), refused, 6, `a caller has no "color"; it can have name, roles, tenants, credentials, agents`},
	{one("tenant: acme"), refused, 6, `a caller has no "tenant"; did you mean tenants?`},
	{one("roles: [checker, cheker]"), refused, 3, `"cheker" is no role; the roles are checker, delegator`},
	{one("roles: [cheker]"), refused, 3, `did you mean "checker"?`},
	{one("roles: checker"), refused, 3, "roles has to be a list"},
	{one("roles: []"), refused, 3, "roles is an empty list"},
	{one("roles: [checker, checker]"), refused, 3, `roles has "checker" twice`},
	{"callers:\n- {name: a, tenants: all, credentials: []}\n", refused, 2, "a caller has no roles, which is required"},
	{"callers:\n- {name: a, roles: [checker], credentials: []}\n", refused, 2, "a caller has no tenants, which is required"},
	{"callers:\n- {name: a, roles: [checker], tenants: all}\n", refused, 2, "a caller has no credentials, which is required"},
	{one("tenants: acme"), refused, 4, "tenants has to be a list, or the word all: write tenants: [acme]"},
	{one("tenants: []"), refused, 4, "tenants is an empty list; name one or more, or write: tenants: all"},
	{one("tenants:"), refused, 4, "tenants has to be a list, not nothing"},
	{one("tenants: [acme, 12]"), refused, 4, "an element of tenants has to be a text, and YAML reads it as a number; put it in quotes"},
	{one("tenants:\n    - acme\n    - acme"), refused, 6, `tenants has "acme" twice`},
	{one(`tenants: ["*"]`), refused, 4, `the id "*" must name one object`},
	{one(`tenants: ["tenant:acme"]`), refused, 4, `write the tenant's id without its type: "acme"`},
	{one(`tenants: [" acme"]`), refusedHere, 4, "begins or ends with a blank"},
	{one(`tenants: [""]`), refused, 4, "an element of tenants is empty"},
	{one(`agents: ["agent:bot"]`), refused, 6, `write the agent's id without its type: "bot"`},
	{one("tenants: [all]"), refused, 4, "tenants: the word all stands alone, not in a list: write tenants: all"},
	{one("agents: [bot, all]"), refused, 6, "write agents: all"},
	{one("principals: [all]"), refused, 6, "write principals: all"},
	{one("objects: [all]"), refused, 6, "write objects: all"},
	{one("id_prefixes: [all]"), refused, 6, "write id_prefixes: all"},
	{one("authzed_api: [all]"), refused, 6, "write authzed_api: all"},
	{one("objects: [document, tenant]"), refused, 6, `"tenant" is a type of the core schema`},
	{one("roles: [" + strings.Repeat("a", 63) + "]"), refused, 3, `"` + strings.Repeat("a", 63) + `" is no role`},
	{one("roles: [" + strings.Repeat("a", 64) + "]"), refused, 3, "text of 64 bytes is no role"},
	{one("principals: [agent]"), refused, 6, `"agent" is no type of principals; these are user and service`},
	{one("objects: [Ticket]"), refused, 6, `"Ticket" cannot be a type of objects`},
	{one("id_prefixes: [acme-*]"), refused, 6, `"acme-*" ends in *`},
	{one("id_prefixes: [" + strings.Repeat("a", 513) + "]"), refused, 6, "is longer than any id"},
	{one("authzed_api: [CheckPermision]"), refused, 6, "did you mean CheckPermission?"},
	{one("authzed_api: [StartSession]"), refused, 6, "its methods are BulkCheckPermission,"},
	{one("authzed_api: []"), refused, 6, "authzed_api is an empty list"},
	{one("vouch: yes"), refused, 6, "vouch has to be true or false, not a text"},
	{one("vouch: 1"), refused, 6, "vouch has to be true or false, not a number"},
	{one("limits: []"), refused, 6, "limits has to be a mapping, not a list"},
	{one("limits: {rates: 1}"), refused, 6, "did you mean rate?"},
	{one("limits: {rate: 0}"), refused, 6, "rate has to be a whole number, 1 or more"},
	{one("limits: {rate: -1}"), refused, 6, "rate has to be a whole number, 1 or more"},
	{one("limits: {rate: 1.5}"), refused, 6, "rate has to be a whole number, 1 or more"},
	{one(`limits: {rate: "2000"}`), refused, 6, "rate has to be a number, not a text"},
	{one("limits: {rate: 0x10}"), refusedHere, 6, "rate has to be a whole number, 1 or more"},
	{one("limits: {rate: 99999999}"), refused, 6, "rate has to be 1 to 10000000, not 99999999"},
	{one("limits: {burst: 5}"), refused, 6, "there is no rate: set rate too"},
	{one("limits: {weight: 101}"), refused, 6, "weight has to be 1 to 100, not 101"},
	{one("limits: {message: 1048576}"), refused, 6, "message has to be a text, and YAML reads it as a number"},
	{one("limits: {message: 1MB}"), refused, 6, `message has to be a size such as 64KiB or 1MiB, not "1MB"`},
	{one("limits: {message: 5MiB}"), refusedHere, 6, "message has to be 1KiB to 4MiB, not 5MiB"},
	{one("credentials: {}"), refused, 5, "credentials has to be a list, not a mapping"},
	{one("credentials: [secret-of-16-bytes]"), refused, 5, "a credential has to be a mapping, not a text"},
	{one("name: a") + "  - {name: a, roles: [checker], tenants: all, credentials: []}\n", refusedHere, 6, "two callers are named a"},

	{credential(`key: "sha256:` + digest1 + `"`), refused, 5, "a credential has no id"},
	{credential(`id: k`), refused, 5, "the credential k has nothing that proves anything; it needs exactly one of"},
	{credential(`id: k, dns: a, spiffe: "spiffe://a/b"`), refused, 5, "the credential k has dns, spiffe; it needs exactly one of"},
	{credential(`id: k, dns: a, subject: b`), refused, 5, "exactly one of"},
	{credential(`id: k, subject: b`), refused, 5, "exactly one of"},
	{credential(`id: k, issuer: b`), refused, 5, "exactly one of"},
	{credential(`id: "k k", dns: a`), refused, 5, "the id of a credential is"},
	{credential(`id: k, key: a-secret-of-more-bytes`), refused, 5, "key has to be the SHA-256 digest of a key"},
	{credential(`id: k, key: deputy_` + digest1), refused, 5, "everybody who read the file has it"},
	{credential(`id: k, key: ` + digest1), refused, 5, "key has to be the SHA-256 digest"},
	{credential(`id: k, key: 1234567890123456789`), refused, 5, "key has to be the SHA-256 digest"},
	{credential(`id: k, key: sha256:` + strings.ToUpper(digest1)), refused, 5, "in lower case"},
	{credential(`id: k, key: sha256:` + digest1 + "00"), refused, 5, "64 hex digits"},
	{credential(`id: k, key: sha256:` + strings.Repeat("0", 64)), refused, 5, "zeros only"},
	{credential(`id: k, spiffe: example.org`), refused, 5, "spiffe has to be the SPIFFE id of a workload"},
	{credential(`id: k, spiffe: "spiffe://example.org"`), refused, 5, "spiffe has to be the SPIFFE id of a workload"},
	{credential(`id: k, spiffe: "spiffe://Example.org/a"`), refused, 5, "spiffe has to be the SPIFFE id of a workload"},
	{credential(`id: k, spiffe: "spiffe://example.org/a/../b"`), refusedHere, 5, "spiffe has to be the SPIFFE id of a workload"},
	{credential(`id: k, dns: "*.internal"`), refused, 5, "dns has to be the name of a host in lower case"},
	{credential(`id: k, dns: Billing`), refused, 5, "dns has to be the name of a host in lower case"},
	{credential(`id: k, dns: a, expires: 2027-11-28`), refused, 5, "expires has to be a time such as 2027-11-28T15:00:00Z"},
	{credential(`id: k, dns: a, expires: tomorrow`), refused, 5, "expires has to be a time"},
	{credential(`id: k, dns: a, expires: 2027-02-30T15:00:00Z`), refused, 5, "expires has to be a time"},
	{credential(`id: k, dns: a, created: 2027`), refused, 5, "created has to be a text"},
	{credential(`id: k, dns: a, color: red`), refused, 5, `a credential has no "color"`},
	{credential(`id: k, issuer: i, subject: s`), refusedHere, 5, `"i" is none of the file's issuers; there are none. Add it under issuers`},
	{
		"issuers: [{issuer: \"https://i.example\", audiences: [a], algorithms: [ES256]}]\n" + credential(`id: k, issuer: "https://i.example/", subject: s`),
		refusedHere, 6, "is none of the file's issuers; they are https://i.example.",
	},
	{credential(`id: k, dns: a}, {id: k, dns: b`), refusedHere, 5, "two credentials of a have the id k"},
	{credential(`id: k, dns: a}, {id: l, dns: a`), refusedHere, 5, "the credential l of a already proves that a call is from a"},
	{
		credential(`id: k, key: sha256:`+digest1) + "  - {name: b, roles: [checker], tenants: all, credentials: [{id: k, key: sha256:" + digest1 + "}]}\n",
		refusedHere, 6, "the credential k of b already proves that a call is from a, and it can prove that of one caller only",
	},

	{issuer(`audiences: [a], algorithms: [ES256]`), refused, 2, "an issuer has no issuer"},
	{issuer(`issuer: "https://i.example", algorithms: [ES256]`), refused, 2, "audiences is missing"},
	{issuer(`issuer: "https://i.example", audiences: [], algorithms: [ES256]`), refused, 2, "audiences is an empty list"},
	{issuer(`issuer: "https://i.example", audiences: [a], algorithms: [HS256]`), refused, 2, "which signs with a shared secret"},
	{issuer(`issuer: "https://i.example", audiences: [a], algorithms: [none]`), refused, 2, "a token without a signature proves nothing"},
	{issuer(`issuer: "https://i.example", audiences: [a], algorithms: [ES256], leeway: 30`), refused, 2, "leeway has to be a text"},
	{issuer(`issuer: "https://i.example", audiences: [a], algorithms: [ES256], leeway: "-1s"`), refused, 2, "leeway has to be a duration"},
	{issuer(`issuer: "https://i.example", audiences: [a], algorithms: [ES256], leeway: 1h`), refusedHere, 2, "leeway is 1h0m0s; it can be up to 1m0s"},
	{issuer(`issuer: "https://i.example", audiences: [a], algorithms: [ES256], jwks_url: "http://i.example"`), refused, 2, "https"},
	{issuer(`issuer: "https://i.example", audiences: [a], algorithms: [ES256], jwks_url: "https://i", jwks_file: f`), refused, 2, "are both set"},
	{
		issuer(`issuer: "https://i.example", audiences: [a], algorithms: [ES256]}` + "\n" + `  - {issuer: "https://i.example", audiences: [b], algorithms: [ES256]`),
		refusedHere, 3, "is there twice",
	},
}, actorsCorpus, peopleCorpus)

// TestCorpus: the decoder accepts and refuses what the corpus says, and the JSON schema says the same of all that a JSON schema can say.
func TestCorpus(t *testing.T) {
	t.Parallel()
	schema := compiled(t)
	for _, c := range corpus {
		_, err := file.Decode("callers.yaml", []byte(c.text))
		if (err == nil) != (c.verdict == accepted) {
			t.Errorf("%s\nerror: %v", c.text, err)
			continue
		}
		if err != nil {
			p, ok := errors.AsType[*file.Problem](err)
			if !ok || p.File != "callers.yaml" || p.Line != c.line || !strings.Contains(p.Message, c.says) {
				t.Errorf("%s\nerror: %v\nwant line %d: %s", c.text, err, c.line, c.says)
			}
			if strings.Contains(err.Error(), "a-secret-of") || strings.Contains(err.Error(), "secret-of-16") || strings.Contains(err.Error(), digest1) {
				t.Errorf("a key is shown: %v", err)
			}
		}
		value, ok := asJSON(c.text)
		if !ok {
			if c.verdict != refusedHere {
				t.Errorf("%s\nis no value of JSON", c.text)
			}
			continue
		}
		if err := schema.Validate(value); (err == nil) == (c.verdict == refused) {
			t.Errorf("%s\nthe schema says: %v", c.text, err)
		}
	}
}

// compiled returns the JSON schema.
func compiled(t *testing.T) *jsonschema.Schema {
	t.Helper()
	text, err := jsonschema.UnmarshalJSON(strings.NewReader(file.Schema))
	if err != nil {
		t.Fatal(err)
	}
	compiler := jsonschema.NewCompiler()
	compiler.AssertFormat()
	if err := compiler.AddResource("callers.schema.json", text); err != nil {
		t.Fatal(err)
	}
	schema, err := compiler.Compile("callers.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	return schema
}

// asJSON returns what an editor hands to a JSON schema: what YAML reads, where times are texts.
func asJSON(text string) (any, bool) {
	var node yaml.Node
	if err := yaml.Unmarshal([]byte(text), &node); err != nil || node.Kind == 0 {
		return nil, false
	}
	var texts func(n *yaml.Node)
	texts = func(n *yaml.Node) {
		if n.Kind == yaml.ScalarNode && n.ShortTag() == "!!timestamp" {
			n.Tag = "!!str"
		}
		for _, one := range n.Content {
			texts(one)
		}
	}
	texts(&node)
	var value any
	if err := node.Decode(&value); err != nil {
		return nil, false
	}
	encoded, err := json.Marshal(stringKeys(value))
	if err != nil {
		return nil, false
	}
	value, err = jsonschema.UnmarshalJSON(strings.NewReader(string(encoded)))
	return value, err == nil
}

// stringKeys makes the keys of mappings texts.
func stringKeys(value any) any {
	switch v := value.(type) {
	case map[any]any:
		all := map[string]any{}
		for key, one := range v {
			all[fmt.Sprint(key)] = stringKeys(one)
		}
		return all
	case map[string]any:
		for key := range v {
			v[key] = stringKeys(v[key])
		}
	case []any:
		for i := range v {
			v[i] = stringKeys(v[i])
		}
	}
	return value
}

// TestSchemaNames: the schema lists the roles, methods and algorithms that there are.
func TestSchemaNames(t *testing.T) {
	t.Parallel()
	type items struct {
		Items struct {
			Enum []string `json:"enum"`
		} `json:"items"`
	}
	var schema struct {
		Defs struct {
			Issuer struct {
				Properties struct {
					Algorithms items `json:"algorithms"`
				} `json:"properties"`
			} `json:"issuer"`
			Caller struct {
				Properties struct {
					Roles items `json:"roles"`
					API   struct {
						OneOf []items `json:"oneOf"`
					} `json:"authzed_api"`
				} `json:"properties"`
			} `json:"caller"`
		} `json:"$defs"`
	}
	if err := json.Unmarshal([]byte(file.Schema), &schema); err != nil {
		t.Fatal(err)
	}
	d := schema.Defs
	if got := d.Caller.Properties.Roles.Items.Enum; !slices.Equal(got, caller.RoleNames()) {
		t.Errorf("the schema's roles are %q", got)
	}
	if got := d.Caller.Properties.API.OneOf; len(got) != 2 || !slices.Equal(got[1].Items.Enum, caller.SpiceDBMethods()) {
		t.Errorf("the schema's methods are %q", got)
	}
	if got := d.Issuer.Properties.Algorithms.Items.Enum; !slices.Equal(got, token.Algorithms) {
		t.Errorf("the schema's algorithms are %q", got)
	}
}

// TestBounds: what is too long, too many or too deep is refused at once.
func TestBounds(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: much work of one goroutine")
	}
	t.Parallel()
	var many, credentials strings.Builder
	many.WriteString("callers:\n")
	for i := range file.MaxCallers + 1 {
		fmt.Fprintf(&many, "- {name: c%d, roles: [checker], tenants: all, credentials: []}\n", i)
	}
	for i := range file.MaxCredentials + 1 {
		fmt.Fprintf(&credentials, "{id: k%d, dns: d%d},", i, i)
	}
	bomb := "a: &a [x,x,x,x,x,x,x,x,x]\n"
	for i := 'b'; i <= 'z'; i++ {
		bomb += fmt.Sprintf("%c: &%c [%s]\n", i, i, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*%c,", i-1), 9), ","))
	}
	for name, text := range map[string]string{
		"it can have 10000":        many.String(),
		"it can have 100":          one("credentials: [" + credentials.String() + "]"),
		"is longer than 4194304 b": "callers: [] #" + strings.Repeat("#", file.MaxBytes),
		`has no "a"`:               bomb + "callers: *z\n",
		"is not valid YAML":        strings.Repeat("[", 100_000),
	} {
		if _, err := file.Decode("f", []byte(text)); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%v, want %s", err, name)
		}
	}
	most := strings.TrimSuffix(many.String(), fmt.Sprintf("- {name: c%d, roles: [checker], tenants: all, credentials: []}\n", file.MaxCallers))
	if got, err := file.Decode("f", []byte(most)); err != nil || len(got.Callers) != file.MaxCallers {
		t.Error(err)
	}
}

// FuzzDecode: no text makes the decoder panic; a text that it accepts names every caller once, and the JSON schema accepts it.
func FuzzDecode(f *testing.F) {
	for _, c := range corpus {
		f.Add(c.text)
	}
	text, err := jsonschema.UnmarshalJSON(strings.NewReader(file.Schema))
	if err != nil {
		f.Fatal(err)
	}
	compiler := jsonschema.NewCompiler()
	if err := compiler.AddResource("callers.schema.json", text); err != nil {
		f.Fatal(err)
	}
	schema, err := compiler.Compile("callers.schema.json")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, err := file.Decode("f", []byte(text))
		if err != nil {
			if _, ok := errors.AsType[*file.Problem](err); !ok {
				t.Errorf("%T: %v", err, err)
			}
			return
		}
		if _, err := caller.NewBook(got.Callers, nil); err != nil {
			t.Errorf("no book: %v", err)
		}
		if value, ok := asJSON(text); ok {
			if err := schema.Validate(value); err != nil {
				t.Errorf("the schema refuses what the decoder accepts: %v", err)
			}
		}
	})
}
