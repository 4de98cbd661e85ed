package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// answers is a server that says what a test tells it to, also what no Deputy would say: the client has
// to refuse by itself.
type answers struct {
	deputyv1.UnimplementedPermissionsServiceServer
	deputyv1.UnimplementedSessionsServiceServer

	check func(context.Context, *deputyv1.CheckPermissionRequest) (*deputyv1.CheckPermissionResponse, error)
	bulk  func(context.Context, *deputyv1.CheckBulkPermissionsRequest) (*deputyv1.CheckBulkPermissionsResponse, error)
	// filter is nil where a test filters nothing.
	filter func(context.Context, *deputyv1.FilterResourcesRequest) (*deputyv1.FilterResourcesResponse, error)
}

func (a *answers) FilterResources(ctx context.Context, r *deputyv1.FilterResourcesRequest) (*deputyv1.FilterResourcesResponse, error) {
	return a.filter(ctx, r)
}

func (a *answers) CheckPermission(ctx context.Context, r *deputyv1.CheckPermissionRequest) (*deputyv1.CheckPermissionResponse, error) {
	return a.check(ctx, r)
}

func (a *answers) CheckBulkPermissions(
	ctx context.Context, r *deputyv1.CheckBulkPermissionsRequest,
) (*deputyv1.CheckBulkPermissionsResponse, error) {
	return a.bulk(ctx, r)
}

func (a *answers) StartSession(_ context.Context, r *deputyv1.StartSessionRequest) (*deputyv1.StartSessionResponse, error) {
	return &deputyv1.StartSessionResponse{
		Session: &deputyv1.Session{SessionId: "s1", AgentId: r.GetAgentId()}, WrittenAt: token("started"),
	}, nil
}

func (a *answers) RenewSession(context.Context, *deputyv1.RenewSessionRequest) (*deputyv1.RenewSessionResponse, error) {
	return &deputyv1.RenewSessionResponse{
		Session: &deputyv1.Session{SessionId: "s1", ExpiresAt: timestamppb.Now()}, WrittenAt: token("renewed"),
	}, nil
}

func (a *answers) EndSession(context.Context, *deputyv1.EndSessionRequest) (*deputyv1.EndSessionResponse, error) {
	return &deputyv1.EndSessionResponse{WrittenAt: token("ended")}, nil
}

func token(text string) *deputyv1.ZedToken { return &deputyv1.ZedToken{Token: text} }

// serve starts the server and returns a client of it.
func serve(t *testing.T, a *answers, opts ...Option) *Client {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	deputyv1.RegisterPermissionsServiceServer(server, a)
	deputyv1.RegisterSessionsServiceServer(server, a)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	c, err := Dial(listener.Addr().String(), opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func start(t *testing.T, c *Client) *Session {
	t.Helper()
	s, err := c.StartSession(t.Context(), SessionSpec{Agent: "bot"})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// alicesPlan is the question that most tests here ask.
var alicesPlan = Question{Principal: User("alice"), Tenant: "acme", Resource: Object("document", "plan"), Permission: "view"}

func ask(t *testing.T, of Checker) (Decision, error) {
	t.Helper()
	return of.Check(t.Context(), alicesPlan)
}

func says(p deputyv1.Permissionship) *deputyv1.CheckPermissionResponse {
	return &deputyv1.CheckPermissionResponse{Permissionship: p}
}

func TestOnlyHasPermissionAllows(t *testing.T) {
	const has = deputyv1.Permissionship_PERMISSIONSHIP_HAS_PERMISSION
	for p := deputyv1.Permissionship(-1); p < 100; p++ {
		if got := (Decision{says(p)}).Allowed(); got != (p == has) {
			t.Errorf("%v: Allowed is %v", p, got)
		}
	}
	var zero Decision
	if zero.Allowed() || zero.Missing() != nil || zero.CheckedAt() != nil || !zero.ValidUntil().IsZero() || zero.String() != "UNSPECIFIED" {
		t.Errorf("the zero Decision does not refuse quietly: %v", zero)
	}
	if (Answer{}).Allowed() {
		t.Error("the zero Answer allows")
	}
}

func TestGuard(t *testing.T) {
	down := errors.New("down")
	has := Decision{says(deputyv1.Permissionship_PERMISSIONSHIP_HAS_PERMISSION)}
	if err := Guard(has, nil); err != nil {
		t.Errorf("an allowed act: %v", err)
	}
	if err := Guard(has, down); !errors.Is(err, down) {
		t.Errorf("an answer with an error: %v, want the error", err)
	}
	no := says(deputyv1.Permissionship_PERMISSIONSHIP_NO_PERMISSION)
	no.RefusedBy, no.DecisionId = deputyv1.RefusedBy_REFUSED_BY_ACTOR, "d1"
	conditional := says(deputyv1.Permissionship_PERMISSIONSHIP_CONDITIONAL_PERMISSION)
	conditional.MissingContext = []string{"ip", "mfa"}
	for want, d := range map[string]Decision{
		"refused: UNSPECIFIED":                              {},
		"refused: NO_PERMISSION (actor), decision d1":       {no},
		"refused: CONDITIONAL_PERMISSION (missing ip, mfa)": {conditional},
		"refused: 77":            {says(77)},
		"refused: NO_PERMISSION": {says(deputyv1.Permissionship_PERMISSIONSHIP_NO_PERMISSION)},
	} {
		err := Guard(d, nil)
		refused, ok := errors.AsType[*Refused](err)
		if !ok || refused.Decision != d || err.Error() != want {
			t.Errorf("Guard(%v) = %v, want a Refused that says %q", d, err, want)
		}
	}
}

// An error never comes with a Decision that allows.
func TestErrorsRefuse(t *testing.T) {
	a := &answers{
		check: func(context.Context, *deputyv1.CheckPermissionRequest) (*deputyv1.CheckPermissionResponse, error) {
			return nil, status.Error(codes.Unavailable, "the engine does not answer")
		},
		bulk: func(context.Context, *deputyv1.CheckBulkPermissionsRequest) (*deputyv1.CheckBulkPermissionsResponse, error) {
			return nil, status.Error(codes.Unavailable, "the engine does not answer")
		},
	}
	s := start(t, serve(t, a))
	if d, err := ask(t, s); status.Code(err) != codes.Unavailable || d.Allowed() {
		t.Errorf("Check: %v, %v", d, err)
	}
	if got, err := s.CheckBulk(t.Context(), Question{}); status.Code(err) != codes.Unavailable || got != nil {
		t.Errorf("CheckBulk: %v, %v", got, err)
	}
	if s.Token().GetToken() != "started" {
		t.Errorf("a failure moved the token to %v", s.Token())
	}
	unspeakable := alicesPlan
	unspeakable.Context = Context{"f": func() {}}
	if d, err := s.Check(t.Context(), unspeakable); err == nil || d.Allowed() {
		t.Errorf("a context that is no JSON: %v, %v", d, err)
	}
}

func TestBulkAnswersAreMatchedStrictly(t *testing.T) {
	const has = deputyv1.Permissionship_PERMISSIONSHIP_HAS_PERMISSION
	allowed := &deputyv1.CheckBulkPermissionsPair{Response: &deputyv1.CheckBulkPermissionsPair_Item{Item: says(has)}}
	var pairs []*deputyv1.CheckBulkPermissionsPair
	s := start(t, serve(t, &answers{
		bulk: func(context.Context, *deputyv1.CheckBulkPermissionsRequest) (*deputyv1.CheckBulkPermissionsResponse, error) {
			return &deputyv1.CheckBulkPermissionsResponse{Pairs: pairs, CheckedAt: token("bulk")}, nil
		},
	}))
	three := []Question{{Permission: "a"}, {Permission: "b"}, {Permission: "c"}}

	pairs = []*deputyv1.CheckBulkPermissionsPair{allowed, allowed}
	if got, err := s.CheckBulk(t.Context(), three...); err == nil || got != nil {
		t.Errorf("two answers to three questions: %v, %v", got, err)
	}
	pairs = []*deputyv1.CheckBulkPermissionsPair{
		allowed,
		{Response: &deputyv1.CheckBulkPermissionsPair_Error{Error: &deputyv1.ErrorStatus{
			Code: int32(codes.InvalidArgument), Message: "permission is unknown", Reason: "UNKNOWN_PERMISSION", Field: "permission",
		}}},
		{}, // A kind of answer from the future.
	}
	got, err := s.CheckBulk(t.Context(), three...)
	if err != nil {
		t.Fatal(err)
	}
	if !got[0].Allowed() || got[0].Err != nil {
		t.Errorf("the first: %+v", got[0])
	}
	if got[1].Allowed() || status.Code(got[1].Err) != codes.InvalidArgument || ReasonOf(got[1].Err) != ReasonUnknownPermission || FieldOf(got[1].Err) != "permission" {
		t.Errorf("the second: %+v", got[1])
	}
	if got[2].Allowed() || got[2].Err == nil {
		t.Errorf("the third: %+v", got[2])
	}
	if s.Token().GetToken() != "bulk" {
		t.Errorf("token is %v", s.Token())
	}
	// An error whose code says OK is an error all the same.
	pairs = []*deputyv1.CheckBulkPermissionsPair{{Response: &deputyv1.CheckBulkPermissionsPair_Error{Error: &deputyv1.ErrorStatus{}}}}
	if got, err := s.CheckBulk(t.Context(), Question{}); err != nil || got[0].Err == nil || got[0].Allowed() {
		t.Errorf("an empty error: %v, %v", got, err)
	}
}

// As many questions as the server takes, each as long as it may be, are repeated in the answer.
func TestBulkAnswersMayBeLarge(t *testing.T) {
	s := start(t, serve(t, &answers{
		bulk: func(_ context.Context, r *deputyv1.CheckBulkPermissionsRequest) (*deputyv1.CheckBulkPermissionsResponse, error) {
			response := &deputyv1.CheckBulkPermissionsResponse{}
			for range 1000 {
				response.Pairs = append(response.Pairs, &deputyv1.CheckBulkPermissionsPair{
					Request:  r.GetItems()[0],
					Response: &deputyv1.CheckBulkPermissionsPair_Item{Item: says(0)},
				})
			}
			return response, nil
		},
	}))
	questions := make([]Question, 1000)
	questions[0].Context = Context{"note": strings.Repeat("x", 8000)} // The others' as well, in the answer.
	if got, err := s.CheckBulk(t.Context(), questions...); err != nil || len(got) != len(questions) {
		t.Errorf("%d answers, %v", len(got), err)
	}
}

func TestQuestionsGoOverTheWireWhole(t *testing.T) {
	var got *deputyv1.CheckPermissionRequest
	c := serve(t, &answers{
		check: func(_ context.Context, r *deputyv1.CheckPermissionRequest) (*deputyv1.CheckPermissionResponse, error) {
			got = r
			return says(deputyv1.Permissionship_PERMISSIONSHIP_NO_PERMISSION), nil
		},
	})
	nightly := Question{
		Agent: "bot", Principal: Service("nightly"), Tenant: "acme", Resource: Object("document", "a:b"), Permission: "view",
	}
	under, within := nightly, nightly
	under.Delegation, within.Session = "d1", "s9"
	plan := Question{Resource: Object("document", "plan"), Permission: "view"}
	const asked = " on_behalf_of:{object_type:'service' object_id:'nightly'} tenant_id:'acme' " +
		"resource:{object_type:'document' object_id:'a:b'} permission:'view'"
	for want, ask := range map[string]struct {
		of Checker
		q  Question
	}{
		"agent_id:'bot'" + asked:                    {c, nightly},
		"agent_id:'bot' delegation_id:'d1'" + asked: {c, under},
		"agent_id:'bot' session_id:'s9'" + asked:    {c, within},
		"agent_id:'bot' session_id:'s1' resource:{object_type:'document' object_id:'plan'} permission:'view' " +
			"session_token:{token:'started'}": {start(t, c), plan},
		"agent_id:'bot' session_id:'s1' resource:{object_type:'document' object_id:'plan'} permission:'view' " +
			"consistency:{at_exact_snapshot:{token:'then'}}": {start(t, c).Snapshot(token("then")), plan},
	} {
		if _, err := ask.of.Check(t.Context(), ask.q); err != nil {
			t.Fatal(err)
		}
		if text := fmt.Sprint(got); squeeze(text) != squeeze(strings.ReplaceAll(want, "'", `"`)) {
			t.Errorf("sent\n%s, want\n%s", text, want)
		}
		ask.q.Context = Context{"a": 1, "b": 2}
		if _, err := ask.of.Check(t.Context(), ask.q); err != nil {
			t.Fatal(err)
		}
		if m := got.GetContext().AsMap(); len(m) != 2 || m["a"] != 1.0 || m["b"] != 2.0 {
			t.Errorf("sent the context %v", m)
		}
	}
}

// What a question cannot say on the wire is an error, and not left out: it would be another question.
func TestQuestionsThatCannotBeAsked(t *testing.T) {
	called := false
	c := serve(t, &answers{check: func(context.Context, *deputyv1.CheckPermissionRequest) (*deputyv1.CheckPermissionResponse, error) {
		called = true
		return says(deputyv1.Permissionship_PERMISSIONSHIP_HAS_PERMISSION), nil
	}})
	s := start(t, c)
	twoWays, set, other, elsewhere := alicesPlan, alicesPlan, alicesPlan, alicesPlan
	twoWays.Session, twoWays.Delegation = "s1", "d1"
	set.Principal = TenantMembers("acme")
	other.Agent, elsewhere.Session = "other-bot", "s2"
	for name, ask := range map[string]struct {
		of Checker
		q  Question
	}{
		"a session and a delegation": {c, twoWays}, "a set of principals": {c, set},
		"another agent in a session": {s, other}, "another session in a session": {s, elsewhere},
		"another agent at a snapshot": {s.Snapshot(token("then")), other},
	} {
		if d, err := ask.of.Check(t.Context(), ask.q); err == nil || d.Allowed() {
			t.Errorf("%s: %v, %v", name, d, err)
		}
		if got, err := ask.of.CheckBulk(t.Context(), alicesPlan, ask.q); err == nil || got != nil {
			t.Errorf("%s, in bulk: %v, %v", name, got, err)
		}
	}
	if called {
		t.Error("one of them was asked all the same")
	}
}

// squeeze removes spaces, of which the text form of a message has an unstable number.
func squeeze(s string) string { return strings.ReplaceAll(s, " ", "") }

func TestSnapshotAsksAllAtOneRevision(t *testing.T) {
	var got *deputyv1.CheckBulkPermissionsRequest
	s := start(t, serve(t, &answers{
		bulk: func(_ context.Context, r *deputyv1.CheckBulkPermissionsRequest) (*deputyv1.CheckBulkPermissionsResponse, error) {
			got = r
			return &deputyv1.CheckBulkPermissionsResponse{
				CheckedAt: token("then"),
				Pairs:     []*deputyv1.CheckBulkPermissionsPair{{Response: &deputyv1.CheckBulkPermissionsPair_Item{Item: says(0)}}},
			}, nil
		},
	}))
	if _, err := s.Snapshot(token("then")).CheckBulk(t.Context(), Question{Permission: "view"}); err != nil {
		t.Fatal(err)
	}
	if got.GetConsistency().GetAtExactSnapshot().GetToken() != "then" || got.GetSessionToken() != nil ||
		got.GetItems()[0].GetSessionId() != "s1" || got.GetItems()[0].GetAgentId() != "bot" {
		t.Errorf("sent %v", got)
	}
	if s.Token().GetToken() != "started" {
		t.Errorf("a question about the past moved the token to %v", s.Token())
	}
}

func TestTokenFollowsAnswers(t *testing.T) {
	var sent string
	n := 0
	c := serve(t, &answers{
		check: func(_ context.Context, r *deputyv1.CheckPermissionRequest) (*deputyv1.CheckPermissionResponse, error) {
			sent = r.GetSessionToken().GetToken()
			n++
			return &deputyv1.CheckPermissionResponse{CheckedAt: token(fmt.Sprint("check ", n))}, nil
		},
	})
	s := start(t, c)
	expect := func(want string) {
		t.Helper()
		if _, err := ask(t, s); err != nil {
			t.Fatal(err)
		}
		if sent != want {
			t.Errorf("sent the token %q, want %q", sent, want)
		}
	}
	expect("started")
	expect("check 1")
	if err := s.Renew(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	expect("renewed")
	if s.State().GetExpiresAt() == nil {
		t.Error("Renew did not take over the session's end")
	}
	s.Observe(token("a write of mine"))
	s.Observe(nil)
	expect("a write of mine")
	if err := s.End(t.Context()); err != nil {
		t.Fatal(err)
	}
	expect("ended")
	if s = c.Session("bot", s.ID(), s.Token()); s.AgentID() != "bot" || s.State() != nil {
		t.Errorf("a handle on a session of elsewhere: %+v", s)
	}
	expect("check 5")
}

// Of two overlapping questions the one that is answered last must not put its older revision in the
// place of a newer one.
func TestTokenNeverGoesBack(t *testing.T) {
	slow, release := make(chan struct{}), make(chan struct{})
	s := start(t, serve(t, &answers{
		check: func(_ context.Context, r *deputyv1.CheckPermissionRequest) (*deputyv1.CheckPermissionResponse, error) {
			if r.GetPermission() == "slow" {
				close(slow)
				<-release
				return &deputyv1.CheckPermissionResponse{CheckedAt: token("older")}, nil
			}
			return &deputyv1.CheckPermissionResponse{CheckedAt: token("newer")}, nil
		},
	}))
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := s.Check(t.Context(), Question{Permission: "slow"}); err != nil {
			t.Error(err)
		}
	})
	<-slow
	if _, err := ask(t, s); err != nil {
		t.Fatal(err)
	}
	close(release)
	wg.Wait()
	if got := s.Token().GetToken(); got != "newer" {
		t.Errorf("the token is %q", got)
	}
}

func TestKeyIsSent(t *testing.T) {
	var got []string
	a := &answers{check: func(ctx context.Context, _ *deputyv1.CheckPermissionRequest) (*deputyv1.CheckPermissionResponse, error) {
		got = metadata.ValueFromIncomingContext(ctx, "authorization")
		return says(0), nil
	}}
	if _, err := ask(t, start(t, serve(t, a, WithPresharedKey("s3cret")))); err != nil {
		t.Fatal(err)
	}
	if len(got) != 1 || got[0] != "Bearer s3cret" {
		t.Errorf("authorization is %q", got)
	}
}

// The zero Principal and the empty tenant are left out of a request, not sent as empty messages.
func TestZeroQuestionIsEmpty(t *testing.T) {
	item, err := Question{}.item()
	if err != nil {
		t.Fatal(err)
	}
	if want := (&deputyv1.CheckBulkPermissionsRequestItem{Resource: &deputyv1.ObjectReference{}}); !proto.Equal(item, want) {
		t.Errorf("item is %v", item)
	}
}
