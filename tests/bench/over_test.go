package bench

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/deputyauth/deputy/pkg/client"
	"github.com/deputyauth/deputy/pkg/daemon"
	"github.com/deputyauth/deputy/pkg/engine"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/schema"
	"github.com/deputyauth/deputy/tests/harness"
)

// TestOver measures the list of an agent's live sessions beside sessions that are over: half of them were ended, half have
// expired; and how fast they are purged.
func TestOver(t *testing.T) {
	s := harness.Start(t, daemon.Config{Engine: engine.Config{Kind: engine.Embedded, Dir: t.TempDir()}})
	s.WriteSchema(t, schema.Core)
	c := s.InProcess().Client()
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, who := range []string{"user:alice", "tenant:acme"} {
		_, err := c.Principals.Resume(t.Context(), &deputyv1.ResumeRequest{Principal: harness.Ref(who)})
		ok(err)
	}
	few, many := scaled(10, 10), scaled(100_000, 200)
	for agent, over := range map[string]int{"few": few, "many": many} {
		_, err := c.Agents.RegisterAgent(t.Context(), &deputyv1.RegisterAgentRequest{AgentId: agent, OwnerIds: []string{"alice"}})
		ok(err)
		granted, err := c.Delegations.CreateDelegation(t.Context(), &deputyv1.CreateDelegationRequest{
			AgentId: agent, Principal: &deputyv1.SubjectReference{Object: harness.Ref("user:alice")}, TenantId: "acme", Unscoped: true,
			Ttl: durationpb.New(time.Hour),
		})
		ok(err)
		runs(t, s, c, agent, granted.GetDelegation().GetDelegationId(), over)
	}
	list := func(agent string) time.Duration {
		began := time.Now()
		found, err := c.Sessions.ListSessions(t.Context(), &deputyv1.ListSessionsRequest{AgentId: agent})
		took := time.Since(began)
		ok(err)
		if n := len(found.GetSessions()); n != 1 || !found.GetComplete() {
			t.Fatalf("%d sessions are listed, complete: %t", n, found.GetComplete())
		}
		return took
	}
	typical := func(agent string) float64 {
		times := make([]time.Duration, scaled(201, 3))
		for i := range times {
			times[i] = list(agent)
		}
		slices.Sort(times)
		return float64(times[len(times)/2].Microseconds())
	}
	beside := func(n int) string { return fmt.Sprintf("a list of one live session beside %d that are over", n) }
	a, b := typical("few"), typical("many")
	add(t, beside(few), a, "µs")
	add(t, beside(many), b, "µs")
	atMost(t, beside(many)+" / "+fmt.Sprint(few), b/a, "", 2)
	began, purged, enough := time.Now(), uint64(0), uint64(scaled(10_000, few+many))
	for r := (&deputyv1.PurgeRequest{OlderThan: durationpb.New(0)}); ; {
		did, err := c.Retention.Purge(t.Context(), r)
		ok(err)
		purged += did.GetSessions()
		if r.Cursor = did.GetNext(); r.Cursor == nil || purged >= enough {
			break
		}
	}
	if purged < enough || purged > uint64(few+many) {
		t.Errorf("%d sessions were purged, not %d of %d", purged, enough, few+many)
	}
	add(t, "purging sessions with their leaves", float64(purged)/time.Since(began).Seconds(), "/s")
	atMost(t, fmt.Sprintf("%s / %d, once %d were purged", beside(many), few, purged), typical("many")/a, "", 2)
}

// runs starts one session that lives, and writes many that do not, by their rows: one that was ended and one whose time was up are the models.
// No row has active, which those of a session that is over have no more, once they are collected. What lists find sessions by was
// deleted, or has expired, and is still there.
func runs(t *testing.T, s *harness.Server, c *client.Client, agent, delegation string, over int) {
	t.Helper()
	start := func(ttl time.Duration) model {
		r := &deputyv1.StartSessionRequest{AgentId: agent, Targets: []*deputyv1.SessionTarget{{DelegationId: delegation}}}
		if ttl > 0 {
			r.Ttl = durationpb.New(ttl)
		}
		run, err := c.Sessions.StartSession(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		return model{session: run.GetSession().GetSessionId()}
	}
	start(0)
	ended, expired := start(0), start(time.Millisecond)
	if _, err := c.Sessions.EndSession(t.Context(), &deputyv1.EndSessionRequest{SessionId: ended.session}); err != nil {
		t.Fatal(err)
	}
	rows := v1.NewPermissionsServiceClient(s.Admin)
	for _, m := range []*model{&ended, &expired} {
		m.read(t, rows)
	}
	row := func(session string) *v1.Relationship {
		return &v1.Relationship{
			Resource: &v1.ObjectReference{ObjectType: "session", ObjectId: session}, Relation: "listed",
			Subject: &v1.SubjectReference{Object: &v1.ObjectReference{ObjectType: "agent", ObjectId: agent}},
		}
	}
	listed, deleted := row(expired.session), row(ended.session)
	deleted.OptionalExpiresAt = timestamppb.New(time.Now().Add(time.Hour))
	expired.rows, ended.rows = append(expired.rows, listed), append(ended.rows, deleted)
	for made := 2; made < over; {
		listed.OptionalExpiresAt = timestamppb.New(time.Now().Add(time.Duration(scaled(10, 1)) * time.Second))
		var messages []*v1.ImportBulkRelationshipsRequest
		var ends []*v1.RelationshipUpdate
		for made < over && len(messages) < 50 { // few enough for one import, which is one transaction
			message := &v1.ImportBulkRelationshipsRequest{}
			for ; made < over && len(message.GetRelationships()) < 1000; made += 2 {
				over := ended.copy()
				ends = append(ends, &v1.RelationshipUpdate{
					Operation: v1.RelationshipUpdate_OPERATION_DELETE, Relationship: over[len(over)-1],
				})
				message.Relationships = append(append(message.Relationships, over...), expired.copy()...)
			}
			messages = append(messages, message)
		}
		if err := importAll(t.Context(), rows, messages); err != nil {
			t.Fatal(err)
		}
		for some := range slices.Chunk(ends, 1000) {
			if _, err := rows.WriteRelationships(t.Context(), &v1.WriteRelationshipsRequest{Updates: some}); err != nil {
				t.Fatal(err)
			}
		}
	}
	until := listed.GetOptionalExpiresAt()
	for { // until the last one has expired
		found, err := c.Sessions.ListSessions(t.Context(), &deputyv1.ListSessionsRequest{AgentId: agent})
		if err != nil {
			t.Fatal(err)
		}
		if len(found.GetSessions()) == 1 && found.GetComplete() && time.Now().After(until.AsTime()) {
			return
		}
		select {
		case <-t.Context().Done():
			t.Fatal(t.Context().Err())
		case <-time.After(time.Until(until.AsTime())):
		}
	}
}

// model is a session that is over, with its rows and those of the delegations that it minted.
type model struct {
	session string
	leaves  []string
	rows    []*v1.Relationship
}

// read reads the rows, but for active.
func (m *model) read(t *testing.T, from v1.PermissionsServiceClient) {
	t.Helper()
	of := func(objectType, id string) {
		stream, err := from.ReadRelationships(t.Context(), &v1.ReadRelationshipsRequest{
			Consistency:        &v1.Consistency{Requirement: &v1.Consistency_FullyConsistent{FullyConsistent: true}},
			RelationshipFilter: &v1.RelationshipFilter{ResourceType: objectType, OptionalResourceId: id},
		})
		for err == nil {
			var row *v1.ReadRelationshipsResponse
			if row, err = stream.Recv(); err == nil && row.GetRelationship().GetRelation() != "active" {
				m.rows = append(m.rows, row.GetRelationship())
			}
		}
		if !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
	}
	of("session", m.session)
	for _, row := range m.rows {
		if row.GetRelation() == "delegation" {
			m.leaves = append(m.leaves, row.GetSubject().GetObject().GetObjectId())
		}
	}
	for _, leaf := range m.leaves {
		of("delegation", leaf)
	}
}

// copy returns the rows of another session like it.
func (m *model) copy() []*v1.Relationship {
	ids := map[string]string{m.session: fmt.Sprintf("%016x%016x", rand.Uint64(), rand.Uint64())}
	for _, leaf := range m.leaves {
		ids[leaf] = fmt.Sprintf("%016x%016x", rand.Uint64(), rand.Uint64())
	}
	rows := make([]*v1.Relationship, len(m.rows))
	for i, row := range m.rows {
		rows[i], _ = proto.Clone(row).(*v1.Relationship)
		for _, object := range []*v1.ObjectReference{rows[i].GetResource(), rows[i].GetSubject().GetObject()} {
			object.ObjectId = cmp.Or(ids[object.GetObjectId()], object.GetObjectId())
		}
	}
	return rows
}
