package follow_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/caller"
	"github.com/deputyauth/deputy/pkg/daemon"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/schema"
	"github.com/deputyauth/deputy/tests/harness"
)

// followerNamed is a caller for a server that follows.
func followerNamed(name string, bounds *authz.Bounds) *caller.Caller {
	return &caller.Caller{
		Name: name, Roles: caller.RolesOf(deputyv1.Role_ROLE_FOLLOWER), Bounds: bounds, SpiceDB: authz.AllNames(),
		Credentials: []caller.Credential{{ID: "key", Key: sha256.Sum256([]byte("key-of-" + name))}},
	}
}

// TestBoundFollowerReadsNothing: the graph of others does not exist for a follower with bounds, by whatever they are.
func TestBoundFollowerReadsNothing(t *testing.T) {
	t.Parallel()
	bound := map[string]func(*authz.Bounds){
		"tenants":    func(b *authz.Bounds) { b.Tenants = authz.NamesOf("acme") },
		"objects":    func(b *authz.Bounds) { b.Objects = authz.NamesOf("other") },
		"prefixes":   func(b *authz.Bounds) { b.IDs = authz.PrefixesOf("zzz-") },
		"agents":     func(b *authz.Bounds) { b.Agents = authz.NamesOf("bot") },
		"principals": func(b *authz.Bounds) { b.Principals = authz.NamesOf("user") },
	}
	var callers []*caller.Caller
	for name, change := range bound {
		b := authz.Unbounded()
		change(b)
		callers = append(callers, followerNamed(name, b))
	}
	p := &node{Server: harness.Start(t, daemon.Config{Engine: harness.Embedded(t), Callers: append(callers, followerNamed("whole", authz.Unbounded()))})}
	p.furnish(t)
	whole := deputyv1.NewFollowServiceClient(harness.Dial(t, p.Addr().String(), "key-of-whole"))
	head, err := whole.GetHead(t.Context(), &deputyv1.GetHeadRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for name := range bound {
		s := deputyv1.NewFollowServiceClient(harness.Dial(t, p.Addr().String(), "key-of-"+name))
		stream, err := s.ReadPage(t.Context(), &deputyv1.ReadPageRequest{At: head.GetHead(), Limit: 100})
		if err != nil {
			t.Fatal(err)
		}
		got, err := stream.Recv()
		if status.Code(err) != codes.PermissionDenied {
			t.Errorf("a follower with bounds on %s reads %d relationships, %v", name, len(got.GetRelationships()), err)
		}
	}
}

// TestChangesBesideLongReadings: followers that compare, load, or do not read what they asked for, do not keep what has changed from another one.
func TestChangesBesideLongReadings(t *testing.T) {
	t.Parallel()
	const stalled = 5
	callers := []*caller.Caller{followerNamed("whole", authz.Unbounded())}
	for i := range stalled {
		callers = append(callers, followerNamed(fmt.Sprint("stalled", i), authz.Unbounded()))
	}
	p := &node{Server: harness.Start(t, daemon.Config{Engine: harness.Embedded(t), Callers: callers})}
	p.WriteSchema(t, schema.Core+domain)
	whole := deputyv1.NewFollowServiceClient(harness.Dial(t, p.Addr().String(), "key-of-whole"))
	before, err := whole.GetHead(t.Context(), &deputyv1.GetHeadRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		var rels []string
		for j := range 1000 {
			rels = append(rels, fmt.Sprintf("document:a-document-with-a-somewhat-long-name-%d-%d#tenant@tenant:acme", i, j))
		}
		if _, err := harness.Update(t.Context(), p.Admin, v1.RelationshipUpdate_OPERATION_TOUCH, rels...); err != nil {
			t.Fatal(err)
		}
	}
	head, err := whole.GetHead(t.Context(), &deputyv1.GetHeadRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range stalled {
		s := deputyv1.NewFollowServiceClient(harness.Dial(t, p.Addr().String(), fmt.Sprint("key-of-stalled", i)))
		stream, err := s.ReadPage(t.Context(), &deputyv1.ReadPageRequest{At: head.GetHead(), Limit: 50_000})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Recv(); err != nil { // and no more
			t.Fatal(err)
		}
	}
	// A follower's pull gives up after 10 s.
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	began := time.Now()
	stream, err := whole.ReadChanges(ctx, &deputyv1.ReadChangesRequest{From: before.GetHead(), Limit: 200_000})
	if err != nil {
		t.Fatal(err)
	}
	for n := 0; ; n++ {
		_, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatalf("after %s and %d parts: %v", time.Since(began), n, err)
		}
	}
}

// TestWholeDeputyIsSampled: the comparison of a copy with another Deputy gets through all relationships, also where these are not short: what the copy
// has and the primary has not is found by the part that asks for them by name.
func TestWholeDeputyIsSampled(t *testing.T) {
	t.Parallel()
	p := primary(t)
	p.WriteSchema(t, schema.Core+domain)
	for i := range 2 {
		var rels []string
		for j := range 1000 {
			rels = append(rels, fmt.Sprintf("document:a-document-with-a-somewhat-long-name-%d-%d#tenant@tenant:acme", i, j))
		}
		if _, err := harness.Update(t.Context(), p.Admin, v1.RelationshipUpdate_OPERATION_TOUCH, rels...); err != nil {
			t.Fatal(err)
		}
	}
	b := followsDeputy(t, p, func(c *daemon.Config) { c.Following.Sample = 50_000 })
	eventually(t, "all relationships were compared", func() bool { return b.figure(t, "deputy_follow_sample_rounds_total") > 0 })
}

// TestCursorsOfALostTime: a cursor of authzed.api.v1 that was given in the time that a failover has lost is refused, as one of deputy.v1 is.
func TestCursorsOfALostTime(t *testing.T) {
	t.Parallel()
	l := losing(t)
	ask := func(n *node, cursor *v1.Cursor) (*v1.ReadRelationshipsResponse, error) {
		request := &v1.ReadRelationshipsRequest{
			RelationshipFilter: &v1.RelationshipFilter{ResourceType: "document"}, OptionalLimit: 1, OptionalCursor: cursor,
			Consistency: &v1.Consistency{Requirement: &v1.Consistency_FullyConsistent{FullyConsistent: true}},
		}
		stream, err := v1.NewPermissionsServiceClient(n.Admin).ReadRelationships(t.Context(), request)
		if err != nil {
			return nil, err
		}
		return stream.Recv()
	}
	first, err := ask(l.b, nil)
	if err != nil {
		t.Fatal(err)
	}
	l.fail(t)
	l.reuse(t)
	anew := surviving(t, over(l.replica), nil)
	anew.wants(t, of(l.check, "kept"), has)
	if resp, err := ask(anew, first.GetAfterResultCursor()); status.Code(err) != codes.OutOfRange {
		t.Errorf("a cursor of the lost time: %v, %v; want OUT_OF_RANGE", resp.GetRelationship(), err)
	}
}
