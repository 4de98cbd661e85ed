package journal

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/deputyauth/deputy/pkg/authz"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/pkg/journal/index"
	"github.com/deputyauth/deputy/pkg/journal/persons"
)

// erasable is a journal in which persons can be erased, with "ticket" as a personal type.
type erasable struct {
	*Journal

	fs   vfs.FS
	keys persons.Config
}

func openErasable(t testing.TB, fs vfs.FS, change func(*Config)) *erasable {
	t.Helper()
	if err := fs.MkdirAll("keys", 0o700); err != nil {
		t.Fatal(err)
	}
	cfg := testConfig(fs)
	keys := persons.Config{FS: fs, Dir: "keys", Secret: cfg.Secret}
	opened, err := persons.Open(keys)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = opened.Close() })
	cfg.Personal = NewPersonal(opened, []string{"ticket"})
	if change != nil {
		change(&cfg)
	}
	return &erasable{open(t, cfg), fs, keys}
}

// stored returns the records as they stand in the journal.
func (e *erasable) stored(t testing.TB) []*Record {
	t.Helper()
	all, err := readAll(e.fs)
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(all, func(r *Record) bool {
		return r.GetKind() == deputyv1.RecordKind_RECORD_KIND_NOTE && r.GetCaller() == ""
	})
}

// opened returns a record as it can be read by now.
func (e *erasable) opened(t testing.TB, r *Record) (*Record, bool) {
	t.Helper()
	r = proto.CloneOf(r)
	opened, err := e.cfg.Personal.Open(r)
	if err != nil {
		t.Fatal(err)
	}
	return r, !opened
}

func (e *erasable) erase(t testing.TB, tenant, id string) {
	t.Helper()
	if n, err := persons.Erase(e.keys, persons.Person{Tenant: tenant, Type: "user", ID: id}, false); err != nil || n != 1 {
		t.Fatalf("erasing %s in %s: %d keys, %v", id, tenant, n, err)
	}
}

// kept is what must stand in a record as it was, whatever is erased.
func kept(r *Record) *Record {
	r = proto.CloneOf(r)
	r.PrincipalId, r.ResourceId, r.Subject, r.GivenReason, r.Context, r.Relationships = "", "", "", "", nil, nil
	r.ContextHash, r.RequestHash, r.Personal, r.PersonalKey, r.Sequence = nil, nil, nil, nil, 0
	if r.GetActorToken() != nil {
		r.ActorToken.PriorActors = nil
	}
	return r
}

func fields(t testing.TB, values map[string]any) *structpb.Struct {
	t.Helper()
	s, err := structpb.NewStruct(values)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// sealedCases are records, with the words that only the keys of persons give away, and the users whose erasure takes each of them.
func sealedCases(t testing.TB) map[string]struct {
	record *Record
	// words are who takes them: an id alone is a user of the record's tenant, "" the tenant's own key.
	words map[string][]string
} {
	t.Helper()
	type words = map[string][]string
	return map[string]struct {
		record *Record
		words  map[string][]string
	}{
		"a decision": {
			&Record{
				Kind: deputyv1.RecordKind_RECORD_KIND_DECISION, Time: 5, Caller: "gateway", AgentId: "bot", AgentChain: []string{"bot"}, TenantId: "acme",
				PrincipalType: "user", PrincipalId: "alice@example.com", ResourceType: "ticket", ResourceId: "ticket-of-alice", Permission: "view",
				Context: fields(t, map[string]any{"purpose": "taxes"}), ContextHash: []byte("0123456789abcdef"),
			},
			words{"alice@example.com": {"alice@example.com"}, "ticket-of-alice": {"alice@example.com"}, "taxes": {"alice@example.com"}},
		},
		"a decision by an agent's token": {
			&Record{
				Kind: deputyv1.RecordKind_RECORD_KIND_DECISION, Time: 5, AgentId: "bot", TenantId: "acme", PrincipalType: "user", PrincipalId: "alice-2",
				ActorToken: &deputyv1.ActorToken{
					Issuer: "https://idp.example.com", Digest: bytes.Repeat([]byte{7}, 32), TokenId: "token-1",
					PriorActors: []*deputyv1.PriorActor{{Issuer: "https://hr.example.com", Subject: "carol-2"}, {Subject: "planner"}},
				},
			},
			words{"alice-2": {"alice-2"}, "https://hr.example.com": {"alice-2"}, "carol-2": {"alice-2"}, "planner": {"alice-2"}},
		},
		"a suspension": {
			&Record{
				Kind: deputyv1.RecordKind_RECORD_KIND_BRAKE, Time: 6, ResourceType: "user", ResourceId: "bob", GivenReason: "stole the silver",
				RequestHash: bytes.Repeat([]byte{9}, 32),
			},
			words{"bob": {"bob"}, "stole the silver": {"bob"}},
		},
		"a decision about another user": {
			&Record{
				Kind: deputyv1.RecordKind_RECORD_KIND_DECISION, Time: 7, TenantId: "acme", PrincipalType: "user", PrincipalId: "alice-1",
				ResourceType: "user", ResourceId: "bob-1", Permission: "view",
			},
			words{"alice-1": {"alice-1"}, "bob-1": {"alice-1", "bob-1"}},
		},
		"a check of SpiceDB's": {
			&Record{
				Kind: deputyv1.RecordKind_RECORD_KIND_DECISION, Time: 8, ResourceType: "document", ResourceId: "plan", Permission: "view",
				Subject: "user:carol-1",
			},
			words{"carol-1": {"carol-1"}},
		},
		"a write": {
			&Record{
				Kind: deputyv1.RecordKind_RECORD_KIND_WRITE, Time: 9, TenantId: "acme", Caller: "importer", Relationships: []string{
					"touch document:plan#viewer@user:dan-1[only_weekdays]", "touch user:erin-1#manager@user:dan-2", "touch folder:secret-folder#parent@folder:top",
				},
			},
			words{
				"dan-1": {"", "dan-1"}, "only_weekdays": {"", "dan-1"}, "erin-1": {"", "dan-2", "erin-1"}, "dan-2": {"", "dan-2", "erin-1"},
				"secret-folder": {""},
			},
		},
	}
}

func TestWhatIsPersonalIsSealed(t *testing.T) {
	t.Parallel()
	for name, test := range sealedCases(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := openErasable(t, vfs.NewMem(), nil)
			add(t, e.Journal, Refuse, proto.CloneOf(test.record))
			stored := e.stored(t)[0]
			encoded, err := proto.Marshal(stored)
			if err != nil {
				t.Fatal(err)
			}
			for word := range test.words {
				if bytes.Contains(encoded, []byte(word)) {
					t.Errorf("the record holds %q", word)
				}
			}
			if !proto.Equal(kept(stored), kept(test.record)) {
				t.Errorf("what is nobody's changed:\n%v\n%v", kept(stored), kept(test.record))
			}
			read, erased := e.opened(t, stored)
			if erased {
				t.Error("a record is erased of which nobody is")
			}
			slices.Sort(read.Relationships)
			want := proto.CloneOf(test.record)
			slices.Sort(want.Relationships)
			read.PersonalKey, read.ContextHash, read.RequestHash = nil, want.ContextHash, want.RequestHash
			if read.Sequence = want.Sequence; !proto.Equal(read, want) {
				t.Errorf("opened it is\n%v\nand not\n%v", read, want)
			}
			if bytes.Equal(stored.GetContextHash(), want.GetContextHash()) && want.GetContextHash() != nil {
				t.Error("the digest of the context can be tried without the person's key")
			}
			if bytes.Equal(stored.GetRequestHash(), want.GetRequestHash()) && want.GetRequestHash() != nil {
				t.Error("the digest of the request can be tried without the person's key")
			}
		})
	}
}

func TestErasingTakesAllThatIsAPersons(t *testing.T) {
	t.Parallel()
	for name, test := range sealedCases(t) {
		var who []string
		for _, one := range test.words {
			who = append(who, one...)
		}
		slices.Sort(who)
		for _, gone := range slices.Compact(who) {
			t.Run(name+"/"+gone, func(t *testing.T) {
				t.Parallel()
				e := openErasable(t, vfs.NewMem(), nil)
				add(t, e.Journal, Refuse, proto.CloneOf(test.record))
				tenant := test.record.GetTenantId()
				if gone == "" {
					if n, err := persons.Erase(e.keys, persons.Person{Tenant: tenant}, false); err != nil || n != 1 {
						t.Fatal(n, err)
					}
				} else {
					e.erase(t, tenant, gone)
				}
				// Somebody of the same id who comes afterwards opens nothing of before.
				if gone != "" {
					add(t, e.Journal, Refuse, &Record{Kind: deputyv1.RecordKind_RECORD_KIND_DECISION, TenantId: tenant, PrincipalType: "user", PrincipalId: gone})
					if again, erased := e.opened(t, e.stored(t)[1]); erased || again.GetPrincipalId() != gone {
						t.Error("what comes after the erasure is erased")
					}
				}
				read, erased := e.opened(t, e.stored(t)[0])
				if !erased {
					t.Error("the record does not say that something is erased")
				}
				text := read.String()
				for word, takes := range test.words {
					if found := strings.Contains(text, word); found == slices.Contains(takes, gone) {
						t.Errorf("%q is found: %t", word, found)
					}
				}
				if !proto.Equal(kept(read), kept(test.record)) {
					t.Error("what is nobody's changed")
				}
			})
		}
	}
}

func TestWhatIsNobodysStaysAsItIs(t *testing.T) {
	t.Parallel()
	e := openErasable(t, vfs.NewMem(), nil)
	record := &Record{
		Kind: deputyv1.RecordKind_RECORD_KIND_DECISION, AgentId: "bot", TenantId: "acme", PrincipalType: "service", PrincipalId: "billing",
		ResourceType: "document", ResourceId: "plan", Permission: "view", Subject: "agent:bot", ContextHash: []byte("0123456789abcdef"),
	}
	add(t, e.Journal, Refuse, proto.CloneOf(record))
	if got := e.stored(t)[0]; !proto.Equal(got, record) {
		t.Error(got)
	}
}

func TestSealedOpensInItsRecordOnly(t *testing.T) {
	t.Parallel()
	e := openErasable(t, vfs.NewMem(), nil)
	add(t, e.Journal, Refuse, proto.CloneOf(sealedCases(t)["a decision"].record))
	stored := e.stored(t)[0]
	stored.Time++
	if read, erased := e.opened(t, stored); !erased || read.GetPrincipalId() != "" {
		t.Error("what is sealed opens in the record of another time:", read)
	}
}

func TestTheDigestOfAContextNeedsTheKey(t *testing.T) {
	t.Parallel()
	given := map[string]any{"amount": float64(12)}
	for name, personal := range map[string]bool{"erasable": true, "as it is": false} {
		e := openErasable(t, vfs.NewMem(), func(c *Config) {
			if !personal {
				c.Personal = nil
			}
		})
		reader, err := e.Reader(nil)
		if err != nil {
			t.Fatal(err)
		}
		r := &Record{Kind: deputyv1.RecordKind_RECORD_KIND_DECISION, TenantId: "acme", PrincipalType: "user", PrincipalId: "alice"}
		r.ContextHash, _ = e.Context(given)
		plain := bytes.Clone(r.GetContextHash())
		add(t, e.Journal, Refuse, r)
		stored := e.stored(t)[0]
		if bytes.Equal(stored.GetContextHash(), plain) == personal {
			t.Errorf("%s: the digest is made with the journal's secret alone: %t", name, !personal)
		}
		if same, err := reader.SameContext(stored, given); err != nil || !same {
			t.Errorf("%s: the same context is another one: %v", name, err)
		}
		if same, err := reader.SameContext(stored, map[string]any{"amount": float64(13)}); err != nil || same {
			t.Errorf("%s: another context is the same: %v", name, err)
		}
		if !personal {
			continue
		}
		e.erase(t, "acme", "alice")
		if same, err := reader.SameContext(stored, given); same || !errors.Is(err, persons.ErrErased) {
			t.Errorf("%s: the context can be tried after the erasure: %v", name, err)
		}
	}
}

func TestTermsOfTheIndexNeedTheKey(t *testing.T) {
	t.Parallel()
	e := openErasable(t, vfs.NewMem(), nil)
	p := e.cfg.Personal
	for _, tenant := range []string{"acme", "globex"} {
		add(t, e.Journal, Refuse, &Record{
			Kind: deputyv1.RecordKind_RECORD_KIND_DECISION, TenantId: tenant, PrincipalType: "user", PrincipalId: "alice", ResourceType: "user",
			ResourceId: "bob",
		})
	}
	var has [2][]index.Term
	for i, r := range e.stored(t) {
		if has[i] = p.Terms(r, nil); len(has[i]) != 2 {
			t.Fatal(has[i])
		}
	}
	matches := func(record int, field index.Field, objectType, id, tenant string) bool {
		t.Helper()
		asked, known := p.Asked(field, objectType, id, tenant)
		if !known {
			t.Fatal("the keys cannot be read")
		}
		return slices.ContainsFunc(has[record], func(one index.Term) bool { return slices.Contains(asked, one) })
	}
	for _, test := range []struct {
		record     int
		field      index.Field
		id, tenant string
		want       bool
	}{
		{0, index.Principal, "alice", "acme", true},
		{0, index.Principal, "alice", "globex", false},
		{1, index.Principal, "alice", "globex", true},
		{0, index.Principal, "alice", "", true},
		{1, index.Principal, "alice", "", true},
		{0, index.Principal, "bob", "acme", false},
		{0, index.Resource, "bob", "acme", true},
		{0, index.Resource, "bob", "", true},
		{0, index.Resource, "alice", "acme", false},
		{0, index.Resource, "nobody", "", false},
	} {
		if got := matches(test.record, test.field, "user", test.id, test.tenant); got != test.want {
			t.Errorf("%+v: %t", test, got)
		}
	}
	if plain := index.OfObject(index.Principal, "user", "alice"); slices.Contains(has[0], plain) {
		t.Error("the index has a term that needs no key")
	}
	e.erase(t, "acme", "bob")
	if matches(0, index.Resource, "user", "bob", "acme") {
		t.Error("somebody who was erased is found")
	}
	again := p.Terms(e.stored(t)[0], nil)
	if len(again) != 1 || !slices.Contains(has[0], again[0]) {
		t.Error("an index that is made again has terms of somebody who was erased:", again)
	}
	// What lies under keys of others is found with its type.
	add(t, e.Journal, Refuse, &Record{
		Kind: deputyv1.RecordKind_RECORD_KIND_DECISION, TenantId: "acme", PrincipalType: "user", PrincipalId: "alice", ResourceType: "ticket", ResourceId: "7",
	})
	has[0] = p.Terms(e.stored(t)[2], nil)
	if !matches(0, index.Resource, "ticket", "7", "acme") || matches(0, index.Resource, "document", "7", "acme") {
		t.Error("an object of a personal type is not found by its type")
	}
}

func TestWithoutKeysNothingPersonalIsWritten(t *testing.T) {
	t.Parallel()
	var broken atomic.Bool
	mem := vfs.NewMem()
	if err := mem.MkdirAll("keys", 0o700); err != nil {
		t.Fatal(err)
	}
	keys, err := persons.Open(persons.Config{Dir: "keys", Secret: make([]byte, MinSecret), FS: errorfs.Wrap(mem, errorfs.InjectorFunc(func(errorfs.Op) error {
		if broken.Load() {
			return errorfs.ErrInjected
		}
		return nil
	}))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { broken.Store(false); _ = keys.Close() })
	e := openErasable(t, vfs.NewMem(), func(c *Config) { c.Personal = NewPersonal(keys, nil) })
	broken.Store(true)
	record := &Record{Kind: deputyv1.RecordKind_RECORD_KIND_BRAKE, Caller: "guard", ResourceType: "user", ResourceId: "alice", GivenReason: "because"}
	if _, err := e.Append(t.Context(), Refuse, proto.CloneOf(record)); authz.KindOf(err) != authz.Unavailable {
		t.Error("it is written without its person's key:", err)
	}
	add(t, e.Journal, Keep, proto.CloneOf(record))
	add(t, e.Journal, Reserve, proto.CloneOf(record))
	all := e.stored(t)
	if len(all) != 2 || all[1].GetNote() != noPersonal || all[0].GetResourceId() != "" || all[0].GetGivenReason() != "" || all[0].GetNote() != noPersonal || all[0].GetResourceType() != "user" {
		t.Error(all)
	}
	if e.Err() == nil {
		t.Error("the journal says that it takes all records, and it does not")
	}
	broken.Store(false)
	if err := e.Err(); err != nil {
		t.Error("the disk of the keys is well again, and the journal says", err)
	}
	add(t, e.Journal, Refuse, proto.CloneOf(record))
	// The same where a key that is there cannot be read.
	broken.Store(true)
	if _, err := e.Append(t.Context(), Refuse, proto.CloneOf(record)); authz.KindOf(err) != authz.Unavailable || e.Err() == nil {
		t.Error("the key of a person cannot be read:", err, e.Err())
	}
	broken.Store(false)
	if err := e.Err(); err != nil {
		t.Error("the disk of the keys is well again, and the journal says", err)
	}
}

// TestReadingMakesNoKey: who asks for a person who was erased, or never was there, has no key made, and the journal does not hold the id.
func TestReadingMakesNoKey(t *testing.T) {
	t.Parallel()
	e := openErasable(t, vfs.NewMem(), nil)
	decided := &Record{Kind: deputyv1.RecordKind_RECORD_KIND_DECISION, TenantId: "acme", PrincipalType: "user", PrincipalId: "alice"}
	read := &Record{
		Kind: deputyv1.RecordKind_RECORD_KIND_READ, TenantId: "acme", PrincipalType: "user", PrincipalId: "alice", RequestHash: make([]byte, 32),
	}
	key := func() error {
		_, err := e.cfg.Personal.keys.Key(e.cfg.Personal.keys.Tag(persons.Person{Tenant: "acme", Type: "user", ID: "alice"}))
		return err
	}
	last := func() *Record {
		t.Helper()
		add(t, e.Journal, Refuse, proto.CloneOf(read))
		stored := e.stored(t)
		return stored[len(stored)-1]
	}
	unknown := func(when string) {
		t.Helper()
		if got := last(); got.GetNote() != noKey || got.GetPrincipalId() != "" || got.GetPersonal() != nil || got.GetRequestHash() != nil {
			t.Errorf("%s the record of the read is %v", when, got)
		}
		if err := key(); !errors.Is(err, persons.ErrErased) {
			t.Errorf("%s there is a key: %v", when, err)
		}
	}
	unknown("before anything was decided")
	add(t, e.Journal, Refuse, proto.CloneOf(decided))
	if got, erased := e.opened(t, last()); erased || got.GetPrincipalId() != "alice" || got.GetNote() != "" {
		t.Errorf("the record of the read is %v", got)
	}
	read.TenantId = "" // as an auditor asks who names no tenant
	if got, erased := e.opened(t, last()); erased || got.GetPrincipalId() != "alice" ||
		!slices.Contains(e.cfg.Personal.Terms(last(), nil), hiddenTerm(index.Principal, "user")) {
		t.Errorf("the record of the read in no tenant is %v", got)
	}
	e.erase(t, "acme", "alice")
	unknown("in no tenant after the erasure")
	read.TenantId = "acme"
	unknown("after the erasure")
}

func TestALongRecordIsShortenedBeforeItIsSealed(t *testing.T) {
	t.Parallel()
	e := openErasable(t, vfs.NewMem(), func(c *Config) { c.SegmentBytes = 1 << 20 })
	record := &Record{Kind: deputyv1.RecordKind_RECORD_KIND_WRITE, TenantId: "acme", Caller: "importer", GivenReason: "a reason"}
	for i := range 4000 {
		record.Relationships = append(record.Relationships, fmt.Sprintf("touch document:%d#viewer@user:person-%d", i, i%7))
	}
	add(t, e.Journal, Refuse, record)
	read, erased := e.opened(t, e.stored(t)[0])
	if n := len(read.GetRelationships()); erased || n < 100 || n > 2000 || read.GetGivenReason() != "a reason" {
		t.Error(erased, len(read.GetRelationships()), read.GetGivenReason())
	}
}

// FuzzPersonal opens what is not as it was sealed. Nothing panics, and nothing opens.
func FuzzPersonal(f *testing.F) {
	e := openErasable(f, vfs.NewMem(), nil)
	add(f, e.Journal, Refuse, proto.CloneOf(sealedCases(f)["a write"].record))
	whole := e.stored(f)[0]
	f.Add(whole.GetPersonal(), whole.GetPersonalKey(), whole.GetTime())
	f.Add([]byte{}, whole.GetPersonalKey(), whole.GetTime())
	f.Add(whole.GetPersonal(), []byte{1}, whole.GetTime())
	f.Fuzz(func(t *testing.T, sealed, key []byte, time int64) {
		r := &Record{Personal: sealed, PersonalKey: key, Time: time}
		opened, err := e.cfg.Personal.Open(r)
		same := bytes.Equal(sealed, whole.GetPersonal()) && bytes.Equal(key, whole.GetPersonalKey()) && time == whole.GetTime()
		if len(key) > 0 && (err == nil && opened) != same {
			t.Error("it opens:", r)
		}
	})
}

func BenchmarkSealRecord(b *testing.B) {
	keys, err := persons.Open(persons.Config{Dir: b.TempDir(), Secret: make([]byte, MinSecret)})
	if err != nil {
		b.Fatal(err)
	}
	defer keys.Close()
	p := NewPersonal(keys, nil)
	b.ReportAllocs()
	for b.Loop() {
		r := &Record{
			Kind: deputyv1.RecordKind_RECORD_KIND_DECISION, Time: 5, TenantId: "acme", PrincipalType: "user", PrincipalId: "alice@example.com",
			ResourceType: "document", ResourceId: "plan", Permission: "view",
		}
		if err := p.seal(r); err != nil {
			b.Fatal(err)
		}
	}
}
