package decision_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"github.com/authzed/authzed-go/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/caller"
	"github.com/deputyauth/deputy/pkg/daemon"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/schema"
	"github.com/deputyauth/deputy/tests/harness"
)

// papers is a domain in which a lookup meets a wildcard, an exclusion, conditions, and a caveat that cannot be evaluated.
const papers = `
caveat late(hour int) { hour > 17 }
caveat broken(n int) { 1 / n > 0 }
definition group {
	relation tenant: tenant
	relation member: user | group#member
}
definition folder {
	relation tenant: tenant
	relation parent: folder
	relation shared: user
	permission view = shared + parent->view
}
definition paper {
	relation tenant: tenant
	relation folder: folder
	relation reader: user | user:* | group#member | user with late | user with broken
	relation banned: user | user with late
	permission view = (reader + folder->view) - banned
}
definition rung {
	relation tenant: tenant
	relation editor: user | rung#viewer
	relation direct: rung#editor
	permission viewer = direct + editor
}
definition both {
	relation tenant: tenant
	relation allowed: user | both#viewer
	relation direct: user | both#allowed
	permission viewer = direct & allowed
}
`

// library is a server whose lookups are asked for with SpiceDB's own client.
type library struct {
	*testing.T
	*harness.Server
	client *authzed.Client
}

// newLibrary starts a server on the engine embedded, and writes relationships of papers.
func newLibrary(t *testing.T, cfg daemon.Config, relationships ...string) *library {
	t.Helper()
	cfg.Engine = harness.Embedded(t)
	l := &library{T: t, Server: harness.Start(t, cfg)}
	l.client = l.with(harness.ServiceKey)
	l.WriteSchema(t, schema.Core+papers)
	for chunk := range slices.Chunk(relationships, 500) {
		l.Touch(t, chunk...)
	}
	return l
}

// with returns SpiceDB's client with a key.
func (l *library) with(key string) *authzed.Client {
	l.Helper()
	c, err := authzed.NewClient(l.Addr().String(),
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithPerRPCCredentials(harness.Bearer(key)))
	if err != nil {
		l.Fatal(err)
	}
	l.Cleanup(func() { _ = c.Close() })
	return c
}

// reaches is a lookup of what a user views.
func reaches(objectType, permission, user string) *v1.LookupResourcesRequest {
	return &v1.LookupResourcesRequest{
		Consistency: head, ResourceObjectType: objectType, Permission: permission,
		Subject: &v1.SubjectReference{Object: &v1.ObjectReference{ObjectType: "user", ObjectId: user}},
	}
}

// views is a lookup of the users who view an object.
func views(object, permission string) *v1.LookupSubjectsRequest {
	return &v1.LookupSubjectsRequest{
		Consistency: head, Resource: rowOf(object + "#a@a:a").GetResource(), Permission: permission, SubjectObjectType: "user",
	}
}

// tree is a request for the tree of a permission.
func tree(object, permission string) *v1.ExpandPermissionTreeRequest {
	return &v1.ExpandPermissionTreeRequest{Consistency: head, Resource: rowOf(object + "#a@a:a").GetResource(), Permission: permission}
}

// reached makes a lookup of resources: ids, "?" behind conditional ones, with the last cursor and what the stream ends with.
func (l *library) reached(c *authzed.Client, r *v1.LookupResourcesRequest, options ...grpc.CallOption) (ids []string, last *v1.Cursor, err error) {
	l.Helper()
	ctx, cancel := context.WithTimeout(l.Context(), 2*time.Minute)
	defer cancel()
	stream, err := c.LookupResources(ctx, r, options...)
	for err == nil {
		var one *v1.LookupResourcesResponse
		if one, err = stream.Recv(); err == nil {
			id := one.GetResourceObjectId()
			if one.GetPermissionship() == v1.LookupPermissionship_LOOKUP_PERMISSIONSHIP_CONDITIONAL_PERMISSION {
				id += "?" + strings.Join(one.GetPartialCaveatInfo().GetMissingRequiredContext(), ",")
			}
			ids, last = append(ids, id), one.GetAfterResultCursor()
		}
	}
	return ids, last, endOf(err)
}

// viewed makes a lookup of subjects, as reached does; a wildcard has its exceptions behind "-".
func (l *library) viewed(c *authzed.Client, r *v1.LookupSubjectsRequest, options ...grpc.CallOption) (ids []string, err error) {
	l.Helper()
	ctx, cancel := context.WithTimeout(l.Context(), 2*time.Minute)
	defer cancel()
	stream, err := c.LookupSubjects(ctx, r, options...)
	for err == nil {
		var one *v1.LookupSubjectsResponse
		if one, err = stream.Recv(); err == nil {
			id := one.GetSubject().GetSubjectObjectId()
			if one.GetSubject().GetPermissionship() == v1.LookupPermissionship_LOOKUP_PERMISSIONSHIP_CONDITIONAL_PERMISSION {
				id += "?"
			}
			for _, e := range one.GetExcludedSubjects() {
				id += "-" + e.GetSubjectObjectId()
			}
			ids = append(ids, id)
		}
	}
	return ids, endOf(err)
}

// finds expects what a lookup lists, and the code that it ends with.
func (l *library) finds(what string, got []string, err error, code codes.Code, want ...string) {
	l.Helper()
	if status.Code(err) != code || !slices.Equal(got, want) {
		l.Errorf("%s: %q, %v; want %q and %v", what, got, err, want, code)
	}
}

// shelf are papers of all kinds.
var shelf = []string{
	"paper:a#reader@user:ann", "paper:b#reader@user:*", "paper:b#reader@group:g#member", "paper:c#reader@group:g#member",
	"group:g#member@user:ann", "group:g#member@group:h#member", "group:h#member@user:dan", "paper:d#reader@user:ann[late]",
	"paper:e#reader@user:ann", "paper:e#banned@user:ann", "paper:f#reader@user:bob", "paper:g#folder@folder:in", "folder:in#parent@folder:out",
	"folder:out#shared@user:ann", "paper:b#banned@user:bob", "paper:b#banned@user:cat[late]",
}

// TestLookupsByTheEvaluator: lookups and trees are answered by the evaluator, or by SpiceDB where it is turned off, with the same results.
func TestLookupsByTheEvaluator(t *testing.T) {
	for _, evaluator := range daemon.Evaluators {
		t.Run(evaluator, func(t *testing.T) {
			sample := 0.0
			if evaluator == daemon.EvaluatorNative {
				sample = 1
			}
			l := newLibrary(t, daemon.Config{Evaluator: evaluator, VerifySample: sample}, shelf...)
			by := func(trailer metadata.MD) string {
				if len(trailer.Get("io.spicedb.respmeta.dispatchedoperationscount")) > 0 {
					return daemon.EvaluatorSpiceDB
				}
				return daemon.EvaluatorNative
			}
			var trailer metadata.MD
			ids, _, err := l.reached(l.client, reaches("paper", "view", "ann"), grpc.Trailer(&trailer))
			slices.Sort(ids)
			l.finds("resources", slices.Compact(ids), err, codes.OK, "a", "b", "c", "d?hour", "g")
			if by(trailer) != evaluator {
				t.Errorf("resources: %v", trailer)
			}
			who, err := l.viewed(l.client, views("paper:c", "view"), grpc.Trailer(&trailer))
			slices.Sort(who)
			l.finds("subjects", who, err, codes.OK, "ann", "dan")
			if by(trailer) != evaluator {
				t.Errorf("subjects: %v", trailer)
			}
			expanded, err := l.client.ExpandPermissionTree(t.Context(), tree("paper:e", "view"), grpc.Trailer(&trailer))
			if err != nil || expanded.GetExpandedAt().GetToken() == "" || by(trailer) != evaluator {
				t.Fatalf("a tree: %v, %v", err, trailer)
			}
			if got := shapeOf(expanded.GetTreeRoot()); got != "EXCLUSION(UNION([user:ann] UNION()) [user:ann])" {
				t.Errorf("the tree is %s", got)
			}
			if evaluator == daemon.EvaluatorSpiceDB {
				return
			}
			for _, c := range []struct {
				what string
				want codes.Code
				err  error
			}{
				{"resources of an unknown type", codes.FailedPrecondition, l.refused(reaches("papers", "view", "ann"))},
				{"of an unknown permission", codes.FailedPrecondition, l.refused(reaches("paper", "views", "ann"))},
				{"of everybody", codes.InvalidArgument, l.refused(reaches("paper", "view", "*"))},
				{"beyond the limit", codes.InvalidArgument, l.refused(func() *v1.LookupResourcesRequest {
					r := reaches("paper", "view", "ann")
					r.OptionalLimit = 1001
					return r
				}())},
				{"subjects of an unknown type", codes.FailedPrecondition, l.refusedOf(views("papers:a", "view"))},
				{"subjects of an unknown permission", codes.FailedPrecondition, l.refusedOf(views("paper:a", "views"))},
				{"so many subjects", codes.Unimplemented, l.refusedOf(func() *v1.LookupSubjectsRequest {
					r := views("paper:a", "view")
					r.OptionalConcreteLimit = 1
					return r
				}())},
			} {
				if status.Code(c.err) != c.want {
					t.Errorf("%s: %v, want %v", c.what, c.err, c.want)
				}
			}
			if err := l.refused(reaches("papers", "view", "ann")); !strings.Contains(err.Error(), "paper") {
				t.Errorf("the error does not say which types there are: %v", err)
			}
			_, err = l.client.ExpandPermissionTree(t.Context(), tree("paper:e", "views"))
			if status.Code(err) != codes.FailedPrecondition {
				t.Errorf("a tree of an unknown permission: %v", err)
			}
		})
	}
}

func (l *library) refused(r *v1.LookupResourcesRequest) error {
	_, _, err := l.reached(l.client, r)
	return err
}

func (l *library) refusedOf(r *v1.LookupSubjectsRequest) error {
	_, err := l.viewed(l.client, r)
	return err
}

// shapeOf writes a tree: operations and subjects.
func shapeOf(t *v1.PermissionRelationshipTree) string {
	var parts []string
	for _, s := range t.GetLeaf().GetSubjects() {
		parts = append(parts, s.GetObject().GetObjectType()+":"+s.GetObject().GetObjectId())
	}
	if t.GetIntermediate() == nil {
		return "[" + strings.Join(parts, " ") + "]"
	}
	for _, child := range t.GetIntermediate().GetChildren() {
		parts = append(parts, shapeOf(child))
	}
	return strings.TrimPrefix(t.GetIntermediate().GetOperation().String(), "OPERATION_") + "(" + strings.Join(parts, " ") + ")"
}

// TestLookupsAreWhatChecksSay: lookups name what checks say yes to, in order and once, with wildcards and exclusions, and an answer that is an
// error comes after all others.
func TestLookupsAreWhatChecksSay(t *testing.T) {
	l := newLibrary(t, daemon.Config{VerifySample: 1},
		append(slices.Clone(shelf), `paper:h#reader@user:bob[broken:{"n":0}]`, "paper:i#reader@user:bob")...)
	ids, _, err := l.reached(l.client, reaches("paper", "view", "ann"))
	l.finds("ann reaches", ids, err, codes.OK, "a", "b", "c", "d?hour", "g")
	late := reaches("paper", "view", "ann")
	late.Context = must(structpb.NewStruct(map[string]any{"hour": 18}))
	ids, _, err = l.reached(l.client, late)
	l.finds("ann reaches, late", ids, err, codes.OK, "a", "b", "c", "d", "g")
	late.Context = must(structpb.NewStruct(map[string]any{"hour": 9}))
	ids, _, err = l.reached(l.client, late)
	l.finds("ann reaches, early", ids, err, codes.OK, "a", "b", "c", "g")
	ids, _, err = l.reached(l.client, reaches("paper", "view", "bob"))
	l.finds("bob reaches", ids, err, codes.InvalidArgument, "f", "i")
	ids, _, err = l.reached(l.client, reaches("paper", "view", "zoe"))
	l.finds("zoe reaches", ids, err, codes.OK, "b")
	who, err := l.viewed(l.client, views("paper:b", "view"))
	l.finds("b is viewed by", who, err, codes.OK, "ann", "cat?", "dan", "*-bob-cat")
	named := views("paper:b", "view")
	named.WildcardOption = v1.LookupSubjectsRequest_WILDCARD_OPTION_EXCLUDE_WILDCARDS
	who, err = l.viewed(l.client, named)
	l.finds("b is viewed, of those with a name, by", who, err, codes.OK, "ann", "cat?", "dan")
	groups := views("paper:c", "view")
	groups.SubjectObjectType, groups.OptionalSubjectRelation = "group", "member"
	who, err = l.viewed(l.client, groups)
	l.finds("c is viewed by the members of", who, err, codes.OK, "g", "h")
	who, err = l.viewed(l.client, views("paper:h", "view"))
	l.finds("h is viewed by", who, err, codes.InvalidArgument)
	who, err = l.viewed(l.client, views("paper:none", "view"))
	l.finds("a paper that is not there is viewed by", who, err, codes.OK)
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// TestLookupsInCirclesEnd: relationships in rings, of which SpiceDB's lookups never end or are errors, are looked up at once. Each that is
// listed is what a check says, and if some check is an error the list ends with one.
func TestLookupsInCirclesEnd(t *testing.T) {
	const n = 20
	var rows []string
	for i := range n {
		next := (i + 1) % n
		for _, pattern := range []string{
			"rung:%d#direct@rung:%d#editor", "rung:%d#editor@rung:%d#viewer", "both:%d#direct@both:%d#allowed", "both:%d#allowed@both:%d#viewer",
			"group:%d#member@group:%d#member", "folder:%d#parent@folder:%d",
		} {
			rows = append(rows, fmt.Sprintf(pattern, i, next))
		}
	}
	l := newLibrary(t, daemon.Config{}, append(rows,
		"rung:0#editor@user:ann", "both:0#direct@user:ann", "both:0#allowed@user:ann", "group:0#member@user:ann",
		"folder:0#shared@user:ann", "paper:a#reader@group:7#member", "paper:b#folder@folder:9")...)
	for _, of := range []struct{ kind, permission string }{
		{"rung", "viewer"}, {"both", "viewer"}, {"group", "member"}, {"folder", "view"}, {"paper", "view"},
	} {
		for _, user := range []string{"ann", "bob"} {
			begin := time.Now()
			got, _, err := l.reached(l.client, reaches(of.kind, of.permission, user))
			if took := time.Since(begin); took > 30*time.Second {
				t.Errorf("%s of %s: it took %v", of.kind, user, took)
			}
			ids := []string{"a", "b"}
			for i := range n {
				ids = append(ids, fmt.Sprint(i))
			}
			var want []string
			failing := false
			for _, id := range ids {
				check, failed := l.client.CheckPermission(t.Context(), asked(of.kind+":"+id+"#"+of.permission+"@user:"+user))
				failing = failing || failed != nil
				if failed == nil && check.GetPermissionship() == plainYes {
					want = append(want, id)
				}
			}
			slices.Sort(want)
			if !slices.Equal(got, want) || err != nil && !failing || user == "ann" && err == nil && failing {
				t.Errorf("%s reaches of %s %q, %v; checks say %q, some fail: %v", user, of.kind, got, err, want, failing)
			}
			if user == "ann" && len(got) == 0 {
				t.Errorf("%s reaches no %s", user, of.kind)
			}
		}
	}
	who, err := l.viewed(l.client, views("paper:b", "view"))
	l.finds("b is viewed by", who, err, codes.OK, "ann")
	_, err = l.client.ExpandPermissionTree(t.Context(), tree("folder:1", "view"))
	if status.Code(err) != codes.FailedPrecondition {
		t.Errorf("a tree in a circle: %v", err)
	}
}

// TestLookupGoesOn cuts a lookup at every length, with writes between its pages: no page repeats or misses one, and all are of one revision.
func TestLookupGoesOn(t *testing.T) {
	l := newLibrary(t, daemon.Config{}, shelf...)
	want := []string{"a", "b", "c", "d?hour", "g"}
	for limit := range uint32(len(want) + 1) {
		if limit == 0 {
			continue
		}
		r := reaches("paper", "view", "ann")
		r.OptionalLimit = limit
		var all []string
		for page := 0; ; page++ {
			ids, last, err := l.reached(l.client, r)
			if err != nil || len(ids) > int(limit) {
				t.Fatalf("limit %d, page %d: %q, %v", limit, page, ids, err)
			}
			all = append(all, ids...)
			if len(ids) < int(limit) {
				break
			}
			l.Touch(t, fmt.Sprintf("paper:a%d%d#reader@user:ann", limit, page), fmt.Sprintf("paper:z%d%d#reader@user:ann", limit, page),
				"paper:g#banned@user:ann")
			l.Delete(t, "paper:c#reader@group:g#member")
			r.OptionalCursor = last
		}
		l.finds(fmt.Sprintf("limit %d", limit), all, nil, codes.OK, want...)
		l.Delete(t, "paper:g#banned@user:ann")
		l.Touch(t, "paper:c#reader@group:g#member")
		var gone []string
		for page := range 8 {
			gone = append(gone, fmt.Sprintf("paper:a%d%d#reader@user:ann", limit, page), fmt.Sprintf("paper:z%d%d#reader@user:ann", limit, page))
		}
		l.Delete(t, gone...)
	}
}

// TestCursorsOfLookups: a cursor is good for its caller and its request, on a server whose evaluator made it, with bounds or without.
func TestCursorsOfLookups(t *testing.T) {
	b := newBounded(t, daemon.Config{Engine: harness.Embedded(t)})
	first := map[string]*v1.Cursor{}
	reach := func(as string, from *v1.Cursor, change ...func(*v1.LookupResourcesRequest)) (id string, next *v1.Cursor, err error) {
		r := reaches("document", "reader", "alice")
		r.OptionalLimit, r.OptionalCursor = 1, from
		for _, c := range change {
			c(r)
		}
		stream, err := b.as(as).LookupResources(t.Context(), r)
		if err != nil {
			return "", nil, err
		}
		one, err := stream.Recv()
		return one.GetResourceObjectId(), one.GetAfterResultCursor(), err
	}
	callers := []string{"some-types", "writer", "organizer", caller.AdminName}
	var want []string
	for _, as := range callers {
		var all []string
		var from *v1.Cursor
		for {
			id, next, err := reach(as, from)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("%s: %v", as, err)
			}
			if from == nil {
				first[as] = next
			}
			all, from = append(all, id), next
		}
		if want == nil {
			want = all
		}
		if len(all) < 5 || !slices.Equal(all, want) || !slices.IsSorted(all) {
			t.Errorf("%s reaches %q, want %q", as, all, want)
		}
	}
	for _, as := range callers {
		for _, whose := range callers {
			_, _, err := reach(as, first[whose])
			if as == whose && err != nil {
				t.Errorf("%s is not given its next page: %v", as, err)
			}
			if as != whose {
				b.refuses(as+" brings the cursor of "+whose, err, codes.InvalidArgument, authz.ReasonInvalidToken, "cursor")
			}
		}
		_, _, err := reach(as, first[as], func(r *v1.LookupResourcesRequest) { r.Subject.Object.ObjectId = "mallory" })
		if status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s brings the cursor of another request: %v", as, err)
		}
	}
	// What does not exist for a caller is looked up as what is not there, and its tokens are sealed.
	for as, sealed := range map[string]bool{"some-types": true, "writer": true, caller.AdminName: false} {
		stream, err := b.as(as).LookupResources(t.Context(), reaches("document", "reader", "alice"))
		if err != nil {
			t.Fatal(err)
		}
		one, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		token := one.GetLookedUpAt().GetToken()
		if strings.Contains(token, ".") != sealed {
			t.Errorf("%s is given the token %q", as, token)
		}
		r := reaches("document", "reader", "alice")
		r.Consistency = &v1.Consistency{Requirement: &v1.Consistency_AtExactSnapshot{AtExactSnapshot: one.GetLookedUpAt()}}
		stream, err = b.as(as).LookupResources(t.Context(), r)
		if err == nil {
			_, err = stream.Recv()
		}
		if err != nil {
			t.Errorf("%s does not look up at its own token: %v", as, err)
		}
	}
	r := reaches("document", "reader", "far")
	r.Subject.Object.ObjectType = "agent"
	stream, err := b.as("some-types").LookupResources(t.Context(), r)
	if err == nil {
		_, err = stream.Recv()
	}
	if !errors.Is(err, io.EOF) {
		t.Errorf("an agent beyond the bounds reaches something: %v", err)
	}
}

// crowd are so many papers that ann reads: more than a stream holds that nobody reads.
func crowd(n int) []string {
	rows := make([]string, n)
	for i := range rows {
		rows[i] = fmt.Sprintf("paper:%05d%s#reader@user:ann", i, strings.Repeat("x", 200))
	}
	return rows
}

// TestClientsThatStopReading: lookups whose clients read no further keep no place from others, and end when those leave.
func TestClientsThatStopReading(t *testing.T) {
	l := newLibrary(t, daemon.Config{}, crowd(5000)...)
	leaving, leave := context.WithCancel(t.Context())
	defer leave()
	var streams []grpc.ServerStreamingClient[v1.LookupResourcesResponse]
	const busy = 32
	for range busy {
		// Each has a connection of its own: what one does not read holds up all calls of a connection.
		stream, err := l.with(harness.ServiceKey).LookupResources(leaving, reaches("paper", "view", "ann"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Recv(); err != nil {
			t.Fatal(err)
		}
		streams = append(streams, stream)
	}
	if ids, _, err := l.reached(l.client, reaches("paper", "view", "ann")); err != nil || len(ids) != 5000 {
		t.Errorf("a lookup beside %d that are not read: %d, %v", busy, len(ids), err)
	}
	if check, err := l.client.CheckPermission(t.Context(), asked(crowd(1)[0])); err != nil || check.GetPermissionship() != plainYes {
		t.Errorf("a check beside them: %v, %v", check, err)
	}
	leave()
	for _, stream := range streams {
		for {
			if _, err := stream.Recv(); err != nil {
				break
			}
		}
	}
	ids, _, err := l.reached(l.client, reaches("paper", "view", "ann"))
	if err != nil || len(ids) != 5000 {
		t.Errorf("after they have left: %d, %v", len(ids), err)
	}
}

// TestRightIsLostDuringALookup: a lookup under way ends when its caller may look nothing up any more.
func TestRightIsLostDuringALookup(t *testing.T) {
	path := filepath.Join(t.TempDir(), "callers.yaml")
	put := func(roles string) {
		t.Helper()
		text := fmt.Sprintf("callers:\n  - name: reader\n    roles: [%s]\n    authzed_api: all\n    tenants: all\n"+
			"    credentials:\n      - {id: k, key: \"sha256:%x\"}\n",
			roles, sha256.Sum256([]byte("reader")))
		if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	put("checker, writer")
	l := newLibrary(t, daemon.Config{
		PresharedKeys: []string{harness.ServiceKey}, AdminPresharedKeys: []string{harness.AdminKey}, CallersPath: path,
	}, crowd(5000)...)
	stream, err := l.with("reader").LookupResources(t.Context(), reaches("paper", "view", "ann"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	put("responder")
	n := 1
	for deadline := time.Now().Add(time.Minute); ; n++ {
		// The stream is not read until a new call of the caller is refused.
		one, _, refused := l.reached(l.with("reader"), reaches("paper", "view", "bob"))
		if refused != nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the caller goes on: %q", one)
		}
	}
	for {
		if _, err = stream.Recv(); err != nil {
			break
		}
		n++
	}
	if code := status.Code(err); code != codes.PermissionDenied && code != codes.Unavailable || n >= 5000 {
		t.Errorf("the lookup ends with %v after %d of 5000", err, n)
	}
}

// TestRecordsOfLookups: the journal says who has answered a lookup or made a tree, and how much it found.
func TestRecordsOfLookups(t *testing.T) {
	for _, evaluator := range daemon.Evaluators {
		t.Run(evaluator, func(t *testing.T) {
			auditor := &caller.Caller{
				Name: "auditor", Roles: caller.RolesOf(deputyv1.Role_ROLE_AUDITOR), Bounds: authz.Unbounded(), SpiceDB: authz.AllNames(),
				Credentials: []caller.Credential{{ID: "k", Key: sha256.Sum256([]byte("auditor"))}},
			}
			l := newLibrary(t, daemon.Config{
				Evaluator: evaluator, Callers: []*caller.Caller{auditor},
				PresharedKeys: []string{harness.ServiceKey}, AdminPresharedKeys: []string{harness.AdminKey},
			}, shelf...)
			want := map[string]uint64{"LookupResources": 2, "LookupSubjects": 2, "ExpandPermissionTree": 1}
			r := reaches("paper", "view", "ann")
			r.OptionalLimit = 2
			_, _, err := l.reached(l.client, r)
			_, err2 := l.viewed(l.client, views("paper:c", "view"))
			_, err3 := l.client.ExpandPermissionTree(t.Context(), tree("paper:e", "view"))
			if err := errors.Join(err, err2, err3); err != nil {
				t.Fatal(err)
			}
			by := deputyv1.Evaluator_EVALUATOR_NATIVE
			if evaluator == daemon.EvaluatorSpiceDB {
				by = deputyv1.Evaluator_EVALUATOR_SPICEDB
			}
			records := deputyv1.NewJournalServiceClient(harness.Dial(t, l.Addr().String(), "auditor"))
			stream, err := records.QueryRecords(t.Context(), &deputyv1.QueryRecordsRequest{})
			if err != nil {
				t.Fatal(err)
			}
			for {
				answer, err := stream.Recv()
				if errors.Is(err, io.EOF) {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
				record := answer.GetRecord().GetRecord()
				for method, results := range want {
					if strings.HasSuffix(record.GetMethod(), "authzed.api.v1.PermissionsService/"+method) &&
						record.GetStage() != deputyv1.RecordStage_RECORD_STAGE_BEGUN {
						delete(want, method)
						if record.GetEvaluator() != by || record.GetResults() != results || record.GetRevision() == "" {
							t.Errorf("the record of %s is %v", method, record)
						}
					}
				}
			}
			if len(want) > 0 {
				t.Errorf("there are no records of %v", want)
			}
		})
	}
}
