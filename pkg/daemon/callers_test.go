package daemon

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	authzed "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/deputyauth/deputy/pkg/caller/file"
	"github.com/deputyauth/deputy/pkg/engine"
	"github.com/deputyauth/deputy/schema"
)

const testAdminKey = "key-of-the-admin"

// entry returns a caller of a callers file, whose keys are "key-of-NAME-1" and so on.
func entry(name, rights string, credentials ...string) string {
	text := "  - {name: " + name + ", " + rights + ", credentials: ["
	for i, fields := range credentials {
		text += fmt.Sprintf("{id: k%d, key: \"sha256:%x\"%s}, ", i+1, sha256.Sum256(fmt.Appendf(nil, "key-of-%s-%d", name, i+1)), fields)
	}
	return text + "]}\n"
}

// callersServer is a server with a file of callers.
type callersServer struct {
	*Daemon

	conn *grpc.ClientConn
	log  *observer.ObservedLogs
	// ahead is by how much the clock that credentials expire by is.
	ahead atomic.Int64
}

// withCallers serves a file until the test ends.
func withCallers(t *testing.T, path string, every time.Duration) *callersServer {
	t.Helper()
	core, log := observer.New(zap.InfoLevel)
	d, err := Open(t.Context(), Config{
		AdminPresharedKeys: []string{testAdminKey}, CallersPath: path, callersEvery: every,
		Engine: engine.Config{Kind: engine.Memory}, MetricsAddr: "127.0.0.1:0",
	}, zap.New(core))
	if err != nil {
		t.Fatal(err)
	}
	s := &callersServer{Daemon: d, log: log}
	d.callers.Now = func() time.Time { return time.Now().Add(time.Duration(s.ahead.Load())) }
	served := make(chan error, 1)
	go func() { served <- d.Serve(t.Context()) }()
	if s.conn, err = grpc.NewClient(d.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials())); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = s.conn.Close()
		if err := d.Close(); err != nil {
			t.Error(err)
		}
		<-served
	})
	_, err = authzed.NewSchemaServiceClient(s.conn).WriteSchema(bearing(t, testAdminKey), &authzed.WriteSchemaRequest{Schema: schema.Core})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func bearing(t *testing.T, key string) context.Context {
	t.Helper()
	return metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+key)
}

// call makes a call with a key, and returns its code.
func (s *callersServer) call(t *testing.T, key string) codes.Code {
	t.Helper()
	_, err := authzed.NewSchemaServiceClient(s.conn).ReadSchema(bearing(t, key), &authzed.ReadSchemaRequest{})
	return status.Code(err)
}

// health returns what the server says of its file.
func (s *callersServer) health(t *testing.T) healthv1.HealthCheckResponse_ServingStatus {
	t.Helper()
	is, err := healthv1.NewHealthClient(s.conn).Check(t.Context(), &healthv1.HealthCheckRequest{Service: HealthCallers})
	if err != nil {
		t.Fatal(err)
	}
	return is.GetStatus()
}

// figures returns what Prometheus finds.
func (s *callersServer) figures(t *testing.T) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+s.MetricsAddr().String()+"/metrics", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// until waits until something holds.
func until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	tick, late := time.NewTicker(5*time.Millisecond), time.After(30*time.Second)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("not in time: %s", what)
		}
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// reader are the rights of a caller that may read the schema.
const reader = "roles: [schema-admin], tenants: all, authzed_api: [ReadSchema]"

// TestCallersFileIsReadAgain: a server takes up a file of callers that Kubernetes swaps, whose length and times are those of the one before.
// One that is wrong, or gone, is refused: log, health and figures say so, and the callers before stay in force.
func TestCallersFileIsReadAgain(t *testing.T) {
	t.Parallel()
	// As the kubelet lays it out: callers.yaml -> ..data/callers.yaml, ..data -> ..version.
	dir := t.TempDir()
	path := filepath.Join(dir, "callers.yaml")
	swap := func(version, text string) {
		t.Helper()
		at := filepath.Join(dir, version)
		if err := os.Mkdir(at, 0o700); err != nil {
			t.Fatal(err)
		}
		if text != "" {
			write(t, filepath.Join(at, "callers.yaml"), text)
			then := time.Unix(1_700_000_000, 0)
			if err := os.Chtimes(filepath.Join(at, "callers.yaml"), then, then); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Symlink(version, filepath.Join(dir, "..data_tmp")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")); err != nil {
			t.Fatal(err)
		}
	}
	swap("..1", "callers:\n"+entry("anna", reader, ""))
	if err := os.Symlink(filepath.Join("..data", "callers.yaml"), path); err != nil {
		t.Fatal(err)
	}
	s := withCallers(t, path, 10*time.Millisecond)
	if a, b := s.call(t, "key-of-anna-1"), s.call(t, "key-of-bert-1"); a != codes.OK || b != codes.Unauthenticated {
		t.Errorf("at first %s and %s", a, b)
	}

	swap("..2", "callers:\n"+entry("bert", reader, ""))
	until(t, "the new file is in force", func() bool { return s.call(t, "key-of-bert-1") == codes.OK })
	if a := s.call(t, "key-of-anna-1"); a != codes.Unauthenticated {
		t.Errorf("anna is gone, and gets %s", a)
	}
	if is := s.health(t); is != healthv1.HealthCheckResponse_SERVING {
		t.Errorf("health is %s", is)
	}

	for i, wrong := range []string{"callers:\n  - name: anna\n    roles: [cheker]\n    tenants: all\n    credentials: []\n", ""} {
		swap(fmt.Sprintf("..wrong-%d", i), wrong)
		until(t, "the wrong file is found", func() bool { return s.log.FilterMessageSnippet("is refused").Len() == i+1 })
		if b := s.call(t, "key-of-bert-1"); b != codes.OK {
			t.Errorf("with a wrong file bert gets %s", b)
		}
		until(t, "health says so", func() bool { return s.health(t) == healthv1.HealthCheckResponse_NOT_SERVING })
		if is := HealthOf(s.Daemon); is != healthv1.HealthCheckResponse_SERVING {
			t.Errorf("the server itself is %s", is)
		}
	}
	refused := s.log.FilterMessageSnippet("is refused").All()
	if fields := refused[0].ContextMap(); fields["file"] != path || fields["line"] != int64(3) || !strings.Contains(fmt.Sprint(fields["reason"]), `"cheker" is no role`) {
		t.Errorf("the log says %v", fields)
	}
	if fields := refused[1].ContextMap(); fields["file"] != path || !strings.Contains(fmt.Sprint(fields["reason"]), "no such file") {
		t.Errorf("the log says %v", fields)
	}
	for _, line := range []string{
		`deputy_callers_reloads_total{result="success"} 1`, `deputy_callers_reloads_total{result="failure"} 2`, "deputy_callers_file_in_force 0",
		"deputy_callers_in_force_since_timestamp_seconds ",
	} {
		if figures := s.figures(t); !strings.Contains(figures, "\n"+line) {
			t.Errorf("the figures lack %s", line)
		}
	}
	if err := s.Reload(); err == nil || s.log.FilterMessageSnippet("is refused").Len() != 3 {
		t.Errorf("Reload says %v", err)
	}

	swap("..3", "callers: []\n")
	until(t, "the file without callers is in force", func() bool { return s.call(t, "key-of-bert-1") == codes.Unauthenticated })
	until(t, "health says so", func() bool { return s.health(t) == healthv1.HealthCheckResponse_SERVING })
	if figures := s.figures(t); !strings.Contains(figures, "\ndeputy_callers_file_in_force 1\n") {
		t.Error("the figures do not say that the file is in force")
	}
	if a := s.call(t, testAdminKey); a != codes.OK {
		t.Errorf("the admin's preshared key gets %s", a)
	}
}

// TestCallersFileAtStart: a server does not start with a file that is wrong, or with nobody who could call.
func TestCallersFileAtStart(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "callers.yaml")
	for text, want := range map[string]string{
		"callers: []\n":           "has no callers, and no preshared key is set",
		"callers:\n- {name: a}\n": ":2: a caller has no roles",
		"callers:\n" + entry("a", reader, ", expires: 2000-01-01T00:00:00Z"): "",
	} {
		write(t, path, text)
		cfg := Config{CallersPath: path, Engine: engine.Config{Kind: engine.Memory}}
		d, err := Open(t.Context(), cfg, zap.NewNop())
		if err == nil {
			_ = d.Close()
		}
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), path) || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s\ngot %v, want %s", text, err, want)
		}
		if _, ok := errors.AsType[*file.Problem](err); err != nil && !ok {
			t.Errorf("%T", err)
		}
		if checked := cfg.Check(); (checked == nil) != (want == "") {
			t.Errorf("Check says %v", checked)
		}
	}
}

// watchers are the rights of a caller that watches.
const watchers = "roles: [auditor, writer], tenants: all, authzed_api: [Watch, ReadSchema, ImportBulkRelationships]"

// TestOpenStreamsAreJudgedAgain: while a stream is open, its caller may lose what it takes to open it; then it ends. Others go on.
func TestOpenStreamsAreJudgedAgain(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "callers.yaml")
	all := func(rights map[string]string) string {
		text := "callers:\n"
		for _, name := range []string{"same", "wider", "rotated", "gone", "revoked", "roleless", "methodless", "confined", "narrower", "renamed", "late", "importer"} {
			if line, changed := rights[name]; !changed {
				text += entry(name, watchers, "", "")
			} else {
				text += line
			}
		}
		return text
	}
	late := time.Now().Add(time.Hour)
	lately := entry("late", watchers, ", expires: "+late.UTC().Format(time.RFC3339))
	write(t, path, all(map[string]string{"late": lately}))
	s := withCallers(t, path, time.Hour)

	const goesOn = "goes on"
	ends := map[string]string{
		"same": goesOn, "wider": goesOn, "rotated": goesOn, "late": goesOn,
		"gone": "UNAUTHENTICATED/UNAUTHENTICATED", "revoked": "UNAUTHENTICATED/UNAUTHENTICATED", "importer": "UNAUTHENTICATED/UNAUTHENTICATED",
		"roleless": "PERMISSION_DENIED/ROLE_REQUIRED", "methodless": "PERMISSION_DENIED/OUT_OF_BOUNDS", "confined": "PERMISSION_DENIED/OUT_OF_BOUNDS",
		"narrower": "UNAVAILABLE/CALLER_CHANGED", "renamed": "UNAVAILABLE/CALLER_CHANGED",
	}
	// A caller's tokens are the callers' own, so one of them says from when on all watch.
	begin, err := authzed.NewSchemaServiceClient(s.conn).ReadSchema(bearing(t, "key-of-same-1"), &authzed.ReadSchemaRequest{})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]chan string{}
	for name := range ends {
		got[name] = make(chan string, 16)
		ctx := bearing(t, "key-of-"+name+"-1")
		var stream interface{ RecvMsg(m any) error }
		var err error
		var into func() any
		if name == "importer" { // its handler waits for its client
			stream, err = authzed.NewPermissionsServiceClient(s.conn).ImportBulkRelationships(ctx)
			into = func() any { return &authzed.ImportBulkRelationshipsResponse{} }
		} else {
			stream, err = authzed.NewWatchServiceClient(s.conn).Watch(ctx, &authzed.WatchRequest{OptionalStartCursor: begin.GetReadAt()})
			into = func() any { return &authzed.WatchResponse{} }
		}
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			for {
				if err := stream.RecvMsg(into()); err != nil {
					got[name] <- endOf(err)
					return
				}
				got[name] <- goesOn
			}
		}()
	}
	until(t, "all streams are open", func() bool { return len(s.gate.OpenStreams()) == len(ends) })
	join := func(user string) {
		t.Helper()
		_, err := authzed.NewPermissionsServiceClient(s.conn).WriteRelationships(bearing(t, testAdminKey), &authzed.WriteRelationshipsRequest{
			Updates: []*authzed.RelationshipUpdate{{
				Operation: authzed.RelationshipUpdate_OPERATION_TOUCH,
				Relationship: &authzed.Relationship{
					Resource: &authzed.ObjectReference{ObjectType: "tenant", ObjectId: "acme"}, Relation: "member",
					Subject: &authzed.SubjectReference{Object: &authzed.ObjectReference{ObjectType: "user", ObjectId: user}},
				},
			}},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	// A stream is open before its request has come, and then goes on as what its caller is by that time. So the file waits until all requests
	// have come: a caller that watches is told of a write.
	join("alice")
	for name := range ends {
		if name == "importer" { // it has sent nothing
			continue
		}
		if is := next(t, got[name]); is != goesOn {
			t.Fatalf("the stream of %s: %s", name, is)
		}
	}

	moved := strings.ReplaceAll(entry("renamed", watchers, "", ""), "name: renamed", "name: another")
	write(t, path, all(map[string]string{
		"wider":      entry("wider", strings.Replace(watchers, "auditor", "auditor, responder", 1), "", ""),
		"rotated":    entry("rotated", watchers, "", ", expires: 2000-01-01T00:00:00Z"),
		"gone":       "",
		"revoked":    entry("revoked", watchers),
		"importer":   entry("importer", watchers),
		"roleless":   entry("roleless", strings.Replace(watchers, "auditor, writer", "responder", 1), "", ""),
		"methodless": entry("methodless", strings.Replace(watchers, "Watch, ", "", 1), "", ""),
		"confined":   entry("confined", strings.Replace(watchers, "tenants: all", "tenants: [acme]", 1), "", ""),
		"narrower":   entry("narrower", watchers+", agents: [bot]", "", ""),
		"renamed":    moved,
		"late":       lately,
	}))
	if err := s.Reload(); err != nil {
		t.Fatal(err)
	}
	for name, want := range ends {
		if want == goesOn {
			continue
		}
		if is := next(t, got[name]); is != want {
			t.Errorf("the stream of %s ended with %s, want %s", name, is, want)
		}
	}
	// The others are told of a write that comes now.
	join("bob")
	for name, want := range ends {
		if want != goesOn {
			continue
		}
		if is := next(t, got[name]); is != goesOn {
			t.Errorf("the stream of %s: %s", name, is)
		}
	}
	// A credential ends without a new file.
	s.ahead.Store(int64(2 * time.Hour))
	if is := next(t, got["late"]); is != "UNAUTHENTICATED/UNAUTHENTICATED" {
		t.Errorf("the stream of late ended with %s", is)
	}
	if is := s.call(t, "key-of-late-1"); is != codes.Unauthenticated {
		t.Errorf("a call with a key that is over gets %s", is)
	}
	until(t, "no more than three streams are open", func() bool { return len(s.gate.OpenStreams()) == 3 })
}

// next returns what comes next.
func next(t *testing.T, from <-chan string) string {
	t.Helper()
	select {
	case is := <-from:
		return is
	case <-time.After(10 * time.Second):
		return "nothing comes"
	}
}

// endOf is the code and the reason of a stream's end.
func endOf(err error) string {
	s := status.Convert(err)
	reason := ""
	for _, detail := range s.Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			reason = info.GetReason()
		}
	}
	names := map[codes.Code]string{
		codes.Unauthenticated: "UNAUTHENTICATED", codes.PermissionDenied: "PERMISSION_DENIED", codes.Unavailable: "UNAVAILABLE",
	}
	if name := names[s.Code()]; name != "" {
		return name + "/" + reason
	}
	return s.String()
}
