package rpc

import (
	"context"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/deputyauth/deputy/pkg/authz"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// Copier tells the state of a server's copy of its database. It is safe for concurrent use.
type Copier interface {
	// Copy says how the copy does.
	Copy() *deputyv1.GetCopyResponse
	// VerifyCopy compares the whole copy with the database, and sends what it finds, as VerifyCopyResponse says: at most so many differences. It holds the
	// copy and the database at one state meanwhile, so that send does not wait for anybody. send's error ends it.
	VerifyCopy(ctx context.Context, most int, send func(*deputyv1.VerifyCopyResponse) error) error
}

const defaultDifferences, maxDifferences = 10, 1000

type copies struct {
	deputyv1.UnimplementedCopyServiceServer
	border
}

// copier returns the Copier, if the server has a copy.
func (s *copies) copier() (Copier, error) {
	if s.Copies == nil {
		return nil, authz.Errorf(authz.Precondition, authz.ReasonNoCopy,
			"this server decides from its engine itself and has no copy of it: only a server with --follow has one")
	}
	return s.Copies, nil
}

// GetCopy says how the copy does.
func (s *copies) GetCopy(context.Context, *deputyv1.GetCopyRequest) (*deputyv1.GetCopyResponse, error) {
	copier, err := s.copier()
	if err != nil {
		return nil, err
	}
	return copier.Copy(), nil
}

// VerifyCopy compares the copy with the database.
func (s *copies) VerifyCopy(r *deputyv1.VerifyCopyRequest, stream grpc.ServerStreamingServer[deputyv1.VerifyCopyResponse]) error {
	most, err := limit(r.GetLimit(), defaultDifferences, maxDifferences)
	if err != nil {
		return err
	}
	copier, err := s.copier()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	found, done := make(chan *deputyv1.VerifyCopyResponse, maxUnsent), make(chan error, 1)
	go func() {
		defer close(found)
		done <- authz.Safely("rpc.VerifyCopy", func() error {
			return copier.VerifyCopy(ctx, most, func(m *deputyv1.VerifyCopyResponse) error {
				select {
				case found <- m:
					return nil
				default:
					return streamEnd(codes.DeadlineExceeded, "STREAM_STALLED",
						fmt.Sprintf("the client is %d messages behind the comparison, as many as the server keeps for it", maxUnsent))
				}
			})
		})
	}()
	var sending error
	for m := range found {
		if sending == nil {
			if sending = stream.Send(m); sending != nil {
				cancel() // and what is still found is for nobody
			}
		}
	}
	if err := <-done; sending == nil {
		return err
	}
	return sending
}

// maxUnsent is how many messages of a comparison wait for its caller.
const maxUnsent = 10_000
