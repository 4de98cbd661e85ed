package follow

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	core "github.com/authzed/spicedb/pkg/proto/core/v1"
	"github.com/authzed/spicedb/pkg/tuple"
	"google.golang.org/protobuf/proto"

	"github.com/deputyauth/deputy/pkg/store"
)

// Difference is something that an authority and a copy do not have alike.
type Difference struct {
	// What is compared: "type", "caveat", "counter" or "relationship".
	What string
	// Name is which one: a name, or a relationship without its caveat and expiration.
	Name string
	// Authority and Copy are what each of them has, as text; empty if it has none.
	Authority, Copy string

	// ref is the relationship, if it is one.
	ref *tuple.RelationshipReference
}

// String says the difference in a line.
func (d Difference) String() string {
	say := func(s string) string {
		if s == "" {
			return "none"
		}
		return s
	}
	return fmt.Sprintf("%s %s: the primary has %s, the copy has %s", d.What, d.Name, say(d.Authority), say(d.Copy))
}

// Compare compares a state of an authority with the local revision that is to be the copy of it, and returns at most as many differences as
// asked for, 0 for as many as there are; none if they are equal. First it compares definitions, then a digest of each bucket of relationships, and of 32
// buckets at most whose digests differ the relationships themselves, so memory is only needed for a bucket of the copy at a time.
//
// Both are compared as of one moment: what has expired by then is left out, since neither side keeps it for ever. The moment must not be
// earlier than the collection's window ago, by the clock of either side.
func Compare(
	ctx context.Context, authority State, copied *store.Store, local store.Revision, moment time.Time, most int,
) ([]Difference, error) {
	c := comparison{authority: authority, store: copied, at: local, moment: moment, most: most}
	if err := c.whole(ctx); err != nil {
		return nil, err
	}
	return c.found, nil
}

// Compared says that the relationships of one type were compared.
type Compared struct {
	// Type is the type of the objects.
	Type string
	// Authority and Copy are how many relationships each of them has that live.
	Authority, Copy uint64
	// Equal says that the two have the same, by their digests; see Digest for what these do not tell.
	Equal bool
}

type comparison struct {
	authority State
	store     *store.Store
	at        store.Revision
	moment    time.Time
	most      int
	// told is told of each type, unless it is nil. Its error ends the comparison.
	told  func(Compared) error
	found []Difference
	// more says that not all that may differ was looked at, because enough was found.
	more bool
	// counted is how many relationships of the copy were compared.
	counted uint64
}

// whole compares everything.
func (c *comparison) whole(ctx context.Context) error {
	for _, step := range []func(context.Context) error{c.definitions, c.relationships} {
		if err := step(ctx); err != nil {
			return fmt.Errorf("follow: comparing: %w", err)
		}
	}
	return nil
}

func (c *comparison) enough() bool { return c.most > 0 && len(c.found) >= c.most }

// keptLength is how much is kept of what a difference says, in bytes: there may be many, each of a definition, or of a caveat's context.
const keptLength = 4 << 10

// named compares what has names. refs are the relationships with these names, if they are relationships'.
func (c *comparison) named(what string, authority, copied map[string]string, refs map[string]tuple.RelationshipReference) {
	names := make([]string, 0, len(authority))
	for name := range authority {
		names = append(names, name)
	}
	for name := range copied {
		if _, both := authority[name]; !both {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		a, inAuthority := authority[name]
		b, inCopy := copied[name]
		if a == b && inAuthority == inCopy {
			continue
		}
		if c.enough() {
			c.more = true
			return
		}
		d := Difference{What: what, Name: name, Authority: a, Copy: b}.Cut(keptLength)
		if ref, ok := refs[name]; ok {
			d.ref = &ref
		}
		c.found = append(c.found, d)
	}
}

// encoded returns the text of a definition; equal ones have equal texts.
func encoded(m proto.Message) (string, error) {
	text, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%d bytes %x", len(text), text), nil
}

func texts[D proto.Message](definitions []D, name func(D) string) (map[string]string, error) {
	found := make(map[string]string, len(definitions))
	for _, d := range definitions {
		text, err := encoded(d)
		if err != nil {
			return nil, err
		}
		found[name(d)] = text
	}
	return found, nil
}

func (c *comparison) definitions(ctx context.Context) error {
	theirs, err := c.authority.Definitions(ctx)
	if err != nil {
		return err
	}
	var ours Definitions
	if ours.Types, ours.Caveats, err = c.store.Definitions(c.at); err != nil {
		return err
	}
	counters, err := c.store.SnapshotReader(c.at).LookupCounters(ctx)
	if err != nil {
		return err
	}
	for _, counter := range counters {
		ours.Counters = append(ours.Counters, Counter{Name: counter.Name, Filter: counter.Filter})
	}
	of := func(d *Definitions) (all [3]map[string]string, err error) {
		if all[0], err = texts(d.Types, func(t *core.NamespaceDefinition) string { return t.GetName() }); err != nil {
			return all, err
		}
		if all[1], err = texts(d.Caveats, func(t *core.CaveatDefinition) string { return t.GetName() }); err != nil {
			return all, err
		}
		all[2] = map[string]string{}
		for _, counter := range d.Counters {
			if all[2][counter.Name], err = encoded(counter.Filter); err != nil {
				return all, err
			}
		}
		return all, nil
	}
	authority, err := of(&theirs)
	if err != nil {
		return err
	}
	copied, err := of(&ours)
	if err != nil {
		return err
	}
	for i, what := range []string{"type", "caveat", "counter"} {
		c.named(what, authority[i], copied[i], nil)
	}
	return nil
}

// relationships compares digests, and what is in the buckets whose digests differ.
func (c *comparison) relationships(ctx context.Context) error {
	theirs, err := c.authority.Digests(ctx, c.moment)
	if err != nil {
		return err
	}
	differ := map[Bucket]Digest{}
	types := map[string]*Compared{}
	of := func(name string) *Compared {
		if types[name] == nil {
			types[name] = &Compared{Type: name}
		}
		return types[name]
	}
	for _, d := range theirs {
		differ[d.Bucket] = d
		of(d.Type).Authority += d.Count
	}
	var now *Compared
	// What is in the copy is taken away from what is in the authority; what stays differs.
	if err := c.live(ctx, "", func(rel *tuple.Relationship) error {
		if now == nil || now.Type != rel.Resource.ObjectType {
			if err := c.tell(now, differ); err != nil {
				return err
			}
			now = of(rel.Resource.ObjectType)
		}
		now.Copy++
		c.counted++
		b := BucketOf(rel)
		one := Digest{Bucket: b}
		one.Add(rel)
		d := differ[b]
		d.Bucket, d.Count, d.Sum = b, d.Count-one.Count, d.Sum-one.Sum
		differ[b] = d
		return nil
	}); err != nil {
		return err
	}
	if err := c.tell(now, differ); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(types)) {
		if types[name].Copy == 0 { // the others were told
			if err := c.tell(types[name], differ); err != nil {
				return err
			}
		}
	}
	looked := 0
	for _, b := range differing(differ) {
		if c.enough() || looked == maxBuckets {
			c.more = true
			break
		}
		looked++
		if err := c.bucket(ctx, b); err != nil {
			return err
		}
	}
	if c.more && len(c.found) == 0 {
		return errDigests
	}
	return nil
}

// maxBuckets is how many buckets whose digests differ are looked into: for each of them both sides read all relationships of its type.
const maxBuckets = 32

// errDigests says that nothing is known of what was not looked into.
var errDigests = errors.New("digests differ, and the relationships that were looked into because of that do not; others were not looked into")

// tell tells of a type, nil for none.
func (c *comparison) tell(now *Compared, differ map[Bucket]Digest) error {
	if now == nil || c.told == nil {
		return nil
	}
	told := *now
	told.Equal = true
	for number := range Buckets {
		d := differ[Bucket{Type: now.Type, Number: number}]
		told.Equal = told.Equal && d.Count == 0 && d.Sum == 0
	}
	return c.told(told)
}

// differing returns the buckets whose digests differ, by type and number.
func differing(differ map[Bucket]Digest) []Bucket {
	var buckets []Bucket
	for b, d := range differ {
		if d.Count != 0 || d.Sum != 0 {
			buckets = append(buckets, b)
		}
	}
	slices.SortFunc(buckets, func(a, b Bucket) int {
		return cmp.Or(cmp.Compare(a.Type, b.Type), cmp.Compare(a.Number, b.Number))
	})
	return buckets
}

// Lives reports whether a relationship lives at a moment: it has no expiration, or one after the moment.
func Lives(rel *tuple.Relationship, moment time.Time) bool {
	return rel.OptionalExpiration == nil || rel.OptionalExpiration.After(moment)
}

// live calls fn with the copy's relationships that live at the moment, until it returns an error.
func (c *comparison) live(ctx context.Context, resourceType string, fn func(*tuple.Relationship) error) error {
	return c.store.Each(ctx, c.at, resourceType, func(rel tuple.Relationship) error {
		if !Lives(&rel, c.moment) {
			return nil
		}
		return fn(&rel)
	})
}

// bucket compares the relationships of a bucket. Of the copy's a digest each is in memory, of the authority's one relationship at a time: what is kept
// does not depend on what the authority sends.
func (c *comparison) bucket(ctx context.Context, b Bucket) error {
	ours := map[tuple.RelationshipReference]uint64{}
	if err := c.live(ctx, b.Type, func(rel *tuple.Relationship) error {
		if BucketOf(rel) == b {
			ours[rel.RelationshipReference] = digestOf(rel)
		}
		return nil
	}); err != nil {
		return err
	}
	// Those that are not as the copy has them, and one more than may be named. An authority with so many more than the copy differs by these alone.
	room := math.MaxInt32
	if c.most > 0 {
		room = c.most - len(c.found) + 1
	}
	limit, sent := len(ours)+room, 0
	var suspects []tuple.RelationshipReference
	err := c.authority.Bucket(ctx, b, c.moment, limit, func(rel *tuple.Relationship) error {
		sent++
		digest, both := ours[rel.RelationshipReference]
		if delete(ours, rel.RelationshipReference); !both || digest != digestOf(rel) {
			suspects = append(suspects, rel.RelationshipReference)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if sent < limit {
		for ref := range ours { // the authority has sent all that it has
			suspects = append(suspects, ref)
		}
	} else {
		c.more = true
	}
	slices.SortFunc(suspects, func(a, b tuple.RelationshipReference) int { return cmp.Compare(referenceName(a), referenceName(b)) })
	return c.look(ctx, suspects)
}

// lookedAtOnce is how many relationships are looked at together: any of them may be large.
const lookedAtOnce = 8

// look compares relationships that may differ, until there is enough.
func (c *comparison) look(ctx context.Context, refs []tuple.RelationshipReference) error {
	for some := range slices.Chunk(refs, lookedAtOnce) {
		if c.enough() {
			c.more = true
			return nil
		}
		theirs, err := c.authority.Of(ctx, some)
		if err != nil {
			return err
		}
		ours, err := c.store.RowsOf(ctx, c.at, some)
		if err != nil {
			return err
		}
		c.rows(theirs, ours)
	}
	return nil
}

// rows compares relationships of the authority's with those of the copy.
func (c *comparison) rows(theirs, ours []tuple.Relationship) {
	refs := make(map[string]tuple.RelationshipReference, len(ours))
	details := func(all []tuple.Relationship) map[string]string {
		texts := make(map[string]string, len(all))
		for i := range all {
			if Lives(&all[i], c.moment) {
				name := referenceName(all[i].RelationshipReference)
				texts[name], refs[name] = detailsOf(&all[i]), all[i].RelationshipReference
			}
		}
		return texts
	}
	c.named("relationship", details(theirs), details(ours), refs)
}

func referenceName(ref tuple.RelationshipReference) string {
	return tuple.StringWithoutCaveatOrExpiration(tuple.Relationship{RelationshipReference: ref})
}

// detailsOf is the text of a relationship, with its caveat and expiration.
func detailsOf(rel *tuple.Relationship) string {
	parts := strings.Split(textOf(rel), separator)
	text := "it"
	if name := parts[6]; name != "" {
		text += " with " + name + " " + parts[7]
	}
	if rel.OptionalExpiration != nil {
		text += " until " + rel.OptionalExpiration.UTC().Format(time.RFC3339Nano)
	}
	return text
}
