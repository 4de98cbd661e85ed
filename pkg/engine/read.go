package engine

import (
	"context"
	"errors"
	"fmt"
	"io"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"github.com/authzed/spicedb/pkg/datastore"
	"github.com/authzed/spicedb/pkg/datastore/options"
	"github.com/authzed/spicedb/pkg/datastore/queryshape"
	"github.com/authzed/spicedb/pkg/tuple"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/deputyauth/deputy/pkg/authz"
)

// pageSize is the most that SpiceDB returns of a read or a lookup with a limit, unless configured
// otherwise.
const pageSize = 1000

// parallelReads is how many reads of one call are under way at once.
const parallelReads = 8

// Read returns what matches each filter; see authz.Snapshot.
func (s *snapshot) Read(ctx context.Context, filters ...authz.Filter) ([][]authz.Relationship, error) {
	out := make([][]authz.Relationship, len(filters))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallelReads)
	for i, f := range filters {
		group.Go(func() error {
			return authz.Safely("engine.Read", func() (err error) {
				if s.engine.ds != nil {
					out[i], err = s.direct(ctx, f)
				} else {
					out[i], _, err = s.stream(ctx, f, f.Limit, "")
				}
				return err
			})
		})
	}
	if err := group.Wait(); err != nil {
		return nil, Failure("engine.Read", err)
	}
	return out, nil
}

// direct reads relationships from the datastore itself: what SpiceDB's API does around that is checking the
// request, which is ours.
func (s *snapshot) direct(ctx context.Context, f authz.Filter) ([]authz.Relationship, error) {
	filter, err := datastore.RelationshipsFilterFromPublicFilter(filterProto(f))
	if err != nil {
		return nil, err
	}
	how := []options.QueryOptionsOption{options.WithQueryShape(queryshape.Varying)}
	if f.Limit > 0 {
		limit := uint64(f.Limit)
		how = append(how, options.WithLimit(&limit))
	}
	found, err := s.engine.ds.SnapshotReader(s.revision).QueryRelationships(ctx, filter, how...)
	if err != nil {
		return nil, err
	}
	var rels []authz.Relationship
	for rel, err := range found {
		if err != nil {
			return nil, err
		}
		rels = append(rels, relationship(tuple.ToV1Relationship(rel)))
		if len(rels) == f.Limit {
			break
		}
	}
	return rels, nil
}

// Page returns a page of what matches the filter; see authz.Snapshot.
func (s *snapshot) Page(ctx context.Context, f authz.Filter, limit int, cursor string) ([]authz.Relationship, string, error) {
	limit = min(limit, pageSize)
	rels, next, err := s.stream(ctx, f, limit, cursor)
	if err != nil {
		return nil, "", Failure("engine.Page", err)
	}
	if len(rels) < limit {
		next = ""
	}
	return rels, next, nil
}

// stream reads relationships until the end, or up to a limit other than 0.
func (s *snapshot) stream(ctx context.Context, f authz.Filter, limit int, cursor string) ([]authz.Relationship, string, error) {
	req := &v1.ReadRelationshipsRequest{
		Consistency:        s.exact,
		RelationshipFilter: filterProto(f),
		OptionalLimit:      uint32(limit), //nolint:gosec // at most pageSize
	}
	if cursor != "" {
		req.OptionalCursor = &v1.Cursor{Token: cursor}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := v1.NewPermissionsServiceClient(s.engine.conn).ReadRelationships(ctx, req)
	var (
		rels []authz.Relationship
		last string
	)
	err = each(stream, err, func(resp *v1.ReadRelationshipsResponse) {
		rels = append(rels, relationship(resp.GetRelationship()))
		last = resp.GetAfterResultCursor().GetToken()
	})
	return rels, last, err
}

// each calls fn with every answer of a stream, which err is the opening of, until it ends.
func each[M any](stream interface{ Recv() (M, error) }, err error, fn func(M)) error {
	return until(stream, err, func(answer M) bool { fn(answer); return true })
}

// until is each, but ends as soon as fn returns false.
func until[M any](stream interface{ Recv() (M, error) }, err error, fn func(M) bool) error {
	for err == nil {
		var answer M
		if answer, err = stream.Recv(); err == nil && !fn(answer) {
			return nil
		}
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// Subjects lists subjects of a type, each once; see authz.Snapshot. SpiceDB has no limit for that: its stream is ended.
func (s *snapshot) Subjects(
	ctx context.Context, resource authz.Object, permission, subjectType string, caveatContext map[string]any, limit int,
) ([]authz.SubjectAnswer, error) {
	given, err := structProto(caveatContext)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := v1.NewPermissionsServiceClient(s.engine.conn).LookupSubjects(s.engine.ownCall(ctx), &v1.LookupSubjectsRequest{
		Consistency:       s.exact,
		Resource:          objectProto(resource),
		Permission:        permission,
		SubjectObjectType: subjectType,
		Context:           given,
	})
	var out []authz.SubjectAnswer
	seen := map[authz.SubjectAnswer]bool{}
	if err := until(stream, err, func(resp *v1.LookupSubjectsResponse) bool {
		subject := authz.SubjectAnswer{
			ID:          resp.GetSubject().GetSubjectObjectId(),
			Conditional: resp.GetSubject().GetPermissionship() != v1.LookupPermissionship_LOOKUP_PERMISSIONSHIP_HAS_PERMISSION,
		}
		if !seen[subject] {
			seen[subject] = true
			out = append(out, subject)
		}
		return len(out) < limit
	}); err != nil {
		return nil, Failure("engine.Subjects", err)
	}
	return out, nil
}

// Resources returns a page of what the first holder reaches; see authz.Snapshot.
func (s *snapshot) Resources(ctx context.Context, r authz.Reachable, limit int, cursor string) ([]authz.Resource, string, error) {
	given, err := structProto(r.Context)
	if err != nil {
		return nil, "", err
	}
	limit = min(limit, pageSize)
	req := &v1.LookupResourcesRequest{
		Consistency:        s.exact,
		ResourceObjectType: r.ResourceType,
		Permission:         r.Holders[0].Permission,
		Subject:            subjectProto(r.Holders[0].Subject),
		Context:            given,
		OptionalLimit:      uint32(limit), //nolint:gosec // at most pageSize
	}
	if cursor != "" {
		req.OptionalCursor = &v1.Cursor{Token: cursor}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := v1.NewPermissionsServiceClient(s.engine.conn).LookupResources(ctx, req)
	var found []authz.Resource
	if err := each(stream, err, func(resp *v1.LookupResourcesResponse) {
		found = append(found, authz.Resource{ID: resp.GetResourceObjectId(), After: resp.GetAfterResultCursor().GetToken()})
	}); err != nil {
		return nil, "", Failure("engine.Resources", err)
	}
	if len(found) < limit {
		return found, "", nil
	}
	return found, found[limit-1].After, nil
}

func filterProto(f authz.Filter) *v1.RelationshipFilter {
	out := &v1.RelationshipFilter{
		ResourceType:       f.Resource.Type,
		OptionalResourceId: f.Resource.ID,
		OptionalRelation:   f.Relation,
	}
	if f.SubjectType != "" {
		out.OptionalSubjectFilter = &v1.SubjectFilter{SubjectType: f.SubjectType, OptionalSubjectId: f.SubjectID}
		if f.SubjectRelation != "" {
			out.OptionalSubjectFilter.OptionalRelation = &v1.SubjectFilter_RelationFilter{Relation: f.SubjectRelation}
		}
	}
	return out
}

func objectProto(o authz.Object) *v1.ObjectReference {
	return &v1.ObjectReference{ObjectType: o.Type, ObjectId: o.ID}
}

func subjectProto(s authz.Subject) *v1.SubjectReference {
	return &v1.SubjectReference{Object: objectProto(s.Object), OptionalRelation: s.Relation}
}

func structProto(m map[string]any) (*structpb.Struct, error) {
	if len(m) == 0 {
		return nil, nil //nolint:nilnil // no context is a valid context
	}
	s, err := structpb.NewStruct(m)
	if err != nil {
		return nil, authz.FieldErrorf("context", "holds a value that JSON does not have: %v", err)
	}
	return s, nil
}

func relationship(r *v1.Relationship) authz.Relationship {
	subject := r.GetSubject()
	out := authz.Relationship{
		Resource: authz.Object{Type: r.GetResource().GetObjectType(), ID: r.GetResource().GetObjectId()},
		Relation: r.GetRelation(),
		Subject: authz.Subject{
			Object:   authz.Object{Type: subject.GetObject().GetObjectType(), ID: subject.GetObject().GetObjectId()},
			Relation: subject.GetOptionalRelation(),
		},
		Caveat: r.GetOptionalCaveat().GetCaveatName(),
	}
	if c := r.GetOptionalCaveat().GetContext(); c != nil {
		out.CaveatContext = c.AsMap()
	}
	if t := r.GetOptionalExpiresAt(); t != nil {
		out.ExpiresAt = t.AsTime()
	}
	return out
}

func relationshipProto(r authz.Relationship) (*v1.Relationship, error) {
	out := &v1.Relationship{
		Resource: objectProto(r.Resource),
		Relation: r.Relation,
		Subject:  subjectProto(r.Subject),
	}
	if r.Caveat != "" {
		given, err := structpb.NewStruct(r.CaveatContext)
		if err != nil {
			return nil, fmt.Errorf("the context of %s: %w", r, err)
		}
		out.OptionalCaveat = &v1.ContextualizedCaveat{CaveatName: r.Caveat, Context: given}
	}
	if !r.ExpiresAt.IsZero() {
		out.OptionalExpiresAt = timestamppb.New(r.ExpiresAt)
	}
	return out, nil
}
