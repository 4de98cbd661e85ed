package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"github.com/authzed/spicedb/pkg/datalayer"
	"github.com/authzed/spicedb/pkg/datastore"
	core "github.com/authzed/spicedb/pkg/proto/core/v1"
	"github.com/authzed/spicedb/pkg/zedtoken"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/schema"
	"github.com/deputyauth/deputy/pkg/schema/guard"
)

// snapshot is one revision of an engine.
type snapshot struct {
	engine *Engine
	token  authz.Revision
	// exact pins a call to the revision.
	exact *v1.Consistency
	// revision is the datastore's, for in-process engines.
	revision datastore.Revision
	// remote is the schema on Remote, read with the snapshot; in process it is read when it is first asked for.
	remote    model
	once      sync.Once
	schema    *authz.Schema
	schemaErr error
}

// Snapshot pins a revision; see authz.Graph. In process the head is the datastore's own. On Remote it
// is that of a write that changes nothing, see remoteHead.
func (e *Engine) Snapshot(ctx context.Context, f authz.Freshness) (authz.Snapshot, error) {
	if e.ds == nil {
		return e.remoteSnapshot(ctx, f)
	}
	rev, err := e.choose(ctx, f)
	if err != nil {
		return nil, Failure("engine.Snapshot", err)
	}
	token, err := zedtoken.NewFromRevision(ctx, rev, datalayer.NoSchemaHashInLegacyMode, e.ds)
	if err != nil {
		return nil, Failure("engine.Snapshot", err)
	}
	s := e.at(authz.Revision{Token: token.GetToken()})
	s.revision = rev
	return s, nil
}

// choose picks the revision that f asks for and checks that it can be read.
func (e *Engine) choose(ctx context.Context, f authz.Freshness) (datastore.Revision, error) {
	if !f.Exactly.IsZero() {
		rev, err := e.parse(f.Exactly)
		if err != nil {
			return nil, err
		}
		return rev, e.ds.CheckRevision(ctx, rev)
	}
	newest := e.ds.HeadRevision
	if f.Stale {
		newest = e.ds.OptimizedRevision
	}
	chosen, err := newest(ctx)
	if err != nil {
		return nil, err
	}
	var bounds []datastore.Revision
	for _, r := range f.Bounds() {
		bound, err := e.parse(r)
		if err != nil {
			return nil, err
		}
		bounds = append(bounds, bound)
	}
	shows := func(r datastore.Revision) bool {
		return !slices.ContainsFunc(bounds, func(b datastore.Revision) bool { return !r.GreaterThan(b) && !r.Equal(b) })
	}
	if shows(chosen.Revision) {
		return chosen.Revision, nil
	}
	for _, bound := range bounds {
		if shows(bound) {
			return bound, e.ds.CheckRevision(ctx, bound)
		}
	}
	// Of two that are concurrent neither shows the other one.
	if chosen, err = e.ds.HeadRevision(ctx); err == nil && !shows(chosen.Revision) {
		err = datastore.NewInvalidRevisionErr(chosen.Revision, datastore.CouldNotDetermineRevision)
	}
	return chosen.Revision, err
}

// parse reads a revision that this datastore issued. A token of another one is out of range.
func (e *Engine) parse(r authz.Revision) (datastore.Revision, error) {
	if r.History() == authz.NoHistory {
		return nil, datastore.NewInvalidRevisionErr(datastore.NoRevision, datastore.CouldNotDetermineRevision)
	}
	decoded, err := zedtoken.DecodeRevision(&v1.ZedToken{Token: r.ZedToken()}, e.ds)
	if err != nil || decoded.Status != zedtoken.StatusValid {
		// The seal was Deputy's own, so what cannot be read is of another kind of engine.
		return nil, datastore.NewInvalidRevisionErr(datastore.NoRevision, datastore.CouldNotDetermineRevision)
	}
	return decoded.Revision, nil
}

// at returns a snapshot of a token that is known to be readable.
func (e *Engine) at(token authz.Revision) *snapshot {
	return &snapshot{
		engine: e,
		token:  token,
		exact: &v1.Consistency{Requirement: &v1.Consistency_AtExactSnapshot{
			AtExactSnapshot: &v1.ZedToken{Token: token.ZedToken()},
		}},
	}
}

// Revision is the revision that everything is read at.
func (s *snapshot) Revision() authz.Revision { return s.token }

// Schema is the schema at the revision; on Remote the head's, as of when the snapshot was taken.
func (s *snapshot) Schema(ctx context.Context) (*authz.Schema, error) {
	s.once.Do(func() {
		defer authz.Recover("engine.Schema", &s.schemaErr)
		if s.remote.Model == nil {
			s.schema, s.schemaErr = s.engine.schemaAt(ctx, s.revision)
			return
		}
		s.schema, s.schemaErr = s.engine.remoteVerified(ctx, s.remote, s.exact)
	})
	return s.schema, s.schemaErr
}

// schemaAt reads all definitions from the datastore at the revision. What they amount to is computed
// once for each set of definitions.
func (e *Engine) schemaAt(ctx context.Context, rev datastore.Revision) (*authz.Schema, error) {
	reader := e.ds.SnapshotReader(rev)
	types, err := reader.LegacyListAllNamespaces(ctx)
	if err != nil {
		return nil, Failure("engine.Schema", err)
	}
	caveats, err := reader.LegacyListAllCaveats(ctx)
	if err != nil {
		return nil, Failure("engine.Schema", err)
	}
	var key strings.Builder
	namespaces := make([]*core.NamespaceDefinition, len(types))
	for i, t := range types {
		namespaces[i] = t.Definition
		fmt.Fprintf(&key, "%s@%s\n", t.Definition.GetName(), t.LastWrittenRevision)
	}
	definitions := make([]*core.CaveatDefinition, len(caveats))
	for i, c := range caveats {
		definitions[i] = c.Definition
		fmt.Fprintf(&key, "%%%s@%s\n", c.Definition.GetName(), c.LastWrittenRevision)
	}
	m, err := e.models.get(key.String(), func() (*guard.Model, error) {
		m, err := guard.Read(namespaces, definitions)
		if err != nil {
			return nil, err
		}
		// The journal names the schema that a decision was made with by a digest of its text.
		if m.Schema.Text, err = textOf(ctx, namespaces, definitions); err != nil {
			return nil, err
		}
		if e.readsWhole {
			for _, t := range m.Schema.Types {
				t.UnsafeShape = ""
			}
		}
		return m, nil
	})
	if err != nil {
		return nil, err
	}
	if e.readsWhole || m.Schema.CoreDifference != "" {
		return m.Schema, nil
	}
	return e.strays.get(ctx, m, rev, func(ctx context.Context) ([]*schema.Member, error) { return e.straysAt(ctx, m.Definitions, rev) })
}

// models keeps the last few schemas that were computed. Their keys name every definition with the
// revision at which it was written (or hold the whole text), so that an entry cannot go stale.
type models struct {
	mu      sync.Mutex
	entries []model
}

type model struct {
	*guard.Model
	key string
}

// maxModels is how many schemas are kept: the head's, and those of frozen sessions.
const maxModels = 16

func (m *models) get(key string, compute func() (*guard.Model, error)) (model, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, e := range m.entries {
		if e.key == key {
			return e, nil
		}
	}
	computed, err := compute()
	if _, known := errors.AsType[*authz.Error](err); known {
		return model{}, err
	}
	if err != nil {
		return model{}, Failure("engine.Schema", err)
	}
	if len(m.entries) == maxModels {
		m.entries = m.entries[1:]
	}
	m.entries = append(m.entries, model{computed, key})
	return m.entries[len(m.entries)-1], nil
}
