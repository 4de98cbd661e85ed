// Package follow tests servers that follow a PostgreSQL with a copy of their own: that what one of them acknowledges the next call to any other one
// sees, and what becomes of decisions where the database does not answer.
//
// All of it is for CI. The tests run beside each other, because SpiceDB's datastore takes 5 s to close where another server writes its heartbeats. DEPUTY_TEST_REVOKES raises the number of revocations, as make soak does.
package follow_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"github.com/jackc/pgx/v5"
	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	goclient "github.com/deputyauth/deputy/pkg/client"
	"github.com/deputyauth/deputy/pkg/daemon"
	"github.com/deputyauth/deputy/pkg/engine"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/schema"
	"github.com/deputyauth/deputy/tests/harness"
	"github.com/deputyauth/deputy/tests/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

const domain = `
definition document {
	relation tenant: tenant
	relation reader: user | agent
	permission view = reader
}
`

const (
	has = deputyv1.Permissionship_PERMISSIONSHIP_HAS_PERMISSION
	no  = deputyv1.Permissionship_PERMISSIONSHIP_NO_PERMISSION
)

// node is a server that follows, with its figures.
type node struct {
	*harness.Server

	metrics string
}

// follows starts a server that follows a database.
func follows(t *testing.T, e engine.Config, change func(*daemon.Config)) *node {
	t.Helper()
	cfg := daemon.Config{
		Engine: e, MetricsAddr: "127.0.0.1:0",
		// The copy is to answer on a busy machine too.
		Following: daemon.Following{On: true, Dir: t.TempDir(), Wait: 5 * time.Second},
	}
	if change != nil {
		change(&cfg)
	}
	s := harness.Start(t, cfg)
	return &node{s, s.MetricsAddr().String()}
}

// figure reads one of a node's figures.
func (n *node) figure(t *testing.T, name string) float64 {
	t.Helper()
	// A connection that is kept holds up the end of the server.
	once := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := once.Get("http://" + n.metrics + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		if value, ok := strings.CutPrefix(lines.Text(), name+" "); ok {
			f, err := strconv.ParseFloat(value, 64)
			if err != nil {
				t.Fatal(err)
			}
			return f
		}
	}
	t.Fatalf("there is no figure %s", name)
	return 0
}

// answers are how many states were answered by the copy and by the database.
func (n *node) answers(t *testing.T) (byCopy, byDatabase float64) {
	t.Helper()
	return n.figure(t, `deputy_follow_snapshots_total{by="copy"}`), n.figure(t, `deputy_follow_snapshots_total{by="authority"}`)
}

// furnish writes a schema, people and a document, and delegates: it returns the check whether bot may view it for alice.
func (n *node) furnish(t *testing.T) *deputyv1.CheckPermissionRequest {
	t.Helper()
	n.WriteSchema(t, schema.Core+domain)
	for _, who := range []string{"user:alice", "user:carol", "tenant:acme"} {
		if _, err := n.Principals().Resume(t.Context(), &deputyv1.ResumeRequest{Principal: harness.Ref(who)}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := n.Agents().RegisterAgent(t.Context(), &deputyv1.RegisterAgentRequest{AgentId: "bot", OwnerIds: []string{"carol"}}); err != nil {
		t.Fatal(err)
	}
	n.Touch(t, "tenant:acme#member@user:alice", "tenant:acme#agent@agent:bot",
		"document:plan#tenant@tenant:acme", "document:plan#reader@user:alice", "document:plan#reader@agent:bot")
	return n.delegated(t)
}

// delegated lets bot act for alice, and returns the check under that delegation.
func (n *node) delegated(t *testing.T) *deputyv1.CheckPermissionRequest {
	t.Helper()
	resp, err := n.Delegations().CreateDelegation(t.Context(), &deputyv1.CreateDelegationRequest{
		AgentId: "bot", Principal: &deputyv1.SubjectReference{Object: harness.Ref("user:alice")}, TenantId: "acme",
		Ttl: durationpb.New(time.Hour), Unscoped: true, AllowDirect: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	return &deputyv1.CheckPermissionRequest{
		AgentId: "bot", Via: &deputyv1.CheckPermissionRequest_DelegationId{DelegationId: resp.GetDelegation().GetDelegationId()},
		Resource: harness.Ref("document:plan"), Permission: "view",
	}
}

// check asks, with a deadline.
func (n *node) check(t *testing.T, r *deputyv1.CheckPermissionRequest) (*deputyv1.CheckPermissionResponse, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	return n.Permissions().CheckPermission(ctx, r)
}

// wants fails the test unless a node answers so.
func (n *node) wants(t *testing.T, r *deputyv1.CheckPermissionRequest, want deputyv1.Permissionship) *deputyv1.CheckPermissionResponse {
	t.Helper()
	resp, err := n.check(t, r)
	if err != nil {
		t.Fatal(err)
	}
	if got := resp.GetPermissionship(); got != want {
		t.Fatalf("got %v, want %v", got, want)
	}
	return resp
}

// revokes is how many revocations are tried.
func revokes(t *testing.T) int {
	t.Helper()
	text := os.Getenv("DEPUTY_TEST_REVOKES")
	if text == "" {
		return 200
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestRevokedThroughAnother revokes through one node and asks another one next, while both write: no answer is older than the acknowledged
// revocation, and it is the copy that answers.
func TestRevokedThroughAnother(t *testing.T) {
	t.Parallel()
	e := harness.Postgres(t)
	a, b := follows(t, e, nil), follows(t, e, nil)
	check := a.furnish(t)
	b.wants(t, check, has)
	noise, quiet := context.WithCancel(t.Context())
	var noisy sync.WaitGroup
	defer noisy.Wait()
	defer quiet()
	for w, n := range []*node{a, b} {
		noisy.Go(func() {
			for i := 0; noise.Err() == nil; i++ {
				_, _ = harness.Update(noise, n.Admin, v1.RelationshipUpdate_OPERATION_TOUCH, fmt.Sprintf("document:n%d-%d#tenant@tenant:acme", w, i%50))
			}
		})
	}
	const grant = "document:plan#reader@user:alice"
	rounds, stale, lost := revokes(t), 0, 0
	ask := func(i int, want deputyv1.Permissionship) bool {
		resp, err := b.check(t, check)
		if err != nil {
			t.Fatalf("round %d: %v", i, err)
		}
		return resp.GetPermissionship() == want
	}
	for i := range rounds {
		a.Delete(t, grant)
		if !ask(i, no) {
			stale++
		}
		a.Touch(t, grant)
		if !ask(i, has) {
			lost++
		}
	}
	if stale+lost > 0 {
		t.Errorf("of %d revocations %d were not seen, and %d grants were not", rounds, stale, lost)
	}
	byCopy, byDatabase := b.answers(t)
	t.Logf("%d rounds; the second node answered %.0f states from its copy and %.0f by the database", rounds, byCopy, byDatabase)
	if byCopy < 20*byDatabase || byCopy < float64(2*rounds) {
		t.Errorf("the second node answered %.0f states from its copy and %.0f by the database", byCopy, byDatabase)
	}
}

// TestBrakesThroughAnother has each brake pulled at one node refuse at the other.
func TestBrakesThroughAnother(t *testing.T) { //nolint:tparallel // one step after the other
	t.Parallel()
	e := harness.Postgres(t)
	a, b := follows(t, e, nil), follows(t, e, nil)
	check := a.furnish(t)
	b.wants(t, check, has)
	for name, brake := range map[string]struct{ pull, release func() error }{
		"user": {func() error {
			_, err := a.Principals().Suspend(t.Context(), &deputyv1.SuspendRequest{Principal: harness.Ref("user:alice")})
			return err
		}, func() error {
			_, err := b.Principals().Resume(t.Context(), &deputyv1.ResumeRequest{Principal: harness.Ref("user:alice")})
			return err
		}},
		"agent": {func() error {
			_, err := a.Agents().SuspendAgent(t.Context(), &deputyv1.SuspendAgentRequest{AgentId: "bot"})
			return err
		}, func() error {
			_, err := b.Agents().ResumeAgent(t.Context(), &deputyv1.ResumeAgentRequest{AgentId: "bot"})
			return err
		}},
	} {
		t.Run(name, func(t *testing.T) {
			if err := brake.pull(); err != nil {
				t.Fatal(err)
			}
			b.wants(t, check, no)
			if err := brake.release(); err != nil {
				t.Fatal(err)
			}
			a.wants(t, check, has)
		})
	}
	other := b.delegated(t)
	a.wants(t, other, has)
	if _, err := b.Delegations().RevokeDelegation(t.Context(), &deputyv1.RevokeDelegationRequest{DelegationId: other.GetDelegationId()}); err != nil {
		t.Fatal(err)
	}
	a.wants(t, other, no)
}

// TestTokensHoldEverywhere has tokens of one node be bounds, and exact revisions, at another one and at a server that does not follow.
func TestTokensHoldEverywhere(t *testing.T) { //nolint:tparallel // one step after the other
	t.Parallel()
	e := harness.Postgres(t)
	a, b := follows(t, e, nil), follows(t, e, nil)
	plain := &node{Server: harness.Start(t, daemon.Config{Engine: e})}
	check := a.furnish(t)
	at := func(c *deputyv1.Consistency) *deputyv1.CheckPermissionRequest {
		r := &deputyv1.CheckPermissionRequest{AgentId: check.GetAgentId(), Via: check.GetVia(), Resource: check.GetResource(), Permission: "view", Consistency: c}
		return r
	}
	exactly := func(token *deputyv1.ZedToken) *deputyv1.CheckPermissionRequest {
		return at(&deputyv1.Consistency{Requirement: &deputyv1.Consistency_AtExactSnapshot{AtExactSnapshot: token}})
	}
	atLeast := func(token *deputyv1.ZedToken) *deputyv1.CheckPermissionRequest {
		return at(&deputyv1.Consistency{Requirement: &deputyv1.Consistency_AtLeastAsFresh{AtLeastAsFresh: token}})
	}
	nodes := map[string]*node{"the node itself": a, "another node": b, "a server that does not follow": plain}
	before := a.wants(t, check, has).GetCheckedAt()
	a.Delete(t, "document:plan#reader@user:alice")
	after := a.wants(t, check, no).GetCheckedAt()
	theirs := plain.wants(t, check, no).GetCheckedAt()
	for name, n := range nodes {
		t.Run(name, func(t *testing.T) {
			n.wants(t, exactly(before), has)
			n.wants(t, exactly(after), no)
			n.wants(t, atLeast(after), no)
			n.wants(t, exactly(theirs), no)
			n.wants(t, atLeast(theirs), no)
			session := at(nil)
			session.SessionToken = after
			n.wants(t, session, no)
		})
	}
}

// TestLookupsMove goes on with a lookup where it was begun and elsewhere: what the copy of one node began cannot be continued at another server, which
// says so; what a server without a copy began can, at a node.
func TestLookupsMove(t *testing.T) {
	t.Parallel()
	e := harness.Postgres(t)
	a, b := follows(t, e, nil), follows(t, e, nil)
	plain := &node{Server: harness.Start(t, daemon.Config{Engine: e})}
	check := a.furnish(t)
	a.Touch(t, "document:next#tenant@tenant:acme", "document:next#reader@user:alice", "document:next#reader@agent:bot")
	look := func(n *node, next *deputyv1.Cursor) (found []string, end *deputyv1.LookupEnd, err error) {
		stream, err := n.Permissions().LookupResources(t.Context(), &deputyv1.LookupResourcesRequest{
			AgentId: "bot", Via: &deputyv1.LookupResourcesRequest_DelegationId{DelegationId: check.GetDelegationId()},
			ResourceObjectType: "document", Permission: "view", Limit: 1, Cursor: next,
		})
		if err != nil {
			return nil, nil, err
		}
		for {
			m, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				return found, end, nil
			}
			if err != nil {
				return found, end, err
			}
			if r := m.GetResource(); r != nil {
				found = append(found, r.GetResource().GetObjectId())
			}
			if m.GetEnd() != nil {
				end = m.GetEnd()
			}
		}
	}
	for _, c := range []struct {
		name      string
		began, on *node
		want      codes.Code
	}{
		{"at the node that began it", a, a, codes.OK},
		{"at another node", a, b, codes.OutOfRange},
		{"at a server that does not follow", a, plain, codes.InvalidArgument},
		{"a server that does not follow began it", plain, b, codes.OK},
	} {
		first, end, err := look(c.began, nil)
		if err != nil || len(first) != 1 || end.GetNext() == nil {
			t.Fatalf("%s: the lookup begins with %v, %v, %v", c.name, first, end, err)
		}
		second, _, err := look(c.on, end.GetNext())
		if got := status.Code(err); got != c.want {
			t.Errorf("%s: it goes on with %v, %v; want %v", c.name, second, err, c.want)
		} else if err == nil && (len(second) != 1 || second[0] == first[0]) {
			t.Errorf("%s: after %v comes %v", c.name, first, second)
		}
	}
}

// TestDatabaseKilled kills the database: calls that ask for the head are refused in time, those that do not are answered until the copy is too old,
// and the server is not ready then. Once the database is back, so is the server, by the copy that it has.
func TestDatabaseKilled(t *testing.T) {
	t.Parallel()
	cluster := pgtest.NewCluster(t)
	const password = "a-password-of-the-database"
	e := engine.Config{Kind: engine.Postgres, URI: cluster.Create(t, "deputy") + "&password=" + password} // which the cluster does not ask for
	if err := engine.Migrate(t.Context(), e, "head"); err != nil {
		t.Fatal(err)
	}
	const maxAge = 3 * time.Second
	n := follows(t, e, func(c *daemon.Config) { c.Following.Wait, c.Following.MaxAge = 250*time.Millisecond, maxAge })
	n.Failed = true // its heartbeat may be cut off
	check := n.furnish(t)
	n.wants(t, check, has)
	fast := &deputyv1.CheckPermissionRequest{
		AgentId: check.GetAgentId(), Via: check.GetVia(), Resource: check.GetResource(), Permission: "view",
		Consistency: &deputyv1.Consistency{Requirement: &deputyv1.Consistency_MinimizeLatency{MinimizeLatency: true}},
	}
	n.inContact(t)
	cluster.Crash(t)
	killed := time.Now()
	n.wants(t, fast, has)
	for range 3 {
		began := time.Now()
		resp, err := n.check(t, check)
		if err == nil {
			t.Fatalf("without its database the server answers %v", resp.GetPermissionship())
		}
		if code := status.Code(err); code != codes.Unavailable && code != codes.DeadlineExceeded {
			t.Errorf("without its database the server fails with %v", err)
		}
		if took := time.Since(began); took > 15*time.Second {
			t.Errorf("the failure took %s", took)
		}
	}
	// The state is told to those who watch.
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	watch, err := healthv1.NewHealthClient(n.Nobody).Watch(ctx, &healthv1.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for {
		state, err := watch.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if state.GetStatus() == healthv1.HealthCheckResponse_NOT_SERVING {
			break
		}
	}
	if since := time.Since(killed); since < maxAge-time.Second {
		t.Errorf("the server is not ready after %s, and its copy may be %s old", since, maxAge)
	}
	if resp, err := n.check(t, fast); err == nil {
		t.Errorf("the copy is older than %s, and the server answers %v", maxAge, resp.GetPermissionship())
	}
	n.outOfContact(t, password)
	cluster.Start(t)
	harness.Ready(t, n.Nobody)
	n.inContact(t)
	n.wants(t, check, has)
	n.Delete(t, "document:plan#reader@user:alice")
	n.wants(t, check, no)
	if loads := n.figure(t, "deputy_follow_loads_total"); loads != 1 {
		t.Errorf("the copy was loaded %.0f times, want once", loads)
	}
}

// contact is what a server says of whether what it follows answers.
func (n *node) contact(t *testing.T) *deputyv1.CopyContact {
	t.Helper()
	resp, err := deputyv1.NewCopyServiceClient(n.Admin).GetCopy(t.Context(), &deputyv1.GetCopyRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return resp.GetContact()
}

// inContact waits until a server says that what it follows answers.
func (n *node) inContact(t *testing.T) {
	t.Helper()
	eventually(t, "what is followed answers", func() bool {
		c := n.contact(t)
		return c.GetAnswers() && c.GetFailure() == "" && c.GetAnswered().AsDuration() < 15*time.Second
	})
}

// outOfContact waits until a server says that what it follows does not answer, and returns why. A secret must not be in that.
func (n *node) outOfContact(t *testing.T, secret string) (failure string) {
	t.Helper()
	eventually(t, "what is followed does not answer", func() bool {
		c := n.contact(t)
		failure = c.GetFailure()
		return !c.GetAnswers() && failure != "" && c.GetAnswered() != nil
	})
	if strings.Contains(failure, secret) {
		t.Errorf("the failure holds the secret %q: %s", secret, failure)
	}
	return failure
}

// TestCopyIsKept starts a server over the copy that another one has left, with what was revoked meanwhile, and over a directory that was emptied.
func TestCopyIsKept(t *testing.T) { //nolint:tparallel // one step after the other
	t.Parallel()
	e, dir := harness.Postgres(t), t.TempDir()
	var check *deputyv1.CheckPermissionRequest
	in := func(c *daemon.Config) { c.Following.Dir = dir }
	t.Run("the first", func(t *testing.T) {
		n := follows(t, e, in)
		check = n.furnish(t)
		n.wants(t, check, has)
	})
	plain := harness.Start(t, daemon.Config{Engine: e})
	plain.Delete(t, "document:plan#reader@user:alice")
	t.Run("the second", func(t *testing.T) {
		n := follows(t, e, in)
		n.wants(t, check, no)
		if loads := n.figure(t, "deputy_follow_loads_total"); loads != 0 {
			t.Errorf("the copy was loaded %.0f times, though there was one", loads)
		}
	})
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	t.Run("without a copy", func(t *testing.T) {
		n := follows(t, e, in)
		n.wants(t, check, no)
		if loads := n.figure(t, "deputy_follow_loads_total"); loads != 1 {
			t.Errorf("the copy was loaded %.0f times, want once", loads)
		}
	})
}

// TestVerify has a server find that its copy is not what the database has, by itself or because an admin asks, and have it answer by the database
// until it has another copy.
func TestVerify(t *testing.T) {
	t.Parallel()
	for name, sample := range map[string]int{"because an admin asks": -1, "by itself": 50_000} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := harness.Postgres(t)
			n := follows(t, e, func(c *daemon.Config) { c.Following.Sample = sample })
			check := n.furnish(t)
			n.wants(t, check, has)
			copies := deputyv1.NewCopyServiceClient(n.Admin)
			before, err := copies.GetCopy(t.Context(), &deputyv1.GetCopyRequest{})
			if err != nil {
				t.Fatal(err)
			}
			if !before.GetServes() || before.GetPosition().GetAuthority() == "" || before.GetAge().AsDuration() > time.Minute || before.GetLoads() != 1 ||
				before.GetRelationships() < 5 || before.GetLoad() != nil || before.GetDifference() != nil || (before.GetSample() == nil) != (sample < 0) {
				t.Errorf("the status is %v", before)
			}
			if found, end := n.verify(t); len(found) > 0 || !end.GetEqual() || end.GetRelationships() < 5 {
				t.Errorf("before anybody meddles: %v, %v", found, end)
			}
			uri, err := e.Connection()
			if err != nil {
				t.Fatal(err)
			}
			conn, err := pgx.Connect(t.Context(), uri)
			if err != nil {
				t.Fatal(err)
			}
			// No change tells of it.
			gone, err := conn.Exec(t.Context(), "DELETE FROM relation_tuple WHERE namespace = 'document' AND userset_object_id = 'alice'")
			if err := errors.Join(err, conn.Close(t.Context())); err != nil || gone.RowsAffected() != 1 {
				t.Fatalf("%d rows, %v", gone.RowsAffected(), err)
			}
			const name = "document:plan#reader@user:alice"
			if sample < 0 {
				n.wants(t, check, has) // what the copy says
				found, end := n.verify(t)
				if len(found) != 1 || found[0].GetName() != name || found[0].GetDatabase() != "" || found[0].GetCopy() == "" || end.GetEqual() || end.GetDifferences() != 1 {
					t.Fatalf("found %v, %v", found, end)
				}
			} else {
				eventually(t, "the difference is found", func() bool { return n.figure(t, "deputy_follow_differences_total") == 1 })
			}
			n.wants(t, check, no)
			eventually(t, "another copy is loaded, and serves", func() bool {
				return n.figure(t, "deputy_follow_serves") == 1 && n.figure(t, "deputy_follow_loads_total") == 2
			})
			n.wants(t, check, no)
			after, err := copies.GetCopy(t.Context(), &deputyv1.GetCopyRequest{})
			if err != nil || after.GetDifference().GetName() != name || after.GetDifferenceTime() == nil {
				t.Errorf("the status is %v, %v", after, err)
			}
			if found, end := n.verify(t); len(found) > 0 || !end.GetEqual() {
				t.Errorf("the copy that was loaded in its place: %v, %v", found, end)
			}
		})
	}
}

// verify has a node compare its copy with the database.
func (n *node) verify(t *testing.T) (found []*deputyv1.CopyDifference, end *deputyv1.CopyVerification) {
	t.Helper()
	stream, err := deputyv1.NewCopyServiceClient(n.Admin).VerifyCopy(t.Context(), &deputyv1.VerifyCopyRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for {
		message, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF) && end != nil:
			return found, end
		case err != nil:
			t.Fatal(err)
		}
		if d := message.GetDifference(); d != nil {
			found = append(found, d)
		}
		end = message.GetEnd()
	}
}

// TestNoCopy: a server that does not follow says that it has no copy.
func TestNoCopy(t *testing.T) {
	t.Parallel()
	s := harness.Start(t, daemon.Config{Engine: harness.Embedded(t)})
	copies := deputyv1.NewCopyServiceClient(s.Admin)
	_, err := copies.GetCopy(t.Context(), &deputyv1.GetCopyRequest{})
	refused := func(err error) {
		t.Helper()
		if status.Code(err) != codes.FailedPrecondition || goclient.ReasonOf(err) != goclient.ReasonNoCopy {
			t.Errorf("it says %v", err)
		}
	}
	refused(err)
	stream, err := copies.VerifyCopy(t.Context(), &deputyv1.VerifyCopyRequest{})
	if err == nil {
		_, err = stream.Recv()
	}
	refused(err)
}
