package delegate_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/delegate"
)

// counted is a real engine that counts the objects that are read of it.
type counted struct {
	authz.Graph
	reads atomic.Int64
}

// Snapshot is authz.Graph's.
func (c *counted) Snapshot(ctx context.Context, f authz.Freshness) (authz.Snapshot, error) {
	s, err := c.Graph.Snapshot(ctx, f)
	return &countedSnapshot{s, c}, err
}

type countedSnapshot struct {
	authz.Snapshot
	of *counted
}

// Read is authz.Snapshot's.
func (s *countedSnapshot) Read(ctx context.Context, filters ...authz.Filter) ([][]authz.Relationship, error) {
	s.of.reads.Add(int64(len(filters)))
	return s.Snapshot.Read(ctx, filters...)
}

// TestListsStopForTheirBudget: beside very many sessions, delegations and agents that are not listed, a page ends after a
// bounded number of reads, with a place to go on from, and what is listed is found in the end.
func TestListsStopForTheirBudget(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: much work of one goroutine")
	}
	d, _, graph := office(t)
	own, _, err := d.Create(t.Context(), delegate.Spec{
		Agent: "bot", Principal: authz.Subject{Object: alice.Object}, Tenant: "acme", Unscoped: true, TTL: time.Hour,
	})
	if err != nil {
		t.Fatal(err)
	}
	run, _, err := d.StartSession(t.Context(), delegate.Start{Agent: "bot", Targets: []delegate.Target{{Delegation: own.ID}}})
	if err != nil {
		t.Fatal(err)
	}
	// Ended sessions, revoked delegations, and agents that are suspended but kept the mark: as far as a list looks at them.
	const many = 700
	var updates []authz.Update
	add := func(kind, id, relation string, subject authz.Object) {
		updates = append(updates, authz.Update{Operation: authz.Touch, Relationship: authz.Relationship{
			Resource: authz.Object{Type: kind, ID: id}, Relation: relation, Subject: authz.Subject{Object: subject},
		}})
		if relation == "agent" && kind == authz.TypeSession || relation == "active" {
			updates[len(updates)-1].Relationship.Caveat = "issued"
		}
	}
	for i := range many {
		id := fmt.Sprintf("%05d", i)
		add(authz.TypeSession, id, "agent", authz.AgentID("bot").Object())
		add(authz.TypeDelegation, id, "agent", authz.AgentID("bot").Object())
		add(authz.TypeAgent, id, "active", authz.AgentID(id).Object())
		add(authz.TypeAgent, id, "suspended", authz.AgentID(id).Object())
	}
	for len(updates) > 0 {
		n := min(len(updates), 1000)
		if _, err := graph.Engine.Write(t.Context(), updates[:n], nil); err != nil {
			t.Fatal(err)
		}
		updates = updates[n:]
	}
	reads := &counted{Graph: graph.Engine}
	lists := delegate.New(reads, nil, time.Hour, time.Now).For("service", authz.Unbounded())
	lists.SetListReads(500)
	const most = 500 + 2
	follow := func(name string, want string, ask func(delegate.Place) (ids []string, next *delegate.Place, err error)) {
		t.Helper()
		found, calls := map[string]int{}, 0
		for place := (delegate.Place{}); ; {
			reads.reads.Store(0)
			ids, next, err := ask(place)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if n := reads.reads.Load(); n > most {
				t.Errorf("%s: a page reads %d objects, more than %d", name, n, most)
			}
			for _, id := range ids {
				found[id]++
			}
			if calls++; next == nil {
				break
			}
			if place = *next; calls > 50 {
				t.Fatalf("%s: it does not end: %+v", name, place)
			}
		}
		if calls < 2 || found[want] != 1 {
			t.Errorf("%s: found %s %d times in %d calls", name, want, found[want], calls)
		}
	}
	follow("sessions", string(run.ID), func(p delegate.Place) (ids []string, next *delegate.Place, err error) {
		l, err := lists.Sessions(t.Context(), "bot", false, p, 100)
		for _, s := range l.Items {
			ids = append(ids, string(s.ID))
		}
		return ids, l.Next, err
	})
	follow("delegations", string(own.ID), func(p delegate.Place) (ids []string, next *delegate.Place, err error) {
		l, err := lists.Delegations(t.Context(), delegate.Choice{By: authz.Subject{Object: authz.AgentID("bot").Object()}}, p, 100)
		for _, d := range l.Items {
			ids = append(ids, string(d.ID))
		}
		return ids, l.Next, err
	})
	follow("agents", "sub", func(p delegate.Place) (ids []string, next *delegate.Place, err error) {
		l, err := lists.Agents(t.Context(), p, 1000)
		for _, a := range l.Items {
			ids = append(ids, string(a.ID))
		}
		return ids, l.Next, err
	})
}

// TestListsLeaveTheCallerTime: a list goes on for at most half of the time that its caller has left.
func TestListsLeaveTheCallerTime(t *testing.T) {
	ctx, cancel := context.WithDeadline(t.Context(), time.Now().Add(time.Hour))
	defer cancel()
	now := time.Now()
	if until := authz.Until(ctx, 3*time.Second); until.Before(now.Add(2*time.Second)) || until.After(time.Now().Add(3*time.Second)) {
		t.Errorf("a caller with an hour waits until %s, at %s", until, now)
	}
	near, end := context.WithDeadline(t.Context(), now.Add(time.Second))
	defer end()
	if until := authz.Until(near, 3*time.Second); until.After(now.Add(time.Second)) {
		t.Errorf("a caller with a second waits until %s, at %s", until, now)
	}
}
