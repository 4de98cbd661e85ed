package rpc

import (
	"context"

	"google.golang.org/protobuf/proto"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/delegate"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

type retention struct {
	deputyv1.UnimplementedRetentionServiceServer
	border
}

// Purge goes on with a walk that purges what is over.
func (s *retention) Purge(ctx context.Context, r *deputyv1.PurgeRequest) (*deputyv1.PurgeResponse, error) {
	if r.GetOlderThan() == nil {
		return nil, authz.FieldErrorf("older_than", "is required: say for how long what is purged has to have been over, 0s for all that is over")
	}
	if r.GetOlderThan().CheckValid() != nil {
		return nil, authz.FieldErrorf("older_than", "is not a valid duration")
	}
	age := r.GetOlderThan().AsDuration()
	if age < 0 {
		return nil, authz.FieldErrorf("older_than", "must not be negative")
	}
	bare := proto.CloneOf(r)
	bare.Cursor = nil
	sum, err := digest(ctx, bare)
	if err != nil {
		return nil, err
	}
	var place delegate.Place
	stamp, err := s.Sealer.place(sum, r.GetCursor(), &place, s.Now())
	if err != nil {
		return nil, err
	}
	did, next, err := s.delegate(ctx).Purge(ctx, delegate.Purging{OlderThan: age, DryRun: r.GetDryRun()}, place)
	if err != nil {
		return nil, err
	}
	out := &deputyv1.PurgeResponse{
		Sessions: count(did.Sessions), Delegations: count(did.Delegations), Relationships: count(did.Relationships), Noted: count(did.Seen),
		Complete: next == nil, ReadAt: s.Sealer.token(did.At, stamp),
	}
	if next != nil {
		out.Next, err = s.Sealer.cursor(sum, stamp, next)
	}
	return out, err
}

func count(n int) uint64 { return uint64(max(n, 0)) }
