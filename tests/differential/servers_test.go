package differential

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	core "github.com/authzed/spicedb/pkg/proto/core/v1"
	"github.com/authzed/spicedb/pkg/schemadsl/compiler"
	"github.com/authzed/spicedb/pkg/schemadsl/input"
	"github.com/authzed/spicedb/pkg/tuple"
	"google.golang.org/grpc/codes"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/daemon"
	"github.com/deputyauth/deputy/pkg/evaluate"
	shipped "github.com/deputyauth/deputy/schema"
	"github.com/deputyauth/deputy/tests/harness"
)

// servers are one that follows, and one beside it that does not: what the authority holds is read through that one, and SpiceDB answers there.
type servers struct {
	follower, authority *harness.Server
	// graph is what the follower decides over.
	graph authz.Graph
	// misreads says that SpiceDB reads some shapes of schemas wrongly there; see spicedbMisreads.
	misreads bool
	// versions are the schemas that were written. Each has a type that is named after its place here.
	versions []version
}

// version is a schema that was written.
type version struct {
	// text is without the core.
	text     string
	compiled *compiler.CompiledSchema
}

// followedServers are the kinds of servers that follow, each with the one that it is held against.
var followedServers = map[string]func(*testing.T) *servers{
	"postgres-follow": func(t *testing.T) *servers {
		t.Helper()
		cfg := harness.Followed(t)
		return startServers(t, harness.Start(t, daemon.Config{Engine: cfg.Engine}), cfg, true)
	},
	"deputy-follow": func(t *testing.T) *servers {
		t.Helper()
		primary := harness.Start(t, daemon.Config{Engine: harness.Embedded(t), Callers: harness.Followers(), Evaluator: daemon.EvaluatorSpiceDB})
		return startServers(t, primary, harness.Following(t, primary.Addr().String()), false)
	},
}

func startServers(t *testing.T, authority *harness.Server, cfg daemon.Config, misreads bool) *servers {
	t.Helper()
	s := &servers{authority: authority, misreads: misreads}
	cfg.JudgeOver = func(g authz.Graph) authz.Graph {
		s.graph = g
		return g
	}
	s.follower = harness.StartCopy(t, cfg)
	return s
}

// person is what the worlds' type user is called here: Deputy's core has a user of its own.
const person = "person"

var (
	worldsUser = regexp.MustCompile(`\buser\b`)
	directive  = regexp.MustCompile(`(?m)^use \w+$`)
)

func renamed(o tuple.ObjectAndRelation) tuple.ObjectAndRelation {
	if o.ObjectType == "user" {
		o.ObjectType = person
	}
	return o
}

// versionType begins the name of the type that says which schema it is.
const versionType = "version"

// define writes a world's schema beside the core.
func (s *servers) define(ctx context.Context, drawn *schema) error {
	own := worldsUser.ReplaceAllString(drawn.String(), person)
	text := "use expiration\nuse self\n" + directive.ReplaceAllString(shipped.Core+own, "") + fmt.Sprintf("definition %s%d {}\n", versionType, len(s.versions))
	compiled, err := compiler.Compile(compiler.InputSchema{Source: input.Source("schema"), SchemaString: text}, compiler.AllowUnprefixedObjectType())
	if err != nil {
		return fmt.Errorf("compile: %w", err)
	}
	s.versions = append(s.versions, version{own, compiled})
	_, err = v1.NewSchemaServiceClient(s.authority.Admin).WriteSchema(ctx, &v1.WriteSchemaRequest{Schema: text})
	return err
}

// settle writes those of a world's relationships that the server takes, and returns them.
func (s *servers) settle(t *testing.T, rows []tuple.Relationship) []tuple.Relationship {
	t.Helper()
	var taken []tuple.Relationship
	for _, rel := range rows {
		rel.Resource, rel.Subject = renamed(rel.Resource), renamed(rel.Subject)
		if s.write(t.Context(), s.authority, tuple.Touch(rel)) == nil {
			taken = append(taken, rel)
		}
	}
	return taken
}

// write writes through a server.
func (s *servers) write(ctx context.Context, through *harness.Server, updates ...tuple.RelationshipUpdate) error {
	req := &v1.WriteRelationshipsRequest{}
	for _, u := range updates {
		update, err := tuple.UpdateToV1RelationshipUpdate(u)
		if err != nil {
			return err
		}
		req.Updates = append(req.Updates, update)
	}
	_, err := v1.NewPermissionsServiceClient(through.Admin).WriteRelationships(ctx, req)
	return err
}

// edition is what the authority says, through the server that does not follow, that it holds at a revision.
func (s *servers) edition(ctx context.Context, revision authz.Revision) (*edition, error) {
	e := &edition{token: &v1.ZedToken{Token: revision.ZedToken()}}
	exactly := &v1.Consistency{Requirement: &v1.Consistency_AtExactSnapshot{AtExactSnapshot: e.token}}
	reflected, err := v1.NewSchemaServiceClient(s.authority.Admin).ReflectSchema(ctx, &v1.ReflectSchemaRequest{Consistency: exactly})
	if err != nil {
		return nil, err
	}
	for _, d := range reflected.GetDefinitions() {
		if number, ok := strings.CutPrefix(d.GetName(), versionType); ok {
			i, err := strconv.Atoi(number)
			if err != nil {
				return nil, err
			}
			e.text, e.compiled = s.versions[i].text, s.versions[i].compiled
		}
	}
	if e.compiled == nil {
		return nil, errors.New("the schema at the revision is none that was written")
	}
	stream, err := v1.NewPermissionsServiceClient(s.authority.Admin).ExportBulkRelationships(ctx, &v1.ExportBulkRelationshipsRequest{Consistency: exactly})
	if err != nil {
		return nil, err
	}
	for {
		part, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		for _, rel := range part.GetRelationships() {
			e.rows = append(e.rows, tuple.FromV1Relationship(rel))
		}
	}
	e.reference = NewReference(e.compiled, e.rows, time.Now())
	return e, nil
}

// ofGraph puts what a graph answers into the words of the reference. A graph's errors have words of their own: that it fails where the reference does is
// all that is compared.
func ofGraph(a authz.Answer, want Verdict) Answer {
	answer := Answer{Outcome: a.Outcome}
	switch {
	case a.Outcome == authz.Conditional:
		answer.Missing = joined(a.Missing)
	case a.Outcome == authz.Failed && want.Outcome == authz.Failed:
		return want.Answer
	case a.Outcome == authz.Failed:
		answer.Code = codes.Unknown
	}
	return answer
}

// try asks the follower about the authority's head, and compares.
func (s *servers) try(ctx context.Context, w *world, revisions map[string]bool, count *tally) error {
	snap, err := s.graph.Snapshot(ctx, authz.Freshness{})
	if err != nil {
		return err
	}
	revisions[snap.Revision().Token] = true
	e, err := s.edition(ctx, snap.Revision())
	if err != nil {
		return err
	}
	questions := w.questions(e, 200)
	queries := make([]authz.Query, len(questions))
	for i, q := range questions {
		questions[i].resource, questions[i].subject = renamed(q.resource), renamed(q.subject)
		queries[i] = evaluate.Check{Resource: questions[i].resource, Subject: questions[i].subject, Context: q.context}.Query()
	}
	answers, err := snap.Check(ctx, queries)
	if err != nil {
		return err
	}
	spicedb := v1.NewPermissionsServiceClient(s.authority.Admin)
	asked, misreads := 0, s.misreads && spicedbMisreads(w.typesOf(e.compiled))
	for i, a := range answers {
		q := questions[i]
		want := e.reference.Check(q.resource, q.subject, q.context)
		got := ofGraph(a, want)
		who := "the follower"
		if a.Err != nil {
			who += fmt.Sprintf(", whose graph says %q,", a.Err)
		}
		count.add(fits(want, got), difference{who: who, q: q, want: want, got: got, edition: e, seed: w.seed}, &count.native)
		// As in TestFollowed.
		if misreads || want.Trouble != 0 || want.Pooled || asked == 15 || isPlain(want) && i%20 != 0 {
			continue
		}
		asked++
		var theirs Answer
		for range patience {
			if theirs = e.ask(spicedb, q); theirs.Code == slow || fits(Verdict{Answer: theirs}, got) == same {
				break
			}
		}
		if theirs.Code == slow {
			continue
		}
		count.add(fits(Verdict{Answer: theirs}, got), difference{
			who: who + " beside SpiceDB on the authority", q: q, want: want, got: got, spicedb: theirs.String(), edition: e, seed: w.seed,
		}, &count.spicedb)
	}
	return nil
}

// beside asks the follower about one world in some rounds, while the world is written through the follower and through the other server. It returns how
// many writes were acknowledged.
func (s *servers) beside(t *testing.T, w *world, rows []tuple.Relationship, rounds int, revisions map[string]bool, count *tally) int {
	t.Helper()
	life, end := context.WithCancel(t.Context())
	var writers sync.WaitGroup
	var writes atomic.Int64
	defer writers.Wait()
	defer end()
	for n, through := range []*harness.Server{s.authority, s.follower} {
		writers.Go(func() {
			r := rand.New(rand.NewPCG(w.seed, uint64(n)))
			for life.Err() == nil {
				var updates []tuple.RelationshipUpdate
				named := map[string]bool{}
				for _, i := range r.Perm(len(rows))[:min(1+r.IntN(5), len(rows))] {
					key := tuple.StringWithoutCaveatOrExpiration(rows[i])
					if named[key] {
						continue // one write names a relationship once
					}
					named[key] = true
					if updates = append(updates, tuple.Touch(rows[i])); r.IntN(2) == 0 {
						updates[len(updates)-1] = tuple.Delete(rows[i])
					}
				}
				if err := s.write(life, through, updates...); err == nil {
					writes.Add(1)
				} else if life.Err() == nil {
					t.Errorf("seed %d: %v", w.seed, err)
					return
				}
			}
		})
	}
	for round := range rounds {
		if round == rounds/2 { // the schema changes too
			for _, drawn := range w.schema.types[1:] {
				w.artist.permit(drawn)
			}
			if err := s.define(t.Context(), w.schema); err != nil {
				t.Logf("seed %d: the other schema is refused: %v", w.seed, err)
				count.refused++
			}
		}
		if err := s.try(t.Context(), w, revisions, count); err != nil {
			t.Fatalf("seed %d: %v", w.seed, err)
		}
	}
	return int(writes.Load())
}

// typesOf are a world's own types in a schema.
func (w *world) typesOf(s *compiler.CompiledSchema) (own []*core.NamespaceDefinition) {
	for _, of := range w.schema.types {
		for _, d := range s.ObjectDefinitions {
			if d.GetName() == worldsUser.ReplaceAllString(of.name, person) {
				own = append(own, d)
			}
		}
	}
	return own
}

// clear deletes a world's relationships.
func (s *servers) clear(ctx context.Context, w *world) error {
	for _, of := range w.schema.types {
		if len(of.relations) == 0 {
			continue
		}
		if _, err := v1.NewPermissionsServiceClient(s.authority.Admin).DeleteRelationships(ctx, &v1.DeleteRelationshipsRequest{
			RelationshipFilter: &v1.RelationshipFilter{ResourceType: worldsUser.ReplaceAllString(of.name, person)},
		}); err != nil {
			return err
		}
	}
	return nil
}

// TestServersFollowed asks servers that follow a database, and another Deputy, while relationships are written through them and through a server beside
// them that does not follow, and the schema changes. At the revision of each answer that other server, whose engine is the authority's own, is asked for
// the schema and for all relationships: what the reference says of those, and what SpiceDB says there, the follower has to have said. The copy has to
// have answered each time, and not the authority.
//
// The worlds are those of TestFollowed, without the relationships that a server refuses, and without those that are too deep. In make test it tries few
// of them; DEPUTY_FOLLOW_WORLDS has it try more, as make soak does.
func TestServersFollowed(t *testing.T) {
	worlds, rounds := uint64(8), 8
	number(t, "DEPUTY_FOLLOW_WORLDS", &worlds)
	for kind, start := range followedServers {
		t.Run(kind, func(t *testing.T) {
			s := start(t)
			count := &tally{}
			revisions, writes := map[string]bool{}, 0
			byCopy, byAuthority := s.follower.States(t) // until there was a copy the authority answered
			for seed := uint64(1); seed <= worlds && len(count.differences) == 0; seed++ {
				w := drawWorld(seed, time.Now())
				if w.deep {
					continue // how deep it may go depends on notes in the stored schema, which no server shows
				}
				if err := s.define(t.Context(), w.schema); err != nil {
					count.refused++
					continue
				}
				count.worlds++
				w.subjects = 6
				writes += s.beside(t, w, s.settle(t, w.rows), rounds, revisions, count)
				if err := s.clear(t.Context(), w); err != nil {
					t.Fatal(err)
				}
			}
			copied, beyond := s.follower.States(t)
			copied, beyond = copied-byCopy, beyond-byAuthority
			t.Logf("followed: %d writes were acknowledged meanwhile; %d revisions were asked about, %d checks, %d also of SpiceDB, %d differences; %d worlds (and %d schemas refused); "+
				"the copy answered %.0f states, and the authority %.0f",
				writes, len(revisions), count.native, count.spicedb, len(count.differences), count.worlds, count.refused, copied, beyond)
			if len(revisions) < count.worlds*rounds/2 || count.worlds < int(worlds)/2 {
				t.Errorf("only %d revisions of %d worlds were asked about: nobody wrote", len(revisions), count.worlds)
			}
			if count.spicedb == 0 {
				t.Error("SpiceDB was not asked")
			}
			if int(copied) < len(revisions) || beyond > 0 {
				t.Errorf("the copy answered %.0f states, and the authority %.0f", copied, beyond)
			}
			report(t, count.differences)
		})
	}
}
