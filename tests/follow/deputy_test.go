package follow_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/caller"
	"github.com/deputyauth/deputy/pkg/daemon"
	"github.com/deputyauth/deputy/pkg/engine"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/pkg/journal"
	"github.com/deputyauth/deputy/tests/harness"
)

// primary starts a server on the engine embedded that others may follow.
func primary(t *testing.T) *node {
	t.Helper()
	return &node{Server: harness.Start(t, daemon.Config{Engine: harness.Embedded(t), Callers: harness.Followers()})}
}

// followsDeputy starts a server that follows another one.
func followsDeputy(t *testing.T, p *node, change func(*daemon.Config)) *node {
	t.Helper()
	cfg := harness.Following(t, p.Addr().String())
	cfg.MetricsAddr = "127.0.0.1:0"
	if change != nil {
		change(&cfg)
	}
	logs, said := observer.New(zapcore.InfoLevel)
	t.Cleanup(func() {
		for _, entry := range said.All() {
			noDatabase(t, "the log", fmt.Sprint(entry.Message, entry.ContextMap()))
		}
	})
	s := harness.StartLogging(t, cfg, zaptest.NewLogger(t, zaptest.Level(zapcore.WarnLevel), zaptest.WrapOptions(
		zap.WrapCore(func(core zapcore.Core) zapcore.Core { return zapcore.NewTee(core, logs) }))))
	return &node{s, s.MetricsAddr().String()}
}

// noDatabase fails the test where a server that follows another Deputy speaks of a database: there is none.
func noDatabase(t *testing.T, where, text string) {
	t.Helper()
	if strings.Contains(strings.ToLower(text), "database") {
		t.Errorf("%s speaks of a database, and another Deputy is followed: say %q, which is true of both: %s", where, "the primary", text)
	}
}

// TestRevokedThroughPrimaryOrFollower revokes through the server that is followed, or through one that follows, and asks another one next, while all
// of them write: no answer is older than the acknowledged revocation, and it is the copy that answers.
func TestRevokedThroughPrimaryOrFollower(t *testing.T) {
	t.Parallel()
	p := primary(t)
	a, b := followsDeputy(t, p, nil), followsDeputy(t, p, nil)
	check := a.furnish(t)
	b.wants(t, check, has)
	p.wants(t, check, has)
	noise, quiet := context.WithCancel(t.Context())
	var noisy sync.WaitGroup
	defer noisy.Wait()
	defer quiet()
	for w, n := range []*node{p, a, b} {
		noisy.Go(func() {
			for i := 0; noise.Err() == nil; i++ {
				_, _ = harness.Update(noise, n.Admin, v1.RelationshipUpdate_OPERATION_TOUCH, fmt.Sprintf("document:n%d-%d#tenant@tenant:acme", w, i%50))
			}
		})
	}
	const grant = "document:plan#reader@user:alice"
	rounds, stale, lost := revokes(t), 0, 0
	for i := range rounds {
		by, ask := []*node{p, a, p, b}[i%4], []*node{b, b, a, p}[i%4]
		wanted := func(want deputyv1.Permissionship) bool {
			resp, err := ask.check(t, check)
			if err != nil {
				t.Fatalf("round %d: %v", i, err)
			}
			return resp.GetPermissionship() == want
		}
		by.Delete(t, grant)
		if !wanted(no) {
			stale++
		}
		by.Touch(t, grant)
		if !wanted(has) {
			lost++
		}
	}
	if stale+lost > 0 {
		t.Errorf("of %d revocations %d were not seen, and %d grants were not", rounds, stale, lost)
	}
	byCopy, byPrimary := b.answers(t)
	t.Logf("%d rounds; a follower answered %.0f states from its copy and %.0f by the server that it follows", rounds, byCopy, byPrimary)
	if byCopy < 20*byPrimary || byCopy < float64(rounds) {
		t.Errorf("a follower answered %.0f states from its copy and %.0f by the server that it follows", byCopy, byPrimary)
	}
}

// TestDeputyTokensHoldEverywhere has tokens of each server be bounds, and exact revisions, at the others.
func TestDeputyTokensHoldEverywhere(t *testing.T) { //nolint:tparallel // one step after the other
	t.Parallel()
	p := primary(t)
	a, b := followsDeputy(t, p, nil), followsDeputy(t, p, nil)
	check := a.furnish(t)
	at := func(c *deputyv1.Consistency) *deputyv1.CheckPermissionRequest {
		return &deputyv1.CheckPermissionRequest{
			AgentId: check.GetAgentId(), Via: check.GetVia(), Resource: check.GetResource(), Permission: "view", Consistency: c,
		}
	}
	exactly := func(token *deputyv1.ZedToken) *deputyv1.CheckPermissionRequest {
		return at(&deputyv1.Consistency{Requirement: &deputyv1.Consistency_AtExactSnapshot{AtExactSnapshot: token}})
	}
	atLeast := func(token *deputyv1.ZedToken) *deputyv1.CheckPermissionRequest {
		return at(&deputyv1.Consistency{Requirement: &deputyv1.Consistency_AtLeastAsFresh{AtLeastAsFresh: token}})
	}
	nodes := map[string]*node{"a follower": a, "another follower": b, "the server that is followed": p}
	for by, n := range nodes {
		before := n.wants(t, check, has).GetCheckedAt()
		n.Delete(t, "document:plan#reader@user:alice")
		after := n.wants(t, check, no).GetCheckedAt()
		for name, other := range nodes {
			t.Run(by+" and "+name, func(t *testing.T) {
				other.wants(t, exactly(before), has)
				other.wants(t, exactly(after), no)
				other.wants(t, atLeast(after), no)
				session := at(nil)
				session.SessionToken = after
				other.wants(t, session, no)
			})
		}
		n.Touch(t, "document:plan#reader@user:alice")
	}
	// Tokens of another store are none of these servers'.
	foreign := primary(t)
	theirs := foreign.furnish(t)
	token := foreign.wants(t, theirs, has).GetCheckedAt()
	for name, n := range nodes {
		for what, r := range map[string]*deputyv1.CheckPermissionRequest{"exactly": exactly(token), "at least": atLeast(token)} {
			if _, err := n.check(t, r); status.Code(err) != codes.OutOfRange {
				t.Errorf("%s takes a token of another store, %s: %v", name, what, err)
			}
		}
		session := at(nil)
		session.SessionToken = token
		if _, err := n.check(t, session); status.Code(err) != codes.OutOfRange {
			t.Errorf("%s takes a session's token of another store: %v", name, err)
		}
	}
}

// TestPrimaryStopped stops the server that is followed: calls that ask for the head are refused in time, those that do not are answered until the copy
// is too old. Once the server is back, so are its followers, by the copies that they have.
func TestPrimaryStopped(t *testing.T) {
	t.Parallel()
	on := harness.Embedded(t)
	first := harness.Start(t, daemon.Config{Engine: on, Callers: harness.Followers()})
	addr := first.Addr().String()
	const maxAge = 5 * time.Second
	n := followsDeputy(t, &node{Server: first}, func(c *daemon.Config) { c.Following.Wait, c.Following.MaxAge = 250*time.Millisecond, maxAge })
	check := n.furnish(t)
	n.wants(t, check, has)
	n.inContact(t)
	fast := &deputyv1.CheckPermissionRequest{
		AgentId: check.GetAgentId(), Via: check.GetVia(), Resource: check.GetResource(), Permission: "view",
		Consistency: &deputyv1.Consistency{Requirement: &deputyv1.Consistency_MinimizeLatency{MinimizeLatency: true}},
	}
	first.Stop()
	<-first.Stopped
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	n.wants(t, fast, has)
	resp, err := n.check(t, check)
	if err == nil {
		t.Fatalf("without the server that it follows the follower answers %v", resp.GetPermissionship())
	}
	if code := status.Code(err); code != codes.Unavailable && code != codes.DeadlineExceeded {
		t.Errorf("without the server that it follows the follower fails with %v", err)
	}
	noDatabase(t, "a call's failure", err.Error())
	harness.NotReady(t, n.Nobody)
	noDatabase(t, "the status", n.outOfContact(t, harness.FollowerKey))
	if resp, err := n.check(t, fast); err == nil {
		t.Errorf("the copy is older than %s, and the follower answers %v", maxAge, resp.GetPermissionship())
	} else {
		noDatabase(t, "a call's failure", err.Error())
	}
	again := harness.Start(t, daemon.Config{Addr: addr, Engine: on, Callers: harness.Followers()})
	again.Delete(t, "document:plan#reader@user:alice")
	harness.Ready(t, n.Nobody)
	n.inContact(t)
	n.wants(t, check, no)
	if loads := n.figure(t, "deputy_follow_loads_total"); loads != 1 {
		t.Errorf("the copy was loaded %.0f times, want once", loads)
	}
}

// TestOnlyFollowersFollow refuses to follow with the credential of an admin, of a follower that is bound to a tenant, and a server whose engine is not
// embedded.
func TestOnlyFollowersFollow(t *testing.T) {
	t.Parallel()
	bound := harness.Followers()[0]
	narrow := *bound
	narrow.Name, narrow.Bounds = "bound", authz.Unbounded()
	narrow.Bounds.Tenants = authz.NamesOf("acme")
	narrow.Credentials = []caller.Credential{{ID: "key", Key: sha256.Sum256([]byte("key-of-a-bound-follower"))}}
	p := &node{Server: harness.Start(t, daemon.Config{Engine: harness.Embedded(t), Callers: append(harness.Followers(), &narrow)})}
	memory := &node{Server: harness.Start(t, daemon.Config{Engine: engine.Config{Kind: engine.Memory}, Callers: harness.Followers()})}
	p.furnish(t)
	for name, c := range map[string]struct {
		conn *node
		key  string
		want codes.Code
	}{
		"a follower": {p, harness.FollowerKey, codes.OK}, "an admin": {p, harness.AdminKey, codes.PermissionDenied},
		"a service": {p, harness.ServiceKey, codes.PermissionDenied}, "nobody": {p, "", codes.Unauthenticated},
		"a bound follower": {p, "key-of-a-bound-follower", codes.PermissionDenied}, "the engine memory": {memory, harness.FollowerKey, codes.FailedPrecondition},
	} {
		conn := harness.Dial(t, c.conn.Addr().String(), c.key)
		if _, err := deputyv1.NewFollowServiceClient(conn).GetHead(t.Context(), &deputyv1.GetHeadRequest{}); status.Code(err) != c.want {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

// TestNoDeputy refuses to follow a SpiceDB, and a Deputy that itself follows.
func TestNoDeputy(t *testing.T) {
	t.Parallel()
	p := primary(t)
	follower := harness.Following(t, p.Addr().String())
	follower.Callers = harness.Followers()
	chain := harness.Following(t, harness.Start(t, follower).Addr().String())
	for name, c := range map[string]struct {
		engine engine.Config
		says   string
	}{
		"a SpiceDB": {harness.Remote(t), "is no Deputy"}, "a Deputy that follows": {chain.Engine, "embedded"},
	} {
		d, err := daemon.Open(t.Context(), daemon.Config{
			Engine: c.engine, PresharedKeys: []string{harness.ServiceKey}, TokenKey: []byte("a token key of at least 32 bytes"),
			Following: daemon.Following{On: true, Dir: t.TempDir()}, Journal: daemon.Journal{Off: true},
		}, zap.NewNop())
		if err == nil {
			err = d.Close()
			t.Errorf("%s is followed (%v)", name, err)
		} else if !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestPromoted promotes the copy of a follower once the server that it followed is lost: what that had acknowledged until then is there, its tokens
// are refused, by the promoted server and by a follower of both, which loads the new store.
func TestPromoted(t *testing.T) {
	t.Parallel()
	first := harness.Start(t, daemon.Config{Engine: harness.Embedded(t), Callers: harness.Followers()})
	addr := first.Addr().String()
	p := &node{Server: first}
	copies := t.TempDir()
	a := followsDeputy(t, p, func(c *daemon.Config) { c.Following.Dir = copies })
	var followed daemon.Config
	b := followsDeputy(t, p, func(c *daemon.Config) {
		c.Journal = daemon.Journal{Dir: t.TempDir()}
		followed = *c
	})
	check := a.furnish(t)
	old := p.wants(t, check, has).GetCheckedAt()
	session, err := a.Sessions().StartSession(t.Context(), &deputyv1.StartSessionRequest{
		AgentId: "bot", Targets: []*deputyv1.SessionTarget{{DelegationId: check.GetDelegationId()}}, Ttl: durationpb.New(time.Hour),
	})
	if err != nil {
		t.Fatal(err)
	}
	frozen := map[string]*deputyv1.CheckPermissionRequest{
		"the primary": p.frozen(t, check.GetDelegationId()), "a follower": a.frozen(t, check.GetDelegationId()),
	}
	for where, f := range frozen {
		b.wants(t, f, has)
		for name, n := range map[string]*node{"the primary": p, "a follower": b} {
			if lost := n.baselineLost(t, f); lost != "" {
				t.Errorf("%s says of the baseline of a session that %s started, which can be read: %q", name, where, lost)
			}
		}
	}
	p.Delete(t, "document:plan#reader@user:alice")
	a.wants(t, check, no)
	p.Touch(t, "document:plan#reader@user:alice")
	a.wants(t, check, has)
	b.wants(t, check, has)
	to := t.TempDir()
	if _, err := daemon.Promote(copies, to, zap.NewNop()); err == nil {
		t.Fatal("the copy of a server that runs is promoted")
	}
	for _, s := range []*harness.Server{first, a.Server} {
		s.Stop()
		<-s.Stopped
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	promoted, err := daemon.Promote(copies, to, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	if since := time.Since(promoted.Position.At); since < 0 || since > 2*time.Minute {
		t.Errorf("the copy has everything until %s ago", since)
	}
	n := &node{Server: harness.Start(t, daemon.Config{Addr: addr, Engine: engine.Config{Kind: engine.Embedded, Dir: to}, Callers: harness.Followers()})}
	n.wants(t, check, has)
	inSession := &deputyv1.CheckPermissionRequest{
		AgentId: "bot", Via: &deputyv1.CheckPermissionRequest_SessionId{SessionId: session.GetSession().GetSessionId()},
		Resource: harness.Ref("document:plan"), Permission: "view",
	}
	n.wants(t, inSession, has)
	harness.Ready(t, b.Nobody)
	// The follower has found the new store once it shows what only that has.
	n.Touch(t, "document:new#tenant@tenant:acme", "document:new#reader@user:alice", "document:new#reader@agent:bot")
	onNew := &deputyv1.CheckPermissionRequest{AgentId: "bot", Via: check.GetVia(), Resource: harness.Ref("document:new"), Permission: "view"}
	for limit := time.Now().Add(time.Minute); ; {
		resp, err := b.check(t, onNew)
		if err == nil && resp.GetPermissionship() == has && b.figure(t, "deputy_follow_loads_total") == 2 && b.figure(t, "deputy_follow_serves") == 1 {
			break
		}
		if time.Now().After(limit) {
			t.Fatalf("the follower does not follow the promoted server: %v, %v", resp, err)
		}
	}
	for name, n := range map[string]*node{"the promoted server": n, "its follower": b} {
		for what, c := range map[string]*deputyv1.CheckPermissionRequest{
			"a bound":           {Consistency: &deputyv1.Consistency{Requirement: &deputyv1.Consistency_AtLeastAsFresh{AtLeastAsFresh: old}}},
			"exactly":           {Consistency: &deputyv1.Consistency{Requirement: &deputyv1.Consistency_AtExactSnapshot{AtExactSnapshot: old}}},
			"a session's token": {SessionToken: session.GetWrittenAt()},
		} {
			c.AgentId, c.Via, c.Resource, c.Permission = "bot", check.GetVia(), harness.Ref("document:plan"), "view"
			if resp, err := n.check(t, c); status.Code(err) != codes.OutOfRange {
				t.Errorf("%s takes a token of the lost server, as %s: %v, %v", name, what, resp.GetPermissionship(), err)
			}
		}
	}
	for where, f := range frozen {
		n.lostBaseline(t, f, "the promoted server, of a session that "+where+" started")
		b.lostBaseline(t, f, "its follower, of a session that "+where+" started")
	}
	n.Delete(t, "document:plan#reader@user:alice")
	b.wants(t, check, no)
	b.goesOn(t, followed, to, check)
}

// goesOn starts a follower again, whose store has become another one while it ran: its journal goes on, and says which store was followed from where on. taken is a
// data directory that has a store.
func (n *node) goesOn(t *testing.T, followed daemon.Config, taken string, check *deputyv1.CheckPermissionRequest) {
	t.Helper()
	n.Stop()
	<-n.Stopped
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := daemon.Promote(followed.Following.Dir, taken, zap.NewNop()); err == nil || !strings.Contains(err.Error(), "another one with --data-dir") {
		t.Errorf("promoted to a data directory that has a store: %v", err)
	}
	again := harness.Start(t, followed)
	(&node{Server: again}).wants(t, check, no)
	reader, err := journal.OpenReader(journal.ReaderConfig{Dir: followed.Journal.Dir})
	if err != nil {
		t.Fatal(err)
	}
	var says []string
	_, err = reader.Query(t.Context(), &journal.Query{}, nil, func(f journal.Found) (bool, error) {
		says = append(says, f.Record.GetNote())
		return true, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	const id = "([0-9a-f-]{36})"
	found := regexp.MustCompile(`(?s)the journal begins: deputy/` + id + `/.*the server started: [^\n]*, follows the store ` + id + `\n.*` +
		`from here on the server follows Deputy store ` + id + `; before, it followed Deputy store ` + id + `\n.*` +
		`the server started: [^\n]*, follows the store ` + id + `\n`).FindStringSubmatch(strings.Join(says, "\n") + "\n")
	if found == nil {
		t.Fatalf("the journal's notes are %q", says)
	}
	if before, now := found[1], found[3]; before == now || found[2] != before || found[4] != before || found[5] != now {
		t.Errorf("the journal's notes name the stores %q", found[1:])
	}
}

// frozen starts a frozen session of bot's, and returns the check in it whether bot may view the document of furnish.
func (n *node) frozen(t *testing.T, delegation string) *deputyv1.CheckPermissionRequest {
	t.Helper()
	resp, err := n.Sessions().StartSession(t.Context(), &deputyv1.StartSessionRequest{
		AgentId: "bot", Targets: []*deputyv1.SessionTarget{{DelegationId: delegation}}, Ttl: durationpb.New(time.Hour), Frozen: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	return &deputyv1.CheckPermissionRequest{
		AgentId: "bot", Via: &deputyv1.CheckPermissionRequest_SessionId{SessionId: resp.GetSession().GetSessionId()},
		Resource: harness.Ref("document:plan"), Permission: "view",
	}
}

// baselineLost is what a server says of the baseline of the session that a check is made in.
func (n *node) baselineLost(t *testing.T, check *deputyv1.CheckPermissionRequest) string {
	t.Helper()
	resp, err := n.Sessions().GetSession(t.Context(), &deputyv1.GetSessionRequest{SessionId: check.GetSessionId()})
	if err != nil {
		t.Fatal(err)
	}
	return resp.GetSession().GetBaselineLost()
}

// lostBaseline fails the test unless a check in a frozen session whose baseline is of a history that is no more is refused, and its explanation has that
// as the only reason, with what to do, which is also said of the session.
func (n *node) lostBaseline(t *testing.T, check *deputyv1.CheckPermissionRequest, name string) {
	t.Helper()
	if by := n.wants(t, check, no).GetRefusedBy(); by != deputyv1.RefusedBy_REFUSED_BY_ACTOR {
		t.Errorf("%s: refused by %v, want the actor", name, by)
	}
	resp, err := deputyv1.NewPermissionsServiceClient(n.Admin).ExplainPermission(t.Context(), &deputyv1.ExplainPermissionRequest{Check: check})
	if err != nil {
		t.Fatal(err)
	}
	var refuses []string
	for _, c := range resp.GetCandidates() {
		for _, g := range c.GetGates() {
			for _, condition := range g.GetConditions() {
				if condition.GetOutcome() != deputyv1.Outcome_OUTCOME_YES {
					refuses = append(refuses, fmt.Sprintf("%s: %s: %s", g.GetGate(), condition.GetCondition(), condition.GetDetail()))
				}
			}
		}
	}
	if len(refuses) != 1 || !strings.HasPrefix(refuses[0], "GATE_BASELINE: what held when the session started can be read: ") ||
		!strings.Contains(refuses[0], "start the session anew") {
		t.Errorf("%s: an explanation refuses for %q; want the baseline alone, which cannot be read", name, refuses)
	} else if lost := n.baselineLost(t, check); lost == "" || !strings.HasSuffix(refuses[0], ": "+lost) {
		t.Errorf("%s: of the session it is said %q, and an explanation says %q", name, lost, refuses[0])
	}
}

// TestWordsKeepToBounds: what there is instead of a name that is wrong is said to a caller of a follower as far as its bounds let it know, as where the
// graph is, and not as far as the follower's own reach.
func TestWordsKeepToBounds(t *testing.T) {
	t.Parallel()
	bounds := authz.Unbounded()
	bounds.Objects = authz.NamesOf("document")
	bound := &caller.Caller{
		Name: "bound", Roles: caller.RolesOf(deputyv1.Role_ROLE_WRITER), Bounds: bounds, SpiceDB: authz.AllNames(),
		Credentials: []caller.Credential{{ID: "key", Key: sha256.Sum256([]byte("key-of-bound"))}},
	}
	p := &node{Server: harness.Start(t, daemon.Config{Engine: harness.Embedded(t), Callers: append(harness.Followers(), bound)})}
	n := followsDeputy(t, p, func(c *daemon.Config) { c.Callers = []*caller.Caller{bound} })
	n.furnish(t)
	refused := func(n *node, key string) string {
		t.Helper()
		_, err := harness.Update(t.Context(), harness.Dial(t, n.Addr().String(), key), v1.RelationshipUpdate_OPERATION_TOUCH, "document:plan#reader@document:other")
		if status.Code(err) != codes.InvalidArgument {
			t.Fatalf("a subject that the relation does not admit: %v", err)
		}
		return status.Convert(err).Message()
	}
	const admits = "document#reader admits user, agent"
	if got := refused(n, harness.AdminKey); strings.Count(got, admits) != 1 {
		t.Errorf("an admin is told through the follower: %s", got)
	}
	for name, n := range map[string]*node{"the server that is followed": p, "the follower": n} {
		if got := refused(n, "key-of-bound"); strings.Contains(got, "admits") {
			t.Errorf("%s tells a caller with bounds what the schema has beyond them: %s", name, got)
		}
	}
}

// TestOtherTokenKey: a server with another token key does not follow, because callers would take the tokens of one to the other.
func TestOtherTokenKey(t *testing.T) {
	t.Parallel()
	cfg := harness.Following(t, primary(t).Addr().String())
	cfg.NoListener, cfg.TokenKey = true, []byte("another token key, of 32 bytes at least")
	d, err := daemon.Open(t.Context(), cfg, zap.NewNop())
	if err == nil {
		_ = d.Close()
	}
	if err == nil || !strings.Contains(err.Error(), "another token key") || !strings.Contains(err.Error(), "--token-key-file") {
		t.Errorf("it starts, or says %v", err)
	}
}
