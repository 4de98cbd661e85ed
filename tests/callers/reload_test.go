package callers_test

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/deputyauth/deputy/pkg/daemon"
	"github.com/deputyauth/deputy/pkg/engine"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/schema"
	"github.com/deputyauth/deputy/tests/harness"
)

// reloads counts the versions of what is reloaded: version n has begun to come, or is in force, once a counter is n or more. What is between
// the two is nobody's to say, so a call is judged only by what held from its begin to its end.
type reloads struct{ begun, done atomic.Int64 }

// next has put bring the next version in force.
func (r *reloads) next(put func(version int64)) {
	version := r.begun.Add(1)
	put(version)
	r.done.Store(version)
}

// during makes a call. It returns the version that was in force when the call began, and the last one that had begun to come when it ended.
func (r *reloads) during(call func() codes.Code) (from, to int64, code codes.Code) {
	from = r.done.Load()
	code = call()
	return from, r.begun.Load(), code
}

// expected is which codes a call may end with whose proof is good in the versions from added on, until and without removed.
func expected(from, to, added, removed int64) (mustPass, mustFail bool) {
	return from >= added && to < removed, from >= removed || to < added
}

// TestReloadUnderLoad: 10,000 calls while keys and roles come and go in the file of callers, while it is wrong in between, and while the server's
// certificate, an authority of its clients and its issuer's keys change with it. None fails that was entitled from its begin to its end, and
// none passes whose entitlement was over before it began, or came only after it had ended.
func TestReloadUnderLoad(t *testing.T) {
	const (
		calls, workers = 10_000, 8
		perReload      = 40 // calls between two versions, at least
		overlap        = 2  // versions for which a key of the caller that rotates is good
	)
	dir := t.TempDir()
	path := filepath.Join(dir, "callers.yaml")
	replace := func(path string, text []byte) {
		if err := os.WriteFile(path+".new", text, 0o600); err != nil {
			t.Error(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Error(err)
		}
	}
	put := func(text string) { replace(path, []byte(text)) }
	stays, goes, issuer := harness.NewAuthority(t, "stays"), harness.NewAuthority(t, "goes and comes"), harness.NewIssuer(t)
	known := issuer.Known(t, dir)
	// When the key of the caller "ending" is over; the file's times have no parts of a second.
	ends := time.Now().Add(time.Hour).Truncate(time.Second)
	credential := func(id, key, more string) string {
		return fmt.Sprintf("      - {id: %s, key: \"sha256:%x\"%s}\n", id, sha256.Sum256([]byte(key)), more)
	}
	version := func(n int64) string {
		caller := func(name, rights string, credentials ...string) string {
			return "  - name: " + name + "\n    " + rights + "\n    tenants: all\n    credentials:\n" + strings.Join(credentials, "")
		}
		turning := "roles: [checker]"
		if n%2 == 1 {
			turning = "roles: [responder]"
		}
		var keys []string
		for i := n - overlap + 1; i <= n; i++ {
			key := fmt.Sprintf("rotating-%d", i)
			keys = append(keys, credential(fmt.Sprintf("k%d", i+overlap), key, ""))
		}
		return fmt.Sprintf("issuers:\n  - {issuer: %q, audiences: [%q], algorithms: [%s], jwks_file: %s}\n",
			known.Issuer, known.Audiences[0], known.Algorithms[0], filepath.Base(known.JWKSFile)) +
			"callers:\n" + caller("steady", "roles: [checker, auditor]\n    authzed_api: [Watch]", credential("k", "steady", ""),
			"      - {id: c, spiffe: \"spiffe://example.org/steady\"}\n",
			fmt.Sprintf("      - {id: t, issuer: %q, subject: steady}\n", known.Issuer)) +
			caller("certified", "roles: [checker]", "      - {id: c, spiffe: \"spiffe://example.org/certified\"}\n") +
			caller("turning", turning, credential("k", "turning", "")) +
			caller("ending", "roles: [checker]", credential("k", "ending", ", expires: "+ends.UTC().Format(time.RFC3339))) +
			caller("rotating", "roles: [checker]", keys...)
	}
	put(version(0))
	s := harness.StartLogging(t, harness.TLS(t, dir, stays, true, daemon.Config{
		PresharedKeys: []string{harness.ServiceKey}, AdminPresharedKeys: []string{harness.AdminKey},
		Engine: engine.Config{Kind: engine.Memory}, CallersPath: path,
	}), zap.NewNop())
	s.WriteSchema(t, schema.Core+"\ndefinition note {\n  relation tenant: tenant\n  relation reader: user | agent\n  permission read = reader\n}\n")

	addr := s.Daemon.Addr().String()
	dial := func(key string, own ...tls.Certificate) *grpc.ClientConn {
		conn, err := harness.ConnectTLS(addr, key, &tls.Config{RootCAs: harness.Pool(stays)}, own...)
		if err != nil {
			t.Error(err)
		}
		return conn
	}
	byID := func(a *harness.Authority, name string) *grpc.ClientConn {
		return dial("", a.Issue(t, harness.ForURI("spiffe://example.org/"+name)))
	}
	conn, byToken := dial(""), dial(issuer.Token(t, "steady"))
	defer func() { _ = conn.Close(); _ = byToken.Close() }()
	bearing := func(key string) context.Context {
		return metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+key)
	}
	checkAs := func(ctx context.Context, conn *grpc.ClientConn) codes.Code {
		_, err := deputyv1.NewPermissionsServiceClient(conn).CheckPermission(ctx, &deputyv1.CheckPermissionRequest{
			AgentId: "bot", TenantId: "acme", OnBehalfOf: &deputyv1.ObjectReference{ObjectType: "user", ObjectId: "alice"},
			Resource: &deputyv1.ObjectReference{ObjectType: "note", ObjectId: "n"}, Permission: "read",
		})
		return status.Code(err)
	}
	check := func(key string) codes.Code { return checkAs(bearing(key), conn) }
	watch, err := v1.NewWatchServiceClient(conn).Watch(bearing("steady"), &v1.WatchRequest{})
	if err != nil {
		t.Fatal(err)
	}
	watchEnded := make(chan error, 1)
	go func() {
		err := error(nil)
		for err == nil { // the server writes to the graph, too
			_, err = watch.Recv()
		}
		watchEnded <- err
	}()

	var (
		versions       reloads
		made           atomic.Int64
		passed, failed [7]atomic.Int64
		wrong          atomic.Int64
		working        sync.WaitGroup
	)
	judge := func(kind int, what string, mustPass, mustFail bool, refusal, got codes.Code) {
		switch got {
		case codes.OK:
			passed[kind].Add(1)
		case refusal:
			failed[kind].Add(1)
		}
		if (mustPass && got != codes.OK || mustFail && got != refusal || got != codes.OK && got != refusal) && wrong.Add(1) < 10 {
			t.Errorf("%s got %s (has to pass: %v, has to be refused: %v)", what, got, mustPass, mustFail)
		}
	}
	// The second authority is trusted in even versions, by connections that were made with it in one.
	trusted := func(n int64) []*harness.Authority {
		if n%2 == 0 {
			return []*harness.Authority{goes, stays}
		}
		return []*harness.Authority{stays}
	}
	harness.WriteAuthorities(t, filepath.Join(dir, "ca.crt"), trusted(0)...)
	if err := s.Reload(); err != nil {
		t.Fatal(err)
	}
	byGoing := byID(goes, "certified")
	defer func() { _ = byGoing.Close() }()
	judge(5, "certified", true, false, codes.Unauthenticated, checkAs(t.Context(), byGoing))
	firstKeys, err := os.ReadFile(known.JWKSFile)
	if err != nil {
		t.Fatal(err)
	}
	otherKeys, err := os.ReadFile(harness.NewIssuer(t).Known(t, t.TempDir()).JWKSFile)
	if err != nil {
		t.Fatal(err)
	}
	// keys are the issuer's key with another one that is new in every version.
	keys := func(n int64) []byte {
		_, first, _ := strings.Cut(string(firstKeys), "[")
		_, other, _ := strings.Cut(strings.Replace(string(otherKeys), `"kid":"one"`, fmt.Sprintf(`"kid":"other-%d"`, n), 1), "[")
		return []byte(`{"keys":[` + strings.TrimSuffix(other, "]}") + "," + first)
	}
	reload := func(n int64) {
		harness.WritePair(t, dir, stays.Issue(t))
		harness.WriteAuthorities(t, filepath.Join(dir, "ca.crt"), trusted(n)...)
		replace(known.JWKSFile, keys(n))
		put("callers:\n  - name: steady\n")
		if err := s.Reload(); err == nil {
			t.Error("a wrong file was accepted")
		}
		put(version(n))
		if err := s.Reload(); err != nil {
			t.Error(err)
		}
	}
	ends = time.Now().Add(3 * time.Second).Truncate(time.Second)
	versions.next(reload)
	judge(2, "ending", true, false, codes.Unauthenticated, check("ending"))
	for w := range workers {
		random := rand.New(rand.NewPCG(14, uint64(w)))
		working.Go(func() {
			certified := byID(stays, "steady")
			defer func() { _ = certified.Close() }()
			for n := made.Add(1); n <= calls; n = made.Add(1) {
				switch kind := random.IntN(7); kind {
				case 0:
					judge(kind, "steady", true, false, codes.Unauthenticated, check("steady"))
				case 1:
					from, to, code := versions.during(func() codes.Code { return check("turning") })
					judge(kind, fmt.Sprintf("turning, from %d to %d", from, to), from == to && from%2 == 0, from == to && from%2 == 1, codes.PermissionDenied, code)
				case 2:
					began := time.Now()
					code := check("ending")
					judge(kind, "ending", time.Now().Before(ends), !began.Before(ends), codes.Unauthenticated, code)
				case 3:
					key := versions.done.Load() + int64(random.IntN(2*overlap+2)) - 2*overlap
					from, to, code := versions.during(func() codes.Code { return check(fmt.Sprintf("rotating-%d", key)) })
					mustPass, mustFail := expected(from, to, key, key+overlap)
					judge(kind, fmt.Sprintf("key %d, from %d to %d", key, from, to), mustPass, mustFail, codes.Unauthenticated, code)
				case 4:
					if random.IntN(10) == 0 { // a new certificate, and a connection with it
						_ = certified.Close()
						certified = byID(stays, "steady")
					}
					judge(kind, "a certificate", true, false, codes.Unauthenticated, checkAs(t.Context(), certified))
				case 5:
					from, to, code := versions.during(func() codes.Code { return checkAs(t.Context(), byGoing) })
					judge(kind, fmt.Sprintf("certified, from %d to %d", from, to), from == to && from%2 == 0, from == to && from%2 == 1, codes.Unauthenticated, code)
				case 6:
					judge(kind, "a token", true, false, codes.Unauthenticated, checkAs(t.Context(), byToken))
				}
			}
		})
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for last := int64(0); made.Load() < calls; <-tick.C {
		if made.Load()-last < perReload {
			continue
		}
		last = made.Load()
		versions.next(reload)
	}
	working.Wait()
	<-time.After(time.Until(ends)) // all calls may have been made before
	judge(2, "ending", false, true, codes.Unauthenticated, check("ending"))
	refusable := map[string]bool{"turning": true, "ending": true, "rotating": true, "certified": true}
	for kind, name := range []string{"steady", "turning", "ending", "rotating", "a certificate", "certified", "a token"} {
		t.Logf("%s: %d passed, %d were refused", name, passed[kind].Load(), failed[kind].Load())
		if passed[kind].Load() == 0 || refusable[name] && failed[kind].Load() == 0 {
			t.Errorf("%s: %d passed, %d were refused, so nothing was shown", name, passed[kind].Load(), failed[kind].Load())
		}
	}
	t.Logf("%d versions", versions.done.Load())
	if versions.done.Load() < 20 {
		t.Errorf("only %d versions came", versions.done.Load())
	}
	select {
	case err := <-watchEnded:
		t.Errorf("the stream of a caller that stayed the same ended: %v", err)
	default:
	}
}
