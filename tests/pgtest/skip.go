//go:build unix

package pgtest

import (
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"testing"
)

// NotRunFile is the environment variable that names a file to which every skipped test is appended, a
// line each: package, test and reason, separated by tabs. `make test` sets it and prints the file.
const NotRunFile = "DEPUTY_NOT_RUN"

// Main runs a package's tests, stops the databases that they started, prints which tests did not run
// and why, and exits. It is the whole of a TestMain.
func Main(m interface{ Run() int }) {
	os.Exit(run(m, os.Stderr))
}

// Run is Main without the exit, for a TestMain that has something left to do: it returns the exit code.
func Run(m interface{ Run() int }) int { return run(m, os.Stderr) }

// run is Main without the exit.
func run(m interface{ Run() int }, w io.Writer) int {
	shared.keep()
	code := m.Run()
	if err := shared.stop(); err != nil {
		fmt.Fprintln(w, "pgtest:", err)
		code = max(code, 1)
	}
	stopCockroach()
	notRun.print(w)
	return code
}

// Skip skips a test for a reason that the run repeats at its end. Tests call it instead of t.Skip: a
// skip that nobody reads is a test that nobody has.
func Skip(t testing.TB, reason string) {
	t.Helper()
	if err := notRun.add(t.Name(), reason, os.Getenv(NotRunFile)); err != nil {
		t.Fatalf("cannot note that the test does not run: %v", err)
	}
	t.Skip(reason)
}

// notRun holds what was skipped in this test binary.
var notRun skips

// skips collects skipped tests by reason. It is safe for concurrent use.
type skips struct {
	mu      sync.Mutex
	reasons []string
	tests   map[string][]string
}

// add notes a test, and appends it to the file unless path is empty.
func (s *skips) add(test, reason, path string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.tests == nil {
		s.tests = map[string][]string{}
	}
	if !slices.Contains(s.reasons, reason) {
		s.reasons = append(s.reasons, reason)
	}
	s.tests[reason] = append(s.tests[reason], test)
	if path == "" {
		return nil
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(f, "%s\t%s\t%s\n", packagePath(), test, reason)
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	return err
}

// print writes one paragraph for each reason, and nothing when every test ran.
func (s *skips) print(w io.Writer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, reason := range s.reasons {
		tests := s.tests[reason]
		fmt.Fprintf(w, "pgtest: %d of this package's tests did not run: %s\n\t%s\n",
			len(tests), reason, strings.Join(tests, "\n\t"))
	}
}

// packagePath is the import path of the package under test.
func packagePath() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return os.Args[0]
	}
	return strings.TrimSuffix(info.Path, ".test")
}
