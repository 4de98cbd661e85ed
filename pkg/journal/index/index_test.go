package index_test

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"google.golang.org/protobuf/proto"

	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/pkg/journal/index"
)

const bundleRecords = 256

// draw is a record as a busy server would write one: some agents, tenants and objects are met often, most seldom.
func draw(random *rand.Rand, sequence uint64) *deputyv1.Record {
	few := func(of int) string {
		return fmt.Sprint(int(float64(of) * random.Float64() * random.Float64() * random.Float64()))
	}
	r := &deputyv1.Record{
		Sequence: sequence, Time: 1_700_000_000_000_000_000 + int64(sequence)*1_000_000 + random.Int64N(50_000_000),
		Kind: deputyv1.RecordKind(1 + random.IntN(11)), Caller: "caller-" + few(5), AgentId: "agent-" + few(1000),
		PrincipalType: "user", PrincipalId: "user-" + few(5000), TenantId: "tenant-" + few(100),
		ResourceType: "document", ResourceId: "document-" + few(100_000), Permission: []string{"view", "edit"}[random.IntN(2)],
		SessionId: "session-" + few(2000), DelegationId: "delegation-" + few(2000),
		Answer: deputyv1.Permissionship(random.IntN(4)), RefusedBy: deputyv1.Gate(random.IntN(8)),
	}
	if random.IntN(3) == 0 {
		r.AgentChain = []string{"agent-" + few(1000), r.GetAgentId()}
	}
	if random.IntN(20) == 0 {
		r = &deputyv1.Record{Sequence: sequence, Time: r.GetTime(), Kind: deputyv1.RecordKind_RECORD_KIND_SUMMARY}
	}
	return r
}

// drawn is a journal's records, in bundles.
type drawn struct {
	bundles [][]*deputyv1.Record
	encoded [][][]byte
}

func drawBundles(t testing.TB, random *rand.Rand, n int) *drawn {
	t.Helper()
	d := &drawn{}
	for b := range n {
		var records []*deputyv1.Record
		var encoded [][]byte
		for i := range bundleRecords {
			r := draw(random, uint64(b*bundleRecords+i))
			text, err := proto.Marshal(r)
			if err != nil {
				t.Fatal(err)
			}
			records, encoded = append(records, r), append(encoded, text)
		}
		d.bundles, d.encoded = append(d.bundles, records), append(d.encoded, encoded)
	}
	return d
}

// asked is a query, and how the same is asked of a record by hand.
type asked struct {
	query index.Query
	holds []func(*deputyv1.Record) bool
}

func (a *asked) matches(r *deputyv1.Record) bool {
	return !slices.ContainsFunc(a.holds, func(holds func(*deputyv1.Record) bool) bool { return !holds(r) })
}

// ask draws a query about a record.
func ask(random *rand.Rand, about *deputyv1.Record) *asked {
	a := &asked{}
	narrow := func(t index.Term, holds func(*deputyv1.Record) bool) {
		a.query.All = append(a.query.All, []index.Term{t})
		a.holds = append(a.holds, holds)
	}
	for _, one := range []func(){
		func() {
			want := about.GetAgentId()
			narrow(index.Of(index.Agent, want), func(r *deputyv1.Record) bool {
				return r.GetAgentId() == want || slices.Contains(r.GetAgentChain(), want)
			})
		},
		func() {
			want := about.GetPrincipalId()
			narrow(index.OfObject(index.Principal, "user", want), func(r *deputyv1.Record) bool { return r.GetPrincipalId() == want })
		},
		func() {
			want := about.GetTenantId()
			narrow(index.Of(index.Tenant, want), func(r *deputyv1.Record) bool { return r.GetTenantId() == want })
		},
		func() {
			want := about.GetResourceId()
			narrow(index.OfObject(index.Resource, "document", want), func(r *deputyv1.Record) bool { return r.GetResourceId() == want })
		},
		func() {
			want := about.GetPermission()
			narrow(index.Of(index.Permission, want), func(r *deputyv1.Record) bool { return r.GetPermission() == want })
		},
		func() {
			want := about.GetCaller()
			narrow(index.Of(index.Caller, want), func(r *deputyv1.Record) bool { return r.GetCaller() == want })
		},
		func() {
			want := about.GetSessionId()
			narrow(index.Of(index.Session, want), func(r *deputyv1.Record) bool { return r.GetSessionId() == want })
		},
		func() {
			want := about.GetDelegationId()
			narrow(index.Of(index.Delegation, want), func(r *deputyv1.Record) bool { return r.GetDelegationId() == want })
		},
		func() {
			if want := about.GetAnswer(); want != 0 {
				narrow(index.OfNumber(index.Answer, int32(want)), func(r *deputyv1.Record) bool { return r.GetAnswer() == want })
			}
		},
		func() {
			if want := about.GetRefusedBy(); want != 0 {
				narrow(index.OfNumber(index.Gate, int32(want)), func(r *deputyv1.Record) bool { return r.GetRefusedBy() == want })
			}
		},
		func() {
			one, other := about.GetKind(), deputyv1.RecordKind(1+random.IntN(11))
			a.query.All = append(a.query.All, []index.Term{index.OfNumber(index.Kind, int32(one)), index.OfNumber(index.Kind, int32(other))})
			a.holds = append(a.holds, func(r *deputyv1.Record) bool { return r.GetKind() == one || r.GetKind() == other })
		},
		func() {
			a.query.From = about.GetTime() - random.Int64N(1_000_000_000)
			from := a.query.From
			a.holds = append(a.holds, func(r *deputyv1.Record) bool { return r.GetTime() >= from })
		},
		func() {
			a.query.Until = about.GetTime() + 1 + random.Int64N(1_000_000_000)
			until := a.query.Until
			a.holds = append(a.holds, func(r *deputyv1.Record) bool { return r.GetTime() < until })
		},
	} {
		if random.IntN(5) == 0 && about.GetKind() != deputyv1.RecordKind_RECORD_KIND_SUMMARY {
			one()
		}
	}
	return a
}

// check asserts that an index passes over no bundle that has a record, and returns how many it takes for bundles that may, and how many do.
func (d *drawn) check(t *testing.T, x *index.Index, a *asked) (may, have int) {
	t.Helper()
	for n, records := range d.bundles {
		set := x.May(uint64(n/index.Wide), &a.query)
		taken := set.Has(n % index.Wide)
		if taken {
			may++
		}
		if !slices.ContainsFunc(records, a.matches) {
			continue
		}
		have++
		if !taken {
			t.Fatalf("bundle %d has a record that is asked for, and is passed over", n)
		}
	}
	return may, have
}

// addAll tells an index all that it lacks.
func (d *drawn) addAll(t testing.TB, x *index.Index) (added int) {
	t.Helper()
	for {
		n, some := x.Missing(uint64(len(d.encoded)))
		if !some {
			return added
		}
		if err := x.Add(n, d.encoded[n]); err != nil {
			t.Fatal(err)
		}
		added++
	}
}

func open(t testing.TB, fs vfs.FS) *index.Index {
	t.Helper()
	x, err := index.Open(fs, "index", nil)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// TestPassesOverNothing: whatever is asked, no bundle that has it is passed over, and few of the others are taken.
func TestPassesOverNothing(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: much work of one goroutine")
	}
	random := rand.New(rand.NewPCG(1, 2))
	d := drawBundles(t, random, index.Wide+77)
	fs := vfs.NewMem()
	x := open(t, fs)
	if added := d.addAll(t, x); added != len(d.bundles) {
		t.Fatalf("%d bundles were asked for, of %d", added, len(d.bundles))
	}
	read, err := index.Read(fs, "index")
	if err != nil {
		t.Fatal(err)
	}
	var may, have int
	for range 40 {
		a := ask(random, d.bundles[random.IntN(len(d.bundles))][random.IntN(bundleRecords)])
		for _, one := range []*index.Index{x, read} {
			m, h := d.check(t, one, a)
			may, have = may+m, have+h
		}
	}
	if have == 0 || float64(may) > 1.3*float64(have) {
		t.Errorf("%d bundles are read for %d that have what is asked for", may, have)
	}
	a := &asked{query: index.Query{All: [][]index.Term{{index.Of(index.Agent, "nobody")}}}}
	a.holds = append(a.holds, func(*deputyv1.Record) bool { return false })
	if may, _ := d.check(t, x, a); may > 5 {
		t.Errorf("%d bundles of %d are read for an agent that is in none", may, len(d.bundles))
	}
	if size := sizeOf(t, fs, "00000000000000000000"); size > 6*index.Wide*bundleRecords {
		t.Errorf("a group takes %.2f bytes a record", float64(size)/index.Wide/bundleRecords)
	} else {
		t.Logf("a group takes %.2f bytes a record", float64(size)/index.Wide/bundleRecords)
	}
}

func sizeOf(t testing.TB, fs vfs.FS, name string) int64 {
	t.Helper()
	info, err := fs.Stat("index/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

// TestNeverTooLarge: records without anything in common take no more room, and are found.
func TestNeverTooLarge(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: much work of one goroutine")
	}
	fs := vfs.NewMem()
	x := open(t, fs)
	d := &drawn{}
	for n := range index.Wide {
		var records []*deputyv1.Record
		var encoded [][]byte
		for i := range bundleRecords {
			id := fmt.Sprint(n, "/", i)
			r := &deputyv1.Record{
				Time: int64(n), AgentId: id, PrincipalId: id, TenantId: id, ResourceId: id, SessionId: id, DelegationId: id, Permission: id, Caller: id,
			}
			for c := range 12 * (n % 2) {
				r.AgentChain = append(r.AgentChain, fmt.Sprint(id, "/", c))
			}
			b, err := proto.Marshal(r)
			if err != nil {
				t.Fatal(err)
			}
			records, encoded = append(records, r), append(encoded, b)
		}
		d.bundles, d.encoded = append(d.bundles, records), append(d.encoded, encoded)
	}
	d.addAll(t, x)
	if size := sizeOf(t, fs, "00000000000000000000"); size > 6*index.Wide*bundleRecords {
		t.Errorf("a group takes %.2f bytes a record", float64(size)/index.Wide/bundleRecords)
	}
	for _, id := range []string{"0/0", "1/255", "255/7", "254/100"} {
		a := &asked{query: index.Query{All: [][]index.Term{{index.Of(index.Session, id)}}}}
		a.holds = append(a.holds, func(r *deputyv1.Record) bool { return r.GetSessionId() == id })
		if _, have := d.check(t, x, a); have != 1 {
			t.Errorf("%s stands in %d bundles", id, have)
		}
	}
}

// TestRebuilt: whatever becomes of its files, the index passes over nothing, says what it lacks, and is as it was once it is told.
func TestRebuilt(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: much work of one goroutine")
	}
	random := rand.New(rand.NewPCG(3, 4))
	d := drawBundles(t, random, 2*index.Wide+50)
	whole := vfs.NewMem()
	d.addAll(t, open(t, whole))
	names, err := whole.List("index")
	if err != nil || len(names) != 3 {
		t.Fatalf("the index has %q, %v", names, err)
	}
	for round := range 12 {
		fs := vfs.NewMem()
		if _, err := vfs.Clone(whole, fs, "index", "index"); err != nil {
			t.Fatal(err)
		}
		name := "index/" + names[round/4%len(names)]
		content := readAll(t, fs, name)
		switch round % 4 {
		case 0:
			if err := fs.Remove(name); err != nil {
				t.Fatal(err)
			}
		case 1:
			writeAll(t, fs, name, content[:random.IntN(len(content))])
		case 2:
			content[random.IntN(len(content))] ^= 1 << random.IntN(8)
			writeAll(t, fs, name, content)
		case 3:
			writeAll(t, fs, name, append(slices.Clone(content[:len(content)/2]), make([]byte, len(content)/2)...))
		}
		x := open(t, fs)
		for range 3 {
			d.check(t, x, ask(random, d.bundles[random.IntN(len(d.bundles))][random.IntN(bundleRecords)]))
		}
		d.addAll(t, x)
		for range 3 {
			d.check(t, x, ask(random, d.bundles[random.IntN(len(d.bundles))][random.IntN(bundleRecords)]))
		}
		if round%4 == 0 { // it was noticed at once
			for _, name := range names {
				if !slices.Equal(readAll(t, fs, "index/"+name), readAll(t, whole, "index/"+name)) {
					t.Fatalf("round %d: %s differs once it is built again", round, name)
				}
			}
		}
	}
}

// TestDamageIsSeen: each changed byte of a group is noticed where it is read, and the group is built again.
func TestDamageIsSeen(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: much work of one goroutine")
	}
	random := rand.New(rand.NewPCG(5, 6))
	d := drawBundles(t, random, index.Wide)
	fs := vfs.NewMem()
	d.addAll(t, open(t, fs))
	const name = "index/00000000000000000000"
	content := readAll(t, fs, name)
	for block := 0; block < len(content)/512; block += 29 {
		bad := slices.Clone(content)
		bad[block*512+random.IntN(512)] ^= 0x10
		writeAll(t, fs, name, bad)
		x := open(t, fs)
		for range 2 {
			d.check(t, x, ask(random, d.bundles[random.IntN(len(d.bundles))][random.IntN(bundleRecords)]))
		}
	}
	bad := slices.Clone(content)
	bad[3] ^= 1
	writeAll(t, fs, name, bad)
	x := open(t, fs)
	if _, some := x.Missing(index.Wide); some {
		t.Error("damage is known before anything was read")
	}
	if set := x.May(0, &index.Query{All: [][]index.Term{{index.Of(index.Agent, "nobody")}}}); set.Empty() {
		t.Error("a group whose file is damaged is passed over")
	}
	if added := d.addAll(t, x); added != index.Wide {
		t.Errorf("%d bundles were asked for again", added)
	}
	if !slices.Equal(readAll(t, fs, name), content) {
		t.Error("the group is another one once it is built again")
	}
}

// TestPrune: what was deleted is not asked for, and the rest is found.
func TestPrune(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: much work of one goroutine")
	}
	random := rand.New(rand.NewPCG(7, 8))
	d := drawBundles(t, random, 2*index.Wide+50)
	for _, first := range []uint64{10, index.Wide, index.Wide + 3, 2*index.Wide + 20} {
		fs := vfs.NewMem()
		x := open(t, fs)
		if first%2 == 0 { // else it is built with what there is
			d.addAll(t, x)
		}
		if err := x.Prune(first); err != nil {
			t.Fatal(err)
		}
		if n, some := x.Missing(uint64(len(d.encoded))); some && n < first {
			t.Fatalf("bundle %d is asked for, which was deleted", n)
		}
		d.addAll(t, x)
		kept := &drawn{bundles: slices.Clone(d.bundles), encoded: d.encoded}
		for n := range first {
			kept.bundles[n] = nil
		}
		for range 5 {
			kept.check(t, x, ask(random, d.bundles[random.IntN(len(d.bundles))][random.IntN(bundleRecords)]))
		}
	}
}

func readAll(t testing.TB, fs vfs.FS, name string) []byte {
	t.Helper()
	b := make([]byte, sizeOf(t, fs, name[len("index/"):]))
	file, err := fs.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	if len(b) == 0 {
		return b
	}
	if _, err := file.ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	return b
}

func writeAll(t testing.TB, fs vfs.FS, name string, b []byte) {
	t.Helper()
	file, err := fs.Create(name, vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := file.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
}

// FuzzSee: no bytes make it fail in another way than by saying that they are no record, and those of records say what they say.
func FuzzSee(f *testing.F) {
	random := rand.New(rand.NewPCG(9, 10))
	for i := range uint64(20) {
		b, err := proto.Marshal(draw(random, i))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add(binary.AppendUvarint(nil, 1<<63))
	f.Fuzz(func(t *testing.T, b []byte) {
		var s index.Seen
		seen := s.See(b)
		r := &deputyv1.Record{}
		if proto.Unmarshal(b, r) != nil {
			return
		}
		if !seen {
			t.Fatal("a record is not seen")
		}
		if s.Time != r.GetTime() {
			t.Errorf("the time %d is read as %d", r.GetTime(), s.Time)
		}
		for field, value := range map[index.Field]string{
			index.Agent: r.GetAgentId(), index.Tenant: r.GetTenantId(), index.Session: r.GetSessionId(), index.Delegation: r.GetDelegationId(),
			index.Permission: r.GetPermission(), index.Caller: r.GetCaller(),
		} {
			if value != "" && !slices.Contains(s.Terms, index.Of(field, value)) {
				t.Errorf("field %d is not found by %q", field, value)
			}
		}
		if r.GetPrincipalId() != "" && !slices.Contains(s.Terms, index.OfObject(index.Principal, r.GetPrincipalType(), r.GetPrincipalId())) {
			t.Error("the principal is not found")
		}
	})
}

// BenchmarkAdd is what the index costs a bundle of 256 records, groups included.
func BenchmarkAdd(b *testing.B) {
	d := drawBundles(b, rand.New(rand.NewPCG(1, 2)), index.Wide)
	x := open(b, vfs.NewMem())
	for n := uint64(0); b.Loop(); n++ {
		if err := x.Add(n, d.encoded[n%index.Wide]); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/bundleRecords, "ns/record")
}

// BenchmarkPassOver is how long it takes to pass over 10 million records none of which is looked for.
func BenchmarkPassOver(b *testing.B) {
	d := drawBundles(b, rand.New(rand.NewPCG(1, 2)), index.Wide)
	dir := b.TempDir()
	x, err := index.Open(vfs.Default, dir, nil)
	if err != nil {
		b.Fatal(err)
	}
	const groups = 153
	for n := range uint64(groups * index.Wide) {
		if err := x.Add(n, d.encoded[n%index.Wide]); err != nil {
			b.Fatal(err)
		}
	}
	taken := 0
	for i := 0; b.Loop(); i++ {
		q := index.Query{All: [][]index.Term{{index.Of(index.Agent, fmt.Sprint("nobody-", i))}}}
		for group := range uint64(groups) {
			set := x.May(group, &q)
			for place := range index.Wide {
				if set.Has(place) {
					taken++
				}
			}
		}
	}
	b.ReportMetric(float64(taken)/float64(b.N), "bundles/op")
}
