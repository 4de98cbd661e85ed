package judge

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/delegate"
)

// failing is a real engine one of whose calls fails: the one with the number at, counted from 1, over all snapshots. Where alone is set, a bulk of
// checks fails in its last check, and the others are answered.
type failing struct {
	authz.Graph
	at    int64
	alone bool
	calls atomic.Int64
}

func (f *failing) fails() bool { return f.calls.Add(1) == f.at }

// Snapshot is authz.Graph's.
func (f *failing) Snapshot(ctx context.Context, fresh authz.Freshness) (authz.Snapshot, error) {
	s, err := f.Graph.Snapshot(ctx, fresh)
	return &failingSnapshot{s, f}, err
}

type failingSnapshot struct {
	authz.Snapshot
	of *failing
}

// errFails is what the engine's failure is known by.
var errFails = &authz.Error{Kind: authz.Unavailable, Reason: "ENGINE_UNAVAILABLE", Message: "the engine does not answer"}

// Read is authz.Snapshot's.
func (s *failingSnapshot) Read(ctx context.Context, filters ...authz.Filter) ([][]authz.Relationship, error) {
	if s.of.fails() {
		return nil, errFails
	}
	return s.Snapshot.Read(ctx, filters...)
}

// Page is authz.Snapshot's.
func (s *failingSnapshot) Page(ctx context.Context, f authz.Filter, limit int, cursor string) ([]authz.Relationship, string, error) {
	if s.of.fails() {
		return nil, "", errFails
	}
	return s.Snapshot.Page(ctx, f, limit, cursor)
}

// Check is authz.Snapshot's.
func (s *failingSnapshot) Check(ctx context.Context, queries []authz.Query) ([]authz.Answer, error) {
	fails := s.of.fails()
	if fails && !s.of.alone {
		return nil, errFails
	}
	answers, err := s.Snapshot.Check(ctx, queries)
	if fails && err == nil && len(answers) > 0 {
		answers[len(answers)-1] = authz.Answer{Outcome: authz.Failed, Err: errFails}
	}
	return answers, err
}

// Subjects is authz.Snapshot's.
func (s *failingSnapshot) Subjects(
	ctx context.Context, resource authz.Object, permission, subjectType string, given map[string]any, limit int,
) ([]authz.SubjectAnswer, error) {
	if s.of.fails() {
		return nil, errFails
	}
	return s.Snapshot.Subjects(ctx, resource, permission, subjectType, given, limit)
}

// Resources is authz.Snapshot's.
func (s *failingSnapshot) Resources(ctx context.Context, r authz.Reachable, limit int, cursor string) ([]authz.Resource, string, error) {
	if s.of.fails() {
		return nil, "", errFails
	}
	return s.Snapshot.Resources(ctx, r, limit, cursor)
}

// TestAnEngineThatFailsRefusesNobody: at whatever call the engine fails, a decision, a filter, a lookup and a reach end with its error, or have it in the place
// of the answer. What they tell besides is what they tell of an engine that does not fail: no failure is taken for a refusal, or for nothing more.
func TestAnEngineThatFailsRefusesNobody(t *testing.T) {
	graph, d := largeCrowd(t)
	alice, _ := authz.NewPrincipal(authz.Object{Type: authz.TypeUser, ID: "alice"})
	rels := slices.Concat(reaching(authz.Object{Type: authz.TypeUser, ID: "dave"}), []authz.Relationship{rel("document:bare", "reader", "user:alice")})
	var ids []string
	for i := range 3 {
		id := fmt.Sprintf("document:d%d", i)
		ids = append(ids, fmt.Sprintf("d%d", i))
		rels = append(rels, rel(id, "tenant", "tenant:acme"), rel(id, "reader", "agent:bot"))
		if i != 1 {
			rels = append(rels, rel(id, "reader", "user:alice"))
		}
	}
	touch(t, graph, rels...)
	// A part, so that who grants is a question for the engine too.
	if _, _, err := d.Create(t.Context(), delegate.Spec{
		Agent: "bot", Principal: authz.Subject{Object: alice.Object}, Tenant: "acme", GrantedBy: alice.Object, Unscoped: true, AllowDirect: true, TTL: time.Hour,
	}); err != nil {
		t.Fatal(err)
	}
	c := authz.Case{Agent: "bot", Principal: alice, Tenant: "acme", Resource: authz.Object{Type: "document", ID: "plan"}, Permission: "view"}
	// What each tells, a line for each answer; a failure in the place of an answer is a line that says so.
	line := func(what string, answer any, err error) string {
		if err != nil {
			return what + ": " + err.Error()
		}
		return fmt.Sprintf("%s: %v", what, answer)
	}
	for name, ask := range map[string]func(j *Judge, tell func(string)) error{
		"a decision": func(j *Judge, tell func(string)) error {
			for _, id := range append(ids, "plan") {
				c.Resource.ID = id
				results, _, err := j.Decide(t.Context(), By{Within: authz.Unbounded()}, Questions(c), authz.Freshness{}, false)
				if err != nil {
					return err
				}
				tell(line(id, results[0].Decision.Permissionship, results[0].Err))
			}
			return nil
		},
		"a filter": func(j *Judge, tell func(string)) error {
			filtered, err := j.Filter(t.Context(), authz.Unbounded(), c, append(ids, "plan", "bare"), authz.Freshness{})
			for i, f := range filtered.Found {
				tell(line(fmt.Sprint(i), f.Permissionship, f.Err))
			}
			return err
		},
		"a lookup of objects": func(j *Judge, tell func(string)) error {
			_, err := j.Resources(t.Context(), authz.Unbounded(), c, authz.Freshness{}, Place{}, 1000, func(r Reached) error {
				tell(line(fmt.Sprint(r.Delegation, r.Resource.ID), r.Permissionship, r.Err))
				return nil
			})
			return err
		},
		"a lookup of agents": func(j *Judge, tell func(string)) error {
			_, err := j.Agents(t.Context(), authz.Unbounded(), planCase, authz.Freshness{}, Place{}, 1000, func(r Reacher) error {
				tell(line(fmt.Sprint(r.Candidate.Chain, r.Candidate.Principal), r.Candidate.Permissionship, r.Err))
				return nil
			})
			return err
		},
		"a reach": func(j *Judge, tell func(string)) error {
			party := ""
			_, err := j.Reach(t.Context(), authz.Unbounded(), &ReachQuery{Agent: "bot", Moment: time.Now()}, ReachPlace{}, ReachTo{
				Party: func(p *Party) error {
					party = fmt.Sprint(p.Chain, p.Principal)
					tell(line(party, p.RefusedBy, nil))
					return nil
				},
				Object: func(o *ReachedObject) error {
					tell(line(party+o.Resource.ID+o.Permission, o.Permissionship, o.Err))
					return nil
				},
				Count: func(c *ReachCount) error { tell(line(party+c.Type+c.Permission, c.Has, nil)); return nil },
			})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			var whole []string
			sound := &failing{Graph: graph.Graph}
			if err := ask(New(sound, nil, time.Now), func(l string) { whole = append(whole, l) }); err != nil || len(whole) < 2 {
				t.Fatalf("without a failure: %v, %v", whole, err)
			}
			failed := 0
			for _, alone := range []bool{false, true} {
				for at := int64(1); ; at++ {
					broken := &failing{Graph: graph.Graph, at: at, alone: alone}
					var told []string
					err := ask(New(broken, nil, time.Now), func(l string) { told = append(told, l) })
					if broken.calls.Load() < at {
						break
					}
					marked := 0
					for i, l := range told {
						switch fails := l == line(l[:max(len(l)-len(errFails.Error())-2, 0)], nil, errFails); {
						case fails:
							marked++
						case i >= len(whole) || l != whole[i]:
							t.Errorf("where call %d fails, alone %t, it tells\n%q, want\n%q as far as it is known", at, alone, told, whole)
						}
					}
					// Where one check alone fails, it may be one that nothing depends on.
					harmless := alone && slices.Equal(told, whole)
					if err == nil && (marked == 0 && !harmless || len(told) != len(whole)) {
						t.Errorf("where call %d fails, alone %t, it tells %q without an error", at, alone, told)
					}
					if err != nil || marked > 0 {
						failed++
					}
				}
			}
			if failed < 4 {
				t.Errorf("no more than %d calls could fail", failed)
			}
		})
	}
}
