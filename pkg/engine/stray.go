package engine

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"github.com/authzed/spicedb/pkg/datastore"
	"github.com/authzed/spicedb/pkg/datastore/options"
	"github.com/authzed/spicedb/pkg/datastore/queryshape"
	"golang.org/x/sync/errgroup"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/schema"
)

// strays finds the relations in which rows that have expired would count, for schemas that others than this
// engine may have written: see dropping, which sees to it that there are none after a schema write of Deputy's.
//
// A relation that admits no expiration cannot get a row that expires. So a schema is looked at once, when it is
// first met at a revision, and what was found clean then is clean at every later revision under the very same
// definitions. What was found is looked at again after a while, because somebody may have removed the rows.
// The zero value is ready to use and safe for concurrent use.
type strays struct {
	mu     sync.Mutex
	looks  []*look
	closed bool
}

// close ends the looks that are under way, and lets none begin.
func (s *strays) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for _, l := range s.looks {
		l.cancel()
	}
}

// look is one look at the rows under one schema, under way or done.
type look struct {
	key string
	// at is the revision that is looked at; nil on Remote.
	at datastore.Revision
	// cancel ends the look.
	cancel context.CancelFunc
	// done is closed once the fields below are set.
	done   chan struct{}
	schema *authz.Schema
	err    error
	dirty  bool
	ended  time.Time
}

const (
	// lookTimeout bounds a look, which belongs to none of its callers.
	lookTimeout = 10 * time.Minute
	// lookAgain and lookAgainRemote are how long a schema with strays is known to have them. On Remote a look
	// reads whole relations.
	lookAgain       = time.Second
	lookAgainRemote = time.Minute
)

// standsFor reports whether a look that has ended tells what a caller at the revision wants to know.
func (l *look) standsFor(at datastore.Revision) bool {
	switch {
	case l.err != nil:
		return false
	case l.dirty:
		again := lookAgain
		if at == nil {
			again = lookAgainRemote
		}
		return time.Since(l.ended) < again
	}
	return at == nil || !at.LessThan(l.at)
}

// get returns the schema with the types marked that lead to a stray. find finds the relations that have one.
// It returns as soon as ctx ends; a look goes on for the next caller.
func (s *strays) get(ctx context.Context, m model, at datastore.Revision, find func(context.Context) ([]*schema.Member, error)) (*authz.Schema, error) {
	for {
		l, joined := s.join(m, at, find) //nolint:contextcheck // a look belongs to none of its callers
		select {
		case <-l.done:
		case <-ctx.Done():
			err := &authz.Error{
				Op: "engine.Schema", Kind: authz.Unavailable, Reason: authz.ReasonEngineUnavailable, Err: ctx.Err(),
				Message: "the engine's relationships are still being counted under the schema in force, try again later",
			}
			if errors.Is(ctx.Err(), context.Canceled) {
				err.Kind, err.Message = authz.Canceled, "the call was cancelled"
			}
			return nil, err
		}
		if !joined || l.standsFor(at) {
			return l.schema, l.err
		}
	}
}

// join returns the look that is under way or stands for the revision, or begins one.
func (s *strays) join(m model, at datastore.Revision, find func(context.Context) ([]*schema.Member, error)) (l *look, joined bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.IndexFunc(s.looks, func(l *look) bool { return l.key == m.key })
	if i >= 0 {
		select {
		case <-s.looks[i].done:
			if s.looks[i].standsFor(at) {
				return s.looks[i], true
			}
			s.looks = slices.Delete(s.looks, i, i+1)
		default:
			return s.looks[i], true
		}
	}
	if len(s.looks) == maxModels {
		s.looks[0].cancel()
		s.looks = s.looks[1:]
	}
	ctx, cancel := context.WithTimeout(context.Background(), lookTimeout)
	if s.closed {
		cancel()
	}
	l = &look{key: m.key, at: at, cancel: cancel, done: make(chan struct{})}
	s.looks = append(s.looks, l)
	go l.run(ctx, m, find)
	return l, false
}

// run looks. A panic becomes an error, because no call stands above to recover it.
func (l *look) run(ctx context.Context, m model, find func(context.Context) ([]*schema.Member, error)) {
	defer close(l.done)
	defer l.cancel()
	defer authz.Recover("engine.look", &l.err)
	found, err := find(ctx)
	if err != nil {
		l.err = Failure("engine.Schema", err)
		return
	}
	l.schema, l.dirty = m.Schema, len(found) > 0
	if l.dirty {
		l.schema = withStrays(m, found)
	}
	l.ended = time.Now()
}

// withStrays returns a copy of the schema in which each type that reads one of the relations names it.
func withStrays(m model, found []*schema.Member) *authz.Schema {
	slices.SortFunc(found, func(a, b *schema.Member) int { return strings.Compare(a.String(), b.String()) })
	marked := *m.Schema
	marked.Types = maps.Clone(m.Schema.Types)
	for name, t := range m.Schema.Types {
		reach := m.Definitions.Reach(m.Definitions.Types[name].Members...)
		i := slices.IndexFunc(found, func(f *schema.Member) bool { return reach.Members[f] || reach.Followed[f] })
		if i >= 0 {
			copied := *t
			copied.Stray = found[i].String()
			marked.Types[name] = &copied
		}
	}
	return &marked
}

// doubt is a relation of which some queries of SpiceDB leave the filter on expiration out, and the rows that
// they read then.
type doubt struct {
	relation *schema.Member
	filters  []*v1.RelationshipFilter
	// usersets says that usersets of every type are among those rows.
	usersets bool
}

// doubts lists the relations in which a row that has expired would count: for direct subjects where no direct
// type or wildcard of the subject's type expires, for usersets where no userset expires, and in an arrow where
// nothing does. What mixes otherwise is an UnsafeGrant.
func doubts(s *schema.Schema, without func(objectType string) bool) (found []doubt) {
	for _, m := range s.Members {
		if !without(m.Type) && len(m.Allowed) > 0 {
			if d := doubtOf(m); len(d.filters) > 0 {
				found = append(found, d)
			}
		}
	}
	return found
}

// doubtOf returns which rows of a relation are in doubt; without filters there are none.
func doubtOf(relation *schema.Member) doubt {
	d := doubt{relation: relation}
	expires := func(which func(schema.Allowed) bool) bool {
		return slices.ContainsFunc(relation.Allowed, func(a schema.Allowed) bool { return a.Expires && which(a) })
	}
	if !expires(func(schema.Allowed) bool { return true }) {
		d.filters = []*v1.RelationshipFilter{{ResourceType: relation.Type, OptionalRelation: relation.Member}}
		return d
	}
	d.usersets = slices.ContainsFunc(relation.Allowed, schema.Allowed.IsUserset) && !expires(schema.Allowed.IsUserset)
	seen := map[schema.Name]bool{}
	for _, a := range relation.Allowed {
		doubtful := d.usersets
		if !a.IsUserset() {
			doubtful = !expires(func(b schema.Allowed) bool { return !b.IsUserset() && b.Type == a.Type })
		}
		if !doubtful || seen[a.Names()] {
			continue
		}
		seen[a.Names()] = true
		d.filters = append(d.filters, &v1.RelationshipFilter{
			ResourceType: relation.Type, OptionalRelation: relation.Member,
			OptionalSubjectFilter: &v1.SubjectFilter{
				SubjectType: a.Type, OptionalRelation: &v1.SubjectFilter_RelationFilter{Relation: a.Relation},
			},
		})
	}
	return d
}

// straysAt finds the relations in doubt that have a row with an expiration at the revision, expired or not: SpiceDB
// would not look at the expiration.
func (e *Engine) straysAt(ctx context.Context, definitions *schema.Schema, at datastore.Revision) ([]*schema.Member, error) {
	reader := e.ds.SnapshotReader(at)
	return collect(ctx, doubts(definitions, func(string) bool { return false }), func(ctx context.Context, d doubt) (bool, error) {
		var filters []datastore.RelationshipsFilter
		for _, f := range d.filters {
			filter, err := datastore.RelationshipsFilterFromPublicFilter(f)
			if err != nil {
				return false, err
			}
			filters = append(filters, filter)
		}
		if d.usersets {
			filters = append(filters, datastore.RelationshipsFilter{
				OptionalResourceType: d.relation.Type, OptionalResourceRelation: d.relation.Member,
				OptionalSubjectsSelectors: []datastore.SubjectsSelector{{RelationFilter: datastore.SubjectRelationFilter{}.WithOnlyNonEllipsisRelations()}},
			})
		}
		for _, f := range filters {
			f.OptionalExpirationOption = datastore.ExpirationFilterOptionHasExpiration
			found, err := reader.QueryRelationships(ctx, f,
				options.WithSkipExpiration(true), options.WithLimit(options.LimitOne), options.WithQueryShape(queryshape.Varying))
			if err != nil {
				return false, err
			}
			for _, err := range found {
				return err == nil, err
			}
		}
		return false, nil
	})
}

// remoteStrays finds the relations in doubt, the core's aside, that have a row which has expired. SpiceDB's API does
// not show such a row by itself, and an expiration only where the relation admits one. But ReadRelationships
// leaves the filter on expiration out just as a check does, while ExportBulkRelationships never does: so the two
// count the same rows exactly where none has expired. Both read all rows in doubt.
func (e *Engine) remoteStrays(ctx context.Context, definitions *schema.Schema, at *v1.Consistency) ([]*schema.Member, error) {
	return collect(ctx, doubts(definitions, authz.IsCore), func(ctx context.Context, d doubt) (bool, error) {
		for _, f := range d.filters {
			var read, exported int
			group, ctx := errgroup.WithContext(ctx)
			group.Go(func() (err error) {
				defer authz.Recover("engine.countRead", &err)
				read, err = e.countRead(ctx, f, at)
				return err
			})
			group.Go(func() (err error) {
				defer authz.Recover("engine.countExported", &err)
				exported, err = e.countExported(ctx, f, at)
				return err
			})
			if err := group.Wait(); err != nil {
				return false, err
			}
			if read != exported {
				return true, nil
			}
		}
		return false, nil
	})
}

// collect returns the relations of which has is true.
func collect(ctx context.Context, all []doubt, has func(context.Context, doubt) (bool, error)) ([]*schema.Member, error) {
	found := make([]bool, len(all))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallelReads)
	for i, d := range all {
		group.Go(func() (err error) {
			defer authz.Recover("engine.strays", &err)
			found[i], err = has(ctx, d)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	var out []*schema.Member
	for i, d := range all {
		if found[i] {
			out = append(out, d.relation)
		}
	}
	return out, nil
}

func (e *Engine) countRead(ctx context.Context, f *v1.RelationshipFilter, at *v1.Consistency) (n int, err error) {
	stream, err := v1.NewPermissionsServiceClient(e.conn).ReadRelationships(ctx, &v1.ReadRelationshipsRequest{Consistency: at, RelationshipFilter: f})
	err = each(stream, err, func(*v1.ReadRelationshipsResponse) { n++ })
	return n, err
}

func (e *Engine) countExported(ctx context.Context, f *v1.RelationshipFilter, at *v1.Consistency) (n int, err error) {
	stream, err := v1.NewPermissionsServiceClient(e.conn).ExportBulkRelationships(ctx, &v1.ExportBulkRelationshipsRequest{
		Consistency: at, OptionalRelationshipFilter: f,
	})
	err = each(stream, err, func(page *v1.ExportBulkRelationshipsResponse) { n += len(page.GetRelationships()) })
	return n, err
}
