package rpc

import (
	"context"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/delegate"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

type adoptions struct {
	deputyv1.UnimplementedAdoptionServiceServer
	border
}

// ReviewAdoption streams what could be adopted.
func (s *adoptions) ReviewAdoption(r *deputyv1.ReviewAdoptionRequest, stream grpc.ServerStreamingServer[deputyv1.ReviewAdoptionResponse]) error {
	most, err := limit(r.GetLimit(), defaultLookup, maxLookup)
	if err != nil {
		return err
	}
	if n := len(r.GetObjects()); n > delegate.MaxReviewed {
		return authz.FieldErrorf("objects", "must name at most %d objects, not %d", delegate.MaxReviewed, n)
	}
	objects := make([]authz.Object, len(r.GetObjects()))
	for i, o := range r.GetObjects() {
		if objects[i], err = adoptee(fmt.Sprintf("objects[%d]", i), o); err != nil {
			return err
		}
	}
	bare := proto.CloneOf(r)
	bare.Limit, bare.Cursor = 0, nil
	sum, err := digest(stream.Context(), bare)
	if err != nil {
		return err
	}
	var place delegate.ReviewPlace
	stamp, err := s.Sealer.place(sum, r.GetCursor(), &place, s.Now())
	if err != nil {
		return err
	}
	at, next, err := s.delegate(stream.Context()).Review(stream.Context(), objects, place, most, func(c delegate.Candidate) error {
		return stream.Send(&deputyv1.ReviewAdoptionResponse{Result: &deputyv1.ReviewAdoptionResponse_Candidate{Candidate: adoptionCandidate(c)}})
	})
	if err != nil {
		return err
	}
	end := &deputyv1.AdoptionEnd{ReviewedAt: s.Sealer.token(at, stamp), Complete: next == nil}
	if next != nil {
		if end.Next, err = s.Sealer.cursor(sum, stamp, next); err != nil {
			return err
		}
	}
	return stream.Send(&deputyv1.ReviewAdoptionResponse{Result: &deputyv1.ReviewAdoptionResponse_End{End: end}})
}

// ConfirmAdoption makes candidates active.
func (s *adoptions) ConfirmAdoption(ctx context.Context, r *deputyv1.ConfirmAdoptionRequest) (*deputyv1.ConfirmAdoptionResponse, error) {
	asked := make([]delegate.Adoption, len(r.GetAdoptions()))
	for i, a := range r.GetAdoptions() {
		field := fmt.Sprintf("adoptions[%d]", i)
		var err error
		if asked[i].Object, err = adoptee(field+".object", a.GetObject()); err != nil {
			return nil, err
		}
		if asked[i].Owners, err = ownerIDs(field+".owner_ids", a.GetOwnerIds()); err != nil {
			return nil, err
		}
		asked[i].Digest = a.GetDigest()
	}
	adopted, rev, err := s.delegate(ctx).Adopt(ctx, asked)
	if err != nil {
		return nil, err
	}
	out := &deputyv1.ConfirmAdoptionResponse{WrittenAt: s.token(ctx, rev), UnnamedOwnerIds: ids(adopted.Unnamed)}
	for _, o := range adopted.Active {
		out.Adopted = append(out.Adopted, objectProto(o))
	}
	return out, nil
}

// adoptee reads one that could be adopted.
func adoptee(field string, o *deputyv1.ObjectReference) (authz.Object, error) {
	if o == nil {
		return authz.Object{}, authz.FieldErrorf(field, "is required")
	}
	return user(field, o, delegate.Actors...)
}

func adoptionCandidate(c delegate.Candidate) *deputyv1.AdoptionCandidate {
	out := &deputyv1.AdoptionCandidate{
		Object: objectProto(c.Object), State: state(c.Life), Digest: c.Digest, Refusal: c.Refusal,
		HoldingsTotal: total(c.Holdings.Total), RelationshipsTotal: total(c.Naming.Total),
		DelegationsTotal: total(c.Delegations.Total), SessionsTotal: total(c.Sessions.Total),
	}
	for _, h := range c.Holdings.First {
		shown := &deputyv1.AdoptionHolding{
			TenantId: authz.DecodeID(string(h.Tenant)), ObjectType: h.Type, Permission: h.Permission, Objects: total(h.Objects.Total),
		}
		for _, id := range h.Objects.First {
			shown.ObjectIds = append(shown.ObjectIds, authz.DecodeID(id))
		}
		out.Holdings = append(out.Holdings, shown)
	}
	for _, rel := range c.Naming.First {
		rel.Resource.ID, rel.Subject.ID = authz.DecodeID(rel.Resource.ID), authz.DecodeID(rel.Subject.ID)
		out.Relationships = append(out.Relationships, rel.String())
	}
	for _, d := range c.Delegations.First {
		out.Delegations = append(out.Delegations, delegationProto(d))
	}
	for _, run := range c.Sessions.First {
		out.Sessions = append(out.Sessions, sessionProto(run))
	}
	return out
}

// total is a count as the contract has it.
func total(n int) uint64 { return uint64(n) } //nolint:gosec // counts are not negative
