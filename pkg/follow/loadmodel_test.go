package follow_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	core "github.com/authzed/spicedb/pkg/proto/core/v1"
	"github.com/authzed/spicedb/pkg/tuple"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/deputyauth/deputy/pkg/follow"
)

// modelled is an authority that is only what its history is: for each of its states all that the state has. It does something at random before each
// thing that it is asked. What it answers is found by comparing two states name by name, or by looking through all of its history.
type modelled struct {
	mu  sync.Mutex
	rng *rand.Rand
	// states are by their number; a state is by kind and name what is there: relationships, types, caveats and counters.
	states []map[string]string
	// deleted are the relationships that each state has deleted, in their order, also those that it has written again.
	deleted [][]string
	// most is how many relationships one transaction changes at most, and giants how many one now and then does.
	most, giants int
	// before is what was there before the newest large transaction; nil if that was undone.
	before map[string]string
	// fails has a question fail now and then, heads counts how often the head was asked for, and asked how often anything was.
	fails bool
	// quiet has nothing happen.
	quiet bool
	// during is called between the parts of changes, while the model is locked; nil is nothing.
	during       func()
	heads, asked int
}

// errModel is a failure of a modelled authority's.
var errModel = errors.New("the model fails")

const relationship, typed, caveated, counted = "relationship ", "type ", "caveat ", "counter "

func newModelled(seed uint64) *modelled {
	m := &modelled{rng: rand.New(rand.NewPCG(seed, 7)), states: []map[string]string{{}}, deleted: [][]string{nil}, most: 4}
	for range 30 {
		m.happens()
	}
	return m
}

// past and future are expirations: what has expired is there until it is collected without a word.
var past, future = time.Now().Add(-time.Hour).Truncate(time.Second).UTC(), time.Now().Add(time.Hour).Truncate(time.Second).UTC()

// happens adds a state.
func (m *modelled) happens() {
	next, deleted := maps.Clone(m.states[len(m.states)-1]), []string(nil)
	change := func() {
		name := fmt.Sprintf("%sdocument:%d#viewer@user:%d", relationship, m.rng.IntN(25), m.rng.IntN(4))
		_, there := next[name]
		if there {
			deleted = append(deleted, strings.TrimPrefix(name, relationship))
			delete(next, name)
		}
		if there && m.rng.IntN(2) == 0 {
			return
		}
		// One transaction may delete what it has written, and write it again.
		switch m.rng.IntN(6) {
		case 0:
			next[name] = "until " + strconv.FormatInt(past.Unix(), 10)
		case 1:
			next[name] = "until " + strconv.FormatInt(future.Unix(), 10)
		case 2:
			next[name] = "with " + strconv.Itoa(m.rng.IntN(3))
		default:
			next[name] = ""
		}
	}
	switch n := m.rng.IntN(16); {
	case n == 0: // collected: nobody is told
		for state := range m.states {
			maps.DeleteFunc(m.states[state], func(_, what string) bool { return what == "until "+strconv.FormatInt(past.Unix(), 10) })
		}
		return
	case n == 1:
		name := fmt.Sprintf("%st%d", typed, m.rng.IntN(3))
		if _, there := next[name]; there && m.rng.IntN(2) == 0 {
			delete(next, name)
		} else {
			next[name] = strconv.Itoa(m.rng.IntN(3))
		}
	case n == 2:
		name := fmt.Sprintf("%sc%d", []string{caveated, counted}[m.rng.IntN(2)], m.rng.IntN(3))
		if _, there := next[name]; there {
			delete(next, name)
		} else {
			next[name] = "" // a counter with another filter is another counter, which no test here needs
		}
	case n == 3 && m.giants > 0:
		m.before = maps.Clone(next)
		for range m.giants {
			change()
		}
	case n < 8 && m.before != nil: // what a large transaction did is undone
		for name := range next {
			if what, there := m.before[name]; strings.HasPrefix(name, relationship) && (!there || what != next[name]) {
				deleted = append(deleted, strings.TrimPrefix(name, relationship))
				delete(next, name)
			}
		}
		for name, what := range m.before {
			if strings.HasPrefix(name, relationship) {
				next[name] = what
			}
		}
		m.before = nil
	default:
		for range 1 + m.rng.IntN(m.most) {
			change()
		}
	}
	m.states, m.deleted = append(m.states, next), append(m.deleted, deleted)
}

// ask is the beginning of each question. Less happens than a copy can take in, or it would never reach the head.
func (m *modelled) ask(ctx context.Context) error {
	if m.asked++; m.asked%2 == 0 && !m.quiet {
		m.happens()
	}
	if m.fails && m.rng.IntN(8) == 0 {
		return errModel
	}
	return ctx.Err()
}

func (m *modelled) position(n int) follow.Position {
	return follow.Position{Authority: "a model", State: strconv.Itoa(n), At: time.Unix(int64(n), 0).UTC()}
}

func numberOf(p follow.Position) int {
	n, err := strconv.Atoi(p.State)
	if err != nil {
		panic(err)
	}
	return n
}

func (m *modelled) Head(ctx context.Context) (follow.Position, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.heads++
	if err := m.ask(ctx); err != nil {
		return follow.Position{}, err
	}
	return m.position(len(m.states) - 1), nil
}

// relationshipOf makes a relationship of what a state says of it.
func relationshipOf(name, what string) tuple.Relationship {
	rel := tuple.MustParse(strings.TrimPrefix(name, relationship))
	switch kind, value, _ := strings.Cut(what, " "); kind {
	case "until":
		seconds, err := strconv.ParseInt(value, 10, 64)
		if err != nil {
			panic(err)
		}
		at := time.Unix(seconds, 0).UTC()
		rel.OptionalExpiration = &at
	case "with":
		rel.OptionalCaveat = &core.ContextualizedCaveat{CaveatName: "weekday" + value}
	}
	return rel
}

// differ calls fn with what differs between two states, in no order; there says whether the later one has it.
func differ(from, to map[string]string, fn func(name, what string, there bool)) {
	for name, what := range to {
		if was, there := from[name]; !there || was != what {
			fn(name, what, true)
		}
	}
	for name := range from {
		if _, there := to[name]; !there {
			fn(name, "", false)
		}
	}
}

// names adds a definition to changes.
func names(c *follow.Changes, name, what string, there bool) {
	kind, name, _ := strings.Cut(name, " ")
	d := &c.Definitions
	switch kind += " "; {
	case kind == typed && there:
		d.Types = append(d.Types, &core.NamespaceDefinition{Name: name, Relation: []*core.Relation{{Name: "r" + what}}})
	case kind == typed:
		c.DeletedTypes = append(c.DeletedTypes, name)
	case kind == caveated && there:
		d.Caveats = append(d.Caveats, &core.CaveatDefinition{Name: name, SerializedExpression: []byte("x")})
	case kind == caveated:
		c.DeletedCaveats = append(c.DeletedCaveats, name)
	case kind == counted && there:
		d.Counters = append(d.Counters, follow.Counter{Name: name, Filter: documents()})
	case kind == counted:
		c.DeletedCounters = append(c.DeletedCounters, name)
	}
}

func (m *modelled) ChangesSince(ctx context.Context, from follow.Position, limit int) (follow.Changes, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.ask(ctx); err != nil {
		return follow.Changes{}, err
	}
	head := len(m.states) - 1
	c := follow.Changes{To: m.position(head), Transactions: head - numberOf(from)}
	differ(m.states[numberOf(from)], m.states[head], func(name, what string, there bool) {
		switch {
		case !strings.HasPrefix(name, relationship):
			names(&c, name, what, there)
		case there:
			c.Written = append(c.Written, relationshipOf(name, what))
		default:
			c.Deleted = append(c.Deleted, relationshipOf(name, ""))
		}
	})
	if len(c.Written) > limit || len(c.Deleted) > limit {
		return follow.Changes{}, follow.ErrTooMany
	}
	return c, nil
}

func (m *modelled) At(p follow.Position) follow.State { return &modelledState{m: m, at: numberOf(p)} }

func (m *modelled) Revision(p follow.Position) (string, error) { return p.State, nil }

func (m *modelled) Shows(follow.Position, string) (bool, error) { return false, errModel }

// modelledState is one of its states. What a load does not ask is not answered.
type modelledState struct {
	follow.State

	m  *modelled
	at int
}

func (s *modelledState) Definitions(ctx context.Context) (follow.Definitions, error) {
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	if err := s.m.ask(ctx); err != nil {
		return follow.Definitions{}, err
	}
	var c follow.Changes
	differ(nil, s.m.states[s.at], func(name, what string, there bool) { names(&c, name, what, there) })
	return c.Definitions, nil
}

// Page has an order of its own, which no copy can guess: that of the names from their ends.
func (s *modelledState) Page(ctx context.Context, next string, limit int) (follow.Page, error) {
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	if err := s.m.ask(ctx); err != nil {
		return follow.Page{}, err
	}
	place := func(name string) string {
		letters := []byte(name)
		slices.Reverse(letters)
		return string(letters)
	}
	var places []string
	of := map[string]string{}
	for name := range s.m.states[s.at] {
		if at := place(name); strings.HasPrefix(name, relationship) && at > next {
			places, of[at] = append(places, at), name
		}
	}
	slices.Sort(places)
	var page follow.Page
	for _, at := range places[:min(limit, len(places))] {
		page.Relationships = append(page.Relationships, relationshipOf(of[at], s.m.states[s.at][of[at]]))
	}
	if len(page.Relationships) == limit {
		page.Next = places[limit-1]
	}
	return page, nil
}

// modelledParts is a modelled authority that is follow.Parted.
type modelledParts struct{ *modelled }

func (m modelledParts) ChangesInParts(
	ctx context.Context, from follow.Position, size int, take func(deleted, written []tuple.Relationship) error,
) (follow.Changes, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.ask(ctx); err != nil {
		return follow.Changes{}, err
	}
	head := len(m.states) - 1
	c := follow.Changes{To: m.position(head), Transactions: head - numberOf(from)}
	var deleted, written []tuple.Relationship
	for _, names := range m.deleted[numberOf(from)+1:] {
		for _, name := range names {
			deleted = append(deleted, relationshipOf(name, ""))
		}
	}
	// What is alive and was written since, and not only what differs: it may have come back as it was.
	since := map[string]bool{}
	for _, names := range m.deleted[numberOf(from)+1:] {
		for _, name := range names {
			since[relationship+name] = true
		}
	}
	differ(m.states[numberOf(from)], m.states[head], func(name, what string, there bool) {
		if strings.HasPrefix(name, relationship) {
			since[name] = true
			return
		}
		names(&c, name, what, there)
	})
	for name := range since {
		if what, there := m.states[head][name]; there {
			written = append(written, relationshipOf(name, what))
		}
	}
	// Every second time it fails after one of the first parts.
	failing := m.rng.IntN(5)
	if !m.fails || m.rng.IntN(2) == 0 {
		failing = -1
	}
	part := func(deleted, written []tuple.Relationship) error {
		if m.during != nil {
			m.during()
		}
		if !m.quiet && m.rng.IntN(4) == 0 {
			m.happens()
		}
		if failing--; failing == 0 {
			return errModel
		}
		return take(deleted, written)
	}
	for len(deleted) >= size {
		if err := part(deleted[:size], nil); err != nil {
			return follow.Changes{}, err
		}
		deleted = deleted[size:]
	}
	for len(written) >= size {
		if err := part(deleted, written[:size]); err != nil {
			return follow.Changes{}, err
		}
		deleted, written = nil, written[size:]
	}
	c.Deleted, c.Written = deleted, written
	return c, nil
}

// has lists what a state has, but for what has expired.
func (m *modelled) has(p follow.Position) []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []string
	for name, what := range m.states[numberOf(p)] {
		if what != "until "+strconv.FormatInt(past.Unix(), 10) {
			all = append(all, name+" "+what)
		}
	}
	slices.Sort(all)
	return all
}

// copied lists what a copy has, in the model's words.
func copied(t testing.TB, reached *follow.Reached) []string {
	t.Helper()
	var all []string
	if err := reached.Store.Each(t.Context(), reached.Local, "", func(rel tuple.Relationship) error {
		what := ""
		if at := rel.OptionalExpiration; at != nil {
			if at.Equal(past) {
				return nil
			}
			what = "until " + strconv.FormatInt(at.Unix(), 10)
		}
		if rel.OptionalCaveat != nil {
			what = "with " + strings.TrimPrefix(rel.OptionalCaveat.GetCaveatName(), "weekday")
		}
		all = append(all, relationship+tuple.StringWithoutCaveatOrExpiration(rel)+" "+what)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	types, caveats, err := reached.Store.Definitions(reached.Local)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range types {
		all = append(all, typed+d.GetName()+" "+strings.TrimPrefix(d.GetRelation()[0].GetName(), "r"))
	}
	for _, d := range caveats {
		all = append(all, caveated+d.GetName()+" ")
	}
	counters, err := reached.Store.SnapshotReader(reached.Local).LookupCounters(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range counters {
		all = append(all, counted+c.Name+" ")
	}
	slices.Sort(all)
	return all
}

// TestLoadIsExact loads from an authority in which something happens before each thing that it is asked, and that fails now and then: relationships come,
// go, come back, change, expire and are collected without a word, and so do types, caveats and counters; transactions change more than one commit
// of the copy holds; the follower is closed and opened again. At the end the copy is the state that it says it is, and counts as many relationships.
//
// Where the authority tells changes in parts, no load begins again, whatever happens.
//
// It runs in seconds. DEPUTY_FOLLOW_SEEDS says how many histories are tried.
func TestLoadIsExact(t *testing.T) {
	for seed := range number(t, "DEPUTY_FOLLOW_SEEDS", 40) {
		t.Run(strconv.Itoa(seed), func(t *testing.T) { loadIsExact(t, uint64(seed)) })
	}
}

func loadIsExact(t *testing.T, seed uint64) {
	m := newModelled(seed)
	var a follow.Authority = m
	parted := seed%4 != 0
	if parted {
		a, m.giants = modelledParts{m}, 25
	}
	config := over(vfs.NewMem())
	config.PageSize, config.MaxChanges = 1+int(seed)%9, 8+int(seed)%5
	if !parted {
		config.MaxChanges = 200
	}
	m.fails = seed%3 != 0
	f, err := follow.Open(config, a)
	if err != nil {
		t.Fatal(err)
	}
	heads := 0
	if !m.fails {
		heads = 1
	}
	for tries := 0; ; tries++ {
		err := f.Load(t.Context())
		if err == nil {
			break
		}
		if !errors.Is(err, errModel) {
			t.Fatalf("the load ended with %v", err)
		}
		if tries > 10_000 {
			t.Fatal("the load does not come to an end")
		}
		if heads == 0 && slices.ContainsFunc(list(t, config), func(name string) bool { return strings.HasPrefix(name, "copy-") }) {
			heads = m.heads // a copy has begun
		}
		if tries%2 == 0 {
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
			for range 3 {
				m.mu.Lock()
				m.happens()
				m.mu.Unlock()
			}
			if f, err = follow.Open(config, a); err != nil {
				t.Fatal(err)
			}
			if reached, err := f.Reached(); err == nil {
				reached.Release()
				break // all of it was there, and what has changed since was not asked for yet
			}
		}
	}
	if parted && heads > 0 && m.heads != heads {
		t.Errorf("the load began again: the head was asked for %d times, and %d times until the copy began", m.heads, heads)
	}
	check := func() { t.Helper(); isExact(t, f, m) }
	check()
	m.fails = false
	if _, err := f.Pull(t.Context()); err != nil && !errors.Is(err, follow.ErrTooMany) {
		t.Fatal(err)
	}
	check()
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// isExact checks that what was reached is the state that it says it is, and counts as many relationships.
func isExact(t *testing.T, f *follow.Follower, m *modelled) {
	t.Helper()
	reached, err := f.Reached()
	if err != nil {
		t.Fatal(err)
	}
	defer reached.Release()
	got, want := copied(t, reached), m.has(reached.Position)
	if !slices.Equal(got, want) {
		t.Errorf("at %s the copy has\n%s\nwant\n%s", reached.Position.State, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	stats, err := reached.Store.Statistics(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	live := uint64(0)
	if err := reached.Store.Each(t.Context(), reached.Local, "", func(tuple.Relationship) error { live++; return nil }); err != nil {
		t.Fatal(err)
	}
	if stats.EstimatedRelationshipCount != live {
		t.Errorf("the copy says that it has %d relationships, and has %d", stats.EstimatedRelationshipCount, live)
	}
}

// TestCatchUpIsExact has a copy that is served meet transactions that change more than one commit of it holds, from an authority that fails now and
// then. Until the copy is at the head, what was reached before is there as it was, also for a reader that holds it. Where the caller leaves the next call
// goes on, and after a failure, or after the follower was closed and opened again, a load comes to the head.
//
// It runs in seconds. DEPUTY_FOLLOW_SEEDS says how many histories are tried.
func TestCatchUpIsExact(t *testing.T) {
	caughtUp, goneOn := 0, 0
	for seed := range number(t, "DEPUTY_FOLLOW_SEEDS", 12) {
		t.Run(strconv.Itoa(seed), func(t *testing.T) {
			up, on := catchesUp(t, uint64(seed))
			caughtUp, goneOn = caughtUp+up, goneOn+on
		})
	}
	if caughtUp == 0 || goneOn == 0 {
		t.Errorf("copies caught up %d times, %d times after an interruption", caughtUp, goneOn)
	}
}

func catchesUp(t *testing.T, seed uint64) (caughtUp, goneOn int) {
	m := newModelled(seed)
	a := modelledParts{m}
	m.giants = 25
	config := over(vfs.NewMem())
	config.PageSize, config.MaxChanges = 2+int(seed)%8, 8+int(seed)%5
	f, err := follow.Open(config, a)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if err := f.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 12 {
		m.mu.Lock()
		for range 4 {
			m.happens()
		}
		m.fails = true
		m.mu.Unlock()
		held, err := f.Reached()
		if err != nil {
			t.Fatal(err)
		}
		was := copied(t, held)
		ctx, cancel := context.WithCancel(t.Context())
		m.during = func() {
			if m.rng.IntN(8) == 0 {
				cancel()
			}
			reached, err := f.Reached()
			if err != nil {
				return // it is being made
			}
			defer reached.Release()
			if reached.Position.State == held.Position.State && !slices.Equal(copied(t, reached), was) {
				t.Error("what was reached is not there as it was")
			}
		}
		released := func(reached *follow.Reached, err error) error {
			if err == nil {
				reached.Release()
			}
			return err
		}
		err = released(f.Pull(t.Context()))
		for tries := 0; errors.Is(err, errModel) && tries < 10; tries++ {
			err = released(f.Pull(t.Context()))
		}
		if errors.Is(err, follow.ErrTooMany) {
			err = released(f.CatchUp(ctx))
			if cancel(); errors.Is(err, context.Canceled) {
				if reached, err := f.Reached(); err != nil || reached.Position.State != held.Position.State || !slices.Equal(copied(t, reached), was) {
					t.Errorf("once nobody waits any more, what was reached is not there as it was: %v", err)
				} else {
					reached.Release()
				}
				if err = released(f.Pull(t.Context())); !errors.Is(err, errModel) && !errors.Is(err, follow.ErrTooMany) {
					t.Errorf("a torn copy follows: %v", err)
				}
				if err = released(f.CatchUp(t.Context())); err == nil {
					goneOn++
				}
			}
			if err == nil {
				caughtUp++
			}
		}
		cancel()
		if !slices.Equal(copied(t, held), was) {
			t.Error("what somebody holds is not there as it was")
		}
		held.Release()
		if m.rng.IntN(3) == 0 {
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
			if f, err = follow.Open(config, a); err != nil {
				t.Fatal(err)
			}
		}
		for range 1000 {
			var reached *follow.Reached
			if reached, err = f.Reached(); err == nil {
				reached.Release()
				break
			}
			err = f.Load(t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
		isExact(t, f, m)
	}
	return caughtUp, goneOn
}

// TestTornCopyIsLeftToItsReaders has a copy be interrupted between two commits, and then be of no use: another one is loaded, and those who read it go on
// to read what it was.
func TestTornCopyIsLeftToItsReaders(t *testing.T) {
	f, a, config := behind(t)
	a.after = func() error { return errModel }
	held, err := f.Reached()
	if err != nil {
		t.Fatal(err)
	}
	was := copied(t, held)
	if _, err := f.CatchUp(t.Context()); !errors.Is(err, errModel) {
		t.Fatalf("the interrupted catching up: %v", err)
	}
	if _, err := f.Reached(); !errors.Is(err, follow.ErrNoCopy) {
		t.Errorf("a torn copy is served: %v", err)
	}
	if err := f.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	isExact(t, f, a.modelled)
	if !slices.Equal(copied(t, held), was) {
		t.Error("what somebody holds is not there as it was")
	}
	if names := list(t, config); len(names) != 2 {
		t.Errorf("while the old copy is held there are %q", names)
	}
	held.Release()
	if names := list(t, config); len(names) != 1 {
		t.Errorf("once nobody holds the old copy there are %q", names)
	}
}

// list is what is in a follower's directory.
func list(t testing.TB, config follow.Config) []string {
	t.Helper()
	names, err := config.Store.FS.List(config.Dir)
	if err != nil {
		return nil // it was not made yet
	}
	return names
}

var _ follow.Parted = modelledParts{}
