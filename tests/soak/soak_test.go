//go:build linux

package soak

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/deputyauth/deputy/pkg/daemon"
	"github.com/deputyauth/deputy/tests/harness"
	"github.com/deputyauth/deputy/tests/process"
)

// timeVariable is how long the load goes on, a duration. Without it the test is a miniature, which compares no figures.
const timeVariable = "DEPUTY_SOAK_TIME"

// profilesVariable is the folder that heap profiles of the server go to, at the end of each part of the time. Without it there
// are none: each costs the server a collection.
const profilesVariable = "DEPUTY_SOAK_PROFILES"

// profiles is how many parts the time has for profiles.
const profiles = 6

const (
	miniature = 20 * time.Second
	// mostRatio is how far the last third's maximum may be above the middle third's.
	mostRatio = 1.1
)

func TestMain(m *testing.M) { process.Main(m.Run) }

// figures are what is sampled, in the order of the table, each with its unit. One that is below its floor has not risen.
var figures = []struct {
	name        string
	unit, floor float64
}{
	{"resident memory, MiB", 1 << 20, 0},
	{"heap in use, MiB", 1 << 20, 0},
	{"goroutines", 1, 0},
	{"descriptors", 1, 0},
	{"data directory, MiB", 1 << 20, 0},
	// A segment is 64 MiB before another one is begun, and the reserve has 16.
	{"journal, MiB", 1 << 20, 96 << 20},
	// Tiles of hashes are removed 256 at a time.
	{"journal, files", 1, 600},
	// After 10,000 records a checkpoint is signed, if not earlier.
	{"journal, records under no checkpoint", 1, 20_000},
}

// sample is one of each figure.
type sample struct {
	at     time.Duration
	values []float64
}

// take measures a server, with its data directory and its journal's.
func take(ctx context.Context, server *process.Server, data, journal string, at time.Duration) (sample, error) {
	told, err := server.Figures(ctx)
	if err != nil {
		return sample{}, err
	}
	resident, _ := server.Memory()
	unsealed, found := told["deputy_journal_unsealed_records"]
	if !found {
		return sample{}, errors.New("the server does not tell how many records are under no checkpoint")
	}
	stored, _ := sizeOf(data)
	bytes, files := sizeOf(journal)
	return sample{at, []float64{
		float64(resident), told["go_memstats_heap_inuse_bytes"], told["go_goroutines"], told["process_open_fds"], float64(stored),
		float64(bytes), float64(files), unsealed,
	}}, nil
}

// sizeOf is how many bytes the files below a folder have, and how many they are. One that goes away meanwhile has none.
func sizeOf(dir string) (bytes int64, files int) {
	_ = filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return nil //nolint:nilerr // it went away
		}
		if info, err := entry.Info(); err == nil {
			bytes += info.Size()
			files++
		}
		return nil
	})
	return bytes, files
}

// maxima returns each figure's maximum in each third of a time.
func maxima(samples []sample, duration time.Duration) [][3]float64 {
	most := make([][3]float64, len(figures))
	for _, s := range samples {
		third := min(int(3*s.at/duration), 2)
		for i, v := range s.values {
			most[i][third] = max(most[i][third], v)
		}
	}
	return most
}

// risen returns which figures the last third has more of than the middle one by more than mostRatio.
func risen(most [][3]float64) (names []string) {
	for i, m := range most {
		if m[2] >= figures[i].floor && (m[1] == 0 || m[2] > mostRatio*m[1]) {
			names = append(names, figures[i].name)
		}
	}
	return names
}

// TestSoak loads a server and looks whether what it takes stays flat.
func TestSoak(t *testing.T) {
	duration, whole := miniature, false
	if text := os.Getenv(timeVariable); text != "" {
		var err error
		if duration, err = time.ParseDuration(text); err != nil || duration < time.Minute {
			t.Fatalf("%s is %q, want a duration of at least 1m", timeVariable, text)
		}
		whole = true
	}
	// Several collections fall into each third.
	retention := min(time.Minute, max(5*time.Second, duration/30))
	dir := t.TempDir()
	data, journal := filepath.Join(dir, "data"), filepath.Join(dir, "journal")
	provider, callers := newProvider(t, dir)
	server, err := process.Start(process.Config{
		Dir: dir, Log: filepath.Join(dir, "serve.log"),
		Env: map[string]string{"DEPUTY_PRESHARED_KEY": harness.ServiceKey, "DEPUTY_ADMIN_PRESHARED_KEY": harness.AdminKey},
		// A small cache is full early, and a heap that is collected often has little garbage: what still grows afterwards is
		// something else.
		Args: []string{
			"--addr", "127.0.0.1:0", "--metrics-addr", "127.0.0.1:0", "--data-dir", data, "--retention", retention.String(), "--cache-mib", "16", "--gc-headroom-mib", "32",
			"--journal-dir", journal, "--journal-retention", retention.String(),
			"--snapshot-max-age", min(retention, 30*time.Second).String(),
			"--callers", callers, "--http-listen", provider.addr, "--signals-dir", filepath.Join(dir, "signals"),
		},
		Profiles: os.Getenv(profilesVariable),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = server.Kill() }()
	l := &load{done: map[string]int{}, provider: provider}
	if l.service, err = harness.Connect(server.Addr, harness.ServiceKey); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.service.Close() }()
	if l.admin, err = harness.Connect(server.Addr, harness.AdminKey); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.admin.Close() }()
	if err := l.prepare(t.Context()); err != nil {
		t.Fatal(err)
	}

	// Without a deadline: a server that gives up at one of its own is a fault.
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	defer time.AfterFunc(duration, cancel).Stop()
	loaded := make(chan struct{})
	go func() {
		defer close(loaded)
		l.run(ctx)
	}()
	if os.Getenv(profilesVariable) != "" {
		for part := range profiles {
			// The last comes a little before the end.
			defer time.AfterFunc(time.Duration(float64(duration)*float64(part+1)/profiles)-time.Second, func() {
				if err := server.Profile(); err != nil {
					t.Errorf("no profile: %v", err)
				}
			}).Stop()
		}
	}
	var samples []sample
	start := time.Now()
	every(ctx, min(2*time.Second, duration/20), func(int) {
		s, err := take(ctx, server, data, journal, time.Since(start))
		if err != nil {
			if ctx.Err() == nil {
				t.Errorf("no figures: %v", err)
			}
			return
		}
		samples = append(samples, s)
	})
	<-loaded
	select {
	case <-server.Ended():
		t.Fatalf("the server ended: %v\n%s", server.Wait(), server.Log())
	default:
	}
	if err := server.Stop(time.Minute); err != nil {
		t.Errorf("stopping: %v", err)
	}

	most := maxima(samples, duration)
	if whole {
		table(l, most, duration, len(samples))
		for _, name := range risen(most) {
			t.Errorf("%s rose by more than a tenth in the last third", name)
		}
	}
	for _, w := range l.wrong {
		t.Error(w)
	}
	if l.more > 0 {
		t.Errorf("and %d more", l.more)
	}
	if len(samples) < 10 {
		t.Errorf("there are %d samples only", len(samples))
	}
	for _, name := range kinds {
		if l.done[name] == 0 {
			t.Errorf("the load has no %q", name)
		}
	}
}

// kinds are what every load has to have done.
var kinds = []string{
	"check in a session", "check in an ended session", "check of nothing", "bulk check", "explain", "renew session", "lookup resources",
	"lookup agents", "SpiceDB's lookup resources", "SpiceDB's lookup subjects", "check under a delegation", "check by agent alone",
	"check under a revoked delegation", "check by agent alone, revoked", "check of a suspended agent", "check of a resumed agent",
	"check without the row", "check with the row", "read at an older revision", "import", "export", "delete an import", "write schema",
	"watched revisions", "purge", "signal", "signal that changes nothing", "signal that is sent again", "check after a signal",
	"check after a signal that was sent again",
}

// table prints what a run came to.
func table(l *load, most [][3]float64, duration time.Duration, samples int) {
	third := (duration / 3).Round(time.Second)
	fmt.Fprintf(os.Stdout, "%s, %d samples; the maximum in each third\n", duration, samples)
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "\t0–%s\t%s–%s\t%s–%s\tlast/middle\t\n", third, third, 2*third, 2*third, duration)
	for i, m := range most {
		unit := figures[i].unit
		fmt.Fprintf(w, "%s\t%.1f\t%.1f\t%.1f\t%.2f\t\n", figures[i].name, m[0]/unit, m[1]/unit, m[2]/unit, m[2]/m[1])
	}
	_ = w.Flush()
	fmt.Fprintln(os.Stdout)
	for _, name := range slices.Sorted(maps.Keys(l.done)) {
		fmt.Fprintf(os.Stdout, "%8d %s\n", l.done[name], name)
	}
	fmt.Fprintf(os.Stdout, "%8d wrong answers and errors\n", len(l.wrong)+l.more)
}

// TestRisen shows that a figure that rises is found, in which third it is, and that one that falls is not.
func TestRisen(t *testing.T) {
	var samples []sample
	for n := range 90 {
		at := time.Duration(n) * time.Second
		flat, leak := 100.0, float64(100+n)
		samples = append(samples, sample{at, []float64{leak, flat, flat - float64(n), flat, flat, leak, 10 * leak, leak}})
	}
	most := maxima(samples, 90*time.Second)
	if want := [3]float64{129, 159, 189}; most[0] != want {
		t.Errorf("the maxima of a figure that rises are %v, want %v", most[0], want)
	}
	if got := risen(most); !slices.Equal(got, []string{figures[0].name, figures[6].name}) {
		t.Errorf("risen are %q, want %q, and %q, which is above its floor", got, figures[0].name, figures[6].name)
	}
}

// TestModelBites shows that a load whose answers are wrong says so: what it expects of an ended session is asked of a live one.
func TestModelBites(t *testing.T) {
	s := harness.Start(t, daemon.Config{Engine: harness.Embedded(t)})
	l := &load{done: map[string]int{}, service: s.Service, admin: s.Admin}
	if err := l.prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	id, ok := l.delegate(t.Context(), "granter0")
	if !ok {
		t.Fatal(l.wrong)
	}
	l.expect(t.Context(), "under a revoked delegation", false, under("granter0", id))
	if len(l.wrong) != 1 {
		t.Errorf("a revoked delegation that allows is no fault: %q", l.wrong)
	}
	l.wrong = nil
	unknown := question("granter0")
	unknown.Resource = harness.Ref("nothing:x")
	l.expect(t.Context(), "of an unknown type", false, unknown)
	if len(l.wrong) != 1 {
		t.Errorf("an error is no fault: %q", l.wrong)
	}
}
