package triples

import (
	"cmp"
	"errors"
	"io"
	"maps"
	"slices"
	"testing"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"github.com/authzed/spicedb/pkg/tuple"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/deputyauth/deputy/pkg/daemon"
	"github.com/deputyauth/deputy/pkg/fixture/world"
	"github.com/deputyauth/deputy/tests/harness"
)

// TestLookupsAtTheDoor takes all triples of every file through both lookups of a server, whole and in pages: what a subject reaches, and who
// reaches a resource, is what the server's checks of the triples say, which TestTriples compares with SpiceDB's.
func TestLookupsAtTheDoor(t *testing.T) {
	triples, found := 0, 0
	for _, f := range files(t) {
		t.Run(f.name, func(t *testing.T) {
			rules, err := world.NewRules(f.definitions, f.caveats)
			if err != nil {
				t.Fatal(err)
			}
			var questions []question
			for _, one := range f.triples() {
				if rules.Lacks(one.resource, one.subject) == nil && one.subject.ObjectID != tuple.PublicWildcard {
					questions = append(questions, question{triple: one})
				}
			}
			cfg := harness.Embedded(t)
			at := &asking{T: t, answers: map[triple]answer{}}
			fill(t, cfg, f, nil, func(_ grpc.ClientConnInterface, _, with *v1.ZedToken) { at.snapshot = with })
			conn := open(t, cfg, daemon.EvaluatorNative)
			at.client = v1.NewPermissionsServiceClient(conn)
			for i, a := range bulk(t, conn, at.snapshot, questions) {
				at.answers[questions[i].triple] = a
			}
			at.resources()
			at.subjects()
			triples, found = triples+len(questions), found+at.found
		})
	}
	t.Logf("%d triples, %d found", triples, found)
	if found < 5_000 {
		t.Errorf("only %d are found", found)
	}
}

// asking is a server that lookups are asked of, with what its checks say.
type asking struct {
	*testing.T
	client   v1.PermissionsServiceClient
	snapshot *v1.ZedToken
	answers  map[triple]answer
	found    int
}

// grouped are the triples that one lookup is about, by what is left of them without the id that it finds.
func (a *asking) grouped(without func(*triple)) map[triple][]triple {
	groups := map[triple][]triple{}
	for one := range a.answers {
		of := one
		without(&of)
		groups[of] = append(groups[of], one)
	}
	return groups
}

// judge compares what a lookup says of a triple, nil for nothing, with the check.
func (a *asking) judge(what string, one triple, says *answer) {
	a.Helper()
	check := a.answers[one]
	named := check.code == codes.OK && check.permissionship != v1.CheckPermissionResponse_PERMISSIONSHIP_NO_PERMISSION
	switch {
	case says == nil && named:
		a.Errorf("%s leave out %s, of which a check says %s", what, one, check)
	case says != nil && !says.same(check):
		a.Errorf("%s say of %s %s, and a check %s", what, one, says, check)
	case says != nil:
		a.found++
	}
}

// ends expects that a lookup ends with an error only where a check may.
func (a *asking) ends(what string, of triple, err error, stream grpc.ClientStream) {
	a.Helper()
	if code := status.Code(err); !errors.Is(err, io.EOF) && code != codes.FailedPrecondition && code != codes.InvalidArgument {
		a.Errorf("%s of %s end with %v", what, of, err)
	}
	if fromSpiceDB(stream.Trailer()) {
		a.Errorf("%s of %s are SpiceDB's", what, of)
	}
}

func byText(x, y triple) int { return cmp.Compare(x.String(), y.String()) }

// resources looks up what each subject reaches, every other time in pages.
func (a *asking) resources() {
	groups := a.grouped(func(of *triple) { of.resource.ObjectID = "" })
	for i, of := range slices.SortedFunc(maps.Keys(groups), byText) {
		limit := uint32(i%2) * uint32(1+i%5)
		says := map[string]answer{}
		req := &v1.LookupResourcesRequest{
			Consistency: at(a.snapshot), ResourceObjectType: of.resource.ObjectType, Permission: of.resource.Relation,
			Subject: subject(of.subject), OptionalLimit: limit,
		}
		last := ""
		for more := true; more; {
			stream, err := a.client.LookupResources(a.Context(), req)
			if err != nil {
				a.Fatal(err)
			}
			n := uint32(0)
			for {
				var one *v1.LookupResourcesResponse
				if one, err = stream.Recv(); err != nil {
					break
				}
				if n++; one.GetResourceObjectId() <= last {
					a.Errorf("resources of %s: %s comes behind %s", of, one.GetResourceObjectId(), last)
				}
				last, req.OptionalCursor = one.GetResourceObjectId(), one.GetAfterResultCursor()
				says[last] = found(one.GetPermissionship(), one.GetPartialCaveatInfo())
			}
			a.ends("resources", of, err, stream)
			more = limit > 0 && n == limit
			if n > limit && limit > 0 {
				a.Errorf("resources of %s: %d on a page of %d", of, n, limit)
			}
		}
		for _, one := range groups[of] {
			if s, ok := says[one.resource.ObjectID]; ok {
				a.judge("resources", one, &s)
			} else {
				a.judge("resources", one, nil)
			}
		}
	}
}

// subjects looks up who reaches each resource.
func (a *asking) subjects() {
	groups := a.grouped(func(of *triple) { of.subject.ObjectID = "" })
	for of, triples := range groups {
		relation := of.subject.Relation
		if relation == tuple.Ellipsis {
			relation = ""
		}
		stream, err := a.client.LookupSubjects(a.Context(), &v1.LookupSubjectsRequest{
			Consistency: at(a.snapshot), Resource: object(of.resource), Permission: of.resource.Relation,
			SubjectObjectType: of.subject.ObjectType, OptionalSubjectRelation: relation,
		})
		if err != nil {
			a.Fatal(err)
		}
		says, except := map[string]answer{}, map[string]bool{}
		for {
			var one *v1.LookupSubjectsResponse
			if one, err = stream.Recv(); err != nil {
				break
			}
			id := one.GetSubject().GetSubjectObjectId()
			if _, twice := says[id]; twice {
				a.Errorf("subjects of %s: %s comes twice", of, id)
			}
			says[id] = found(one.GetSubject().GetPermissionship(), one.GetSubject().GetPartialCaveatInfo())
			for _, e := range one.GetExcludedSubjects() {
				except[e.GetSubjectObjectId()] = true
			}
		}
		a.ends("subjects", of, err, stream)
		everybody, wild := says[tuple.PublicWildcard]
		for _, one := range triples {
			switch s, named := says[one.subject.ObjectID]; {
			case named:
				a.judge("subjects", one, &s)
			case wild && !except[one.subject.ObjectID]:
				a.judge("subjects, by a wildcard,", one, &everybody)
			default:
				a.judge("subjects", one, nil)
			}
		}
	}
}

// found puts what a lookup says into the words of checks.
func found(p v1.LookupPermissionship, partial *v1.PartialCaveatInfo) answer {
	permissionship := v1.CheckPermissionResponse_PERMISSIONSHIP_HAS_PERMISSION
	if p == v1.LookupPermissionship_LOOKUP_PERMISSIONSHIP_CONDITIONAL_PERMISSION {
		permissionship = v1.CheckPermissionResponse_PERMISSIONSHIP_CONDITIONAL_PERMISSION
	}
	return answered(permissionship, partial)
}
