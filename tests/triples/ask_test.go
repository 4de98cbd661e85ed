package triples

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"github.com/authzed/spicedb/pkg/tuple"
	"golang.org/x/sync/errgroup"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
)

const (
	// callers is how many calls are under way at once.
	callers = 4
	// batch is how many items a bulk request has: more than a chunk of SpiceDB's.
	batch = 500
)

// question is a triple with a context.
type question struct {
	triple
	context *structpb.Struct
	// without is the place of the question with the same triple and no context.
	without int
}

// answer is what a check said: a permissionship, or an error.
type answer struct {
	permissionship v1.CheckPermissionResponse_Permissionship
	// missing are the fields that are missing, in order.
	missing string
	// code is OK unless the check failed, and reason is that of its ErrorInfo.
	code   codes.Code
	reason string
	// message is for who reads a difference, and spicedb says that SpiceDB's server answered; they are not
	// compared.
	message string
	spicedb bool
}

// definite reports whether the answer is yes or no.
func (a answer) definite() bool {
	return a.permissionship == v1.CheckPermissionResponse_PERMISSIONSHIP_HAS_PERMISSION ||
		a.permissionship == v1.CheckPermissionResponse_PERMISSIONSHIP_NO_PERMISSION
}

// same reports whether two answers are the same to a caller.
func (a answer) same(b answer) bool {
	a.message, b.message = "", ""
	a.spicedb, b.spicedb = false, false
	return a == b
}

// String is the answer in a line.
func (a answer) String() string {
	if a.code != codes.OK {
		return fmt.Sprintf("%s (%s) %q", a.code, a.reason, a.message)
	}
	word := strings.TrimPrefix(a.permissionship.String(), "PERMISSIONSHIP_")
	if a.missing != "" {
		word += " missing " + a.missing
	}
	return word
}

func answered(permissionship v1.CheckPermissionResponse_Permissionship, partial *v1.PartialCaveatInfo) answer {
	missing := slices.Clone(partial.GetMissingRequiredContext())
	slices.Sort(missing)
	return answer{permissionship: permissionship, missing: strings.Join(slices.Compact(missing), ", ")}
}

func failed(s *status.Status) answer {
	a := answer{code: s.Code(), message: s.Message()}
	for _, detail := range s.Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			a.reason = info.GetReason()
		}
	}
	return a
}

func at(snapshot *v1.ZedToken) *v1.Consistency {
	return &v1.Consistency{Requirement: &v1.Consistency_AtExactSnapshot{AtExactSnapshot: snapshot}}
}

func object(o tuple.ObjectAndRelation) *v1.ObjectReference {
	return &v1.ObjectReference{ObjectType: o.ObjectType, ObjectId: o.ObjectID}
}

func subject(s tuple.ObjectAndRelation) *v1.SubjectReference {
	relation := s.Relation
	if relation == tuple.Ellipsis {
		relation = ""
	}
	return &v1.SubjectReference{Object: object(s), OptionalRelation: relation}
}

// single asks each question in a call of its own and returns the answers in the same order.
func single(t *testing.T, conn grpc.ClientConnInterface, snapshot *v1.ZedToken, questions []question) []answer {
	t.Helper()
	client := v1.NewPermissionsServiceClient(conn)
	answers := make([]answer, len(questions))
	var group errgroup.Group
	group.SetLimit(callers)
	for i, q := range questions {
		group.Go(func() error {
			var trailer metadata.MD
			resp, err := client.CheckPermission(t.Context(), &v1.CheckPermissionRequest{
				Consistency: at(snapshot), Resource: object(q.resource), Permission: q.resource.Relation,
				Subject: subject(q.subject), Context: q.context,
			}, grpc.Trailer(&trailer))
			answers[i] = answered(resp.GetPermissionship(), resp.GetPartialCaveatInfo())
			if err != nil {
				answers[i] = failed(status.Convert(err))
			}
			answers[i].spicedb = fromSpiceDB(trailer)
			if err != nil {
				return nil //nolint:nilerr // it is the answer
			}
			return pinned(resp.GetCheckedAt(), snapshot)
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	return answers
}

// bulk asks the questions as items of bulk requests and returns the answers in the same order. What is asked for
// everybody, which is refused, is asked apart: one such item leaves a whole request to SpiceDB.
func bulk(t *testing.T, conn grpc.ClientConnInterface, snapshot *v1.ZedToken, questions []question) []answer {
	t.Helper()
	var plain, everybody []int
	for i, q := range questions {
		if q.subject.ObjectID == tuple.PublicWildcard {
			everybody = append(everybody, i)
		} else {
			plain = append(plain, i)
		}
	}
	answers := make([]answer, len(questions))
	for _, list := range [][]int{plain, everybody} {
		for places := range slices.Chunk(list, batch) {
			askBatch(t, conn, snapshot, questions, places, answers)
		}
	}
	return answers
}

// askBatch asks the questions at some places in one request, and fills in the answers there.
func askBatch(t *testing.T, conn grpc.ClientConnInterface, snapshot *v1.ZedToken, questions []question, places []int, answers []answer) {
	t.Helper()
	req := &v1.CheckBulkPermissionsRequest{Consistency: at(snapshot)}
	for _, i := range places {
		q := questions[i]
		req.Items = append(req.Items, &v1.CheckBulkPermissionsRequestItem{
			Resource: object(q.resource), Permission: q.resource.Relation, Subject: subject(q.subject), Context: q.context,
		})
	}
	var trailer metadata.MD
	resp, err := v1.NewPermissionsServiceClient(conn).CheckBulkPermissions(t.Context(), req, grpc.Trailer(&trailer))
	if err != nil {
		t.Fatal(err)
	}
	if len(resp.GetPairs()) != len(places) {
		t.Fatalf("%d pairs for %d items", len(resp.GetPairs()), len(places))
	}
	if err := pinned(resp.GetCheckedAt(), snapshot); err != nil {
		t.Fatal(err)
	}
	for n, pair := range resp.GetPairs() {
		if !proto.Equal(pair.GetRequest(), req.GetItems()[n]) {
			t.Fatalf("pair %d repeats another item: %v, not %v", n, pair.GetRequest(), req.GetItems()[n])
		}
		a := &answers[places[n]]
		if pair.GetError() != nil {
			*a = failed(status.FromProto(pair.GetError()))
		} else {
			*a = answered(pair.GetItem().GetPermissionship(), pair.GetItem().GetPartialCaveatInfo())
		}
		a.spicedb = fromSpiceDB(trailer)
	}
}

// fromSpiceDB reports whether a call's trailer says what the answer took SpiceDB. Only its own server does.
func fromSpiceDB(trailer metadata.MD) bool {
	for key := range trailer {
		if strings.HasPrefix(key, "io.spicedb.respmeta.") {
			return true
		}
	}
	return false
}

// pinned refuses an answer at another snapshot than the one that was asked for.
func pinned(checked, asked *v1.ZedToken) error {
	if checked.GetToken() != asked.GetToken() {
		return errors.New("checked at " + checked.GetToken() + ", asked at " + asked.GetToken())
	}
	return nil
}
