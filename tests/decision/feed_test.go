package decision_test

import (
	"fmt"
	"strings"
	"testing"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"github.com/authzed/spicedb/pkg/tuple"
	"google.golang.org/grpc/codes"

	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/schema"
	"github.com/deputyauth/deputy/tests/harness"
)

// feeding is a domain in which relationships between objects decide what an agent reaches.
const feeding = `
definition crew {
	relation tenant: tenant
	relation member: user | agent | delegation
}

definition folder {
	relation tenant: tenant
	relation parent: folder
	relation reader: user | agent | delegation | crew#member
	permission view = reader + parent->view
}

definition file {
	relation folder: folder
	relation reader: user | agent | delegation
	permission tenant = folder.all(tenant)
	permission view = reader + folder->view
}
`

// TestServicesDoNotWiden: no relationship that a service writes turns an agent's or a delegation's NO on an object into
// HAS, and services place new objects all the same, which the agent then reaches as it reaches their parents.
func TestServicesDoNotWiden(t *testing.T) {
	harness.EachEngine(t, func(t *testing.T, s *harness.Server) {
		w := newWorld(t, s)
		s.WriteSchema(t, schema.Core+domain+feeding)
		touch, del := v1.RelationshipUpdate_OPERATION_TOUCH, v1.RelationshipUpdate_OPERATION_DELETE
		s.Touch(t,
			"folder:support#tenant@tenant:acme", "folder:support#reader@user:alice", "folder:support#reader@agent:bot",
			"folder:finance#tenant@tenant:acme", "folder:finance#reader@user:alice",
			"crew:night#tenant@tenant:acme", "crew:night#member@agent:bot", "file:ledger#folder@folder:finance",
		)
		all := under(w.delegate(&deputyv1.CreateDelegationRequest{Unscoped: true, AllowDirect: true}))
		scoped := under(w.delegate(&deputyv1.CreateDelegationRequest{
			AllowDirect: true, Scope: []*deputyv1.ScopeGrant{{Resource: harness.Ref("folder:support"), Relation: "reader"}},
		}))
		for _, c := range []check{all, scoped} {
			w.allow(c.view("folder:support"))
			w.deny(c.view("folder:finance"), byObject)
			w.deny(c.view("file:ledger"), byObject)
		}
		for _, attack := range [][]string{
			{"folder:finance#parent@folder:support"},
			{"folder:finance#reader@crew:night#member"},
			{"file:ledger#folder@folder:support"},
			{"folder:between#parent@folder:support", "folder:between#tenant@tenant:acme", "folder:finance#parent@folder:between"},
		} {
			_, err := harness.Update(t.Context(), s.Service, touch, attack...)
			w.fails(err, codes.PermissionDenied, "ROLE_REQUIRED", fmt.Sprintf("updates[%d]", attackAt(attack)))
			load, err := v1.NewPermissionsServiceClient(s.Service).ImportBulkRelationships(t.Context())
			w.ok(err)
			req := &v1.ImportBulkRelationshipsRequest{}
			for _, text := range attack {
				req.Relationships = append(req.Relationships, tuple.MustParseV1Rel(text))
			}
			_ = load.Send(req) // CloseAndRecv knows better
			_, err = load.CloseAndRecv()
			w.fails(err, codes.PermissionDenied, "ROLE_REQUIRED", "messages[0].relationships[0]")
		}
		for _, c := range []check{all, scoped} {
			w.deny(c.view("folder:finance"), byObject)
			w.deny(c.view("file:ledger"), byObject)
		}
		_, err := harness.Update(t.Context(), s.Service, del, "file:ledger#folder@folder:finance")
		w.fails(err, codes.PermissionDenied, "ROLE_REQUIRED", "updates[0]")

		_, err = harness.Update(t.Context(), s.Service, touch,
			"file:note#folder@folder:inner", "folder:inner#parent@folder:support", "folder:inner#tenant@tenant:acme", "file:note#reader@user:bob")
		w.ok(err)
		for _, c := range []check{all, scoped} {
			w.allow(c.view("file:note"))
		}
	})
}

// attackAt is the number of the update that is refused: the first that changes an object which is there.
func attackAt(list []string) int {
	for i, text := range list {
		if !strings.HasPrefix(text, "folder:between#") {
			return i
		}
	}
	return 0
}
