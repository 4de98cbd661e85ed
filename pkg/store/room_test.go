package store

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/authzed/spicedb/pkg/datastore"
	"github.com/authzed/spicedb/pkg/tuple"
	"github.com/cockroachdb/pebble/v2/vfs"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// TestReserve: within the reserve what only takes access away is written, and nothing else, however it looks; below
// the floor nothing is.
func TestReserve(t *testing.T) {
	t.Parallel()
	const mebibyte = 1 << 20
	disk := &smallDisk{FS: vfs.NewMem()}
	disk.left.Store(1000 * mebibyte)
	config := small(Config{FS: disk, Narrows: func(resourceType, relation string) bool {
		return resourceType == "session" && relation == "ended"
	}})
	config.DiskReserve = 64 * mebibyte
	s := must(Open("store", config))(t)
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	var rows []tuple.RelationshipUpdate
	for i := range 4000 {
		rows = append(rows, touch(fmt.Sprintf("document:%d%s#reader@user:alice", i, strings.Repeat("x", 200))))
	}
	writesOf(t, s, rows...)
	writesOf(t, s, touch("session:old#active@session:old"), touch("session:other#active@session:other"))
	tryTo := func(fn func(context.Context, datastore.ReadWriteTransaction) error) error {
		_, err := s.ReadWriteTx(t.Context(), fn)
		return err
	}
	full := func(err error) bool { return status.Code(err) == codes.ResourceExhausted }
	// leave leaves so much, and waits until the store has seen it.
	leave := func(left int64) {
		disk.left.Store(left)
		n := 0
		eventually(t, "the store to see how full its disk is", func() bool {
			n++
			return full(tryTo(writing(touch(fmt.Sprintf("document:seen%d-%d#reader@user:alice", left, n)))))
		})
	}
	widening := map[string][]tuple.RelationshipUpdate{
		"a grant":                   {touch("document:new#reader@user:alice")},
		"a mark":                    {touch("session:new#active@session:new")},
		"a tombstone of other":      {touch("document:new#ended@document:new")},
		"a tombstone that expires":  {expiring("session:old#ended@session:old", time.Now().Add(time.Hour))},
		"a tombstone with a caveat": {touch("session:old#ended@session:old[cav]")},
		"an end, and a grant":       {touch("session:old#ended@session:old"), remove("session:old#active@session:old"), touch("document:new#reader@user:alice")},
	}
	leave(32 * mebibyte)
	head := headOf(t, s)
	for what, updates := range widening {
		if err := tryTo(writing(updates...)); !full(err) {
			t.Errorf("%s got %v", what, err)
		}
	}
	if err := tryTo(func(ctx context.Context, tx datastore.ReadWriteTransaction) error {
		return tx.LegacyWriteNamespaces(ctx, typeNamed("document", "reader"))
	}); !full(err) {
		t.Errorf("a definition got %v", err)
	}
	if err := tryTo(deletingAll(0)); !full(err) {
		t.Errorf("deleting more at once than may use the reserve got %v", err)
	}
	if at := headOf(t, s); at != head {
		t.Error("something of that was written")
	}
	end := func(id string) error {
		return tryTo(writing(touch("session:"+id+"#ended@session:"+id), remove("session:"+id+"#active@session:"+id)))
	}
	if err := end("old"); err != nil {
		t.Errorf("an end got %v", err)
	}
	if err := tryTo(deletingAll(100)); err != nil {
		t.Errorf("deleting some got %v", err)
	}
	// What changes nothing costs nothing, however often it is asked for.
	head = headOf(t, s)
	for range 100 {
		if err := end("old"); err != nil {
			t.Errorf("the same end again got %v", err)
		}
		if err := tryTo(writing(remove("document:unknown#reader@user:alice"))); err != nil {
			t.Errorf("deleting nothing got %v", err)
		}
	}
	if at := headOf(t, s); at != head {
		t.Error("what changes nothing was written")
	}
	// And it cannot be used up: the floor is left, no matter how much a caller asks for.
	ended := 0
	for err := error(nil); err == nil; ended++ {
		err = tryTo(func(ctx context.Context, tx datastore.ReadWriteTransaction) error {
			var updates []tuple.RelationshipUpdate
			for i := range 100 {
				updates = append(updates, touch(fmt.Sprintf("session:%d-%d%s#ended@session:x", ended, i, strings.Repeat("x", 500))))
			}
			return tx.WriteRelationships(ctx, updates)
		})
		if err != nil && !full(err) {
			t.Fatal(err)
		}
	}
	if left := disk.left.Load(); left < 16*mebibyte*9/10 || left > 20*mebibyte || ended < 10 {
		t.Errorf("after %d writes %d bytes are left", ended, left)
	}
	disk.left.Store(15 * mebibyte)
	if err := end("other"); !full(err) {
		t.Errorf("an end below the floor got %v", err)
	}
	if n := disk.full.Load(); n > 0 {
		t.Errorf("%d writes found the disk full", n)
	}
	disk.left.Store(1000 * mebibyte)
	for what, updates := range widening {
		if err := tryTo(writing(updates...)); err != nil {
			t.Errorf("with room again, %s got %v", what, err)
		}
	}
}
