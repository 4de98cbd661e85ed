//go:build unix

package crash

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"google.golang.org/protobuf/types/known/durationpb"

	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/pkg/journal"
	"github.com/deputyauth/deputy/pkg/journal/verify"
	"github.com/deputyauth/deputy/schema"
	"github.com/deputyauth/deputy/tests/harness"
)

const (
	// askers is how many clients ask at once: as many calls are in flight at a kill.
	askers = 8
	// known is how many documents the agent may view; it may view none other.
	known = 20
)

// received are the answers that clients have received under the last load, by what their records are known by.
type received struct {
	mu sync.Mutex
	// decisions are answers by the id of the decision.
	decisions map[string]deputyv1.Permissionship
	// objects are answers to calls that each name an object of their own, by its id: results and, of checks, the answer.
	objects map[string]answered
	next    int
	acks    chan struct{}
}

// answered is what a client was answered.
type answered struct {
	method  string
	answer  deputyv1.Permissionship
	results uint64
}

// TestJournalKill kills a server under a load of checks, bulk checks, lookups and writes, starts it again and looks: every answer that a client
// has received has exactly one record of equal content, no other records are there than those of calls in flight, sequences have no gap, and the
// journal verifies.
func TestJournalKill(t *testing.T) {
	rounds := 10
	if text := os.Getenv(roundsVariable); text != "" {
		var err error
		if rounds, err = strconv.Atoi(text); err != nil || rounds < 1 {
			t.Fatalf("%s is %q, want a number from 1 on", roundsVariable, text)
		}
	}
	dir := t.TempDir()
	got := &received{decisions: map[string]deputyv1.Permissionship{}, objects: map[string]answered{}, acks: make(chan struct{}, 1)}
	server := start(t, dir)
	server.people(t)
	report := tally{}
	var next uint64
	fmt.Fprintf(os.Stdout, "%6s %9s %9s %9s %6s\n", "round", "answers", "records", "surplus", "lost")
	for round := range rounds {
		server.askUntil(t, got, 50+rand.IntN(1000))
		server = start(t, dir)
		one := inspectJournal(t, dir, got, &next)
		report.add(one)
		if round < 10 || round%20 == 19 {
			fmt.Fprintf(os.Stdout, "%6d %9d %9d %9d %6d\n", round+1, one.answers, one.records, one.surplus, one.lost)
		}
		if one.surplus > askers {
			t.Errorf("%d calls have records that no client has an answer of, and %d were in flight", one.surplus, askers)
		}
		if t.Failed() {
			t.Fatalf("round %d; the server's log:\n%s", round, server.Log())
		}
	}
	server.kill(t)
	fmt.Fprintf(os.Stdout, "%6s %9d %9d %9d %6d\n", "all", report.answers, report.records, report.surplus, report.lost)
}

// tally is what was found.
type tally struct{ answers, records, surplus, lost int }

func (t *tally) add(o tally) {
	t.answers += o.answers
	t.records += o.records
	t.surplus += o.surplus
	t.lost += o.lost
}

// people writes a tenant with an agent that may view documents for alice.
func (s *serving) people(t *testing.T) {
	t.Helper()
	ctx, cancel := s.context(t)
	defer cancel()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	text := schema.Core + "\ndefinition document {\n\trelation tenant: tenant\n\trelation reader: user | agent | delegation\n\tpermission view = reader\n}\n"
	_, err := v1.NewSchemaServiceClient(s.conn).WriteSchema(ctx, &v1.WriteSchemaRequest{Schema: text})
	must(err)
	for _, who := range []string{"user:alice", "user:carol", "tenant:acme"} {
		_, err := deputyv1.NewPrincipalsServiceClient(s.conn).Resume(ctx, &deputyv1.ResumeRequest{Principal: harness.Ref(who)})
		must(err)
	}
	_, err = deputyv1.NewAgentsServiceClient(s.conn).RegisterAgent(ctx, &deputyv1.RegisterAgentRequest{AgentId: "bot", OwnerIds: []string{"carol"}})
	must(err)
	rows := []string{"tenant:acme#member@user:alice", "tenant:acme#admin@user:carol", "tenant:acme#agent@agent:bot"}
	for i := range known {
		document := fmt.Sprintf("document:known-%d", i)
		rows = append(rows, document+"#tenant@tenant:acme", document+"#reader@user:alice", document+"#reader@agent:bot")
	}
	_, err = harness.Update(ctx, s.conn, v1.RelationshipUpdate_OPERATION_TOUCH, rows...)
	must(err)
	_, err = deputyv1.NewDelegationsServiceClient(s.conn).CreateDelegation(ctx, &deputyv1.CreateDelegationRequest{
		AgentId: "bot", TenantId: "acme", Unscoped: true, AllowDirect: true, Ttl: durationpb.New(24 * time.Hour),
		Principal: &deputyv1.SubjectReference{Object: harness.Ref("user:alice")},
	})
	must(err)
}

// askUntil asks until so many answers have come, and then kills the server.
func (s *serving) askUntil(t *testing.T, got *received, enough int) {
	t.Helper()
	ctx, cancel := s.context(t)
	defer cancel()
	var done sync.WaitGroup
	for i := range askers {
		done.Go(func() {
			for n := i; s.askOnce(ctx, got, n) == nil; n++ {
			}
		})
	}
	for n := range enough {
		select {
		case <-got.acks:
		case <-ctx.Done():
			t.Fatalf("of %d answers %d came; the server's log:\n%s", enough, n, s.Log())
		}
	}
	s.kill(t)
	done.Wait()
}

// askOnce makes one call, and notes its answer.
func (s *serving) askOnce(ctx context.Context, got *received, n int) error {
	got.mu.Lock()
	got.next++
	fresh := fmt.Sprintf("own-%d", got.next)
	got.mu.Unlock()
	object := harness.Ref("document:" + fresh)
	if n%3 == 0 {
		object = harness.Ref(fmt.Sprintf("document:known-%d", n%known))
	}
	switch n % 5 {
	case 0, 1:
		a, err := deputyv1.NewPermissionsServiceClient(s.conn).CheckPermission(ctx, &deputyv1.CheckPermissionRequest{
			AgentId: "bot", OnBehalfOf: harness.Ref("user:alice"), TenantId: "acme", Resource: object, Permission: "view",
		})
		if err != nil {
			return err
		}
		got.decision(a)
	case 2:
		req := &deputyv1.CheckBulkPermissionsRequest{}
		for _, one := range []*deputyv1.ObjectReference{object, harness.Ref("document:known-1"), harness.Ref("document:none")} {
			req.Items = append(req.Items, &deputyv1.CheckBulkPermissionsRequestItem{
				AgentId: "bot", OnBehalfOf: harness.Ref("user:alice"), TenantId: "acme", Resource: one, Permission: "view",
			})
		}
		a, err := deputyv1.NewPermissionsServiceClient(s.conn).CheckBulkPermissions(ctx, req)
		if err != nil {
			return err
		}
		for _, pair := range a.GetPairs() {
			got.decision(pair.GetItem())
		}
	case 3:
		stream, err := deputyv1.NewPermissionsServiceClient(s.conn).LookupAgents(ctx, &deputyv1.LookupAgentsRequest{
			Resource: harness.Ref("document:" + fresh), Permission: "view",
		})
		if err != nil {
			return err
		}
		results := uint64(0)
		for {
			m, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return err
			}
			if m.GetAgent() != nil {
				results++
			}
		}
		got.object(fresh, answered{method: "deputy.v1.PermissionsService/LookupAgents", results: results})
	default:
		if n%2 == 0 {
			_, err := harness.Update(ctx, s.conn, v1.RelationshipUpdate_OPERATION_TOUCH, "document:"+fresh+"#reader@user:alice")
			if err != nil {
				return err
			}
			got.object(fresh, answered{method: "authzed.api.v1.PermissionsService/WriteRelationships", results: 1})
			return nil
		}
		a, err := s.permissions().CheckPermission(ctx, &v1.CheckPermissionRequest{
			Resource: &v1.ObjectReference{ObjectType: "document", ObjectId: fresh}, Permission: "view",
			Subject: &v1.SubjectReference{Object: &v1.ObjectReference{ObjectType: "user", ObjectId: "alice"}},
		})
		if err != nil {
			return err
		}
		answer := deputyv1.Permissionship_PERMISSIONSHIP_NO_PERMISSION
		if a.GetPermissionship() == v1.CheckPermissionResponse_PERMISSIONSHIP_HAS_PERMISSION {
			answer = deputyv1.Permissionship_PERMISSIONSHIP_HAS_PERMISSION
		}
		got.object(fresh, answered{method: "authzed.api.v1.PermissionsService/CheckPermission", answer: answer})
	}
	return nil
}

func (g *received) decision(a *deputyv1.CheckPermissionResponse) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.decisions[a.GetDecisionId()] = a.GetPermissionship()
	g.ack()
}

func (g *received) object(id string, a answered) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.objects[id] = a
	g.ack()
}

func (g *received) ack() {
	select {
	case g.acks <- struct{}{}:
	default:
	}
}

// inspectJournal compares the records from next on with the answers that were received since it was called last, and verifies the journal.
func inspectJournal(t *testing.T, dir string, got *received, next *uint64) (found tally) {
	t.Helper()
	data := filepath.Join(dir, "data")
	keys, err := journal.OpenKeys(data+".keys", false)
	if err != nil {
		t.Fatal(err)
	}
	reader, err := journal.OpenReader(journal.ReaderConfig{Dir: filepath.Join(data, "journal"), Secret: keys.Secret()})
	if err != nil {
		t.Fatal(err)
	}
	type group struct {
		method string
		time   int64
	}
	surplus := map[group]bool{}
	seenDecisions, seenObjects := map[string]bool{}, map[string]bool{}
	from := *next
	if _, err := reader.Query(t.Context(), &journal.Query{}, &from, func(f journal.Found) (bool, error) {
		r := f.Record
		if r.GetSequence() != *next {
			return false, fmt.Errorf("record %d comes where %d should", r.GetSequence(), *next)
		}
		*next++
		found.records++
		if r.GetStage() == deputyv1.RecordStage_RECORD_STAGE_BEGUN || r.GetKind() == deputyv1.RecordKind_RECORD_KIND_NOTE || r.GetCode() != 0 {
			return true, nil
		}
		id := reader.ID(r.GetSequence())
		want, received := got.decisions[id]
		object, isObject := got.objects[r.GetResourceId()]
		switch {
		case received:
			if seenDecisions[id] || want != r.GetAnswer() {
				t.Errorf("the decision %s was answered %s, and record %d says %s", id, want, r.GetSequence(), r.GetAnswer())
			}
			seenDecisions[id] = true
		case isObject && object.method == r.GetMethod():
			if seenObjects[r.GetResourceId()] || object.answer != r.GetAnswer() || object.results != r.GetResults() {
				t.Errorf("%s about %s was answered %v, and record %d says %s and %d results", object.method, r.GetResourceId(), object, r.GetSequence(),
					r.GetAnswer(), r.GetResults())
			}
			seenObjects[r.GetResourceId()] = true
		case r.GetKind() == deputyv1.RecordKind_RECORD_KIND_DECISION, r.GetKind() == deputyv1.RecordKind_RECORD_KIND_LOOKUP,
			r.GetKind() == deputyv1.RecordKind_RECORD_KIND_WRITE && r.GetResourceId() != "":
			surplus[group{r.GetMethod(), r.GetTime()}] = true
		}
		return true, nil
	}); err != nil {
		t.Fatal(err)
	}
	found.surplus = len(surplus)
	for id := range got.decisions {
		if !seenDecisions[id] {
			t.Errorf("the decision %s was answered, and has no record", id)
			found.lost++
		}
	}
	for id := range got.objects {
		if !seenObjects[id] {
			t.Errorf("%s was answered, and has no record", id)
			found.lost++
		}
	}
	found.answers = len(got.decisions) + len(got.objects)
	clear(got.decisions)
	clear(got.objects)
	checked, err := verify.Run(t.Context(), verify.Options{Dir: filepath.Join(data, "journal")})
	if err != nil {
		t.Fatal(err)
	}
	for _, problem := range checked.Problems {
		t.Errorf("record %d in %s: %s", problem.Sequence, problem.File, problem.Message)
	}
	return found
}
