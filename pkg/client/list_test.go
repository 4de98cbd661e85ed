package client_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"net"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/deputyauth/deputy/pkg/client"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// lister is a server that lists what a test tells it to, page by page, also what no Deputy would say.
type lister struct {
	deputyv1.UnimplementedAgentsServiceServer
	deputyv1.UnimplementedPermissionsServiceServer
	deputyv1.UnimplementedStoreServiceServer

	// pages are what LookupResources streams, by cursor; "cut" is as if the connection broke, "gone" is a failure.
	pages map[string][]any
	// lists are what ListAgents answers, by cursor.
	lists map[string]*deputyv1.ListAgentsResponse
	// asked are the limits and cursors that came.
	asked []string
	// chunks are what Backup sends, before it ends with an error or well.
	chunks []string
	fails  error
}

func (l *lister) LookupResources(
	r *deputyv1.LookupResourcesRequest, s grpc.ServerStreamingServer[deputyv1.LookupResourcesResponse],
) error {
	l.asked = append(l.asked, fmt.Sprintf("%d %s", r.GetLimit(), r.GetCursor().GetToken()))
	for _, say := range l.pages[r.GetCursor().GetToken()] {
		m := &deputyv1.LookupResourcesResponse{}
		switch say := say.(type) {
		case error:
			return say
		case string:
			m.Result = &deputyv1.LookupResourcesResponse_Resource{Resource: reached(say, deputyv1.Permissionship_PERMISSIONSHIP_HAS_PERMISSION)}
		case *deputyv1.ReachedResource:
			m.Result = &deputyv1.LookupResourcesResponse_Resource{Resource: say}
		case *deputyv1.FailedResource:
			m.Result = &deputyv1.LookupResourcesResponse_Failed{Failed: say}
		case *deputyv1.LookupEnd:
			m.Result = &deputyv1.LookupResourcesResponse_End{End: say}
		}
		if err := s.Send(m); err != nil {
			return err
		}
	}
	return nil
}

func (l *lister) ListAgents(_ context.Context, r *deputyv1.ListAgentsRequest) (*deputyv1.ListAgentsResponse, error) {
	l.asked = append(l.asked, fmt.Sprintf("%d %s", r.GetLimit(), r.GetCursor().GetToken()))
	return l.lists[r.GetCursor().GetToken()], nil
}

func (l *lister) Backup(_ *deputyv1.BackupRequest, s grpc.ServerStreamingServer[deputyv1.BackupResponse]) error {
	for _, chunk := range l.chunks {
		if err := s.Send(&deputyv1.BackupResponse{Chunk: []byte(chunk)}); err != nil {
			return err
		}
	}
	return l.fails
}

func reached(id string, p deputyv1.Permissionship, missing ...string) *deputyv1.ReachedResource {
	return &deputyv1.ReachedResource{
		Resource: &deputyv1.ObjectReference{ObjectType: "document", ObjectId: id}, Permissionship: p, MissingContext: missing,
		Principal: &deputyv1.ObjectReference{ObjectType: "user", ObjectId: "alice"}, TenantId: "acme", DelegationId: "d1",
	}
}

func next(cursor string) *deputyv1.LookupEnd {
	return &deputyv1.LookupEnd{Next: &deputyv1.Cursor{Token: cursor}}
}

var whole = &deputyv1.LookupEnd{Complete: true}

func (l *lister) serve(t *testing.T) *client.Client {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	deputyv1.RegisterAgentsServiceServer(server, l)
	deputyv1.RegisterPermissionsServiceServer(server, l)
	deputyv1.RegisterStoreServiceServer(server, l)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	return dial(t, listener.Addr().String())
}

var documents = client.ResourceQuery{Agent: "bot", Session: "s1", Type: "document", Permission: "view"}

// A list is whole, or an error: whatever a server leaves out.
func TestListsAreNeverShort(t *testing.T) {
	gone := status.Error(codes.OutOfRange, "the snapshot is too old")
	for name, test := range map[string]struct {
		pages map[string][]any
		want  []string
		fails string
	}{
		"one page":                         {map[string][]any{"": {"a", "b", whole}}, []string{"a", "b"}, ""},
		"several pages, one of them empty": {map[string][]any{"": {"a", next("1")}, "1": {next("2")}, "2": {"b", whole}}, []string{"a", "b"}, ""},
		"no end":                           {map[string][]any{"": {"a", "b"}}, nil, "cut off"},
		"nothing at all":                   {map[string][]any{"": {}}, nil, "cut off"},
		"no end of a later page":           {map[string][]any{"": {"a", next("1")}, "1": {"b"}}, []string{"a"}, "cut off"},
		"a failure in a page":              {map[string][]any{"": {"a", gone}}, nil, "too old"},
		"a failure in a later page":        {map[string][]any{"": {"a", next("1")}, "1": {gone}}, []string{"a"}, "too old"},
		"more, and no way to it":           {map[string][]any{"": {"a", &deputyv1.LookupEnd{}}}, nil, "cut off"},
		"a cursor that leads back":         {map[string][]any{"": {"a", next("1")}, "1": {"b", next("1")}}, []string{"a"}, "cut off"},
		"something behind the end":         {map[string][]any{"": {"a", whole, "b"}}, nil, "after the end"},
		"what a later version says":        {map[string][]any{"": {"a", nil, "b", whole}}, []string{"a", "b"}, ""},
		"a permissionship of a later version": {
			map[string][]any{"": {reached("a", 77), "b", reached("c", 0), whole}}, []string{"b"}, "",
		},
		"what is reached with more context alone": {
			map[string][]any{"": {reached("a", deputyv1.Permissionship_PERMISSIONSHIP_CONDITIONAL_PERMISSION, "ip"), "b", whole}}, []string{"b"}, "",
		},
	} {
		t.Run(name, func(t *testing.T) {
			list := (&lister{pages: test.pages}).serve(t).LookupResources(documents)
			var got []string
			var failed error
			for r, err := range list.All(t.Context()) {
				if failed = err; err != nil {
					continue // it has to end by itself
				}
				got = append(got, r.Resource.ID())
			}
			if fmt.Sprint(got) != fmt.Sprint(test.want) {
				t.Errorf("yielded %v, want %v", got, test.want)
			}
			if (failed != nil) != (test.fails != "") || failed != nil && !strings.Contains(failed.Error(), test.fails) {
				t.Errorf("the error is %v, want %q", failed, test.fails)
			}
			if list.Complete() != (test.fails == "") {
				t.Errorf("complete: %v", list.Complete())
			}
			if all, err := list.Collect(t.Context()); (err != nil) != (test.fails != "") || err != nil && all != nil {
				t.Errorf("Collect: %v, %v", all, err)
			}
		})
	}
	cut := (&lister{pages: map[string][]any{"": {"a"}}}).serve(t)
	if _, err := cut.LookupResources(documents).Collect(t.Context()); !errors.Is(err, client.ErrCutOff) {
		t.Errorf("a list that was cut off: %v", err)
	}
}

// Pages are fetched when they are needed, and a limit is kept over pages: Next is where the next list goes on.
func TestListsPage(t *testing.T) {
	l := &lister{pages: map[string][]any{
		"": {"a", "b", next("1")}, "1": {reached("x", deputyv1.Permissionship_PERMISSIONSHIP_CONDITIONAL_PERMISSION), "c", next("2")}, "2": {"d", whole},
	}}
	c := l.serve(t)
	q := documents
	q.Limit = 3
	list := c.LookupResources(q)
	if got, err := list.Collect(t.Context()); err != nil || len(got) != 3 || list.Complete() || list.Next().GetToken() != "2" {
		t.Errorf("three: %v, %v, complete %v, next %v", got, err, list.Complete(), list.Next())
	}
	if fmt.Sprint(l.asked) != "[3  1 1]" {
		t.Errorf("asked for %q", l.asked)
	}
	q.Cursor = list.Next()
	list = c.LookupResources(q)
	if got, err := list.Collect(t.Context()); err != nil || len(got) != 1 || !list.Complete() || list.Next() != nil {
		t.Errorf("the rest: %v, %v, complete %v", got, err, list.Complete())
	}
	l.asked = nil
	for range c.LookupResources(documents).All(t.Context()) {
		break
	}
	if len(l.asked) != 1 {
		t.Errorf("for one result, asked for %q", l.asked)
	}
	q.Limit = -1
	if _, err := c.LookupResources(q).Collect(t.Context()); err == nil {
		t.Error("a negative limit")
	}
	q = documents
	q.Conditional = true
	if got, err := c.LookupResources(q).Collect(t.Context()); err != nil || len(got) != 5 {
		t.Errorf("with what is conditional: %v, %v", got, err)
	}
}

// An object that cannot be judged is an error in its place, and no result.
func TestUnjudgedResults(t *testing.T) {
	failed := &deputyv1.FailedResource{
		Resource: &deputyv1.ObjectReference{ObjectType: "document", ObjectId: "loop"}, TenantId: "acme", DelegationId: "d1",
		Principal: &deputyv1.ObjectReference{ObjectType: "user", ObjectId: "alice"},
		Error:     &deputyv1.ErrorStatus{Code: int32(codes.FailedPrecondition), Reason: "TOO_DEEP", Message: "leads back to itself"},
	}
	list := (&lister{pages: map[string][]any{"": {"a", failed, "b", whole}}}).serve(t).LookupResources(documents)
	var got []string
	for r, err := range list.All(t.Context()) {
		if unjudged, ok := errors.AsType[*client.UnjudgedError](err); ok {
			if unjudged.Resource != client.Object("document", "loop") || unjudged.Principal != client.User("alice") ||
				client.ReasonOf(err) != client.ReasonTooDeep || r.Resource != (client.Resource{}) {
				t.Errorf("unjudged: %v beside %v", unjudged, r)
			}
			continue
		} else if err != nil {
			t.Fatal(err)
		}
		got = append(got, r.Resource.ID())
	}
	if fmt.Sprint(got) != "[a b]" || !list.Complete() {
		t.Errorf("yielded %v, complete %v", got, list.Complete())
	}
	if all, err := list.Collect(t.Context()); err == nil || all != nil {
		t.Errorf("Collect: %v, %v", all, err)
	}
}

func TestListsOfOneAnswer(t *testing.T) {
	agents := func(ids ...string) (out []*deputyv1.Agent) {
		for _, id := range ids {
			out = append(out, &deputyv1.Agent{AgentId: id})
		}
		return out
	}
	c := (&lister{lists: map[string]*deputyv1.ListAgentsResponse{
		"": {Agents: agents("a", "b"), Next: &deputyv1.Cursor{Token: "1"}}, "1": {Agents: agents("c"), Complete: true},
	}}).serve(t)
	if got, err := c.ListAgents(client.Page{}).Collect(t.Context()); err != nil || len(got) != 3 {
		t.Errorf("all: %v, %v", got, err)
	}
	c = (&lister{lists: map[string]*deputyv1.ListAgentsResponse{"": {Agents: agents("a")}}}).serve(t)
	if got, err := c.ListAgents(client.Page{}).Collect(t.Context()); !errors.Is(err, client.ErrCutOff) || got != nil {
		t.Errorf("an answer that says neither that it is all nor where to go on: %v, %v", got, err)
	}
}

// failing fails after some bytes.
type failing struct{ left int }

func (f *failing) Write(p []byte) (int, error) {
	if f.left -= len(p); f.left < 0 {
		return 0, errors.New("the disk is full")
	}
	return len(p), nil
}

func TestBackupIsWholeOrAnError(t *testing.T) {
	var w bytes.Buffer
	if n, err := (&lister{chunks: []string{"one", "two"}}).serve(t).Backup(t.Context(), &w); err != nil || n != 6 || w.String() != "onetwo" {
		t.Errorf("a backup: %d, %q, %v", n, w.String(), err)
	}
	broken := (&lister{chunks: []string{"one"}, fails: status.Error(codes.DataLoss, "the disk fails")}).serve(t)
	if n, err := broken.Backup(t.Context(), &w); status.Code(err) != codes.DataLoss || n != 3 {
		t.Errorf("a backup that broke off: %d, %v", n, err)
	}
	if _, err := (&lister{}).serve(t).Backup(t.Context(), &w); err == nil {
		t.Error("an empty backup")
	}
	if _, err := (&lister{chunks: []string{"one", "two"}}).serve(t).Backup(t.Context(), &failing{left: 3}); err == nil ||
		!strings.Contains(err.Error(), "the disk is full") {
		t.Errorf("a writer that fails: %v", err)
	}
}

// A fake refuses unless it is told otherwise, and an error never comes with a Decision that allows.
func TestFakesRefuse(t *testing.T) {
	down := errors.New("down")
	for name, test := range map[string]struct {
		fake    client.CheckerFunc
		allowed bool
		err     error
	}{
		"nil":                {nil, false, nil},
		"the zero Decision":  {func(context.Context, client.Question) (client.Decision, error) { return client.Decision{}, nil }, false, nil},
		"one that allows":    {func(context.Context, client.Question) (client.Decision, error) { return client.Allow(), nil }, true, nil},
		"an error and a yes": {func(context.Context, client.Question) (client.Decision, error) { return client.Allow(), down }, false, down},
		"an unknown answer": {func(context.Context, client.Question) (client.Decision, error) {
			return client.DecisionOf(&deputyv1.CheckPermissionResponse{Permissionship: 77}), nil
		}, false, nil},
	} {
		if d, err := test.fake.Check(t.Context(), client.Question{}); d.Allowed() != test.allowed || !errors.Is(err, test.err) {
			t.Errorf("%s: %v, %v", name, d, err)
		}
		answers, err := test.fake.CheckBulk(t.Context(), client.Question{}, client.Question{})
		if err != nil || len(answers) != 2 || answers[1].Allowed() != test.allowed || !errors.Is(answers[1].Err, test.err) {
			t.Errorf("%s, in bulk: %v, %v", name, answers, err)
		}
	}
}

// Every reason that the server's code names is exported here.
func TestReasonsAreExported(t *testing.T) {
	constants := func(path string) map[string]bool {
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		names := map[string]bool{}
		ast.Inspect(file, func(n ast.Node) bool {
			if spec, ok := n.(*ast.ValueSpec); ok && strings.HasPrefix(spec.Names[0].Name, "Reason") {
				switch value := spec.Values[0].(type) {
				case *ast.BasicLit:
					text, _ := strconv.Unquote(value.Value)
					names[text] = true
				case *ast.SelectorExpr:
					names["authz."+value.Sel.Name] = true
				}
				names["authz."+spec.Names[0].Name] = true
			}
			return true
		})
		return names
	}
	theirs, ours := constants("../authz/errors.go"), constants("reasons.go")
	if len(theirs) < 40 {
		t.Fatalf("only %d names are found", len(theirs))
	}
	for name := range theirs {
		if strings.HasPrefix(name, "authz.") && !ours[name] {
			t.Errorf("%s is not exported by pkg/client", name)
		}
	}
}

func TestReasonOf(t *testing.T) {
	s, err := status.New(codes.NotFound, "no such session").WithDetails(&errdetails.RequestInfo{}, &errdetails.ErrorInfo{
		Reason: "SESSION_NOT_FOUND", Metadata: map[string]string{"field": "session_id"},
	})
	if err != nil {
		t.Fatal(err)
	}
	failed := fmt.Errorf("checking: %w", s.Err())
	if client.ReasonOf(failed) != client.ReasonSessionNotFound || client.FieldOf(failed) != "session_id" {
		t.Errorf("%v: %q, %q", failed, client.ReasonOf(failed), client.FieldOf(failed))
	}
	for _, err := range []error{nil, errors.New("plain"), status.Error(codes.Internal, "bare"), &client.Refused{}} {
		if got := client.ReasonOf(err); got != "" || client.FieldOf(err) != "" {
			t.Errorf("ReasonOf(%v) = %q, want none", err, got)
		}
	}
}
