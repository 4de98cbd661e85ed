package deputy

import (
	"strconv"
	"strings"

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

// The bounds of answers, in bytes.
const (
	// maxPart is about how large a message grows before the next one begins.
	maxPart = 512 << 10
	// maxMessage is the longest message: a part to which one relationship, or definition, was added. A server that can be followed takes messages of
	// 4 MiB, in which each of them has come.
	maxMessage = 16 << 20
	// maxPageBytes is about how much of relationships is in a page, as the store has them: the page ends with the one that comes to it.
	maxPageBytes = 8 << 20
	// maxChangesBytes is about how much has changed at most, likewise.
	maxChangesBytes = 48 << 20
	// maxWhole is the longest answer that is taken whole. It is longer than what has changed at most.
	maxWhole = 64 << 20
	// maxOverhead is about how much longer a message, or a relationship, is on the wire than in the store.
	maxOverhead = 64
	// maxPlace is the longest place where a page ends: the names of a relationship, in base64.
	maxPlace = 10 << 10
	// maxName is the longest name of anything, and maxStoreID the longest id of a store.
	maxName, maxStoreID = 1024, 64
)

// inNames are the bytes of names: of SpiceDB's ids, types, relations, caveats and counters.
var inNames = func() (in [256]bool) {
	for _, c := range []byte("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_/|-=+*") {
		in[c] = true
	}
	return in
}()

// nameless reports whether a text is the name of nothing. What SpiceDB takes of names is narrower for each kind of them; here it is that nothing has a
// meaning in a key, in a digest's text, or in a log.
func nameless(text string) bool {
	for i := range len(text) {
		if !inNames[text[i]] {
			return true
		}
	}
	return text == "" || len(text) > maxName
}

// isStoreID reports whether a text is the id of a store: a UUID, as stores have them today, or what is as harmless.
func isStoreID(text string) bool {
	for i := range len(text) {
		if c := text[i]; c != '-' && (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') {
			return false
		}
	}
	return text != "" && len(text) <= maxStoreID
}

// positionOf reads a position from the wire; ok is false for one that names no state.
func positionOf(p *deputyv1.FollowedPosition) (_ follow.Position, ok bool) {
	if !isStoreID(p.GetStoreId()) || p.GetRevision() == 0 || p.GetAt().CheckValid() != nil {
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
	if !ours || !isStoreID(id) || err != nil || revision == 0 {
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
	if nameless(in.GetResourceType()) || nameless(in.GetResourceId()) || nameless(in.GetRelation()) || nameless(in.GetSubjectType()) ||
		nameless(in.GetSubjectId()) {
		return tuple.Relationship{}, false
	}
	rel := tuple.Relationship{RelationshipReference: tuple.RelationshipReference{
		Resource: tuple.ObjectAndRelation{ObjectType: in.GetResourceType(), ObjectID: in.GetResourceId(), Relation: in.GetRelation()},
		Subject:  tuple.ObjectAndRelation{ObjectType: in.GetSubjectType(), ObjectID: in.GetSubjectId(), Relation: datastore.Ellipsis},
	}}
	if r := in.GetSubjectRelation(); r != "" {
		if nameless(r) {
			return tuple.Relationship{}, false
		}
		rel.Subject.Relation = r
	}
	if name := in.GetCaveatName(); name != "" {
		if nameless(name) {
			return tuple.Relationship{}, false
		}
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
	GetName() string
}](to []P, encoded [][]byte) ([]P, error) {
	for _, text := range encoded {
		d := P(new(D))
		if err := proto.Unmarshal(text, d); err != nil {
			return nil, err
		}
		if nameless(d.GetName()) {
			return nil, malformed("a definition that has no name, or one that is none")
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
		if nameless(c.GetName()) {
			return malformed("a counter that has no name, or one that is none")
		}
		to.Counters = append(to.Counters, follow.Counter{Name: c.GetName(), Filter: filter})
	}
	return nil
}
