package engine

import (
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
)

// weigh has every LookupSubjects weighed before SpiceDB works on it. SpiceDB keeps a subject once for each way that
// leads to it, until the call ends: five relationships between two groups that are members of each other are enough for
// 2^50 ways, and no bound on what is read stops that.
func weigh(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	if info.FullMethod != lookupSubjects {
		return handler(srv, stream)
	}
	return handler(srv, &weighed{stream})
}

// weighed is the stream of one LookupSubjects.
type weighed struct{ grpc.ServerStream }

// RecvMsg is grpc.ServerStream's. SpiceDB has chosen the revision when it has received the request.
func (w *weighed) RecvMsg(into any) error {
	if err := w.ServerStream.RecvMsg(into); err != nil {
		return err
	}
	request, ok := into.(*v1.LookupSubjectsRequest)
	record := callOf(w.Context())
	if !ok || record == nil {
		return nil
	}
	return record.bounds.weigh(w.Context(), request)
}

// weigh refuses a lookup whose answers have more ways to them than a lookup may have.
func (b *bounds) weigh(ctx context.Context, request *v1.LookupSubjectsRequest) error {
	at, hash, _, err := consistency.RevisionFromContext(ctx)
	if err != nil {
		return err
	}
	// What is read here is bounded for itself, or a lookup could read half of what it may.
	ctx = context.WithValue(ctx, callKey{}, &call{bounds: b, most: b.subjectRows})
	reader := datalayer.FromContext(ctx).SnapshotReader(at, hash)
	schema, err := reader.ReadSchema(ctx)
	if err != nil {
		return err
	}
	wanted := member{request.GetSubjectObjectType(), request.GetOptionalSubjectRelation()}
	if wanted.name == "" {
		wanted.name = tuple.Ellipsis
	}
	s := &survey{
		reader: reader, schema: schema, wanted: wanted,
		members: map[member]*core.Relation{}, places: map[place]*spot{}, rows: map[place][]tuple.ObjectAndRelation{}, subjects: map[string]bool{},
	}
	from := place{member{request.GetResource().GetObjectType(), request.GetPermission()}, request.GetResource().GetObjectId()}
	if err := s.walk(ctx, from); err != nil {
		return err
	}
	most := b.ways
	if s.caveats {
		most = b.caveatedWays
	}
	if s.exceeds(most) {
		return errTooMuch(fmt.Sprintf("the lookup has more than %d ways to its subjects", most))
	}
	return nil
}

// survey is what there is below one place of the graph. It is for one goroutine.
type survey struct {
	reader datalayer.RevisionedReader
	schema datalayer.SchemaReader
	// wanted are the subjects that are looked up.
	wanted member
	// members are those of the schema that were met; nil for one that does not exist.
	members map[member]*core.Relation
	places  map[place]*spot
	// rows are the subjects of a relation of an object, once they were read.
	rows map[place][]tuple.ObjectAndRelation
	// subjects are the ids of the subjects that were found.
	subjects map[string]bool
	// caveats is set if a row has one.
	caveats bool
}

// place is a relation or permission of one object.
type place struct {
	member
	id string
}

// spot is what the survey knows of a place.
type spot struct {
	// found is how many subjects are found at the place itself, and to is where it leads, once for each way.
	found int64
	to    []*spot
	// expression is set for a permission, whose operands SpiceDB joins to a set.
	expression bool
}

// levels is how deep SpiceDB walks.
const levels = 50

// walk reads the graph from a place on, level by level, each relation of each object once.
func (s *survey) walk(ctx context.Context, from place) error {
	s.places[from] = &spot{}
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
			add := func(to place) {
				there, known := s.places[to]
				if !known {
					there = &spot{}
					s.places[to] = there
					further = append(further, to)
				}
				s.places[p].to = append(s.places[p].to, there)
			}
			if err := s.expand(ctx, p, s.places[p], add); err != nil {
				return err
			}
		}
		next = further
	}
	return nil
}

// expand finds what is at a place whose rows have been read, and calls add for where it leads.
func (s *survey) expand(ctx context.Context, p place, at *spot, add func(place)) error {
	m, err := s.lookUp(ctx, p.member)
	if m == nil || err != nil {
		return err
	}
	if p.member == s.wanted {
		s.find(at, p.id)
	}
	if m.GetUsersetRewrite() == nil {
		for _, subject := range s.rows[p] {
			if subject.ObjectType == s.wanted.objectType && subject.Relation == s.wanted.name {
				s.find(at, subject.ObjectID)
			}
			if subject.Relation != tuple.Ellipsis {
				add(place{member{subject.ObjectType, subject.Relation}, subject.ObjectID})
			}
		}
		return nil
	}
	at.expression = true
	return eachChild(m.GetUsersetRewrite(), func(c child) error {
		switch {
		case c.self:
			s.find(at, p.id)
		case c.tupleset == "":
			add(place{member{p.objectType, c.relation}, p.id})
		default:
			for _, subject := range s.rows[place{member{p.objectType, c.tupleset}, p.id}] {
				add(place{member{subject.ObjectType, c.relation}, subject.ObjectID})
			}
		}
		return nil
	})
}

func (s *survey) find(at *spot, id string) {
	at.found++
	s.subjects[id] = true
}

// lookUp returns a member of the schema, or nil.
func (s *survey) lookUp(ctx context.Context, m member) (*core.Relation, error) {
	if found, known := s.members[m]; known {
		return found, nil
	}
	definition, known, err := s.schema.LookupTypeDefByName(ctx, m.objectType)
	if err != nil && !errors.As(err, new(datastore.NamespaceNotFoundError)) {
		return nil, err
	}
	s.members[m] = nil
	if known && err == nil {
		for _, of := range definition.Definition.GetRelation() {
			s.members[member{m.objectType, of.GetName()}] = of
		}
	}
	return s.members[m], nil
}

// idsPerRead is how many objects one read is about.
const idsPerRead = 100

// read reads the rows that expanding places needs.
func (s *survey) read(ctx context.Context, places []place) error {
	ids := map[member][]string{}
	need := func(p place) {
		if _, read := s.rows[p]; !read {
			s.rows[p] = nil
			ids[p.member] = append(ids[p.member], p.id)
		}
	}
	for _, p := range places {
		m, err := s.lookUp(ctx, p.member)
		if err != nil {
			return err
		}
		switch {
		case m == nil:
		case m.GetUsersetRewrite() == nil:
			need(p)
		default:
			if err := eachChild(m.GetUsersetRewrite(), func(c child) error {
				if c.tupleset != "" {
					need(place{member{p.objectType, c.tupleset}, p.id})
				}
				return nil
			}); err != nil {
				return err
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

func (s *survey) readSome(ctx context.Context, of member, ids []string) error {
	found, err := s.reader.QueryRelationships(ctx, datastore.RelationshipsFilter{
		OptionalResourceType: of.objectType, OptionalResourceRelation: of.name, OptionalResourceIds: ids,
	}, options.WithQueryShape(queryshape.AllSubjectsForResources))
	if err != nil {
		return err
	}
	for rel, err := range found {
		if err != nil {
			return err
		}
		s.caveats = s.caveats || rel.OptionalCaveat != nil
		p := place{of, rel.Resource.ObjectID}
		s.rows[p] = append(s.rows[p], rel.Subject)
	}
	return nil
}

// exceeds reports whether there are more ways to the subjects from anywhere that was walked than most. The ways from a
// place, of at most so many steps, are those of one step less from where it leads, and what is found at the place.
func (s *survey) exceeds(most int64) bool {
	before := make(map[*spot]int64, len(s.places))
	for range levels {
		now, changed := make(map[*spot]int64, len(s.places)), false
		for _, at := range s.places {
			ways := at.found
			for _, to := range at.to {
				ways = min(ways+before[to], most+1) // so that the sum cannot overflow
			}
			if ways > most {
				return true
			}
			// A permission's operands are joined: each subject is left once. One with a caveat is left with all of its ways, in an
			// expression that grows with them.
			if at.expression && !s.caveats {
				ways = min(ways, int64(len(s.subjects)))
			}
			now[at] = ways
			changed = changed || ways != before[at]
		}
		if !changed {
			return false
		}
		before = now
	}
	return false
}
