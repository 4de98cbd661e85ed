package deputy

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/authzed/spicedb/pkg/datastore"
	core "github.com/authzed/spicedb/pkg/proto/core/v1"
	"github.com/authzed/spicedb/pkg/tuple"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/deputyauth/deputy/pkg/follow"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// identityPrefix begins the identity of a store, before its id.
const identityPrefix = "Deputy store "

// positionOf reads a position from the wire; ok is false for one that names no state.
func positionOf(p *deputyv1.FollowedPosition) (_ follow.Position, ok bool) {
	if p.GetStoreId() == "" || p.GetRevision() == 0 || p.GetAt().CheckValid() != nil {
		return follow.Position{}, false
	}
	return follow.Position{
		Authority: follow.Identity(identityPrefix + p.GetStoreId()), State: strconv.FormatUint(p.GetRevision(), 10), At: p.GetAt().AsTime(),
	}, true
}

// Is reports whether a position is one of a Deputy store.
func Is(p follow.Position) bool {
	_, ok := toWire(&p)
	return ok
}

// toWire is the inverse of positionOf; ok is false for a position of another kind of authority.
func toWire(p *follow.Position) (_ *deputyv1.FollowedPosition, ok bool) {
	id, ours := strings.CutPrefix(string(p.Authority), identityPrefix)
	revision, err := strconv.ParseUint(p.State, 10, 64)
	if !ours || id == "" || err != nil || revision == 0 {
		return nil, false
	}
	return &deputyv1.FollowedPosition{StoreId: id, Revision: revision, At: timestamppb.New(p.At)}, true
}

// relationshipToWire writes a relationship.
func relationshipToWire(rel *tuple.Relationship) *deputyv1.FollowedRelationship {
	out := &deputyv1.FollowedRelationship{
		ResourceType: rel.Resource.ObjectType, ResourceId: rel.Resource.ObjectID, Relation: rel.Resource.Relation,
		SubjectType: rel.Subject.ObjectType, SubjectId: rel.Subject.ObjectID,
	}
	if rel.Subject.Relation != datastore.Ellipsis {
		out.SubjectRelation = rel.Subject.Relation
	}
	if c := rel.OptionalCaveat; c.GetCaveatName() != "" {
		out.CaveatName, out.CaveatContext = c.GetCaveatName(), c.GetContext()
	}
	if at := rel.OptionalExpiration; at != nil {
		out.ExpiresAt = timestamppb.New(*at)
	}
	return out
}

// relationshipOf reads one; ok is false for what no store has.
func relationshipOf(in *deputyv1.FollowedRelationship) (_ tuple.Relationship, ok bool) {
	if slices.Contains([]string{in.GetResourceType(), in.GetResourceId(), in.GetRelation(), in.GetSubjectType(), in.GetSubjectId()}, "") {
		return tuple.Relationship{}, false
	}
	rel := tuple.Relationship{RelationshipReference: tuple.RelationshipReference{
		Resource: tuple.ObjectAndRelation{ObjectType: in.GetResourceType(), ObjectID: in.GetResourceId(), Relation: in.GetRelation()},
		Subject:  tuple.ObjectAndRelation{ObjectType: in.GetSubjectType(), ObjectID: in.GetSubjectId(), Relation: datastore.Ellipsis},
	}}
	if r := in.GetSubjectRelation(); r != "" {
		rel.Subject.Relation = r
	}
	if name := in.GetCaveatName(); name != "" {
		given := in.GetCaveatContext()
		if given == nil {
			given = &structpb.Struct{}
		}
		rel.OptionalCaveat = &core.ContextualizedCaveat{CaveatName: name, Context: given}
	}
	if in.GetExpiresAt() != nil {
		if in.GetExpiresAt().CheckValid() != nil {
			return tuple.Relationship{}, false
		}
		at := in.GetExpiresAt().AsTime()
		rel.OptionalExpiration = &at
	}
	return rel, true
}

// sizeOf is about how many bytes a relationship takes on the wire.
func sizeOf(rel *tuple.Relationship) int {
	const fields, times = 24, 24
	n := fields + times + len(rel.Resource.ObjectType) + len(rel.Resource.ObjectID) + len(rel.Resource.Relation) +
		len(rel.Subject.ObjectType) + len(rel.Subject.ObjectID) + len(rel.Subject.Relation)
	if c := rel.OptionalCaveat; c != nil {
		n += len(c.GetCaveatName()) + proto.Size(c.GetContext())
	}
	return n
}

// encoded returns definitions as SpiceDB stores them. Equal ones have equal encodings.
func encoded[D proto.Message](definitions []D) ([][]byte, error) {
	all := make([][]byte, 0, len(definitions))
	for _, d := range definitions {
		text, err := proto.MarshalOptions{Deterministic: true}.Marshal(d)
		if err != nil {
			return nil, err
		}
		all = append(all, text)
	}
	return all, nil
}

// decoded appends the definitions that are encoded. They are decoded by Google's code, which bounds how deep messages lie within each other: the
// generated code that SpiceDB uses does not, and ends the process.
func decoded[D any, P interface {
	*D
	proto.Message
}](to []P, encoded [][]byte) ([]P, error) {
	for _, text := range encoded {
		d := P(new(D))
		if err := proto.Unmarshal(text, d); err != nil {
			return nil, err
		}
		to = append(to, d)
	}
	return to, nil
}

// add appends definitions from the wire.
func add(to *follow.Definitions, in *deputyv1.FollowedDefinitions) (err error) {
	if to.Types, err = decoded(to.Types, in.GetTypes()); err != nil {
		return err
	}
	if to.Caveats, err = decoded(to.Caveats, in.GetCaveats()); err != nil {
		return err
	}
	for _, c := range in.GetCounters() {
		filter := &core.RelationshipFilter{}
		if err := proto.Unmarshal(c.GetFilter(), filter); err != nil {
			return err
		}
		to.Counters = append(to.Counters, follow.Counter{Name: c.GetName(), Filter: filter})
	}
	return nil
}

// lives reports whether a relationship lives at a moment.
func lives(rel *tuple.Relationship, moment time.Time) bool {
	return rel.OptionalExpiration == nil || rel.OptionalExpiration.After(moment)
}
