package deputy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/authzed/spicedb/pkg/tuple"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/follow"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// Authority is the store of another server. It is safe for concurrent use.
type Authority struct {
	service deputyv1.FollowServiceClient
}

var _ follow.Authority = (*Authority)(nil)

// Open returns the authority behind a connection, which stays its owner's, and refuses a server that cannot be followed.
func Open(ctx context.Context, conn grpc.ClientConnInterface) (*Authority, error) {
	a := &Authority{service: deputyv1.NewFollowServiceClient(conn)}
	if _, err := a.Head(ctx); err != nil {
		return nil, err
	}
	return a, nil
}

// failure puts a status into follow's words, where there is one for it.
func failure(err error) error {
	st, ok := status.FromError(err)
	if !ok {
		return fmt.Errorf("follow: the other server: %w", err)
	}
	reason := ""
	for _, detail := range st.Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			reason = info.GetReason()
		}
	}
	switch {
	case st.Code() == codes.Canceled:
		return fmt.Errorf("follow: the other server: %w: %w", context.Canceled, err)
	case st.Code() == codes.DeadlineExceeded:
		return fmt.Errorf("follow: the other server: %w: %w", context.DeadlineExceeded, err)
	case st.Code() == codes.Unimplemented:
		return errors.New("follow: the server to follow is no Deputy, or one of a version that cannot be followed: name a Deputy server on the engine " +
			"embedded, of this version or a newer one")
	case st.Code() == codes.FailedPrecondition && reason == authz.ReasonOtherAuthority:
		return fmt.Errorf("%w: %.500s", follow.ErrOther, st.Message())
	case st.Code() == codes.OutOfRange && reason == authz.ReasonRevision:
		return fmt.Errorf("%w: %.500s", follow.ErrMissed, st.Message())
	case len(st.Message()) > 500:
		return fmt.Errorf("follow: the other server: %s: %.500s", st.Code(), st.Message())
	default:
		return fmt.Errorf("follow: the other server: %w", err)
	}
}

// tooMany reports whether a refusal says that more has changed than was asked for.
func tooMany(err error) bool {
	st, ok := status.FromError(err)
	if !ok || st.Code() != codes.ResourceExhausted {
		return false
	}
	return slices.ContainsFunc(st.Details(), func(detail any) bool {
		info, ok := detail.(*errdetails.ErrorInfo)
		return ok && info.GetReason() == authz.ReasonTooLarge
	})
}

// malformed is for an answer that no server of ours gives.
func malformed(what string) error {
	return fmt.Errorf("follow: the other server has sent %s", what)
}

// Head is follow.Authority's.
func (a *Authority) Head(ctx context.Context) (follow.Position, error) {
	resp, err := a.service.GetHead(ctx, &deputyv1.GetHeadRequest{})
	if err != nil {
		return follow.Position{}, failure(err)
	}
	head, ok := positionOf(resp.GetHead())
	if !ok {
		return follow.Position{}, malformed("no position")
	}
	return head, nil
}

// ChangesSince is follow.Authority's.
func (a *Authority) ChangesSince(ctx context.Context, from follow.Position, limit int) (follow.Changes, error) {
	at, ok := toWire(&from)
	if !ok {
		return follow.Changes{}, notOurs(&from)
	}
	var c follow.Changes
	first := true
	err := receive(ctx, func(ctx context.Context) (grpc.ServerStreamingClient[deputyv1.ReadChangesResponse], error) {
		return a.service.ReadChanges(ctx, &deputyv1.ReadChangesRequest{From: at, Limit: uint32(min(max(limit, 1), maxChanges))})
	}, func(part *deputyv1.ReadChangesResponse) (err error) {
		if first {
			if c.To, ok = positionOf(part.GetTo()); !ok || c.To.Authority != from.Authority || part.GetTo().GetRevision() < at.GetRevision() {
				return malformed("changes that do not lead on from the position")
			}
			c.Transactions = int(part.GetRevisions()) //nolint:gosec // a count
			first = false
		}
		if c.Written, err = relationshipsOf(c.Written, part.GetWritten()); err != nil {
			return err
		}
		if c.Deleted, err = relationshipsOf(c.Deleted, part.GetDeleted()); err != nil {
			return err
		}
		if len(c.Written) > limit || len(c.Deleted) > limit {
			return follow.ErrTooMany
		}
		c.DeletedTypes = append(c.DeletedTypes, part.GetDeletedTypes()...)
		c.DeletedCaveats = append(c.DeletedCaveats, part.GetDeletedCaveats()...)
		c.DeletedCounters = append(c.DeletedCounters, part.GetDeletedCounters()...)
		return add(&c.Definitions, part.GetDefinitions())
	})
	switch {
	case tooMany(err):
		err = fmt.Errorf("%w: %w", follow.ErrTooMany, err)
	case err == nil && first:
		err = malformed("no position")
	}
	if err != nil {
		return follow.Changes{}, err
	}
	return c, nil
}

func notOurs(p *follow.Position) error {
	return fmt.Errorf("%w: it is of %q, which is no Deputy store", follow.ErrOther, p.Authority)
}

// receive reads a stream to its end. A stream that does not end well has failed as a whole. It ends the call with fn's first error.
func receive[M any](ctx context.Context, begin func(context.Context) (grpc.ServerStreamingClient[M], error), fn func(*M) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := begin(ctx)
	if err != nil {
		return failure(err)
	}
	for {
		message, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return failure(err)
		}
		if err := fn(message); err != nil {
			return err
		}
	}
}

func relationshipsOf(to []tuple.Relationship, in []*deputyv1.FollowedRelationship) ([]tuple.Relationship, error) {
	for _, one := range in {
		rel, ok := relationshipOf(one)
		if !ok {
			return nil, malformed("a relationship that lacks a part")
		}
		to = append(to, rel)
	}
	return to, nil
}

// Revision is follow.Authority's: the revision in decimal, as SpiceDB prints it, an @, and the store's id, which SpiceDB's tokens carry beside it.
func (a *Authority) Revision(p follow.Position) (string, error) {
	at, ok := toWire(&p)
	if !ok {
		return "", notOurs(&p)
	}
	return p.State + "@" + at.GetStoreId(), nil
}

// Shows is follow.Authority's, of what Revision writes. A revision of another store is shown by none of this one's positions.
func (a *Authority) Shows(p follow.Position, revision string) (bool, error) {
	at, ok := toWire(&p)
	if !ok {
		return false, notOurs(&p)
	}
	number, store, _ := strings.Cut(revision, "@")
	asked, err := strconv.ParseUint(number, 10, 64)
	if err != nil || store == "" {
		return false, fmt.Errorf("follow: %q is no revision of a Deputy store", revision)
	}
	return store == at.GetStoreId() && asked <= at.GetRevision(), nil
}

// state is one position, which may be read for as long as the store's retention holds.
type state struct {
	authority *Authority
	position  follow.Position
}

// At is follow.Authority's.
func (a *Authority) At(p follow.Position) follow.State { return &state{a, p} }

// at is the position on the wire.
func (s *state) at() (*deputyv1.FollowedPosition, error) {
	at, ok := toWire(&s.position)
	if !ok {
		return nil, notOurs(&s.position)
	}
	return at, nil
}

// Definitions is follow.State's.
func (s *state) Definitions(ctx context.Context) (follow.Definitions, error) {
	at, err := s.at()
	if err != nil {
		return follow.Definitions{}, err
	}
	var d follow.Definitions
	err = receive(ctx, func(ctx context.Context) (grpc.ServerStreamingClient[deputyv1.ReadDefinitionsResponse], error) {
		return s.authority.service.ReadDefinitions(ctx, &deputyv1.ReadDefinitionsRequest{At: at})
	}, func(part *deputyv1.ReadDefinitionsResponse) error { return add(&d, part.GetDefinitions()) })
	if err != nil {
		return follow.Definitions{}, err
	}
	return d, nil
}

// Page is follow.State's.
func (s *state) Page(ctx context.Context, next string, limit int) (follow.Page, error) {
	at, err := s.at()
	if err != nil {
		return follow.Page{}, err
	}
	limit = min(max(limit, 1), maxPage)
	var page follow.Page
	err = receive(ctx, func(ctx context.Context) (grpc.ServerStreamingClient[deputyv1.ReadPageResponse], error) {
		return s.authority.service.ReadPage(ctx, &deputyv1.ReadPageRequest{At: at, After: next, Limit: uint32(limit)}) //nolint:gosec // bounded
	}, func(part *deputyv1.ReadPageResponse) (err error) {
		page.Next = part.GetNext()
		if page.Relationships, err = relationshipsOf(page.Relationships, part.GetRelationships()); err == nil && len(page.Relationships) > limit {
			err = malformed("more than was asked for")
		}
		return err
	})
	if err != nil {
		return follow.Page{}, err
	}
	return page, nil
}

// Digests is follow.State's.
func (s *state) Digests(ctx context.Context, moment time.Time) ([]follow.Digest, error) {
	at, err := s.at()
	if err != nil {
		return nil, err
	}
	var all []follow.Digest
	err = receive(ctx, func(ctx context.Context) (grpc.ServerStreamingClient[deputyv1.ReadDigestsResponse], error) {
		return s.authority.service.ReadDigests(ctx, &deputyv1.ReadDigestsRequest{At: at, Moment: timestamppb.New(moment)})
	}, func(part *deputyv1.ReadDigestsResponse) error {
		for _, d := range part.GetDigests() {
			if d.GetBucket().GetNumber() >= follow.Buckets {
				return malformed("a digest of no bucket")
			}
			all = append(all, follow.Digest{
				Bucket: follow.Bucket{Type: d.GetBucket().GetResourceType(), Number: int(d.GetBucket().GetNumber())}, Count: d.GetCount(), Sum: d.GetSum(),
			})
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return all, nil
}

// Of is follow.State's.
func (s *state) Of(ctx context.Context, refs []tuple.RelationshipReference) ([]tuple.Relationship, error) {
	at, err := s.at()
	if err != nil {
		return nil, err
	}
	var found []tuple.Relationship
	for some := range slices.Chunk(refs, maxRows) {
		asked := make([]*deputyv1.FollowedRelationship, len(some))
		for i := range some {
			asked[i] = relationshipToWire(&tuple.Relationship{RelationshipReference: some[i]})
		}
		err := receive(ctx, func(ctx context.Context) (grpc.ServerStreamingClient[deputyv1.ReadRowsResponse], error) {
			return s.authority.service.ReadRows(ctx, &deputyv1.ReadRowsRequest{At: at, Relationships: asked})
		}, func(part *deputyv1.ReadRowsResponse) (err error) {
			found, err = relationshipsOf(found, part.GetRelationships())
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return found, nil
}

// Bucket is follow.State's.
func (s *state) Bucket(ctx context.Context, b follow.Bucket, moment time.Time) ([]tuple.Relationship, error) {
	at, err := s.at()
	if err != nil {
		return nil, err
	}
	var found []tuple.Relationship
	err = receive(ctx, func(ctx context.Context) (grpc.ServerStreamingClient[deputyv1.ReadBucketResponse], error) {
		return s.authority.service.ReadBucket(ctx, &deputyv1.ReadBucketRequest{
			At: at, Bucket: &deputyv1.FollowedBucket{ResourceType: b.Type, Number: uint32(b.Number)}, Moment: timestamppb.New(moment), //nolint:gosec // small
		})
	}, func(part *deputyv1.ReadBucketResponse) (err error) {
		found, err = relationshipsOf(found, part.GetRelationships())
		return err
	})
	if err != nil {
		return nil, err
	}
	return found, nil
}
