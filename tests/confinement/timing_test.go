package confinement

import (
	"slices"
	"testing"
	"time"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"google.golang.org/protobuf/proto"

	"github.com/deputyauth/deputy/pkg/daemon"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/tests/harness"
)

// TestTiming measures what the answers do not say: how long a confined caller waits for what is foreign, compared with what is absent. The
// figures are for docs/callers.md. Time is no part of what is confined, so only a difference by a large factor fails.
func TestTiming(t *testing.T) {
	s := harness.Start(t, daemon.Config{
		Engine: harness.Embedded(t), Callers: callers(), PresharedKeys: []string{harness.ServiceKey}, AdminPresharedKeys: []string{harness.AdminKey},
	})
	grants := fill(t, s)
	var foreign, inOwn grant
	for _, g := range grants {
		switch {
		case g.session != "" && g.tenant == other && !g.beyond:
			foreign = g
		case g.session != "" && g.tenant == own && !g.beyond && g.principal == "user:acme-ann":
			inOwn = g
		}
	}
	decide := func(doc string) proto.Message {
		return &deputyv1.CheckPermissionRequest{
			AgentId: inOwn.agent, Via: &deputyv1.CheckPermissionRequest_SessionId{SessionId: inOwn.session}, Resource: harness.Ref("document:" + doc), Permission: "view",
		}
	}
	read := func(doc string) proto.Message {
		return &v1.ReadRelationshipsRequest{
			Consistency:        &v1.Consistency{Requirement: &v1.Consistency_FullyConsistent{FullyConsistent: true}},
			RelationshipFilter: &v1.RelationshipFilter{ResourceType: "document", OptionalResourceId: doc},
		}
	}
	session := func(id string) proto.Message { return &deputyv1.GetSessionRequest{SessionId: id} }
	conn := harness.Dial(t, s.Addr().String(), keyOf("acme-checker"))
	for _, one := range []struct {
		method          string
		foreign, absent proto.Message
	}{
		{"/deputy.v1.PermissionsService/CheckPermission", decide("globex-d4"), decide("nowhere-d4")},
		{"/deputy.v1.SessionsService/GetSession", session(foreign.session), session("00000000000000000000000000000001")},
		{"/authzed.api.v1.PermissionsService/ReadRelationships", read("globex-d4"), read("nowhere-d4")},
		{"/authzed.api.v1.PermissionsService/CheckPermission", checkRaw("globex-d4"), checkRaw("nowhere-d4")},
	} {
		m, err := methodOf(one.method)
		if err != nil {
			t.Fatal(err)
		}
		var took [2][]time.Duration
		for i := range 1000 {
			for k, req := range []proto.Message{one.foreign, one.absent} {
				begin := time.Now()
				_, _, _ = m.call(t.Context(), conn, req)
				if i >= 100 {
					took[k] = append(took[k], time.Since(begin))
				}
			}
		}
		median := func(k int) time.Duration { slices.Sort(took[k]); return took[k][len(took[k])/2] }
		ratio := float64(median(0)) / float64(median(1))
		t.Logf("%s: foreign %v, absent %v: %.2f times", one.method, median(0), median(1), ratio)
		if ratio > 5 || ratio < 0.2 {
			t.Errorf("%s answers what is foreign in %.2f times of what it takes for what is absent", one.method, ratio)
		}
	}
}

func checkRaw(doc string) proto.Message {
	return &v1.CheckPermissionRequest{
		Consistency: &v1.Consistency{Requirement: &v1.Consistency_FullyConsistent{FullyConsistent: true}},
		Resource:    &v1.ObjectReference{ObjectType: "document", ObjectId: doc}, Permission: "view",
		Subject: &v1.SubjectReference{Object: &v1.ObjectReference{ObjectType: "user", ObjectId: "both-dan"}},
	}
}
