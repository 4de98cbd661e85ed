package client

import (
	"context"

	"google.golang.org/grpc"

	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// ReviewAdoption lists the agents, users, services and tenants that relationships name and that are not active, with what they would hold: all
// of them, or those given. A page of it may take minutes, so that the context of a large graph has a deadline of its own. It takes an admin.
func (c *Client) ReviewAdoption(of Page, objects ...Resource) *List[*deputyv1.AdoptionCandidate] {
	open := func(ctx context.Context, limit uint32, from *deputyv1.Cursor) (grpc.ServerStreamingClient[deputyv1.ReviewAdoptionResponse], error) {
		request := &deputyv1.ReviewAdoptionRequest{Limit: limit, Cursor: from}
		for _, o := range objects {
			request.Objects = append(request.Objects, o.proto())
		}
		return c.Adoption.ReviewAdoption(ctx, request)
	}
	return streamOf(of, open, func(m *deputyv1.ReviewAdoptionResponse) (*result[*deputyv1.AdoptionCandidate], *end) {
		switch r := m.GetResult().(type) {
		case *deputyv1.ReviewAdoptionResponse_Candidate:
			return &result[*deputyv1.AdoptionCandidate]{value: r.Candidate}, nil
		case *deputyv1.ReviewAdoptionResponse_End:
			return nil, &end{r.End.GetComplete(), r.End.GetNext(), r.End.GetReviewedAt()}
		default:
			return nil, nil
		}
	})
}

// ConfirmAdoption makes up to 20 candidates active, all or none, if what they hold is what their digests say. It takes an admin.
func (c *Client) ConfirmAdoption(ctx context.Context, adoptions ...*deputyv1.Adoption) (*deputyv1.ConfirmAdoptionResponse, error) {
	return c.Adoption.ConfirmAdoption(ctx, &deputyv1.ConfirmAdoptionRequest{Adoptions: adoptions})
}
