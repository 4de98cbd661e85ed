package journal_test

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/deputyauth/deputy/pkg/cli"
	"github.com/deputyauth/deputy/pkg/daemon"
	"github.com/deputyauth/deputy/pkg/engine"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/tests/harness"
)

// command runs the command line in this process, beside the server.
func command(t *testing.T, args ...string) (out string, code int) {
	t.Helper()
	var b bytes.Buffer
	code = cli.Run(t.Context(), args, cli.Streams{In: strings.NewReader(""), Out: &b, Err: &b}, func(string) (string, bool) { return "", false })
	return b.String(), code
}

// records queries a journal as an auditor.
func records(t *testing.T, conn *grpc.ClientConn, q *deputyv1.QueryRecordsRequest) (found []*deputyv1.FoundRecord) {
	t.Helper()
	stream, err := deputyv1.NewJournalServiceClient(conn).QueryRecords(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	for {
		got, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return found
		}
		if err != nil {
			t.Fatal(err)
		}
		// An auditor who asks for somebody is recorded too.
		if r := got.GetRecord(); r != nil && !strings.Contains(r.GetRecord().GetMethod(), "JournalService") {
			found = append(found, r)
		}
	}
}

// holds reports whether a file below a directory has a text.
func holds(t *testing.T, dir, text string) bool {
	t.Helper()
	found := false
	if err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		found = found || bytes.Contains(content, []byte(text))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return found
}

// ofPerson asks for what is recorded of a principal.
func ofPerson(id string) map[string]*deputyv1.QueryRecordsRequest {
	person := &deputyv1.ObjectReference{ObjectType: "user", ObjectId: id}
	return map[string]*deputyv1.QueryRecordsRequest{
		"principal in a tenant": {Principal: person, TenantId: "acme"}, "principal": {Principal: person},
	}
}

func TestErasingAPerson(t *testing.T) {
	t.Parallel()
	var data string
	cfg := withAuditors(daemon.Config{Journal: daemon.Journal{Erasable: true, PersonalTypes: []string{"document"}}})
	w := newWorldOn(t, cfg, func(e *engine.Config) { data = e.Dir })
	journalDir, keys := daemon.JournalDir(data), daemon.KeyDir(data)
	made := w.decide(question("document:plan"))
	if made.GetPermissionship() != has {
		t.Fatal(made)
	}
	forCarol := question("document:plan")
	forCarol.OnBehalfOf = harness.Ref("user:carol")
	carols := w.decide(forCarol).GetDecisionId()
	for range 300 { // more than a bundle, so that the index has some of it
		w.decide(question("document:daily"))
	}
	_, err := w.Principals().Suspend(t.Context(), &deputyv1.SuspendRequest{Principal: harness.Ref("user:alice")})
	w.must(err)
	auditor := w.as(auditorKey)
	if !holds(t, journalDir, "view") || !holds(t, journalDir, "acme") {
		t.Fatal("the journal is read elsewhere")
	}
	for _, word := range []string{"alice", "carol", "plan"} {
		if holds(t, journalDir, word) {
			t.Errorf("the journal holds %q as it is", word)
		}
	}
	for name, q := range ofPerson("alice") {
		found := records(t, auditor, q)
		if len(found) == 0 {
			t.Errorf("by %s nothing is found before the erasure", name)
		}
		for _, f := range found {
			if r := f.GetRecord(); f.GetErased() || r.GetPrincipalId() != "alice" && r.GetResourceId() != "alice" {
				t.Errorf("by %s: %v", name, f)
			}
		}
	}
	// A backup of data and journal is made before the erasure, and the server goes on.
	w.Stop()
	<-w.Stopped
	w.must(w.Close())
	w.Failed = true // it is closed already
	backup := filepath.Join(t.TempDir(), "backup")
	w.must(os.CopyFS(backup, os.DirFS(data)))
	cfg.Engine = engine.Config{Kind: engine.Embedded, Dir: data}
	w.Server = harness.Start(t, cfg)
	auditor = w.as(auditorKey)

	plans := &deputyv1.QueryRecordsRequest{Resource: harness.Ref("document:plan")}
	if found := records(t, auditor, plans); len(found) != 3 { // one is of the world itself
		t.Errorf("%d records of an object of a personal type: %v", len(found), found)
	}

	// Without --yes nothing happens; what is missing is asked for.
	erase := []string{"journal", "erase", "user:alice", "--key-dir", keys}
	if out, code := command(t, erase...); code == 0 || !strings.Contains(out, "--all-tenants") {
		t.Error(code, out)
	}
	erase = append(erase, "--all-tenants")
	if out, code := command(t, erase...); code != 0 || !strings.Contains(out, "Nothing was destroyed") {
		t.Error(code, out)
	}
	if len(records(t, auditor, ofPerson("alice")["principal"])) == 0 {
		t.Fatal("a look has erased")
	}
	if out, code := command(t, append(erase, "--yes")...); code != 0 || !strings.Contains(out, " destroyed, and nothing opens what was sealed") {
		t.Fatal(code, out)
	}
	check := func(auditor *grpc.ClientConn) {
		t.Helper()
		for name, q := range ofPerson("alice") {
			if found := records(t, auditor, q); len(found) > 0 {
				t.Errorf("by %s: %v", name, found[0])
			}
		}
		got, err := deputyv1.NewJournalServiceClient(auditor).GetRecord(t.Context(), &deputyv1.GetRecordRequest{DecisionId: made.GetDecisionId()})
		w.must(err)
		if r := got.GetRecord(); !r.GetErased() || r.GetRecord().GetPrincipalId()+r.GetRecord().GetResourceId() != "" || r.GetRecord().GetAnswer() != has {
			t.Error(r)
		}
		for _, f := range records(t, auditor, &deputyv1.QueryRecordsRequest{Limit: 10000}) {
			for _, word := range []string{"alice"} {
				if strings.Contains(f.String(), word) {
					t.Errorf("%q is read in %v", word, f)
				}
			}
		}
		if found := records(t, auditor, plans); len(found) != 1 || found[0].GetDecisionId() != carols {
			t.Error("records of an object of a personal type:", found)
		}
		got, err = deputyv1.NewJournalServiceClient(auditor).GetRecord(t.Context(), &deputyv1.GetRecordRequest{DecisionId: carols})
		w.must(err)
		if r := got.GetRecord(); r.GetErased() || r.GetRecord().GetPrincipalId() != "carol" || r.GetRecord().GetResourceId() != "plan" {
			t.Error("somebody else's record:", r)
		}
		if found := records(t, auditor, ofPerson("carol")["principal in a tenant"]); len(found) == 0 {
			t.Error("somebody else's records are not found")
		}
	}
	check(auditor)
	if _, err := w.past(made.GetDecisionId(), nil); status.Code(err) != codes.FailedPrecondition || reason(err) != "ERASED" {
		t.Error("explained:", err)
	}
	w.Stop()
	<-w.Stopped
	w.must(w.Close())
	w.Failed = true // it is closed already
	if out, code := command(t, "journal", "verify", journalDir); code != 0 {
		t.Error("the journal does not verify:", out)
	}
	// A backup of data and journal, with an index that is made anew, has no more to tell.
	w.must(os.RemoveAll(filepath.Join(daemon.JournalDir(backup), "index")))
	cfg.Engine = engine.Config{Kind: engine.Embedded, Dir: backup}
	cfg.Journal.KeyDir = keys
	restored := harness.Start(t, cfg)
	check(harness.Dial(t, restored.Addr().String(), auditorKey))
}
