package rpc

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/caller"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/pkg/judge"
)

type permissions struct {
	deputyv1.UnimplementedPermissionsServiceServer
	border
	explaining explaining
	watches    *watches
}

// question is what a check, an item of a bulk check and a look-up have in common.
type question interface {
	GetAgentId() string
	GetSessionId() string
	GetDelegationId() string
	GetOnBehalfOf() *deputyv1.ObjectReference
	GetTenantId() string
	GetPermission() string
	GetContext() *structpb.Struct
}

// acting reads who acts, and what for. named says which way of naming what it acts under was taken,
// so that an empty id is not mistaken for none.
func acting(q question, namedSession, namedDelegation bool) (authz.Case, error) {
	var c authz.Case
	agent, err := id("agent_id", q.GetAgentId())
	if err != nil {
		return c, err
	}
	c.Agent = authz.AgentID(agent)
	if namedSession {
		session, err := mintedID("session_id", q.GetSessionId())
		if err != nil {
			return c, err
		}
		c.Session = authz.SessionID(session)
	}
	if namedDelegation {
		delegation, err := mintedID("delegation_id", q.GetDelegationId())
		if err != nil {
			return c, err
		}
		c.Delegation = authz.DelegationID(delegation)
	}
	if c.Principal, err = principal("on_behalf_of", q.GetOnBehalfOf()); err != nil {
		return c, err
	}
	tenant, err := optionalID("tenant_id", q.GetTenantId())
	if err != nil {
		return c, err
	}
	c.Tenant = authz.TenantID(tenant)
	if c.Permission, err = relationName("permission", q.GetPermission()); err != nil {
		return c, err
	}
	c.Context, err = caveatContext(q.GetContext())
	return c, err
}

// caseOf reads a whole question.
func caseOf(r *deputyv1.CheckPermissionRequest) (authz.Case, error) {
	_, session := r.GetVia().(*deputyv1.CheckPermissionRequest_SessionId)
	_, delegation := r.GetVia().(*deputyv1.CheckPermissionRequest_DelegationId)
	c, err := acting(r, session, delegation)
	if err != nil {
		return c, err
	}
	if c.ToolCall, err = toolCall("tool_call", r.GetToolCall()); err != nil {
		return c, err
	}
	c.Resource, err = object("resource", r.GetResource())
	return c, err
}

// freshness reads the consistency that is asked for. stamp is the moment that an answer at the head has its token stamped with; an exact snapshot
// keeps its own, so that it does not grow younger. What other answers are stamped with, stamped says.
func (b border) freshness(c *deputyv1.Consistency, session *deputyv1.ZedToken) (f authz.Freshness, stamp time.Time, err error) {
	stamp = b.Now()
	if session.GetToken() != "" {
		if f.AtLeast, _, err = b.Sealer.revision("session_token", session); err != nil {
			return f, stamp, err
		}
	}
	switch r := c.GetRequirement().(type) {
	case nil:
		if c != nil {
			return f, stamp, authz.FieldErrorf("consistency", "names no requirement")
		}
	case *deputyv1.Consistency_FullyConsistent:
		if !r.FullyConsistent {
			return f, stamp, authz.FieldErrorf("consistency.fully_consistent", "must be true")
		}
	case *deputyv1.Consistency_MinimizeLatency:
		if !r.MinimizeLatency {
			return f, stamp, authz.FieldErrorf("consistency.minimize_latency", "must be true")
		}
		f.Stale = true
	case *deputyv1.Consistency_AtLeastAsFresh:
		bound, _, err := b.Sealer.revision("consistency.at_least_as_fresh", r.AtLeastAsFresh)
		if err != nil {
			return f, stamp, err
		}
		f.Also, f.Stale = bound, true
	case *deputyv1.Consistency_AtExactSnapshot:
		exact, at, err := b.Sealer.revision("consistency.at_exact_snapshot", r.AtExactSnapshot)
		if err != nil {
			return f, stamp, err
		}
		if age := stamp.Sub(at); age > b.SnapshotMaxAge {
			return f, stamp, &authz.Error{
				Kind: authz.OutOfRange, Reason: authz.ReasonSnapshotTooOld, Field: "consistency.at_exact_snapshot",
				Message: "is older than the " + b.SnapshotMaxAge.String() + " that a snapshot lasts",
			}
		}
		return authz.Freshness{Exactly: exact}, at, nil
	default:
		return f, stamp, authz.FieldErrorf("consistency", "names a requirement that this server does not know")
	}
	return f, stamp, nil
}

// CheckPermission decides one case.
func (p *permissions) CheckPermission(ctx context.Context, r *deputyv1.CheckPermissionRequest) (*deputyv1.CheckPermissionResponse, error) {
	d, stamp, err := p.decide(ctx, r, false, false)
	if err != nil {
		return nil, err
	}
	return p.decision(d, p.Sealer.token(d.CheckedAt, stamp), provenBy(ctx)), nil
}

// decide decides one case, with or without reasons, and these with or without traces.
func (p *permissions) decide(
	ctx context.Context, r *deputyv1.CheckPermissionRequest, explain, trace bool,
) (*authz.Decision, time.Time, error) {
	c, err := caseOf(r)
	if err != nil {
		return nil, time.Time{}, err
	}
	f, stamp, err := p.freshness(r.GetConsistency(), r.GetSessionToken())
	if err != nil {
		return nil, stamp, err
	}
	c.ActorToken = provenBy(ctx).evidence()
	caller := by(ctx)
	caller.Trace = trace
	results, _, err := p.Judge.Decide(ctx, caller, judge.Questions(c), f, explain)
	if err != nil {
		return nil, stamp, err
	}
	if !explain { // an explanation lets nobody act
		p.Figures.decided(&results[0].Decision, results[0].Err)
	}
	return &results[0].Decision, p.stamped(stamp, f, freshAt(results)), results[0].Err
}

// No token is stamped later than a moment at which its revision was the newest, because a snapshot's age is counted from there. stamped is that moment
// for an answer: stamp is what freshness returned with f, and freshAt such a moment where the answer tells one, else zero. A cursor keeps the moment
// that it was sealed with.
func (b border) stamped(stamp time.Time, f authz.Freshness, freshAt time.Time) time.Time {
	switch {
	case !f.Exactly.IsZero():
		return stamp
	case !freshAt.IsZero():
		if freshAt.Before(stamp) {
			return freshAt
		}
	case f.Stale:
		return stamp.Add(-b.Staleness)
	}
	return stamp
}

// token is a token of a revision that a call has read at the head, or has written: it is stamped with the moment at which the call began.
func (b border) token(ctx context.Context, r authz.Revision) *deputyv1.ZedToken {
	stamp := b.Now()
	if c, ok := ctx.Value(callKey{}).(*call); ok && !c.began.IsZero() {
		stamp = c.began
	}
	return b.Sealer.token(r, stamp)
}

// freshAt is a moment at which the revision of results was the newest, where one of them tells it, else zero.
func freshAt(results []judge.Result) time.Time {
	for i := range results {
		if at := results[i].Decision.FreshAt; !at.IsZero() {
			return at
		}
	}
	return time.Time{}
}

// CheckBulkPermissions decides all cases at one revision.
func (p *permissions) CheckBulkPermissions(ctx context.Context, r *deputyv1.CheckBulkPermissionsRequest) (*deputyv1.CheckBulkPermissionsResponse, error) {
	if n := len(r.GetItems()); n == 0 || n > maxBulkItems {
		return nil, authz.FieldErrorf("items", "must hold 1 to %d questions, not %d", maxBulkItems, n)
	}
	called, err := toolCall("tool_call", r.GetToolCall())
	if err != nil {
		return nil, err
	}
	f, stamp, err := p.freshness(r.GetConsistency(), r.GetSessionToken())
	if err != nil {
		return nil, err
	}
	pairs := make([]*deputyv1.CheckBulkPermissionsPair, len(r.GetItems()))
	asked := make([]judge.Question, len(pairs))
	proofs, err := itemProofs(ctx, len(pairs))
	if err != nil {
		return nil, err
	}
	for i, item := range r.GetItems() {
		pairs[i] = &deputyv1.CheckBulkPermissionsPair{Request: item}
		asked[i].Case, asked[i].Err = itemCase(item)
		asked[i].ActorToken, asked[i].ToolCall = proofs[i].evidence(), called
		if proofs[i].err != nil {
			asked[i].Err = proofs[i].err
		}
	}
	results, at, err := p.Judge.Decide(ctx, by(ctx), asked, f, false)
	if err != nil {
		return nil, err
	}
	token := p.Sealer.token(at, p.stamped(stamp, f, freshAt(results)))
	for i, result := range results {
		pair := pairs[i]
		if asked[i].Err == nil {
			p.Figures.decided(&result.Decision, result.Err)
		}
		if result.Err != nil {
			pair.Response = &deputyv1.CheckBulkPermissionsPair_Error{Error: toErrorStatus(ctx, result.Err)}
			continue
		}
		pair.Response = &deputyv1.CheckBulkPermissionsPair_Item{Item: p.decision(&result.Decision, token, proofs[i])}
	}
	return &deputyv1.CheckBulkPermissionsResponse{CheckedAt: token, Pairs: pairs}, nil
}

// itemCase reads an item of a bulk call. One that is left out is malformed.
func itemCase(item *deputyv1.CheckBulkPermissionsRequestItem) (authz.Case, error) {
	_, session := item.GetVia().(*deputyv1.CheckBulkPermissionsRequestItem_SessionId)
	_, delegation := item.GetVia().(*deputyv1.CheckBulkPermissionsRequestItem_DelegationId)
	c, err := acting(item, session, delegation)
	if err != nil {
		return c, err
	}
	c.Resource, err = object("resource", item.GetResource())
	return c, err
}

// decision shows a decision to the service that checks, with the token of its revision. A refusal says on which side it lies, and
// nothing else: absent, foreign and forbidden objects look the same. It holds no longer than the token that proved who acts. When the copy
// was last known to be the newest is told in whole milliseconds, rounded down: a caller need not learn what others asked within one.
func (b border) decision(d *authz.Decision, at *deputyv1.ZedToken, proven proof) *deputyv1.CheckPermissionResponse {
	out := &deputyv1.CheckPermissionResponse{
		Permissionship: permissionship(d.Permissionship),
		CheckedAt:      at,
		DecisionId:     d.ID,
	}
	if !d.FreshAt.IsZero() {
		out.FreshAt = timeProto(d.FreshAt.Truncate(time.Millisecond))
	}
	if d.Permissionship == authz.NoPermission {
		out.RefusedBy = deputyv1.RefusedBy_REFUSED_BY_OBJECT
		if d.RefusedBy != authz.SideObject {
			out.RefusedBy = deputyv1.RefusedBy_REFUSED_BY_ACTOR
		}
		return out
	}
	if c := d.Chosen(); c != nil {
		out.Principal = objectProto(c.Principal.Object)
		out.TenantId = authz.DecodeID(string(c.Tenant))
		out.DelegationId = string(c.Delegation())
		out.AgentChain = agentIDs(c.Agents)
	}
	out.MissingContext = d.Missing
	if d.Permissionship == authz.HasPermission {
		out.ValidUntil = timeProto(proven.until(d.ValidUntil))
	}
	return out
}

func agentIDs(ids []authz.AgentID) []string {
	out := make([]string, len(ids))
	for i, a := range ids {
		out[i] = authz.DecodeID(string(a))
	}
	return out
}

func permissionship(p authz.Permissionship) deputyv1.Permissionship {
	switch p {
	case authz.HasPermission:
		return deputyv1.Permissionship_PERMISSIONSHIP_HAS_PERMISSION
	case authz.ConditionalPermission:
		return deputyv1.Permissionship_PERMISSIONSHIP_CONDITIONAL_PERMISSION
	default:
		return deputyv1.Permissionship_PERMISSIONSHIP_NO_PERMISSION
	}
}

// lookup is where a lookup goes on, at what freshness one begins, and how far it goes.
type lookup struct {
	border
	place judge.Place
	fresh authz.Freshness
	// stamp is the moment that the lookup's age is counted from. dated says that the judge has had its say about it.
	stamp time.Time
	dated bool
	limit int
	sum   [16]byte
	// results counts what was streamed, and failed what was streamed as failed.
	results, failed uint64
}

// lookupRequest is what the requests of both lookups have in common.
type lookupRequest interface {
	proto.Message
	GetLimit() uint32
	GetCursor() *deputyv1.Cursor
	GetConsistency() *deputyv1.Consistency
}

// openLookup reads a lookup's limit, cursor and consistency. bare is the request without them.
func (b border) openLookup(ctx context.Context, r lookupRequest, bare proto.Message, session *deputyv1.ZedToken) (*lookup, error) {
	if r.GetCursor().GetToken() != "" && r.GetConsistency() != nil {
		return nil, authz.FieldErrorf("consistency", "is not to be combined with a cursor")
	}
	l := &lookup{border: b}
	var err error
	if l.limit, err = limit(r.GetLimit(), defaultLookup, maxLookup); err != nil {
		return nil, err
	}
	if l.sum, err = digest(ctx, bare); err != nil {
		return nil, err
	}
	if l.fresh, l.stamp, err = b.freshness(r.GetConsistency(), session); err != nil {
		return nil, err
	}
	// A lookup that goes on keeps the moment of its revision, so that the token does not grow younger.
	if l.stamp, err = b.Sealer.place(l.sum, r.GetCursor(), &l.place, l.stamp); err != nil {
		return nil, err
	}
	return l, l.young()
}

// young refuses to go on once the lookup's revision is older than a snapshot may be: the rights of then are not those of
// now. It is asked before each result too, because a caller can take long to read them.
func (l *lookup) young() error {
	if l.Now().Sub(l.stamp) <= l.SnapshotMaxAge {
		return nil
	}
	return &authz.Error{
		Kind: authz.OutOfRange, Reason: authz.ReasonSnapshotTooOld, Field: "cursor",
		Message: "belongs to a lookup that began more than " + l.SnapshotMaxAge.String() + " ago, as long as a snapshot lasts: look up again without a cursor",
	}
}

// began takes in a moment at which the lookup's revision was the newest, where the judge tells one. A lookup that goes on keeps its own.
func (l *lookup) began(freshAt time.Time) {
	if l.dated || !l.place.Revision.IsZero() {
		return
	}
	l.stamp, l.dated = l.stamped(l.stamp, l.fresh, freshAt), true
}

// end is the message that closes a lookup's stream.
func (l *lookup) end(e judge.End) (*deputyv1.LookupEnd, error) {
	l.began(e.FreshAt)
	out := &deputyv1.LookupEnd{
		LookedUpAt: l.Sealer.token(e.At, l.stamp), Complete: e.Next == nil, Results: l.results, Failed: l.failed,
	}
	if e.Next == nil {
		return out, nil
	}
	var err error
	out.Next, err = l.Sealer.cursor(l.sum, l.stamp, e.Next)
	return out, err
}

// LookupResources streams what an acting party reaches.
func (p *permissions) LookupResources(r *deputyv1.LookupResourcesRequest, stream grpc.ServerStreamingServer[deputyv1.LookupResourcesResponse]) error {
	_, session := r.GetVia().(*deputyv1.LookupResourcesRequest_SessionId)
	_, delegation := r.GetVia().(*deputyv1.LookupResourcesRequest_DelegationId)
	c, err := acting(r, session, delegation)
	if err != nil {
		return err
	}
	if c.Resource.Type, err = objectType("resource_object_type", r.GetResourceObjectType()); err != nil {
		return err
	}
	bare := proto.CloneOf(r)
	bare.Limit, bare.Cursor, bare.Consistency, bare.SessionToken = 0, nil, nil, nil
	l, err := p.openLookup(stream.Context(), r, bare, r.GetSessionToken())
	if err != nil {
		return err
	}
	proven := provenBy(stream.Context())
	done, err := p.Judge.Resources(stream.Context(), caller.Of(stream.Context()).Bounds, c, l.fresh, l.place, l.limit, func(found judge.Reached) error {
		l.began(found.FreshAt)
		if err := l.young(); err != nil {
			return err
		}
		if err := proven.lasts(p.Now()); err != nil {
			return err
		}
		if found.Err != nil {
			l.failed++
			return stream.Send(&deputyv1.LookupResourcesResponse{Result: &deputyv1.LookupResourcesResponse_Failed{
				Failed: &deputyv1.FailedResource{
					Resource:     objectProto(found.Resource),
					Error:        toErrorStatus(stream.Context(), found.Err),
					Principal:    objectProto(found.Principal.Object),
					TenantId:     authz.DecodeID(string(found.Tenant)),
					DelegationId: string(found.Delegation),
				},
			}})
		}
		l.results++
		return stream.Send(&deputyv1.LookupResourcesResponse{Result: &deputyv1.LookupResourcesResponse_Resource{
			Resource: &deputyv1.ReachedResource{
				Resource:       objectProto(found.Resource),
				Permissionship: permissionship(found.Permissionship),
				MissingContext: found.Missing,
				Principal:      objectProto(found.Principal.Object),
				TenantId:       authz.DecodeID(string(found.Tenant)),
				DelegationId:   string(found.Delegation),
			},
		}})
	})
	if err != nil {
		return err
	}
	end, err := l.end(done)
	if err != nil {
		return err
	}
	return stream.Send(&deputyv1.LookupResourcesResponse{Result: &deputyv1.LookupResourcesResponse_End{End: end}})
}

// LookupAgents streams who reaches an object.
func (p *permissions) LookupAgents(r *deputyv1.LookupAgentsRequest, stream grpc.ServerStreamingServer[deputyv1.LookupAgentsResponse]) error {
	var (
		c   authz.Case
		err error
	)
	if c.Resource, err = object("resource", r.GetResource()); err != nil {
		return err
	}
	if c.Permission, err = relationName("permission", r.GetPermission()); err != nil {
		return err
	}
	if c.Principal, err = principal("on_behalf_of", r.GetOnBehalfOf()); err != nil {
		return err
	}
	if c.Context, err = caveatContext(r.GetContext()); err != nil {
		return err
	}
	bare := proto.CloneOf(r)
	bare.Limit, bare.Cursor, bare.Consistency = 0, nil, nil
	l, err := p.openLookup(stream.Context(), r, bare, nil)
	if err != nil {
		return err
	}
	done, err := p.Judge.Agents(stream.Context(), caller.Of(stream.Context()).Bounds, c, l.fresh, l.place, l.limit, func(found judge.Reacher) error {
		l.began(found.FreshAt)
		if err := l.young(); err != nil {
			return err
		}
		chain := agentIDs(found.Candidate.Agents)
		if found.Err != nil {
			l.failed++
			return stream.Send(&deputyv1.LookupAgentsResponse{Result: &deputyv1.LookupAgentsResponse_Failed{
				Failed: &deputyv1.FailedAgent{
					AgentId:      chain[len(chain)-1],
					Principal:    objectProto(found.Candidate.Principal.Object),
					TenantId:     authz.DecodeID(string(found.Candidate.Tenant)),
					DelegationId: string(found.Candidate.Delegation()),
					Error:        toErrorStatus(stream.Context(), found.Err),
				},
			}})
		}
		l.results++
		return stream.Send(&deputyv1.LookupAgentsResponse{Result: &deputyv1.LookupAgentsResponse_Agent{
			Agent: &deputyv1.ReachingAgent{
				AgentId:        chain[len(chain)-1],
				AgentChain:     chain,
				Principal:      objectProto(found.Candidate.Principal.Object),
				TenantId:       authz.DecodeID(string(found.Candidate.Tenant)),
				DelegationId:   string(found.Candidate.Delegation()),
				NeedsSession:   found.NeedsSession,
				Permissionship: permissionship(found.Candidate.Permissionship),
				MissingContext: found.Candidate.Missing,
			},
		}})
	})
	if err != nil {
		return err
	}
	end, err := l.end(done)
	if err != nil {
		return err
	}
	return stream.Send(&deputyv1.LookupAgentsResponse{Result: &deputyv1.LookupAgentsResponse_End{End: end}})
}
