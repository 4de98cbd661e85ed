package store

import (
	"slices"
	"sync"

	core "github.com/authzed/spicedb/pkg/proto/core/v1"
	"github.com/cockroachdb/pebble/v2"
)

// schemas are the revisions at which a definition was written or deleted, in ascending order, so that what
// is made of a schema can be kept as long as it stays. Of those before the store was opened only the ones
// that the readable revisions can tell apart are known.
type schemas struct {
	mu sync.RWMutex
	at []Revision
}

// SchemaVersion returns the revision from which the definitions are as they are at a revision: two revisions
// with the same version, in the life of one Store, have the same schema.
func (s *Store) SchemaVersion(at Revision) Revision {
	s.schemas.mu.RLock()
	defer s.schemas.mu.RUnlock()
	n, found := slices.BinarySearch(s.schemas.at, at)
	switch {
	case found:
		return at
	case n == 0:
		return 0
	}
	return s.schemas.at[n-1]
}

// Definitions returns the schema's definitions at a revision, as they are stored one by one.
func (s *Store) Definitions(at Revision) (namespaces []*core.NamespaceDefinition, caveats []*core.CaveatDefinition, err error) {
	r := s.reader(at)
	types, err := listRecords[core.NamespaceDefinition](r, kindNamespace)
	if err != nil {
		return nil, nil, err
	}
	for _, t := range types {
		namespaces = append(namespaces, t.Definition)
	}
	conditions, err := listRecords[core.CaveatDefinition](r, kindCaveat)
	if err != nil {
		return nil, nil, err
	}
	for _, c := range conditions {
		caveats = append(caveats, c.Definition)
	}
	return namespaces, caveats, nil
}

// add notes a revision that is after all others.
func (c *schemas) add(at Revision) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = append(c.at, at)
}

// loadSchemas reads them.
func (s *Store) loadSchemas() error {
	var found []Revision
	for _, kind := range []byte{kindNamespace, kindCaveat} {
		iter, err := s.db.NewIter(&pebble.IterOptions{LowerBound: []byte{kind}, UpperBound: []byte{kind + 1}})
		if err != nil {
			return broken(err)
		}
		for valid := iter.First(); valid; valid = iter.Next() {
			from, ok := versionOf(iter.Key(), split(iter.Key()))
			if !ok {
				_ = iter.Close()
				return damaged("a key without its version: %q", iter.Key())
			}
			found = append(found, from)
		}
		if err := iter.Close(); err != nil {
			return broken(err)
		}
	}
	slices.Sort(found)
	s.schemas.mu.Lock()
	defer s.schemas.mu.Unlock()
	s.schemas.at = slices.Compact(found)
	return nil
}
