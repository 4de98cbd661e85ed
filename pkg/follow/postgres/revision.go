package postgres

import (
	"encoding/base64"
	"errors"
	"fmt"
	"math"

	implv1 "github.com/authzed/spicedb/pkg/proto/impl/v1"

	"github.com/deputyauth/deputy/pkg/follow"
)

// A revision of SpiceDB's PostgreSQL datastore is a snapshot, printed as the base64 of a PostgresRevision. The transaction and the time that it may
// name besides serve neither comparing nor reading.

// errRevision says that a text is no revision.
var errRevision = errors.New("follow: it is no revision of SpiceDB's PostgreSQL datastore")

// Revision is follow.Authority's.
func (a *Authority) Revision(p follow.Position) (string, error) {
	s, err := parseSnapshot(p.State)
	if err != nil {
		return "", fmt.Errorf("follow: %w", err)
	}
	return s.revision()
}

// Shows is follow.Authority's.
func (a *Authority) Shows(p follow.Position, revision string) (bool, error) {
	shown, err := parseSnapshot(p.State)
	if err != nil {
		return false, fmt.Errorf("follow: %w", err)
	}
	asked, err := parseRevision(revision)
	if err != nil {
		return false, err
	}
	return shown.covers(asked), nil
}

// revision prints a snapshot as SpiceDB does.
func (s snapshot) revision() (string, error) {
	if s.xmax > math.MaxInt64 {
		return "", errRevision
	}
	r := implv1.PostgresRevision{Xmin: s.xmin, RelativeXmax: int64(s.xmax - s.xmin)}
	for _, id := range s.running {
		r.RelativeXips = append(r.RelativeXips, int64(id-s.xmin)) //nolint:gosec // below xmax
	}
	encoded, err := r.MarshalVT()
	if err != nil {
		return "", fmt.Errorf("follow: %w", err)
	}
	return base64.StdEncoding.EncodeToString(encoded), nil
}

// parseRevision reads a revision that SpiceDB has printed. Its old form, a decimal number, is refused.
func parseRevision(text string) (snapshot, error) {
	encoded, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return snapshot{}, errRevision
	}
	var r implv1.PostgresRevision
	if err := r.UnmarshalVT(encoded); err != nil {
		return snapshot{}, errRevision
	}
	xmin, width := r.GetXmin(), r.GetRelativeXmax()
	if xmin == 0 || xmin > math.MaxInt64 || width < 0 {
		return snapshot{}, errRevision
	}
	s := snapshot{xmin: xmin, xmax: xmin + uint64(width)} // both are below 2^63
	if s.xmax > math.MaxInt64 {
		return snapshot{}, errRevision
	}
	for _, relative := range r.GetRelativeXips() {
		id := s.xmin + uint64(relative) //nolint:gosec // checked below
		if relative < 0 || id >= s.xmax || len(s.running) > 0 && id <= s.running[len(s.running)-1] {
			return snapshot{}, errRevision
		}
		s.running = append(s.running, id)
	}
	return s, nil
}
