package spicedb

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/engine"
	"github.com/deputyauth/deputy/pkg/rpc"
	"github.com/deputyauth/deputy/pkg/rpc/wire"
	schemaguard "github.com/deputyauth/deputy/pkg/schema/guard"
	"github.com/deputyauth/deputy/schema"
)

// slowHouse is openEngine with the limits of the test's for imports, and a schema that is asked for through asked.
func slowHouse(t *testing.T, limits rpc.StreamLimits, asked func()) *house {
	t.Helper()
	ctx := context.Background()
	e, err := engine.Open(ctx, engine.Config{Kind: engine.Memory})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() })
	h := open(t, Config{
		Upstream: e.Conn(),
		Receiver: wire.NewReceiver(nil),
		Schema: func(ctx context.Context) (*authz.Schema, error) {
			asked()
			s, err := e.Snapshot(ctx, authz.Freshness{})
			if err != nil {
				return nil, err
			}
			return s.Schema(ctx)
		},
		Model: schemaguard.Requested, Rights: rightsOf,
	}, limits.Options()...)
	if _, err := h.client(t, adminKey).WriteSchema(ctx, &v1.WriteSchemaRequest{Schema: schema.Core + testDomain}); err != nil {
		t.Fatal(err)
	}
	return h
}

// importer is the stream of either API.
type importer struct {
	send  func(relationships ...string) error
	ended func() error
}

// imports opens an import in each API.
var imports = map[string]func(*testing.T, *house, string) importer{
	"permissions": func(t *testing.T, h *house, key string) importer {
		stream, err := h.client(t, key).ImportBulkRelationships(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		return importer{
			func(list ...string) error {
				return stream.Send(&v1.ImportBulkRelationshipsRequest{Relationships: relationships(list...)})
			},
			func() error { return stream.RecvMsg(new(v1.ImportBulkRelationshipsResponse)) },
		}
	},
	"experimental": func(t *testing.T, h *house, key string) importer {
		stream, err := h.client(t, key).BulkImportRelationships(context.Background()) //nolint:staticcheck // the old name is served
		if err != nil {
			t.Fatal(err)
		}
		return importer{
			func(list ...string) error {
				return stream.Send(&v1.BulkImportRelationshipsRequest{Relationships: relationships(list...)})
			},
			func() error { return stream.RecvMsg(new(v1.BulkImportRelationshipsResponse)) },
		}
	},
}

// nothingOf asserts that a house has no notes.
func nothingOf(t *testing.T, h *house) {
	t.Helper()
	read, err := h.client(t, adminKey).ReadRelationships(t.Context(), &v1.ReadRelationshipsRequest{
		Consistency: fully, RelationshipFilter: &v1.RelationshipFilter{ResourceType: "note"},
	})
	if got := collect(t, read, err); len(got) != 0 {
		t.Errorf("it left %v", got)
	}
}

// An import that is begun and not ended is ended, with nothing written, no matter which caller left it open.
func TestImportThatIsLeftOpen(t *testing.T) {
	for name, begin := range imports {
		for _, key := range []string{serviceKey, adminKey} {
			t.Run(name+"/"+key, func(t *testing.T) {
				h := slowHouse(t, rpc.StreamLimits{Stall: 100 * time.Millisecond}, func() {})
				i := begin(t, h, key)
				if err := i.send("note:one#author@user:alice"); err != nil {
					t.Fatal(err)
				}
				err := i.ended()
				wants(t, "import", err, codes.DeadlineExceeded, "STREAM_STALLED", "")
				if !strings.Contains(err.Error(), "for 100ms") {
					t.Errorf("%v, want that it says what to do", err)
				}
				nothingOf(t, h)
			})
		}
	}
}

// An import that goes on and on is ended too.
func TestImportThatGoesOn(t *testing.T) {
	for name, begin := range imports {
		t.Run(name, func(t *testing.T) {
			h := slowHouse(t, rpc.StreamLimits{Bulk: 300 * time.Millisecond}, func() {})
			i := begin(t, h, serviceKey)
			var err error
			for n := 0; err == nil; n++ {
				err = i.send(fmt.Sprintf("note:%d#author@user:alice", n))
			}
			if !errors.Is(err, io.EOF) {
				t.Fatal(err)
			}
			wants(t, "import", i.ended(), codes.DeadlineExceeded, "STREAM_TIME", "")
			nothingOf(t, h)
		})
	}
}

// A panic while a later message is judged fails the import and nothing else: it is met in a goroutine of its own.
func TestPanicInALaterMessage(t *testing.T) {
	for name, begin := range imports {
		t.Run(name, func(t *testing.T) {
			// The first message is judged in the handler's goroutine, which the interceptors recover.
			var asked atomic.Int64
			h := slowHouse(t, rpc.StreamLimits{}, func() {
				if asked.Add(1) > 1 {
					panic("the schema is broken")
				}
			})
			i := begin(t, h, serviceKey)
			if err := i.send("note:one#author@user:alice"); err != nil {
				t.Fatal(err)
			}
			var err error
			for err == nil {
				err = i.send("note:two#author@user:alice")
			}
			if err := i.ended(); err == nil || status.Code(err) == codes.Canceled {
				t.Errorf("%v, want that it fails", err)
			}
			nothingOf(t, h)
		})
	}
}
