package conformance

import (
	"bufio"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
)

// TestMain runs the suites and prints how many of their subtests passed: `go test -v`, or `make
// conformance`, shows it. For that the tests are always verbose, and what they print is read on its way;
// without -v it is shown only if something failed.
func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(counted(m))
}

func counted(m *testing.M) int {
	shown := testing.Verbose()
	if flag.Lookup("test.v").Value.String() == "test2json" {
		return m.Run() // a program reads it, and counts for itself
	}
	r, w, err := os.Pipe()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	out := os.Stdout
	os.Stdout = w
	if err := flag.Set("test.v", "true"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	t := &tally{passed: map[string]int{}, failed: map[string]int{}, skipped: map[string]int{}}
	read := make(chan struct{})
	go func() {
		defer close(read)
		t.read(r, out, shown)
	}()
	code := m.Run()
	_ = w.Close()
	<-read
	os.Stdout = out
	if code != 0 && !shown {
		for _, line := range t.kept {
			fmt.Fprintln(out, line)
		}
	}
	t.print(out)
	return code
}

// tally counts the results of subtests by the test that they belong to.
type tally struct {
	passed, failed, skipped map[string]int
	// kept is what a failure is told by.
	kept []string
}

// read counts the results that are printed, and passes everything on if it is to be shown.
func (t *tally) read(from io.Reader, to io.Writer, shown bool) {
	lines := bufio.NewScanner(from)
	lines.Buffer(nil, 64<<20)
	for lines.Scan() {
		line := lines.Text()
		if shown {
			fmt.Fprintln(to, line)
		}
		verdict, rest, found := strings.Cut(strings.TrimLeft(line, " "), ": ")
		name, _, _ := strings.Cut(rest, " ")
		suite, _, isSub := strings.Cut(name, "/")
		counts := map[string]map[string]int{"--- PASS": t.passed, "--- FAIL": t.failed, "--- SKIP": t.skipped}[verdict]
		switch {
		case found && counts != nil && isSub:
			counts[suite]++
		case strings.HasPrefix(line, "=== "):
			continue
		}
		if verdict != "--- PASS" && !shown {
			t.kept = append(t.kept, line)
		}
	}
	_, _ = io.Copy(io.Discard, from)
}

// print says how many there were of each suite.
func (t *tally) print(out io.Writer) {
	suites := map[string]bool{}
	for _, counts := range []map[string]int{t.passed, t.failed, t.skipped} {
		for suite := range counts {
			suites[suite] = true
		}
	}
	for _, suite := range slices.Sorted(maps.Keys(suites)) {
		fmt.Fprintf(out, "%s: %d subtests passed, %d failed, %d skipped\n", suite, t.passed[suite], t.failed[suite], t.skipped[suite])
	}
}
