package bench

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/deputyauth/deputy/pkg/daemon"
	"github.com/deputyauth/deputy/pkg/store"
)

// TestLarge measures the large graph: how fast it is loaded, what it takes on the disk, how fast it is
// opened and read, in how much memory, and what is left of the rate of decisions over the small one.
func TestLarge(t *testing.T) {
	g := sized(scaled(*large, 5_000))
	data := t.TempDir()
	tenants := make([]governed, g.tenants)
	for i := range tenants {
		tenants[i] = of(i, 1)
	}
	t.Run("agents", func(t *testing.T) { startDeputy(t, data).prepare(t, tenants) })
	dir := daemon.StoreDir(data)
	s, err := store.Open(dir, store.Config{Retention: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	took := fill(t, s, g)
	n := float64(g.relationships())
	label := fmt.Sprintf(" (%d relationships)", g.relationships())
	add(t, "bulk load at the datastore's interface"+label, n/took.Seconds(), "/s")
	if err := s.Compact(t.Context()); err != nil {
		t.Fatal(err)
	}
	atMost(t, "disk a relationship, with the changelog"+label, float64(liveBytes(t, s))/n, "bytes", 75)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	// A window that is over: the changelog goes.
	s, err = store.Open(dir, store.Config{Retention: time.Millisecond, CollectEvery: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	if err := touch(t.Context(), s, "newest"); err != nil {
		t.Fatal(err)
	}
	if err := s.Compact(t.Context()); err != nil {
		t.Fatal(err)
	}
	atMost(t, "disk a relationship, without the changelog"+label, float64(liveBytes(t, s))/n, "bytes", 45)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	kill(t, dir)
	// A process of its own opens and reads it, so that its memory is what that takes.
	r := readAlone(t, dir, g)
	atMost(t, "opening it after a kill -9 under load"+label, r.Opened, "s", 2)
	atMost(t, "a forward read of two rows, decoded"+label, r.Read, "µs", 8)
	if r.Resident > 0 {
		atMost(t, "resident in the process that reads it"+label, r.Resident, "MiB", 1024)
	}
	t.Run("decisions", func(t *testing.T) { decisionsOver(t, startAhead(t, data), tenants, g) })
}

// startAhead starts a server over a data directory, and waits until it has read the store ahead, which it does after each start.
func startAhead(t *testing.T, data string) deputy {
	t.Helper()
	metrics, err := freeAddr(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	begin, again := time.Now(), time.NewTicker(50*time.Millisecond)
	defer again.Stop()
	d := dialDeputy(t, start(t, served{Kind: "deputy", Dir: data, Metrics: metrics}))
	for !strings.Contains(figuresAt(t, metrics), "\ndeputy_store_read_ahead_over 1\n") {
		if time.Since(begin) > 5*time.Minute {
			t.Fatal("the server does not end reading its store ahead")
		}
		<-again.C
	}
	add(t, "reading it ahead in the background after a start", time.Since(begin).Seconds(), "s")
	return d
}

// figuresAt returns the metrics of a server.
func figuresAt(t *testing.T, addr string) string {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+addr+"/metrics", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// decisionsOver measures decisions over the large graph beside those over the small one, and beside the
// bare call.
func decisionsOver(t *testing.T, large deputy, tenants []governed, g graph) {
	largeRuns := large.begin(t, tenants)
	small, smallRuns := startSmall(t, sized(scaled(87_300, 5_000)))
	limit, _ := startLimit(t, small, cold(smallRuns), leg{"tenant", tenant(0), "access", "user", user(0, 1)})
	largeName := fmt.Sprintf("Deputy, %d relationships", g.relationships())
	all := []contender{
		{name: bareName, ask: decide(limit, cold(smallRuns))},
		{name: deputyName, ask: decide(small.decisions, cold(smallRuns))},
		{name: largeName, ask: decide(large.decisions, cold(largeRuns))},
	}
	agree(t, 60, []contender{all[0], all[2]})
	for seed := range scaled(3, 1) { // warm
		all[2].run(t, 32, uint64(1000+seed))
	}
	for _, workers := range []int{32, 1} {
		r := contest(t, "decisions, cold, a large graph", workers, scaled(5, 1), all)
		if workers == 32 {
			atLeast(t, "whole decisions over the large graph / over the small one, 32 workers", r.over(largeName, deputyName), "", 0.8)
		}
	}
}
