package deputy_test

import (
	"context"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/deputyauth/deputy/pkg/follow"
	"github.com/deputyauth/deputy/pkg/follow/deputy"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/pkg/store"
)

// hostile is a server that is followed and means its followers ill.
type hostile struct {
	deputyv1.UnimplementedFollowServiceServer

	// sent is how many bytes it has got rid of, and most when it gives up.
	sent, most atomic.Int64
	// deep is how many levels a definition of its has.
	deep int
	// same has every page end where the first one does, and pages counts them.
	same  bool
	pages atomic.Int64
	// says is the text of its refusals, if it refuses.
	says string
}

func position() *deputyv1.FollowedPosition {
	return &deputyv1.FollowedPosition{StoreId: "store", Revision: 7, At: timestamppb.Now()}
}

func (h *hostile) GetHead(context.Context, *deputyv1.GetHeadRequest) (*deputyv1.GetHeadResponse, error) {
	if h.pages.Load() > 0 && h.says != "" {
		return nil, status.Error(codes.Unavailable, h.says)
	}
	return &deputyv1.GetHeadResponse{Head: position()}, nil
}

// endlessly sends until somebody has had enough.
func (h *hostile) endlessly(size int, send func() error) error {
	for h.sent.Load() < h.most.Load() {
		if err := send(); err != nil {
			return err
		}
		h.sent.Add(int64(size))
	}
	return nil
}

func (h *hostile) ReadDefinitions(_ *deputyv1.ReadDefinitionsRequest, s grpc.ServerStreamingServer[deputyv1.ReadDefinitionsResponse]) error {
	if h.deep > 0 {
		return s.Send(&deputyv1.ReadDefinitionsResponse{Definitions: &deputyv1.FollowedDefinitions{Types: [][]byte{deepType(h.deep)}}})
	}
	if h.same {
		return s.Send(&deputyv1.ReadDefinitionsResponse{})
	}
	name := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), strings.Repeat("x", 1<<20))
	return h.endlessly(len(name), func() error {
		return s.Send(&deputyv1.ReadDefinitionsResponse{Definitions: &deputyv1.FollowedDefinitions{Types: [][]byte{name}}})
	})
}

func (h *hostile) ReadChanges(_ *deputyv1.ReadChangesRequest, s grpc.ServerStreamingServer[deputyv1.ReadChangesResponse]) error {
	name := strings.Repeat("x", 1<<20)
	return h.endlessly(len(name), func() error {
		return s.Send(&deputyv1.ReadChangesResponse{To: position(), DeletedTypes: []string{name}})
	})
}

func (h *hostile) ReadPage(_ *deputyv1.ReadPageRequest, s grpc.ServerStreamingServer[deputyv1.ReadPageResponse]) error {
	if h.same {
		h.pages.Add(1)
		return s.Send(&deputyv1.ReadPageResponse{Next: "there"})
	}
	return h.endlessly(1<<20, func() error {
		return s.Send(&deputyv1.ReadPageResponse{Relationships: []*deputyv1.FollowedRelationship{rel(strings.Repeat("x", 1<<20))}})
	})
}

func (h *hostile) ReadDigests(_ *deputyv1.ReadDigestsRequest, s grpc.ServerStreamingServer[deputyv1.ReadDigestsResponse]) error {
	d := &deputyv1.FollowedDigest{Bucket: &deputyv1.FollowedBucket{ResourceType: strings.Repeat("x", 1<<20)}, Count: 1}
	return h.endlessly(1<<20, func() error { return s.Send(&deputyv1.ReadDigestsResponse{Digests: []*deputyv1.FollowedDigest{d}}) })
}

func (h *hostile) ReadRows(_ *deputyv1.ReadRowsRequest, s grpc.ServerStreamingServer[deputyv1.ReadRowsResponse]) error {
	return h.endlessly(1<<20, func() error {
		return s.Send(&deputyv1.ReadRowsResponse{Relationships: []*deputyv1.FollowedRelationship{rel(strings.Repeat("x", 1<<20))}})
	})
}

func (h *hostile) ReadBucket(_ *deputyv1.ReadBucketRequest, s grpc.ServerStreamingServer[deputyv1.ReadBucketResponse]) error {
	return h.endlessly(1<<20, func() error {
		return s.Send(&deputyv1.ReadBucketResponse{Relationships: []*deputyv1.FollowedRelationship{rel(strings.Repeat("x", 1<<20))}})
	})
}

func rel(id string) *deputyv1.FollowedRelationship {
	return &deputyv1.FollowedRelationship{ResourceType: "document", ResourceId: id, Relation: "reader", SubjectType: "user", SubjectId: "alice"}
}

// follows returns the authority at a hostile server, and where it stands.
func follows(t *testing.T, h *hostile) (*deputy.Authority, follow.Position) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer(grpc.MaxSendMsgSize(64 << 20))
	deputyv1.RegisterFollowServiceServer(s, h)
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)
	// As pkg/engine connects to another Deputy.
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	a, err := deputy.Open(t.Context(), conn)
	if err != nil {
		t.Fatal(err)
	}
	at, err := a.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return a, at
}

// deepType is a type with a permission that is nested so many levels deep, each of them in three messages.
func deepType(levels int) []byte {
	// UsersetRewrite.union, SetOperation.child, SetOperation.Child.userset_rewrite
	tags := [3]protowire.Number{1, 1, 4}
	n := 3 * levels
	sizes := make([]int, n+1)
	for i := n - 1; i >= 0; i-- {
		sizes[i] = 1 + protowire.SizeVarint(uint64(sizes[i+1])) + sizes[i+1]
	}
	rewrite := make([]byte, 0, sizes[0])
	for i := range n {
		rewrite = protowire.AppendTag(rewrite, tags[i%3], protowire.BytesType)
		rewrite = protowire.AppendVarint(rewrite, uint64(sizes[i+1]))
	}
	relation := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), "view")
	relation = protowire.AppendBytes(protowire.AppendTag(relation, 2, protowire.BytesType), rewrite)
	definition := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), "document")
	return protowire.AppendBytes(protowire.AppendTag(definition, 2, protowire.BytesType), relation)
}

// TestDeepDefinition: a definition of many levels, which a server that is followed sends, does not end the process.
func TestDeepDefinition(t *testing.T) {
	const child = "DEPUTY_TEST_DEEP_DEFINITION"
	if os.Getenv(child) != "" {
		a, at := follows(t, &hostile{deep: 900_000})
		_, err := a.At(at).Definitions(t.Context())
		t.Logf("it was taken: %v", err)
		return
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestDeepDefinition$", "-test.v")
	cmd.Env = append(os.Environ(), child+"=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("the process ended: %v\n%.600s", err, out)
	}
}

// TestPagesThatLeadNowhere: a load of pages of which each ends where the one before did fails.
func TestPagesThatLeadNowhere(t *testing.T) {
	h := &hostile{same: true}
	a, _ := follows(t, h)
	f, err := follow.Open(follow.Config{Dir: "copies", Store: store.Config{
		FS: vfs.NewMem(), CacheBytes: 1 << 20, MemTableBytes: 1 << 20, DiskReserve: 1, OpenFiles: 100, Unsynced: true,
	}}, a)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	err = f.Load(ctx)
	t.Logf("after %d pages: %v", h.pages.Load(), err)
	if ctx.Err() != nil {
		t.Errorf("%d pages were asked for, and more would have been", h.pages.Load())
	}
}

// TestLongRefusals: what the server that is followed says goes into a log, and is not as long as that server likes.
func TestLongRefusals(t *testing.T) {
	h := &hostile{says: strings.Repeat("x", 1<<20)}
	a, _ := follows(t, h)
	h.pages.Add(1)
	if _, err := a.Head(t.Context()); err == nil || len(err.Error()) > 4096 {
		t.Errorf("the error has %d bytes", len(err.Error()))
	}
}
