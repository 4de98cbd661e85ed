//go:build linux

package encodings

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/tests/harness"
	"github.com/deputyauth/deputy/tests/process"
)

// most is what a server may take, whatever comes in, beside what it took at its start, in MiB.
const most = 512

// alone starts a server in a process of its own.
func alone(t *testing.T) *process.Server {
	t.Helper()
	dir := t.TempDir()
	s, err := process.Start(process.Config{
		Log:  filepath.Join(dir, "serve.log"),
		Env:  map[string]string{"DEPUTY_PRESHARED_KEY": harness.ServiceKey, "DEPUTY_ADMIN_PRESHARED_KEY": harness.AdminKey},
		Args: []string{"--addr", "127.0.0.1:0", "--engine", "embedded", "--data-dir", filepath.Join(dir, "data")},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Kill() })
	return s
}

var peak = regexp.MustCompile(`VmHWM:\s+(\d+) kB`)

// took returns the most memory that a server has had, in MiB.
func took(t *testing.T, s *process.Server) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.PID()))
	if err != nil {
		t.Fatal(err)
	}
	found := peak.FindSubmatch(text)
	if found == nil {
		t.Fatalf("no peak in %s", text)
	}
	kilobytes, err := strconv.Atoi(string(found[1]))
	if err != nil {
		t.Fatal(err)
	}
	return kilobytes >> 10
}

// bombs are messages that take far more than they weigh, by what they are.
func bombs() map[string][]byte {
	const size = 4<<20 - 64
	value := field(1, field(4)...) // an element of a list
	return map[string][]byte{
		"empty items":      slices.Repeat(field(1), size/2),
		"a list of values": field(1, field(4, field(1, field(2, field(6, slices.Repeat(value, 1<<20/len(value))...)...)...)...)...),
		"one long string":  field(1, field(1, field(1, []byte(strings.Repeat("x", size))...)...)...),
	}
}

// TestBombs sends messages that take far more than they weigh, ten at once, compressed and not, to the methods that take the largest
// ones, without a key and with one.
func TestBombs(t *testing.T) {
	s := alone(t)
	before := took(t, s)
	var large []method
	for _, m := range methods(t) {
		if slices.Contains([]string{
			"/deputy.v1.PermissionsService/CheckBulkPermissions", "/authzed.api.v1.PermissionsService/CheckBulkPermissions",
			"/authzed.api.v1.PermissionsService/ImportBulkRelationships", "/deputy.v1.PermissionsService/FilterResources",
		}, m.path) {
			large = append(large, m)
		}
	}
	for key, want := range map[string]codes.Code{
		"": codes.Unauthenticated, harness.ServiceKey: codes.OK,
	} {
		conn := harness.Dial(t, s.Addr, key)
		for what, body := range bombs() {
			for _, m := range large {
				var calls sync.WaitGroup
				for i := range 10 { // at once
					calls.Go(func() {
						var opts []grpc.CallOption
						if i > 0 { // one of them as it is
							opts = append(opts, compressed)
						}
						err := send(t, conn, m, body, opts...)
						if want == codes.OK {
							refused(t, m.path+": "+what, err)
						} else if status.Code(err) != want {
							t.Errorf("%s without a key: %s: %v", m.path, what, err)
						}
					})
				}
				calls.Wait()
			}
		}
	}
	if now := took(t, s); now > before+most {
		t.Errorf("the server had %d MiB at its start, and at most %d", before, now)
	} else {
		t.Logf("%d MiB at the start, at most %d", before, now)
	}
	serves(t, s)
}

// TestManyLargeMessages sends many sound large messages at once: all are answered or refused, in room that
// does not grow with them.
func TestManyLargeMessages(t *testing.T) {
	s := alone(t)
	before := took(t, s)
	conn := harness.Dial(t, s.Addr, harness.ServiceKey)
	items := &v1.CheckBulkPermissionsRequest{}
	ours := &deputyv1.CheckBulkPermissionsRequest{}
	for range 4000 {
		items.Items = append(items.Items, &v1.CheckBulkPermissionsRequestItem{
			Resource:   &v1.ObjectReference{ObjectType: "document", ObjectId: strings.Repeat("x", 300)},
			Permission: "view", Subject: &v1.SubjectReference{Object: &v1.ObjectReference{ObjectType: "user", ObjectId: "alice"}},
		})
	}
	for range 1000 {
		ours.Items = append(ours.Items, &deputyv1.CheckBulkPermissionsRequestItem{
			AgentId: strings.Repeat("x", 1000), TenantId: "acme", Resource: harness.Ref("document:" + strings.Repeat("x", 1000)), Permission: "view", OnBehalfOf: harness.Ref("user:alice"),
		})
	}
	var calls sync.WaitGroup
	for i := range 48 {
		calls.Go(func() {
			var err error
			var opts []grpc.CallOption
			if i%2 == 0 {
				opts = append(opts, compressed)
			}
			if i%4 < 2 {
				_, err = v1.NewPermissionsServiceClient(conn).CheckBulkPermissions(t.Context(), items, opts...)
			} else {
				_, err = deputyv1.NewPermissionsServiceClient(conn).CheckBulkPermissions(t.Context(), ours, opts...)
			}
			switch status.Code(err) {
			case codes.OK, codes.FailedPrecondition, codes.ResourceExhausted:
			default:
				t.Error(err)
			}
		})
	}
	calls.Wait()
	if now := took(t, s); now > before+most {
		t.Errorf("the server had %d MiB at its start, and at most %d", before, now)
	} else {
		t.Logf("%d MiB at the start, at most %d", before, now)
	}
	serves(t, s)
}

// serves asserts that a server lives, and answers.
func serves(t *testing.T, s *process.Server) {
	t.Helper()
	_, err := v1.NewSchemaServiceClient(harness.Dial(t, s.Addr, harness.ServiceKey)).ReadSchema(t.Context(), &v1.ReadSchemaRequest{})
	if status.Code(err) != codes.NotFound {
		t.Errorf("reading the schema: %v\n%s", err, s.Log())
	}
}
