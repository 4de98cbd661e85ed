package rpc

import (
	"context"

	"google.golang.org/grpc"

	"github.com/deputyauth/deputy/pkg/authz"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// followed is the service that answers servers which follow this one: by or, where that is nil, one that refuses.
func followed(by deputyv1.FollowServiceServer) deputyv1.FollowServiceServer {
	if by == nil {
		return unfollowed{}
	}
	return by
}

// unfollowed refuses every call: the engine has no store that could be followed.
type unfollowed struct {
	deputyv1.UnimplementedFollowServiceServer
}

func errUnfollowed() error {
	return authz.Errorf(authz.Precondition, authz.ReasonNoStore,
		"the engine has no store of its own, and a server is followed on the engine embedded alone: follow the database instead")
}

// GetHead refuses.
func (unfollowed) GetHead(context.Context, *deputyv1.GetHeadRequest) (*deputyv1.GetHeadResponse, error) {
	return nil, errUnfollowed()
}

// ReadChanges refuses.
func (unfollowed) ReadChanges(*deputyv1.ReadChangesRequest, grpc.ServerStreamingServer[deputyv1.ReadChangesResponse]) error {
	return errUnfollowed()
}

// ReadDefinitions refuses.
func (unfollowed) ReadDefinitions(*deputyv1.ReadDefinitionsRequest, grpc.ServerStreamingServer[deputyv1.ReadDefinitionsResponse]) error {
	return errUnfollowed()
}

// ReadPage refuses.
func (unfollowed) ReadPage(*deputyv1.ReadPageRequest, grpc.ServerStreamingServer[deputyv1.ReadPageResponse]) error {
	return errUnfollowed()
}

// ReadDigests refuses.
func (unfollowed) ReadDigests(*deputyv1.ReadDigestsRequest, grpc.ServerStreamingServer[deputyv1.ReadDigestsResponse]) error {
	return errUnfollowed()
}

// ReadRows refuses.
func (unfollowed) ReadRows(*deputyv1.ReadRowsRequest, grpc.ServerStreamingServer[deputyv1.ReadRowsResponse]) error {
	return errUnfollowed()
}

// ReadBucket refuses.
func (unfollowed) ReadBucket(*deputyv1.ReadBucketRequest, grpc.ServerStreamingServer[deputyv1.ReadBucketResponse]) error {
	return errUnfollowed()
}
