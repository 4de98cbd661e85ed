package store

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// everyPoint returns which of the points of a sweep are tried: each stride-th one, with -short a tenth of those, or, where
// DEPUTY_STORE_EVERY is set to a number, each of that many.
func everyPoint(t *testing.T, stride int) int {
	t.Helper()
	text := os.Getenv("DEPUTY_STORE_EVERY")
	if text == "" {
		if testing.Short() {
			return 10 * stride
		}
		return stride
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("DEPUTY_STORE_EVERY is %q, want a number from 1 on", text)
	}
	return n
}

func isSync(op errorfs.Op) bool {
	return op.Kind == errorfs.OpFileSync || op.Kind == errorfs.OpFileSyncData || op.Kind == errorfs.OpFileSyncTo
}

// TestCrash crashes an ordeal before each of its syncs: what was synced is kept, of the rest nothing, a
// third, or all of it. Each time the store that is left has to open and to have all that was
// acknowledged until then.
func TestCrash(t *testing.T) {
	t.Parallel()
	for _, kept := range []int{0, 30, 70, 100} {
		t.Run(fmt.Sprintf("%d percent", kept), func(t *testing.T) {
			t.Parallel()
			o, mem := newOrdeal(), vfs.NewCrashableMem()
			var crashes sync.Mutex
			stride := everyPoint(t, 1)
			points, files := 0, map[string]int{}
			rng := rand.New(rand.NewPCG(uint64(kept), 17))
			crash := func(what string) {
				crashes.Lock()
				defer crashes.Unlock()
				if points++; points%stride != 0 {
					return
				}
				acknowledged := map[string]Revision{}
				for _, d := range o.ledger() {
					acknowledged[d.name] = d.at
				}
				left := mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: kept, RNG: rng})
				known := o.ledger()
				for i := range known {
					// What is acknowledged by now may have been synced after the clone was taken.
					known[i].at = acknowledged[known[i].name]
				}
				if _, err := o.reopened(left, known); err != nil {
					t.Errorf("crash %d, before %s: %v", points, what, err)
				}
			}
			count := func(kind string) {
				crashes.Lock()
				defer crashes.Unlock()
				files[kind]++
			}
			fs := meddle(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
				if !isSync(op) || t.Failed() {
					return nil
				}
				kind, draws := kindOfFile(op.Path), 1
				if kind == "directory" && kept%100 > 0 {
					draws = 4 // which names are kept is drawn, and there are few
				}
				count(kind)
				for range draws {
					crash("a sync of " + op.Path)
				}
				return nil
			}))
			o.live(fs, func(_ ordealStep, _ *Store, err error) bool {
				if err != nil {
					t.Error(err)
				}
				return !t.Failed()
			})
			crash("nothing more")
			t.Logf("%d crashes: %v", points/stride, files)
			for _, kind := range []string{"log", "sst", "MANIFEST", "directory", "DEPUTY"} {
				if files[kind] < 2 {
					t.Errorf("%d crashes before a sync of a %s: the ordeal is too short", files[kind], kind)
				}
			}
		})
	}
}

// kindOfFile names what a file of a store's directory is.
func kindOfFile(name string) string {
	base := path.Base(name)
	switch {
	case strings.HasSuffix(base, ".sst"):
		return "sst"
	case strings.HasSuffix(base, ".log"):
		return "log"
	case strings.HasPrefix(base, "MANIFEST"):
		return "MANIFEST"
	case strings.HasPrefix(base, "marker."):
		return "marker"
	case strings.HasPrefix(base, "OPTIONS"):
		return "OPTIONS"
	case strings.HasPrefix(base, formatFile):
		return formatFile
	default:
		return "directory"
	}
}
