package deputy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"time"

	"github.com/authzed/spicedb/pkg/tuple"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
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

// ErrOtherKey says that the server to follow has another token key.
var ErrOtherKey = errors.New("follow: the server to follow has another token key: both would refuse each other's tokens, and make two delegations of one " +
	"that is asked for again; give both the same --token-key-file")

// Open returns the authority behind a connection, which stays its owner's, and refuses a server that cannot be followed.
func Open(ctx context.Context, conn grpc.ClientConnInterface) (*Authority, error) {
	a := &Authority{service: deputyv1.NewFollowServiceClient(bounded{conn})}
	if _, err := a.Head(ctx); err != nil {
		return nil, err
	}
	return a, nil
}

// SameKey refuses a server with another token key than the one with a mark; see Server.Keyed. A mark of 0 on either side compares nothing. Errors:
// ErrOtherKey.
func (a *Authority) SameKey(ctx context.Context, mark int32) error {
	resp, _, err := a.head(ctx)
	if err != nil {
		return err
	}
	if theirs := resp.GetTokenKeyMark(); theirs != 0 && mark != 0 && theirs != mark {
		return ErrOtherKey
	}
	return nil
}

// bounded is a connection whose messages are no longer than those of a server that can be followed.
type bounded struct{ grpc.ClientConnInterface }

// Invoke is grpc.ClientConnInterface's.
func (b bounded) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	return b.ClientConnInterface.Invoke(ctx, method, args, reply, append(opts, grpc.MaxCallRecvMsgSize(maxMessage))...)
}

// NewStream is grpc.ClientConnInterface's.
func (b bounded) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	return b.ClientConnInterface.NewStream(ctx, desc, method, append(opts, grpc.MaxCallRecvMsgSize(maxMessage))...)
}

// maxSaid is how much is kept of what the other server says of a failure, in bytes: it goes into logs.
const maxSaid = 500

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
	// What it says is quoted, and its status is not passed on: both are as long as the other server likes.
	said := fmt.Sprintf("%s: %.*s", st.Code(), maxSaid, st.Message())
	switch {
	case st.Code() == codes.Canceled:
		return fmt.Errorf("follow: the other server: %w: %s", context.Canceled, said)
	case st.Code() == codes.DeadlineExceeded:
		return fmt.Errorf("follow: the other server: %w: %s", context.DeadlineExceeded, said)
	case st.Code() == codes.Unimplemented:
		return errors.New("follow: the server to follow is no Deputy, or one of a version that cannot be followed: name a Deputy server on the engine " +
			"embedded, of this version or a newer one")
	case st.Code() == codes.FailedPrecondition && reason == authz.ReasonOtherAuthority:
		return fmt.Errorf("%w: %s", follow.ErrOther, said)
	case st.Code() == codes.OutOfRange && reason == authz.ReasonRevision:
		return fmt.Errorf("%w: %s", follow.ErrMissed, said)
	case st.Code() == codes.ResourceExhausted && reason == authz.ReasonTooLarge:
		return fmt.Errorf("%w: %s", follow.ErrTooMany, said)
	default:
		return fmt.Errorf("follow: the other server: %s", said)
	}
}

// malformed is for an answer that no server of ours gives.
func malformed(what string) error {
	return fmt.Errorf("follow: the other server has sent %s", what)
}

// Head is follow.Authority's.
func (a *Authority) Head(ctx context.Context) (follow.Position, error) {
	_, head, err := a.head(ctx)
	return head, err
}

func (a *Authority) head(ctx context.Context) (*deputyv1.GetHeadResponse, follow.Position, error) {
	ctx, cancel := context.WithTimeout(ctx, headTime)
	defer cancel()
	resp, err := a.service.GetHead(ctx, &deputyv1.GetHeadRequest{})
	if err != nil {
		return nil, follow.Position{}, failure(err)
	}
	head, ok := positionOf(resp.GetHead())
	if !ok {
		return nil, follow.Position{}, malformed("no position")
	}
	return resp, head, nil
}

// ChangesSince is follow.Authority's.
func (a *Authority) ChangesSince(ctx context.Context, from follow.Position, limit int) (follow.Changes, error) {
	at, ok := toWire(&from)
	if !ok {
		return follow.Changes{}, notOurs(&from)
	}
	limit = min(max(limit, 1), maxChanges)
	var c follow.Changes
	first := true
	err := receive(ctx, maxWhole+2*limit*maxOverhead, func(ctx context.Context) (grpc.ServerStreamingClient[deputyv1.ReadChangesResponse], error) {
		return a.service.ReadChanges(ctx, &deputyv1.ReadChangesRequest{From: at, Limit: uint32(limit)}) //nolint:gosec // bounded
	}, func(part *deputyv1.ReadChangesResponse) (err error) {
		if first {
			if c.To, ok = positionOf(part.GetTo()); !ok || c.To.Authority != from.Authority || part.GetTo().GetRevision() < at.GetRevision() {
				return malformed("changes that do not lead on from the position")
			}
			c.Transactions = int(min(part.GetRevisions(), math.MaxInt32))
			first = false
		}
		if c.Written, err = relationshipsOf(c.Written, part.GetWritten(), limit); err != nil {
			return err
		}
		if c.Deleted, err = relationshipsOf(c.Deleted, part.GetDeleted(), limit); err != nil {
			return err
		}
		for _, names := range []struct {
			to *[]string
			in []string
		}{
			{&c.DeletedTypes, part.GetDeletedTypes()}, {&c.DeletedCaveats, part.GetDeletedCaveats()}, {&c.DeletedCounters, part.GetDeletedCounters()},
		} {
			if !slices.ContainsFunc(names.in, nameless) {
				*names.to = append(*names.to, names.in...)
				continue
			}
			return malformed("the name of a definition that is none")
		}
		return add(&c.Definitions, part.GetDefinitions())
	})
	if err == nil && first {
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

const (
	// answerTime is how long an answer may take: a server that can be followed ends its streams then.
	answerTime = 10 * time.Minute
	// headTime is how long the head may take, which is one short message.
	headTime = time.Minute
)

// message is a message of a stream of M.
type message[M any] interface {
	*M
	proto.Message
}

// errEnough is an error with which a stream has been read as far as it is needed.
var errEnough = errors.New("follow: nothing more is needed")

// receive reads a stream to its end, or until fn returns errEnough. A stream that does not end well has failed as a whole. It ends the call with fn's
// first error, and where the answer has more bytes than are asked for: an empty message counts too. So neither an answer nor the time that it takes
// grows as the other server likes.
func receive[M any, P message[M]](
	ctx context.Context, most int, begin func(context.Context) (grpc.ServerStreamingClient[M], error), fn func(P) error,
) error {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	stream, err := begin(ctx)
	if err != nil {
		return failure(err)
	}
	for {
		part, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return failure(err)
		}
		if most -= maxOverhead + proto.Size(P(part)); most < 0 {
			return malformed("an answer that is longer than one to the question can be")
		}
		if err := fn(part); err != nil {
			if errors.Is(err, errEnough) {
				return nil
			}
			return err
		}
	}
}

// relationshipsOf appends relationships from the wire to a list that may have so many.
func relationshipsOf(to []tuple.Relationship, in []*deputyv1.FollowedRelationship, limit int) ([]tuple.Relationship, error) {
	if len(to)+len(in) > limit {
		return nil, malformed("more relationships than were asked for")
	}
	for _, one := range in {
		rel, ok := relationshipOf(one)
		if !ok {
			return nil, errNoRelationship()
		}
		to = append(to, rel)
	}
	return to, nil
}

func errNoRelationship() error {
	return malformed("a relationship that lacks a part, or has a name that is none")
}

// Revision is follow.Authority's: an authz.StoreRevision, whose number SpiceDB prints likewise, and whose id SpiceDB's tokens carry beside it.
func (a *Authority) Revision(p follow.Position) (string, error) {
	at, ok := toWire(&p)
	if !ok {
		return "", notOurs(&p)
	}
	return authz.StoreRevision{Number: at.GetRevision(), Store: at.GetStoreId()}.String(), nil
}

// Shows is follow.Authority's, of what Revision writes. A revision of another store is shown by none of this one's positions.
func (a *Authority) Shows(p follow.Position, revision string) (bool, error) {
	at, ok := toWire(&p)
	if !ok {
		return false, notOurs(&p)
	}
	asked, ok := authz.ParseStoreRevision(revision)
	if !ok {
		return false, fmt.Errorf("follow: %q is no revision of a Deputy store", revision)
	}
	return asked.Store == at.GetStoreId() && asked.Number <= at.GetRevision(), nil
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
	err = receive(ctx, maxWhole, func(ctx context.Context) (grpc.ServerStreamingClient[deputyv1.ReadDefinitionsResponse], error) {
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
	most := maxPageBytes + maxMessage + limit*maxOverhead
	err = receive(ctx, most, func(ctx context.Context) (grpc.ServerStreamingClient[deputyv1.ReadPageResponse], error) {
		return s.authority.service.ReadPage(ctx, &deputyv1.ReadPageRequest{At: at, After: next, Limit: uint32(limit)}) //nolint:gosec // bounded
	}, func(part *deputyv1.ReadPageResponse) (err error) {
		if page.Next = part.GetNext(); len(page.Next) > maxPlace {
			return malformed("a place where a page ends that is longer than a place")
		}
		page.Relationships, err = relationshipsOf(page.Relationships, part.GetRelationships(), limit)
		return err
	})
	if err != nil {
		return follow.Page{}, err
	}
	return page, nil
}

// Digests is follow.State's. There is no more than one of each bucket of the types that the state has.
func (s *state) Digests(ctx context.Context, moment time.Time) ([]follow.Digest, error) {
	at, err := s.at()
	if err != nil {
		return nil, err
	}
	definitions, err := s.Definitions(ctx)
	if err != nil {
		return nil, err
	}
	// seen are the buckets of each type of which there was a digest.
	seen := make(map[string]*[follow.Buckets]bool, len(definitions.Types))
	for _, d := range definitions.Types {
		seen[d.GetName()] = &[follow.Buckets]bool{}
	}
	var all []follow.Digest
	err = receive(ctx, maxWhole, func(ctx context.Context) (grpc.ServerStreamingClient[deputyv1.ReadDigestsResponse], error) {
		return s.authority.service.ReadDigests(ctx, &deputyv1.ReadDigestsRequest{At: at, Moment: timestamppb.New(moment)})
	}, func(part *deputyv1.ReadDigestsResponse) error {
		for _, d := range part.GetDigests() {
			buckets, number := seen[d.GetBucket().GetResourceType()], d.GetBucket().GetNumber()
			if buckets == nil || number >= follow.Buckets || buckets[number] {
				return malformed("a digest of a type that it does not define, of a bucket that there is not, or of one that it has sent before")
			}
			buckets[number] = true
			all = append(all, follow.Digest{
				Bucket: follow.Bucket{Type: d.GetBucket().GetResourceType(), Number: int(number)}, Count: d.GetCount(), Sum: d.GetSum(),
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
		before := len(found)
		err := receive(ctx, maxWhole, func(ctx context.Context) (grpc.ServerStreamingClient[deputyv1.ReadRowsResponse], error) {
			return s.authority.service.ReadRows(ctx, &deputyv1.ReadRowsRequest{At: at, Relationships: asked})
		}, func(part *deputyv1.ReadRowsResponse) (err error) {
			found, err = relationshipsOf(found, part.GetRelationships(), before+len(some))
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return found, nil
}

// Bucket is follow.State's.
func (s *state) Bucket(ctx context.Context, b follow.Bucket, moment time.Time, limit int, fn func(*tuple.Relationship) error) error {
	at, err := s.at()
	if err != nil {
		return err
	}
	n := 0
	// Nothing is kept of it here, so it has no bound but the limit, and that each message has something.
	return receive(ctx, math.MaxInt, func(ctx context.Context) (grpc.ServerStreamingClient[deputyv1.ReadBucketResponse], error) {
		return s.authority.service.ReadBucket(ctx, &deputyv1.ReadBucketRequest{
			At: at, Bucket: &deputyv1.FollowedBucket{ResourceType: b.Type, Number: uint32(b.Number)}, Moment: timestamppb.New(moment), //nolint:gosec // small
		})
	}, func(part *deputyv1.ReadBucketResponse) error {
		if len(part.GetRelationships()) == 0 {
			return malformed("a part of a bucket with nothing in it")
		}
		for _, one := range part.GetRelationships() {
			if n == limit {
				return errEnough
			}
			n++
			rel, ok := relationshipOf(one)
			if !ok {
				return errNoRelationship()
			}
			if follow.BucketOf(&rel) != b {
				return malformed("a relationship of another bucket than was asked for")
			}
			if err := fn(&rel); err != nil {
				return err
			}
		}
		return nil
	})
}
