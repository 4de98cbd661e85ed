package rpc

import (
	"context"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/caller"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/pkg/judge"
)

// maxReachNames is how many types, and how many permissions, one reach may name.
const maxReachNames = 100

type reaches struct {
	deputyv1.UnimplementedReachServiceServer
	border
}

// ReadReach streams what an agent, a delegation or a session reaches.
func (s *reaches) ReadReach(r *deputyv1.ReadReachRequest, stream grpc.ServerStreamingServer[deputyv1.ReadReachResponse]) error {
	ctx := stream.Context()
	q, err := reachQuery(r)
	if err != nil {
		return err
	}
	if r.GetCursor().GetToken() != "" && r.GetConsistency() != nil {
		return authz.FieldErrorf("consistency", "is not to be combined with a cursor")
	}
	var stamp time.Time
	if q.Fresh, stamp, err = s.anyRevision(r.GetConsistency()); err != nil {
		return err
	}
	bare := proto.CloneOf(r)
	bare.Cursor, bare.Consistency = nil, nil
	sum, err := digest(ctx, bare)
	if err != nil {
		return err
	}
	var from judge.ReachPlace
	if stamp, err = s.Sealer.place(sum, r.GetCursor(), &from, stamp); err != nil {
		return err
	}
	q.Moment = stamp
	done, err := s.Judge.Reach(ctx, caller.Of(ctx).Bounds, q, from, reachTo(ctx, r, stream))
	if err != nil {
		return err
	}
	// The cursor keeps the moment by which relationships expire, which all parts share, and the place since when the revision may have been old.
	freshAt := from.FreshAt
	if from.Revision.IsZero() {
		freshAt = s.stamped(stamp, q.Fresh, done.FreshAt)
	}
	end := &deputyv1.ReachEnd{LookedUpAt: s.Sealer.token(done.At, freshAt), Complete: done.Next == nil}
	if done.Next != nil {
		done.Next.FreshAt = freshAt
		if end.Next, err = s.Sealer.cursor(sum, stamp, done.Next); err != nil {
			return err
		}
	}
	return stream.Send(&deputyv1.ReadReachResponse{Result: &deputyv1.ReadReachResponse_End{End: end}})
}

// anyRevision is freshness for callers that may learn of the past: an exact revision may be older than a snapshot that is acted on.
func (b border) anyRevision(c *deputyv1.Consistency) (f authz.Freshness, stamp time.Time, err error) {
	exact, ok := c.GetRequirement().(*deputyv1.Consistency_AtExactSnapshot)
	if !ok {
		return b.freshness(c, nil)
	}
	f.Exactly, stamp, err = b.Sealer.revision("consistency.at_exact_snapshot", exact.AtExactSnapshot)
	return f, stamp, err
}

// reachQuery reads whose reach is asked for, and how it is narrowed.
func reachQuery(r *deputyv1.ReadReachRequest) (*judge.ReachQuery, error) {
	q := &judge.ReachQuery{Grants: r.GetWithGrants()}
	var named string
	var err error
	switch r.GetOf().(type) {
	case *deputyv1.ReadReachRequest_AgentId:
		named, err = id("agent_id", r.GetAgentId())
		q.Agent = authz.AgentID(named)
	case *deputyv1.ReadReachRequest_DelegationId:
		named, err = mintedID("delegation_id", r.GetDelegationId())
		q.Delegation = authz.DelegationID(named)
	case *deputyv1.ReadReachRequest_SessionId:
		named, err = mintedID("session_id", r.GetSessionId())
		q.Session = authz.SessionID(named)
	default:
		err = authz.FieldErrorf("of", "is required: agent_id, delegation_id or session_id")
	}
	if err != nil {
		return nil, err
	}
	if q.Principal, err = principal("on_behalf_of", r.GetOnBehalfOf()); err != nil {
		return nil, err
	}
	tenant, err := optionalID("tenant_id", r.GetTenantId())
	if err != nil {
		return nil, err
	}
	q.Tenant = authz.TenantID(tenant)
	if q.Types, err = reachNames("resource_object_types", r.GetResourceObjectTypes(), objectType); err != nil {
		return nil, err
	}
	if q.Permissions, err = reachNames("permissions", r.GetPermissions(), relationName); err != nil {
		return nil, err
	}
	q.Context, err = caveatContext(r.GetContext())
	return q, err
}

// reachNames reads names, each of which may be there once.
func reachNames(field string, given []string, read func(field, given string) (string, error)) ([]string, error) {
	if len(given) > maxReachNames {
		return nil, authz.FieldErrorf(field, "has %d names, more than %d", len(given), maxReachNames)
	}
	for i, name := range given {
		at := fmt.Sprintf("%s[%d]", field, i)
		if _, err := read(at, name); err != nil {
			return nil, err
		}
		if slices.Contains(given[:i], name) {
			return nil, authz.FieldErrorf(at, "is there twice")
		}
	}
	return given, nil
}

// reachTo sends a reach.
func reachTo(ctx context.Context, r *deputyv1.ReadReachRequest, stream grpc.ServerStreamingServer[deputyv1.ReadReachResponse]) judge.ReachTo {
	to := judge.ReachTo{
		Party: func(p *judge.Party) error {
			return stream.Send(&deputyv1.ReadReachResponse{Result: &deputyv1.ReadReachResponse_Party{Party: partyProto(p)}})
		},
		Count: func(c *judge.ReachCount) error {
			return stream.Send(&deputyv1.ReadReachResponse{Result: &deputyv1.ReadReachResponse_Count{Count: reachCountProto(c)}})
		},
	}
	if r.GetWithObjects() {
		to.Object = func(o *judge.ReachedObject) error {
			return stream.Send(&deputyv1.ReadReachResponse{Result: &deputyv1.ReadReachResponse_Object{Object: reachObjectProto(ctx, o)}})
		}
	}
	return to
}

func partyProto(p *judge.Party) *deputyv1.ReachParty {
	out := &deputyv1.ReachParty{
		AgentId: authz.DecodeID(string(p.Agent)), AgentChain: agentIDs(p.Agents), SessionId: string(p.Session),
		Principal: objectProto(p.Principal.Object), TenantId: authz.DecodeID(string(p.Tenant)), ValidUntil: timeProto(p.ValidUntil),
		Unscoped: p.Unscoped, NeedsSession: p.NeedsSession, Frozen: p.Frozen, RefusedBy: deputyv1.Gate(p.RefusedBy),
	}
	for _, d := range p.Chain {
		out.DelegationChain = append(out.DelegationChain, string(d))
	}
	if !p.Set.IsZero() {
		out.PrincipalSet = subjectProto(p.Set)
	}
	if p.Standing {
		out.Flags = append(out.Flags, deputyv1.ReachFlag_REACH_FLAG_STANDING)
	}
	if p.Unscoped {
		out.Flags = append(out.Flags, deputyv1.ReachFlag_REACH_FLAG_UNSCOPED)
	}
	return out
}

func reachObjectProto(ctx context.Context, o *judge.ReachedObject) *deputyv1.ReachObject {
	out := &deputyv1.ReachObject{Resource: objectProto(o.Resource), Permission: o.Permission}
	if o.Err != nil {
		out.Error = toErrorStatus(ctx, o.Err)
		return out
	}
	out.Permissionship, out.MissingContext = permissionship(o.Permissionship), o.Missing
	for i := range o.Grants {
		g := &o.Grants[i]
		grant := &deputyv1.ReachGrant{Holder: objectProto(g.Holder), Relationship: relationshipProto(&g.Relationship)}
		if !g.OnlyThrough.IsZero() {
			grant.OnlyThrough = subjectProto(g.OnlyThrough)
		}
		out.Grants = append(out.Grants, grant)
	}
	return out
}

func reachCountProto(c *judge.ReachCount) *deputyv1.ReachCount {
	out := &deputyv1.ReachCount{
		ResourceObjectType: c.Type, Permission: c.Permission, Has: c.Has, Conditional: c.Conditional, Failed: c.Failed,
		Others: c.Others, OnlyThroughCut: c.OnlyCut,
	}
	for i := range c.Grants {
		g := &c.Grants[i]
		out.Grants = append(out.Grants, &deputyv1.ReachGrants{
			Holder: objectProto(g.Holder), ResourceObjectType: g.Type, Relation: g.Relation, Subject: subjectProto(g.Subject),
			Objects: g.Objects, WithoutEnd: g.WithoutEnd,
		})
	}
	for i := range c.Only {
		set := &c.Only[i]
		out.OnlyThrough = append(out.OnlyThrough, &deputyv1.ReachSet{
			Holder: objectProto(set.Holder), Set: subjectProto(set.Set), Objects: set.Objects,
		})
	}
	for _, flag := range []struct {
		raised bool
		as     deputyv1.ReachFlag
	}{
		{c.Standing, deputyv1.ReachFlag_REACH_FLAG_STANDING},
		{c.Wildcard, deputyv1.ReachFlag_REACH_FLAG_WILDCARD},
		{c.SingleSet, deputyv1.ReachFlag_REACH_FLAG_SINGLE_SET},
	} {
		if flag.raised {
			out.Flags = append(out.Flags, flag.as)
		}
	}
	return out
}
