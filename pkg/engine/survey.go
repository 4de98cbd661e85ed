package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"github.com/authzed/spicedb/pkg/datalayer"
	"github.com/authzed/spicedb/pkg/datastore"
	"github.com/authzed/spicedb/pkg/datastore/options"
	"github.com/authzed/spicedb/pkg/datastore/queryshape"
	"github.com/authzed/spicedb/pkg/middleware/consistency"
	core "github.com/authzed/spicedb/pkg/proto/core/v1"
	"github.com/authzed/spicedb/pkg/tuple"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/deputyauth/deputy/pkg/schema"
	"github.com/deputyauth/deputy/pkg/statuses"
)

// LookupSubjects and ExpandPermissionTree are surveyed before SpiceDB works on them, because what SpiceDB keeps of them has
// no bound in what it reads. It keeps a subject once for each way that leads to it, and a tree's branch likewise: five
// relationships between two groups that are members of each other are enough for 2^50 ways. A caveat on a way is copied
// with each. And where a wildcard meets other subjects it copies the wildcard's caveats, or its exclusions, for each of them.
//
// The survey reads each relation of each object once, at the revision of the call, and then counts, without walking the
// ways (see internal/graph/lookupsubjects.go and expand.go, and internal/datasets, of SpiceDB):
//
//	ways      how often a subject is found, once for each way
//	held      what all permissions on the way hold before they join it, because SpiceDB works on up to 100 objects at a time
//	bytes     the caveats on all of these ways
//	products  where a wildcard meets an intersection or exclusion: each subject with all caveats, and each way to a
//	          subject with all subjects that are taken away
//
// What is not known to be less is taken for more, so that what is let through is bounded, and a large lookup that
// SpiceDB could have made may be refused.

// caveatBytes is what a caveat on a way counts beside its context: what SpiceDB's expression of it takes, and the time to
// evaluate it.
const caveatBytes = 512

// surveyStream has LookupSubjects surveyed.
func surveyStream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	if info.FullMethod != lookupSubjects {
		return handler(srv, stream)
	}
	return handler(srv, &surveyed{stream})
}

// surveyed is the stream of one LookupSubjects.
type surveyed struct{ grpc.ServerStream }

// RecvMsg is grpc.ServerStream's. SpiceDB has chosen the revision when it has received the request.
func (s *surveyed) RecvMsg(into any) error {
	if err := s.ServerStream.RecvMsg(into); err != nil {
		return err
	}
	request, ok := into.(*v1.LookupSubjectsRequest)
	if !ok {
		return nil
	}
	wanted := schema.Name{Type: request.GetSubjectObjectType(), Member: cmp.Or(request.GetOptionalSubjectRelation(), tuple.Ellipsis)}
	return refuseTooLarge(s.Context(), placeOf(request), &survey{wanted: wanted}, "the lookup")
}

// surveyUnary has ExpandPermissionTree surveyed.
func surveyUnary(ctx context.Context, request any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	if expand, ok := request.(*v1.ExpandPermissionTreeRequest); ok {
		if err := refuseTooLarge(ctx, placeOf(expand), &survey{tree: true}, "the tree"); err != nil {
			return nil, err
		}
	}
	return handler(ctx, request)
}

// refuseTooLarge surveys a call from a place on, and refuses one that is too large.
func refuseTooLarge(ctx context.Context, from place, s *survey, what string) error {
	record := callOf(ctx)
	if record == nil || from.malformed() {
		return nil // SpiceDB, which validates later, says what is wrong with the id
	}
	at, hash, _, err := consistency.RevisionFromContext(ctx)
	if err != nil {
		return err
	}
	limits := record.bounds
	// What is read here is bounded for itself, or a call could read half of what it may.
	ctx = context.WithValue(ctx, callKey{}, &call{bounds: limits, mostReads: limits.reads, mostRows: limits.links})
	s.reader, s.most = datalayer.FromContext(ctx).SnapshotReader(at, hash), limits.links
	if s.schema, err = s.reader.ReadSchema(ctx); err != nil {
		return readFailure(err)
	}
	s.types, s.places = map[string]*schema.Schema{}, map[place]*spot{}
	s.rows, s.subjects = map[place][]row{}, map[string]bool{}
	if err := s.walk(ctx, from); err != nil {
		return readFailure(err)
	}
	most := limits.ways
	if s.tree {
		most = limits.branches
	}
	size, err := s.count(ctx, most, limits.caveats)
	if err != nil {
		return err
	}
	switch {
	case size.ways > most:
		return errTooMuch(fmt.Sprintf("%s has more than %d ways to its subjects", what, most))
	case size.bytes > limits.caveats || s.allBytes > 0 && s.allBytes*size.ways > limits.caveats:
		return errTooMuch(fmt.Sprintf("%s has more than %d MiB of caveats on the ways to its subjects", what, limits.caveats>>20))
	case s.held() > limits.held:
		return errTooMuch(fmt.Sprintf("%s has more than %d ways to the subjects of all its permissions together", what, limits.held))
	case s.tree || !s.wildcards || !s.meets:
		return nil
	}
	subjects, excluded := int64(len(s.subjects)), s.excluded(s.places[from])
	if size.bytes*subjects > limits.caveats {
		return errTooMuch(fmt.Sprintf("%s has a wildcard with caveats, and %d subjects that it meets", what, subjects))
	}
	if size.named*excluded+excluded*excluded/copiesPerStep > limits.steps {
		return errTooMuch(fmt.Sprintf("%s has a wildcard with %d exclusions, and %d ways to subjects that it meets", what, excluded, size.named))
	}
	return nil
}

// readFailure is the status of a survey that could not read: SpiceDB translates only what its own handlers meet.
func readFailure(err error) error {
	if statuses.Within(err) != nil {
		return err
	}
	if ended := status.FromContextError(err); ended.Code() != codes.Unknown {
		return ended.Err()
	}
	return unavailable().Err()
}

// copiesPerStep is how many elements of a list SpiceDB copies in the time in which it puts one into a map.
const copiesPerStep = 50

// survey is what there is below one place of the graph. It is for one goroutine.
type survey struct {
	reader datalayer.RevisionedReader
	schema datalayer.SchemaReader
	// types are the object types that were met, each read as a schema of its own, which is empty for one that does not exist.
	types map[string]*schema.Schema
	// wanted are the subjects that are looked up. tree is set instead for a tree, in which every subject is a leaf.
	wanted schema.Name
	tree   bool
	places map[place]*spot
	// order has the spots of all places, as they were met.
	order []*spot
	// rows are those of a relation of an object, once they were read.
	rows map[place][]row
	// subjects are the ids of the subjects that were found, those of exclusions included.
	subjects map[string]bool
	// links counts where places lead, most is how many that may be.
	links, most int64
	// allBytes are the caveats on the left of all arrows for which all have to hold: SpiceDB asks them of every subject.
	allBytes int64
	// wildcards is set if all subjects of the wanted type were found at once, and meets if an
	// expression is met that compares sets: an intersection, an exclusion, or an arrow for which all have to hold.
	wildcards, meets bool
}

// place is a relation or permission of one object.
type place struct {
	schema.Name
	id string
}

// placeOf returns the place that a request is about.
func placeOf(request interface {
	GetResource() *v1.ObjectReference
	GetPermission() string
}) place {
	resource := request.GetResource()
	return place{schema.Name{Type: resource.GetObjectType(), Member: request.GetPermission()}, resource.GetObjectId()}
}

// malformed reports whether no object can have the id.
func (p place) malformed() bool { return tuple.ValidateResourceID(p.id) != nil }

// row is a relationship of a place: its subject, and how many bytes its caveat counts.
type row struct {
	subject tuple.ObjectAndRelation
	bytes   int64
}

// spot is what the survey knows of a place.
type spot struct {
	// found are the subjects that are found at the place itself, and size is how much they are. to is where it leads, once
	// for each way.
	found []string
	size  size
	to    []link
	// expression is set for a permission, whose operands SpiceDB joins to a set.
	expression bool
	// sum is what was counted last, before it was joined; now and before are what was counted, within as many steps as were counted last, and one less.
	sum, now, before size
	// positive and negative say that excluded has come by, there by nothing that is taken away, or by something that is.
	positive, negative bool
}

// link leads to another spot, over a relationship whose caveat counts so many bytes. subtracted says that what is there
// is taken away.
type link struct {
	to         *spot
	bytes      int64
	subtracted bool
}

// size is what is found from a place on: ways, those of them that have a caveat, those to named subjects that nothing takes
// away, and bytes of caveats.
type size struct{ ways, caveated, named, bytes int64 }

// levels is how deep SpiceDB walks.
const levels = 50

// walk reads the graph from a place on, level by level, each relation of each object once.
func (s *survey) walk(ctx context.Context, from place) error {
	s.spot(from)
	next := []place{from}
	for range levels {
		if len(next) == 0 {
			return nil
		}
		if err := s.read(ctx, next); err != nil {
			return err
		}
		var further []place
		for _, p := range next {
			at := s.places[p]
			add := func(to place, bytes int64, subtracted bool) {
				if s.places[to] == nil {
					further = append(further, to)
				}
				at.to = append(at.to, link{s.spot(to), bytes, subtracted})
				s.links++
			}
			if err := s.expand(ctx, p, at, add); err != nil {
				return err
			}
			if s.links > s.most {
				return errTooMuch(fmt.Sprintf("the graph leads to more than %d places", s.most))
			}
		}
		next = further
	}
	return nil
}

func (s *survey) spot(p place) *spot {
	at := s.places[p]
	if at == nil {
		at = &spot{}
		s.places[p] = at
		s.order = append(s.order, at)
	}
	return at
}

// expand finds what is at a place whose rows have been read, and calls add for where it leads.
func (s *survey) expand(ctx context.Context, p place, at *spot, add func(place, int64, bool)) error {
	if s.tree {
		at.size.ways++ // the branch itself, also where it is empty because the type has no such member
	}
	m, err := s.lookUp(ctx, p.Name)
	if m == nil || err != nil {
		return err
	}
	if p.Name == s.wanted {
		s.find(at, row{subject: tuple.ONR(p.Type, p.id, p.Member)})
	}
	if !m.IsPermission() {
		for _, r := range s.rows[p] {
			subject := schema.Name{Type: r.subject.ObjectType, Member: r.subject.Relation}
			if s.tree || subject == s.wanted {
				s.find(at, r)
			}
			if subject.Member != tuple.Ellipsis && !s.tree {
				add(place{subject, r.subject.ObjectID}, r.bytes, false)
			}
		}
		return nil
	}
	at.expression = true
	s.meets = s.meets || m.Expression.Has(schema.Intersection) || m.Expression.Has(schema.Exclusion) || m.Expression.Has(schema.ArrowAll)
	for _, leaf := range m.Leaves {
		if s.tree {
			at.size.ways++ // each operand is a branch
		}
		switch leaf.Op {
		case schema.Self:
			s.find(at, row{subject: tuple.ONR(p.Type, p.id, tuple.Ellipsis)})
		case schema.Computed:
			add(place{schema.Name{Type: p.Type, Member: leaf.Member}, p.id}, 0, leaf.Subtracted)
		default:
			for _, r := range s.rows[place{schema.Name{Type: p.Type, Member: leaf.Through}, p.id}] {
				if leaf.Op == schema.ArrowAll {
					s.allBytes += r.bytes
				}
				add(place{schema.Name{Type: r.subject.ObjectType, Member: leaf.Member}, r.subject.ObjectID}, r.bytes, leaf.Subtracted)
			}
		}
	}
	return nil
}

// find counts a subject that is found at a place.
func (s *survey) find(at *spot, r row) {
	at.size.ways++
	at.size.bytes += r.bytes
	if r.bytes > 0 {
		at.size.caveated++
	}
	if s.tree {
		return
	}
	at.found = append(at.found, r.subject.ObjectID)
	s.subjects[r.subject.ObjectID] = true
	if r.subject.ObjectID == tuple.PublicWildcard {
		s.wildcards = true
	} else {
		at.size.named++
	}
}

// excluded returns how many subjects are found by what is taken away somewhere on the way from a place.
func (s *survey) excluded(from *spot) int64 {
	type visit struct {
		at       *spot
		negative bool
	}
	ids := map[string]bool{}
	for next := []visit{{from, false}}; len(next) > 0; {
		v := next[len(next)-1]
		next = next[:len(next)-1]
		seen := &v.at.positive
		if v.negative {
			seen = &v.at.negative
		}
		if *seen {
			continue
		}
		*seen = true
		if v.negative {
			for _, id := range v.at.found {
				ids[id] = true
			}
		}
		for _, l := range v.at.to {
			next = append(next, visit{l.to, v.negative || l.subtracted})
		}
	}
	return int64(len(ids))
}

// lookUp returns a member of the schema, or nil. Its definition alone is read: a lookup meets few types of a large schema.
func (s *survey) lookUp(ctx context.Context, m schema.Name) (*schema.Member, error) {
	read, met := s.types[m.Type]
	if !met {
		var definitions []*core.NamespaceDefinition
		found, known, err := s.schema.LookupTypeDefByName(ctx, m.Type)
		switch {
		case err != nil && !errors.As(err, new(datastore.NamespaceNotFoundError)):
			return nil, err
		case known && err == nil:
			definitions = append(definitions, found.Definition)
		}
		if read, err = schema.Read(definitions); err != nil {
			return nil, err
		}
		s.types[m.Type] = read
	}
	return read.Member(m), nil
}

// idsPerRead is how many objects one read is about.
const idsPerRead = 100

// read reads the rows that expanding places needs.
func (s *survey) read(ctx context.Context, places []place) error {
	ids := map[schema.Name][]string{}
	need := func(p place) {
		if _, read := s.rows[p]; !read {
			s.rows[p] = nil
			ids[p.Name] = append(ids[p.Name], p.id)
		}
	}
	for _, p := range places {
		m, err := s.lookUp(ctx, p.Name)
		switch {
		case err != nil:
			return err
		case m == nil:
		case !m.IsPermission():
			need(p)
		default:
			for _, leaf := range m.Leaves {
				if leaf.IsArrow() {
					need(place{schema.Name{Type: p.Type, Member: leaf.Through}, p.id})
				}
			}
		}
	}
	for of, all := range ids {
		for some := range slices.Chunk(all, idsPerRead) {
			if err := s.readSome(ctx, of, some); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *survey) readSome(ctx context.Context, of schema.Name, ids []string) error {
	found, err := s.reader.QueryRelationships(ctx, datastore.RelationshipsFilter{
		OptionalResourceType: of.Type, OptionalResourceRelation: of.Member, OptionalResourceIds: ids,
	}, options.WithQueryShape(queryshape.AllSubjectsForResources))
	if err != nil {
		return err
	}
	for rel, err := range found {
		if err != nil {
			return err
		}
		r := row{subject: rel.Subject}
		if rel.OptionalCaveat != nil {
			r.bytes = caveatBytes + int64(proto.Size(rel.OptionalCaveat))
		}
		p := place{of, rel.Resource.ObjectID}
		s.rows[p] = append(s.rows[p], r)
	}
	return nil
}

// add adds what is found over a link.
func (sum *size) add(l link) {
	there := l.to.before
	sum.ways += there.ways
	sum.bytes += there.bytes + there.ways*l.bytes // both operands are small, or have ended the counting
	if !l.subtracted {
		sum.named += there.named
	}
	if l.bytes > 0 {
		there.caveated = there.ways
	}
	sum.caveated += there.caveated
}

// held is what all permissions that were met hold before they join it.
func (s *survey) held() (n int64) {
	for _, at := range s.order {
		if at.expression {
			n += at.sum.ways
		}
	}
	return n
}

// count returns the most that is found from any place that was walked. It stops where one of the two is more than is of
// interest. From a place, in at most so many steps, that is what is found at it, and what is found in one step less from
// where it leads.
func (s *survey) count(ctx context.Context, mostWays, mostBytes int64) (most size, err error) {
	for range levels {
		if err := ctx.Err(); err != nil {
			return size{}, err
		}
		changed := false
		for _, at := range s.order {
			sum := at.size
			for _, link := range at.to {
				sum.add(link)
				if sum.ways > mostWays || sum.bytes > mostBytes {
					return sum, nil
				}
			}
			most = size{max(most.ways, sum.ways), most.caveated, max(most.named, sum.named), max(most.bytes, sum.bytes)}
			at.sum = sum
			// A permission's operands are joined: each subject is left once. One with a caveat is left with all of its ways, in an
			// expression that grows with them.
			if at.expression && !s.tree {
				all := int64(len(s.subjects))
				sum.ways = min(sum.ways-sum.caveated, all) + sum.caveated
				sum.named = min(sum.named, sum.ways)
			}
			changed = changed || sum != at.before
			at.now = sum
		}
		for _, at := range s.order {
			at.before = at.now
		}
		if !changed {
			break
		}
	}
	return most, nil
}
