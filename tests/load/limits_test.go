package load

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/caller"
	"github.com/deputyauth/deputy/pkg/client"
	"github.com/deputyauth/deputy/pkg/daemon"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/tests/harness"
)

const (
	checker   = deputyv1.Role_ROLE_CHECKER
	responder = deputyv1.Role_ROLE_RESPONDER
	auditor   = deputyv1.Role_ROLE_AUDITOR
	writer    = deputyv1.Role_ROLE_WRITER
)

// lent are relationships that nothing depends on.
var lent = &v1.RelationshipFilter{ResourceType: "document", OptionalResourceId: "lent", OptionalRelation: "reader", OptionalSubjectFilter: &v1.SubjectFilter{SubjectType: "user"}}

// pushback is when gRPC's clients are told to call again.
const pushback = "grpc-retry-pushback-ms"

// served is a server with callers, on the engine embedded.
func served(t *testing.T, callers ...*caller.Caller) *world {
	t.Helper()
	return open(t, daemon.Config{
		Engine: harness.Embedded(t), PresharedKeys: []string{harness.ServiceKey}, AdminPresharedKeys: []string{harness.AdminKey}, Callers: callers,
	})
}

// refused asks once, which has to be refused for a reason, and returns after what time to try again.
func refused(t *testing.T, what string, reason client.Reason, call func(opts ...grpc.CallOption) error) time.Duration {
	t.Helper()
	var trailer metadata.MD
	err := call(grpc.Trailer(&trailer))
	if status.Code(err) != codes.ResourceExhausted || client.ReasonOf(err) != reason {
		t.Fatalf("%s: %v, want %s", what, err, reason)
	}
	after := client.RetryAfter(err)
	if got, want := strings.Join(trailer.Get(pushback), ","), fmt.Sprint((after + time.Millisecond - 1).Milliseconds()); got != want && after > 0 {
		t.Errorf("%s: clients are told to call again after %q ms, and people after %v", what, got, after)
	}
	return after
}

// TestRateIsKept: a caller over its rate is refused, and is not refused once it has waited as long as it was told. What narrows has no rate, and
// items count as calls do, through both doors.
func TestRateIsKept(t *testing.T) {
	t.Parallel()
	limits := caller.Limits{Rate: 2, Burst: 1}
	w := served(t, called("desk", limits, checker, responder, writer), called("bulk", caller.Limits{Rate: 10}, checker))
	conn := w.asks("desk")
	asks := deputyv1.NewPermissionsServiceClient(conn)
	ask := func(opts ...grpc.CallOption) error {
		_, err := asks.CheckPermission(t.Context(), w.question(), opts...)
		return err
	}
	w.must(ask())
	for range 3 {
		after := refused(t, "a second call at once", authz.ReasonRateLimited, ask)
		if after <= 0 || after > 700*time.Millisecond {
			t.Errorf("at 2 calls a second, try again after %v", after)
		}
		for range 5 { // its rate is its own
			_, err := deputyv1.NewAgentsServiceClient(conn).SuspendAgent(t.Context(), &deputyv1.SuspendAgentRequest{AgentId: "stray"})
			w.must(err)
			_, err = v1.NewPermissionsServiceClient(conn).DeleteRelationships(t.Context(), &v1.DeleteRelationshipsRequest{RelationshipFilter: lent})
			w.must(err)
		}
		<-time.After(after)
		if err := ask(); err != nil {
			t.Errorf("after it waited as long as it was told: %v", err)
		}
	}

	bulk := w.asks("bulk")
	items := slices.Repeat([]*deputyv1.CheckBulkPermissionsRequestItem{w.item()}, 50)
	_, err := deputyv1.NewPermissionsServiceClient(bulk).CheckBulkPermissions(t.Context(), &deputyv1.CheckBulkPermissionsRequest{Items: items})
	w.must(err)
	after := refused(t, "a read through the other door", authz.ReasonRateLimited, func(opts ...grpc.CallOption) error {
		_, err := v1.NewSchemaServiceClient(bulk).ReadSchema(t.Context(), &v1.ReadSchemaRequest{}, opts...)
		return err
	})
	if after < 3*time.Second || after > 6*time.Second {
		t.Errorf("after 50 items at 10 a second, try again after %v", after)
	}
}

// TestPushbackIsKeptShort: a call whose own time is over by the time that it would have to wait is not to be made again.
func TestPushbackIsKeptShort(t *testing.T) {
	t.Parallel()
	w := served(t, called("desk", caller.Limits{Rate: 1, Burst: 1}, checker))
	asks := deputyv1.NewPermissionsServiceClient(w.asks("desk"))
	_, err := asks.CheckBulkPermissions(t.Context(), &deputyv1.CheckBulkPermissionsRequest{
		Items: slices.Repeat([]*deputyv1.CheckBulkPermissionsRequestItem{w.item()}, 100), // more than a minute's
	})
	w.must(err)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var trailer metadata.MD
	_, err = asks.CheckPermission(ctx, w.question(), grpc.Trailer(&trailer))
	if got := strings.Join(trailer.Get(pushback), ","); client.ReasonOf(err) != authz.ReasonRateLimited || got != "-1" || client.RetryAfter(err) < 50*time.Second {
		t.Errorf("a call with 10 s: %v; it is to be made again after %s ms, or %v", err, got, client.RetryAfter(err))
	}
}

// TestClientObeys: the Go client makes a call again that was refused for its rate, once as much time has passed as the server says, and
// one that is too large once only.
func TestClientObeys(t *testing.T) {
	t.Parallel()
	w := served(t, called("desk", caller.Limits{Rate: 2, Burst: 1, Message: 4 << 10}, checker))
	dial := func(opts ...client.Option) *client.Client {
		c, err := client.Dial(w.Addr().String(), append(opts, client.WithPresharedKey(keyOf("desk")))...)
		w.must(err)
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	patient, once := dial(), dial(client.WithoutRetries())
	_, err := patient.Permissions.CheckPermission(t.Context(), w.question())
	w.must(err)
	_, err = once.Permissions.CheckPermission(t.Context(), w.question())
	if client.ReasonOf(err) != client.ReasonRateLimited {
		t.Errorf("a client without retries: %v", err)
	}
	if _, err = patient.Permissions.CheckPermission(t.Context(), w.question()); err != nil {
		t.Errorf("a client that obeys: %v", err)
	}

	large := w.question()
	large.Context, err = structpb.NewStruct(map[string]any{"note": strings.Repeat("x", 5<<10)})
	w.must(err)
	<-time.After(600 * time.Millisecond)
	_, err = patient.Permissions.CheckPermission(t.Context(), large)
	if client.ReasonOf(err) != client.ReasonTooLarge || !strings.Contains(err.Error(), "4096") {
		t.Errorf("a message of 5 KiB of a caller that may send 4 KiB: %v", err)
	}
	// Each attempt takes of the rate: a second and a third one would have been refused for that.
	var trailer metadata.MD
	<-time.After(600 * time.Millisecond)
	_, err = once.Permissions.CheckPermission(t.Context(), large, grpc.Trailer(&trailer))
	if got := strings.Join(trailer.Get(pushback), ","); got != "-1" {
		t.Errorf("a message that is too large (%v) is to be sent again after %q ms", err, got)
	}
}

// TestStreamsCount: a caller has so many streams at once, of all kinds together, and calls with one answer do not count among them.
func TestStreamsCount(t *testing.T) {
	t.Parallel()
	w := served(t, called("desk", caller.Limits{Streams: 2, Concurrent: 5}, checker, auditor))
	conn := w.asks("desk")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	follow := func(ctx context.Context, opts ...grpc.CallOption) (grpc.ServerStreamingClient[deputyv1.QueryRecordsResponse], error) {
		return deputyv1.NewJournalServiceClient(conn).QueryRecords(ctx, &deputyv1.QueryRecordsRequest{Follow: true}, opts...)
	}
	_, err := follow(ctx)
	w.must(err)
	first, endFirst := context.WithCancel(ctx)
	_, err = v1.NewWatchServiceClient(conn).Watch(first, &v1.WatchRequest{})
	w.must(err)
	eventually(t, "a third stream is refused", func() bool { // the first two may not have come yet
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		stream, err := follow(ctx)
		if err == nil {
			_, err = stream.Recv()
		}
		return client.ReasonOf(err) == client.ReasonConcurrencyLimit && client.RetryAfter(err) > 0
	})
	for range 3 {
		_, err = deputyv1.NewPermissionsServiceClient(conn).CheckPermission(ctx, w.question())
		w.must(err)
	}
	endFirst()
	eventually(t, "another stream may be opened", func() bool {
		lookup, err := deputyv1.NewPermissionsServiceClient(conn).LookupResources(ctx, &deputyv1.LookupResourcesRequest{
			AgentId: "bot", Via: &deputyv1.LookupResourcesRequest_SessionId{SessionId: w.session}, TenantId: "acme", OnBehalfOf: harness.Ref("user:alice"),
			ResourceObjectType: "document", Permission: "view",
		})
		if err == nil {
			_, err = lookup.Recv()
		}
		return err == nil
	})
}

// TestLimitsAreReloaded: limits in the file of callers hold from when the file is in force, without a call being lost.
func TestLimitsAreReloaded(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "callers.yaml")
	write := func(limits string) {
		t.Helper()
		text := "callers:\n  - name: desk\n    roles: [checker]\n    tenants: all\n" + limits +
			"    credentials:\n      - {id: key, key: \"sha256:" + fmt.Sprintf("%x", called("desk", caller.Limits{}).Credentials[0].Key) + "\"}\n"
		if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	write("")
	w := open(t, daemon.Config{
		Engine: harness.Embedded(t), PresharedKeys: []string{harness.ServiceKey}, AdminPresharedKeys: []string{harness.AdminKey}, CallersPath: path,
	})
	asks := deputyv1.NewPermissionsServiceClient(w.asks("desk"))
	ask := func() error {
		_, err := asks.CheckPermission(t.Context(), w.question())
		return err
	}
	for range 20 {
		w.must(ask())
	}
	write("    limits: {rate: 1, burst: 3}\n")
	w.must(w.Reload())
	for range 3 {
		w.must(ask())
	}
	if err := ask(); client.ReasonOf(err) != client.ReasonRateLimited {
		t.Errorf("a fourth call with a burst of 3: %v", err)
	}
	write("")
	w.must(w.Reload())
	for range 20 {
		w.must(ask())
	}
}

// TestRefusalsAreRecordedTogether: a storm of refusals leaves some records, which count all of it.
func TestRefusalsAreRecordedTogether(t *testing.T) {
	t.Parallel()
	w := served(t, called("desk", caller.Limits{Rate: 1, Burst: 1}, checker), called("audit", caller.Limits{}, auditor))
	asks := deputyv1.NewPermissionsServiceClient(w.asks("desk"))
	began, turnedDown := time.Now(), uint64(0)
	for end := began.Add(2500 * time.Millisecond); time.Now().Before(end); {
		if _, err := asks.CheckPermission(t.Context(), w.question()); client.ReasonOf(err) == client.ReasonRateLimited {
			turnedDown++
		} else {
			w.must(err)
		}
	}
	records, err := deputyv1.NewJournalServiceClient(w.asks("audit")).QueryRecords(t.Context(), &deputyv1.QueryRecordsRequest{Caller: "desk"})
	w.must(err)
	written, counted := 0, uint64(0)
	for {
		message, err := records.Recv()
		if err != nil {
			break
		}
		if r := message.GetRecord().GetRecord(); r.GetKind() == deputyv1.RecordKind_RECORD_KIND_REFUSED {
			written++
			counted += r.GetFailed()
			if r.GetReason() != authz.ReasonRateLimited || r.GetCode() != int32(codes.ResourceExhausted) {
				t.Errorf("a record says %s, code %d", r.GetReason(), r.GetCode())
			}
		}
	}
	if written < 2 || written > int(time.Since(began).Seconds())+2 || counted > turnedDown || counted < turnedDown/4 {
		t.Errorf("%d calls were refused, of which %d records count %d", turnedDown, written, counted)
	}
}

// TestBrakesGoThroughAtTheLimit: a caller that has as many calls under way as it may, and has used up its rate, still takes access away.
func TestBrakesGoThroughAtTheLimit(t *testing.T) {
	t.Parallel()
	w := open(t, daemon.Config{
		Engine: harness.Embedded(t), JudgeOver: gated(20), MaxActiveCalls: 2,
		PresharedKeys: []string{harness.ServiceKey}, AdminPresharedKeys: []string{harness.AdminKey},
		Callers: []*caller.Caller{called("desk", caller.Limits{Rate: 1000, Concurrent: 10}, checker, responder, writer)},
	})
	asks, brakes := deputyv1.NewPermissionsServiceClient(w.asks("desk")), deputyv1.NewAgentsServiceClient(w.asks("desk"))
	deletes := v1.NewPermissionsServiceClient(w.asks("desk"))
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	limited := make(chan struct{}, 1)
	for range 40 {
		wg.Go(func() {
			for ctx.Err() == nil {
				if _, err := asks.CheckPermission(ctx, w.question()); client.ReasonOf(err) == client.ReasonConcurrencyLimit {
					select {
					case limited <- struct{}{}:
					default:
					}
				}
			}
		})
	}
	<-limited
	for range 10 {
		_, err := brakes.SuspendAgent(ctx, &deputyv1.SuspendAgentRequest{AgentId: "stray"})
		w.must(err)
		w.Touch(t, "document:lent#reader@user:alice")
		deleted, err := deletes.DeleteRelationships(ctx, &v1.DeleteRelationshipsRequest{RelationshipFilter: lent})
		w.must(err)
		if n := deleted.GetRelationshipsDeletedCount(); n != 1 {
			t.Errorf("%d relationships were deleted", n)
		}
	}
	cancel()
	wg.Wait()
}
