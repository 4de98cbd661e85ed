package rpc

import (
	"context"
	"fmt"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/caller"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/pkg/judge"
)

// FilterResources decides on which of many objects of one type an agent may act.
func (p *permissions) FilterResources(ctx context.Context, r *deputyv1.FilterResourcesRequest) (*deputyv1.FilterResourcesResponse, error) {
	given := r.GetResourceObjectIds()
	if n := len(given); n == 0 || n > maxFilter {
		return nil, authz.FieldErrorf("resource_object_ids", "must hold 1 to %d ids, not %d", maxFilter, n)
	}
	_, session := r.GetVia().(*deputyv1.FilterResourcesRequest_SessionId)
	_, delegation := r.GetVia().(*deputyv1.FilterResourcesRequest_DelegationId)
	c, err := acting(r, session, delegation)
	if err != nil {
		return nil, err
	}
	if c.Resource.Type, err = objectType("resource_object_type", r.GetResourceObjectType()); err != nil {
		return nil, err
	}
	f, stamp, err := p.freshness(r.GetConsistency(), r.GetSessionToken())
	if err != nil {
		return nil, err
	}
	// A text that cannot be an id fails alone, as a wrong item of a bulk check does.
	ids, wrong := make([]string, 0, len(given)), map[int]error{}
	for i, name := range given {
		if encoded, err := authz.EncodeID(name); err == nil {
			ids = append(ids, encoded)
		} else {
			wrong[i] = authz.FieldErrorf(fmt.Sprintf("resource_object_ids[%d]", i), "%v", err)
		}
	}
	filtered, err := p.Judge.Filter(ctx, caller.Of(ctx).Bounds, c, ids, f)
	if err != nil {
		return nil, err
	}
	out := &deputyv1.FilterResourcesResponse{CheckedAt: p.Sealer.token(filtered.At, p.stamped(stamp, f, filtered.FreshAt))}
	found := filtered.Found
	actorRefused := len(found) > 0
	for i, name := range given {
		one := judge.Filtered{Err: wrong[i]}
		if one.Err == nil {
			one, found = found[0], found[1:]
			actorRefused = actorRefused && one.RefusedBy == authz.SideActor
		}
		switch {
		case one.Err != nil:
			out.Failed = append(out.Failed, &deputyv1.FailedObject{ObjectId: name, Error: toErrorStatus(ctx, one.Err)})
		case one.Permissionship == authz.HasPermission:
			out.AllowedObjectIds = append(out.AllowedObjectIds, name)
		case one.Permissionship == authz.ConditionalPermission && !r.GetOmitConditional():
			out.Conditional = append(out.Conditional, &deputyv1.ConditionalObject{ObjectId: name, MissingContext: one.Missing})
		}
	}
	if actorRefused {
		out.RefusedBy = deputyv1.RefusedBy_REFUSED_BY_ACTOR
	}
	return out, nil
}
