package follow_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/authzed/spicedb/pkg/datastore"
	"github.com/authzed/spicedb/pkg/tuple"
	"github.com/cockroachdb/pebble/v2/vfs"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/deputyauth/deputy/pkg/follow"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/pkg/store"
)

// movable is a clock that a test moves.
type movable struct {
	mu sync.Mutex
	by time.Duration
}

func (m *movable) now() time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return time.Now().Add(m.by)
}

func (m *movable) move(by time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.by += by
}

// TestStoreMissed: a position that has left the retention of a Deputy store is refused once the store has collected, and a load at such a position too.
func TestStoreMissed(t *testing.T) {
	s := served(t, store.Config{Retention: time.Minute})
	w := writer(t, s.uri)
	a := authority(t, s.uri, time.Minute)
	f := follower(t, inMemory(), a)
	w.update(t, touch("document:plan#viewer@user:alice"))
	at := follows(t, f, a)
	w.update(t, remove("document:plan#viewer@user:alice"))
	s.clock.move(3 * time.Minute)
	w.update(t, touch("document:other#viewer@user:alice"))
	w.collect(t, time.Minute)
	if _, err := f.Pull(t.Context()); !errors.Is(err, follow.ErrMissed) {
		t.Fatalf("the pull after a collection: %v, want %v", err, follow.ErrMissed)
	}
	state := a.At(at)
	_, definitions := state.Definitions(t.Context())
	_, page := state.Page(t.Context(), "", 10)
	_, digests := state.Digests(t.Context(), time.Now())
	bucket := state.Bucket(t.Context(), follow.Bucket{Type: "document"}, time.Now(), 10, func(*tuple.Relationship) error { return nil })
	for what, err := range map[string]error{"definitions": definitions, "page": page, "digests": digests, "bucket": bucket} {
		if !errors.Is(err, follow.ErrMissed) {
			t.Errorf("%s of a position that has left the retention: %v", what, err)
		}
	}
	follows(t, f, a)
	reached, err := f.Reached()
	if err != nil {
		t.Fatal(err)
	}
	defer reached.Release()
	if has := strings.Join(relationships(t, reached), " "); strings.Contains(has, "plan") {
		t.Errorf("the copy has %s: what was revoked is in force", has)
	}
}

// TestStoreIdentity discards the copy of a Deputy store where another history answers: a store that was restored from a backup, one whose
// directory was put back to what it was before, and another one altogether.
func TestStoreIdentity(t *testing.T) {
	files := vfs.NewCrashableMem()
	s := served(t, store.Config{FS: files})
	w := writer(t, s.uri)
	a := authority(t, s.uri, time.Hour)
	w.update(t, touch("document:plan#viewer@user:alice"))
	var backup bytes.Buffer
	if _, err := s.Backup(t.Context(), &backup); err != nil {
		t.Fatal(err)
	}
	before := files.CrashClone(vfs.CrashCloneCfg{})
	w.update(t, touch("document:lost#viewer@user:alice"))
	restored := vfs.NewMem()
	if _, err := store.Restore(t.Context(), &backup, "store", store.Config{FS: restored, DiskReserve: 1}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, about string
		files       vfs.FS
	}{
		{"restored from a backup", "is of the store", restored}, {"put back", "never been", before}, {"another one", "is of the store", vfs.NewMem()},
	} {
		t.Run(c.name, func(t *testing.T) {
			config := inMemory()
			f, err := follow.Open(config, a)
			if err != nil {
				t.Fatal(err)
			}
			at := follows(t, f, a)
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
			other := writer(t, served(t, store.Config{FS: c.files}).uri)
			b := authority(t, other.uri, time.Hour)
			other.update(t, touch("document:found#viewer@user:alice"))
			f = follower(t, config, b)
			if _, err := f.Pull(t.Context()); !errors.Is(err, follow.ErrOther) || !strings.Contains(err.Error(), c.about) {
				t.Errorf("the pull says %v, want another authority, and %q", err, c.about)
			}
			if _, err := f.Reached(); !errors.Is(err, follow.ErrNoCopy) {
				t.Errorf("the copy is still served: %v", err)
			}
			follows(t, f, b)
			reached, err := f.Reached()
			if err != nil {
				t.Fatal(err)
			}
			defer reached.Release()
			if has := strings.Join(relationships(t, reached), " "); strings.Contains(has, "lost") || !strings.Contains(has, "found") {
				t.Errorf("the copy has %s", has)
			}
			was, err := a.Revision(at)
			if err != nil {
				t.Fatal(err)
			}
			if shows, err := b.Shows(reached.Position, was); err == nil && shows && c.name != "put back" {
				t.Errorf("a position of the other store shows the revision %s of the first one", was)
			}
		})
	}
}

// TestStoreShows: a position shows what is not later, of the same store.
func TestStoreShows(t *testing.T) {
	w := writer(t, served(t, store.Config{}).uri)
	a := authority(t, w.uri, time.Hour)
	position := func() (follow.Position, string) {
		t.Helper()
		w.update(t, touch("document:plan#viewer@user:alice"))
		at, err := a.Head(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		printed, err := a.Revision(at)
		if err != nil {
			t.Fatal(err)
		}
		return at, printed
	}
	first, firstPrinted := position()
	second, secondPrinted := position()
	for _, c := range []struct {
		at       follow.Position
		revision string
		want     bool
	}{{first, firstPrinted, true}, {first, secondPrinted, false}, {second, firstPrinted, true}, {second, secondPrinted, true}} {
		if got, err := a.Shows(c.at, c.revision); err != nil || got != c.want {
			t.Errorf("%s shows %s: %v, %v; want %v", c.at.State, c.revision, got, err, c.want)
		}
	}
	for _, none := range []string{"", "17", "@x", "x@y", strings.Split(firstPrinted, "@")[0]} {
		if _, err := a.Shows(second, none); err == nil {
			t.Errorf("%q is taken for a revision", none)
		}
	}
	if shows, err := a.Shows(second, strings.Split(firstPrinted, "@")[0]+"@another"); err != nil || shows {
		t.Errorf("a revision of another store is shown: %v, %v", shows, err)
	}
}

// TestStoreCounter: that a counter has counted is no change of what a copy has.
func TestStoreCounter(t *testing.T) {
	w := writer(t, served(t, store.Config{}).uri)
	a := authority(t, w.uri, time.Hour)
	f := follower(t, inMemory(), a)
	w.write(t, func(ctx context.Context, tx datastore.ReadWriteTransaction) error {
		return tx.RegisterCounter(ctx, "documents", documents())
	})
	at := follows(t, f, a)
	head, err := w.HeadRevision(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	w.write(t, func(ctx context.Context, tx datastore.ReadWriteTransaction) error {
		return tx.StoreCounterValue(ctx, "documents", 17, head.Revision)
	})
	c, err := a.ChangesSince(t.Context(), at, 10)
	if err != nil || !c.Empty() || c.To.State == at.State {
		t.Errorf("a counter has counted: %+v, %v", c, err)
	}
	follows(t, f, a)
	w.write(t, func(ctx context.Context, tx datastore.ReadWriteTransaction) error {
		if err := tx.UnregisterCounter(ctx, "documents"); err != nil {
			return err
		}
		filter := documents()
		filter.OptionalRelation = "viewer"
		return tx.RegisterCounter(ctx, "documents", filter)
	})
	follows(t, f, a)
}

// TestStoreRequests refuses what no follower sends.
func TestStoreRequests(t *testing.T) {
	s := served(t, store.Config{})
	w := writer(t, s.uri)
	w.update(t, touch("document:plan#viewer@user:alice"))
	service := deputyv1.NewFollowServiceClient(s.conn)
	head, err := service.GetHead(t.Context(), &deputyv1.GetHeadRequest{})
	if err != nil {
		t.Fatal(err)
	}
	at := head.GetHead()
	future := &deputyv1.FollowedPosition{StoreId: at.GetStoreId(), Revision: at.GetRevision() + 1, At: at.GetAt()}
	now := timestamppb.Now()
	type messages interface{ RecvMsg(m any) error }
	first := func(stream messages, err error, message any) error {
		if err != nil {
			return err
		}
		return stream.RecvMsg(message)
	}
	changes := func(r *deputyv1.ReadChangesRequest) error {
		stream, err := service.ReadChanges(t.Context(), r)
		return first(stream, err, &deputyv1.ReadChangesResponse{})
	}
	page := func(r *deputyv1.ReadPageRequest) error {
		stream, err := service.ReadPage(t.Context(), r)
		return first(stream, err, &deputyv1.ReadPageResponse{})
	}
	bucket := func(r *deputyv1.ReadBucketRequest) error {
		stream, err := service.ReadBucket(t.Context(), r)
		return first(stream, err, &deputyv1.ReadBucketResponse{})
	}
	asked := []*deputyv1.FollowedRelationship{{ResourceType: "document", ResourceId: "plan", Relation: "viewer", SubjectType: "user", SubjectId: "alice"}}
	rows := func(r *deputyv1.ReadRowsRequest) error {
		stream, err := service.ReadRows(t.Context(), r)
		return first(stream, err, &deputyv1.ReadRowsResponse{})
	}
	digests := func(r *deputyv1.ReadDigestsRequest) error {
		stream, err := service.ReadDigests(t.Context(), r)
		return first(stream, err, &deputyv1.ReadDigestsResponse{})
	}
	for _, c := range []struct {
		what string
		err  error
		want codes.Code
	}{
		{"changes since nothing", changes(&deputyv1.ReadChangesRequest{Limit: 1}), codes.InvalidArgument},
		{"changes since no revision", changes(&deputyv1.ReadChangesRequest{From: &deputyv1.FollowedPosition{StoreId: at.GetStoreId()}, Limit: 1}), codes.InvalidArgument},
		{"no limit", changes(&deputyv1.ReadChangesRequest{From: at}), codes.InvalidArgument},
		{"too many changes", changes(&deputyv1.ReadChangesRequest{From: at, Limit: 200_001}), codes.InvalidArgument},
		{"changes since the future", changes(&deputyv1.ReadChangesRequest{From: future, Limit: 1}), codes.FailedPrecondition},
		{"changes", changes(&deputyv1.ReadChangesRequest{From: at, Limit: 1}), codes.OK},
		{"a page of nothing", page(&deputyv1.ReadPageRequest{At: at}), codes.InvalidArgument},
		{"a page that is too large", page(&deputyv1.ReadPageRequest{At: at, Limit: 50_001}), codes.InvalidArgument},
		{"a page of the future", page(&deputyv1.ReadPageRequest{At: future, Limit: 1}), codes.FailedPrecondition},
		{"a page after no place", page(&deputyv1.ReadPageRequest{At: at, Limit: 1, After: "Zm9v"}), codes.InvalidArgument},
		{"a page after no text", page(&deputyv1.ReadPageRequest{At: at, Limit: 1, After: "!"}), codes.InvalidArgument},
		{"a page", page(&deputyv1.ReadPageRequest{At: at, Limit: 1}), codes.OK},
		{"rows of nothing", rows(&deputyv1.ReadRowsRequest{At: at}), codes.InvalidArgument},
		{"too many rows", rows(&deputyv1.ReadRowsRequest{At: at, Relationships: slices.Repeat(asked, 1001)}), codes.InvalidArgument},
		{"rows of no subject", rows(&deputyv1.ReadRowsRequest{At: at, Relationships: []*deputyv1.FollowedRelationship{{ResourceType: "a", ResourceId: "b", Relation: "c"}}}), codes.InvalidArgument},
		{"rows of the future", rows(&deputyv1.ReadRowsRequest{At: future, Relationships: asked}), codes.FailedPrecondition},
		{"digests at no moment", digests(&deputyv1.ReadDigestsRequest{At: at}), codes.InvalidArgument},
		{"digests", digests(&deputyv1.ReadDigestsRequest{At: at, Moment: now}), codes.OK},
		{"no bucket", bucket(&deputyv1.ReadBucketRequest{At: at, Moment: now}), codes.InvalidArgument},
		{
			"a bucket that is none",
			bucket(&deputyv1.ReadBucketRequest{At: at, Moment: now, Bucket: &deputyv1.FollowedBucket{ResourceType: "document", Number: 256}}),
			codes.InvalidArgument,
		},
		{
			"a bucket of a type that is none",
			bucket(&deputyv1.ReadBucketRequest{At: at, Moment: now, Bucket: &deputyv1.FollowedBucket{ResourceType: "a\x00b"}}), codes.InvalidArgument,
		},
	} {
		if status.Code(c.err) != c.want {
			t.Errorf("%s: %v, want %v", c.what, c.err, c.want)
		}
	}
}

// TestStoreParts: what does not fit into one message comes in several, and all of it comes.
func TestStoreParts(t *testing.T) {
	w := writer(t, served(t, store.Config{}).uri)
	a := authority(t, w.uri, time.Hour)
	config := inMemory()
	config.PageSize = 5_000 // about a megabyte with such ids
	f := follower(t, config, a)
	follows(t, f, a)
	long := strings.Repeat("x", 200)
	large(t, w.uri, 100)
	for i := range 3 {
		var updates []string
		for n := range 4_000 {
			updates = append(updates, fmt.Sprintf("document:%s-%d-%d#viewer@user:alice", long, i, n))
		}
		w.write(t, func(ctx context.Context, tx datastore.ReadWriteTransaction) error {
			for _, one := range updates {
				if err := tx.WriteRelationships(ctx, touches(one)); err != nil {
					return err
				}
			}
			return nil
		})
	}
	follows(t, f, a) // by changes
	if err := f.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	follows(t, f, a)
	w.write(t, deleteAll("document"))
	follows(t, f, a)
	reached, err := f.Reached()
	if err != nil {
		t.Fatal(err)
	}
	defer reached.Release()
	if left := relationships(t, reached); len(left) > 0 {
		t.Errorf("%d relationships are left", len(left))
	}
}
