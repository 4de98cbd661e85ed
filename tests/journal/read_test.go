package journal_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/caller"
	"github.com/deputyauth/deputy/pkg/client"
	"github.com/deputyauth/deputy/pkg/daemon"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/tests/harness"
)

// auditors are callers with the role auditor alone, by what they are bound to.
func auditors() []*caller.Caller {
	auditor := func(name string, bounds authz.Bounds) *caller.Caller {
		return &caller.Caller{
			Name: name, Roles: caller.RolesOf(deputyv1.Role_ROLE_AUDITOR), Bounds: &bounds, SpiceDB: authz.AllNames(),
			Credentials: []caller.Credential{{ID: "key", Key: digest("the-key-of-" + name)}},
		}
	}
	acme, globex, agents := *authz.Unbounded(), *authz.Unbounded(), *authz.Unbounded()
	acme.Tenants, globex.Tenants, agents.Agents = authz.NamesOf("acme"), authz.NamesOf("globex"), authz.NamesOf("bot")
	objects := *authz.Unbounded()
	objects.IDs = authz.PrefixesOf("pl")
	return []*caller.Caller{
		auditor("auditor", *authz.Unbounded()), auditor("acme", acme), auditor("globex", globex), auditor("bots", agents), auditor("plans", objects),
	}
}

func (w *world) client(t *testing.T, name string) *client.Client {
	t.Helper()
	return client.New(harness.Dial(t, w.Addr().String(), "the-key-of-"+name))
}

// check asks for a decision.
func (w *world) check(object string, tenant string) *deputyv1.CheckPermissionResponse {
	w.t.Helper()
	answer, err := w.Permissions().CheckPermission(w.t.Context(), &deputyv1.CheckPermissionRequest{
		AgentId: "bot", OnBehalfOf: harness.Ref("user:alice"), TenantId: tenant, Resource: harness.Ref(object), Permission: "view",
	})
	w.must(err)
	return answer
}

// TestProofTakesNoneOfOurCode: what ProveRecord answers is checked with golang.org/x/mod alone, and holds of the very record that GetRecord shows,
// which says what was answered.
func TestProofTakesNoneOfOurCode(t *testing.T) {
	w := newWorld(t, daemon.Config{Callers: auditors()})
	c := w.client(t, "auditor")
	for _, object := range []string{"document:plan", "document:none", "document:plan"} {
		answer := w.check(object, "acme")
		got, err := c.Journal.GetRecord(t.Context(), &deputyv1.GetRecordRequest{DecisionId: answer.GetDecisionId()})
		w.must(err)
		record := got.GetRecord().GetRecord()
		if record.GetAnswer() != answer.GetPermissionship() || record.GetAgentId() != "bot" || record.GetPrincipalId() != "alice" ||
			"document:"+record.GetResourceId() != object || record.GetPermission() != "view" || record.GetCaller() != "service" {
			t.Errorf("%s was answered %v, and its record says %v", object, answer, record)
		}
		proven, err := c.Journal.ProveRecord(t.Context(), &deputyv1.ProveRecordRequest{DecisionId: answer.GetDecisionId()})
		w.must(err)
		var leaf deputyv1.Record
		if err := proto.Unmarshal(proven.GetLeaf(), &leaf); err != nil || !proto.Equal(&leaf, record) {
			t.Errorf("what is proven is %v, and the record %v, %v", &leaf, record, err)
		}
		checkpoint, err := c.Journal.GetCheckpoint(t.Context(), &deputyv1.GetCheckpointRequest{})
		w.must(err)
		if err := checkProof(proven.GetProof(), proven.GetLeaf(), checkpoint.GetVerifierKey(), record.GetSequence()); err != nil {
			t.Errorf("the proof does not hold: %v\n%s", err, proven.GetProof())
		}
		other := slices.Clone(proven.GetLeaf())
		other[len(other)-1] ^= 1
		if checkProof(proven.GetProof(), other, checkpoint.GetVerifierKey(), record.GetSequence()) == nil {
			t.Error("the proof holds of another record, too")
		}
	}
}

// checkProof checks a C2SP tlog-proof, as its specification says.
func checkProof(proof string, leaf []byte, key string, sequence uint64) error {
	verifier, err := note.NewVerifier(key)
	if err != nil {
		return err
	}
	head, checkpoint, _ := strings.Cut(proof, "\n\n")
	lines := strings.Split(head, "\n")
	if lines[0] != "c2sp.org/tlog-proof@v1" || lines[1] != "index "+strconv.FormatUint(sequence, 10) {
		return fmt.Errorf("it begins with %q", lines[:2])
	}
	var hashes tlog.RecordProof
	for _, line := range lines[2:] {
		hash, err := tlog.ParseHash(line)
		if err != nil {
			return err
		}
		hashes = append(hashes, hash)
	}
	opened, err := note.Open([]byte(checkpoint), note.VerifierList(verifier))
	if err != nil {
		return err
	}
	said := strings.Split(opened.Text, "\n")
	size, err := strconv.ParseInt(said[1], 10, 64)
	if err != nil {
		return err
	}
	root, err := tlog.ParseHash(said[2])
	if err != nil {
		return err
	}
	return tlog.CheckRecord(hashes, size, root, int64(sequence), tlog.RecordHash(leaf))
}

// TestQueriesAreWhole: pages of any size, in both directions, have each record that matches once, and those of an auditor with bounds are what a look
// at all records by hand leaves.
func TestQueriesAreWhole(t *testing.T) {
	w := newWorld(t, daemon.Config{Callers: auditors()})
	for i := range 40 {
		w.check([]string{"document:plan", "document:daily", "document:none"}[i%3], []string{"acme", "globex"}[i%2])
	}
	all, err := w.client(t, "auditor").QueryRecords(client.RecordQuery{}).Collect(t.Context())
	w.must(err)
	decisions := func(of []*deputyv1.FoundRecord, holds func(*deputyv1.Record) bool) (ids []string) {
		for _, f := range of {
			if f.GetRecord().GetKind() == deputyv1.RecordKind_RECORD_KIND_DECISION && holds(f.GetRecord()) {
				ids = append(ids, f.GetDecisionId())
			}
		}
		return ids
	}
	kinds := []deputyv1.RecordKind{deputyv1.RecordKind_RECORD_KIND_DECISION}
	for name, holds := range map[string]func(*deputyv1.Record) bool{
		"auditor": func(*deputyv1.Record) bool { return true },
		"acme":    func(r *deputyv1.Record) bool { return r.GetTenantId() == "acme" },
		"globex":  func(r *deputyv1.Record) bool { return r.GetTenantId() == "globex" },
		"bots":    func(r *deputyv1.Record) bool { return r.GetAgentId() == "bot" },
		"plans":   func(r *deputyv1.Record) bool { return strings.HasPrefix(r.GetResourceId(), "pl") },
	} {
		c := w.client(t, name)
		want := decisions(all, holds)
		if len(want) == 0 {
			t.Fatalf("there is nothing for %s", name)
		}
		for _, newest := range []bool{false, true} {
			if newest {
				slices.Reverse(want)
			}
			var got []string
			q := client.RecordQuery{Kinds: kinds, NewestFirst: newest, Page: client.Page{Limit: 3}}
			for {
				list := c.QueryRecords(q)
				page, err := list.Collect(t.Context())
				w.must(err)
				got = append(got, decisions(page, func(*deputyv1.Record) bool { return true })...)
				if list.Complete() {
					break
				}
				q.Cursor = list.Next()
			}
			if !slices.Equal(got, want) {
				t.Errorf("%s, newest first %v: %d decisions, want %d", name, newest, len(got), len(want))
			}
		}
		for _, f := range all {
			_, err := c.Journal.GetRecord(t.Context(), &deputyv1.GetRecordRequest{DecisionId: f.GetDecisionId()})
			if f.GetRecord().GetKind() == deputyv1.RecordKind_RECORD_KIND_DECISION && (err == nil) != holds(f.GetRecord()) {
				t.Errorf("%s reads record %d: %v", name, f.GetRecord().GetSequence(), err)
			}
			if err != nil && client.ReasonOf(err) != client.ReasonRecordNotFound {
				t.Errorf("%s is refused record %d with %v", name, f.GetRecord().GetSequence(), err)
			}
		}
	}
	// What names no tenant is for nobody who is bound to one.
	for _, name := range []string{"acme", "globex"} {
		seen, err := w.client(t, name).QueryRecords(client.RecordQuery{}).Collect(t.Context())
		w.must(err)
		for _, f := range seen {
			if f.GetRecord().GetTenantId() != name {
				t.Errorf("%s sees a record of the tenant %q: %v", name, f.GetRecord().GetTenantId(), f.GetRecord())
			}
		}
	}
	// A cursor is its caller's.
	list := w.client(t, "auditor").QueryRecords(client.RecordQuery{Page: client.Page{Limit: 1}})
	_, err = list.Collect(t.Context())
	w.must(err)
	_, err = w.client(t, "acme").QueryRecords(client.RecordQuery{Page: client.Page{Limit: 1, Cursor: list.Next()}}).Collect(t.Context())
	if client.ReasonOf(err) != client.ReasonInvalidToken {
		t.Errorf("another caller's cursor is answered with %v", err)
	}
}

// TestFollowRecords: one that follows gets each decision, once and in order, soon after it was made, and the stream ends with the server.
func TestFollowRecords(t *testing.T) {
	w := newWorld(t, daemon.Config{Callers: auditors()})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	first := w.check("document:plan", "acme")
	got, err := w.client(t, "auditor").Journal.GetRecord(ctx, &deputyv1.GetRecordRequest{DecisionId: first.GetDecisionId()})
	w.must(err)
	q := client.RecordQuery{
		Kinds: []deputyv1.RecordKind{deputyv1.RecordKind_RECORD_KIND_DECISION}, From: time.Unix(0, got.GetRecord().GetRecord().GetTime()),
	}
	want := []string{first.GetDecisionId()}
	for f, err := range w.client(t, "acme").FollowRecords(ctx, q) {
		if err != nil {
			t.Fatal(err)
		}
		if f.GetDecisionId() != want[len(want)-1] {
			t.Fatalf("%s comes, want %s", f.GetDecisionId(), want[len(want)-1])
		}
		if len(want) == 20 {
			break
		}
		want = append(want, w.check("document:plan", "acme").GetDecisionId())
	}
	ended := make(chan error, 1)
	following := make(chan struct{})
	go func() {
		for _, err := range w.client(t, "auditor").FollowRecords(ctx, q) {
			if err != nil {
				ended <- err
				return
			}
			select {
			case following <- struct{}{}:
			default:
			}
		}
		ended <- errors.New("it ended without an error")
	}()
	<-following
	w.Stop()
	if err := <-ended; status.Code(err) != codes.Unavailable {
		t.Errorf("the stream ends with %v", err)
	}
}

// TestWhoReadsTheJournal: an admin does not, nor a service, and a server without a journal says so.
func TestWhoReadsTheJournal(t *testing.T) {
	w := newWorld(t, daemon.Config{Callers: auditors()})
	decision := w.check("document:plan", "acme").GetDecisionId()
	for name, c := range map[string]*client.Client{"admin": client.New(w.Admin), "service": client.New(w.Service)} {
		_, list := c.QueryRecords(client.RecordQuery{}).Collect(t.Context())
		_, get := c.Journal.GetRecord(t.Context(), &deputyv1.GetRecordRequest{DecisionId: decision})
		_, checkpoint := c.Journal.GetCheckpoint(t.Context(), &deputyv1.GetCheckpointRequest{})
		_, prove := c.Journal.ProveRecord(t.Context(), &deputyv1.ProveRecordRequest{DecisionId: decision})
		for _, err := range []error{list, get, checkpoint, prove} {
			if client.ReasonOf(err) != client.ReasonRoleRequired {
				t.Errorf("%s reads the journal: %v", name, err)
			}
		}
	}
	off := harness.Start(t, daemon.Config{Engine: harness.Embedded(t), Callers: auditors(), Journal: daemon.Journal{Off: true}})
	c := client.New(harness.Dial(t, off.Addr().String(), "the-key-of-auditor"))
	if _, err := c.QueryRecords(client.RecordQuery{}).Collect(t.Context()); client.ReasonOf(err) != client.ReasonNoJournal {
		t.Errorf("a server without a journal answers %v", err)
	}
}

// TestWrongQueriesAreNamed: bad input is refused with the field that is wrong.
func TestWrongQueriesAreNamed(t *testing.T) {
	w := newWorld(t, daemon.Config{Callers: auditors()})
	c := w.client(t, "auditor")
	for field, r := range map[string]*deputyv1.QueryRecordsRequest{
		"agent_id":              {AgentId: strings.Repeat("a", 5000)},
		"principal.object_type": {Principal: &deputyv1.ObjectReference{ObjectId: "alice"}},
		"resource.object_id":    {Resource: &deputyv1.ObjectReference{ObjectType: "document"}},
		"permission":            {Permission: "no permission"},
		"answer":                {Answer: 99},
		"refused_by":            {RefusedBy: 99},
		"kinds":                 {Kinds: []deputyv1.RecordKind{0}},
		"limit":                 {Limit: 10_001},
		"newest_first":          {NewestFirst: true, Follow: true},
		"cursor":                {Cursor: &deputyv1.Cursor{Token: "made up"}},
	} {
		stream, err := c.Journal.QueryRecords(t.Context(), r)
		w.must(err)
		if _, err = stream.Recv(); status.Code(err) != codes.InvalidArgument || client.FieldOf(err) != field {
			t.Errorf("%v is answered with %v", r, err)
		}
	}
}
