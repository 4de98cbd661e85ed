package callers_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/deputyauth/deputy/pkg/caller"
	"github.com/deputyauth/deputy/pkg/daemon"
	"github.com/deputyauth/deputy/tests/harness"
)

// figures returns what a server tells Prometheus, by series.
func (w *world) figures() map[string]string {
	w.t.Helper()
	req, err := http.NewRequestWithContext(w.t.Context(), http.MethodGet, "http://"+w.MetricsAddr().String()+"/metrics", http.NoBody)
	w.must(err)
	answer, err := http.DefaultClient.Do(req)
	w.must(err)
	defer func() { _ = answer.Body.Close() }()
	if answer.StatusCode != http.StatusOK {
		w.t.Fatalf("the metrics are %s", answer.Status)
	}
	text, err := io.ReadAll(answer.Body)
	w.must(err)
	all := map[string]string{}
	for line := range strings.Lines(string(text)) {
		if at := strings.LastIndexByte(line, ' '); at > 0 && !strings.HasPrefix(line, "#") {
			all[line[:at]] = strings.TrimSpace(line[at:])
		}
	}
	return all
}

// TestFigures: calls are counted by method, caller and reason, and decisions by the gate that refused.
func TestFigures(t *testing.T) {
	w := newWorld(t, daemon.Config{Engine: harness.Embedded(t), Callers: configured(t), MetricsAddr: "127.0.0.1:0"})
	checker := harness.Dial(t, w.Addr().String(), keyOf("checker-bound"))
	const check = "deputy.v1.PermissionsService/CheckPermission"
	ask := func(conn *grpc.ClientConn, request string, want codes.Code) {
		t.Helper()
		if _, err := w.invoke(conn, check, request); status.Code(err) != want {
			t.Errorf("%s: %v, want %s", request, err, want)
		}
	}
	question := func(agent, doc string) string {
		return fmt.Sprintf(`{"agent_id":%q,"on_behalf_of":{"object_type":"user","object_id":"alice-acme"},"tenant_id":"acme",`+
			`"resource":{"object_type":"document","object_id":%q},"permission":"view"}`, agent, doc)
	}
	ask(checker, question("bot-acme", "plan-acme"), codes.OK)
	ask(checker, question("bot-acme", "plan-acme"), codes.OK)
	ask(checker, question("bot-acme", "plan-globex"), codes.OK) // refused by its tenant
	ask(w.Admin, question("nobodys", "plan-acme"), codes.OK)    // nothing lets it act
	ask(w.Nobody, question("bot-acme", "plan-acme"), codes.Unauthenticated)
	ask(harness.Dial(t, w.Addr().String(), keyOf("auditor-bound")), question("bot-acme", "plan-acme"), codes.PermissionDenied)
	if _, err := w.invoke(checker, "authzed.api.v1.WatchService/Watch", "{}"); status.Code(err) != codes.PermissionDenied {
		t.Errorf("a confined caller watches: %v", err)
	}
	bulk := fmt.Sprintf(`{"items":[%s,%s]}`, question("bot-acme", "plan-acme"), strings.Replace(question("bot-acme", "plan-acme"), "view", "sing", 1))
	if _, err := w.invoke(checker, "deputy.v1.PermissionsService/CheckBulkPermissions", bulk); err != nil {
		t.Error(err)
	}
	// An explanation lets nobody act.
	if _, err := w.invoke(w.Admin, "deputy.v1.PermissionsService/ExplainPermission", `{"check":`+question("bot-acme", "plan-acme")+`}`); err != nil {
		t.Error(err)
	}
	// A caller that invents methods makes no series of them.
	for i := range 10 {
		_ = checker.Invoke(t.Context(), fmt.Sprintf("/deputy.v1.PermissionsService/Invented%d", i), &emptypb.Empty{}, &emptypb.Empty{})
		_ = w.Nobody.Invoke(t.Context(), fmt.Sprintf("/invented.Service%d/Call", i), &emptypb.Empty{}, &emptypb.Empty{})
	}
	got := w.figures()
	const unary = `grpc_method="CheckPermission",grpc_service="deputy.v1.PermissionsService",grpc_type="unary"}`
	for series, want := range map[string]string{
		`grpc_server_started_total{` + unary:                                        "6",
		`grpc_server_handled_total{grpc_code="OK",` + unary:                         "4",
		`grpc_server_handled_total{grpc_code="Unauthenticated",` + unary:            "1",
		`grpc_server_handled_total{grpc_code="PermissionDenied",` + unary:           "1",
		`grpc_server_handling_seconds_count{` + unary:                               "6",
		`deputy_calls_in_flight`:                                                    "0",
		`deputy_calls_total{caller="checker-bound"}`:                                "15", // with those that it invented
		`deputy_calls_total{caller="auditor-bound"}`:                                "1",
		`deputy_calls_total{caller="nobody"}`:                                       "11",
		`deputy_calls_total{caller="other"}`:                                        "0",
		`deputy_calls_refused_total{caller="nobody",reason="UNAUTHENTICATED"}`:      "11",
		`deputy_calls_refused_total{caller="auditor-bound",reason="ROLE_REQUIRED"}`: "1",
		`deputy_calls_refused_total{caller="checker-bound",reason="OUT_OF_BOUNDS"}`: "1",
		`deputy_decisions_total{answer="has_permission",refused_by=""}`:             "3",
		`deputy_decisions_total{answer="conditional_permission",refused_by=""}`:     "0",
		`deputy_decisions_total{answer="no_permission",refused_by="tenant"}`:        "1",
		`deputy_decisions_total{answer="no_permission",refused_by="delegation"}`:    "1",
		`deputy_decisions_total{answer="no_permission",refused_by="baseline"}`:      "0",
		`deputy_decisions_total{answer="error",refused_by=""}`:                      "1",
	} {
		if got[series] != want {
			t.Errorf("%s is %q, want %s", series, got[series], want)
		}
	}
	if _, err := w.invoke(w.Admin, "authzed.api.v1.SchemaService/ReadSchema", "{}"); err != nil {
		t.Error(err)
	}
	// A method of one request and one answer is that to its callers, however the door serves it.
	const door = `grpc_server_started_total{grpc_method="ReadSchema",grpc_service="authzed.api.v1.SchemaService",grpc_type="`
	if now := w.figures(); now[door+`unary"}`] == "" || now[door+`bidi_stream"}`] != "" {
		t.Errorf("ReadSchema is no unary method: %v", now)
	}
	for series := range got {
		if strings.Contains(strings.ToLower(series), "invented") || strings.HasPrefix(series, "grpc_server_msg_") {
			t.Errorf("there is %s", series)
		}
	}
}

// TestManyCallers: the first callers have series of their own, all others share one.
func TestManyCallers(t *testing.T) {
	cfg := daemon.Config{Engine: harness.Embedded(t), MetricsAddr: "127.0.0.1:0"}
	const configuredCallers, ofTheirOwn = 230, 200
	for i := range configuredCallers {
		c := *configured(t)[1]
		c.Name, c.Credentials = fmt.Sprintf("caller-%d", i), []caller.Credential{{ID: "key", Key: digest(keyOf(fmt.Sprintf("caller-%d", i)))}}
		cfg.Callers = append(cfg.Callers, &c)
	}
	s := harness.Start(t, cfg)
	w := &world{t: t, Server: s}
	for range 2 {
		for i := range configuredCallers {
			if _, err := w.invoke(harness.Dial(t, s.Addr().String(), keyOf(fmt.Sprintf("caller-%d", i))),
				"grpc.health.v1.Health/Check", "{}"); err != nil {
				t.Fatal(err)
			}
		}
	}
	var names int
	for series := range w.figures() {
		if strings.HasPrefix(series, `deputy_calls_total{caller="caller-`) {
			names++
		}
	}
	if names != ofTheirOwn {
		t.Errorf("%d callers have series of their own, want %d", names, ofTheirOwn)
	}
	if got, want := w.figures()[`deputy_calls_total{caller="other"}`], fmt.Sprint(2*(configuredCallers-ofTheirOwn)); got != want {
		t.Errorf("the others made %s calls, want %s", got, want)
	}
}

// loose are families of metrics that docs/operations.md describes together.
var loose = regexp.MustCompile(`^(deputy_store_|go_|process_|promhttp_)`)

// TestFiguresAreDocumented: docs/operations.md names each metric that there is, and no other. The server has all that have metrics of their
// own: TLS, and a file of callers. Those of a copy are another server's, which follows a database.
func TestFiguresAreDocumented(t *testing.T) {
	file := filepath.Join(t.TempDir(), "callers.yaml")
	if err := os.WriteFile(file, []byte("callers: []\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := daemon.Config{Engine: harness.Embedded(t), MetricsAddr: "127.0.0.1:0", CallersPath: file, HTTPAddr: "127.0.0.1:0"}
	cfg.PresharedKeys, cfg.AdminPresharedKeys = []string{harness.ServiceKey}, []string{harness.AdminKey}
	w := newWorld(t, newProofs(t).server(t, cfg))
	if _, err := w.invoke(w.Nobody, "deputy.v1.AgentsService/ListAgents", "{}"); status.Code(err) != codes.Unauthenticated {
		t.Errorf("a call without a key: %v", err)
	}
	page, err := os.ReadFile("../../docs/operations.md")
	w.must(err)
	var named, served []string
	for _, name := range regexp.MustCompile("`((?:deputy|grpc_server)_[a-z_]*[a-z])`").FindAllStringSubmatch(string(page), -1) {
		if !loose.MatchString(name[1]) {
			named = append(named, name[1])
		}
	}
	serves := func(w *world, prefix string) {
		for series := range w.figures() {
			name, _, _ := strings.Cut(series, "{")
			for _, end := range []string{"_bucket", "_sum", "_count"} {
				name = strings.TrimSuffix(name, end)
			}
			if !loose.MatchString(name) && strings.HasPrefix(name, prefix) {
				served = append(served, name)
			}
		}
	}
	serves(w, "")
	const ofCopies = "deputy_follow_"
	followed := false
	t.Run("a server that follows", func(t *testing.T) {
		cfg := harness.Followed(t)
		cfg.MetricsAddr = "127.0.0.1:0"
		serves(newWorld(t, cfg), ofCopies)
		followed = true
	})
	named = slices.DeleteFunc(named, func(name string) bool { return !followed && strings.HasPrefix(name, ofCopies) })
	slices.Sort(named)
	slices.Sort(served)
	named, served = slices.Compact(named), slices.Compact(served)
	if !slices.Equal(named, served) {
		t.Errorf("docs/operations.md names\n%s\nand the server has\n%s", strings.Join(named, "\n"), strings.Join(served, "\n"))
	}
}

// TestLog: each call leaves a line with its caller's name, and no credential.
func TestLog(t *testing.T) {
	var written syncBuffer
	log := zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()), &written, zapcore.DebugLevel))
	s := harness.StartLogging(t, daemon.Config{Engine: harness.Embedded(t), Callers: configured(t)}, log)
	w := &world{t: t, Server: s}
	for _, by := range []struct {
		key, name string
		code      codes.Code
	}{
		{keyOf("auditor-bound"), "auditor-bound", codes.OK},
		{keyOf("writer-bound"), "writer-bound", codes.PermissionDenied},
		{"a-key-that-nobody-has", caller.NobodyName, codes.Unauthenticated},
	} {
		written.Reset()
		_, err := w.invoke(harness.Dial(t, s.Addr().String(), by.key), "deputy.v1.AgentsService/ListAgents", "{}")
		if status.Code(err) != by.code && by.code != codes.OK {
			t.Errorf("%s: %v", by.key, err)
		}
		lines := written.String()
		if n := strings.Count(lines, `"caller":"`+by.name+`"`); n != 1 {
			t.Errorf("%d lines name the caller %q, want 1:\n%s", n, by.name, lines)
		}
		if strings.Contains(lines, by.key) {
			t.Errorf("the log shows a key:\n%s", lines)
		}
	}
}

// syncBuffer is a buffer that a log writes to while a test reads it.
type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// Write is io.Writer's.
func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

// Sync is zapcore.WriteSyncer's.
func (*syncBuffer) Sync() error { return nil }

// Reset forgets what was written.
func (b *syncBuffer) Reset() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.buf.Reset()
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
