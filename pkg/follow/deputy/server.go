package deputy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/authzed/spicedb/pkg/datastore"
	core "github.com/authzed/spicedb/pkg/proto/core/v1"
	"github.com/authzed/spicedb/pkg/tuple"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/follow"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/pkg/store"
	"github.com/deputyauth/deputy/pkg/turns"
)

// The bounds of requests.
const (
	maxChanges = 200_000
	maxPage    = 50_000
	maxRows    = 1000
	// rowsAtOnce is how many of those are read before they are sent: any of them may be as large as a message.
	rowsAtOnce = 8
	// atOnce is how many readings that walk many relationships one follower has under way at once.
	atOnce = 4
	// patience is how long one waits for its turn.
	patience = 30 * time.Second
)

// Server answers followers from a store. It is safe for concurrent use.
type Server struct {
	deputyv1.UnimplementedFollowServiceServer

	store *store.Store
	id    string
	now   func() time.Time
	// keyMark is told to those that follow; see Keyed.
	keyMark int32
	// readings are those that walk many relationships, and changes those of changes, for which decisions wait.
	readings, changes *turns.Set
}

// NewServer returns the service over a store, which stays its owner's.
func NewServer(ctx context.Context, s *store.Store) (*Server, error) {
	id, err := s.UniqueID(ctx)
	if err != nil {
		return nil, err
	}
	return &Server{store: s, id: id, now: time.Now, readings: turns.New("readings for followers", atOnce),
		changes: turns.New("changes for followers", atOnce),
	}, nil
}

// Keyed has the service tell a mark of the server's token key, so that no server with another key follows it. It is to be called before the service answers.
func (s *Server) Keyed(mark int32) { s.keyMark = mark }

// at is what a revision is called on the wire. before is a moment at which the revision was the head, or had not been made.
func (s *Server) at(revision store.Revision, before time.Time) *deputyv1.FollowedPosition {
	return &deputyv1.FollowedPosition{StoreId: s.id, Revision: uint64(revision), At: timestamppb.New(before)}
}

// revision reads a position of a request.
func (s *Server) revision(field string, p *deputyv1.FollowedPosition) (store.Revision, error) {
	switch {
	case !isStoreID(p.GetStoreId()):
		return 0, authz.FieldErrorf(field+".store_id", "is %.80q; the id of a store has 1 to %d letters, digits and hyphens: send a position that this "+
			"service has returned", p.GetStoreId(), maxStoreID)
	case p.GetRevision() == 0:
		return 0, authz.FieldErrorf(field+".revision", "is 0: send a position that this service has returned")
	case p.GetStoreId() != s.id:
		return 0, authz.Errorf(authz.Precondition, authz.ReasonOtherAuthority,
			"the position is of the store %q, and this is the store %q: make the copy anew", p.GetStoreId(), s.id)
	}
	return store.Revision(p.GetRevision()), nil
}

// refusal puts an error of the store's into the words of the service.
func refusal(err error) error {
	var invalid datastore.InvalidRevisionError
	switch {
	case err == nil:
		return nil
	case errors.Is(err, store.ErrNotReached):
		out := authz.Errorf(authz.Precondition, authz.ReasonOtherAuthority, "this store has never been at the position: it was put back to an older state; "+
			"make the copy anew")
		out.Err = err
		return out
	case errors.Is(err, store.ErrTooMany):
		out := authz.Errorf(authz.Exhausted, authz.ReasonTooLarge, "more has changed since the position than the limit, or than %d MiB: make the copy anew",
			maxChangesBytes>>20)
		out.Err = err
		return out
	case errors.Is(err, store.ErrNoPlace):
		return authz.FieldErrorf("after", "is no place where a page ended")
	case errors.As(err, &invalid):
		kind, reason, says := authz.OutOfRange, authz.ReasonRevision, "the position has left the store's retention: make the copy anew"
		if invalid.Reason() != datastore.RevisionStale {
			kind, reason, says = authz.Precondition, authz.ReasonOtherAuthority, "this store has never been at the position: make the copy anew"
		}
		out := authz.Errorf(kind, reason, "%s", says)
		out.Err = err
		return out
	default:
		out := authz.Errorf(authz.Unavailable, authz.ReasonEngineUnavailable, "the store cannot be read; the server's log says why")
		out.Err = err
		return out
	}
}

// GetHead is deputyv1.FollowServiceServer's.
func (s *Server) GetHead(context.Context, *deputyv1.GetHeadRequest) (*deputyv1.GetHeadResponse, error) {
	before := s.now()
	head, err := s.store.Head()
	if err != nil {
		return nil, refusal(err)
	}
	return &deputyv1.GetHeadResponse{Head: s.at(head, before), TokenKeyMark: s.keyMark}, nil
}

// ReadChanges is deputyv1.FollowServiceServer's.
func (s *Server) ReadChanges(req *deputyv1.ReadChangesRequest, stream grpc.ServerStreamingServer[deputyv1.ReadChangesResponse]) error {
	from, err := s.revision("from", req.GetFrom())
	if err != nil {
		return err
	}
	limit := int(req.GetLimit())
	if limit < 1 || limit > maxChanges {
		return authz.FieldErrorf("limit", "is %d; it can be 1 to %d", limit, maxChanges)
	}
	before := s.now()
	head, err := s.store.Head()
	if err != nil {
		return refusal(err)
	}
	if head != from {
		turn, err := s.changes.Take(stream.Context(), 1, patience)
		if err != nil {
			return err
		}
		defer turn.Give()
	}
	c, err := s.store.ChangesSince(stream.Context(), from, limit, maxChangesBytes)
	if err != nil {
		return refusal(err)
	}
	definitions, err := definitionsOf(c.Types, c.Caveats, c.Counters)
	if err != nil {
		return err
	}
	for i, part := range definitions {
		message := &deputyv1.ReadChangesResponse{Definitions: part}
		if i == 0 {
			message.To, message.Revisions = s.at(c.To, before), uint64(c.Revisions) //nolint:gosec // a count
			message.DeletedTypes, message.DeletedCaveats, message.DeletedCounters = c.DeletedTypes, c.DeletedCaveats, c.DeletedCounters
		}
		if err := stream.Send(message); err != nil {
			return err
		}
	}
	if err := inParts(c.Written, func(part []*deputyv1.FollowedRelationship) error {
		return stream.Send(&deputyv1.ReadChangesResponse{Written: part})
	}); err != nil {
		return err
	}
	return inParts(c.Deleted, func(part []*deputyv1.FollowedRelationship) error {
		return stream.Send(&deputyv1.ReadChangesResponse{Deleted: part})
	})
}

// definitionsOf cuts definitions into parts, at least one.
func definitionsOf(
	types []*core.NamespaceDefinition, caveats []*core.CaveatDefinition, counters []datastore.RelationshipCounter,
) ([]*deputyv1.FollowedDefinitions, error) {
	part, size := &deputyv1.FollowedDefinitions{}, 0
	var full []*deputyv1.FollowedDefinitions
	grow := func(by int) {
		if size > 0 && size+by > maxPart {
			full = append(full, part)
			part, size = &deputyv1.FollowedDefinitions{}, 0
		}
		size += by
	}
	encodedTypes, err := encoded(types)
	if err != nil {
		return nil, err
	}
	for _, text := range encodedTypes {
		grow(len(text))
		part.Types = append(part.Types, text)
	}
	encodedCaveats, err := encoded(caveats)
	if err != nil {
		return nil, err
	}
	for _, text := range encodedCaveats {
		grow(len(text))
		part.Caveats = append(part.Caveats, text)
	}
	for _, c := range counters {
		filter, err := encoded([]*core.RelationshipFilter{c.Filter})
		if err != nil {
			return nil, err
		}
		grow(len(c.Name) + len(filter[0]))
		part.Counters = append(part.Counters, &deputyv1.FollowedCounter{Name: c.Name, Filter: filter[0]})
	}
	return append(full, part), nil
}

// part is what of relationships goes into one message.
type part struct {
	relationships []*deputyv1.FollowedRelationship
	size          int
	send          func([]*deputyv1.FollowedRelationship) error
}

// add adds a relationship, and sends what there is once that is enough.
func (p *part) add(rel *tuple.Relationship) error {
	p.relationships = append(p.relationships, relationshipToWire(rel))
	if p.size += sizeOf(rel); p.size < maxPart {
		return nil
	}
	return p.flush()
}

// flush sends what there is.
func (p *part) flush() error {
	if len(p.relationships) == 0 {
		return nil
	}
	err := p.send(p.relationships)
	p.relationships, p.size = nil, 0
	return err
}

// all adds relationships.
func (p *part) all(all []tuple.Relationship) error {
	for i := range all {
		if err := p.add(&all[i]); err != nil {
			return err
		}
	}
	return nil
}

// inParts sends relationships in messages that are not large.
func inParts(all []tuple.Relationship, send func([]*deputyv1.FollowedRelationship) error) error {
	p := part{send: send}
	if err := p.all(all); err != nil {
		return err
	}
	return p.flush()
}

// ReadDefinitions is deputyv1.FollowServiceServer's.
func (s *Server) ReadDefinitions(req *deputyv1.ReadDefinitionsRequest, stream grpc.ServerStreamingServer[deputyv1.ReadDefinitionsResponse]) error {
	at, err := s.revision("at", req.GetAt())
	if err != nil {
		return err
	}
	types, caveats, err := s.store.Definitions(at)
	if err != nil {
		return refusal(err)
	}
	counters, err := s.store.SnapshotReader(at).LookupCounters(stream.Context())
	if err != nil {
		return refusal(err)
	}
	definitions, err := definitionsOf(types, caveats, counters)
	if err != nil {
		return err
	}
	for _, part := range definitions {
		if err := stream.Send(&deputyv1.ReadDefinitionsResponse{Definitions: part}); err != nil {
			return err
		}
	}
	return nil
}

// ReadPage is deputyv1.FollowServiceServer's.
func (s *Server) ReadPage(req *deputyv1.ReadPageRequest, stream grpc.ServerStreamingServer[deputyv1.ReadPageResponse]) error {
	at, err := s.revision("at", req.GetAt())
	if err != nil {
		return err
	}
	limit := int(req.GetLimit())
	if limit < 1 || limit > maxPage {
		return authz.FieldErrorf("limit", "is %d; it can be 1 to %d", limit, maxPage)
	}
	turn, err := s.readings.Take(stream.Context(), 1, patience)
	if err != nil {
		return err
	}
	defer turn.Give()
	found, next, err := s.store.Page(stream.Context(), at, req.GetAfter(), limit, maxPageBytes)
	if err != nil {
		return refusal(err)
	}
	if err := inParts(found, func(part []*deputyv1.FollowedRelationship) error {
		return stream.Send(&deputyv1.ReadPageResponse{Relationships: part})
	}); err != nil {
		return err
	}
	return stream.Send(&deputyv1.ReadPageResponse{Next: next})
}

// ReadRows is deputyv1.FollowServiceServer's.
func (s *Server) ReadRows(req *deputyv1.ReadRowsRequest, stream grpc.ServerStreamingServer[deputyv1.ReadRowsResponse]) error {
	at, err := s.revision("at", req.GetAt())
	if err != nil {
		return err
	}
	if n := len(req.GetRelationships()); n < 1 || n > maxRows {
		return authz.FieldErrorf("relationships", "are %d; there can be 1 to %d", n, maxRows)
	}
	refs := make([]tuple.RelationshipReference, len(req.GetRelationships()))
	for i, asked := range req.GetRelationships() {
		rel, ok := relationshipOf(asked)
		if !ok {
			return authz.FieldErrorf(fmt.Sprintf("relationships[%d]", i), "is no relationship: name types, ids and the relation")
		}
		refs[i] = rel.RelationshipReference
	}
	p := part{send: func(part []*deputyv1.FollowedRelationship) error {
		return stream.Send(&deputyv1.ReadRowsResponse{Relationships: part})
	}}
	for some := range slices.Chunk(refs, rowsAtOnce) {
		found, err := s.store.RowsOf(stream.Context(), at, some)
		if err != nil {
			return refusal(err)
		}
		if err := p.all(found); err != nil {
			return err
		}
	}
	return p.flush()
}

// living calls fn with the relationships of a type, or of all, that live at a moment.
func (s *Server) living(ctx context.Context, at store.Revision, resourceType string, moment time.Time, fn func(*tuple.Relationship) error) error {
	turn, err := s.readings.Take(ctx, 1, patience)
	if err != nil {
		return err
	}
	defer turn.Give()
	var sending error
	err = s.store.Each(ctx, at, resourceType, func(rel tuple.Relationship) error {
		if follow.Lives(&rel, moment) {
			sending = fn(&rel)
		}
		return sending
	})
	if sending != nil {
		return sending
	}
	return refusal(err)
}

// momentOf reads the moment of a request.
func momentOf(t *timestamppb.Timestamp) (time.Time, error) {
	if err := t.CheckValid(); err != nil {
		return time.Time{}, authz.FieldErrorf("moment", "is no time: send a moment within the store's retention")
	}
	return t.AsTime(), nil
}

// digestsInPart is how many digests are in a message.
const digestsInPart = 4096

// ReadDigests is deputyv1.FollowServiceServer's. It reads all relationships.
func (s *Server) ReadDigests(req *deputyv1.ReadDigestsRequest, stream grpc.ServerStreamingServer[deputyv1.ReadDigestsResponse]) error {
	at, err := s.revision("at", req.GetAt())
	if err != nil {
		return err
	}
	moment, err := momentOf(req.GetMoment())
	if err != nil {
		return err
	}
	digests := map[follow.Bucket]*follow.Digest{}
	if err := s.living(stream.Context(), at, "", moment, func(rel *tuple.Relationship) error {
		b := follow.BucketOf(rel)
		d := digests[b]
		if d == nil {
			d = &follow.Digest{Bucket: b}
			digests[b] = d
		}
		d.Add(rel)
		return nil
	}); err != nil {
		return err
	}
	message := &deputyv1.ReadDigestsResponse{}
	for b, d := range digests {
		message.Digests = append(message.Digests, &deputyv1.FollowedDigest{
			Bucket: &deputyv1.FollowedBucket{ResourceType: b.Type, Number: uint32(b.Number)}, Count: d.Count, Sum: d.Sum, //nolint:gosec // below 256
		})
		if len(message.GetDigests()) == digestsInPart {
			if err := stream.Send(message); err != nil {
				return err
			}
			message = &deputyv1.ReadDigestsResponse{}
		}
	}
	return stream.Send(message)
}

// ReadBucket is deputyv1.FollowServiceServer's. It reads all relationships of the type.
func (s *Server) ReadBucket(req *deputyv1.ReadBucketRequest, stream grpc.ServerStreamingServer[deputyv1.ReadBucketResponse]) error {
	at, err := s.revision("at", req.GetAt())
	if err != nil {
		return err
	}
	moment, err := momentOf(req.GetMoment())
	if err != nil {
		return err
	}
	wanted := follow.Bucket{Type: req.GetBucket().GetResourceType(), Number: int(req.GetBucket().GetNumber())}
	switch {
	case nameless(wanted.Type):
		return authz.FieldErrorf("bucket.resource_type", "is no type of objects")
	case wanted.Number >= follow.Buckets:
		return authz.FieldErrorf("bucket.number", "is %d; it can be 0 to %d", wanted.Number, follow.Buckets-1)
	}
	p := part{send: func(part []*deputyv1.FollowedRelationship) error {
		return stream.Send(&deputyv1.ReadBucketResponse{Relationships: part})
	}}
	if err := s.living(stream.Context(), at, wanted.Type, moment, func(rel *tuple.Relationship) error {
		if follow.BucketOf(rel) != wanted {
			return nil
		}
		return p.add(rel)
	}); err != nil {
		return err
	}
	return p.flush()
}
