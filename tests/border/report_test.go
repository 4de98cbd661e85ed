//go:build linux

package border

import (
	"fmt"
	"hash/fnv"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"
)

// report is what a run came to. It is safe for concurrent use.
type report struct {
	mu   sync.Mutex
	seed uint64
	// dir is where inputs that fail are kept, "" for nowhere.
	dir     string
	started time.Time
	rounds  int
	// calls counts answers by method and outcome, roles by role.
	calls map[string]map[string]int
	roles map[string]int
	// excused counts what excuses let pass, by why.
	excused map[string]int
	// findings are the first of each kind, kinds how often there was one.
	findings []finding
	kinds    map[string]int
	texts    map[string]string
	// methods are those that had a finding of a kind.
	methods map[string]map[string]bool
	// memory is the most that a server took beyond its start, in bytes.
	memory               int64
	refused, unrestored  int
	lastRefusal, lastWhy string
}

func newReport(seed uint64, dir string) *report {
	return &report{
		seed: seed, dir: dir, started: time.Now(), calls: map[string]map[string]int{}, roles: map[string]int{},
		excused: map[string]int{}, kinds: map[string]int{}, texts: map[string]string{}, methods: map[string]map[string]bool{},
	}
}

func (r *report) count(method, role, outcome string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.calls[method] == nil {
		r.calls[method] = map[string]int{}
	}
	r.calls[method][outcome]++
	r.roles[role]++
}

// answer takes one judged answer.
func (r *report) answer(in *input, got reply, wrong []finding, excused string, w *world) {
	r.count(in.method, in.role, outcome(got))
	for _, f := range wrong {
		r.found(f, w)
	}
	if excused != "" {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.excused[excused]++
	}
}

// forget drops all findings.
func (r *report) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.findings = nil
	clear(r.kinds)
}

// known reports whether there was a finding of that kind.
func (r *report) known(f finding) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.kinds[f.kind()] > 0
}

// remember makes later findings of the kind known, without one more line.
func (r *report) remember(f finding) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.kinds[f.kind()]++
}

// found takes a finding, and keeps the input of the first of its kind.
func (r *report) found(f finding, w *world) {
	kind := f.kind()
	text := ""
	if f.in != nil {
		text = f.in.text(w)
	}
	r.mu.Lock()
	r.kinds[kind]++
	first := r.kinds[kind] == 1
	if r.methods[kind] == nil {
		r.methods[kind] = map[string]bool{}
	}
	r.methods[kind][filepath.Base(f.method)] = true
	if first {
		r.findings = append(r.findings, f)
		r.texts[kind] = text
	}
	r.mu.Unlock()
	if first && f.in != nil {
		h := fnv.New32a()
		_, _ = io.WriteString(h, text)
		r.keep(fmt.Sprintf("%s-%s-%08x", strings.ReplaceAll(f.class, " ", "-"), filepath.Base(f.method), h.Sum32()),
			fmt.Sprintf("# %s: %s\n%s", f.class, strings.ReplaceAll(f.detail, "\n", " "), text))
	}
}

// keep writes a file.
func (r *report) keep(name, text string) {
	if r.dir == "" {
		return
	}
	if err := os.MkdirAll(r.dir, 0o755); err == nil {
		_ = os.WriteFile(filepath.Join(r.dir, name+".txt"), []byte(text), 0o600)
	}
}

// keepLog keeps a server's log.
func (r *report) keepLog(class, log string) {
	r.mu.Lock()
	n := len(r.findings)
	r.mu.Unlock()
	r.keep(fmt.Sprintf("log-%s-%d", class, n), log)
}

func (r *report) sawMemory(bytes int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.memory = max(r.memory, bytes)
}

func (r *report) refusedConn(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refused++
	r.lastRefusal = err.Error()
}

func (r *report) notRestored(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.unrestored++
	r.lastWhy = err.Error()
}

// total is how many calls were made.
func (r *report) total() (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.roles {
		n += c
	}
	return n
}

// print writes the tables.
func (r *report) print(out io.Writer) {
	total := r.total()
	r.mu.Lock()
	defer r.mu.Unlock()
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "METHOD\tCALLS\tANSWERS")
	for _, m := range slices.Sorted(maps.Keys(r.calls)) {
		n := 0
		var parts []string
		byCount := slices.SortedFunc(maps.Keys(r.calls[m]), func(a, b string) int { return r.calls[m][b] - r.calls[m][a] })
		for _, o := range byCount {
			n += r.calls[m][o]
			parts = append(parts, fmt.Sprintf("%s %d", o, r.calls[m][o]))
		}
		fmt.Fprintf(table, "%s\t%d\t%s\n", strings.TrimPrefix(m, "/"), n, strings.Join(parts, ", "))
	}
	_ = table.Flush()
	fmt.Fprintf(out, "\n%d calls in %s and %d rounds, seed %d:", total, time.Since(r.started).Round(time.Second), r.rounds, r.seed)
	for _, role := range slices.Sorted(maps.Keys(r.roles)) {
		fmt.Fprintf(out, " %s %d", role, r.roles[role])
	}
	fmt.Fprintf(out, "\nresident memory rose by %d MiB at most (allowed: %d)\n", r.memory>>20, mostMemory>>20)
	if r.refused > 0 {
		fmt.Fprintf(out, "connections refused: %d, the last: %s\n", r.refused, r.lastRefusal)
	}
	if r.unrestored > 0 {
		fmt.Fprintf(out, "worlds that an admin's fuzzing left not to be restored: %d, the last: %s\n", r.unrestored, r.lastWhy)
	}
	for _, why := range slices.Sorted(maps.Keys(r.excused)) {
		fmt.Fprintf(out, "excused %d: %s\n", r.excused[why], why)
	}
	counts := map[string]int{}
	for _, f := range r.findings {
		counts[f.class] += r.kinds[f.kind()]
	}
	if len(counts) == 0 {
		fmt.Fprintln(out, "nothing wrong: 0 deaths, 0 forbidden statuses, 0 leaks")
	}
	for _, class := range slices.Sorted(maps.Keys(counts)) {
		fmt.Fprintf(out, "WRONG, %s: %d\n", class, counts[class])
	}
	for _, f := range r.findings {
		names := slices.Sorted(maps.Keys(r.methods[f.kind()]))
		if more := len(names) - 4; more > 0 {
			names = append(names[:4], fmt.Sprintf("and %d more", more))
		}
		fmt.Fprintf(out, "  %s, %d times, in %s: %.300s\n", f.class, r.kinds[f.kind()], strings.Join(names, ", "), f.detail)
	}
	if r.dir != "" && len(r.findings) > 0 {
		fmt.Fprintf(out, "inputs and logs are in %s; a copy of an input in tests/border/testdata/corpus is replayed by make test\n", r.dir)
	}
}
