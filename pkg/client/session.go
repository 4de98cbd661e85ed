package client

import (
	"context"
	"errors"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// Session is one run of one agent. It is safe for concurrent use.
//
// It holds the token of the newest revision that it knows of and sends it with every question, as a
// lower bound: no question is answered at an older revision. Tokens are sealed, so two of them cannot be
// compared; an answer's token replaces the one that is held only if the question carried that one, and is
// therefore not older. Of questions that overlap in time, the first to be answered counts.
type Session struct {
	client  *Client
	id      string
	agentID string

	mu    sync.Mutex
	token *deputyv1.ZedToken
	state *deputyv1.Session
}

// StartSession starts a session and returns its handle.
func (c *Client) StartSession(ctx context.Context, request *deputyv1.StartSessionRequest) (*Session, error) {
	response, err := c.Sessions.StartSession(ctx, request)
	if err != nil {
		return nil, err
	}
	state := response.GetSession()
	if state.GetSessionId() == "" {
		return nil, errors.New("client: the server started a session without an id")
	}
	return &Session{
		client: c, id: state.GetSessionId(), agentID: state.GetAgentId(),
		token: response.GetWrittenAt(), state: state,
	}, nil
}

// Session returns a handle on a session that was started elsewhere: its agent, its id, and the Token
// that came with them, or nil. It asks the server nothing; a session that does not exist is the error of
// the first question.
func (c *Client) Session(agentID, sessionID string, token *deputyv1.ZedToken) *Session {
	return &Session{client: c, id: sessionID, agentID: agentID, token: token}
}

// ID is the session's id.
func (s *Session) ID() string { return s.id }

// AgentID is the id of the agent that runs.
func (s *Session) AgentID() string { return s.agentID }

// Token is the newest revision that the session knows of, or nil. Whoever passes the session on passes
// it along.
func (s *Session) Token() *deputyv1.ZedToken {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.token
}

// Observe makes a revision the session's lower bound: call it with the written_at of a write right after
// that write, and the next question is answered after it. nil is ignored.
func (s *Session) Observe(writtenAt *deputyv1.ZedToken) {
	if writtenAt.GetToken() == "" {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.token = writtenAt
}

// State is the session as the server last described it, with its end and its leaves: when it was
// started or renewed through this handle, else nil. It is not to be changed.
func (s *Session) State() *deputyv1.Session {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state
}

// Check decides one case: may the session's agent, acting for this principal, in this tenant, do this to
// this object? Principal and tenant may be zero where the session holds only one. Caveat context of
// several maps is merged, later ones first.
//
// An error means that there is no answer, and the Decision beside it refuses.
func (s *Session) Check(
	ctx context.Context, principal Principal, tenant string, resource Resource, permission string, caveats ...Context,
) (Decision, error) {
	sent := s.Token()
	d, err := s.check(ctx, Question{principal, tenant, resource, permission, merge(caveats)}, nil, sent)
	s.advance(sent, d.CheckedAt())
	return d, err
}

// CheckAll decides several cases at one revision: as many answers as questions, in order. A question
// that is wrong fails by itself.
func (s *Session) CheckAll(ctx context.Context, questions ...Question) ([]Answer, error) {
	sent := s.Token()
	answers, at, err := s.client.checkAll(ctx, questions, s.id, s.agentID, nil, sent)
	s.advance(sent, at)
	return answers, err
}

// Snapshot asks at one past revision, such as the CheckedAt of a Decision: several questions about one
// picture. Permissions are judged at that revision, and that the session, its delegations and its agents
// are live at the newest one too. The server refuses a revision that is too old (30 s unless configured).
func (s *Session) Snapshot(at *deputyv1.ZedToken) *Snapshot {
	return &Snapshot{session: s, at: &deputyv1.Consistency{
		Requirement: &deputyv1.Consistency_AtExactSnapshot{AtExactSnapshot: at},
	}}
}

// Renew moves the session's end to ttl from now; 0 leaves the time to the server.
func (s *Session) Renew(ctx context.Context, ttl time.Duration) error {
	sent := s.Token()
	request := &deputyv1.RenewSessionRequest{SessionId: s.id}
	if ttl != 0 {
		request.Ttl = durationpb.New(ttl)
	}
	response, err := s.client.Sessions.RenewSession(ctx, request)
	if err != nil {
		return err
	}
	s.advance(sent, response.GetWrittenAt())
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state = response.GetSession()
	return nil
}

// End ends the session and all that was passed on from it. Ending an ended one succeeds.
func (s *Session) End(ctx context.Context) error {
	sent := s.Token()
	response, err := s.client.Sessions.EndSession(ctx, &deputyv1.EndSessionRequest{SessionId: s.id})
	s.advance(sent, response.GetWrittenAt())
	return err
}

// check asks one question in the session's name.
func (s *Session) check(ctx context.Context, q Question, at *deputyv1.Consistency, token *deputyv1.ZedToken) (Decision, error) {
	item, err := q.item()
	if err != nil {
		return Decision{}, err
	}
	item.AgentId = s.agentID
	item.Via = &deputyv1.CheckBulkPermissionsRequestItem_SessionId{SessionId: s.id}
	return s.client.check(ctx, item, at, token)
}

// advance takes over the token of an answer, unless the one that is held is no longer the one that was
// sent: which of the two is newer then nobody can tell.
func (s *Session) advance(sent, got *deputyv1.ZedToken) {
	if got.GetToken() == "" {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.token == sent {
		s.token = got
	}
}

// Snapshot asks a session's questions at one revision. It is safe for concurrent use.
type Snapshot struct {
	session *Session
	at      *deputyv1.Consistency
}

// Check is like Session.Check, at the snapshot's revision.
func (s *Snapshot) Check(
	ctx context.Context, principal Principal, tenant string, resource Resource, permission string, caveats ...Context,
) (Decision, error) {
	return s.session.check(ctx, Question{principal, tenant, resource, permission, merge(caveats)}, s.at, nil)
}

// CheckAll is like Session.CheckAll, at the snapshot's revision.
func (s *Snapshot) CheckAll(ctx context.Context, questions ...Question) ([]Answer, error) {
	answers, _, err := s.session.client.checkAll(ctx, questions, s.session.id, s.session.agentID, s.at, nil)
	return answers, err
}
