package spicedb

import (
	"context"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/facts"
)

// scope is which of some objects exist for a caller, by its bounds, and where it is confined by the graph at one snapshot:
//
//   - an object of the domain, if its type and its id lie within, and, for a confined caller, its tenants are exactly one within;
//   - a tenant within; an agent within, and a user or a service of a type within, which for a confined caller a tenant within has;
//   - a delegation whose tenant, agent and principal's type lie within; a session whose agent does, and one of whose leaves exists.
//
// What cannot be computed does not exist; a failure of the engine is one. Nor does what SpiceDB would refuse to look for (see askable).
type scope struct {
	bounds *authz.Bounds
	// snap is where it was looked; nil where the bounds alone decide.
	snap  authz.Snapshot
	now   time.Time
	known map[authz.Object]bool
	// placed are new objects that the write at hand places.
	placed map[authz.Object]bool
}

// maxKnown is how many objects are kept in mind for the rows of a read.
const maxKnown = 10_000

// has reports whether an object exists, of those that were looked up.
func (s *scope) has(o authz.Object) bool { return s.known[o] }

// exists reports whether a relationship of an object, or with it as its subject, can exist for the caller: the object does, or the write at
// hand places it. "*" stands for all of a type, whichever tenants they are in. It decides for what is read and written, and for what a write
// is conditional on.
func (s *scope) exists(o authz.Object) bool {
	return s.known[o] || s.placed[o] || o.ID == "*" && covers(s.bounds, o.Type)
}

// lookUp returns what exists for the caller of the objects, and of those of earlier look-ups of the call: all are looked up at one snapshot, once.
// It costs a read for each user, service, agent and delegation, one more for each leaf of a session, and a list of its tenants for each object
// of the domain. An error is a status.
func (c *call) lookUp(ctx context.Context, fresh authz.Freshness, objects []authz.Object) (*scope, error) {
	if c.scope == nil {
		c.scope = &scope{bounds: c.rights.Bounds, now: c.start, known: map[authz.Object]bool{}, placed: map[authz.Object]bool{}}
	}
	s := c.scope
	var ask []authz.Object
	for _, o := range objects {
		if _, seen := s.known[o]; seen || !askable(o) {
			continue
		}
		decided, exists := s.byBounds(o)
		s.known[o] = decided && exists
		if !decided {
			ask = append(ask, o)
		}
	}
	if len(ask) == 0 && (s.snap != nil || !s.bounds.Confined()) || c.cfg.Snapshot == nil {
		return s, nil
	}
	var err error
	if s.snap == nil {
		if s.snap, err = c.cfg.Snapshot(ctx, fresh); err != nil {
			return nil, schemaFailure(ctx, err)
		}
	}
	schema, err := s.snap.Schema(ctx)
	if err != nil {
		return nil, schemaFailure(ctx, err)
	}
	found := make([]bool, len(ask))
	group, inner := errgroup.WithContext(ctx)
	group.SetLimit(parallelLooks)
	for i, o := range ask {
		group.Go(func() (err error) {
			defer authz.Recover("door.lookUp", &err)
			found[i], err = s.byGraph(inner, schema, o)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, schemaFailure(ctx, err)
	}
	for i, o := range ask {
		s.known[o] = found[i]
	}
	return s, nil
}

// byBounds decides by the bounds alone, where they do.
func (s *scope) byBounds(o authz.Object) (decided, exists bool) {
	confined := s.bounds.Confined()
	switch o.Type {
	case authz.TypeTenant:
		return true, s.bounds.HasTenant(authz.TenantID(o.ID))
	case authz.TypeAgent:
		within := s.bounds.HasAgent(authz.AgentID(o.ID))
		return !confined || !within, within
	case authz.TypeUser, authz.TypeService:
		within := s.bounds.HasPrincipal(authz.Principal{Object: o})
		return !confined || !within, within
	case authz.TypeDelegation, authz.TypeSession:
		all := s.bounds.Agents.All() && s.bounds.AllPrincipals()
		return !confined && all, !confined && all
	default:
		within := s.bounds.HasObject(o)
		return !confined || !within, within
	}
}

// byGraph decides what the bounds leave open.
func (s *scope) byGraph(ctx context.Context, schema *authz.Schema, o authz.Object) (bool, error) {
	switch o.Type {
	case authz.TypeAgent, authz.TypeUser, authz.TypeService:
		return s.inTenant(ctx, o)
	case authz.TypeDelegation:
		return s.delegation(ctx, authz.DelegationID(o.ID))
	case authz.TypeSession:
		return s.session(ctx, authz.SessionID(o.ID))
	}
	if t := schema.Types[o.Type]; t == nil || !t.TenantSafe() {
		return false, nil
	}
	id, err := tenantOf(ctx, s.snap, o)
	switch kind := authz.KindOf(err); {
	case err == nil:
		return id != "" && s.bounds.HasTenant(authz.TenantID(id)), nil
	case ctx.Err() != nil, kind == authz.Unavailable, kind == authz.Internal, kind == authz.Canceled, kind == authz.Deadline, busy(err):
		return false, err
	default:
		return false, nil
	}
}

// inTenant reports whether a tenant within has an agent, a user or a service.
func (s *scope) inTenant(ctx context.Context, o authz.Object) (bool, error) {
	var filters []authz.Filter
	for _, tenant := range s.bounds.Tenants.List() {
		filters = append(filters, facts.Belongs(authz.TenantID(tenant), o)...)
	}
	lists, err := s.snap.Read(ctx, filters...)
	return slices.ContainsFunc(lists, func(rels []authz.Relationship) bool { return facts.Holds(rels, s.now) }), err
}

func (s *scope) delegation(ctx context.Context, id authz.DelegationID) (bool, error) {
	lists, err := s.snap.Read(ctx, facts.Object(id.Object()))
	if err != nil {
		return false, err
	}
	d := facts.ReadDelegation(id, lists[0], s.now)
	return d.Known && d.Within(s.bounds), nil
}

func (s *scope) session(ctx context.Context, id authz.SessionID) (bool, error) {
	lists, err := s.snap.Read(ctx, facts.Object(id.Object()))
	if err != nil {
		return false, err
	}
	session := facts.ReadSession(id, lists[0], s.now)
	if !session.Known || !session.Within(s.bounds) {
		return false, nil
	}
	for _, leaf := range session.Leaves {
		if exists, err := s.delegation(ctx, leaf.Delegation); exists || err != nil {
			return exists, err
		}
	}
	return false, nil
}
