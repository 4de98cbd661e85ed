package rpc

import (
	"context"
	"errors"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/caller"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/pkg/journal"
)

const (
	maxRecords     = 10_000
	defaultRecords = 1000
	// queryTime is how long one call looks for records before it says where to go on.
	queryTime = 4 * time.Second
	// maxKinds is more than there are.
	maxKinds = 64
	// maxCallerName is how long the name of a caller may be that is asked for.
	maxCallerName = 1024
)

// journals serves the records of this node's journal.
type journals struct {
	deputyv1.UnimplementedJournalServiceServer
	border
}

// reader returns the journal, if there is one.
func (s *journals) reader() (*journal.Reader, error) {
	if s.Journal == nil {
		return nil, authz.Errorf(authz.Precondition, authz.ReasonNoJournal, "this server keeps no journal: it was started with --journal=off")
	}
	return s.Journal, nil
}

// QueryRecords streams the records that match.
func (s *journals) QueryRecords(r *deputyv1.QueryRecordsRequest, stream grpc.ServerStreamingServer[deputyv1.QueryRecordsResponse]) error {
	ctx := stream.Context()
	reader, err := s.reader()
	if err != nil {
		return err
	}
	q, err := queryOf(r)
	if err != nil {
		return err
	}
	confine(q, caller.Of(ctx).Bounds)
	most, err := limit(r.GetLimit(), defaultRecords, maxRecords)
	if err != nil {
		return err
	}
	if r.GetFollow() && r.GetLimit() == 0 {
		most = 0
	}
	bare := proto.CloneOf(r)
	bare.Limit, bare.Cursor, bare.Follow = 0, nil, false
	sum, err := digest(ctx, bare, reader.Origin())
	if err != nil {
		return err
	}
	var at journal.Place
	if _, err := s.Sealer.place(sum, r.GetCursor(), &at, s.Now()); err != nil {
		return err
	}
	sent := 0
	send := func(f journal.Found) (more bool, err error) {
		sent++
		message := &deputyv1.QueryRecordsResponse{Result: &deputyv1.QueryRecordsResponse_Record{Record: foundProto(ctx, reader, f)}}
		return sent != most, stream.Send(message)
	}
	var next journal.Place
	if r.GetFollow() {
		next, err = s.follow(stream, reader, q, at, send)
	} else {
		q.Budget = queryTime
		next, err = reader.Query(ctx, q, at, send)
	}
	if err != nil {
		return err
	}
	end := &deputyv1.QueryEnd{Complete: next == nil}
	if next != nil {
		if end.Next, err = s.Sealer.cursor(sum, s.Now(), next); err != nil {
			return err
		}
	}
	return stream.Send(&deputyv1.QueryRecordsResponse{Result: &deputyv1.QueryRecordsResponse_End{End: end}})
}

// follow streams records as they are written: from the place on, or from the time that is asked for, or else from now on. Its client knows by the
// header from when on that is.
func (*journals) follow(
	stream grpc.ServerStream, reader *journal.Reader, q *journal.Query, at journal.Place, send func(journal.Found) (bool, error),
) (journal.Place, error) {
	if at == nil {
		from := reader.First()
		if q.From.IsZero() {
			end, err := reader.End()
			if err != nil {
				return nil, err
			}
			from = end
		}
		at = &from
	}
	if err := stream.SendHeader(metadata.MD{}); err != nil {
		return nil, err
	}
	return reader.Follow(stream.Context(), q, at, send)
}

// queryOf reads a query.
func queryOf(r *deputyv1.QueryRecordsRequest) (*journal.Query, error) {
	q := &journal.Query{
		Agent: r.GetAgentId(), Tenant: r.GetTenantId(), Permission: r.GetPermission(), Caller: r.GetCaller(),
		Session: r.GetSessionId(), Delegation: r.GetDelegationId(), Answer: r.GetAnswer(), RefusedBy: r.GetRefusedBy(),
		Kinds: r.GetKinds(), Newest: r.GetNewestFirst(),
		PrincipalType: r.GetPrincipal().GetObjectType(), PrincipalID: r.GetPrincipal().GetObjectId(),
		ResourceType: r.GetResource().GetObjectType(), ResourceID: r.GetResource().GetObjectId(),
	}
	for field, given := range map[string]string{
		"agent_id": q.Agent, "tenant_id": q.Tenant, "session_id": q.Session, "delegation_id": q.Delegation,
	} {
		if _, err := optionalID(field, given); err != nil {
			return nil, err
		}
	}
	for field, given := range map[string]*deputyv1.ObjectReference{"principal": r.GetPrincipal(), "resource": r.GetResource()} {
		if given == nil {
			continue
		}
		if _, err := object(field, given); err != nil {
			return nil, err
		}
	}
	if q.Permission != "" {
		if _, err := relationName("permission", q.Permission); err != nil {
			return nil, err
		}
	}
	if len(q.Caller) > maxCallerName {
		return nil, authz.FieldErrorf("caller", "has more than %d bytes", maxCallerName)
	}
	if _, known := deputyv1.Permissionship_name[int32(q.Answer)]; !known {
		return nil, authz.FieldErrorf("answer", "is not known to this server")
	}
	if _, known := deputyv1.Gate_name[int32(q.RefusedBy)]; !known {
		return nil, authz.FieldErrorf("refused_by", "is not known to this server")
	}
	if len(q.Kinds) > maxKinds {
		return nil, authz.FieldErrorf("kinds", "has more than %d", maxKinds)
	}
	for _, k := range q.Kinds {
		if _, known := deputyv1.RecordKind_name[int32(k)]; !known || k == 0 {
			return nil, authz.FieldErrorf("kinds", "has one that is not known to this server")
		}
	}
	if q.Tool = r.GetToolCall(); q.Tool != nil {
		if err := askedTool(q.Tool); err != nil {
			return nil, err
		}
	}
	if r.GetFollow() && q.Newest {
		return nil, authz.FieldErrorf("newest_first", "is not to be combined with follow")
	}
	var err error
	if q.From, err = timeOf("from", r.GetFrom()); err != nil {
		return nil, err
	}
	q.Until, err = timeOf("until", r.GetUntil())
	return q, err
}

// timeOf reads a time that may be left out.
func timeOf(field string, t *timestamppb.Timestamp) (time.Time, error) {
	if t == nil {
		return time.Time{}, nil
	}
	if err := t.CheckValid(); err != nil {
		return time.Time{}, authz.FieldErrorf(field, "is not a valid time")
	}
	return t.AsTime(), nil
}

// confine narrows a query to the records that exist for a caller with bounds.
func confine(q *journal.Query, b *authz.Bounds) {
	q.Admits = func(r *journal.Record) bool { return admits(b, r) }
	if b == nil {
		return
	}
	for _, one := range []struct {
		of   authz.Names
		into *[]string
	}{{b.Tenants, &q.WithinTenants}, {b.Agents, &q.WithinAgents}} {
		if names := one.of.List(); len(names) <= maxKinds { // what is looked up is bounded; admits decides
			for _, name := range names {
				*one.into = append(*one.into, authz.DecodeID(name))
			}
		}
	}
}

// admits reports whether a record exists for a caller with bounds: whatever the bounds are about has to stand in it, and lie within. So a record
// without a tenant exists only for callers that are not bound to tenants.
func admits(b *authz.Bounds, r *journal.Record) bool {
	switch {
	case b == nil:
		return false
	case b.Everything():
		return true
	}
	if !b.Tenants.All() && !idWithin(r.GetTenantId(), func(id string) bool { return b.HasTenant(authz.TenantID(id)) }) {
		return false
	}
	if !b.Agents.All() {
		for _, agent := range append([]string{r.GetAgentId()}, r.GetAgentChain()...) {
			if !idWithin(agent, func(id string) bool { return b.HasAgent(authz.AgentID(id)) }) {
				return false
			}
		}
	}
	if !b.AllPrincipals() {
		id, err := authz.EncodeID(r.GetPrincipalId())
		if !b.Principals.Has(r.GetPrincipalType()) || !b.Person.IsZero() && (err != nil || b.Person.Object != authz.Object{Type: r.GetPrincipalType(), ID: id}) {
			return false
		}
	}
	if b.Objects.All() && b.IDs.All() {
		return true
	}
	within := func(kind, id string) bool {
		return b.HasType(kind) && (b.IDs.All() || idWithin(id, b.IDs.Match))
	}
	if !within(r.GetResourceType(), r.GetResourceId()) {
		return false
	}
	for _, written := range r.GetRelationships() {
		_, relationship, _ := strings.Cut(written, " ")
		resource, _, _ := strings.Cut(relationship, "#")
		if kind, id, found := strings.Cut(resource, ":"); !found || !within(kind, id) {
			return false
		}
	}
	return true
}

// idWithin reports whether an id, as callers know it, is there and lies within.
func idWithin(id string, within func(stored string) bool) bool {
	stored, err := authz.EncodeID(id)
	return err == nil && within(stored)
}

// foundProto is a record as its reader gets it. One with bounds gets no sequences: the gaps between them would tell how much there is
// besides.
func foundProto(ctx context.Context, reader *journal.Reader, f journal.Found) *deputyv1.FoundRecord {
	record := proto.CloneOf(f.Record)
	if !caller.Of(ctx).Bounds.Everything() {
		record.Sequence, record.Begun = 0, nil
	}
	return &deputyv1.FoundRecord{Record: record, DecisionId: reader.ID(f.Record.GetSequence()), Erased: f.Erased}
}

// get returns the record of a decision, if it exists for the caller, and its encoding.
func (s *journals) get(ctx context.Context, reader *journal.Reader, decision string) (f journal.Found, encoded []byte, err error) {
	if decision == "" {
		return f, nil, authz.FieldErrorf("decision_id", "is required")
	}
	if !journal.IsID(decision) {
		return f, nil, authz.FieldErrorf("decision_id", "is not the id of a decision: such an id is 32 hexadecimal digits")
	}
	none := authz.Errorf(authz.NotFound, authz.ReasonRecordNotFound,
		"no record of a decision %.64q is in the journal of this server, %s: it may be in that of another node, or older than the retention", decision,
		reader.Origin())
	sequence, ok := reader.Find(decision)
	if !ok {
		return f, nil, none
	}
	f, encoded, err = reader.Get(sequence)
	if errors.Is(err, journal.ErrNoRecord) || err == nil && !admits(caller.Of(ctx).Bounds, f.Record) {
		return f, nil, none
	}
	return f, encoded, err
}

// GetRecord reads the record of a decision.
func (s *journals) GetRecord(ctx context.Context, r *deputyv1.GetRecordRequest) (*deputyv1.GetRecordResponse, error) {
	reader, err := s.reader()
	if err != nil {
		return nil, err
	}
	f, _, err := s.get(ctx, reader, r.GetDecisionId())
	if err != nil {
		return nil, err
	}
	return &deputyv1.GetRecordResponse{Record: foundProto(ctx, reader, f)}, nil
}

// GetCheckpoint reads the newest checkpoint.
func (s *journals) GetCheckpoint(context.Context, *deputyv1.GetCheckpointRequest) (*deputyv1.GetCheckpointResponse, error) {
	reader, err := s.reader()
	if err != nil {
		return nil, err
	}
	c, err := reader.Checkpoint()
	if err != nil {
		return nil, checkpointError(err, "no checkpoint is signed yet")
	}
	records, err := reader.End()
	if err != nil {
		return nil, err
	}
	return &deputyv1.GetCheckpointResponse{Checkpoint: string(c.Text), VerifierKey: c.Verifier, Records: records}, nil
}

// ProveRecord proves that a record stands in the journal.
func (s *journals) ProveRecord(ctx context.Context, r *deputyv1.ProveRecordRequest) (*deputyv1.ProveRecordResponse, error) {
	reader, err := s.reader()
	if err != nil {
		return nil, err
	}
	f, encoded, err := s.get(ctx, reader, r.GetDecisionId())
	if err != nil {
		return nil, err
	}
	proof, err := reader.Prove(ctx, f.Record.GetSequence())
	if err != nil {
		return nil, checkpointError(err, "no checkpoint reaches this record yet")
	}
	return &deputyv1.ProveRecordResponse{Proof: string(proof), Leaf: encoded}, nil
}

// checkpointError is what callers are told where there is no checkpoint: what is missing.
func checkpointError(err error, missing string) error {
	if !errors.Is(err, journal.ErrNoCheckpoint) {
		return err
	}
	return &authz.Error{
		Op: "rpc.journal", Kind: authz.Precondition, Reason: authz.ReasonNoCheckpoint, Err: err,
		Message: missing + ": one is signed every second; try again, and if it stays so, see the server's health",
	}
}
