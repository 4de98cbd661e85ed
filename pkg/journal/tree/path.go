package tree

import (
	"fmt"
	"strconv"
	"strings"
)

// Width is how many hashes a tile has, and how many records a bundle.
const Width = 256

// compressed ends the names of bundles.
const compressed = ".zst"

// number is the path of the n-th tile of a level, as C2SP tlog-tiles writes numbers: 1234067 is x001/x234/067.
func number(n uint64) string {
	s := fmt.Sprintf("%03d", n%1000)
	for n >= 1000 {
		n /= 1000
		s = fmt.Sprintf("x%03d/%s", n%1000, s)
	}
	return s
}

// parseNumber is the reverse of number: false for a path that number does not make.
func parseNumber(path string) (uint64, bool) {
	n, err := strconv.ParseUint(strings.NewReplacer("x", "", "/", "").Replace(path), 10, 64)
	return n, err == nil && number(n) == path
}

// TilePath is the path of a whole tile in the journal's directory, with slashes.
func TilePath(level int, n uint64) string { return "tile/" + strconv.Itoa(level) + "/" + number(n) }

// BundlePath is the path of a whole bundle in the journal's directory, with slashes.
func BundlePath(n uint64) string { return "tile/entries/" + number(n) + compressed }

// maxLevel is the highest level of tiles that a tree of 2^63 records has.
const maxLevel = 7

// ParsePath says which tile or bundle a path of the journal's directory, with slashes, stands for; false for one that is of neither. The level of
// a bundle is -1.
func ParsePath(path string) (level int, n uint64, ok bool) {
	rest, ok := strings.CutPrefix(path, "tile/")
	if !ok {
		return 0, 0, false
	}
	kind, rest, ok := strings.Cut(rest, "/")
	if !ok {
		return 0, 0, false
	}
	if kind == "entries" {
		if rest, ok = strings.CutSuffix(rest, compressed); !ok {
			return 0, 0, false
		}
		n, ok = parseNumber(rest)
		return -1, n, ok
	}
	level, err := strconv.Atoi(kind)
	if err != nil || level < 0 || level > maxLevel || strconv.Itoa(level) != kind {
		return 0, 0, false
	}
	n, ok = parseNumber(rest)
	return level, n, ok
}
