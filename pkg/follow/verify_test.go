package follow_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/authzed/spicedb/pkg/tuple"
	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/follow"
	"github.com/deputyauth/deputy/pkg/store"
	"github.com/deputyauth/deputy/tests/pgtest"
)

// checked is a graph over a copy that can be meddled with, and its log.
type checked struct {
	*followed

	copied atomic.Pointer[store.Store]
	log    *observer.ObservedLogs
}

// checkedGraph opens a graph whose sampler compares so many relationships a second, a negative number for none.
func checkedGraph(t *testing.T, sample int, change func(*follow.Config, *follow.GraphConfig)) *checked {
	t.Helper()
	c := &checked{}
	core, log := observer.New(zap.InfoLevel)
	c.log = log
	c.followed = graph(t, pgtest.Database(t), func(f *follow.Config, g *follow.GraphConfig) {
		g.Sample, g.Log, g.DiscardPause = sample, zap.New(core), time.Nanosecond
		open := g.Open
		g.Open = func(s *store.Store) (follow.Local, error) {
			c.copied.Store(s)
			return open(s)
		}
		if change != nil {
			change(f, g)
		}
	})
	return c
}

// meddle writes into the copy behind its follower's back. Decisions see it with the next change that is applied, which it makes too.
func (c *checked) meddle(t *testing.T, updates ...tuple.RelationshipUpdate) {
	t.Helper()
	if _, err := c.copied.Load().ReadWriteTx(context.Background(), rewrite(updates...)); err != nil {
		t.Fatal(err)
	}
	c.update(t, touch(fmt.Sprintf("document:apart#viewer@user:u%d", time.Now().UnixNano())))
}

// until waits for a condition.
func until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	look := time.NewTicker(5 * time.Millisecond)
	defer look.Stop()
	for limit := time.After(30 * time.Second); !holds(); {
		select {
		case <-look.C:
		case <-limit:
			t.Fatalf("not in time: %s", what)
		}
	}
}

// rounds waits until the sampler has compared everything so often more.
func (c *checked) rounds(t *testing.T, more uint64) {
	t.Helper()
	sampled := func() uint64 {
		if s := c.Status().Sampled; s != nil {
			return s.Rounds
		}
		return 0
	}
	want := sampled() + more
	until(t, "the sampler's round", func() bool { return sampled() >= want })
}

// TestSampleFinds has the sampler find a copy that is wrong, in each way in which it could be, take it out of service, say which relationship it
// was, and have another one loaded, which is right.
func TestSampleFinds(t *testing.T) {
	c := checkedGraph(t, 20_000, nil)
	fill(t, c.written, 30)
	c.rounds(t, 2)
	if found := c.Status().Found; found != nil {
		t.Fatalf("before anybody meddles: %s", found)
	}
	for i, d := range []struct {
		meddle tuple.RelationshipUpdate
		name   string
	}{
		{touch("document:7#viewer@user:mallory"), "document:7#viewer@user:mallory"},
		{remove("document:3#viewer@user:u3"), "document:3#viewer@user:u3"},
		{touch("document:4#viewer@user:c4"), "document:4#viewer@user:c4"},
		{touch("group:g#member@user:mallory"), "group:g#member@user:mallory"},
		{expiring("document:29#viewer@user:e2", time.Now().Add(9*time.Hour)), "document:29#viewer@user:e2"},
	} {
		before := c.copied.Load()
		c.meddle(t, d.meddle)
		until(t, "the difference "+d.name, func() bool { f := c.Status().Found; return f != nil && f.Name == d.name })
		c.serves(t, false)
		c.serves(t, true)
		if c.copied.Load() == before {
			t.Errorf("%s: the copy that differs serves again", d.name)
		}
		if v, err := c.Verify(t.Context(), 10, nil); err != nil || len(v.Differences) > 0 {
			t.Errorf("%s: the copy that was loaded in its place: %v, %v", d.name, v, err)
		}
		said := c.log.FilterMessageSnippet("differs from the primary").All()
		if len(said) != i+1 || !strings.Contains(fmt.Sprint(said[i].ContextMap()["first"]), d.name) {
			t.Errorf("%s: the log says %v", d.name, said)
		}
	}
	if got := c.Status(); got.Loads != 6 {
		t.Errorf("%d loads, want one and one for each difference", got.Loads)
	}
}

// withFiles is a configuration over other files.
func withFiles(c follow.Config, files vfs.FS) follow.Config {
	c.Store.FS = files
	return c
}

// TestDistrusted: a decision that begins after a difference was found does not use the copy in any way, also where no other one can be loaded yet,
// and nor does the next start. One that has begun may end.
func TestDistrusted(t *testing.T) {
	files := vfs.NewCrashableMem()
	var config follow.Config
	c := checkedGraph(t, -1, func(f *follow.Config, g *follow.GraphConfig) {
		*f = over(files)
		config = *f
		g.Wait = 100 * time.Millisecond
	})
	c.update(t, touch("document:plan#viewer@user:alice"))
	old := c.token(t, touch("document:plan#viewer@user:carol"))
	c.meddle(t, touch("document:plan#viewer@user:mallory"))
	begun := c.snapshot(t, authz.Freshness{})
	if got := viewers(t, begun); !byCopy(begun) || !slices.Contains(got, "mallory") {
		t.Fatalf("by the copy: %v; the viewers are %v, and the test tests nothing", byCopy(begun), got)
	}
	// What there is of the copy by now is on the disk, so a crash keeps that at least.
	if err := c.copied.Load().Sync(); err != nil {
		t.Fatal(err)
	}
	v, err := c.Verify(t.Context(), 10, func(follow.Compared) error {
		c.hold() // nothing can be loaded from here on
		return nil
	})
	c.serves(t, false)
	if err != nil || len(v.Differences) != 1 || v.Differences[0].Name != "document:plan#viewer@user:mallory" {
		t.Fatalf("%v, %v", v, err)
	}
	for name, fresh := range map[string]authz.Freshness{
		"the head": {}, "as fast as can be": {Stale: true}, "at least as fresh": {Stale: true, AtLeast: old}, "a state that the copy stood at": {Exactly: begun.Revision()},
	} {
		snap := c.snapshot(t, fresh)
		// As fast as can be is, by SpiceDB, some seconds ago.
		if got := viewers(t, snap); byCopy(snap) || slices.Contains(got, "mallory") || !fresh.Stale && len(got) != 2 {
			t.Errorf("%s: by the copy: %v; the viewers are %v", name, byCopy(snap), got)
		}
	}
	if got := viewers(t, begun); !slices.Contains(got, "mallory") {
		t.Errorf("the decision that had begun: %v", got)
	}
	if s := c.Status(); s.Serves || s.Position.State != "" || s.Found == nil {
		t.Errorf("the status is %+v", s)
	}
	// The machine goes down before another copy is there. By then the graph's own pull has found the copy out of service.
	until(t, "the mark on the disk", func() bool {
		again, err := follow.Open(withFiles(config, files.CrashClone(vfs.CrashCloneCfg{})), authority(t, c.uri, time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = again.Close() }()
		_, err = again.Reached()
		return errors.Is(err, follow.ErrNoCopy)
	})
	crashed := files.CrashClone(vfs.CrashCloneCfg{})
	c.release()
	config.Store.FS = crashed
	again := follower(t, config, authority(t, c.uri, time.Hour))
	if _, err := again.Reached(); !errors.Is(err, follow.ErrNoCopy) {
		t.Errorf("after a start there is a copy: %v", err)
	}
	c.serves(t, true)
	if snap := c.snapshot(t, authz.Freshness{}); !byCopy(snap) || !slices.Equal(viewers(t, snap), []string{"alice", "carol"}) {
		t.Errorf("afterwards, by the copy: %v, the viewers are %v", byCopy(snap), viewers(t, snap))
	}
}

// TestDistrustedMeanwhile finds a difference while the copy is being brought to the head, so that nobody has looked after it since: decisions do not use what it
// stood at before, and nor do they use where it stands then.
func TestDistrustedMeanwhile(t *testing.T) {
	// before and after are waited for, while they are set, before the head is taken and once it was.
	var before, after atomic.Pointer[chan struct{}]
	asked, reached := make(chan struct{}, 100), make(chan struct{}, 100)
	c := checkedGraph(t, -1, func(_ *follow.Config, g *follow.GraphConfig) {
		g.Wait = 100 * time.Millisecond
		head := g.Head
		g.Head = func(ctx context.Context, take func() (string, error)) (authz.Revision, error) {
			return head(ctx, func() (string, error) {
				if wait := before.Load(); wait != nil {
					asked <- struct{}{}
					<-*wait
				}
				printed, err := take()
				if wait := after.Load(); wait != nil {
					reached <- struct{}{}
					<-*wait
				}
				return printed, err
			})
		}
	})
	c.update(t, touch("document:plan#viewer@user:alice"))
	c.meddle(t, touch("document:plan#viewer@user:mallory"))
	var old authz.Snapshot
	until(t, "a state of the copy's", func() bool {
		old = c.snapshot(t, authz.Freshness{})
		return byCopy(old)
	})
	first, second := make(chan struct{}), make(chan struct{})
	v, err := c.Verify(t.Context(), 10, func(follow.Compared) error {
		after.Store(&first)
		<-reached // the graph has brought the copy to the head by itself, as it does every second, and has not said so yet
		return nil
	})
	if err != nil || len(v.Differences) != 1 {
		t.Fatalf("%v, %v", v, err)
	}
	unused := func(when string) {
		t.Helper()
		for name, fresh := range map[string]authz.Freshness{"as fast as can be": {Stale: true}, "where it stood": {Exactly: old.Revision()}, "the head": {}} {
			if snap := c.snapshot(t, fresh); byCopy(snap) {
				t.Errorf("%s, %s: the copy answers: the viewers are %v", when, name, viewers(t, snap))
			}
		}
		if s := c.Status(); s.Serves || s.Position.State != "" {
			t.Errorf("%s: the status is %+v", when, s)
		}
	}
	unused("once the difference is found")
	before.Store(&second)
	after.Store(nil)
	close(first)
	<-asked // that has ended, and the next one has not begun
	unused("once the copy was brought to the head")
	before.Store(nil)
	close(second)
	until(t, "another copy", func() bool { return byCopy(c.snapshot(t, authz.Freshness{})) })
}

// TestNoFalseAlarms compares all the time, by the sampler and as a whole, while relationships are written, deleted, expire, are written again, and
// are collected by both sides.
func TestNoFalseAlarms(t *testing.T) {
	// The window is 3 s for SpiceDB's collection and for the copy's. A difference is believed at once where the position is less than 1 s old: that is
	// as it is with the shortest window that SpiceDB is run with.
	const window = 3 * time.Second
	c := checkedGraph(t, 20_000, func(f *follow.Config, g *follow.GraphConfig) {
		f.Store.Retention, f.Store.CollectEvery = window, 50*time.Millisecond
		g.Believed = time.Second
	})
	fill(t, c.written, 200)
	over, ended := make(chan struct{}), sync.WaitGroup{}
	defer ended.Wait()
	defer close(over)
	every := func(pause time.Duration, do func(i int)) {
		ended.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-over:
					return
				case <-time.After(pause):
					do(i)
				}
			}
		})
	}
	every(time.Millisecond, func(i int) {
		rel := fmt.Sprintf("document:%d#viewer@user:x%d", i%40, i%11)
		switch i % 4 {
		case 0, 1:
			c.update(t, expiring(rel, time.Now().Add(time.Duration(i%30)*50*time.Millisecond)))
		case 2:
			c.update(t, touch(rel))
		default:
			c.update(t, remove(rel))
		}
	})
	every(100*time.Millisecond, func(int) {
		c.collect(t, window)
		// The collection takes what has expired by the window that the datastore was opened with.
		execute(t, c.uri, "DELETE FROM relation_tuple WHERE expiration < now() - interval '3 seconds'")
	})
	whole := 0
	for until := time.Now().Add(8 * time.Second); time.Now().Before(until); whole++ {
		v, err := c.Verify(t.Context(), 10, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range v.Differences {
			t.Errorf("at %s as of %s: %s", v.Position.State, v.Moment, d)
		}
		if v.Relationships < 600 {
			t.Fatalf("%d relationships were compared", v.Relationships)
		}
	}
	c.rounds(t, 1)
	s := c.Status()
	if s.Found != nil {
		t.Errorf("the sampler found %s", s.Found)
	}
	if s.Loads != 1 {
		t.Errorf("%d loads, want 1: a comparison was about another copy", s.Loads)
	}
	if n := query(t, c.uri, "SELECT count(*)::text FROM relation_tuple WHERE expiration < now() - interval '4 seconds'"); n != "0" {
		t.Errorf("%s relationships that expired were not collected by the database", n)
	}
	t.Logf("%d comparisons of the whole, %d rounds of the sampler, %d relationships", whole, s.Sampled.Rounds, s.Sampled.Relationships)
}

// TestVerifyOutlastsWindow has a collection take away, while everything is compared, what the position still shows: half of it, by which nothing
// shows that the position was missed, or whole. The comparison begins again, and finds a difference if there is one.
func TestVerifyOutlastsWindow(t *testing.T) {
	const believed = 300 * time.Millisecond
	for _, half := range []bool{true, false} {
		for _, differs := range []bool{false, true} {
			t.Run(fmt.Sprintf("half %v, differs %v", half, differs), func(t *testing.T) {
				var c *checked
				var once sync.Once
				began := 0
				c = checkedGraph(t, -1, func(_ *follow.Config, g *follow.GraphConfig) { g.Believed = believed })
				c.update(t, touch("document:plan#viewer@user:alice"), touch("document:plan#viewer@user:bob"))
				if differs {
					c.meddle(t, touch("document:plan#viewer@user:mallory"))
				}
				c.steps(func(what string) {
					if what != "the digests" {
						return
					}
					began++
					once.Do(func() {
						c.update(t, remove("document:plan#viewer@user:alice"))
						c.update(t, touch("document:other#viewer@user:alice"))
						c.snapshot(t, authz.Freshness{}) // the copy has the deletion before it is collected
						if half {
							execute(t, c.uri, "DELETE FROM relation_tuple WHERE deleted_xid < '9223372036854775807'::xid8")
						} else {
							c.collect(t, time.Nanosecond)
						}
						pass(t, c.uri, 2*believed)
					})
				})
				v, err := c.Verify(t.Context(), 10, nil)
				if err != nil {
					t.Fatal(err)
				}
				var got, want []string
				for _, d := range v.Differences {
					got = append(got, d.Name)
				}
				if differs {
					want = []string{"document:plan#viewer@user:mallory"}
				}
				if !slices.Equal(got, want) {
					t.Errorf("found %q, want %q", got, want)
				}
				if again := !half || !differs; again != (began > 1) {
					t.Errorf("the comparison began %d times", began)
				}
			})
		}
	}
}

// TestVerifyTells: a comparison tells of each type how much was compared, ends with the first error of the caller that it tells, and is the only one at a
// time.
func TestVerifyTells(t *testing.T) {
	c := checkedGraph(t, -1, nil)
	fill(t, c.written, 20)
	c.update(t, touch("group:g#member@user:alice"), expiring("group:g#member@user:over", time.Now().Add(-time.Minute)))
	var told []follow.Compared
	v, err := c.Verify(t.Context(), 10, func(compared follow.Compared) error {
		told = append(told, compared)
		if _, err := c.Verify(t.Context(), 10, nil); authz.KindOf(err) != authz.Exhausted {
			t.Errorf("a second comparison at the same time: %v", err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if want := []follow.Compared{{"document", 60, 60, true}, {"group", 1, 1, true}}; !slices.Equal(told, want) {
		t.Errorf("told %v, want %v", told, want)
	}
	if s := c.Status(); v.Relationships != 61 || s.Verified != v || s.Relationships < 61 || !s.Serves || s.Position.Authority == "" {
		t.Errorf("compared %d; the status is %+v", v.Relationships, s)
	}
	failed := errors.New("the caller has gone")
	calls := 0
	if _, err := c.Verify(t.Context(), 10, func(follow.Compared) error { calls++; return failed }); !errors.Is(err, failed) || calls != 1 {
		t.Errorf("a caller that failed is told %d times, and the comparison ends with %v", calls, err)
	}
	c.meddle(t, touch("folder:f#viewer@user:mallory"), remove("group:g#member@user:alice"), touch("document:1#viewer@user:mallory"))
	told = nil
	v, err = c.Verify(t.Context(), 2, func(compared follow.Compared) error {
		told = append(told, compared)
		return nil
	})
	if err != nil || len(v.Differences) != 2 || !v.More {
		t.Fatalf("%v, %v, want the first two differences, and that there may be more", v, err)
	}
	if want := []follow.Compared{{"document", 61, 62, false}, {"folder", 0, 1, false}, {"group", 1, 0, false}}; !slices.Equal(told, want) {
		t.Errorf("told %v, want %v", told, want)
	}
}

// TestVerifyMore: a comparison that has ended with as many differences as were asked for says whether there may be others, wherever it ended.
func TestVerifyMore(t *testing.T) {
	// Relationships that differ in their relations alone are in one bucket, of which eight are looked at together.
	inOneBucket := func(n int) (updates []tuple.RelationshipUpdate) {
		for i := range n {
			updates = append(updates, touch(fmt.Sprintf("document:1#viewer%d@user:mallory", i)))
		}
		return updates
	}
	c := checkedGraph(t, -1, nil)
	c.update(t, touch("document:1#viewer@user:alice"))
	for _, test := range []struct {
		name   string
		meddle []tuple.RelationshipUpdate
		most   int
		more   bool
	}{
		{"all are named", inOneBucket(8), 8, false},
		{"another one among those that are looked at together", inOneBucket(8), 7, true},
		{"another one in the bucket", inOneBucket(9), 8, true},
		{"another bucket", append(inOneBucket(8), touch("group:g#member@user:mallory")), 8, true},
	} {
		c.meddle(t, test.meddle...)
		v, err := c.Verify(t.Context(), test.most, nil)
		if err != nil || len(v.Differences) != test.most || v.More != test.more {
			t.Errorf("%s: %+v, %v; want %d differences, and more: %v", test.name, v, err, test.most, test.more)
		}
		c.serves(t, false)
		c.serves(t, true)
	}
}

// TestOf looks relationships up in a state, as it was: with what was deleted since, and without what was written since.
func TestOf(t *testing.T) {
	w := writer(t, pgtest.Database(t))
	fill(t, w, 20)
	w.update(t, touch("document:w/_|-=+#viewer@user:*"), touch("document:g#viewer@group:g#member"))
	a := authority(t, w.uri, time.Hour)
	at, err := a.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	w.update(t, remove("document:1#viewer@user:u1"), touch("document:2#viewer@user:c2"), touch("document:new#viewer@user:alice"))
	state := a.At(at)
	page, err := state.Page(t.Context(), "", 1000)
	if err != nil {
		t.Fatal(err)
	}
	refs := []tuple.RelationshipReference{
		tuple.MustParse("document:new#viewer@user:alice").RelationshipReference, tuple.MustParse("document:1#viewer@user:u").RelationshipReference,
		tuple.MustParse("document:g#viewer@group:g").RelationshipReference,
	}
	for i := range page.Relationships {
		refs = append(refs, page.Relationships[i].RelationshipReference)
	}
	found, err := state.Of(t.Context(), refs)
	if err != nil {
		t.Fatal(err)
	}
	texts := func(all []tuple.Relationship) []string {
		var lines []string
		for i := range all {
			lines = append(lines, tuple.MustString(all[i]))
		}
		slices.Sort(lines)
		return lines
	}
	if got, want := texts(found), texts(page.Relationships); !slices.Equal(got, want) || len(got) != 62 {
		t.Errorf("found\n%q\nwant\n%q", got, want)
	}
	if none, err := state.Of(t.Context(), nil); err != nil || len(none) > 0 {
		t.Errorf("nothing was asked: %v, %v", none, err)
	}
	at.At = at.At.Add(-2 * time.Hour)
	if _, err := a.At(at).Of(t.Context(), refs); !errors.Is(err, follow.ErrMissed) {
		t.Errorf("a position that has left the window: %v", err)
	}
}
