package http_test

// RED: this test fails on purpose.

import (
	"context"
	nethttp "net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/deputyauth/deputy/pkg/door/http"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/pkg/rpc"
)

// counting counts the calls that reach the gate.
type counting struct{ calls atomic.Int64 }

// Serve is http.Calls's.
func (c *counting) Serve(context.Context, string, rpc.Carrier) (metadata.MD, error) {
	c.calls.Add(1)
	return nil, nil
}

// Limit is http.Calls's.
func (*counting) Limit(string) int { return 1 << 20 }

// TestRedPastTheGate: every call of a method that there is reaches the gate, which counts those of nobody known.
func TestRedPastTheGate(t *testing.T) {
	t.Parallel()
	services := deputyv1.File_deputy_v1_permissions_proto.Services()
	calls := &counting{}
	door, err := http.New(http.Config{
		Calls: calls, Services: []protoreflect.ServiceDescriptor{services.Get(0)}, Peer: func(*nethttp.Request) *peer.Peer { return &peer.Peer{} },
		Old: func(*nethttp.Request) bool { return false }, Ready: func(context.Context) bool { return true },
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, header := range []string{
		"Accept: */*", "Content-Encoding: br", "Connect-Timeout-Ms: -5", "Connect-Timeout-Ms: x", "Connect-Protocol-Version: 9",
	} {
		before := calls.calls.Load()
		request := httptest.NewRequestWithContext(t.Context(), nethttp.MethodPost, "/"+string(services.Get(0).FullName())+"/CheckPermission", strings.NewReader("{}"))
		request.Header.Set("Content-Type", "application/json")
		name, value, _ := strings.Cut(header, ": ")
		request.Header.Set(name, value)
		answer := httptest.NewRecorder()
		door.ServeHTTP(answer, request)
		if calls.calls.Load() == before {
			t.Errorf("%s: the gate knows nothing of the call, which is answered with %d %s", header, answer.Code, answer.Body)
		}
	}
}
