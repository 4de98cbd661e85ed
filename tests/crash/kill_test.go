//go:build unix

package crash

import (
	"context"
	crand "crypto/rand"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// roundsVariable sets how often the server is killed.
const roundsVariable = "DEPUTY_CRASH_ROUNDS"

const (
	writers = 4
	// rowsOfWrite and rowsOfImport are how many relationships one write and one import make.
	rowsOfWrite, rowsOfImport = 5, 60
	// patience is how long anything may take before the test gives up on it.
	patience = 2 * time.Minute
)

// write is one request that writes. Its rows say whose they are, and one is named like it, which no other
// write deletes.
type write struct {
	name string
	// writes and deletes are rows; a transaction makes all of it or nothing.
	writes, deletes []string
	imported        bool
	acknowledged    bool
}

// changes returns what the changelog has of a write.
func (w *write) changes() []string {
	all := slices.Clone(w.writes)
	for _, row := range w.deletes {
		all = append(all, "-"+row)
	}
	slices.Sort(all)
	return all
}

// history is all that was ever tried.
type history struct {
	mu sync.Mutex
	// byName are the writes; next makes their names.
	byName map[string]*write
	next   int
	// seen are the names of those that a watcher was told of under the last load, in order.
	seen []string
	// acks is told of each acknowledgement.
	acks chan struct{}
}

// TestKill kills a server under load, starts it again and looks: every write that was acknowledged is there,
// of every other one all or nothing, and the changelog from the beginning has each of them once, in an order
// that leads to what is there now, and that a watcher saw before.
func TestKill(t *testing.T) {
	rounds := 5
	if text := os.Getenv(roundsVariable); text != "" {
		var err error
		if rounds, err = strconv.Atoi(text); err != nil || rounds < 1 {
			t.Fatalf("%s is %q, want a number from 1 on", roundsVariable, text)
		}
	}
	dir := t.TempDir()
	h := &history{byName: map[string]*write{}, acks: make(chan struct{}, 1)}
	lost := 0
	server := start(t, dir)
	first, beginning := server.begin(t)
	for round := range rounds {
		server.load(t, h, 1+rand.IntN(1000))
		server = start(t, dir)
		lost += server.inspect(t, h, first, beginning)
		if t.Failed() {
			t.Fatalf("round %d; the server's log:\n%s", round, server.Log())
		}
	}
	server.kill(t)
	acknowledged := 0
	for _, w := range h.byName {
		if w.acknowledged {
			acknowledged++
		}
	}
	fmt.Fprintf(os.Stdout, "%d rounds, %d acknowledged writes, %d lost\n", rounds, acknowledged, lost)
}

// begin writes a schema and a first row, which it returns with the token that everything comes after.
func (s *serving) begin(t *testing.T) (row string, at *v1.ZedToken) {
	t.Helper()
	core, err := os.ReadFile("../../schema/core.zed")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := s.context(t)
	defer cancel()
	schema := string(core) + "\ndefinition document {\n\trelation reader: user\n}\n"
	if _, err := v1.NewSchemaServiceClient(s.conn).WriteSchema(ctx, &v1.WriteSchemaRequest{Schema: schema}); err != nil {
		t.Fatal(err)
	}
	return s.mark(t)
}

// mark writes one row that is of no write, and returns it.
func (s *serving) mark(t *testing.T) (row string, at *v1.ZedToken) {
	t.Helper()
	row = "mark/" + crand.Text()
	ctx, cancel := s.context(t)
	defer cancel()
	resp, err := s.permissions().WriteRelationships(ctx, &v1.WriteRelationshipsRequest{
		Updates: []*v1.RelationshipUpdate{{Operation: v1.RelationshipUpdate_OPERATION_TOUCH, Relationship: relationship(row)}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return row, resp.GetWrittenAt()
}

// load writes and watches until so many writes were acknowledged, and then kills the server.
func (s *serving) load(t *testing.T, h *history, enough int) {
	t.Helper()
	ctx, cancel := s.context(t)
	defer cancel()
	_, from := s.mark(t)
	var done sync.WaitGroup
	for range writers {
		done.Go(func() { s.write(ctx, t, h) })
	}
	done.Go(func() { h.seen = s.watch(ctx, t, from) })
	for n := range enough {
		select {
		case <-h.acks:
		case <-ctx.Done():
			t.Fatalf("of %d writes %d were acknowledged; the server's log:\n%s", enough, n, s.Log())
		}
	}
	s.kill(t)
	done.Wait()
}

// write writes until the server is gone. Now and then it deletes rows of a write before, or imports.
func (s *serving) write(ctx context.Context, t *testing.T, h *history) {
	var before *write
	for n := 1; ; n++ {
		w := h.begin(n%25 == 0)
		if before != nil && !w.imported && n%3 == 0 {
			w.deletes = before.writes[1:3]
		}
		var err error
		if w.imported {
			err = s.importAll(ctx, w)
		} else {
			err = s.writeAll(ctx, w)
		}
		switch status.Code(err) {
		case codes.OK:
		case codes.Unavailable, codes.Canceled, codes.DeadlineExceeded:
			return // it was killed, and whether the write was made is to be seen
		default:
			// The server's end shows in several ways.
			if err != io.EOF && !strings.Contains(err.Error(), "transport") && !strings.Contains(err.Error(), "connection") { //nolint:errorlint // gRPC returns it bare
				t.Errorf("%s: %v", w.name, err)
			}
			return
		}
		h.acknowledge(w)
		before = w
	}
}

// begin makes a write.
func (h *history) begin(imported bool) *write {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.next++
	w := &write{name: fmt.Sprintf("w%06d", h.next), imported: imported}
	rows := rowsOfWrite
	if imported {
		rows = rowsOfImport
	}
	for i := range rows {
		w.writes = append(w.writes, fmt.Sprintf("%s/%d", w.name, i))
	}
	h.byName[w.name] = w
	return w
}

func (h *history) acknowledge(w *write) {
	h.mu.Lock()
	defer h.mu.Unlock()
	w.acknowledged = true
	select {
	case h.acks <- struct{}{}:
	default:
	}
}

// relationship is a row of "write/number": the document of that name has its write as reader.
func relationship(row string) *v1.Relationship {
	name, _, _ := strings.Cut(row, "/")
	return &v1.Relationship{
		Resource: &v1.ObjectReference{ObjectType: "document", ObjectId: row}, Relation: "reader",
		Subject: &v1.SubjectReference{Object: &v1.ObjectReference{ObjectType: "user", ObjectId: name}},
	}
}

func (s *serving) writeAll(ctx context.Context, w *write) error {
	req := &v1.WriteRelationshipsRequest{}
	for _, row := range w.writes {
		req.Updates = append(req.Updates, &v1.RelationshipUpdate{Operation: v1.RelationshipUpdate_OPERATION_TOUCH, Relationship: relationship(row)})
	}
	for _, row := range w.deletes {
		req.Updates = append(req.Updates, &v1.RelationshipUpdate{Operation: v1.RelationshipUpdate_OPERATION_DELETE, Relationship: relationship(row)})
	}
	_, err := s.permissions().WriteRelationships(ctx, req)
	return err
}

func (s *serving) importAll(ctx context.Context, w *write) error {
	stream, err := s.permissions().ImportBulkRelationships(ctx)
	if err != nil {
		return err
	}
	for part := range slices.Chunk(w.writes, rowsOfImport/3) {
		req := &v1.ImportBulkRelationshipsRequest{}
		for _, row := range part {
			req.Relationships = append(req.Relationships, relationship(row))
		}
		if err := stream.Send(req); err != nil {
			return err
		}
	}
	_, err = stream.CloseAndRecv()
	return err
}

// watch returns the names of the writes that it is told of until the server is gone.
func (s *serving) watch(ctx context.Context, t *testing.T, from *v1.ZedToken) (seen []string) {
	stream, err := v1.NewWatchServiceClient(s.conn).Watch(ctx, &v1.WatchRequest{OptionalStartCursor: from, OptionalObjectTypes: watched})
	if err != nil {
		return nil
	}
	for {
		resp, err := stream.Recv()
		if err != nil {
			return seen
		}
		name, problem := nameOf(changesOf(resp))
		if problem != "" {
			t.Error(problem)
			return seen
		}
		seen = append(seen, name)
	}
}

// watched are the types of what the test writes. The server writes delegations of its own.
var watched = []string{"document"}

// changesOf returns what a response tells, as write.changes does.
func changesOf(resp *v1.WatchResponse) []string {
	var changes []string
	for _, u := range resp.GetUpdates() {
		row := u.GetRelationship().GetResource().GetObjectId()
		if u.GetOperation() == v1.RelationshipUpdate_OPERATION_DELETE {
			row = "-" + row
		}
		changes = append(changes, row)
	}
	slices.Sort(changes)
	return changes
}

// nameOf returns the name of the write that made some changes.
func nameOf(changes []string) (name, problem string) {
	for _, row := range changes {
		owner, _, _ := strings.Cut(row, "/")
		if strings.HasPrefix(owner, "-") {
			continue
		}
		if name != "" && owner != name {
			return "", fmt.Sprintf("a revision has changes of two writes: %q", changes)
		}
		name = owner
	}
	if name == "" {
		return "", fmt.Sprintf("a revision has changes of no write: %q", changes)
	}
	return name, ""
}

// inspect looks at what a server found, and returns how many acknowledged writes are missing.
func (s *serving) inspect(t *testing.T, h *history, first string, beginning *v1.ZedToken) (lost int) {
	t.Helper()
	ctx, cancel := s.context(t)
	defer cancel()
	end, _ := s.mark(t)
	// The changelog: each write once, whole, and what it leads to.
	replay, made, order := map[string]bool{first: true}, map[string]bool{}, []string{}
	stream, err := v1.NewWatchServiceClient(s.conn).Watch(ctx, &v1.WatchRequest{OptionalStartCursor: beginning, OptionalObjectTypes: watched})
	if err != nil {
		t.Fatal(err)
	}
	ended := false
	for !ended {
		resp, err := stream.Recv()
		if err != nil {
			t.Fatalf("watching from the beginning, after %d writes: %v", len(order), err)
		}
		changes := changesOf(resp)
		name, problem := nameOf(changes)
		if problem != "" {
			t.Error(problem)
			return 0
		}
		if name == "mark" {
			replay[changes[0]] = true
			ended = changes[0] == end
			continue
		}
		w := h.byName[name]
		switch {
		case w == nil:
			t.Errorf("the changelog has %s, which nobody wrote", name)
			return 0
		case made[name]:
			t.Errorf("the changelog has %s twice", name)
		case !slices.Equal(changes, w.changes()):
			t.Errorf("the changelog has of %s %q, want %q", name, changes, w.changes())
		}
		made[name] = true
		order = append(order, name)
		for _, row := range changes {
			if deleted, gone := strings.CutPrefix(row, "-"); gone {
				delete(replay, deleted)
			} else {
				replay[row] = true
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(h.byName)) {
		if w := h.byName[name]; w.acknowledged && !made[name] {
			t.Errorf("%s was acknowledged and is lost", name)
			lost++
		} else if !made[name] {
			delete(h.byName, name) // it was not made, and never will be
		}
	}
	// What the watcher was told then is told again, without anything in between.
	if n := len(h.seen); n > 0 {
		if at := slices.Index(order, h.seen[0]); at < 0 || len(order) < at+n || !slices.Equal(order[at:at+n], h.seen) {
			t.Errorf("a watcher saw %d writes from %s on, and the changelog has them otherwise", n, h.seen[0])
		}
	}
	rows := s.readAll(ctx, t)
	if !maps.Equal(rows, replay) {
		t.Errorf("%d rows are there, and the changelog leads to %d", len(rows), len(replay))
	}
	return lost
}

// readAll returns all rows.
func (s *serving) readAll(ctx context.Context, t *testing.T) map[string]bool {
	t.Helper()
	stream, err := s.permissions().ReadRelationships(ctx, &v1.ReadRelationshipsRequest{
		Consistency:        &v1.Consistency{Requirement: &v1.Consistency_FullyConsistent{FullyConsistent: true}},
		RelationshipFilter: &v1.RelationshipFilter{ResourceType: "document"},
	})
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string]bool{}
	for {
		resp, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return rows
		}
		if err != nil {
			t.Fatalf("reading, after %d rows: %v", len(rows), err)
		}
		rows[resp.GetRelationship().GetResource().GetObjectId()] = true
	}
}
