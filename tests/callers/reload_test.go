package callers_test

import (
	"context"
	"crypto/sha256"
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
	"google.golang.org/grpc/credentials/insecure"
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

// TestReloadUnderLoad: 10,000 calls while keys and roles come and go in the file of callers, and while it is wrong in between. None fails that
// was entitled from its begin to its end, and none passes whose entitlement was over before it began, or came only after it had ended.
func TestReloadUnderLoad(t *testing.T) {
	const (
		calls, workers = 10_000, 8
		perReload      = 40 // calls between two versions, at least
		overlap        = 2  // versions for which a key of the caller that rotates is good
	)
	path := filepath.Join(t.TempDir(), "callers.yaml")
	put := func(text string) {
		if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
			t.Error(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Error(err)
		}
	}
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
		return "callers:\n" + caller("steady", "roles: [checker, auditor]\n    authzed_api: [Watch]", credential("k", "steady", "")) +
			caller("turning", turning, credential("k", "turning", "")) +
			caller("ending", "roles: [checker]", credential("k", "ending", ", expires: "+ends.UTC().Format(time.RFC3339))) +
			caller("rotating", "roles: [checker]", keys...)
	}
	put(version(0))
	s := harness.StartLogging(t, daemon.Config{
		PresharedKeys: []string{harness.ServiceKey}, AdminPresharedKeys: []string{harness.AdminKey},
		Engine: engine.Config{Kind: engine.Memory}, CallersPath: path,
	}, zap.NewNop())
	s.WriteSchema(t, schema.Core+"\ndefinition note {\n  relation tenant: tenant\n  relation reader: user | agent\n  permission read = reader\n}\n")

	conn, err := grpc.NewClient(s.Daemon.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	bearing := func(key string) context.Context {
		return metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+key)
	}
	check := func(key string) codes.Code {
		_, err := deputyv1.NewPermissionsServiceClient(conn).CheckPermission(bearing(key), &deputyv1.CheckPermissionRequest{
			AgentId: "bot", TenantId: "acme", OnBehalfOf: &deputyv1.ObjectReference{ObjectType: "user", ObjectId: "alice"},
			Resource: &deputyv1.ObjectReference{ObjectType: "note", ObjectId: "n"}, Permission: "read",
		})
		return status.Code(err)
	}
	watch, err := v1.NewWatchServiceClient(conn).Watch(bearing("steady"), &v1.WatchRequest{})
	if err != nil {
		t.Fatal(err)
	}
	watchEnded := make(chan error, 1)
	go func() {
		_, err := watch.Recv()
		watchEnded <- err
	}()

	var (
		versions       reloads
		made           atomic.Int64
		passed, failed [4]atomic.Int64
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
	reload := func(n int64) {
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
			for made.Add(1) <= calls {
				switch kind := random.IntN(4); kind {
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
	for kind, name := range []string{"steady", "turning", "ending", "rotating"} {
		t.Logf("%s: %d passed, %d were refused", name, passed[kind].Load(), failed[kind].Load())
		if passed[kind].Load() == 0 || kind > 0 && failed[kind].Load() == 0 {
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
