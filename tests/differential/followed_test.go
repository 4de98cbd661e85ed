package differential

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	dscfg "github.com/authzed/spicedb/pkg/cmd/datastore"
	"github.com/authzed/spicedb/pkg/datalayer"
	"github.com/authzed/spicedb/pkg/datastore"
	core "github.com/authzed/spicedb/pkg/proto/core/v1"
	"github.com/authzed/spicedb/pkg/schemadsl/compiler"
	"github.com/authzed/spicedb/pkg/schemadsl/input"
	"github.com/authzed/spicedb/pkg/tuple"
	"github.com/authzed/spicedb/pkg/zedtoken"
	"github.com/cockroachdb/pebble/v2/vfs"
	"google.golang.org/grpc"

	"github.com/deputyauth/deputy/pkg/evaluate"
	"github.com/deputyauth/deputy/pkg/evaluate/kept"
	"github.com/deputyauth/deputy/pkg/follow"
	"github.com/deputyauth/deputy/pkg/follow/deputy"
	"github.com/deputyauth/deputy/pkg/follow/postgres"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/pkg/store"
	"github.com/deputyauth/deputy/tests/harness"
)

// authority is what a copy follows: where others write, and where it is read what is true.
type authority struct {
	follow.Authority

	// theirs is the authority's own store. What it shows at a revision is read with SpiceDB's reader, and not with what a copy is fed by.
	theirs datastore.Datastore
	// misreads says that SpiceDB reads some shapes of schemas wrongly there; see spicedbMisreads.
	misreads bool
}

// authorities are the kinds of authority that a copy can follow.
var authorities = map[string]func(*testing.T) authority{"postgres": aDatabase, "deputy": aDeputy}

// aDatabase is a fresh PostgreSQL database with SpiceDB's tables.
func aDatabase(t *testing.T) authority {
	t.Helper()
	uri := harness.Postgres(t).URI
	theirs, err := dscfg.NewDatastore(context.Background(), dscfg.WithEngine(dscfg.PostgresEngine), dscfg.WithURI(uri),
		dscfg.WithEnableDatastoreMetrics(false), dscfg.WithGCWindow(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = theirs.Close() }) // SpiceDB's server may have closed it
	followed, err := postgres.Open(t.Context(), postgres.Config{URI: uri, Window: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(followed.Close)
	return authority{Authority: followed, theirs: theirs, misreads: true}
}

// aDeputy is a fresh store of a Deputy server, with the service that answers those who follow it.
func aDeputy(t *testing.T) authority {
	t.Helper()
	theirs, err := store.Open("store", inMemory())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := theirs.Close(); err != nil {
			t.Error(err)
		}
	})
	service, err := deputy.NewServer(t.Context(), theirs)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	deputyv1.RegisterFollowServiceServer(server, service)
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	followed, err := deputy.Open(t.Context(), harness.Dial(t, listener.Addr().String(), ""))
	if err != nil {
		t.Fatal(err)
	}
	return authority{Authority: followed, theirs: theirs}
}

// inMemory is a store in memory that collects nothing in the time of a test.
func inMemory() store.Config {
	return store.Config{
		FS: vfs.NewMem(), CacheBytes: 1 << 20, MemTableBytes: 1 << 20, DiskReserve: 1, Unsynced: true, CollectEvery: time.Hour,
	}
}

// followedDesk is an authority that is written to, SpiceDB over it, and a copy that follows it.
type followedDesk struct {
	authority

	server   v1.PermissionsServiceClient
	follower *follow.Follower
}

func openFollowedDesk(t *testing.T, followed authority) *followedDesk {
	t.Helper()
	conn, stop, err := harness.SpiceDB(followed.theirs)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = stop() })
	d := &followedDesk{authority: followed, server: v1.NewPermissionsServiceClient(conn)}
	d.follower, err = follow.Open(follow.Config{Dir: "copies", Store: inMemory()}, followed.Authority)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.follower.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// define writes a schema, past SpiceDB's validation, as the rows are.
func (d *followedDesk) define(text string) error {
	compiled, err := compiler.Compile(compiler.InputSchema{Source: input.Source("schema"), SchemaString: text}, compiler.AllowUnprefixedObjectType())
	if err != nil {
		return fmt.Errorf("compile: %w", err)
	}
	_, err = d.theirs.ReadWriteTx(context.Background(), func(ctx context.Context, tx datastore.ReadWriteTransaction) error {
		if err := tx.LegacyWriteCaveats(ctx, compiled.CaveatDefinitions); err != nil {
			return err
		}
		return tx.LegacyWriteNamespaces(ctx, compiled.ObjectDefinitions...)
	})
	return err
}

// writeOn writes and deletes relationships of a world, a few at a time, until ctx ends.
func (d *followedDesk) writeOn(ctx context.Context, r *rand.Rand, rows []tuple.Relationship) (transactions int, err error) {
	for ctx.Err() == nil {
		var updates []tuple.RelationshipUpdate
		for _, i := range r.Perm(len(rows))[:min(1+r.IntN(5), len(rows))] {
			if updates = append(updates, tuple.Touch(rows[i])); r.IntN(2) == 0 {
				updates[len(updates)-1] = tuple.Delete(rows[i])
			}
		}
		_, err := d.theirs.ReadWriteTx(ctx, func(ctx context.Context, tx datastore.ReadWriteTransaction) error {
			return tx.WriteRelationships(ctx, updates)
		})
		if err != nil && ctx.Err() == nil {
			return transactions, err
		}
		transactions++
	}
	return transactions, nil
}

// edition is what the authority itself says that it holds at a position.
func (d *followedDesk) edition(ctx context.Context, at follow.Position) (*edition, error) {
	printed, err := d.Revision(at)
	if err != nil {
		return nil, err
	}
	printed, _, _ = strings.Cut(printed, "@") // a Deputy's is printed with its store's id
	revision, err := d.theirs.RevisionFromString(printed)
	if err != nil {
		return nil, err
	}
	token, err := zedtoken.NewFromRevision(ctx, revision, datalayer.NoSchemaHashInLegacyMode, d.theirs)
	if err != nil {
		return nil, err
	}
	reader := d.theirs.SnapshotReader(revision)
	types, err := reader.LegacyListAllNamespaces(ctx)
	if err != nil {
		return nil, err
	}
	caveats, err := reader.LegacyListAllCaveats(ctx)
	if err != nil {
		return nil, err
	}
	compiled := &compiler.CompiledSchema{}
	for _, c := range caveats {
		compiled.CaveatDefinitions = append(compiled.CaveatDefinitions, c.Definition)
	}
	var rows []tuple.Relationship
	for _, t := range types {
		compiled.ObjectDefinitions = append(compiled.ObjectDefinitions, t.Definition)
	}
	for _, t := range compiled.ObjectDefinitions {
		found, err := rowsOf(ctx, reader, t)
		if err != nil {
			return nil, err
		}
		rows = append(rows, found...)
	}
	return &edition{token: token, rows: rows, compiled: compiled, reference: NewReference(compiled, rows, time.Now())}, nil
}

func rowsOf(ctx context.Context, reader datastore.Reader, of *core.NamespaceDefinition) (rows []tuple.Relationship, err error) {
	found, err := reader.QueryRelationships(ctx, datastore.RelationshipsFilter{OptionalResourceType: of.GetName()})
	if err != nil {
		return nil, err
	}
	for rel, err := range found {
		if err != nil {
			return nil, err
		}
		rows = append(rows, rel)
	}
	return rows, nil
}

// TestFollowed asks a copy that follows an authority, of each kind, while others write to the authority all the time, and its schema changes. At the
// revision of each answer the authority itself is read, by SpiceDB's own reader: what the reference says of that, and what SpiceDB says, the copy has to
// have said. It is the copy that is asked: nothing else could answer.
//
// In make test it tries few worlds; DEPUTY_FOLLOW_WORLDS has it try more, as make soak does. TestServersFollowed does the same through servers.
func TestFollowed(t *testing.T) {
	worlds, rounds := uint64(8), 12
	number(t, "DEPUTY_FOLLOW_WORLDS", &worlds)
	for kind, open := range authorities {
		t.Run(kind, func(t *testing.T) {
			count := &tally{}
			states, transactions := map[string]bool{}, 0
			for first := uint64(1); first <= worlds; first += worldsPerDesk {
				t.Run(fmt.Sprintf("from seed %d on", first), func(t *testing.T) {
					d := openFollowedDesk(t, open(t))
					for seed := first; seed < min(first+worldsPerDesk, worlds+1) && len(count.differences) == 0; seed++ {
						w := drawWorld(seed, time.Now())
						if err := d.define(w.schema.String()); err != nil {
							count.refused++
							continue
						}
						count.worlds++
						w.subjects = 6
						transactions += d.beside(t, w, rounds, states, count)
						if err := d.clear(t.Context()); err != nil {
							t.Fatal(err)
						}
					}
				})
			}
			t.Logf("followed: %d transactions were written meanwhile; %d states of the authority were asked about, %d checks, %d also of SpiceDB, %d differences; %d worlds",
				transactions, len(states), count.native, count.spicedb, len(count.differences), count.worlds)
			if len(states) < int(worlds)*rounds/2 {
				t.Errorf("only %d states were asked about: nobody wrote", len(states))
			}
			if count.spicedb == 0 {
				t.Error("SpiceDB was not asked")
			}
			report(t, count.differences)
		})
	}
}

// beside asks the copy about one world in some rounds, beside those who write it, and returns how many transactions they committed.
func (d *followedDesk) beside(t *testing.T, w *world, rounds int, states map[string]bool, count *tally) int {
	t.Helper()
	life, end := context.WithCancel(t.Context())
	var writers sync.WaitGroup
	var transactions atomic.Int64
	defer writers.Wait()
	defer end()
	for n := range 2 {
		writers.Go(func() {
			did, err := d.writeOn(life, rand.New(rand.NewPCG(w.seed, uint64(n))), w.rows)
			if err != nil {
				t.Error(err)
			}
			transactions.Add(int64(did))
		})
	}
	for round := range rounds {
		if round == rounds/2 && !w.deep { // the schema changes too
			for _, drawn := range w.schema.types[1:] {
				w.artist.permit(drawn)
			}
			if err := d.define(w.schema.String()); err != nil {
				t.Fatal(err)
			}
		}
		if err := d.tryFollowed(t.Context(), w, states, count); err != nil {
			t.Fatalf("seed %d: %v", w.seed, err)
		}
	}
	end()
	writers.Wait()
	return int(transactions.Load())
}

// clear deletes all relationships, also those that have expired, which no reader shows: SpiceDB would count them under the next schema where that has no
// expirations in their relations.
func (d *followedDesk) clear(ctx context.Context) error {
	_, err := d.theirs.ReadWriteTx(ctx, func(ctx context.Context, tx datastore.ReadWriteTransaction) error {
		types, err := tx.LegacyListAllNamespaces(ctx)
		if err != nil {
			return err
		}
		for _, t := range types {
			if _, _, err := tx.DeleteRelationships(ctx, &v1.RelationshipFilter{ResourceType: t.Definition.GetName()}); err != nil {
				return err
			}
		}
		return nil
	})
	return err
}

// tryFollowed brings the copy to the head, asks it, and compares.
func (d *followedDesk) tryFollowed(ctx context.Context, w *world, states map[string]bool, count *tally) error {
	reached, err := d.follower.Follow(ctx)
	if err != nil {
		return err
	}
	defer reached.Release()
	states[reached.Position.State] = true
	e, err := d.edition(ctx, reached.Position)
	if err != nil {
		return err
	}
	at, err := kept.New(reached.Store).At(reached.Local)
	if err != nil {
		return err
	}
	defer at.Close()
	questions := w.questions(e, 200)
	checks := make([]evaluate.Check, len(questions))
	for i, q := range questions {
		checks[i] = evaluate.Check{Resource: q.resource, Subject: q.subject, Context: q.context}
	}
	asked, misreads := 0, d.misreads && spicedbMisreads(e.compiled.ObjectDefinitions)
	for i, a := range at.Check(ctx, checks) {
		q, got := questions[i], answerOf(a)
		want := e.reference.Check(q.resource, q.subject, q.context)
		count.add(fits(want, got), difference{who: "the copy", q: q, want: want, got: got, edition: e, seed: w.seed}, &count.native)
		// SpiceDB is right where it mixes nothing; see judge_test.go.
		if misreads || want.Trouble != 0 || want.Pooled || asked == 15 || isPlain(want) && i%20 != 0 {
			continue
		}
		asked++
		// Its whole server shares calls in flight, and may be right only when it is asked again.
		var theirs Answer
		for range patience {
			if theirs = e.ask(d.server, q); theirs.Code == slow || fits(Verdict{Answer: theirs}, got) == same {
				break
			}
		}
		if theirs.Code == slow {
			continue
		}
		count.add(fits(Verdict{Answer: theirs}, got), difference{
			who: "the copy, and SpiceDB on the authority", q: q, want: want, got: got, spicedb: theirs.String(), edition: e, seed: w.seed,
		}, &count.spicedb)
	}
	return nil
}

// spicedbMisreads reports whether a relation admits a kind of subject under a caveat or with an expiration, and beside it a userset of the same type.
// Over SQL, SpiceDB v1.56.2 miscounts the kinds that are under no caveat there (internal/graph/check.go, checkDirect) and reads the rows without theirs.
// Deputy refuses such a schema (guard.UnsafeGrant).
func spicedbMisreads(types []*core.NamespaceDefinition) bool {
	for _, t := range types {
		for _, r := range t.GetRelation() {
			limited, usersets := map[string]bool{}, map[string]bool{}
			for _, a := range r.GetTypeInformation().GetAllowedDirectRelations() {
				limited[a.GetNamespace()] = limited[a.GetNamespace()] || a.GetRequiredCaveat() != nil || a.GetRequiredExpiration() != nil
				usersets[a.GetNamespace()] = usersets[a.GetNamespace()] || a.GetRelation() != "" && a.GetRelation() != tuple.Ellipsis
			}
			for of := range limited {
				if limited[of] && usersets[of] {
					return true
				}
			}
		}
	}
	return false
}
