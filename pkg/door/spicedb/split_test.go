package spicedb

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/deputyauth/deputy/schema"
)

// stockLimit is the largest message that a client takes unless it is told otherwise.
const stockLimit = 4 << 20

// bulky imports n relationships of about a kilobyte each, as one transaction.
func bulky(ctx context.Context, t *testing.T, c v1.PermissionsServiceClient, n int) {
	t.Helper()
	var batches [][]*v1.Relationship
	for start := 0; start < n; start += 500 {
		var batch []*v1.Relationship
		for i := start; i < min(start+500, n); i++ {
			batch = append(batch, relationship(fmt.Sprintf("note:%s%d#author@user:alice", strings.Repeat("x", 900), i)))
		}
		batches = append(batches, batch)
	}
	if loaded := must[uint64](t)(load(ctx, c, batches...)); loaded != uint64(n) {
		t.Fatalf("loaded %d of %d", loaded, n)
	}
}

// TestLongExport: what SpiceDB would send as one message comes in several that a stock client takes, with cursors from which nothing is
// missed.
func TestLongExport(t *testing.T) {
	h := openEngine(t)
	ctx := t.Context()
	c := h.client(t, adminKey)
	text := schema.Core + testDomain + "caveat sized(x string) {\n\tx == \"\"\n}\ndefinition memo {\n\trelation author: user with sized\n}\n"
	must[*v1.WriteSchemaResponse](t)(c.WriteSchema(ctx, &v1.WriteSchemaRequest{Schema: text}))
	const all = 1500
	for start := 0; start < all; start += 500 {
		var batch []*v1.Relationship
		for i := range 500 {
			r := relationship(fmt.Sprintf("memo:m%d#author@user:alice", start+i))
			r.OptionalCaveat = &v1.ContextualizedCaveat{CaveatName: "sized", Context: must[*structpb.Struct](t)(structpb.NewStruct(map[string]any{"x": strings.Repeat("x", 4000)}))}
			batch = append(batch, r)
		}
		must[uint64](t)(load(ctx, c, batch))
	}
	export := func(from *v1.Cursor) []*v1.ExportBulkRelationshipsResponse {
		stream, err := c.ExportBulkRelationships(ctx, &v1.ExportBulkRelationshipsRequest{
			Consistency: fully, OptionalLimit: all, OptionalCursor: from, OptionalRelationshipFilter: filter("memo", "", "", "", "", ""),
		})
		return collect(t, stream, err)
	}
	got := export(nil)
	seen, without := map[string]bool{}, 0
	for i, m := range got {
		for _, r := range m.GetRelationships() {
			seen[r.GetResource().GetObjectId()] = true
		}
		if size := proto.Size(m); size > stockLimit {
			t.Errorf("answer %d has %d bytes", i, size)
		}
		if m.GetAfterResultCursor().GetToken() == "" {
			without++
			continue
		}
		rest := 0
		for _, later := range export(m.GetAfterResultCursor()) {
			rest += len(later.GetRelationships())
		}
		if len(seen)+rest != all {
			t.Errorf("after answer %d of %d there are %d relationships, %d before it", i, len(got), rest, len(seen))
		}
	}
	if len(seen) != all || without == 0 || got[len(got)-1].GetAfterResultCursor().GetToken() == "" {
		t.Errorf("exported %d relationships in %d messages, %d of them without a cursor", len(seen), len(got), without)
	}
}

// TestLongTransactionIsWatched: one transaction that is longer than a message may be reaches a stock client, whole, whether it began
// with a token or without one; and a client that resumes after any part misses nothing.
func TestLongTransactionIsWatched(t *testing.T) {
	h := openEngine(t)
	ctx := t.Context()
	c := h.client(t, serviceKey)
	start := must[*v1.WriteRelationshipsResponse](t)(c.WriteRelationships(ctx, updates("note:before#author@user:alice"))).GetWrittenAt()

	// One that begins at the head has to have begun before the import.
	unanchored, err := c.Watch(ctx, &v1.WatchRequest{})
	if err != nil {
		t.Fatal(err)
	}
	live := make(chan *v1.WatchResponse)
	go func() {
		defer close(live)
		for {
			m, err := unanchored.Recv()
			if err != nil {
				return
			}
			select {
			case live <- m:
			case <-ctx.Done():
				return
			}
		}
	}()
	began := false
	for i := 0; !began; i++ {
		must[*v1.WriteRelationshipsResponse](t)(c.WriteRelationships(ctx, updates(fmt.Sprintf("note:probe%d#author@user:alice", i))))
		select {
		case <-live:
			began = true
		default:
		}
	}
	const n = 6000
	bulky(ctx, t, c, n)
	must[*v1.WriteRelationshipsResponse](t)(c.WriteRelationships(ctx, updates("note:after#author@user:alice")))

	watch := func(t *testing.T, from *v1.ZedToken) (tokens []*v1.ZedToken) {
		t.Helper()
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		stream, err := c.Watch(ctx, &v1.WatchRequest{OptionalStartCursor: from})
		if err != nil {
			t.Fatal(err)
		}
		return whole(t, n, func() *v1.WatchResponse { return must[*v1.WatchResponse](t)(stream.Recv()) })
	}
	tokens := watch(t, start)
	tokens = append(tokens, whole(t, n, func() *v1.WatchResponse {
		m, ok := <-live
		if !ok {
			t.Fatal("the watch without a start ended")
		}
		return m
	})...)
	// From every token of a part before the import's last, all of it comes again.
	for _, token := range tokens {
		watch(t, token)
	}
}

// whole reads until a watch has seen what came after the import, asserts that it saw all of the import, and returns the tokens of the
// parts of the import but its last.
func whole(t *testing.T, n int, next func() *v1.WatchResponse) (tokens []*v1.ZedToken) {
	t.Helper()
	seen, parts := map[string]bool{}, 0
	for {
		m := next()
		if size := proto.Size(m); size > stockLimit {
			t.Errorf("an answer has %d bytes", size)
		}
		for _, u := range m.GetUpdates() {
			if id := u.GetRelationship().GetResource().GetObjectId(); len(id) > 900 {
				seen[id] = true
			} else if id == "after" {
				if len(seen) != n || parts < 2 {
					t.Errorf("saw %d of %d in %d parts", len(seen), n, parts)
				}
				return tokens
			}
		}
		if len(m.GetUpdates()) < 500 {
			continue
		}
		parts++
		if m.GetChangesThrough().GetToken() == "" {
			t.Error("a part has no token: a client that resumes with it begins anew, and misses the rest")
		}
		if len(seen) < n {
			tokens = append(tokens, m.GetChangesThrough())
		}
	}
}

// TestWatchIsAnchored: a Watch that names no start begins at the head, by name, so that the parts of its first answer have a token to
// carry.
func TestWatchIsAnchored(t *testing.T) {
	for _, schema := range []bool{true, false} {
		h := between(t, func(_ any, s grpc.ServerStream) error {
			if method, _ := grpc.MethodFromServerStream(s); method == v1.SchemaService_ReadSchema_FullMethodName {
				if err := s.RecvMsg(&v1.ReadSchemaRequest{}); err != nil || !schema {
					return status.Error(codes.NotFound, "no schema")
				}
				return s.SendMsg(&v1.ReadSchemaResponse{ReadAt: &v1.ZedToken{Token: "head"}})
			}
			var request v1.WatchRequest
			if err := s.RecvMsg(&request); err != nil {
				return err
			}
			var items []*v1.RelationshipUpdate
			for range 5 {
				items = append(items, updates("note:"+strings.Repeat("x", 1<<20)+"#author@user:alice").GetUpdates()...)
			}
			return s.SendMsg(&v1.WatchResponse{
				Updates: items, ChangesThrough: &v1.ZedToken{Token: "after"},
				OptionalTransactionMetadata: &structpb.Struct{Fields: map[string]*structpb.Value{"by": structpb.NewStringValue("me")}},
			})
		})
		for _, from := range []string{"", "mine"} {
			request := &v1.WatchRequest{}
			before := ""
			if from != "" {
				request.OptionalStartCursor, before = &v1.ZedToken{Token: from}, from
			} else if schema {
				before = "head"
			}
			stream, err := h.client(t, serviceKey).Watch(t.Context(), request)
			var tokens []string
			items := 0
			for _, m := range collect(t, stream, err) {
				tokens = append(tokens, m.GetChangesThrough().GetToken())
				items += len(m.GetUpdates())
				if m.GetOptionalTransactionMetadata().GetFields()["by"].GetStringValue() != "me" {
					t.Error("a part lacks the transaction's metadata")
				}
			}
			if want := []string{before, before, "after"}; !slices.Equal(tokens, want) || items != 5 {
				t.Errorf("from %q, schema %t: %d items with the tokens %q, want %q", from, schema, items, tokens, want)
			}
		}
	}
}
