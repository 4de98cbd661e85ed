package kept

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/evaluate"
)

// TestALookupGoesOnAsItsCursorSays: what a snapshot keeps of a lookup is used for that lookup and that place, and for nothing else.
func TestALookupGoesOnAsItsCursorSays(t *testing.T) {
	t.Parallel()
	const member = "relation member: person | group#member"
	w := newWorld(t, strings.Replace(shared, member, member+"\n\t\tpermission view = member", 1), `doc:a#reader@person:ann doc:b#reader@person:ann doc:c#reader@person:ann doc:d#reader@person:ann
		doc:b#listed@person:ann doc:c#listed@person:bob doc:d#reader@person:bob group:c#member@person:ann`)
	g := verified(t, w)
	snap, err := g.Snapshot(t.Context(), authz.Freshness{})
	if err != nil {
		t.Fatal(err)
	}
	page := func(objectType string, limit int, cursor string, holders []authz.Holder) (ids []string, next string) {
		t.Helper()
		found, next, err := snap.Resources(t.Context(), authz.Reachable{ResourceType: objectType, Holders: holders}, limit, cursor)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range found {
			ids = append(ids, f.ID)
		}
		return ids, next
	}
	holders := func(permission, id string) []authz.Holder {
		return []authz.Holder{{Permission: permission, Subject: authz.Subject{Object: authz.Object{Type: "person", ID: id}}}}
	}
	// One that is reused by its caller for somebody else.
	reused := holders("view", "ann")
	for name, other := range map[string]struct {
		objectType string
		holders    func() []authz.Holder
		from       string
		want       []string
	}{
		"the same":                   {"doc", func() []authz.Holder { return holders("view", "ann") }, "", []string{"b", "c"}},
		"another principal":          {"doc", func() []authz.Holder { return holders("view", "bob") }, "", []string{"d"}},
		"another permission":         {"doc", func() []authz.Holder { return holders("listed", "ann") }, "", []string{"b"}},
		"another type":               {"group", func() []authz.Holder { return holders("view", "ann") }, "", []string{"c"}},
		"another place":              {"doc", func() []authz.Holder { return holders("view", "ann") }, "the beginning", []string{"a", "b"}},
		"the caller changed its own": {"doc", func() []authz.Holder { reused[0] = holders("view", "bob")[0]; return reused }, "", []string{"d"}},
	} {
		reused[0] = holders("view", "ann")[0]
		first, cursor := page("doc", 1, "", reused)
		if !slices.Equal(first, []string{"a"}) || cursor == "" {
			t.Fatalf("%s: the first page is %v, and goes on at %q", name, first, cursor)
		}
		if other.from != "" {
			cursor = ""
		}
		if got, _ := page(other.objectType, 2, cursor, other.holders()); !slices.Equal(got, other.want) {
			t.Errorf("%s: it goes on with %v, want %v", name, got, other.want)
		}
	}
}

// flush waits until everything that was given to verification was looked at, which is so much.
func (g *Graph) flush(t *testing.T, want float64) {
	t.Helper()
	// One at a revision that there is not cannot be verified, and comes last.
	before := figure(t, g.verifier.skipped)
	g.verifier.enqueue(answered{token: authz.Revision{Token: "none"}, checks: make([]evaluate.Check, 1), answers: make([]evaluate.Answer, 1)})
	for deadline := time.Now().Add(30 * time.Second); figure(t, g.verifier.skipped) == before; runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatal("verification does not end")
		}
	}
	if n := figure(t, g.verifier.verified); n != want || g.Degraded() {
		t.Errorf("%v were verified, want %v; degraded %v", n, want, g.Degraded())
	}
}

// TestThePastIsNotVerified: what held at a moment of the past is not compared with what SpiceDB says by its clock.
func TestThePastIsNotVerified(t *testing.T) {
	t.Parallel()
	w := newWorld(t, strings.Replace(shared, "relation member: person", "relation member: person with expiration", 1),
		"group:g#member@person:bob[expiration:2020-01-01T00:00:00Z] group:h#member@group:i#member")
	g := verified(t, w)
	head, err := g.Snapshot(t.Context(), authz.Freshness{})
	if err != nil {
		t.Fatal(err)
	}
	then, err := g.Snapshot(t.Context(), authz.Freshness{Exactly: head.Revision(), Moment: time.Date(2019, 12, 31, 0, 0, 0, 0, time.UTC)})
	if err != nil {
		t.Fatal(err)
	}
	bob, group := authz.Subject{Object: authz.Object{Type: "person", ID: "bob"}}, authz.Object{Type: "group", ID: "g"}
	q := authz.Query{Resource: group, Permission: "member", Subject: bob}
	for _, q.Explain = range []*authz.Explaining{nil, {}} {
		if answers, err := then.Check(t.Context(), []authz.Query{q}); err != nil || answers[0].Outcome != authz.Yes {
			t.Errorf("%+v, %v", answers, err)
		}
	}
	if who, err := then.Subjects(t.Context(), group, "member", "person", nil, 10); err != nil || len(who) != 1 {
		t.Errorf("%v, %v", who, err)
	}
	reach := authz.Reachable{ResourceType: "group", Holders: []authz.Holder{{Permission: "member", Subject: bob}}}
	if found, _, err := then.Resources(t.Context(), reach, 10, ""); err != nil || len(found) != 1 || found[0].ID != "g" {
		t.Errorf("%v, %v", found, err)
	}
	g.flush(t, 0)
}

// TestLongLists: of a list with more subjects than one walk holds each is told as its check says, and some are verified. One subject of which
// nothing can be said ends a list, however short.
func TestLongLists(t *testing.T) {
	t.Parallel()
	rows := []string{"doc:d#reader@person:cat[late]"}
	for i := range 100 {
		rows = append(rows, fmt.Sprintf("doc:d#reader@person:p%02d", i))
	}
	w := newWorld(t, shared, strings.Join(rows, "\n"))
	g := verified(t, w)
	w.write(t, "doc:e#reader@person:ann", `doc:e#reader@person:zoe[broken:{"n":0}]`)
	list := func(id string) ([]authz.SubjectAnswer, error) {
		snap, err := g.Snapshot(t.Context(), authz.Freshness{})
		if err != nil {
			t.Fatal(err)
		}
		return snap.Subjects(t.Context(), authz.Object{Type: "doc", ID: id}, "view", "person", nil, 10_000)
	}
	got, err := list("d")
	if err != nil || len(got) != 101 {
		t.Fatalf("%d subjects, %v", len(got), err)
	}
	for _, s := range got {
		if s.Conditional != (s.ID == "cat") {
			t.Errorf("%s is conditional: %v", s.ID, s.Conditional)
		}
	}
	g.flush(t, someListed)
	w.write(t, `doc:d#reader@person:zoe[broken:{"n":0}]`)
	for _, id := range []string{"d", "e"} { // a long one, and a short one
		if got, err := list(id); err == nil {
			t.Errorf("doc:%s has %d subjects, though one of them cannot be decided", id, len(got))
		}
	}
}

// TestLookupsLeftToSpiceDB: of lookups too, what SpiceDB would refuse is not answered here, and a cursor only for the request that it came from.
func TestLookupsLeftToSpiceDB(t *testing.T) {
	t.Parallel()
	g := verified(t, newWorld(t, shared, "doc:a#reader@person:ann doc:b#reader@person:ann doc:a#listed@person:ann doc:b#listed@person:ann"))
	foreign := verified(t, newWorld(t, shared, "doc:a#reader@person:ann doc:b#reader@person:ann"))
	first := func(g *Graph) *v1.Cursor {
		req := reach("view", "ann")
		req.OptionalLimit = 1
		_, last, err := g.found(t, req)
		if err != nil || last == nil {
			t.Fatal(err)
		}
		return last
	}
	small, err := structpb.NewStruct(map[string]any{"hour": 1})
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*v1.LookupResourcesRequest){
		"an id that is none":     func(r *v1.LookupResourcesRequest) { r.Subject.Object.ObjectId = "a b" },
		"an unknown type":        func(r *v1.LookupResourcesRequest) { r.ResourceObjectType = "nothing" },
		"an unknown permission":  func(r *v1.LookupResourcesRequest) { r.Permission = "nothing" },
		"a cursor that is none":  func(r *v1.LookupResourcesRequest) { r.OptionalCursor = &v1.Cursor{Token: "x"} },
		"another store's cursor": func(r *v1.LookupResourcesRequest) { r.OptionalCursor = first(foreign) },
		"another permission's":   func(r *v1.LookupResourcesRequest) { r.OptionalCursor, r.Permission = first(g), "both" },
		"another context's":      func(r *v1.LookupResourcesRequest) { r.OptionalCursor, r.Context = first(g), small },
		"another subject's":      func(r *v1.LookupResourcesRequest) { r.OptionalCursor, r.Subject.Object.ObjectId = first(g), "bob" },
		"another subject relation's": func(r *v1.LookupResourcesRequest) {
			r.OptionalCursor, r.Subject = first(g), &v1.SubjectReference{
				Object: &v1.ObjectReference{ObjectType: "group", ObjectId: "g"}, OptionalRelation: "member",
			}
		},
	} {
		req := reach("view", "ann")
		change(req)
		if ok, err := g.LookupResources(t.Context(), req, func(r *v1.LookupResourcesResponse) error {
			t.Errorf("%s: found %s", name, r.GetResourceObjectId())
			return nil
		}); ok {
			t.Errorf("%s: it was answered, %v", name, err)
		}
	}
	for name, change := range map[string]func(*v1.LookupSubjectsRequest){
		"an id that is none": func(r *v1.LookupSubjectsRequest) { r.Resource.ObjectId = "a b" },
		"a limit":            func(r *v1.LookupSubjectsRequest) { r.OptionalConcreteLimit = 1 },
		"a cursor":           func(r *v1.LookupSubjectsRequest) { r.OptionalCursor = &v1.Cursor{Token: "x"} },
		"an unknown type":    func(r *v1.LookupSubjectsRequest) { r.SubjectObjectType = "nothing" },
	} {
		req := subjectsOf("a")
		change(req)
		if ok, err := g.LookupSubjects(t.Context(), req, func(*v1.LookupSubjectsResponse) error { return nil }); ok {
			t.Errorf("subjects, %s: it was answered, %v", name, err)
		}
	}
}

func subjectsOf(id string) *v1.LookupSubjectsRequest {
	return &v1.LookupSubjectsRequest{
		Resource: &v1.ObjectReference{ObjectType: "doc", ObjectId: id}, Permission: "view", SubjectObjectType: "person", Consistency: head(),
	}
}

// TestWhatLookupsSay: each field of a result, and with what a lookup ends.
func TestWhatLookupsSay(t *testing.T) {
	t.Parallel()
	public := strings.Replace(shared, "person:* |", "person:* | person:* with late | person:* with broken |", 1)
	g := verified(t, newWorld(t, public, `doc:a#reader@person:ann[late] doc:b#reader@person:* doc:b#banned@person:bob doc:b#banned@person:cat[late]
		doc:c#reader@person:*[late] doc:d#reader@person:*[broken:{"n":0}] doc:d#listed@person:ann
		doc:e#reader@person:* doc:e#reader@person:ann[broken:{"n":0}] doc:f#reader@person:dan[broken:{"n":0}] doc:f#reader@person:eve[broken]`))
	say := func(r *v1.ResolvedSubject) string {
		return fmt.Sprint(r.GetSubjectObjectId(), " ", r.GetPermissionship(), " ", r.GetPartialCaveatInfo().GetMissingRequiredContext())
	}
	who := func(change func(*v1.LookupSubjectsRequest), id string) (all []string, err error) {
		req := subjectsOf(id)
		if change != nil {
			change(req)
		}
		ok, err := g.LookupSubjects(t.Context(), req, func(r *v1.LookupSubjectsResponse) error {
			text := say(r.GetSubject())
			var ids []string
			for _, e := range r.GetExcludedSubjects() {
				text += " but " + say(e)
				ids = append(ids, e.GetSubjectObjectId())
			}
			//nolint:staticcheck // SpiceDB fills in the older fields too
			if !slices.Equal(ids, r.GetExcludedSubjectIds()) || r.GetSubjectObjectId() != r.GetSubject().GetSubjectObjectId() {
				t.Errorf("the older fields are %v", r)
			}
			all = append(all, text)
			return nil
		})
		if !ok {
			t.Fatalf("doc:%s is left to SpiceDB", id)
		}
		return all, err
	}
	const yes, open = "LOOKUP_PERMISSIONSHIP_HAS_PERMISSION []", "LOOKUP_PERMISSIONSHIP_CONDITIONAL_PERMISSION [hour]"
	for _, test := range []struct {
		id     string
		change func(*v1.LookupSubjectsRequest)
		want   []string
		code   codes.Code
	}{
		{id: "a", want: []string{"ann " + open}},
		{id: "a", change: func(r *v1.LookupSubjectsRequest) { r.OptionalSubjectRelation = "..." }, want: []string{"ann " + open}},
		{id: "b", want: []string{"cat " + open, "* " + yes + " but bob " + yes + " but cat " + open}},
		{id: "b", change: func(r *v1.LookupSubjectsRequest) {
			r.WildcardOption = v1.LookupSubjectsRequest_WILDCARD_OPTION_EXCLUDE_WILDCARDS
		}, want: []string{"cat " + open}},
		{id: "c", want: []string{"* " + open}},
		{id: "d", code: codes.InvalidArgument},
		{id: "e", want: []string{"ann " + yes, "* " + yes}},
		{id: "f", want: []string{"eve LOOKUP_PERMISSIONSHIP_CONDITIONAL_PERMISSION [n]"}, code: codes.InvalidArgument},
	} {
		if got, err := who(test.change, test.id); !slices.Equal(got, test.want) || status.Code(err) != test.code {
			t.Errorf("doc:%s: %v, %v, want %v, %s", test.id, got, err, test.want, test.code)
		}
	}

	// What sending ends with ends the lookup as it is.
	errGone := errors.New("the reader is gone")
	ok, err := g.LookupSubjects(t.Context(), subjectsOf("b"), func(*v1.LookupSubjectsResponse) error { return errGone })
	if !ok || err != errGone { //nolint:errorlint // it is not wrapped
		t.Errorf("answered %v, %v", ok, err)
	}
	req := reach("view", "ann")
	if ok, err := g.LookupResources(t.Context(), req, func(*v1.LookupResourcesResponse) error { return errGone }); !ok || err != errGone { //nolint:errorlint // as above
		t.Errorf("answered %v, %v", ok, err)
	}
	var missing []string
	if _, err := g.LookupResources(t.Context(), req, func(r *v1.LookupResourcesResponse) error {
		missing = append(missing, r.GetResourceObjectId()+fmt.Sprint(r.GetPartialCaveatInfo().GetMissingRequiredContext()))
		return nil
	}); status.Code(err) != codes.InvalidArgument || !slices.Equal(missing, []string{"a[hour]", "b[]", "c[hour]", "e[]"}) {
		t.Errorf("found %v, %v", missing, err)
	}
}

// TestLookupsOfADistrustedPermission: what the evaluator finds and SpiceDB refuses is not listed, once the permission is distrusted.
func TestLookupsOfADistrustedPermission(t *testing.T) {
	t.Parallel()
	g := verified(t, newWorld(t, shared, "doc:a#reader@person:ann"))
	refuses := refuse(g)
	if ids, _, err := g.found(t, reach("view", "ann")); err != nil || !slices.Equal(ids, []string{"a"}) {
		t.Fatalf("found %v, %v", ids, err)
	}
	g.verifier.distrust(permissionName{"doc", "view"})
	refuses.Store(true)
	if ids, _, err := g.found(t, reach("view", "ann")); err != nil || len(ids) > 0 {
		t.Errorf("found %v, %v", ids, err)
	}
	if who, err := g.who(t, "a", "view", "person"); err != nil || len(who) > 0 {
		t.Errorf("found %v, %v", who, err)
	}
}
