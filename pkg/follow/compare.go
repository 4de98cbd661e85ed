package follow

import (
	"context"
	"fmt"
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
	for _, step := range []func(context.Context) error{c.definitions, c.relationships} {
		if err := step(ctx); err != nil {
			return nil, fmt.Errorf("follow: comparing: %w", err)
		}
	}
	return c.found, nil
}

type comparison struct {
	authority State
	store     *store.Store
	at        store.Revision
	moment    time.Time
	most      int
	found     []Difference
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
	for _, d := range theirs {
		differ[d.Bucket] = d
	}
	// What is in the copy is taken away from what is in the authority; what stays differs.
	if err := c.live(ctx, "", func(rel *tuple.Relationship) {
		b := BucketOf(rel)
		one := Digest{Bucket: b}
		one.Add(rel)
		d := differ[b]
		d.Bucket, d.Count, d.Sum = b, d.Count-one.Count, d.Sum-one.Sum
		differ[b] = d
	}); err != nil {
		return err
	}
	byType := map[string][]int{}
	for b, d := range differ {
		if d.Count != 0 || d.Sum != 0 {
			byType[b.Type] = append(byType[b.Type], b.Number)
		}
	}
	types := make([]string, 0, len(byType))
	for name := range byType {
		types = append(types, name)
	}
	slices.Sort(types)
	for _, name := range types {
		slices.Sort(byType[name])
		for _, number := range byType[name] {
			if c.enough() {
				return nil
			}
			if err := c.bucket(ctx, Bucket{Type: name, Number: number}); err != nil {
				return err
			}
		}
	}
	return nil
}

// live calls fn with the copy's relationships that live at the moment.
func (c *comparison) live(ctx context.Context, resourceType string, fn func(*tuple.Relationship)) error {
	return c.store.Each(ctx, c.at, resourceType, func(rel tuple.Relationship) error {
		if at := rel.OptionalExpiration; at == nil || at.After(c.moment) {
			fn(&rel)
		}
		return nil
	})
}

// bucket compares the relationships of a bucket.
func (c *comparison) bucket(ctx context.Context, b Bucket) error {
	theirs, err := c.authority.Bucket(ctx, b, c.moment)
	if err != nil {
		return err
	}
	authority, copied := map[string]string{}, map[string]string{}
	for i := range theirs {
		authority[nameOf(&theirs[i])] = detailsOf(&theirs[i])
	}
	if err := c.live(ctx, b.Type, func(rel *tuple.Relationship) {
		if BucketOf(rel) == b {
			copied[nameOf(rel)] = detailsOf(rel)
		}
	}); err != nil {
		return err
	}
	c.named("relationship", authority, copied)
	return nil
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
