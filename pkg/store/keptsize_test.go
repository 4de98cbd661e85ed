package store

import (
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/authzed/spicedb/pkg/tuple"
)

// heapInUse returns how many bytes are in use.
func heapInUse() int {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // what pools keep goes with the second one
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}

// TestKeptMemory: what is kept takes as much memory as it may, whatever it is: it is measured, and not added up as
// the store does it. Not in parallel, since it is the process's memory.
func TestKeptMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: much work of one goroutine")
	}
	const limit = 8 << 20
	numbers := strings.TrimSuffix(strings.Repeat("12345.5,", 200), ",")
	texts := strings.TrimSuffix(strings.Repeat(`"0123456789",`, 130), ",")
	var entries []string
	for i := range 5 {
		entries = append(entries, fmt.Sprintf(`"key%d":{"a":[true,false,null],"b":{"c":"text%d","d":%d}}`, i, i, i))
	}
	wide := func(of int) (rels []string) {
		for i := range of {
			rels = append(rels, fmt.Sprintf("#reader@user:somebody%d", i))
		}
		return rels
	}
	for name, c := range map[string]struct {
		objects int
		rels    []string
		// none says that none of it is kept.
		none bool
	}{
		"lists of numbers": {objects: 2500, rels: []string{`#reader@user:a[cav:{"list":[` + numbers + `]}]`}},
		"lists of texts":   {objects: 2500, rels: []string{`#reader@user:a[cav:{"list":[` + texts + `]}]`}},
		"maps":             {objects: 2500, rels: []string{`#reader@user:a[cav:{` + strings.Join(entries, ",") + `}]`}},
		"small maps":       {objects: 6000, rels: []string{`#reader@user:a[cav:{"a":1}]`, `#reader@user:b[cav:{"a":1,"b":"c"}]`, `#reader@user:c[cav]`}},
		"small objects":    {objects: 20_000, rels: wide(1)},
		"wide objects":     {objects: 2000, rels: wide(25)},
		"too large":        {objects: 60, rels: []string{`#reader@user:a[cav:{"list":[` + strings.Repeat(numbers+",", 15) + `1]}]`}, none: true},
	} {
		t.Run(name, func(t *testing.T) {
			s := opened(t, Config{KeptBytes: limit})
			var updates []tuple.RelationshipUpdate
			for i := range c.objects {
				for _, rel := range c.rels {
					updates = append(updates, touch(fmt.Sprintf("document:%d%s", i, rel)))
				}
				if len(updates) > 500 || i == c.objects-1 {
					writesOf(t, s, updates...)
					updates = nil
				}
			}
			for range 2 {
				sn := must(s.Snapshot(headOf(t, s)))(t)
				for i := range c.objects {
					rows, _, err := sn.Object("document", fmt.Sprint(i), 0)
					if err != nil || len(rows) != len(c.rels) {
						t.Fatalf("%d rows: %v", len(rows), err)
					}
				}
				sn.Close()
			}
			added, size := 0, 0
			for i := range s.objects.shards {
				size += s.objects.shards[i].size
				for _, e := range s.objects.shards[i].entries {
					added += e.size
				}
			}
			took := heapInUse()
			for i := range s.objects.shards {
				s.objects.shards[i].entries = nil
			}
			took -= heapInUse()
			t.Logf("%d MiB are kept, and were counted as %d MiB", took>>20, size>>20)
			if took > limit*13/10 {
				t.Errorf("it takes %d MiB, and may take %d", took>>20, limit>>20)
			}
			if c.none {
				if size != 0 {
					t.Errorf("%d MiB are kept", size>>20)
				}
				return
			}
			if size > limit || size < limit/3 || size != added {
				t.Errorf("%d MiB were counted, and %d are", size>>20, added>>20)
			}
			if took < size/3 {
				t.Errorf("%d MiB were counted for %d", size>>20, took>>20)
			}
			runtime.KeepAlive(s)
		})
	}
}
