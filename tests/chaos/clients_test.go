//go:build unix

package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"

	"github.com/deputyauth/deputy/pkg/client"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/tests/harness"
)

const (
	writers, objectsEach = 3, 6
	readers              = 4
	// readPace and writePace are how often each reader asks and each writer writes, at most.
	readPace, writePace = 10 * time.Millisecond, 30 * time.Millisecond
	// checkTime is how long a check may take until it has failed, and writeTime a write until its end is unknown.
	checkTime, writeTime = 5 * time.Second, 2 * time.Second
	agentID              = "bot"
)

// clients check, grant and revoke until they are stopped.
type clients struct {
	model *model
	nodes []*node
	// all is connected to all servers, as clients are to be.
	all     *client.Client
	session string

	// writing is held by each write, with the question that follows it, and locked by run.still, which lets none begin.
	writing sync.RWMutex
	// newest is the newest write that somebody has seen.
	newest atomic.Pointer[seen]

	checks, failed, unavailable, writes, stale, refusedTokens atomic.Int64
	mu                                                        sync.Mutex
	// answered is when the head was answered last, and longest the longest time between two answers since it was asked for.
	answered time.Time
	longest  time.Duration
	// notes say which answers were stale, and other checks how they failed: the first few.
	notes []string
}

// seen is a write that was acknowledged, with the token of an answer that shows it.
type seen struct {
	mark  string
	token *deputyv1.ZedToken
}

// connect connects to the servers.
func connect(t *testing.T, nodes []*node) *clients {
	t.Helper()
	c := &clients{model: newModel(writers * objectsEach), nodes: nodes, answered: time.Now()}
	// The resolver stands for a name that DNS knows.
	names := manual.NewBuilderWithScheme("chaos")
	var all []resolver.Address
	dial := func(target, key string, opts ...client.Option) *client.Client {
		opts = append(opts, client.WithPresharedKey(key), client.WithInsecure())
		made, err := client.Dial(target, opts...)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = made.Close() })
		return made
	}
	for _, n := range nodes {
		n.direct = dial(n.addr, harness.AdminKey, client.WithoutRetries())
		all = append(all, resolver.Address{Addr: n.addr})
	}
	names.InitialState(resolver.State{Addresses: all})
	resolver.Register(names)
	c.all = dial("chaos:///deputy", harness.ServiceKey, client.WithBalancing(), client.WithDialOptions(grpc.WithStatsHandler(c)))
	return c
}

// TagRPC, HandleRPC, TagConn and HandleConn make it a stats.Handler, which counts each time that a server, or the lack of one, was UNAVAILABLE for a check.
func (c *clients) TagRPC(ctx context.Context, info *stats.RPCTagInfo) context.Context {
	return context.WithValue(ctx, methodKey{}, info.FullMethodName)
}

func (c *clients) HandleRPC(ctx context.Context, s stats.RPCStats) {
	if end, ok := s.(*stats.End); ok && ctx.Value(methodKey{}) == deputyv1.PermissionsService_CheckPermission_FullMethodName {
		if code := status.Code(end.Error); code == codes.Unavailable || code == codes.DeadlineExceeded {
			c.unavailable.Add(1)
		}
	}
}

func (c *clients) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

func (c *clients) HandleConn(context.Context, stats.ConnStats) {}

type methodKey struct{}

// run runs all of them until ctx ends.
func (c *clients) run(ctx context.Context) {
	var all sync.WaitGroup
	for w := range writers {
		all.Go(func() {
			every(ctx, writePace, func(n int) { c.write(ctx, w*objectsEach+n%objectsEach, fmt.Sprintf("w%d-%d", w, n)) })
		})
	}
	for range readers {
		all.Go(func() {
			var token *deputyv1.ZedToken
			every(ctx, readPace, func(int) { token = c.read(ctx, token) })
		})
	}
	for _, n := range c.nodes {
		all.Go(func() { every(ctx, 200*time.Millisecond, func(int) { n.look(ctx) }) })
	}
	all.Wait()
}

// every does something at a pace until ctx ends.
func every(ctx context.Context, pace time.Duration, do func(n int)) {
	tick := time.NewTicker(pace)
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			do(n)
		}
	}
}

// write grants or revokes through one server, and asks another one whether it has seen it.
func (c *clients) write(ctx context.Context, index int, mark string) {
	c.writing.RLock()
	defer c.writing.RUnlock()
	by := rand.IntN(len(c.nodes))
	o, grant := c.model.writes(index)
	user := relationship("document", o.name, "reader", "user", "alice")
	updates := []*v1.RelationshipUpdate{touch(relationship("mark", mark, "left", "user", "alice"))}
	if grant {
		updates = append(updates, touch(relationship("document", o.name, "tenant", "tenant", "acme")),
			touch(relationship("document", o.name, "reader", "agent", agentID)), touch(user))
	} else {
		updates = append(updates, &v1.RelationshipUpdate{Operation: v1.RelationshipUpdate_OPERATION_DELETE, Relationship: user})
	}
	bounded, cancel := context.WithTimeout(ctx, writeTime)
	_, err := v1.NewPermissionsServiceClient(c.nodes[by].direct.Conn()).WriteRelationships(bounded, &v1.WriteRelationshipsRequest{Updates: updates})
	cancel()
	if err != nil {
		c.model.unknown(index)
		if ctx.Err() == nil {
			c.notef("a write has no known end: %v", err)
		}
		return
	}
	c.model.acknowledged(o, mark)
	c.writes.Add(1)
	if resp, err := c.ask(ctx, c.nodes[(by+1+rand.IntN(len(c.nodes)-1))%len(c.nodes)].direct, o, nil); err == nil {
		c.newest.Store(&seen{mark, resp.GetCheckedAt()})
	}
}

// read asks one question of whichever server answers, in a session whose newest token it carries, and returns the newest.
func (c *clients) read(ctx context.Context, token *deputyv1.ZedToken) *deputyv1.ZedToken {
	resp, err := c.ask(ctx, c.all, c.model.any(), token)
	switch {
	case err == nil:
		return resp.GetCheckedAt()
	case ctx.Err() != nil:
		return nil
	case status.Code(err) == codes.OutOfRange && token != nil:
		c.refusedTokens.Add(1) // the session begins anew
	default:
		c.failed.Add(1)
		c.notef("a check failed: %v", err)
	}
	return nil
}

// ask asks whether the agent may view an object, at the head, and compares the answer with the model.
func (c *clients) ask(ctx context.Context, of *client.Client, o *object, token *deputyv1.ZedToken) (*deputyv1.CheckPermissionResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	q := c.model.asks(o)
	resp, err := of.Permissions.CheckPermission(ctx, &deputyv1.CheckPermissionRequest{
		AgentId: agentID, Via: &deputyv1.CheckPermissionRequest_SessionId{SessionId: c.session}, SessionToken: token,
		Resource: harness.Ref("document:" + o.name), Permission: "view",
	})
	if err != nil {
		return nil, err
	}
	granted := resp.GetPermissionship() == deputyv1.Permissionship_PERMISSIONSHIP_HAS_PERMISSION
	c.checks.Add(1)
	if c.model.stale(q, granted) {
		c.stale.Add(1)
		c.notef("STALE: that document:%s is granted is %t by an answer that is older than its write %d, which was acknowledged before it was asked", o.name, granted, q.acked)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	c.longest = max(c.longest, now.Sub(c.answered))
	c.answered = now
	return resp, nil
}

// without returns the longest time without an answer of the head since it was called last.
func (c *clients) without() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	longest := max(c.longest, time.Since(c.answered))
	c.longest = 0
	return longest
}

// notef notes something once, unless there are many notes already.
func (c *clients) notef(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	note := fmt.Sprintf(format, args...)
	if len(c.notes) < 10 && !slices.Contains(c.notes, note) {
		c.notes = append(c.notes, note)
	}
}

// noted returns the notes since it was called last.
func (c *clients) noted() (notes []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	notes, c.notes = c.notes, nil
	return notes
}

func relationship(kind, id, relation, subjectKind, subjectID string) *v1.Relationship {
	return &v1.Relationship{
		Resource: &v1.ObjectReference{ObjectType: kind, ObjectId: id}, Relation: relation,
		Subject: &v1.SubjectReference{Object: &v1.ObjectReference{ObjectType: subjectKind, ObjectId: subjectID}},
	}
}

func touch(r *v1.Relationship) *v1.RelationshipUpdate {
	return &v1.RelationshipUpdate{Operation: v1.RelationshipUpdate_OPERATION_TOUCH, Relationship: r}
}
