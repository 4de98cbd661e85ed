package evaluate

import (
	core "github.com/authzed/spicedb/pkg/proto/core/v1"

	"github.com/deputyauth/deputy/pkg/store"
)

// Supposed is a schema that is not in force anywhere: what the relationships of a store would come to under it.
// It is immutable, and safe for concurrent use.
type Supposed struct{ program *program }

// Suppose compiles definitions. Errors: an expression of a kind that is not known, or one that names what is not
// there. Whether relationships fit the definitions is not looked at.
func Suppose(namespaces []*core.NamespaceDefinition, caveats []*core.CaveatDefinition) (*Supposed, error) {
	p, err := compile(namespaces, caveats)
	if err != nil {
		return nil, err
	}
	return &Supposed{p}, nil
}

// AtUnder pins a revision as At does, and answers as if the supposed schema had been in force there.
func (e *Evaluator) AtUnder(at store.Revision, schema *Supposed) (*Snapshot, error) {
	s, err := e.store.Snapshot(at)
	if err != nil {
		return nil, err
	}
	return &Snapshot{program: schema.program, Snapshot: s}, nil
}
