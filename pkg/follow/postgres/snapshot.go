package postgres

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// snapshot is a pg_snapshot: which transactions of the cluster are over and therefore visible.
//
//	xmin:xmax:xip,xip…   below xmin all are, from xmax on none is, between them all but those that are listed
type snapshot struct {
	xmin, xmax uint64
	// running are in ascending order.
	running []uint64
}

// parseSnapshot reads PostgreSQL's text of a pg_snapshot.
func parseSnapshot(text string) (snapshot, error) {
	wrong := fmt.Errorf("%q is no pg_snapshot", text)
	parts := strings.Split(text, ":")
	if len(parts) != 3 {
		return snapshot{}, wrong
	}
	var s snapshot
	for i, to := range []*uint64{&s.xmin, &s.xmax} {
		n, err := strconv.ParseUint(parts[i], 10, 64)
		if err != nil {
			return snapshot{}, wrong
		}
		*to = n
	}
	if parts[2] != "" {
		for id := range strings.SplitSeq(parts[2], ",") {
			n, err := strconv.ParseUint(id, 10, 64)
			if err != nil || n < s.xmin || n >= s.xmax || len(s.running) > 0 && n <= s.running[len(s.running)-1] {
				return snapshot{}, wrong
			}
			s.running = append(s.running, n)
		}
	}
	if s.xmin == 0 || s.xmax < s.xmin {
		return snapshot{}, wrong
	}
	return s, nil
}

// shows reports whether a transaction is visible.
func (s snapshot) shows(id uint64) bool {
	if id < s.xmin {
		return true
	}
	if id >= s.xmax {
		return false
	}
	_, running := slices.BinarySearch(s.running, id)
	return !running
}

// covers reports whether every transaction that another snapshot shows is visible. A snapshot that a primary takes covers all that it
// took before.
func (s snapshot) covers(other snapshot) bool {
	if slices.ContainsFunc(s.running, other.shows) {
		return false
	}
	if other.xmax <= s.xmax {
		return true
	}
	// What lies between the two has to be running for the other one, all of it.
	at, _ := slices.BinarySearch(other.running, s.xmax)
	return uint64(len(other.running)-at) == other.xmax-s.xmax //nolint:gosec // at is an index
}
