package follow

import (
	"cmp"
	"context"
	"fmt"
	"maps"
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
	return fmt.Sprintf("%s %s: the authority has %s, the copy has %s", d.What, d.Name, say(d.Authority), say(d.Copy))
}

// Compare compares a state of an authority with the local revision that is to be the copy of it, and returns at most as many differences as
// asked for, 0 for all; none if they are equal. First it compares definitions, then a digest of each bucket of relationships, and where these
// differ the relationships themselves, so memory is only needed for a bucket at a time.
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

// named compares what has names.
func (c *comparison) named(what string, authority, copied map[string]string) {
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
		if (a != b || inAuthority != inCopy) && !c.enough() {
			c.found = append(c.found, Difference{What: what, Name: name, Authority: a, Copy: b})
		}
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
		c.named(what, authority[i], copied[i])
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
	for _, b := range differing(differ) {
		if c.enough() {
			return nil
		}
		if err := c.bucket(ctx, b); err != nil {
			return err
		}
	}
	return nil
}

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

// lives reports whether a relationship lives at the moment.
func (c *comparison) lives(rel *tuple.Relationship) bool {
	at := rel.OptionalExpiration
	return at == nil || at.After(c.moment)
}

// live calls fn with the copy's relationships that live at the moment, until it returns an error.
func (c *comparison) live(ctx context.Context, resourceType string, fn func(*tuple.Relationship) error) error {
	return c.store.Each(ctx, c.at, resourceType, func(rel tuple.Relationship) error {
		if !c.lives(&rel) {
			return nil
		}
		return fn(&rel)
	})
}

// bucket compares the relationships of a bucket.
func (c *comparison) bucket(ctx context.Context, b Bucket) error {
	theirs, err := c.authority.Bucket(ctx, b, c.moment)
	if err != nil {
		return err
	}
	var ours []tuple.Relationship
	if err := c.live(ctx, b.Type, func(rel *tuple.Relationship) error {
		if BucketOf(rel) == b {
			ours = append(ours, *rel)
		}
		return nil
	}); err != nil {
		return err
	}
	c.rows(theirs, ours)
	return nil
}

// rows compares relationships of the authority's with those of the copy.
func (c *comparison) rows(theirs, ours []tuple.Relationship) {
	refs := make(map[string]*tuple.RelationshipReference, len(ours))
	details := func(all []tuple.Relationship) map[string]string {
		texts := make(map[string]string, len(all))
		for i := range all {
			if c.lives(&all[i]) {
				name := nameOf(&all[i])
				texts[name], refs[name] = detailsOf(&all[i]), &all[i].RelationshipReference
			}
		}
		return texts
	}
	before := len(c.found)
	c.named("relationship", details(theirs), details(ours))
	for i := before; i < len(c.found); i++ {
		c.found[i].ref = refs[c.found[i].Name]
	}
}

func nameOf(rel *tuple.Relationship) string {
	return tuple.StringWithoutCaveatOrExpiration(*rel)
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
