//go:build linux

package border

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"

	"github.com/deputyauth/deputy/tests/process"
)

// What a run is told by its environment.
const (
	// timeVariable is how long to fuzz, a duration; without it, for shortTime from shortSeed.
	timeVariable = "DEPUTY_BORDER_TIME"
	// seedVariable is the seed to draw from; without it a new one, if timeVariable is set.
	seedVariable = "DEPUTY_BORDER_SEED"
	// engineVariable is embedded, the default, or memory.
	engineVariable = "DEPUTY_BORDER_ENGINE"
	// dirVariable is where inputs that fail are kept.
	dirVariable = "DEPUTY_BORDER_FINDINGS"
)

const (
	shortTime, shortSeed = 12 * time.Second, 11
	// roundTime is how long one server is fuzzed.
	roundTime = 30 * time.Second
	// workers are clients at the same time.
	workers = 6
)

func TestMain(m *testing.M) { process.Main(m.Run) }

// engineOf is the engine that this run fuzzes.
func engineOf(t *testing.T) string {
	t.Helper()
	engine := os.Getenv(engineVariable)
	if engine == "" {
		engine = "embedded"
	}
	if engine != "embedded" && engine != "memory" {
		t.Fatalf("%s is %q, must be embedded or memory", engineVariable, engine)
	}
	return engine
}

// TestFuzz fuzzes the whole border.
func TestFuzz(t *testing.T) {
	duration, seed := shortTime, uint64(shortSeed)
	if text := os.Getenv(timeVariable); text != "" {
		var err error
		if duration, err = time.ParseDuration(text); err != nil || duration <= 0 {
			t.Fatalf("%s is %q, want a duration", timeVariable, text)
		}
		seed = rand.Uint64() >> 1
	}
	if text := os.Getenv(seedVariable); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("%s: %v", seedVariable, err)
		}
	}
	engine, rep := engineOf(t), newReport(seed, os.Getenv(dirVariable))
	fmt.Fprintf(os.Stdout, "fuzzing %s for %s from seed %d\n", engine, duration, seed)
	end := time.Now().Add(duration)
	each := min(roundTime, duration/2)
	for number := uint64(0); time.Now().Before(end); number++ {
		if err := fuzzRound(t.Context(), rep, t.TempDir(), engine, number, min(each, time.Until(end))); err != nil {
			t.Fatalf("round %d: %v", number, err)
		}
		rep.rounds++
	}
	rep.print(os.Stdout)
	fail(t, rep)
}

// fuzzRound fuzzes one server. In every other round admins take part, who may change its world.
func fuzzRound(ctx context.Context, rep *report, dir, engine string, number uint64, duration time.Duration) error {
	r, err := begin(ctx, rep, dir, engine)
	if err != nil {
		return err
	}
	defer func() { _ = r.end() }()
	admin := number%2 == 1
	roles := []string{"nobody", "wrong", "service", "service", "service", "service"}
	if admin {
		roles = []string{"nobody", "service", "admin", "admin", "admin", "admin"}
	}
	until := time.Now().Add(duration)
	var all sync.WaitGroup
	for k := range workers {
		all.Go(func() { r.work(k, rep.seed+number<<48, until, roles) })
	}
	all.Wait()
	r.after(ctx, admin)
	if r.over() {
		r.autopsy(ctx, dir, engine)
	}
	return nil
}

// fail reports all findings with what led to them.
func fail(t *testing.T, rep *report) {
	t.Helper()
	for _, f := range rep.findings {
		text := rep.texts[f.kind()]
		if len(text) > 2000 {
			text = text[:2000] + "…"
		}
		t.Errorf("%s %s, %d times: %s\n%s", f.class, f.method, rep.kinds[f.kind()], f.detail, text)
	}
}

// TestCorpus replays the inputs that were wrong once, each for itself, and looks at the server after all of them.
func TestCorpus(t *testing.T) {
	files, err := filepath.Glob("testdata/corpus/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no corpus: %v", err)
	}
	engine := engineOf(t)
	rep := newReport(0, "")
	r, err := begin(t.Context(), rep, t.TempDir(), engine)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.end() }()
	outer := t // its folders outlive a replay's
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			in, err := parseInput(string(text))
			if err != nil {
				t.Fatal(err)
			}
			rep.forget()
			r.each([]*input{in})
			if err := r.wellBehaved(t.Context()); err != nil && !r.gone(goneWithin) {
				t.Errorf("afterwards: %v", err)
			}
			for _, f := range rep.findings {
				t.Errorf("%s: %.300s", f.class, f.detail)
			}
			if _, peak := r.Memory(); peak > 0 {
				t.Logf("resident memory rose by %d MiB at most", (peak-r.baseline.resident)>>20)
			}
			if r.over() {
				<-r.Ended()
				t.Errorf("the server is gone: %s", r.death())
				_ = r.end()
				if r, err = begin(context.Background(), rep, outer.TempDir(), engine); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
	rep.forget()
	r.after(t.Context(), false)
	for _, f := range rep.findings {
		t.Errorf("%s: %s", f.class, f.detail)
	}
}

// TestEveryServiceIsFuzzed asks the server by reflection what it serves.
func TestEveryServiceIsFuzzed(t *testing.T) {
	w, err := serve(t.Context(), t.TempDir(), engineOf(t))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = w.end() }()
	stream, err := reflectionv1.NewServerReflectionClient(w.conns["admin"]).ServerReflectionInfo(t.Context())
	if err == nil {
		err = stream.Send(&reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{}})
	}
	if err != nil {
		t.Fatal(err)
	}
	resp, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	var served, fuzzed []string
	for _, s := range resp.GetListServicesResponse().GetService() {
		served = append(served, s.GetName())
	}
	for _, m := range methods() {
		if name := string(m.Parent().FullName()); !slices.Contains(fuzzed, name) {
			fuzzed = append(fuzzed, name)
		}
	}
	slices.Sort(served)
	slices.Sort(fuzzed)
	if !slices.Equal(served, fuzzed) {
		t.Errorf("served are\n%q\nfuzzed are\n%q\nA package of services that is new belongs into packages.", served, fuzzed)
	}
}
