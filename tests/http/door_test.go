package http_test

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/deputyauth/deputy/pkg/caller"
	"github.com/deputyauth/deputy/pkg/daemon"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/pkg/statuses"
	"github.com/deputyauth/deputy/tests/harness"
)

func digest(key string) [sha256.Size]byte { return sha256.Sum256([]byte(key)) }

// question is check as a message.
func question() *deputyv1.CheckPermissionRequest {
	return &deputyv1.CheckPermissionRequest{
		AgentId: "bot", OnBehalfOf: harness.Ref("user:alice"), TenantId: "acme", Resource: harness.Ref("document:plan"), Permission: "view",
	}
}

// TestSameAnswers: whichever protocol is spoken, a call is answered and refused as over gRPC, with the code, the message and all details.
func TestSameAnswers(t *testing.T) {
	w := open(t, limited(caller.Limits{Rate: 1, Burst: 1}))
	cases := map[string]func(ctx context.Context, conn grpc.ClientConnInterface) error{
		"a wrong field": func(ctx context.Context, conn grpc.ClientConnInterface) error {
			q := question()
			q.Permission = "Vi ew"
			_, err := deputyv1.NewPermissionsServiceClient(conn).CheckPermission(ctx, q)
			return err
		},
		"an unknown session": func(ctx context.Context, conn grpc.ClientConnInterface) error {
			_, err := deputyv1.NewSessionsServiceClient(conn).GetSession(ctx, &deputyv1.GetSessionRequest{SessionId: strings.Repeat("0", 32)})
			return err
		},
		"a role that is missing": func(ctx context.Context, conn grpc.ClientConnInterface) error {
			_, err := deputyv1.NewPermissionsServiceClient(conn).ExplainPermission(ctx, &deputyv1.ExplainPermissionRequest{Check: question()})
			return err
		},
		"a lookup that is wrong": func(ctx context.Context, conn grpc.ClientConnInterface) error {
			s, err := deputyv1.NewPermissionsServiceClient(conn).LookupResources(ctx, &deputyv1.LookupResourcesRequest{AgentId: "bot", Permission: "view"})
			if err == nil {
				_, err = s.Recv()
			}
			return err
		},
		"a method that there is not": func(ctx context.Context, conn grpc.ClientConnInterface) error {
			return conn.Invoke(ctx, "/deputy.v1.PermissionsService/Guess", question(), &deputyv1.CheckPermissionResponse{})
		},
		"a deadline that is over": func(ctx context.Context, conn grpc.ClientConnInterface) error {
			_, err := deputyv1.NewStoreServiceClient(conn).Compact(ctx, &deputyv1.CompactRequest{})
			return err
		},
	}
	for _, protocol := range slices.Sorted(maps.Keys(harness.Spoken)) {
		conn := harness.DialHTTP(t, w.HTTPAddr().String(), harness.ServiceKey, protocol, nil)
		got, err := deputyv1.NewPermissionsServiceClient(conn).CheckPermission(t.Context(), question())
		if err != nil || got.GetPermissionship() != deputyv1.Permissionship_PERMISSIONSHIP_HAS_PERMISSION || got.GetDecisionId() == "" {
			t.Errorf("%s: %v, %v", protocol, got, err)
		}
		for name, ask := range cases {
			want, got := status.Convert(ask(t.Context(), w.Service)), status.Convert(ask(t.Context(), conn))
			if want.Code() == codes.OK || !proto.Equal(want.Proto(), got.Proto()) {
				t.Errorf("%s, %s: got %v\nover gRPC %v", protocol, name, got.Proto(), want.Proto())
			}
		}
		nobody := harness.DialHTTP(t, w.HTTPAddr().String(), "", protocol, nil)
		ask := cases["a wrong field"]
		if want, got := status.Convert(ask(t.Context(), w.Nobody)), status.Convert(ask(t.Context(), nobody)); want.Code() != codes.Unauthenticated ||
			!proto.Equal(want.Proto(), got.Proto()) {
			t.Errorf("%s, nobody: got %v\nover gRPC %v", protocol, got.Proto(), want.Proto())
		}
		twice := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+harness.AdminKey)
		if err := ask(twice, conn); status.Code(err) != codes.Unauthenticated {
			t.Errorf("%s: with two keys: %v", protocol, err)
		}
	}
	t.Run("a rate is told with the time to wait", func(t *testing.T) {
		conn := harness.DialHTTP(t, w.HTTPAddr().String(), "the-key-of-the-limited-one", "Connect", nil)
		var refused *status.Status
		for range 5 {
			if _, err := deputyv1.NewPermissionsServiceClient(conn).CheckPermission(t.Context(), question()); err != nil {
				refused = status.Convert(err)
			}
		}
		if refused.Code() != codes.ResourceExhausted || statuses.RetryAfter(refused) <= 0 || statuses.Info(refused).GetReason() != "RATE_LIMITED" {
			t.Errorf("got %v", refused.Proto())
		}
		got := w.send(http.MethodPost, checkPath, strings.NewReader(check), "Content-Type", "application/json", "Authorization", "Bearer the-key-of-the-limited-one")
		if got.status != http.StatusTooManyRequests || got.header.Get("Retry-After") == "" || got.reason() != "RATE_LIMITED" {
			t.Errorf("got %d %v %s", got.status, got.header, got.text)
		}
	})
}

// TestStreams: a stream brings its messages as they come, and its end; a watch tells when a permission ends, and ends when its caller goes.
func TestStreams(t *testing.T) {
	w := open(t)
	for _, protocol := range slices.Sorted(maps.Keys(harness.Spoken)) {
		t.Run(protocol, func(t *testing.T) {
			client := deputyv1.NewPermissionsServiceClient(harness.DialHTTP(t, w.HTTPAddr().String(), harness.ServiceKey, protocol, nil))
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			s, err := client.LookupResources(ctx, &deputyv1.LookupResourcesRequest{
				AgentId: "bot", OnBehalfOf: harness.Ref("user:alice"), TenantId: "acme", ResourceObjectType: "document", Permission: "view",
			})
			w.must(err)
			var got []string
			for {
				m, err := s.Recv()
				if errors.Is(err, io.EOF) {
					break
				}
				w.must(err)
				got = append(got, m.String())
			}
			if len(got) != 2 || !strings.Contains(got[0], "plan") || !strings.Contains(got[1], "complete") {
				t.Errorf("the lookup brings %q", got)
			}
			watch, err := client.WatchPermission(ctx, &deputyv1.WatchPermissionRequest{Check: question()})
			w.must(err)
			first, err := watch.Recv()
			if err != nil || !strings.Contains(first.String(), "HAS_PERMISSION") {
				t.Fatalf("the watch begins with %v, %v", first, err)
			}
			w.Delete(t, "document:plan#reader@user:alice")
			defer w.Touch(t, "document:plan#reader@user:alice")
			for {
				m, err := watch.Recv()
				if err != nil {
					t.Fatalf("the watch ends with %v before it told that the permission does", err)
				}
				if strings.Contains(m.String(), "NO_PERMISSION") {
					break
				}
			}
		})
	}
}

// TestFrames: gRPC-Web with frames by hand, as a browser's library sends them, and the end as a frame.
func TestFrames(t *testing.T) {
	w := open(t)
	message, err := proto.Marshal(question())
	w.must(err)
	frame := append([]byte{0, 0, 0, 0, 0}, message...)
	binary.BigEndian.PutUint32(frame[1:], uint32(len(message)))
	got := w.send(http.MethodPost, checkPath, bytes.NewReader(frame),
		"Content-Type", "application/grpc-web+proto", "X-Grpc-Web", "1", "Authorization", "Bearer "+harness.ServiceKey)
	text := []byte(got.text)
	if got.status != http.StatusOK || got.header.Get("Content-Type") != "application/grpc-web+proto" || len(text) < 5 || text[0] != 0 {
		t.Fatalf("got %d %v %q", got.status, got.header, text)
	}
	length := binary.BigEndian.Uint32(text[1:])
	answer := &deputyv1.CheckPermissionResponse{}
	w.must(proto.Unmarshal(text[5:5+length], answer))
	if answer.GetPermissionship() != deputyv1.Permissionship_PERMISSIONSHIP_HAS_PERMISSION {
		t.Errorf("the answer is %v", answer)
	}
	if rest := text[5+length:]; len(rest) < 5 || rest[0] != 0x80 || !strings.Contains(string(rest[5:]), "grpc-status: 0") {
		t.Errorf("the end is %q", rest)
	}
}

// TestJSON: what is wrong with a JSON request is refused with the word that is wrong, and nothing that it does not say is taken for said.
func TestJSON(t *testing.T) {
	w := open(t)
	for name, test := range map[string]struct{ body, says string }{
		"a misspelt field":       {strings.Replace(check, "tenantId", "tennantId", 1), `the request has no field "tennantId"; it has`},
		"a misspelt inner field": {strings.Replace(check, `"objectType":"document"`, `"type":"document"`, 1), `resource has no field "type"; it has objectId, objectType`},
		"no JSON":                {"agent=bot", "the request is no JSON"},
		"nothing":                {"", "the request is no JSON: it ends too early"},
		"a list":                 {"[" + check + "]", "the request has to be a JSON object"},
		"two":                    {check + check, "the request has more than one JSON value"},
		"a field twice":          {strings.Replace(check, `"agentId":"bot"`, `"agentId":"bot","agent_id":"other"`, 1), "duplicate field"},
		"a number for a string":  {strings.Replace(check, `"bot"`, "7", 1), "agentId is 7 at line 1:12, and has to be a string"},
		"deep":                   {`{"context":{"a":` + strings.Repeat("[", 3000) + strings.Repeat("]", 3000) + "}}", "nested deeper than 100 levels"},
	} {
		if got := w.json(checkPath, test.body); got.status != http.StatusBadRequest || got.Code != "invalid_argument" ||
			!strings.Contains(got.Message, test.says) || got.reason() != "INVALID_FIELD" {
			t.Errorf("%s: %d %s; want %q", name, got.status, got.text, test.says)
		}
	}
	snake := strings.NewReplacer("agentId", "agent_id", "onBehalfOf", "on_behalf_of", "objectType", "object_type", "objectId", "object_id", "tenantId", "tenant_id").Replace(check)
	for name, kind := range map[string]string{"the contract's names": "application/json", "with its charset": "application/json; charset=utf-8"} {
		got := w.send(http.MethodPost, checkPath, strings.NewReader(snake), "Content-Type", kind, "Authorization", "Bearer "+harness.ServiceKey)
		if got.status != http.StatusOK || !strings.Contains(got.text, "PERMISSIONSHIP_HAS_PERMISSION") {
			t.Errorf("%s: %d %s", name, got.status, got.text)
		}
	}
}

// TestSameRecords: the journal has the same records of the same calls, whichever way they came in.
func TestSameRecords(t *testing.T) {
	w := open(t)
	calls := func(conn grpc.ClientConnInterface, agent string) {
		ctx := t.Context()
		permissions := deputyv1.NewPermissionsServiceClient(conn)
		_, _ = permissions.CheckPermission(ctx, question())
		wrong := question()
		wrong.Permission = "nothing"
		wrong.Context, _ = structpb.NewStruct(map[string]any{"amount": 7})
		_, _ = permissions.CheckPermission(ctx, wrong)
		_, _ = permissions.CheckBulkPermissions(ctx, &deputyv1.CheckBulkPermissionsRequest{})
		s, err := permissions.LookupAgents(ctx, &deputyv1.LookupAgentsRequest{Resource: harness.Ref("document:plan"), Permission: "view"})
		for err == nil {
			_, err = s.Recv()
		}
		agents := deputyv1.NewAgentsServiceClient(conn)
		_, _ = agents.RegisterAgent(ctx, &deputyv1.RegisterAgentRequest{AgentId: agent, OwnerIds: []string{"alice"}})
		_, _ = agents.SuspendAgent(ctx, &deputyv1.SuspendAgentRequest{AgentId: agent, Reason: "the test"})
		_, _ = agents.GetAgent(ctx, &deputyv1.GetAgentRequest{AgentId: "nobody"})
		_ = conn.Invoke(ctx, "/deputy.v1.AgentsService/Guess", &deputyv1.GetAgentRequest{}, &deputyv1.GetAgentResponse{})
	}
	// What is another in each call: ids, times, places in the journal, digests of what has another id.
	audits := harness.Dial(t, w.Addr().String(), auditorKey)
	records := func() (all []*deputyv1.Record) {
		s, err := deputyv1.NewJournalServiceClient(audits).QueryRecords(t.Context(), &deputyv1.QueryRecordsRequest{})
		w.must(err)
		for {
			m, err := s.Recv()
			if errors.Is(err, io.EOF) {
				slices.SortFunc(all, func(a, b *deputyv1.Record) int { return cmp.Compare(a.GetSequence(), b.GetSequence()) })
				return all
			}
			w.must(err)
			if r := m.GetRecord().GetRecord(); r != nil && !strings.HasPrefix(r.GetMethod(), "deputy.v1.JournalService") {
				all = append(all, r)
			}
		}
	}
	text := func(all []*deputyv1.Record) (lines []string) {
		for _, r := range all {
			r, _ := proto.Clone(r).(*deputyv1.Record)
			r.Sequence, r.Time, r.Latency, r.Begun, r.RequestHash, r.Revision = 0, 0, 0, nil, nil, ""
			lines = append(lines, strings.NewReplacer("made-1", "made", "made-2", "made", "made-3", "made").Replace(fmt.Sprint(r)))
		}
		return lines
	}
	before := len(records())
	calls(w.Admin, "made-1")
	direct := records()[before:]
	for agent, protocol := range map[string]string{"made-2": "Connect JSON", "made-3": "gRPC-Web"} {
		before = len(records())
		calls(harness.DialHTTP(t, w.HTTPAddr().String(), harness.AdminKey, protocol, nil), agent)
		got := records()[before:]
		if want, got := text(direct), text(got); len(want) < 8 || !slices.Equal(want, got) {
			t.Errorf("%s:\n%s\nover gRPC\n%s", protocol, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
}

// TestHealth: /healthz and /readyz say what health says, to anybody.
func TestHealth(t *testing.T) {
	w := open(t, func(cfg *daemon.Config) { cfg.ShutdownDelay = 10 * time.Second })
	for _, path := range []string{"/healthz", "/readyz"} {
		if got := w.send(http.MethodGet, path, nil); got.status != http.StatusOK || !strings.Contains(got.text, `"SERVING"`) {
			t.Errorf("%s: %d %s", path, got.status, got.text)
		}
		if got := w.send(http.MethodPost, path, nil); got.status != http.StatusMethodNotAllowed {
			t.Errorf("POST %s: %d %s", path, got.status, got.text)
		}
	}
	w.Stop()
	for end := time.Now().Add(10 * time.Second); ; {
		got := w.send(http.MethodGet, "/readyz", nil)
		if got.status == http.StatusServiceUnavailable && strings.Contains(got.text, "NOT_SERVING") {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("a server that is about to stop says %d %s", got.status, got.text)
		}
	}
	if got := w.send(http.MethodGet, "/healthz", nil); got.status != http.StatusOK {
		t.Errorf("a server that still answers says %d %s", got.status, got.text)
	}
	w.stillAnswers()
}
