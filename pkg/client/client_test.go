package client

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
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
	c, err := Dial(listener.Addr().String(), append(opts, WithInsecure())...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func start(t *testing.T, c *Client) *Session {
	t.Helper()
	s, err := c.StartSession(t.Context(), &deputyv1.StartSessionRequest{AgentId: "bot"})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// ask is the question that most tests here ask.
func ask(t *testing.T, s interface {
	Check(ctx context.Context, p Principal, tenant string, r Resource, permission string, caveats ...Context) (Decision, error)
},
) (Decision, error) {
	t.Helper()
	return s.Check(t.Context(), User("alice"), "acme", Object("document", "plan"), "view")
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
	if got, err := s.CheckAll(t.Context(), Question{}); status.Code(err) != codes.Unavailable || got != nil {
		t.Errorf("CheckAll: %v, %v", got, err)
	}
	if s.Token().GetToken() != "started" {
		t.Errorf("a failure moved the token to %v", s.Token())
	}
	unspeakable := Context{"f": func() {}}
	if d, err := s.Check(t.Context(), User("alice"), "acme", Object("document", "plan"), "view", unspeakable); err == nil || d.Allowed() {
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
	if got, err := s.CheckAll(t.Context(), three...); err == nil || got != nil {
		t.Errorf("two answers to three questions: %v, %v", got, err)
	}
	pairs = []*deputyv1.CheckBulkPermissionsPair{
		allowed,
		{Response: &deputyv1.CheckBulkPermissionsPair_Error{Error: &deputyv1.ErrorStatus{
			Code: int32(codes.InvalidArgument), Message: "permission is unknown", Reason: "UNKNOWN_PERMISSION",
		}}},
		{}, // A kind of answer from the future.
	}
	got, err := s.CheckAll(t.Context(), three...)
	if err != nil {
		t.Fatal(err)
	}
	if !got[0].Allowed() || got[0].Err != nil {
		t.Errorf("the first: %+v", got[0])
	}
	if got[1].Allowed() || status.Code(got[1].Err) != codes.InvalidArgument || Reason(got[1].Err) != "UNKNOWN_PERMISSION" {
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
	if got, err := s.CheckAll(t.Context(), Question{}); err != nil || got[0].Err == nil || got[0].Allowed() {
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
	if got, err := s.CheckAll(t.Context(), questions...); err != nil || len(got) != len(questions) {
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
	type asking func(...Context) (Decision, error)
	with := func(actor Actor) asking {
		return func(contexts ...Context) (Decision, error) {
			return c.Check(t.Context(), actor, Service("nightly"), "acme", Object("document", "a:b"), "view", contexts...)
		}
	}
	for want, ask := range map[string]asking{
		"agent_id:'bot' on_behalf_of:{object_type:'service' object_id:'nightly'} tenant_id:'acme' " +
			"resource:{object_type:'document' object_id:'a:b'} permission:'view'": with(Actor{Agent: "bot"}),
		"agent_id:'bot' delegation_id:'d1' on_behalf_of:{object_type:'service' object_id:'nightly'} tenant_id:'acme' " +
			"resource:{object_type:'document' object_id:'a:b'} permission:'view'": with(Actor{Agent: "bot", Delegation: "d1"}),
		"agent_id:'bot' session_id:'s1' resource:{object_type:'document' object_id:'plan'} permission:'view' " +
			"session_token:{token:'started'}": func(contexts ...Context) (Decision, error) {
			return start(t, c).Check(t.Context(), Principal{}, "", Object("document", "plan"), "view", contexts...)
		},
		"agent_id:'bot' session_id:'s1' resource:{object_type:'document' object_id:'plan'} permission:'view' " +
			"consistency:{at_exact_snapshot:{token:'then'}}": func(contexts ...Context) (Decision, error) {
			return start(t, c).Snapshot(token("then")).Check(t.Context(), Principal{}, "", Object("document", "plan"), "view", contexts...)
		},
	} {
		if _, err := ask(); err != nil {
			t.Fatal(err)
		}
		if text := fmt.Sprint(got); squeeze(text) != squeeze(strings.ReplaceAll(want, "'", `"`)) {
			t.Errorf("sent\n%s, want\n%s", text, want)
		}
		if _, err := ask(Context{"a": 1, "b": 1}, Context{"b": 2}); err != nil {
			t.Fatal(err)
		}
		if m := got.GetContext().AsMap(); len(m) != 2 || m["a"] != 1.0 || m["b"] != 2.0 {
			t.Errorf("sent the context %v", m)
		}
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
	if _, err := s.Snapshot(token("then")).CheckAll(t.Context(), Question{Permission: "view"}); err != nil {
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
		if _, err := s.Check(t.Context(), User("alice"), "acme", Object("document", "plan"), "slow"); err != nil {
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

func TestKeyStaysOffPlaintext(t *testing.T) {
	// However plaintext comes about, only WithInsecure lets the key through.
	c, err := Dial("127.0.0.1:1", WithPresharedKey("s3cret"),
		WithDialOptions(grpc.WithTransportCredentials(insecure.NewCredentials())))
	if err == nil {
		_ = c.Close()
		t.Fatal("a key over plaintext that nobody asked for")
	}
	if strings.Contains(err.Error(), "s3cret") {
		t.Errorf("the error holds the key: %v", err)
	}
}

func TestDialRefuses(t *testing.T) {
	for name, test := range map[string]struct {
		endpoint string
		opts     []Option
		want     string
	}{
		"no endpoint":     {"", nil, "no endpoint"},
		"an empty key":    {"localhost:1", []Option{WithPresharedKey("")}, "is empty"},
		"a key of a file": {"localhost:1", []Option{WithPresharedKey("s3cret\n")}, "cannot carry"},
		"TLS without TLS": {"localhost:1", []Option{WithInsecure(), WithTLS(&tls.Config{MinVersion: tls.VersionTLS13})}, "exclude each other"},
	} {
		c, err := Dial(test.endpoint, test.opts...)
		if err == nil {
			_ = c.Close()
			t.Errorf("%s: no error", name)
			continue
		}
		if !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: %v, want %q and no key", name, err, test.want)
		}
	}
}

func TestReason(t *testing.T) {
	s, err := status.New(codes.NotFound, "no such session").WithDetails(
		&errdetails.RequestInfo{}, &errdetails.ErrorInfo{Reason: "SESSION_NOT_FOUND"})
	if err != nil {
		t.Fatal(err)
	}
	for want, err := range map[string]error{
		"SESSION_NOT_FOUND": fmt.Errorf("checking: %w", s.Err()),
	} {
		if got := Reason(err); got != want {
			t.Errorf("Reason(%v) = %q, want %q", err, got, want)
		}
	}
	for _, err := range []error{nil, errors.New("plain"), status.Error(codes.Internal, "bare"), &Refused{}} {
		if got := Reason(err); got != "" {
			t.Errorf("Reason(%v) = %q, want none", err, got)
		}
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
