package store

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/authzed/spicedb/pkg/datastore"
	core "github.com/authzed/spicedb/pkg/proto/core/v1"
	"github.com/authzed/spicedb/pkg/tuple"
	"github.com/cockroachdb/pebble/v2"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// isDamaged fails the test unless an error is nil or says that the store is damaged.
func isDamaged(t *testing.T, err error) {
	t.Helper()
	if err != nil && !errors.Is(err, ErrDamaged) {
		t.Errorf("%v does not say that the store is damaged", err)
	}
}

// seeds are rows to begin with.
var seeds = []string{
	"document:a#viewer@user:b", "document:a#viewer@user:b#member", "doc:a#viewer@user:*", "document:ab#viewer@user:b",
	"folder:/x|y=z+1-2_3#view@group:g#member", "d:\xff#v@u:\xfe\xff", "a:b#c@d:e#...",
}

// addRows adds rows as arguments of a fuzz target.
func addRows(f *testing.F, add func(rt, rid, rel, st, sid, srel string)) {
	f.Helper()
	for _, seed := range seeds {
		resource, subject, _ := strings.Cut(seed, "@")
		object, rel, _ := strings.Cut(resource, "#")
		rt, rid, _ := strings.Cut(object, ":")
		object, srel, found := strings.Cut(subject, "#")
		st, sid, _ := strings.Cut(object, ":")
		if !found {
			srel = datastore.Ellipsis
		}
		add(rt, rid, rel, st, sid, srel)
	}
}

func reference(rt, rid, rel, st, sid, srel string) tuple.RelationshipReference {
	return tuple.RelationshipReference{
		Resource: tuple.ObjectAndRelation{ObjectType: rt, ObjectID: rid, Relation: rel},
		Subject:  tuple.ObjectAndRelation{ObjectType: st, ObjectID: sid, Relation: srel},
	}
}

// FuzzRow: every row has one forward and one reverse key, which can be read again, split where their
// version begins, and keep their row's versions together.
func FuzzRow(f *testing.F) {
	addRows(f, func(rt, rid, rel, st, sid, srel string) {
		f.Add(rt, rid, rel, st, sid, srel, uint64(1700000000000000000))
	})
	f.Add("a", "b", "c", "d", "e", "...", uint64(0))
	f.Add("a", "", "c", "d", "e", "", uint64(1))
	f.Add("a", "b\x00", "c", "d", "e", "...", uint64(math.MaxUint64))
	f.Fuzz(func(t *testing.T, rt, rid, rel, st, sid, srel string, at uint64) {
		ref := reference(rt, rid, rel, st, sid, srel)
		r, err := rowOf(ref)
		parts := []string{rt, rid, rel, st, sid, srel}
		if fit := !slices.Contains(parts, "") && !strings.Contains(strings.Join(parts, ""), "\x00"); fit != (err == nil) {
			t.Fatalf("%q: %v", parts, err)
		}
		if err != nil {
			return
		}
		for _, key := range [][]byte{r.forward(), r.appendReverse(nil)} {
			back, err := parseRow(key)
			if err != nil || back != r || back.reference() != ref {
				t.Fatalf("%q was read as %+v, %v; wrote %+v", key, back, err, r)
			}
			whole := appendVersion(bytes.Clone(key), Revision(at))
			if n := split(whole); n != len(key) || split(key) != len(key) {
				t.Fatalf("%q was split at %d", whole, n)
			}
			if read, ok := versionOf(whole, len(key)); !ok || read != Revision(at) {
				t.Fatalf("revision %d was read as %d, %v", at, read, ok)
			}
			if !bytes.HasPrefix(whole, key) || bytes.Compare(whole, end(key)) >= 0 {
				t.Fatalf("%q does not lie below %q", whole, key)
			}
			if next := comparer.ImmediateSuccessor(nil, key); bytes.Compare(whole, next) >= 0 || split(next) != len(next) {
				t.Fatalf("%q comes after %q", whole, next)
			}
			newer := appendVersion(bytes.Clone(key), Revision(at)+1)
			if at < math.MaxUint64 && bytes.Compare(newer, whole) >= 0 {
				t.Fatal("an older version comes first")
			}
		}
	})
}

// compareParts compares components one after the other.
func compareParts(a, b []string) int { return slices.Compare(a, b) }

// FuzzRowOrder: keys are in the order of their components, and no row's key is the beginning of another's.
func FuzzRowOrder(f *testing.F) {
	addRows(f, func(rt, rid, rel, st, sid, srel string) {
		f.Add(rt, rid, rel, st, sid, srel, "document", "a", "viewer", "user", "b", "member")
		f.Add(rt, rid, rel, st, sid, srel, rt, rid+"x", rel, st, sid, srel)
		f.Add(rt, rid, rel, st, sid, srel, rt, rid, rel, st, sid+"\x01", srel)
		f.Add(rt, rid, rel, st, sid, srel, rt, rid+"x", "a", st, sid, srel)
		f.Add(rt, rid, rel, st, sid, srel, rt, rid, rel, st, sid+"x", "a")
	})
	f.Fuzz(func(t *testing.T, rt, rid, rel, st, sid, srel, rt2, rid2, rel2, st2, sid2, srel2 string) {
		a, err := rowOf(reference(rt, rid, rel, st, sid, srel))
		b, err2 := rowOf(reference(rt2, rid2, rel2, st2, sid2, srel2))
		if err != nil || err2 != nil {
			return
		}
		if srel == datastore.Ellipsis {
			srel = ""
		}
		if srel2 == datastore.Ellipsis {
			srel2 = ""
		}
		byResource := compareParts([]string{rt, rid, rel, st, srel, sid}, []string{rt2, rid2, rel2, st2, srel2, sid2})
		bySubject := compareParts([]string{st, srel, sid, rt, rel, rid}, []string{st2, srel2, sid2, rt2, rel2, rid2})
		for _, c := range []struct {
			a, b []byte
			want int
		}{{a.forward(), b.forward(), byResource}, {a.appendReverse(nil), b.appendReverse(nil), bySubject}} {
			if got := comparer.Compare(c.a, c.b); got != c.want {
				t.Errorf("%q and %q compare as %d, their components as %d", c.a, c.b, got, c.want)
			}
			if c.want != 0 && (bytes.HasPrefix(c.a, c.b) || bytes.HasPrefix(c.b, c.a)) {
				t.Errorf("%q and %q begin alike", c.a, c.b)
			}
			// Versions never come between rows.
			if got := comparer.Compare(appendVersion(bytes.Clone(c.a), 0), appendVersion(bytes.Clone(c.b), math.MaxUint64)); c.want != 0 && got != c.want {
				t.Errorf("versions of %q and %q compare as %d", c.a, c.b, got)
			}
		}
	})
}

// someKeys are keys of all kinds, bounds, and what is no key.
func someKeys() [][]byte {
	r := row{"document", "a", "viewer", "user", "", "b"}
	keys := [][]byte{
		{}, {kindForward}, {kindSchema}, {kindSchema + 1}, {kindChangelog}, metaKey(metaHorizon), changelogKey(5, 0), changelogKey(5, 1), changelogKey(6, 0),
		appendExpiration(nil, 5, 6, r.forward()), appendExpiration(nil, 6, 5, r.forward()), end([]byte{kindForward}), {0xff}, {0xff, 0xff},
	}
	for _, prefix := range [][]byte{
		r.forward(), r.appendReverse(nil), recordKey(kindNamespace, "document"), recordKey(kindNamespace, "documents"),
		recordKey(kindCaveat, "c"), recordKey(kindCounter, "k"), recordKey(kindSchema, ""), recordKey(kindSchemaHash, ""),
		recordKey(kindMark, ""),
	} {
		keys = append(keys, prefix, appendVersion(bytes.Clone(prefix), 0), appendVersion(bytes.Clone(prefix), 7), appendVersion(bytes.Clone(prefix), math.MaxUint64))
		for n := range prefix {
			keys = append(keys, prefix[:n])
		}
	}
	return keys
}

// obeys holds two keys to the laws that Pebble's comparers have to obey.
func obeys(t *testing.T, a, b []byte) {
	t.Helper()
	c := comparer
	order := c.Compare(a, b)
	if c.Compare(b, a) != -order || c.Equal(a, b) != (order == 0) {
		t.Errorf("%q and %q compare as %d and %d, equal: %v", a, b, order, c.Compare(b, a), c.Equal(a, b))
	}
	na, nb := c.Split(a), c.Split(b)
	if c.Split(a[:na]) != na {
		t.Errorf("%q is split at %d, and that at %d", a, na, c.Split(a[:na]))
	}
	// By prefix first, then by suffix; the order of bytes comes to the same.
	want := cmp.Or(bytes.Compare(a[:na], b[:nb]), c.ComparePointSuffixes(a[na:], b[nb:]))
	if order != want {
		t.Errorf("%q and %q compare as %d, by prefix and suffix as %d", a, b, order, want)
	}
	if c.CompareRangeSuffixes(a[na:], b[nb:]) != c.ComparePointSuffixes(a[na:], b[nb:]) {
		t.Errorf("the suffixes of %q and %q have two orders", a, b)
	}
	if ka, kb := c.AbbreviatedKey(a), c.AbbreviatedKey(b); ka < kb && order >= 0 || ka > kb && order <= 0 {
		t.Errorf("%q and %q abbreviate out of order", a, b)
	}
	if order < 0 && len(a) > 0 && len(b) > 0 {
		if k := c.Separator(nil, a, b); c.Compare(a, k) > 0 || c.Compare(k, b) >= 0 {
			t.Errorf("%q does not separate %q from %q", k, a, b)
		}
	}
	if len(a) > 0 {
		if k := c.Successor(nil, a); c.Compare(k, a) < 0 {
			t.Errorf("the successor of %q is %q", a, k)
		}
	}
	// Nothing lies between a prefix and its immediate successor but what has the prefix.
	if next := c.ImmediateSuccessor([]byte("x"), a[:na])[1:]; c.Compare(next, a[:na]) <= 0 || c.Split(next) != len(next) {
		t.Errorf("the immediate successor of %q is %q", a[:na], next)
	} else if c.Compare(a[:na], b[:nb]) < 0 && c.Compare(b[:nb], next) < 0 {
		t.Errorf("%q lies between %q and its immediate successor", b[:nb], a[:na])
	}
}

// TestComparer holds keys of all kinds to the laws. Pebble's own CheckComparer takes it that any end of a
// prefix is a prefix, which ours, that begin with their kind, are not.
func TestComparer(t *testing.T) {
	keys := someKeys()
	for _, a := range keys {
		for _, b := range keys {
			obeys(t, a, b)
		}
	}
	if comparer.Name == pebble.DefaultComparer.Name {
		t.Error("the comparer has the name of Pebble's")
	}
}

// FuzzComparer holds arbitrary bytes to the laws, as keys of the store: Pebble compares bounds and what it
// makes of keys too.
func FuzzComparer(f *testing.F) {
	keys := someKeys()
	for i, key := range keys {
		f.Add(key, keys[(i*7+3)%len(keys)])
	}
	f.Fuzz(func(t *testing.T, a, b []byte) {
		// A suffix is a version: what has another one is no key of the store.
		for _, k := range [][]byte{a, b} {
			if n := split(k); n != len(k) && len(k) != n+versionLen || n == len(k) && !whole(k) && len(k) > 0 && components(k[0]) == 0 {
				return
			}
		}
		obeys(t, a, b)
	})
}

// relationshipOf makes a relationship of a fuzzer's values.
func relationshipOf(flags uint8, caveat string, number float64, seconds, nanos int64, keyID string, hash []byte) tuple.Relationship {
	rel := tuple.Relationship{RelationshipReference: tuple.MustParse("document:a#viewer@user:b").RelationshipReference}
	if flags&1 != 0 && caveat != "" {
		fields := map[string]*structpb.Value{}
		if flags&8 != 0 {
			for i := range 12 {
				fields[fmt.Sprintf("f%d", i)] = structpb.NewNumberValue(number)
			}
			fields["nested"] = structpb.NewStructValue(&structpb.Struct{Fields: map[string]*structpb.Value{"x": structpb.NewBoolValue(true), "y": structpb.NewNullValue()}})
		}
		rel.OptionalCaveat = &core.ContextualizedCaveat{CaveatName: caveat, Context: &structpb.Struct{Fields: fields}}
	}
	if flags&2 != 0 {
		at := time.Unix(seconds, nanos).UTC()
		rel.OptionalExpiration = &at
	}
	if flags&4 != 0 {
		rel.OptionalIntegrity = &core.RelationshipIntegrity{KeyId: keyID, Hash: append([]byte{}, hash...), HashedAt: timestamppb.New(time.Unix(seconds, nanos))}
	}
	return rel
}

// FuzzValue: a relationship's value can be read again, and equal relationships have equal values.
func FuzzValue(f *testing.F) {
	for flags := range uint8(16) {
		f.Add(flags, "caveat", 1.5, int64(1700000000), int64(5), "key", []byte("hash"))
	}
	f.Add(uint8(2), "", 0.0, int64(-5), int64(999999999), "", []byte{})
	f.Add(uint8(15), "c", math.Inf(1), int64(1)<<33, int64(0), "", []byte{0, 1})
	f.Fuzz(func(t *testing.T, flags uint8, caveat string, number float64, seconds, nanos int64, keyID string, hash []byte) {
		seconds %= 1 << 36
		nanos %= 1 << 40
		rel := relationshipOf(flags, caveat, number, seconds, nanos, keyID, hash)
		value, err := appendValue(nil, rel)
		if err != nil {
			return // text that is not UTF-8 is no context
		}
		if isGone(value) {
			t.Fatal("a relationship reads as one that is gone")
		}
		again := must(appendValue([]byte("x"), relationshipOf(flags, caveat, number, seconds, nanos, keyID, hash)))(t)
		if !bytes.Equal(again[1:], value) {
			t.Fatalf("two values of one relationship: %x, %x", value, again[1:])
		}
		back := tuple.Relationship{RelationshipReference: rel.RelationshipReference}
		if err := readValue(value, &back); err != nil {
			t.Fatal(err)
		}
		if !proto.Equal(back.OptionalCaveat, rel.OptionalCaveat) && !math.IsNaN(number) {
			t.Errorf("caveat %v was read as %v", rel.OptionalCaveat, back.OptionalCaveat)
		}
		if !proto.Equal(back.OptionalIntegrity, rel.OptionalIntegrity) {
			t.Errorf("integrity %v was read as %v", rel.OptionalIntegrity, back.OptionalIntegrity)
		}
		at, expires, err := expirationOf(value)
		if err != nil || expires != (rel.OptionalExpiration != nil) || (back.OptionalExpiration != nil) != expires {
			t.Fatalf("expiration %v was read as %v, %v, %v", rel.OptionalExpiration, at, back.OptionalExpiration, err)
		}
		if expires && (!at.Equal(*rel.OptionalExpiration) || !back.OptionalExpiration.Equal(at)) {
			t.Errorf("expiration %v was read as %v and %v", rel.OptionalExpiration, at, back.OptionalExpiration)
		}
	})
}

// FuzzDecoders: arbitrary bytes are read as something, or are damage, and nothing else happens.
func FuzzDecoders(f *testing.F) {
	f.Add([]byte{})
	f.Add(gone)
	f.Add([]byte{flagCaveat | flagExpiration | flagIntegrity, 1, 'c', 0, 2, 3, 0, 0, 0, 0})
	f.Add(bytes.Repeat([]byte{0xff}, 40))
	f.Add(appendVersion(row{"d", "a", "v", "u", "", "b"}.forward(), 7))
	f.Add(must((&chunks{open: make([]byte, stampLen)}).finish()[0], error(nil))(f))
	log := must(newChunks(&structpb.Struct{Fields: map[string]*structpb.Value{"a": structpb.NewBoolValue(true)}}))(f)
	log.add([]byte("Fabc"), []byte{0})
	log.add([]byte("Fabd"), gone)
	f.Add(log.finish()[0])
	f.Add(must(encodeCounter(datastore.RelationshipCounter{Name: "c", Filter: &core.RelationshipFilter{ResourceType: "d"}, Count: -3, ComputedAtRevision: Revision(9)}))(f))
	f.Fuzz(func(t *testing.T, b []byte) {
		whole := bytes.Clone(b)
		var rel tuple.Relationship
		err := readValue(b, &rel)
		isDamaged(t, err)
		if err == nil {
			// What is read as a relationship has the expiration that finds it.
			at, expires, err := expirationOf(b)
			if err != nil || expires != (rel.OptionalExpiration != nil) || expires && !at.Equal(*rel.OptionalExpiration) {
				t.Errorf("%x expires at %v, and read alone at %v, %v, %v", b, rel.OptionalExpiration, at, expires, err)
			}
		}
		_, _, err = expirationOf(b)
		isDamaged(t, err)
		r, err := parseRow(b)
		isDamaged(t, err)
		if err == nil && !bytes.Equal(r.forward(), b) && !bytes.Equal(r.appendReverse(nil), b) {
			t.Errorf("%q was read as %+v, which is written otherwise", b, r)
		}
		at, chunk, err := parseChangelogKey(b)
		isDamaged(t, err)
		if err == nil && !bytes.Equal(changelogKey(at, chunk), b) {
			t.Errorf("%x was read as changelog %v, %v", b, at, chunk)
		}
		seconds, from, forward, err := parseExpiration(b)
		isDamaged(t, err)
		if err == nil && seconds >= 0 && !bytes.Equal(appendExpiration(nil, seconds, from, forward), b) {
			t.Errorf("%x was read as an expiration at %v, %v, %q", b, seconds, from, forward)
		}
		_, err = decodeCounter("c", b)
		isDamaged(t, err)
		_, err = decodeRecord[core.NamespaceDefinition](b)
		isDamaged(t, err)
		_, err = decodeRecord[core.CaveatDefinition](b)
		isDamaged(t, err)
		recordName(b)
		if n := split(b); n < 0 || n > len(b) {
			t.Errorf("%x is split at %d", b, n)
		}
		_, rest, err := readHead(b)
		isDamaged(t, err)
		if err == nil {
			isDamaged(t, readChanges(rest, func(change) error { return nil }))
		}
		collect := &changeCollector{options: datastore.WatchOptions{Content: datastore.WatchRelationships | datastore.WatchSchema}}
		collect.begin(1)
		isDamaged(t, collect.add(0, b))
		isDamaged(t, collect.add(1, b))
		if !bytes.Equal(whole, b) {
			t.Error("what was read was changed")
		}
	})
}

// FuzzChunks: what is written to a changelog is read again, in order.
func FuzzChunks(f *testing.F) {
	f.Add([]byte("F1\x00F12\x00F123\x00N"), uint8(3), "x")
	f.Add([]byte("F1\x00F12\x00F123\x00F2\x00F22\x00G"), uint8(200), "")
	f.Fuzz(func(t *testing.T, text []byte, repeat uint8, metadata string) {
		var keys [][]byte
		for k := range bytes.SplitSeq(text, []byte{0}) {
			keys = append(keys, k, append(bytes.Clone(k), bytes.Repeat([]byte{'x'}, int(repeat)*50)...))
		}
		slices.SortFunc(keys, bytes.Compare)
		keys = slices.CompactFunc(keys, bytes.Equal)
		given := &structpb.Struct{}
		if metadata != "" {
			given.Fields = map[string]*structpb.Value{metadata: structpb.NewStringValue(metadata)}
		}
		log, err := newChunks(given)
		if err != nil {
			return // text that is not UTF-8 is no metadata
		}
		// Some values are as long as a chunk.
		long := bytes.Repeat([]byte{7}, int(repeat)*200)
		value := func(i int) []byte { return long[:len(long)*(i%3)/2] }
		for i, k := range keys {
			log.add(k, value(i))
		}
		next := 0
		for i, chunk := range log.finish() {
			if i == 0 {
				head, rest, err := readHead(chunk)
				if err != nil || (metadata != "") != (head.metadata != nil) || metadata != "" && !proto.Equal(head.metadata, given) {
					t.Fatalf("metadata %v was read as %v, %v", given, head.metadata, err)
				}
				chunk = rest
			}
			if err := readChanges(chunk, func(c change) error {
				if !bytes.Equal(c.key, keys[next]) || !bytes.Equal(c.value, value(next)) {
					t.Fatalf("change %d was read as %q, %x", next, c.key, c.value)
				}
				next++
				return nil
			}); err != nil {
				t.Fatal(err)
			}
		}
		if next != len(keys) {
			t.Fatalf("%d changes were read of %d", next, len(keys))
		}
	})
}

// FuzzDescription: what the store's own file says is read as it was written, and nothing else is read.
func FuzzDescription(f *testing.F) {
	d := newDescription()
	f.Add(d.text())
	d.state = stateReady
	f.Add(d.text())
	f.Add("")
	f.Add("deputy store\nformat 2\nid x\n")
	f.Add("deputy store\nformat 1\nid x\nstate ready\nsum 00000000\n")
	f.Add(strings.ToUpper(d.text()))
	f.Add(d.text() + "\n")
	f.Fuzz(func(t *testing.T, text string) {
		d, err := parseDescription(text)
		if err == nil && d.text() != text {
			t.Errorf("%q was read as %+v", text, d)
		}
	})
}

// TestDescription: a file in which any byte was changed, or that was cut short, is not read as another.
func TestDescription(t *testing.T) {
	d := newDescription()
	d.state = stateReady
	text := d.text()
	if got, err := parseDescription(text); err != nil || got != d {
		t.Fatalf("%q was read as %+v, %v", text, got, err)
	}
	for i := range text {
		for _, bit := range []byte{1, 4, 128} {
			changed := []byte(text)
			changed[i] ^= bit
			if got, err := parseDescription(string(changed)); err == nil {
				t.Errorf("%q was read as %+v", changed, got)
			}
		}
		if got, err := parseDescription(text[:i]); err == nil {
			t.Errorf("%q was read as %+v", text[:i], got)
		}
	}
	_, err := parseDescription("deputy store\nformat 7\nwhatever comes then")
	if err == nil || errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "format 7") {
		t.Errorf("a newer format: %v", err)
	}
}

// FuzzRevision: a revision's text is read as the revision, and is the only text that is.
func FuzzRevision(f *testing.F) {
	for _, s := range []string{"0", "1", "1700000000000000000", "18446744073709551615", "18446744073709551616", "", "-1", "+1", "01", "1.5", "x"} {
		f.Add(s, uint64(1700000000000000000), uint64(1700000000000000001))
	}
	f.Fuzz(func(t *testing.T, text string, a, b uint64) {
		if r, err := parseRevision(text); err == nil && r.String() != text {
			t.Errorf("%q was read as %v", text, r)
		}
		x, y := Revision(a), Revision(b)
		if back, err := parseRevision(x.String()); err != nil || back != x {
			t.Errorf("%v was read as %v, %v", x, back, err)
		}
		if x.LessThan(y) != (a < b) || x.GreaterThan(y) != (a > b) || x.Equal(y) != (a == b) {
			t.Errorf("%v and %v compare wrong", x, y)
		}
		// From 2001 to 2554 the texts sort as the revisions do.
		if digits := uint64(1e18); a >= digits && b >= digits && a < 10*digits && b < 10*digits && strings.Compare(x.String(), y.String()) != cmp.Compare(a, b) {
			t.Errorf("%v and %v sort wrong", x, y)
		}
	})
}

// TestRevisionOfAnother: another datastore's revision is neither equal, nor before, nor after.
func TestRevisionOfAnother(t *testing.T) {
	r := Revision(5)
	if r.Equal(datastore.NoRevision) || !r.GreaterThan(datastore.NoRevision) || r.LessThan(datastore.NoRevision) {
		t.Error("no revision is before every revision")
	}
	other := struct{ datastore.Revision }{r}
	if r.Equal(other) || r.GreaterThan(other) || r.LessThan(other) {
		t.Error("a revision compares with another datastore's")
	}
}

// TestRecordKeys: records are in the order of their names, with their versions together.
func TestRecordKeys(t *testing.T) {
	for _, kind := range []byte{kindNamespace, kindCaveat, kindCounter} {
		var last []byte
		for _, name := range []string{"a", "a/b", "ab", "b", "\xff"} {
			key := recordKey(kind, name)
			if recordName(key) != name || split(appendVersion(bytes.Clone(key), 3)) != len(key) {
				t.Errorf("%q was read as %q", key, recordName(key))
			}
			if bytes.Compare(last, key) >= 0 {
				t.Errorf("%q comes after %q", last, key)
			}
			last = appendVersion(bytes.Clone(key), 0)
		}
	}
}

// TestBigEndian: changelog keys are in the order of revisions and chunks, expirations in that of time.
func TestBigEndian(t *testing.T) {
	var keys [][]byte
	for _, r := range []Revision{0, 1, 255, 256, 1 << 40, math.MaxUint64} {
		for _, chunk := range []uint32{0, 1, 256, math.MaxUint32} {
			keys = append(keys, changelogKey(r, chunk))
		}
	}
	if !slices.IsSortedFunc(keys, bytes.Compare) {
		t.Error("changelog keys are out of order")
	}
	keys = nil
	for _, seconds := range []int64{0, 1, 255, 256, 1 << 33, math.MaxInt64} {
		keys = append(keys, appendExpiration(nil, seconds, 7, []byte("F")))
	}
	if !slices.IsSortedFunc(keys, bytes.Compare) || binary.BigEndian.Uint64(keys[1][1:]) != 1 {
		t.Error("expirations are out of order")
	}
	if !bytes.Equal(appendExpirationSeconds(nil, -5), appendExpirationSeconds(nil, 0)) {
		t.Error("what expired before 1970 is not found with what expired then")
	}
}
