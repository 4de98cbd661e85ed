package daemon

import (
	"bufio"
	"fmt"
	"math"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/deputyauth/deputy/tests/pgtest"
)

// TestCacheFor: the cache is a share of the memory, and no less than it needs.
func TestCacheFor(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		memory uint64
		want   int64
	}{
		{0, 0}, // the store's default
		{1, 128 << 20},
		{512 << 20, 128 << 20},
		{cacheShare * 300 << 20, 300 << 20},
		{64 << 30, 64 << 30 / cacheShare},
		{math.MaxUint64, math.MaxUint64 / cacheShare},
	} {
		if got := cacheFor(test.memory); got != test.want {
			t.Errorf("with %d bytes of memory the cache has %d, want %d", test.memory, got, test.want)
		}
	}
}

// TestObjectsFor: objects have a share of the memory, also where that is small.
func TestObjectsFor(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		memory       uint64
		kept, packed int64
	}{
		{0, 0, 0}, // the store's defaults
		{512 << 20, 64 << 20, 16 << 20},
		{2 << 30, 192 << 20, 64 << 20},
		{32 << 30, 192 << 20, 1 << 30},
		{math.MaxUint64, 192 << 20, math.MaxUint64 / 32},
	} {
		if kept, packed := keptFor(test.memory), packedFor(test.memory); kept != test.kept || packed != test.packed {
			t.Errorf("with %d bytes of memory %d of objects are kept and %d packed, want %d and %d", test.memory, kept, packed, test.kept, test.packed)
		}
	}
}

// memoryVariable has a child of the test binary print what memory says.
const memoryVariable = "DEPUTY_TEST_MEMORY"

// TestMemory: a process may have no more than the machine has, and no more than GOMEMLIMIT says.
func TestMemory(t *testing.T) {
	if os.Getenv(memoryVariable) != "" {
		defer KeepHeadroom(1 << 20)() // which lowers Go's limit, and is no limit of the operator's
		fmt.Fprintf(os.Stdout, "memory %d\n", memory())
		return
	}
	t.Parallel()
	machine := machineMemory(t)
	if got := childMemory(t, ""); got == 0 || got > machine {
		t.Errorf("a process may have %d bytes on a machine that has %d", got, machine)
	}
	if got := childMemory(t, "96MiB"); got != 96<<20 {
		t.Errorf("with GOMEMLIMIT=96MiB a process may have %d bytes", got)
	}
}

// childMemory returns what memory says in a process with a limit of Go's memory.
func childMemory(t *testing.T, limit string) uint64 {
	t.Helper()
	child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestMemory$")
	child.Env = append(os.Environ(), memoryVariable+"=1", "GOMEMLIMIT="+limit)
	out, err := child.Output()
	if err != nil {
		t.Fatalf("the child: %v\n%s", err, out)
	}
	var bytes uint64
	if _, err := fmt.Sscanf(string(out), "memory %d\n", &bytes); err != nil {
		t.Fatalf("the child printed %q: %v", out, err)
	}
	return bytes
}

// machineMemory returns what Linux says that the machine has.
func machineMemory(t *testing.T) uint64 {
	t.Helper()
	file, err := os.Open("/proc/meminfo")
	if err != nil {
		pgtest.Skip(t, "this machine does not tell its memory: "+err.Error())
	}
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		if text, ok := strings.CutPrefix(lines.Text(), "MemTotal:"); ok {
			kib, err := strconv.ParseUint(strings.TrimSpace(strings.TrimSuffix(text, "kB")), 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return kib << 10
		}
	}
	t.Fatal("/proc/meminfo does not say MemTotal")
	return 0
}
