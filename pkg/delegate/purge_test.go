package delegate_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/delegate"
	"github.com/deputyauth/deputy/pkg/facts"
)

// tallied is a graph that counts the relationships which are read.
type tallied struct {
	authz.Graph
	rows int
}

type talliedSnapshot struct {
	authz.Snapshot
	of *tallied
}

func (g *tallied) Snapshot(ctx context.Context, f authz.Freshness) (authz.Snapshot, error) {
	snap, err := g.Graph.Snapshot(ctx, f)
	return talliedSnapshot{snap, g}, err
}

func (s talliedSnapshot) Read(ctx context.Context, filters ...authz.Filter) ([][]authz.Relationship, error) {
	lists, err := s.Snapshot.Read(ctx, filters...)
	for _, l := range lists {
		s.of.rows += len(l)
	}
	return lists, err
}

func (s talliedSnapshot) Page(ctx context.Context, f authz.Filter, limit int, cursor string) ([]authz.Relationship, string, error) {
	rels, next, err := s.Snapshot.Page(ctx, f, limit, cursor)
	s.of.rows += len(rels)
	return rels, next, err
}

var ofAlice = delegate.Spec{
	Agent: "bot", Principal: authz.Subject{Object: alice.Object}, Tenant: "acme", Unscoped: true, AllowDirect: true, TTL: 1000 * time.Hour,
}

func create(t *testing.T, d *delegate.Delegate, s delegate.Spec) facts.Delegation {
	t.Helper()
	out, _, err := d.Create(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func start(t *testing.T, d *delegate.Delegate, s delegate.Start) delegate.Running {
	t.Helper()
	out, _, err := d.StartSession(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func under(d facts.Delegation) delegate.Start {
	return delegate.Start{Agent: d.Agent, Targets: []delegate.Target{{Delegation: d.ID}}}
}

// index lists what is live.
func index(t *testing.T, d *delegate.Delegate) {
	t.Helper()
	if indexed, err := d.Index(t.Context()); err != nil || !indexed {
		t.Fatalf("indexed %t, %v", indexed, err)
	}
}

// purge purges everything that has been over for an age.
func purge(t *testing.T, d *delegate.Delegate, p delegate.Purging) delegate.Purged {
	t.Helper()
	var sum delegate.Purged
	for place := (&delegate.Place{}); place != nil; {
		did, next, err := d.Purge(t.Context(), p, *place)
		if err != nil {
			t.Fatal(err)
		}
		sum.Sessions, sum.Delegations = sum.Sessions+did.Sessions, sum.Delegations+did.Delegations
		sum.Relationships, sum.Seen, place = sum.Relationships+did.Relationships, sum.Seen+did.Seen, next
	}
	return sum
}

// everything lists the ids that a list has, however many pages it takes.
func everything[T any](t *testing.T, list func(delegate.Place) (delegate.List[T], error), id func(T) string) []string {
	t.Helper()
	var ids []string
	for place := (&delegate.Place{}); place != nil; {
		page, err := list(*place)
		if err != nil {
			t.Fatal(err)
		}
		for _, item := range page.Items {
			ids = append(ids, id(item))
		}
		place = page.Next
	}
	slices.Sort(ids)
	return ids
}

func sessionsOf(t *testing.T, d *delegate.Delegate, agent authz.AgentID, inactive bool) []string {
	t.Helper()
	return everything(t, func(from delegate.Place) (delegate.List[delegate.Running], error) {
		return d.Sessions(t.Context(), agent, inactive, from, 7)
	}, func(r delegate.Running) string { return string(r.ID) })
}

func delegationsBy(t *testing.T, d *delegate.Delegate, c delegate.Choice) []string {
	t.Helper()
	return everything(t, func(from delegate.Place) (delegate.List[facts.Delegation], error) {
		return d.Delegations(t.Context(), c, from, 7)
	}, func(d facts.Delegation) string { return string(d.ID) })
}

// choices are the ways in which delegations are listed.
func choices(parent authz.DelegationID) []delegate.Choice {
	subject := func(o authz.Object) authz.Subject { return authz.Subject{Object: o} }
	return []delegate.Choice{
		{By: subject(authz.AgentID("bot").Object())}, {By: subject(authz.AgentID("sub").Object())},
		{By: subject(authz.TenantID("acme").Object())}, {By: subject(parent.Object())},
		{By: subject(alice.Object), AsPrincipal: true},
		{By: authz.Subject{Object: authz.TenantID("acme").Object(), Relation: facts.RelationMember}, AsPrincipal: true},
	}
}

// TestListsReadWhatIsLive: what lists of live sessions and delegations read does not depend on how many there are that are over.
func TestListsReadWhatIsLive(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: much work of one goroutine")
	}
	read := func(over int) (rows []int) {
		d, _, graph := office(t)
		index(t, d)
		root := create(t, d, ofAlice)
		part := delegate.Spec{Agent: "sub", Parent: root.ID, Unscoped: true}
		create(t, d, part)
		start(t, d, under(root))
		soon := under(root)
		soon.TTL = time.Millisecond
		for i := range over {
			// A third of each is ended or revoked, and another expires.
			stopped := create(t, d, ofAlice)
			run := start(t, d, under(root))
			if _, err := d.End(t.Context(), run.ID); err != nil {
				t.Fatal(err)
			}
			if _, err := d.Revoke(t.Context(), stopped.ID); err != nil {
				t.Fatal(err)
			}
			if _, err := d.Revoke(t.Context(), create(t, d, part).ID); err != nil {
				t.Fatal(err)
			}
			if i%2 == 0 {
				start(t, d, soon)
			}
		}
		expired(t, d, start(t, d, soon).ID)
		c := &tallied{Graph: graph}
		lists := delegate.New(c, []byte("key"), time.Hour, time.Now).For("service", authz.Unbounded())
		count := func(found []string, want int) {
			t.Helper()
			if len(found) != want {
				t.Errorf("%d are listed, not %d", len(found), want)
			}
			rows, c.rows = append(rows, c.rows), 0
		}
		count(sessionsOf(t, lists, "bot", false), 1)
		for i, choice := range choices(root.ID) {
			count(delegationsBy(t, lists, choice), []int{1, 1, 2, 1, 2, 0}[i])
		}
		return rows
	}
	few, many := read(5), read(60)
	if !slices.Equal(few, many) {
		t.Errorf("beside 5 that are over lists read %d relationships, and beside 60 %d", few, many)
	}
}

// expired waits until a session has expired for the engine, too.
func expired(t *testing.T, d *delegate.Delegate, id authz.SessionID) {
	t.Helper()
	for t.Context().Err() == nil {
		if s, _, err := d.Session(t.Context(), id); err != nil {
			t.Fatal(err)
		} else if !s.Active {
			return
		}
	}
}

// TestOldGraphIsListed: what is live and was not listed when it was written is found before it is listed as well as afterwards,
// and so is what is renewed in between; and what is written past the services while all is listed.
func TestOldGraphIsListed(t *testing.T) {
	d, _, graph := office(t)
	root := create(t, d, ofAlice)
	ofSet := ofAlice
	ofSet.Principal, ofSet.GrantedBy = authz.Subject{Object: authz.TenantID("acme").Object(), Relation: facts.RelationMember}, user("carol")
	create(t, d, ofSet)
	create(t, d, delegate.Spec{Agent: "sub", Parent: root.ID, Unscoped: true})
	run, over := start(t, d, under(root)), start(t, d, under(root))
	if _, err := d.End(t.Context(), over.ID); err != nil {
		t.Fatal(err)
	}
	unlist(t, graph)
	look := func() (ids [][]string) {
		ids = append(ids, sessionsOf(t, d, "bot", false))
		for _, c := range choices(root.ID) {
			ids = append(ids, delegationsBy(t, d, c))
		}
		return ids
	}
	before := look()
	if !slices.Equal(before[0], []string{string(run.ID)}) || len(before[3]) != 3 {
		t.Fatalf("before it is listed an old graph shows %v", before)
	}
	index(t, d)
	if after := look(); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("an old graph shows %v, and once it is listed %v", before, after)
	}
	unlist(t, graph)
	if found := sessionsOf(t, d, "bot", false); len(found) != 0 {
		t.Fatalf("a session that is not listed is found: %v", found)
	}
	// Now something is written past the services.
	if err := d.NotIndexed(t.Context()); err != nil {
		t.Fatal(err)
	}
	if after := look(); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("of what is written past the services lists show %v, not %v", after, before)
	}
	if indexed, err := d.Index(t.Context()); err != nil || indexed {
		t.Errorf("what may be being written is taken as listed: %t, %v", indexed, err)
	}
	inMinutes := func() time.Time { return time.Now().Add(3 * time.Minute) }
	later := delegate.New(graph, []byte("key"), time.Hour, inMinutes).For("", authz.Unbounded())
	index(t, later)
	if _, _, err := d.Renew(t.Context(), run.ID, time.Hour); err != nil {
		t.Fatal(err)
	}
	if after := look(); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("once it is listed again lists show %v, not %v", after, before)
	}
}

// TestPagesEndAlike: where a confined caller's pages end does not depend on whether lists go by what is listed: that is so for all
// tenants at once, and so others have a part in it.
func TestPagesEndAlike(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: much work of one goroutine")
	}
	d, _, graph := office(t)
	root := create(t, d, ofAlice)
	for range 2 {
		start(t, d, under(root))
	}
	for range 20 {
		if _, err := d.End(t.Context(), start(t, d, under(root)).ID); err != nil {
			t.Fatal(err)
		}
		if _, err := d.Revoke(t.Context(), create(t, d, ofAlice).ID); err != nil {
			t.Fatal(err)
		}
	}
	confined := delegate.New(graph, []byte("key"), time.Hour, time.Now).For("of-acme", ofAcme())
	pages := func() (counts [2]int) {
		for place := (&delegate.Place{}); place != nil; counts[0]++ {
			page, err := confined.Sessions(t.Context(), "bot", false, *place, 1)
			if err != nil {
				t.Fatal(err)
			}
			place = page.Next
		}
		for place := (&delegate.Place{}); place != nil; counts[1]++ {
			page, err := confined.Delegations(t.Context(), choices("")[0], *place, 1)
			if err != nil {
				t.Fatal(err)
			}
			place = page.Next
		}
		return counts
	}
	everything := pages()
	index(t, d)
	if listed := pages(); everything != [2]int{2, 1} || listed != everything {
		t.Errorf("2 live sessions and 1 live delegation are on %d pages, and once they are listed on %d", everything, listed)
	}
}

// unlist deletes what lists go by, as an older version would not have written it.
func unlist(t *testing.T, graph authz.Graph) {
	t.Helper()
	snap, err := graph.Snapshot(t.Context(), authz.Freshness{})
	if err != nil {
		t.Fatal(err)
	}
	var updates []authz.Update
	for _, at := range [][2]string{{"session", "listed"}, {"delegation", "listed"}, {"delegation", "listed_for"}} {
		rels, _, err := snap.Page(t.Context(), authz.Filter{Resource: authz.Object{Type: at[0]}, Relation: at[1]}, 1000, "")
		if err != nil {
			t.Fatal(err)
		}
		for _, rel := range rels {
			updates = append(updates, authz.Update{Operation: authz.Delete, Relationship: rel})
		}
	}
	if len(updates) == 0 {
		t.Fatal("nothing is listed")
	}
	if _, err := graph.Write(t.Context(), updates, nil); err != nil {
		t.Fatal(err)
	}
}

// TestPurgeModel: through random lives, of sessions and delegations that stand on each other, a model says what can be read
// after each purge.
func TestPurgeModel(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: much work of one goroutine")
	}
	seed := uint64(time.Now().UnixNano())
	if given, err := strconv.ParseUint(os.Getenv("SEED"), 10, 64); err == nil {
		seed = given
	}
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	const age = 10 * time.Hour
	onTime, _, graph := office(t)
	var ahead time.Duration
	now := func() time.Time { return time.Now().Add(ahead) }
	d := delegate.New(graph, []byte("key"), 500*time.Hour, now).For("service", authz.Unbounded())
	// one is a session, or a delegation that none minted.
	type one struct {
		name       string
		session    authz.SessionID
		delegation facts.Delegation
		stands     *one
		stopped    bool
		expires    time.Time
		seen       time.Time
		gone       bool
		leaf       authz.DelegationID
	}
	var all []*one
	over := func(o *one) bool {
		for ; o != nil; o = o.stands {
			if o.stopped || o.gone || !o.expires.After(now()) {
				return true
			}
		}
		return false
	}
	since := func(o *one) time.Time {
		at := o.seen
		if !o.expires.After(now()) && (at.IsZero() || o.expires.Before(at)) {
			at = o.expires
		}
		return at
	}
	pick := func() *one { return all[random.IntN(len(all))] }
	long := func() time.Duration { return time.Duration(300+random.IntN(200)) * time.Hour }
	for step := range 300 {
		switch roll := random.IntN(10); {
		case roll < 2 || len(all) == 0:
			s := ofAlice
			s.TTL = long()
			made := create(t, d, s)
			all = append(all, &one{name: "root", delegation: made, expires: made.Until})
		case roll < 6:
			on := pick()
			if on.session != "" || over(on) {
				continue
			}
			if random.IntN(2) == 0 && on.delegation.Agent == "bot" {
				made := create(t, d, delegate.Spec{Agent: "sub", Parent: on.delegation.ID, Unscoped: true})
				all = append(all, &one{name: "part", delegation: made, stands: on, expires: made.Until})
				continue
			}
			run, by := under(on.delegation), d
			if run.TTL = long(); random.IntN(4) == 0 {
				run.TTL, by = time.Millisecond, onTime // it expires for the engine, too
			}
			made := start(t, by, run)
			if by == onTime {
				expired(t, onTime, made.ID)
			}
			all = append(all, &one{name: "session", session: made.ID, leaf: made.Leaves[0].Delegation, expires: made.Until})
		case roll < 8:
			o := pick()
			if o.gone {
				continue
			}
			var err error
			if o.session != "" {
				_, err = d.End(t.Context(), o.session)
			} else {
				_, err = d.Revoke(t.Context(), o.delegation.ID)
			}
			if err != nil {
				t.Fatal(err)
			}
			o.stopped = true
		case roll < 9:
			ahead += time.Duration(random.IntN(8)) * time.Hour
			if ahead > 290*time.Hour {
				ahead = 290 * time.Hour // nothing expires by this clock alone, which the engine does not know
			}
		default:
			purge(t, d, delegate.Purging{OlderThan: age})
			for _, o := range all {
				isOver := over(o)
				if o.session != "" {
					isOver = o.stopped || !o.expires.After(now()) // it does not end with what it was minted from
				}
				switch {
				case o.gone || !isOver:
				case since(o).IsZero():
					o.seen = now()
				case !since(o).Add(age).After(now()):
					o.gone = true
				}
			}
		}
		if step%10 != 9 {
			continue
		}
		for _, o := range all {
			var err error
			var stopped bool
			if o.session != "" {
				var s delegate.Running
				s, _, err = d.Session(t.Context(), o.session)
				stopped = s.Stopped
				if _, _, leaf := d.Delegation(t.Context(), o.leaf); (authz.KindOf(leaf) == authz.NotFound) != o.gone {
					t.Fatalf("step %d: the leaf of a session which is gone: %t, reads as %v", step, o.gone, leaf)
				}
			} else {
				var one facts.Delegation
				one, _, err = d.Delegation(t.Context(), o.delegation.ID)
				stopped = one.Stopped
			}
			switch {
			case o.gone && authz.KindOf(err) != authz.NotFound, !o.gone && err != nil, !o.gone && stopped != o.stopped:
				t.Fatalf("step %d: a %s reads as stopped %t, %v; the model has it as %+v", step, o.name, stopped, err, *o)
			}
		}
	}
}

// TestPurgeLeavesTombstones: nothing is left of what was purged but a tombstone of each id, and no idempotency key leads to it again.
func TestPurgeLeavesTombstones(t *testing.T) {
	d, raced, graph := office(t)
	of := ofAlice
	of.Key = "one"
	root := create(t, d, of)
	run := under(root)
	run.Key = "two"
	session := start(t, d, run)
	kept := create(t, d, ofAlice)
	for _, stop := range []func() (authz.Revision, error){
		func() (authz.Revision, error) { return d.End(t.Context(), session.ID) },
		func() (authz.Revision, error) { return d.Revoke(t.Context(), root.ID) },
	} {
		if _, err := stop(); err != nil {
			t.Fatal(err)
		}
	}
	if did := purge(t, d, delegate.Purging{DryRun: true}); did.Sessions != 1 || did.Delegations != 2 {
		t.Errorf("it would purge %+v", did)
	}
	if _, _, err := d.Session(t.Context(), session.ID); err != nil {
		t.Fatalf("a dry run has purged: %v", err)
	}
	if did := purge(t, d, delegate.Purging{OlderThan: time.Hour}); did.Sessions+did.Delegations != 0 || did.Seen != 2 {
		t.Errorf("what is over for no time is purged, or not noted: %+v", did)
	}
	if did := purge(t, d, delegate.Purging{}); did.Sessions != 1 || did.Delegations != 2 {
		t.Errorf("it purged %+v", did)
	}
	snap, err := graph.Snapshot(t.Context(), authz.Freshness{})
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range []authz.Object{session.ID.Object(), session.Leaves[0].Delegation.Object(), root.ID.Object()} {
		lists, err := snap.Read(t.Context(), facts.Naming(o)...)
		if err != nil {
			t.Fatal(err)
		}
		want := o.String() + "#purged@" + o.String()
		for _, rels := range lists {
			if len(rels) != 1 || rels[0].String() != want {
				t.Errorf("of %s there is left %v", o, rels)
			}
		}
	}
	again := under(kept)
	again.Key = "two"
	of.Agent = "sub"
	for name, err := range map[string]error{
		"the same session": second(d.StartSession(t.Context(), again)), "the delegation": second(d.Create(t.Context(), of)),
	} {
		if authz.KindOf(err) != authz.Exists {
			t.Errorf("the key of what was purged makes %s again: %v", name, err)
		}
	}
	// Between look and write.
	of.Key = "three"
	graph.before = func() {
		made := create(t, d, of)
		if _, err := d.Revoke(t.Context(), made.ID); err != nil {
			t.Error(err)
		}
		purge(t, d, delegate.Purging{})
	}
	if _, _, err := raced.Create(t.Context(), of); err == nil {
		t.Error("what was purged in between is made again")
	}
	known := delegate.Choice{By: authz.Subject{Object: alice.Object}, AsPrincipal: true, Inactive: true}
	if found := delegationsBy(t, d, known); !slices.Equal(found, []string{string(kept.ID)}) {
		t.Errorf("there are %v", found)
	}
}

func second[A, B any](_ A, _ B, err error) error { return err }

// TestPurgeByAFastClock: a session that is over by this clock alone, or was renewed meanwhile, stays.
func TestPurgeByAFastClock(t *testing.T) {
	d, _, graph := office(t)
	root := create(t, d, ofAlice)
	session := start(t, d, under(root))
	fast := delegate.New(graph, []byte("key"), time.Hour, func() time.Time { return time.Now().Add(2 * time.Hour) }).For("", authz.Unbounded())
	if did := purge(t, fast, delegate.Purging{}); did.Sessions != 0 || did.Relationships != 0 {
		t.Errorf("it purged %+v", did)
	}
	if s, _, err := d.Session(t.Context(), session.ID); err != nil || !s.Live() {
		t.Errorf("the session is %+v, %v", s, err)
	}
	if _, _, err := d.Renew(t.Context(), session.ID, time.Hour); err != nil {
		t.Error(err)
	}
}

// TestPurgeIsResumed: what takes more than one write, and is interrupted, acts no more, and is gone after the next purge.
func TestPurgeIsResumed(t *testing.T) {
	d, _, graph := office(t)
	root := create(t, d, ofAlice)
	session := start(t, d, delegate.Start{Agent: "bot", Targets: []delegate.Target{{Delegation: root.ID}}})
	leaf := session.Leaves[0].Delegation.Object()
	big(t, graph, leaf)
	if _, err := d.End(t.Context(), session.ID); err != nil {
		t.Fatal(err)
	}
	failing := delegate.New(&interrupted{Graph: graph, after: 1}, []byte("key"), time.Hour, time.Now).For("", authz.Unbounded())
	if _, _, err := failing.Purge(t.Context(), delegate.Purging{}, delegate.Place{}); !errors.Is(err, errInterrupted) {
		t.Fatalf("it was not interrupted: %v", err)
	}
	if _, _, err := d.Session(t.Context(), session.ID); authz.KindOf(err) != authz.NotFound {
		t.Errorf("half of a purge reads as %v", err)
	}
	purge(t, d, delegate.Purging{OlderThan: time.Hour})
	snap, err := graph.Snapshot(t.Context(), authz.Freshness{})
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range []authz.Object{session.ID.Object(), leaf} {
		lists, err := snap.Read(t.Context(), facts.Naming(o)...)
		if err != nil {
			t.Fatal(err)
		}
		if left := len(slices.Concat(lists...)); left != 2 { // the tombstone, as its resource and as its subject
			t.Errorf("of %s there are %d relationships left: %.300v", o, left, lists)
		}
	}
}

var errInterrupted = errors.New("interrupted")

// interrupted is a graph that takes some writes and no more.
type interrupted struct {
	authz.Graph
	after int
}

func (g *interrupted) Write(ctx context.Context, updates []authz.Update, must []authz.MustHold) (authz.Revision, error) {
	if g.after--; g.after < 0 {
		return authz.Revision{}, errInterrupted
	}
	return g.Graph.Write(ctx, updates, must)
}

// big gives a delegation more grants than one write takes.
func big(t *testing.T, graph authz.Graph, to authz.Object) {
	t.Helper()
	for batch := range 3 {
		var updates []authz.Update
		for i := range 500 {
			updates = append(updates, authz.Update{Operation: authz.Touch, Relationship: authz.Relationship{
				Resource: authz.Object{Type: "paper", ID: fmt.Sprintf("p%d-%d", batch, i)}, Relation: "reader", Subject: authz.Subject{Object: to},
			}})
		}
		if _, err := graph.Write(t.Context(), updates, nil); err != nil {
			t.Fatal(err)
		}
	}
}
