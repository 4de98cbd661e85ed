package deputy_test

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	core "github.com/authzed/spicedb/pkg/proto/core/v1"
	"github.com/authzed/spicedb/pkg/tuple"
	"github.com/cockroachdb/pebble/v2/vfs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
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
	// endless says what it sends without end, where there is a choice.
	endless string
	// same has every page end where the first one does, and pages counts them.
	same  bool
	pages atomic.Int64
	// says is the text of its refusals, and code their code, if it refuses.
	says string
	code codes.Code
	// size is how long the names are that it sends without end; 0 for a mebibyte.
	size int
	// id is what it says that its store's id is; empty for one that is an id.
	id string
	// one is a message that it answers with, where it is one of the answers to what was asked; nil for none.
	one atomic.Pointer[proto.Message]
}

// only sends the message that a hostile server answers with, if it is an answer of this kind.
func only[M any, P interface {
	*M
	proto.Message
}](h *hostile, s grpc.ServerStreamingServer[M]) (sent bool, err error) {
	one := h.one.Load()
	if one == nil {
		return false, nil
	}
	message, ok := (*one).(P)
	if !ok {
		return false, nil
	}
	return true, s.Send((*M)(message))
}

// name is a name that it sends.
func (h *hostile) name() string { return strings.Repeat("x", cmp.Or(h.size, 1<<20)) }

// cost is about how much a message with such a name costs to send.
func (h *hostile) cost() int { return len(h.name()) + 64 }

func position() *deputyv1.FollowedPosition {
	return &deputyv1.FollowedPosition{StoreId: "store", Revision: 7, At: timestamppb.Now()}
}

func (h *hostile) GetHead(context.Context, *deputyv1.GetHeadRequest) (*deputyv1.GetHeadResponse, error) {
	if h.pages.Load() > 0 && h.says != "" {
		return nil, status.Error(cmp.Or(h.code, codes.Unavailable), h.says)
	}
	at := position()
	at.StoreId = cmp.Or(h.id, at.GetStoreId())
	return &deputyv1.GetHeadResponse{Head: at}, nil
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
	if sent, err := only(h, s); sent {
		return err
	}
	if h.deep > 0 {
		return s.Send(&deputyv1.ReadDefinitionsResponse{Definitions: &deputyv1.FollowedDefinitions{Types: [][]byte{deepType(h.deep)}}})
	}
	if h.same {
		return s.Send(&deputyv1.ReadDefinitionsResponse{})
	}
	if h.endless == "digests" {
		name := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), "document")
		return s.Send(&deputyv1.ReadDefinitionsResponse{Definitions: &deputyv1.FollowedDefinitions{Types: [][]byte{name}}})
	}
	name := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), h.name())
	return h.endlessly(h.cost(), func() error {
		return s.Send(&deputyv1.ReadDefinitionsResponse{Definitions: &deputyv1.FollowedDefinitions{Types: [][]byte{name}}})
	})
}

func (h *hostile) ReadChanges(_ *deputyv1.ReadChangesRequest, s grpc.ServerStreamingServer[deputyv1.ReadChangesResponse]) error {
	if sent, err := only(h, s); sent {
		return err
	}
	if h.endless == "written" {
		return h.endlessly(h.cost(), func() error {
			return s.Send(&deputyv1.ReadChangesResponse{To: position(), Written: []*deputyv1.FollowedRelationship{rel(h.name())}})
		})
	}
	return h.endlessly(h.cost(), func() error {
		return s.Send(&deputyv1.ReadChangesResponse{To: position(), DeletedTypes: []string{h.name()}})
	})
}

func (h *hostile) ReadPage(_ *deputyv1.ReadPageRequest, s grpc.ServerStreamingServer[deputyv1.ReadPageResponse]) error {
	if sent, err := only(h, s); sent {
		return err
	}
	if h.same {
		h.pages.Add(1)
		return s.Send(&deputyv1.ReadPageResponse{Next: "there"})
	}
	if h.endless == "nothing" {
		return h.endlessly(64, func() error { return s.Send(&deputyv1.ReadPageResponse{}) })
	}
	if h.endless == "a context" {
		given, err := structpb.NewStruct(map[string]any{"x": h.name()})
		if err != nil {
			return err
		}
		one := rel("plan")
		one.CaveatName, one.CaveatContext = "weekday", given
		return h.endlessly(h.cost(), func() error {
			return s.Send(&deputyv1.ReadPageResponse{Relationships: []*deputyv1.FollowedRelationship{one}})
		})
	}
	return h.endlessly(h.cost(), func() error {
		return s.Send(&deputyv1.ReadPageResponse{Relationships: []*deputyv1.FollowedRelationship{rel(h.name())}})
	})
}

func (h *hostile) ReadDigests(_ *deputyv1.ReadDigestsRequest, s grpc.ServerStreamingServer[deputyv1.ReadDigestsResponse]) error {
	number := uint32(0)
	return h.endlessly(64, func() error {
		number++
		d := &deputyv1.FollowedDigest{Bucket: &deputyv1.FollowedBucket{ResourceType: "document", Number: number % follow.Buckets}, Count: 1}
		return s.Send(&deputyv1.ReadDigestsResponse{Digests: []*deputyv1.FollowedDigest{d}})
	})
}

func (h *hostile) ReadRows(_ *deputyv1.ReadRowsRequest, s grpc.ServerStreamingServer[deputyv1.ReadRowsResponse]) error {
	if sent, err := only(h, s); sent {
		return err
	}
	return h.endlessly(h.cost(), func() error {
		return s.Send(&deputyv1.ReadRowsResponse{Relationships: []*deputyv1.FollowedRelationship{rel(h.name())}})
	})
}

func (h *hostile) ReadBucket(_ *deputyv1.ReadBucketRequest, s grpc.ServerStreamingServer[deputyv1.ReadBucketResponse]) error {
	if sent, err := only(h, s); sent {
		return err
	}
	if h.endless == "nothing" {
		return h.endlessly(64, func() error { return s.Send(&deputyv1.ReadBucketResponse{}) })
	}
	return h.endlessly(h.cost(), func() error {
		return s.Send(&deputyv1.ReadBucketResponse{Relationships: []*deputyv1.FollowedRelationship{rel(h.name())}})
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

// TestEndlessAnswers: no answer is taken in beyond what was asked for, whatever it is made of.
func TestEndlessAnswers(t *testing.T) {
	const asked, mebibyte = 5, 1 << 20
	reads := map[string]func(a *deputy.Authority, at follow.Position) (n int, err error){
		"definitions": func(a *deputy.Authority, at follow.Position) (int, error) {
			d, err := a.At(at).Definitions(t.Context())
			return len(d.Types), err
		},
		"changes": func(a *deputy.Authority, at follow.Position) (int, error) {
			c, err := a.ChangesSince(t.Context(), at, asked)
			return len(c.Written), err
		},
		"page": func(a *deputy.Authority, at follow.Position) (int, error) {
			p, err := a.At(at).Page(t.Context(), "", asked)
			return len(p.Relationships), err
		},
		"a large page": func(a *deputy.Authority, at follow.Position) (int, error) {
			p, err := a.At(at).Page(t.Context(), "", 20_000)
			return len(p.Relationships), err
		},
		"digests": func(a *deputy.Authority, at follow.Position) (int, error) {
			d, err := a.At(at).Digests(t.Context(), time.Now())
			return len(d), err
		},
		"rows": func(a *deputy.Authority, at follow.Position) (int, error) {
			refs := make([]tuple.RelationshipReference, asked)
			for i := range refs {
				refs[i] = tuple.MustParse(fmt.Sprintf("document:%d#reader@user:alice", i)).RelationshipReference
			}
			found, err := a.At(at).Of(t.Context(), refs)
			return len(found), err
		},
		"bucket": func(a *deputy.Authority, at follow.Position) (n int, err error) {
			one := tuple.MustParse("document:xxx#reader@user:alice")
			err = a.At(at).Bucket(t.Context(), follow.BucketOf(&one), time.Now(), asked, func(*tuple.Relationship) error { n++; return nil })
			return n, err
		},
	}
	for _, c := range []struct {
		read, endless string
		// size is how long names are, most how many bytes the server gets rid of at most.
		size, most int
		// fails says that the answer is refused; else it ends with as much as was asked for.
		fails bool
	}{
		{"definitions", "", 1000, 66 * mebibyte, true},
		{"definitions", "", mebibyte, 10 * mebibyte, true}, // no name is that long
		{"changes", "", 1000, 66 * mebibyte, true},
		{"changes", "", mebibyte, 10 * mebibyte, true},
		{"changes", "written", 3, mebibyte, true},
		{"page", "", 3, mebibyte, true},
		{"page", "nothing", 3, 34 * mebibyte, true},
		{"a large page", "a context", mebibyte, 34 * mebibyte, true},
		{"digests", "digests", 3, mebibyte, true},
		{"rows", "", 3, mebibyte, true},
		{"bucket", "", 3, mebibyte, false},
		{"bucket", "nothing", 3, 34 * mebibyte, true},
	} {
		t.Run(fmt.Sprintf("%s %s %d", c.read, c.endless, c.size), func(t *testing.T) {
			h := &hostile{size: c.size, endless: c.endless}
			h.most.Store(256 * mebibyte)
			a, at := follows(t, h)
			n, err := reads[c.read](a, at)
			if (err != nil) != c.fails || !c.fails && n != asked {
				t.Errorf("%d were taken, %v", n, err)
			}
			if sent := int(h.sent.Load()); sent > c.most {
				t.Errorf("the server got rid of %d bytes, and may of %d", sent, c.most)
			}
		})
	}
}

// TestNames: a name at any place of an answer is as long as names are, and has no sign with which a key, the text of a digest or a log could be taken for
// another one. An answer with any other name is refused.
func TestNames(t *testing.T) {
	type (
		relationship = deputyv1.FollowedRelationship
		definitions  = deputyv1.FollowedDefinitions
		changes      = deputyv1.ReadChangesResponse
		answer       = func(name string) proto.Message
	)
	part := func(set func(r *relationship, name string)) answer {
		return func(name string) proto.Message {
			r := rel("plan")
			set(r, name)
			return &deputyv1.ReadPageResponse{Relationships: []*relationship{r}}
		}
	}
	changed := func(change func(c *changes, name string)) answer {
		return func(name string) proto.Message {
			c := &changes{To: position()}
			change(c, name)
			return c
		}
	}
	defined := func(define func(d *definitions, name string)) answer {
		return func(name string) proto.Message {
			d := &definitions{}
			define(d, name)
			return &deputyv1.ReadDefinitionsResponse{Definitions: d}
		}
	}
	two := func(name string) []*relationship { return []*relationship{rel("plan"), rel(name)} }
	encoded := func(m proto.Message) [][]byte {
		text, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return [][]byte{text}
	}
	places := map[string]answer{
		"the type of an object":        part(func(r *relationship, n string) { r.ResourceType = n }),
		"the id of an object":          part(func(r *relationship, n string) { r.ResourceId = n }),
		"a relation":                   part(func(r *relationship, n string) { r.Relation = n }),
		"the type of a subject":        part(func(r *relationship, n string) { r.SubjectType = n }),
		"the id of a subject":          part(func(r *relationship, n string) { r.SubjectId = n }),
		"the relation of a subject":    part(func(r *relationship, n string) { r.SubjectRelation = n }),
		"the caveat of a relationship": part(func(r *relationship, n string) { r.CaveatName = n }),
		"a row":                        func(n string) proto.Message { return &deputyv1.ReadRowsResponse{Relationships: two(n)} },
		"a bucket":                     func(n string) proto.Message { return &deputyv1.ReadBucketResponse{Relationships: two(n)[1:]} },
		"a written relationship":       changed(func(c *changes, n string) { c.Written = two(n) }),
		"a deleted relationship":       changed(func(c *changes, n string) { c.Deleted = two(n) }),
		"a deleted type":               changed(func(c *changes, n string) { c.DeletedTypes = []string{"a", n} }),
		"a deleted caveat":             changed(func(c *changes, n string) { c.DeletedCaveats = []string{"a", n} }),
		"a deleted counter":            changed(func(c *changes, n string) { c.DeletedCounters = []string{"a", n} }),
		"a written caveat": changed(func(c *changes, n string) {
			c.Definitions = &definitions{Caveats: encoded(&core.CaveatDefinition{Name: n})}
		}),
		"a type":    defined(func(d *definitions, n string) { d.Types = encoded(&core.NamespaceDefinition{Name: n}) }),
		"a caveat":  defined(func(d *definitions, n string) { d.Caveats = encoded(&core.CaveatDefinition{Name: n}) }),
		"a counter": defined(func(d *definitions, n string) { d.Counters = []*deputyv1.FollowedCounter{{Name: n}} }),
	}
	h := &hostile{}
	a, at := follows(t, h)
	read := func(place, name string) error {
		one := places[place](name)
		h.one.Store(&one)
		var err error
		switch one.(type) {
		case *deputyv1.ReadPageResponse:
			_, err = a.At(at).Page(t.Context(), "", 5)
		case *changes:
			_, err = a.ChangesSince(t.Context(), at, 5)
		case *deputyv1.ReadDefinitionsResponse:
			_, err = a.At(at).Definitions(t.Context())
		case *deputyv1.ReadRowsResponse:
			_, err = a.At(at).Of(t.Context(), make([]tuple.RelationshipReference, 2))
		case *deputyv1.ReadBucketResponse:
			asked := tuple.Relationship{RelationshipReference: tuple.RelationshipReference{
				Resource: tuple.ObjectAndRelation{ObjectType: "document", ObjectID: name}, Subject: tuple.ObjectAndRelation{ObjectID: "alice"},
			}}
			err = a.At(at).Bucket(t.Context(), follow.BucketOf(&asked), time.Now(), 5, func(*tuple.Relationship) error { return nil })
		}
		return err
	}
	for place := range places {
		for _, name := range []string{"plan", "w/_|-=+", "*", strings.Repeat("x", 1024)} {
			if err := read(place, name); err != nil {
				t.Errorf("%s is refused with the name %.80q: %v", place, name, err)
			}
		}
		for _, none := range []string{"", "a b", "a\nb", "a\x00b", "a\x01b", "a#b", "a@b", "a:b", "ä", strings.Repeat("x", 1025)} {
			if none == "" && (place == "the relation of a subject" || place == "the caveat of a relationship") {
				continue // it has none
			}
			if err := read(place, none); err == nil {
				t.Errorf("%s is taken with the name %.80q", place, none)
			}
		}
	}
}

// TestStoreIDs: what a server says that it is goes into tokens, logs and the mark of the copy, and is an id.
func TestStoreIDs(t *testing.T) {
	for _, id := range []string{"a b", "a@b", "a\nb", "ä", strings.Repeat("x", 65)} {
		h := &hostile{}
		a, at := follows(t, h)
		h.id = id
		if got, err := a.Head(t.Context()); err == nil {
			t.Errorf("%q is taken for the id of a store: %q", id, got.Authority)
		}
		at.Authority = follow.Identity("Deputy store " + id)
		if _, err := a.Revision(at); err == nil {
			t.Errorf("%q on the disk is taken for the id of a store", id)
		}
	}
	h := &hostile{}
	a, _ := follows(t, h)
	h.id = "0f6f1e3c-5a0b-4f0e-9d5c-3f1f0e6a7b21"
	if _, err := a.Head(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestLongRefusals: what the server that is followed says goes into a log, and is not as long as that server likes, with whatever status it says it.
func TestLongRefusals(t *testing.T) {
	for code := codes.Canceled; code <= codes.Unauthenticated; code++ {
		h := &hostile{says: strings.Repeat("x", 1<<20), code: code}
		a, _ := follows(t, h)
		h.pages.Add(1)
		if _, err := a.Head(t.Context()); err == nil || len(err.Error()) > 4096 {
			t.Errorf("the error of %s has %d bytes", code, len(err.Error()))
		}
	}
}
