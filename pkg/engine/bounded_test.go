package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	dscfg "github.com/authzed/spicedb/pkg/cmd/datastore"
	"github.com/authzed/spicedb/pkg/datastore"
	"github.com/authzed/spicedb/pkg/datastore/options"
	"github.com/authzed/spicedb/pkg/tuple"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/store"
)

// loops is the schema of the two relationships in a circle, and of the ladder.
const loops = `definition person {}

definition doc {
	relation editor: person | doc#viewer
	relation direct: doc#editor | doc#viewer
	permission viewer = direct + editor
}`

// circle leads in a circle, of which a walk that branches knows no end.
var circle = []string{"doc:1#editor@doc:1#viewer", "doc:1#direct@doc:1#editor"}

// ladder has twice as many ways on each rung.
func ladder(rungs int) (relationships []string) {
	for i := range rungs {
		relationships = append(relationships,
			fmt.Sprintf("doc:%d#editor@doc:%d#viewer", i, i+1), fmt.Sprintf("doc:%d#direct@doc:%d#viewer", i, i+1))
	}
	return append(relationships, fmt.Sprintf("doc:%d#editor@person:ann", rungs))
}

// memory is a datastore in memory that is asked through between, if that is not nil.
func memory(t *testing.T, between func(datastore.Datastore) datastore.Datastore) datastore.Datastore {
	t.Helper()
	ds, err := dscfg.NewDatastore(context.Background(), dscfg.WithEngine(dscfg.MemoryEngine),
		dscfg.WithGCWindow(24*time.Hour), dscfg.WithEnableDatastoreMetrics(false))
	if err != nil {
		t.Fatal(err)
	}
	if between != nil {
		ds = between(ds)
	}
	return ds
}

// openOver opens an engine with bounds of the test's over a datastore, with relationships of the schema loops.
func openOver(t *testing.T, cfg Config, ds datastore.Datastore, limits bounds, relationships ...string) *Engine {
	t.Helper()
	e := openWithout(t, cfg, ds, limits, relationships...)
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	return e
}

// openWithout is openOver for an engine that the test closes.
func openWithout(t *testing.T, cfg Config, ds datastore.Datastore, limits bounds, relationships ...string) *Engine {
	t.Helper()
	e, err := over(t.Context(), cfg, ds, limits)
	if err != nil {
		t.Fatal(err)
	}
	fill(t, e, loops, relationships...)
	return e
}

// fill writes a schema and relationships.
func fill(t *testing.T, e *Engine, text string, relationships ...string) {
	t.Helper()
	if _, err := v1.NewSchemaServiceClient(e.Conn()).WriteSchema(t.Context(), &v1.WriteSchemaRequest{Schema: text}); err != nil {
		t.Fatal(err)
	}
	for some := range slices.Chunk(relationships, 1000) {
		req := &v1.WriteRelationshipsRequest{}
		for _, r := range some {
			req.Updates = append(req.Updates, &v1.RelationshipUpdate{
				Operation: v1.RelationshipUpdate_OPERATION_TOUCH, Relationship: tuple.MustParseV1Rel(r),
			})
		}
		if _, err := v1.NewPermissionsServiceClient(e.Conn()).WriteRelationships(t.Context(), req); err != nil {
			t.Fatal(err)
		}
	}
}

var atHead = &v1.Consistency{Requirement: &v1.Consistency_FullyConsistent{FullyConsistent: true}}

// lookups are the two lookups, from one end of the circle or the ladder. Each returns how it ended.
var lookups = map[string]func(context.Context, *grpc.ClientConn) error{
	"LookupSubjects": func(ctx context.Context, conn *grpc.ClientConn) error {
		stream, err := v1.NewPermissionsServiceClient(conn).LookupSubjects(ctx, &v1.LookupSubjectsRequest{
			Consistency: atHead, Resource: &v1.ObjectReference{ObjectType: "doc", ObjectId: "0"},
			Permission: "viewer", SubjectObjectType: "person",
		})
		return toTheEnd(stream, err)
	},
	"LookupResources": func(ctx context.Context, conn *grpc.ClientConn) error {
		stream, err := v1.NewPermissionsServiceClient(conn).LookupResources(ctx, &v1.LookupResourcesRequest{
			Consistency: atHead, ResourceObjectType: "doc", Permission: "viewer",
			Subject: &v1.SubjectReference{Object: &v1.ObjectReference{ObjectType: "person", ObjectId: "ann"}},
		})
		return toTheEnd(stream, err)
	},
}

func toTheEnd[M any](stream grpc.ServerStreamingClient[M], err error) error {
	for err == nil {
		_, err = stream.Recv()
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// eventually waits until a condition holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !holds() {
		if time.Now().After(deadline) {
			t.Fatalf("after 30 s: %s", what)
		}
		runtime.Gosched()
		<-time.After(5 * time.Millisecond)
	}
}

// A lookup that leads in a circle ends by itself, before it takes the machine.
func TestLookupInACircleEnds(t *testing.T) {
	relationships := append([]string{"doc:1#editor@person:ann", "doc:0#editor@doc:1#viewer"}, circle...)
	for name, lookup := range lookups {
		t.Run(name, func(t *testing.T) {
			e := openOver(t, Config{Kind: Memory}, memory(t, nil), usual, relationships...)
			before := runtime.NumGoroutine()
			most := watchGoroutines(t)
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			if err := lookup(ctx, e.Conn()); status.Code(err) != codes.FailedPrecondition {
				t.Errorf("%v, want that the walk is too deep", err)
			}
			if n := most(); n > before+500 {
				t.Errorf("%d goroutines for one lookup", n-before)
			}
		})
	}
}

// watchGoroutines returns what returns the most goroutines that there have been.
func watchGoroutines(t *testing.T) (most func() int) {
	t.Helper()
	var high atomic.Int64
	done := make(chan struct{})
	go func() {
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				high.Store(max(high.Load(), int64(runtime.NumGoroutine())))
			}
		}
	}()
	return func() int { close(done); return int(high.Load()) }
}

// counted counts reads, and says when the first one begins.
type counted struct {
	datastore.Datastore
	reads   atomic.Int64
	started chan struct{}
}

func (c *counted) SnapshotReader(at datastore.Revision) datastore.Reader {
	return &countedReader{c.Datastore.SnapshotReader(at), c}
}

type countedReader struct {
	datastore.Reader
	of *counted
}

func (r *countedReader) count() {
	if r.of.reads.Add(1) == 100 {
		close(r.of.started)
	}
}

func (r *countedReader) QueryRelationships(
	ctx context.Context, f datastore.RelationshipsFilter, o ...options.QueryOptionsOption,
) (datastore.RelationshipIterator, error) {
	r.count()
	return r.Reader.QueryRelationships(ctx, f, o...)
}

func (r *countedReader) ReverseQueryRelationships(
	ctx context.Context, f datastore.SubjectsFilter, o ...options.ReverseQueryOptionsOption,
) (datastore.RelationshipIterator, error) {
	r.count()
	return r.Reader.ReverseQueryRelationships(ctx, f, o...)
}

// A lookup whose caller leaves ends with its caller: no goroutine of it stays, and nothing is read any more.
func TestLookupEndsWithItsCaller(t *testing.T) {
	for name, lookup := range lookups {
		t.Run(name, func(t *testing.T) {
			ds := &counted{started: make(chan struct{})}
			e := openOver(t, Config{Kind: Memory},
				memory(t, func(of datastore.Datastore) datastore.Datastore { ds.Datastore = of; return ds }), usual, ladder(22)...)
			before := runtime.NumGoroutine()
			ctx, leave := context.WithCancel(t.Context())
			left := make(chan error, 1)
			go func() { left <- lookup(ctx, e.Conn()) }()
			<-ds.started
			leave()
			if err := <-left; status.Code(err) != codes.Canceled {
				t.Fatalf("%v, want that it was cancelled", err)
			}
			eventually(t, "goroutines of the lookup are still there", func() bool { return runtime.NumGoroutine() <= before })
			if reads := ds.reads.Load(); reads >= usual.reads {
				t.Errorf("it read %d times: it ended because it read too much", reads)
			}
		})
	}
}

// What one call may read is bounded, and the error says what to do.
func TestCallReadsSoMuch(t *testing.T) {
	for name, lookup := range lookups {
		for what, limits := range map[string]bounds{
			"times":         {call: time.Minute, reads: 500, rows: 1 << 40, subjectRows: 1 << 40, ways: 1 << 40, caveats: 1 << 40, steps: 1 << 40, held: 1 << 40, links: 1 << 40},
			"relationships": {call: time.Minute, reads: 1 << 40, rows: 500, subjectRows: 500, ways: 1 << 40, caveats: 1 << 40, steps: 1 << 40, held: 1 << 40, links: 1 << 40},
		} {
			t.Run(name+"/"+what, func(t *testing.T) {
				limits.long, limits.lookups, limits.subjects, limits.turn, limits.stop = time.Minute, 1, 1, time.Second, time.Minute
				e := openOver(t, Config{Kind: Memory}, memory(t, nil), limits, ladder(16)...)
				err := lookup(t.Context(), e.Conn())
				if status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "500 "+what) {
					t.Errorf("%v, want RESOURCE_EXHAUSTED and 500 %s", err, what)
				}
				if kind := authz.KindOf(Failure("test", err)); kind != authz.Exhausted {
					t.Errorf("kind %d", kind)
				}
			})
		}
	}
}

// A call has an end also where its caller sets none.
func TestCallHasAnEnd(t *testing.T) {
	limits := usual
	limits.call = time.Second // filling the engine takes less, and the lookup much more
	for name, lookup := range lookups {
		t.Run(name, func(t *testing.T) {
			e := openOver(t, Config{Kind: Memory}, memory(t, nil), limits, ladder(22)...)
			if err := lookup(t.Context(), e.Conn()); status.Code(err) != codes.DeadlineExceeded {
				t.Errorf("%v, want DEADLINE_EXCEEDED", err)
			}
		})
	}
}

// held is a datastore that stops answering.
type held struct {
	datastore.Datastore
	on   atomic.Bool
	open chan struct{}
	// waiting counts what waits for it.
	waiting atomic.Int64
}

func (h *held) wait() {
	if h.on.Load() {
		h.waiting.Add(1)
		defer h.waiting.Add(-1)
		<-h.open
	}
}

func (h *held) Close() error {
	h.wait()
	return h.Datastore.Close()
}

func (h *held) HeadRevision(ctx context.Context) (datastore.RevisionWithSchemaHash, error) {
	h.wait()
	return h.Datastore.HeadRevision(ctx)
}

func (h *held) SnapshotReader(at datastore.Revision) datastore.Reader {
	return &heldReader{h.Datastore.SnapshotReader(at), h}
}

type heldReader struct {
	datastore.Reader
	of *held
}

// QueryRelationships stops before the first row, as SpiceDB's drivers do.
func (r *heldReader) QueryRelationships(
	ctx context.Context, f datastore.RelationshipsFilter, o ...options.QueryOptionsOption,
) (datastore.RelationshipIterator, error) {
	found, err := r.Reader.QueryRelationships(ctx, f, o...)
	return func(yield func(tuple.Relationship, error) bool) {
		r.of.wait()
		found(yield)
	}, err
}

func holdable(t *testing.T) (*held, datastore.Datastore) {
	t.Helper()
	h := &held{open: make(chan struct{})}
	return h, memory(t, func(of datastore.Datastore) datastore.Datastore { h.Datastore = of; return h })
}

// Of a database that does not answer, each caller is told in time, and what waits for it is bounded in number.
func TestDatabaseThatDoesNotAnswer(t *testing.T) {
	limits := usual
	limits.answer, limits.questions = 300*time.Millisecond, 4
	h, ds := holdable(t)
	e := openOver(t, Config{Kind: Postgres}, ds, limits, circle...)
	snap, err := e.Snapshot(t.Context(), authz.Freshness{})
	if err != nil {
		t.Fatal(err)
	}
	before := runtime.NumGoroutine()
	h.on.Store(true)
	const callers = 64
	answers := make(chan error, 3*callers)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	for range callers {
		go func() {
			_, err := e.Snapshot(t.Context(), authz.Freshness{})
			answers <- err
		}()
		go func() {
			_, err := snap.Read(t.Context(), authz.Filter{Resource: authz.Object{Type: "doc"}})
			answers <- err
		}()
		go func() {
			_, err := e.Snapshot(ctx, authz.Freshness{})
			answers <- err
		}()
	}
	kinds := map[authz.Kind]int{}
	for range 3 * callers {
		kinds[authz.KindOf(<-answers)]++
	}
	if kinds[authz.Unavailable] != 2*callers || kinds[authz.Deadline] != callers {
		t.Errorf("%v, want %d unavailable (kind %d), %d past their deadline (kind %d)",
			kinds, 2*callers, authz.Unavailable, callers, authz.Deadline)
	}
	if n := h.waiting.Load(); n != 4 {
		t.Errorf("%d questions wait for the database, want 4", n)
	}
	eventually(t, "callers are still there", func() bool { return runtime.NumGoroutine() <= before+4 })
	check := &v1.CheckPermissionRequest{
		Consistency: atHead, Resource: &v1.ObjectReference{ObjectType: "doc", ObjectId: "1"}, Permission: "viewer",
		Subject: &v1.SubjectReference{Object: &v1.ObjectReference{ObjectType: "person", ObjectId: "ann"}},
	}
	if _, err := v1.NewPermissionsServiceClient(e.Conn()).CheckPermission(t.Context(), check); status.Code(err) != codes.Unavailable {
		t.Errorf("a check of SpiceDB's: %v, want UNAVAILABLE", err)
	}
	h.on.Store(false)
	close(h.open)
	eventually(t, "it does not answer again", func() bool {
		_, err := e.Snapshot(t.Context(), authz.Freshness{})
		return err == nil
	})
}

// The engine is closed in time, also where a lookup or the datastore itself never ends.
func TestCloseHasAnEnd(t *testing.T) {
	limits := usual
	limits.stop = 200 * time.Millisecond
	h, ds := holdable(t)
	e := openWithout(t, Config{Kind: Memory}, ds, limits, circle...)
	h.on.Store(true)
	left := make(chan error, 1)
	go func() { left <- lookups["LookupSubjects"](t.Context(), e.Conn()) }()
	eventually(t, "nobody waits for the datastore", func() bool { return h.waiting.Load() > 0 })
	closed := make(chan error, 1)
	go func() { closed <- e.Close() }()
	select {
	case err := <-closed:
		if err == nil || !strings.Contains(err.Error(), "still works after 200ms") {
			t.Errorf("%v, want that it says so", err)
		}
	case <-time.After(20 * time.Second):
		t.Error("it does not close")
	}
	<-left
	close(h.open)
}

// brittle is a datastore that panics.
type brittle struct {
	datastore.Datastore
	panics atomic.Pointer[string]
}

func (b *brittle) at(place string) {
	if p := b.panics.Load(); p != nil && *p == place {
		panic("the datastore is broken")
	}
}

func (b *brittle) HeadRevision(ctx context.Context) (datastore.RevisionWithSchemaHash, error) {
	b.at("head")
	return b.Datastore.HeadRevision(ctx)
}

func (b *brittle) ReadWriteTx(ctx context.Context, fn datastore.TxUserFunc, o ...options.RWTOptionsOption) (datastore.Revision, error) {
	b.at("transaction")
	return b.Datastore.ReadWriteTx(ctx, fn, o...)
}

func (b *brittle) SnapshotReader(at datastore.Revision) datastore.Reader {
	return &brittleReader{b.Datastore.SnapshotReader(at), b}
}

type brittleReader struct {
	datastore.Reader
	of *brittle
}

func (r *brittleReader) QueryRelationships(
	ctx context.Context, f datastore.RelationshipsFilter, o ...options.QueryOptionsOption,
) (datastore.RelationshipIterator, error) {
	r.of.at("query")
	found, err := r.Reader.QueryRelationships(ctx, f, o...)
	return r.rows(found), err
}

func (r *brittleReader) ReverseQueryRelationships(
	ctx context.Context, f datastore.SubjectsFilter, o ...options.ReverseQueryOptionsOption,
) (datastore.RelationshipIterator, error) {
	r.of.at("reverse")
	found, err := r.Reader.ReverseQueryRelationships(ctx, f, o...)
	return r.rows(found), err
}

func (r *brittleReader) rows(found datastore.RelationshipIterator) datastore.RelationshipIterator {
	return func(yield func(tuple.Relationship, error) bool) {
		r.of.at("first row")
		for rel, err := range found {
			if !yield(rel, err) {
				return
			}
			r.of.at("next row")
		}
	}
}

// A panic of the datastore fails the call that met it, in whichever goroutine, and leaves a line in the log.
func TestPanicOfTheDatastore(t *testing.T) {
	asks := map[string]func(context.Context, *Engine) error{
		"Snapshot": func(ctx context.Context, e *Engine) error {
			_, err := e.Snapshot(ctx, authz.Freshness{})
			return err
		},
		"Read": func(ctx context.Context, e *Engine) error {
			snap, err := e.Snapshot(ctx, authz.Freshness{}) // what is stale may be older than the rows
			if err == nil {
				f := authz.Filter{Resource: authz.Object{Type: "doc"}}
				_, err = snap.Read(ctx, f, f, f)
			}
			return err
		},
		"Write": func(ctx context.Context, e *Engine) error {
			_, err := e.Write(ctx, []authz.Update{{Operation: authz.Touch, Relationship: authz.Relationship{
				Resource: authz.Object{Type: "doc", ID: "1"}, Relation: "editor", Subject: authz.Subject{Object: authz.Object{Type: "person", ID: "bob"}},
			}}}, nil)
			return err
		},
		"LookupSubjects":  func(ctx context.Context, e *Engine) error { return lookups["LookupSubjects"](ctx, e.Conn()) },
		"LookupResources": func(ctx context.Context, e *Engine) error { return lookups["LookupResources"](ctx, e.Conn()) },
	}
	for _, kind := range []string{Memory, Postgres} {
		for place, fails := range map[string][]string{
			"head":        {"Snapshot", "LookupSubjects", "LookupResources"},
			"transaction": {"Write"},
			"query":       {"Read", "LookupSubjects"},
			"reverse":     {"LookupResources"},
			"first row":   {"Read", "LookupSubjects", "LookupResources"},
			"next row":    {"Read", "LookupSubjects", "LookupResources"},
		} {
			t.Run(kind+"/"+place, func(t *testing.T) {
				core, logged := observer.New(zap.ErrorLevel)
				b := &brittle{}
				ds := memory(t, func(of datastore.Datastore) datastore.Datastore { b.Datastore = of; return b })
				e := openOver(t, Config{Kind: kind, Log: zap.New(core)}, ds, usual, ladder(3)...)
				for _, name := range fails {
					b.panics.Store(&place)
					if err := asks[name](t.Context(), e); authz.KindOf(Failure("test", err)) != authz.Internal || err == nil {
						t.Errorf("%s: %v, want that it fails", name, err)
					} else if strings.Contains(status.Convert(err).Message(), "broken") {
						t.Errorf("%s tells its caller: %v", name, err)
					}
					lines := logged.TakeAll()
					if len(lines) == 0 || !strings.Contains(fmt.Sprint(lines[0].ContextMap()), "bounded_test.go") {
						t.Errorf("%s: the log has %v, want the panic with its stack", name, lines)
					}
					b.panics.Store(nil)
					if err := asks[name](t.Context(), e); err != nil {
						t.Errorf("%s afterwards: %v", name, err)
					}
				}
			})
		}
	}
}

// A panic of SpiceDB's handlers fails the call. The filter is what its decoder makes of a group that ends as another
// field's, which its printer does not survive.
func TestPanicOfSpiceDB(t *testing.T) {
	core, logged := observer.New(zap.ErrorLevel)
	e := openOver(t, Config{Kind: Memory, Log: zap.New(core)}, memory(t, nil), usual)
	for method, body := range map[string]string{
		"/authzed.api.v1.PermissionsService/ReadRelationships":   "\x12\x04\x93\x03\x9c\x03",
		"/authzed.api.v1.PermissionsService/DeleteRelationships": "\x0a\x04\x93\x03\x9c\x03",
		"/authzed.api.v1.WatchService/Watch":                     "\x1a\x04\x93\x03\x9c\x03",
	} {
		t.Run(method, func(t *testing.T) {
			stream, err := e.Conn().NewStream(t.Context(), &grpc.StreamDesc{ServerStreams: true}, method, grpc.ForceCodec(raw{}))
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(stream.SendMsg([]byte(body)), stream.CloseSend()); err != nil {
				t.Fatal(err)
			}
			var got []byte
			if err := stream.RecvMsg(&got); err == nil || errors.Is(err, io.EOF) {
				t.Fatalf("%v, want that it fails", err)
			}
			if lines := logged.TakeAll(); len(lines) != 1 || !strings.Contains(fmt.Sprint(lines[0].ContextMap()), "prototext") {
				t.Errorf("the log has %v, want the panic with its stack", lines)
			}
		})
	}
	if err := lookups["LookupSubjects"](t.Context(), e.Conn()); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// raw is a codec of bytes as they are.
type raw struct{}

func (raw) Name() string                    { return "proto" }
func (raw) Marshal(v any) ([]byte, error)   { return v.([]byte), nil }
func (raw) Unmarshal(b []byte, v any) error { *v.(*[]byte) = b; return nil }

// An import of more than one transaction should hold is refused, and nothing of it is written.
func TestImportHasABound(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: much work of one goroutine")
	}
	for what, limits := range map[string]bounds{
		"relationships": {imports: 100, importBytes: 1 << 30, loads: 1 << 30, loadBytes: 1 << 30},
		"bytes":         {imports: 1 << 30, importBytes: 2 << 20, loads: 1 << 30, loadBytes: 1 << 30},
	} {
		t.Run(what, func(t *testing.T) {
			limits.call, limits.long, limits.stop, limits.reads, limits.rows = time.Minute, time.Minute, time.Minute, 1000, 1<<40
			e := openOver(t, Config{Kind: Memory}, memory(t, nil), limits)
			client := v1.NewPermissionsServiceClient(e.Conn())
			load := func(n, first int) error {
				stream, err := client.ImportBulkRelationships(t.Context())
				if err != nil {
					return err
				}
				for i := first; i < first+n; i += 10 {
					req := &v1.ImportBulkRelationshipsRequest{}
					for j := range 10 {
						id := fmt.Sprintf("%d-%d", i, j)
						if what == "bytes" {
							id += strings.Repeat("x", 1000)
						}
						req.Relationships = append(req.Relationships, tuple.MustParseV1Rel("doc:"+id+"#editor@person:ann"))
					}
					if err := stream.Send(req); err != nil {
						break
					}
				}
				_, err = stream.CloseAndRecv()
				return err
			}
			if err := load(100, 0); err != nil {
				t.Errorf("within the bound: %v", err)
			}
			if err := load(3000, 1000); status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "split it") {
				t.Errorf("%v, want RESOURCE_EXHAUSTED and what to do", err)
			}
			snap, err := e.Snapshot(t.Context(), authz.Freshness{})
			if err != nil {
				t.Fatal(err)
			}
			found, err := snap.Read(t.Context(), authz.Filter{Resource: authz.Object{Type: "doc"}})
			if err != nil || len(found[0]) != 100 {
				t.Errorf("%d relationships, %v, want those of the first import", len(found[0]), err)
			}
		})
	}
}

// All imports under way have a bound together, and what has ended counts no more.
func TestImportsHaveABoundTogether(t *testing.T) {
	ofRelationships, ofBytes := usual, usual
	ofRelationships.loads, ofBytes.loadBytes = 30, 30*int64(len("doceditorpersonannfirst00"))
	for what, limits := range map[string]bounds{"relationships": ofRelationships, "bytes": ofBytes} {
		t.Run(what, func(t *testing.T) { importTogether(t, limits) })
	}
}

// importTogether imports twice 20 relationships at once, of which only 30 may be under way.
func importTogether(t *testing.T, limits bounds) {
	t.Helper()
	// memdb has one transaction at a time, the store as many as there are.
	ds, err := store.Open(t.TempDir(), store.Config{CacheBytes: 1 << 20, MemTableBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	e := openOver(t, Config{Kind: Embedded}, ds, limits)
	client := v1.NewPermissionsServiceClient(e.Conn())
	begin := func(name string) grpc.ClientStreamingClient[v1.ImportBulkRelationshipsRequest, v1.ImportBulkRelationshipsResponse] {
		t.Helper()
		stream, err := client.ImportBulkRelationships(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		req := &v1.ImportBulkRelationshipsRequest{}
		for i := range 20 {
			req.Relationships = append(req.Relationships, tuple.MustParseV1Rel(fmt.Sprintf("doc:%s%d#editor@person:ann", name, i)))
		}
		if err := stream.Send(req); err != nil {
			t.Fatal(err)
		}
		return stream
	}
	for round := range 3 {
		if _, err := begin(fmt.Sprint("one", round)).CloseAndRecv(); err != nil {
			t.Errorf("one after the other: %v", err)
		}
	}
	first := begin("first")
	within, ok := e.ds.(*bounded)
	if !ok {
		t.Fatal("the engine's datastore has no bounds")
	}
	eventually(t, "the first one does not begin", func() bool { return within.loading.relationships.Load() == 20 })
	_, err = begin("second").CloseAndRecv()
	if status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "try again") {
		t.Errorf("beside another one: %v, want RESOURCE_EXHAUSTED and what to do", err)
	}
	if _, err := first.CloseAndRecv(); err != nil {
		t.Errorf("the first one: %v", err)
	}
	if n, bytes := within.loading.add(0, 0); n != 0 || bytes != 0 {
		t.Errorf("%d relationships and %d bytes still count", n, bytes)
	}
}

// A revision that is collected while a call reads at it is OUT_OF_RANGE, wherever SpiceDB meets it, and still what it is.
func TestCollectedRevisionHasAStatus(t *testing.T) {
	gone := datastore.NewInvalidRevisionErr(datastore.NoRevision, datastore.RevisionStale)
	within := &bounded{complaints: new(authz.Seldom), log: zap.NewNop()}
	told := func(err error) error { return within.told(t.Context(), err) }
	for name, err := range map[string]error{"as it is": told(gone), "wrapped": fmt.Errorf("reading: %w", told(gone))} {
		if status.Code(err) != codes.OutOfRange {
			t.Errorf("%s: %v", name, status.Code(err))
		}
		if !errors.As(err, new(datastore.InvalidRevisionError)) {
			t.Errorf("%s: the datastore's error is lost", name)
		}
	}
	if told(nil) != nil {
		t.Error("no error has become one")
	}
}

// outlived is a datastore whose revisions are collected as soon as somebody reads relationships, once gone is set.
type outlived struct {
	datastore.Datastore
	gone *atomic.Bool
}

func (o *outlived) SnapshotReader(at datastore.Revision) datastore.Reader {
	return &outlivedReader{o.Datastore.SnapshotReader(at), o.gone}
}

type outlivedReader struct {
	datastore.Reader
	gone *atomic.Bool
}

func (r *outlivedReader) QueryRelationships(
	ctx context.Context, filter datastore.RelationshipsFilter, opts ...options.QueryOptionsOption,
) (datastore.RelationshipIterator, error) {
	if !r.gone.Load() {
		return r.Reader.QueryRelationships(ctx, filter, opts...)
	}
	return func(yield func(tuple.Relationship, error) bool) {
		yield(tuple.Relationship{}, datastore.NewInvalidRevisionErr(datastore.NoRevision, datastore.RevisionStale))
	}, nil
}

// Every call that meets such a revision says so.
func TestCallsThatOutliveTheirRevision(t *testing.T) {
	var gone atomic.Bool
	ds := memory(t, func(ds datastore.Datastore) datastore.Datastore { return &outlived{ds, &gone} })
	e := openOver(t, Config{Kind: Memory}, ds, usual, "doc:0#editor@person:ann")
	gone.Store(true)
	c := v1.NewPermissionsServiceClient(e.Conn())
	doc := &v1.ObjectReference{ObjectType: "doc", ObjectId: "0"}
	for name, call := range map[string]func() error{
		"LookupSubjects": func() error { return lookups["LookupSubjects"](t.Context(), e.Conn()) },
		"ExpandPermissionTree": func() error {
			_, err := c.ExpandPermissionTree(t.Context(), &v1.ExpandPermissionTreeRequest{Consistency: atHead, Resource: doc, Permission: "viewer"})
			return err
		},
		"ReadRelationships": func() error {
			stream, err := c.ReadRelationships(t.Context(), &v1.ReadRelationshipsRequest{
				Consistency: atHead, RelationshipFilter: &v1.RelationshipFilter{ResourceType: "doc"},
			})
			return toTheEnd(stream, err)
		},
		"ExportBulkRelationships": func() error {
			stream, err := c.ExportBulkRelationships(t.Context(), &v1.ExportBulkRelationshipsRequest{Consistency: atHead})
			return toTheEnd(stream, err)
		},
		"BulkExportRelationships": func() error {
			stream, err := v1.NewExperimentalServiceClient(e.Conn()).BulkExportRelationships(t.Context(), &v1.BulkExportRelationshipsRequest{Consistency: atHead}) //nolint:staticcheck // the old name is served
			return toTheEnd(stream, err)
		},
	} {
		if err := call(); status.Code(err) != codes.OutOfRange {
			t.Errorf("%s: %v, want OUT_OF_RANGE", name, err)
		}
	}
}
