//go:build linux

package cli

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	authzed "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding/gzip"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/tests/process"
)

// Here a server is a process of its own, and its peers have no key: what they can hold of its descriptors, memory,
// goroutines and time is measured from outside.

const (
	strangersService = "key-of-the-service"
	strangersAdmin   = "key-of-the-admin"
)

// besieged is a running `deputy serve`.
type besieged struct {
	*process.Server
	// transport is how connections to it are secured.
	transport credentials.TransportCredentials
}

// besiege starts a server that may have a number of files open, 0 for as many as the tests.
func besiege(t *testing.T, files int, args ...string) *besieged {
	t.Helper()
	dir := t.TempDir()
	transport := insecure.NewCredentials()
	if slices.Contains(args, "--tls-cert") {
		transport = credentials.NewTLS(&tls.Config{InsecureSkipVerify: true})
	}
	env := map[string]string{
		"DEPUTY_PRESHARED_KEY": strangersService, "DEPUTY_ADMIN_PRESHARED_KEY": strangersAdmin, "DEPUTY_METRICS_ADDR": "127.0.0.1:0",
	}
	args = append([]string{"--addr", "127.0.0.1:0", "--data-dir", filepath.Join(dir, "data"), "--cache-mib", "8"}, args...)
	server, err := process.Start(process.Config{Log: filepath.Join(dir, "serve.log"), Env: env, Args: args, Files: files})
	if err != nil {
		t.Fatal(err)
	}
	s := &besieged{server, transport}
	t.Cleanup(func() {
		_ = s.Kill()
		if t.Failed() {
			t.Logf("serve.log:\n%.4000s", s.Log())
		}
	})
	return s
}

// dial returns a connection of its own with a key, or with none.
func (s *besieged) dial(t *testing.T, key string, more ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	more = append(more, grpc.WithTransportCredentials(s.transport))
	if key != "" {
		more = append(more, grpc.WithChainUnaryInterceptor(func(ctx context.Context, m string, in, out any, c *grpc.ClientConn, call grpc.UnaryInvoker, o ...grpc.CallOption) error {
			return call(metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+key), m, in, out, c, o...)
		}), grpc.WithChainStreamInterceptor(func(ctx context.Context, d *grpc.StreamDesc, c *grpc.ClientConn, m string, stream grpc.Streamer, o ...grpc.CallOption) (grpc.ClientStream, error) {
			return stream(metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+key), d, c, m, o...)
		}))
	}
	conn, err := grpc.NewClient(s.Addr, more...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// knock opens raw connections, each of which says the next of some texts and then nothing more.
func (s *besieged) knock(t *testing.T, n int, texts ...string) {
	t.Helper()
	for i := range n {
		conn, err := (&net.Dialer{Timeout: 10 * time.Second}).DialContext(t.Context(), "tcp", s.Addr)
		if err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		_, _ = io.WriteString(conn, texts[i%len(texts)]) // the server may have closed it already
	}
}

// The beginnings of a connection: nothing, half a TLS hello, half HTTP/2's preface, and all of that, without a call.
const (
	silence     = ""
	halfHello   = "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
	halfPreface = "PRI * HTTP/2.0\r\n\r\n"
	preface     = halfPreface + "SM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"
)

// figure returns one of the server's metrics.
func (s *besieged) figure(t *testing.T, name string) float64 {
	t.Helper()
	figures, err := s.Figures(t.Context())
	if err != nil {
		// It listens before it says where its metrics are.
		settles(t, "metrics are served", func() bool {
			figures, err = s.Figures(t.Context())
			return err == nil
		})
	}
	value, ok := figures[name]
	if !ok {
		t.Fatalf("the server has no figure %s", name)
	}
	return value
}

// files counts the server's descriptors.
func (s *besieged) files(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", s.PID()))
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// resident is the server's memory, in bytes.
func (s *besieged) resident(t *testing.T) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", s.PID()))
	if err != nil {
		t.Fatal(err)
	}
	pages, err := strconv.Atoi(strings.Fields(string(text))[1])
	if err != nil {
		t.Fatal(err)
	}
	return pages * os.Getpagesize()
}

// settles waits until a condition holds.
func settles(t *testing.T, what string, reached func() bool) {
	t.Helper()
	settlesWithin(t, 20*time.Second, what, reached)
}

// settlesWithin is settles with a time.
func settlesWithin(t *testing.T, limit time.Duration, what string, reached func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(limit); !reached(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %s", what, limit)
		}
	}
}

// stop sends SIGTERM and returns how long the server took to end, which has to be in order.
func (s *besieged) stop(t *testing.T, within time.Duration) time.Duration {
	t.Helper()
	began := time.Now()
	if err := s.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case <-s.Ended():
		if err := s.Wait(); err != nil {
			t.Errorf("the server ended with %v", err)
		}
	case <-time.After(within):
		t.Fatalf("the server has not ended after %s", within)
	}
	return time.Since(began)
}

// populate writes a schema and a document that is alice's to read, and registers an agent.
func populate(t *testing.T, ctx context.Context, conn *grpc.ClientConn) { //nolint:revive // t comes first in tests
	t.Helper()
	if _, err := authzed.NewSchemaServiceClient(conn).WriteSchema(ctx, &authzed.WriteSchemaRequest{Schema: coreWith(t, `
definition document {
	relation reader: user
}`)}); err != nil {
		t.Fatal(err)
	}
	touch(t, ctx, conn, "plan")
	if _, err := deputyv1.NewAgentsServiceClient(conn).RegisterAgent(ctx, &deputyv1.RegisterAgentRequest{AgentId: "bot", OwnerIds: []string{"olga"}}); err != nil {
		t.Fatal(err)
	}
}

// touch lets alice read a document.
func touch(t *testing.T, ctx context.Context, conn *grpc.ClientConn, id string) { //nolint:revive // t comes first in tests
	t.Helper()
	_, err := authzed.NewPermissionsServiceClient(conn).WriteRelationships(ctx, &authzed.WriteRelationshipsRequest{Updates: []*authzed.RelationshipUpdate{{
		Operation: authzed.RelationshipUpdate_OPERATION_TOUCH, Relationship: reads(id),
	}}})
	if err != nil {
		t.Fatalf("a write: %v", err)
	}
}

// reads is that alice may read a document.
func reads(id string) *authzed.Relationship {
	return &authzed.Relationship{
		Resource: &authzed.ObjectReference{ObjectType: "document", ObjectId: id}, Relation: "reader",
		Subject: &authzed.SubjectReference{Object: &authzed.ObjectReference{ObjectType: "user", ObjectId: "alice"}},
	}
}

// TestIdleConnectionsLeaveTheStoreItsFiles: a server that may have 256 files open is given 1,000 connections by
// strangers. Its store goes on flushing, a service that is connected stays connected, and an admin who comes now
// gets in and suspends an agent.
func TestIdleConnectionsLeaveTheStoreItsFiles(t *testing.T) {
	t.Run("plaintext", func(t *testing.T) { leaveTheStoreItsFiles(t, []string{silence, halfHello, halfPreface, preface}) })
	t.Run("TLS", func(t *testing.T) { leaveTheStoreItsFiles(t, []string{silence, halfHello}, keyPair(t)...) })
}

func leaveTheStoreItsFiles(t *testing.T, beginnings []string, args ...string) {
	t.Helper()
	const files, strangers = 256, 1000
	s := besiege(t, files, args...)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	admin := s.dial(t, strangersAdmin)
	populate(t, ctx, admin)
	// Its stream ends where its connection does.
	watch, err := authzed.NewWatchServiceClient(s.dial(t, strangersService)).Watch(ctx, &authzed.WatchRequest{})
	if err != nil {
		t.Fatal(err)
	}
	updates := make(chan string, 1000)
	go func() {
		defer close(updates)
		for {
			resp, err := watch.Recv()
			if err != nil {
				return
			}
			for _, u := range resp.GetUpdates() {
				updates <- u.GetRelationship().GetResource().GetObjectId()
			}
		}
	}()
	seen := func(id string) {
		t.Helper()
		n := 0
		settles(t, "the watch sees "+id, func() bool {
			n++
			touch(t, ctx, admin, fmt.Sprint(id, n)) // another one, because the first may come before the watch
			for {
				select {
				case got, open := <-updates:
					if !open {
						t.Fatal("the watch has ended")
					}
					if strings.HasPrefix(got, id) {
						return true
					}
				default:
					return false
				}
			}
		})
	}
	seen("before")
	s.knock(t, strangers, beginnings...)
	if _, err := deputyv1.NewStoreServiceClient(admin).Compact(ctx, &deputyv1.CompactRequest{}); err != nil {
		t.Errorf("the store is not flushed: %v", err)
	}
	seen("after")
	newcomer := s.dial(t, strangersAdmin)
	if _, err := deputyv1.NewAgentsServiceClient(newcomer).SuspendAgent(ctx, &deputyv1.SuspendAgentRequest{AgentId: "bot"}, grpc.WaitForReady(true)); err != nil {
		t.Errorf("an admin who comes now cannot suspend: %v", err)
	}
	if probe, err := healthv1.NewHealthClient(s.dial(t, "")).Check(ctx, &healthv1.HealthCheckRequest{}); err != nil || probe.GetStatus() != healthv1.HealthCheckResponse_SERVING {
		t.Errorf("health says %v, %v", probe, err)
	}
	limit := s.figure(t, "deputy_connections_limit")
	settles(t, "strangers are put out", func() bool {
		return s.figure(t, "deputy_connections_evicted_total") >= strangers-limit
	})
	if open := s.figure(t, "deputy_connections"); open > limit {
		t.Errorf("%v connections are open, want %v at most", open, limit)
	}
	if open := s.files(t); open > files*3/4 {
		t.Errorf("%d files are open of %d", open, files)
	}
	if failed := s.figure(t, "deputy_store_failed"); failed != 0 {
		t.Error("the store has failed")
	}
}

// TestLeakedConnectionsOfAService: a service that never closes a connection does not keep an admin out either.
func TestLeakedConnectionsOfAService(t *testing.T) {
	s := besiege(t, 0, "--max-connections", "40")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	populate(t, ctx, s.dial(t, strangersAdmin))
	for range 60 {
		if _, err := authzed.NewSchemaServiceClient(s.dial(t, strangersService)).ReadSchema(ctx, &authzed.ReadSchemaRequest{}, grpc.WaitForReady(true)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := deputyv1.NewAgentsServiceClient(s.dial(t, strangersAdmin)).SuspendAgent(ctx, &deputyv1.SuspendAgentRequest{AgentId: "bot"}); err != nil {
		t.Errorf("an admin cannot suspend: %v", err)
	}
	if open := s.figure(t, "deputy_connections"); open > 40 {
		t.Errorf("%v connections are open, want 40 at most", open)
	}
}

// TestStrangersHoldLittle: what is open without a key takes a bounded part of the server, however much strangers
// ask for, and goes on for those who probe.
func TestStrangersHoldLittle(t *testing.T) {
	s := besiege(t, 0)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	probe := func() {
		t.Helper()
		for _, options := range [][]grpc.CallOption{nil, {grpc.UseCompressor(gzip.Name)}} {
			got, err := healthv1.NewHealthClient(s.dial(t, "")).Check(ctx, &healthv1.HealthCheckRequest{Service: "deputy.v1.PermissionsService"}, options...)
			if err != nil || got.GetStatus() != healthv1.HealthCheckResponse_SERVING {
				t.Errorf("health says %v, %v", got, err)
			}
		}
	}
	probe()
	keyed, err := healthv1.NewHealthClient(s.dial(t, strangersService)).Watch(ctx, &healthv1.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := keyed.Recv(); err != nil {
		t.Fatal(err)
	}
	before, goroutines := s.resident(t), s.figure(t, "go_goroutines")

	// Questions of 12 MiB, plain and compressed, are not read.
	name := strings.Repeat("x", 12<<20)
	for i := range 100 {
		conn := s.dial(t, "")
		var options []grpc.CallOption
		if i%10 == 0 {
			options = append(options, grpc.UseCompressor(gzip.Name))
		}
		watch, err := healthv1.NewHealthClient(conn).Watch(ctx, &healthv1.HealthCheckRequest{Service: name}, options...)
		if err == nil {
			_, err = watch.Recv()
		}
		if status.Code(err) != codes.ResourceExhausted && !errors.Is(err, io.EOF) {
			t.Fatalf("a name of 12 MiB: %v", err)
		}
	}
	if grown := s.resident(t) - before; grown > 128<<20 {
		t.Errorf("after 100 names of 12 MiB the server has %d MiB more", grown>>20)
	}
	probe()

	// Thousands of watches, and of questions that are never asked.
	for range 10 {
		conn := s.dial(t, "")
		client := healthv1.NewHealthClient(conn)
		for range 300 {
			watch, err := client.Watch(ctx, &healthv1.HealthCheckRequest{})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := watch.Recv(); err != nil {
				t.Fatal(err)
			}
		}
		for range 100 {
			if _, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true}, "/grpc.health.v1.Health/Check"); err != nil {
				t.Fatal(err)
			}
		}
	}
	probe()
	// 110 connections have a handful of goroutines each, and a call of those that are under way three.
	settles(t, "goroutines are few", func() bool { return s.figure(t, "go_goroutines") < goroutines+110*6+(128+64)*3 })
	if grown := s.resident(t) - before; grown > 192<<20 {
		t.Errorf("with thousands of watches the server has %d MiB more", grown>>20)
	}
	probe()

	// A name that is not served is no reason to wait.
	unknown, err := healthv1.NewHealthClient(s.dial(t, "")).Watch(ctx, &healthv1.HealthCheckRequest{Service: "nobody"})
	if err == nil {
		_, err = unknown.Recv()
	}
	if status.Code(err) != codes.NotFound {
		t.Errorf("a watch of a name that is not served: %v", err)
	}

	// Who watches with a key has watched all along, and hears the end.
	if err := s.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if got, err := keyed.Recv(); err != nil || got.GetStatus() != healthv1.HealthCheckResponse_NOT_SERVING {
		t.Errorf("at the end the watch says %v, %v", got, err)
	}
	for err == nil || status.Code(err) == codes.NotFound {
		_, err = keyed.Recv()
	}
	if status.Code(err) != codes.Unavailable {
		t.Errorf("the watch ends with %v", err)
	}
}

// TestBegunImportEnds: an import that is begun and not ended does not keep the store from collecting for longer
// than imports may take. What was read meanwhile keeps history for another minute.
func TestBegunImportEnds(t *testing.T) {
	t.Parallel()
	s := besiege(t, 0, "--max-stream-time", "500ms", "--retention", "1s")
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	admin := s.dial(t, strangersAdmin)
	populate(t, ctx, admin)
	began := time.Now()
	load, err := authzed.NewPermissionsServiceClient(admin).ImportBulkRelationships(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := load.Send(&authzed.ImportBulkRelationshipsRequest{Relationships: []*authzed.Relationship{reads("never")}}); err != nil {
		t.Fatal(err)
	}
	if err := load.RecvMsg(new(authzed.ImportBulkRelationshipsResponse)); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("the import ends with %v", err)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("the import lasted %s", took)
	}
	n := 0
	settlesWithin(t, 2*time.Minute, "history from before the import's end is collected", func() bool {
		n++
		touch(t, ctx, admin, fmt.Sprint("later", n))
		if _, err := deputyv1.NewStoreServiceClient(admin).Compact(ctx, &deputyv1.CompactRequest{}); err != nil {
			t.Fatal(err)
		}
		got, err := deputyv1.NewStoreServiceClient(admin).GetStatistics(ctx, &deputyv1.GetStatisticsRequest{})
		if err != nil {
			t.Fatal(err)
		}
		return got.GetHorizon().AsTime().After(began.Add(500 * time.Millisecond))
	})
}
