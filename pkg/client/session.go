package client

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

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

// SessionSpec is a session to be started.
type SessionSpec struct {
	// Agent is the agent that runs.
	Agent string
	// Targets are what it acts for: 1 to 64, with at most 100 principals together.
	Targets []Target
	// TTL is how long it lasts unless it is renewed, and never longer than the delegations; 0 means one hour.
	TTL time.Duration
	// Frozen keeps the rights at the start: what is granted later does not count, what is taken away does.
	Frozen bool
	// IdempotencyKey makes a retry of the same request return the same session: up to 128 bytes, this caller's own.
	IdempotencyKey string
	// ActorToken is the agent's own token, as in a Question; empty for none. The session acts for the token's principal only.
	ActorToken string
}

// Target is one thing that a session acts for.
type Target struct {
	// Delegation is the id of the delegation to act under, whose agent is the session's.
	Delegation string
	// Principals are for whom, each covered by the delegation. None: the delegation's own, where that is one user or service.
	Principals []Principal
	// Scope narrows what the delegation reaches to these grants. None: all that it reaches.
	Scope []Grant
}

// StartSession starts a session and returns its handle.
func (c *Client) StartSession(ctx context.Context, spec SessionSpec) (*Session, error) {
	request := &deputyv1.StartSessionRequest{
		AgentId: spec.Agent, Ttl: duration(spec.TTL), Frozen: spec.Frozen, IdempotencyKey: spec.IdempotencyKey,
		ActorToken: spec.ActorToken,
	}
	for _, t := range spec.Targets {
		target := &deputyv1.SessionTarget{DelegationId: t.Delegation, Scope: scope(t.Scope)}
		for _, p := range t.Principals {
			one, err := p.one()
			if err != nil {
				return nil, err
			}
			target.Principals = append(target.Principals, one)
		}
		request.Targets = append(request.Targets, target)
	}
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

// SessionQuery asks for the sessions of an agent.
type SessionQuery struct {
	// Agent is the agent's id.
	Agent string
	// Inactive lists also those that have ended or run out.
	Inactive bool
	Page
}

// ListSessions lists the sessions of an agent, by id.
func (c *Client) ListSessions(q SessionQuery) *List[*deputyv1.Session] {
	return listOf(q.Page, func(ctx context.Context, limit uint32, from *deputyv1.Cursor) (*deputyv1.ListSessionsResponse, error) {
		return c.Sessions.ListSessions(ctx, &deputyv1.ListSessionsRequest{
			AgentId: q.Agent, IncludeInactive: q.Inactive, Limit: limit, Cursor: from,
		})
	}, (*deputyv1.ListSessionsResponse).GetSessions)
}

// EndSession ends a session and all that was passed on from it. Ending an ended one succeeds.
func (c *Client) EndSession(ctx context.Context, id string) (writtenAt *deputyv1.ZedToken, err error) {
	response, err := c.Sessions.EndSession(ctx, &deputyv1.EndSessionRequest{SessionId: id})
	return response.GetWrittenAt(), err
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

// Token is the newest revision that the session knows of, or nil. A program that passes the
// session on passes it along.
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

// Check decides one question: may the session's agent, acting for this principal, in this tenant, do this to
// this object? Principal and tenant may be left out where the session holds only one.
//
// An error means that there is no answer, and the Decision beside it refuses.
func (s *Session) Check(ctx context.Context, q Question) (Decision, error) {
	sent := s.Token()
	d, err := s.check(ctx, q, nil, sent)
	s.advance(sent, d.CheckedAt())
	return d, err
}

// CheckBulk decides several questions at one revision: as many answers as questions, in order. A question
// that is wrong fails by itself.
func (s *Session) CheckBulk(ctx context.Context, questions ...Question) ([]Answer, error) {
	sent := s.Token()
	answers, at, err := s.checkBulk(ctx, questions, nil, sent)
	s.advance(sent, at)
	return answers, err
}

// LookupResources lists the objects of a type that the session's agent reaches; see Client.LookupResources.
func (s *Session) LookupResources(q ResourceQuery) *List[Reached] {
	if q.Agent != "" || q.Session != "" || q.Delegation != "" {
		return failed[Reached](errOwnActor)
	}
	q.Agent, q.Session = s.agentID, s.id
	return s.client.LookupResources(q)
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
	response, err := s.client.Sessions.RenewSession(ctx, &deputyv1.RenewSessionRequest{SessionId: s.id, Ttl: duration(ttl)})
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
	writtenAt, err := s.client.EndSession(ctx, s.id)
	s.advance(sent, writtenAt)
	return err
}

// errOwnActor refuses a question that says itself who acts.
var errOwnActor = errors.New("client: a session says who acts: leave Agent, Session and Delegation of the question empty")

// own is a question in the session's name.
func (s *Session) own(q Question) (Question, error) {
	if q.Agent != "" || q.Session != "" || q.Delegation != "" {
		return Question{}, errOwnActor
	}
	q.Agent, q.Session = s.agentID, s.id
	return q, nil
}

// check asks one question in the session's name.
func (s *Session) check(ctx context.Context, q Question, at *deputyv1.Consistency, token *deputyv1.ZedToken) (Decision, error) {
	q, err := s.own(q)
	if err != nil {
		return Decision{}, err
	}
	return s.client.check(ctx, q, at, token)
}

// checkBulk asks several in the session's name.
func (s *Session) checkBulk(
	ctx context.Context, questions []Question, at *deputyv1.Consistency, token *deputyv1.ZedToken,
) ([]Answer, *deputyv1.ZedToken, error) {
	own := make([]Question, len(questions))
	for i, q := range questions {
		var err error
		if own[i], err = s.own(q); err != nil {
			return nil, nil, fmt.Errorf("question %d: %w", i, err)
		}
	}
	return s.client.checkBulk(ctx, own, at, token)
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
func (s *Snapshot) Check(ctx context.Context, q Question) (Decision, error) {
	return s.session.check(ctx, q, s.at, nil)
}

// CheckBulk is like Session.CheckBulk, at the snapshot's revision.
func (s *Snapshot) CheckBulk(ctx context.Context, questions ...Question) ([]Answer, error) {
	answers, _, err := s.session.checkBulk(ctx, questions, s.at, nil)
	return answers, err
}
