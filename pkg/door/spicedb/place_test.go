package spicedb

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/schema"
)

// placeDomain has folders within folders, groups with and without agents, and labels that all have to admit.
const placeDomain = `
use expiration

caveat on_call(shift int) {
	shift > 0
}

definition team {
	relation tenant: tenant
	relation member: user | team#member
}

definition crew {
	relation tenant: tenant
	relation member: user | agent | crew#member
}

definition label {
	relation tenant: tenant
	relation cleared: user | agent
	relation plain: user
}

definition mark {
	relation tenant: tenant
	relation plain: user
	permission cleared = plain
}

definition folder {
	relation tenant: tenant
	relation parent: folder | folder with on_call | folder with expiration
	relation viewer: user | user:* | team#member | crew#member | agent | delegation
	permission within = tenant + parent->within
	permission view = viewer + parent->view
}

definition document {
	relation folder: folder
	relation viewer: user | team#member | agent
	relation banned: user | agent
	relation label: label | mark
	relation owner: team
	permission tenant = folder.all(tenant)
	permission view = ((viewer + folder->view) & label.all(cleared)) - banned
	permission own = owner->member
}
`

// openPlaces is openEngine with two tenants' folders and more.
func openPlaces(t *testing.T) *house {
	t.Helper()
	h := openEngine(t)
	ctx := context.Background()
	admin := h.client(t, adminKey)
	text := schema.Core + strings.Replace(placeDomain, "use expiration\n", "", 1)
	must[*v1.WriteSchemaResponse](t)(admin.WriteSchema(ctx, &v1.WriteSchemaRequest{Schema: text}))
	must[*v1.WriteRelationshipsResponse](t)(admin.WriteRelationships(ctx, updates(
		"folder:support#tenant@tenant:acme", "folder:finance#tenant@tenant:acme", "folder:theirs#tenant@tenant:globex",
		"folder:both#tenant@tenant:acme", "folder:both#tenant@tenant:globex", "folder:nowhere#viewer@user:alice",
		"folder:support#viewer@agent:bot", "folder:waiting#viewer@agent:bot", "folder:holds#parent@folder:ghost", "folder:holds#tenant@tenant:acme",
		"team:t#tenant@tenant:acme", "crew:c#tenant@tenant:acme", "crew:lost#member@user:alice",
		"label:l#tenant@tenant:acme", "label:theirs#tenant@tenant:globex", "mark:m#tenant@tenant:acme",
		"document:d#folder@folder:finance", "document:d#label@label:l",
	)))
	return h
}

// placements says what a service may write, relationship by relationship; the last of each list is the offence.
var placements = []struct {
	name string
	list []string
	ok   bool
}{
	{"moving a folder under another of the same tenant", []string{"folder:finance#parent@folder:support"}, false},
	{"moving a document", []string{"document:d#folder@folder:support"}, false},
	{"a label for a document that is there", []string{"document:d#label@label:l2"}, false},
	{"a label on which no agent holds anything, where all have to admit", []string{"document:d#label@mark:m"}, false},
	{"a crew for a folder that is there", []string{"folder:finance#viewer@crew:c#member"}, false},
	{"a crew into a crew", []string{"crew:c#member@crew:lost#member"}, false},
	{"a tenant for a folder that is there", []string{"folder:nowhere#tenant@tenant:acme"}, false},
	{"a new child that takes an old one along", []string{"folder:new#parent@folder:support", "folder:finance#parent@folder:new"}, false},

	{"a user for a folder that is there", []string{"folder:finance#viewer@user:alice"}, true},
	{"all users", []string{"folder:finance#viewer@user:*"}, true},
	{"a team for a folder that is there", []string{"folder:finance#viewer@team:t#member"}, true},
	{"a user into a crew", []string{"crew:c#member@user:alice"}, true},
	{"a team into a team", []string{"team:t#member@team:u#member"}, true},
	{"a ban of a user", []string{"document:d#banned@user:alice"}, true},
	{"an arrow to where no agent is", []string{"document:d#owner@team:t"}, true},

	{"a new folder", []string{"folder:new#parent@folder:support", "folder:new#tenant@tenant:acme", "folder:new#viewer@user:alice"}, true},
	{"a new document with all that it has", []string{
		"document:new#folder@folder:support", "document:new#folder@folder:finance", "document:new#label@label:l", "document:new#viewer@user:alice",
	}, true},
	{"new ones under each other", []string{"document:new#folder@folder:inner", "folder:inner#parent@folder:outer", "folder:outer#tenant@tenant:acme", "folder:inner#tenant@tenant:acme"}, true},
	{"a new folder with a crew of its tenant", []string{"folder:new#tenant@tenant:acme", "folder:new#viewer@crew:c#member"}, true},
	{"a new folder under a caveat", []string{`folder:new#parent@folder:support[on_call]`, "folder:new#tenant@tenant:acme"}, true},

	{"a new folder in a ring of new ones", []string{"folder:a#parent@folder:b", "folder:b#parent@folder:a"}, false},
	{"a new folder under itself", []string{"folder:a#parent@folder:a"}, false},
	{"a new document in two tenants", []string{"document:new#folder@folder:support", "document:new#folder@folder:theirs"}, false},
	{"a new document with a label of another tenant", []string{"document:new#folder@folder:support", "document:new#label@label:theirs"}, false},
	{"a new folder whose tenant is not its parent's", []string{"folder:new#parent@folder:support", "folder:new#tenant@tenant:globex"}, false},
	{"a new folder under one of two tenants", []string{"folder:new#parent@folder:both"}, false},
	{"a new folder under one without a tenant", []string{"folder:new#parent@folder:nowhere"}, false},
	{"a new folder under one that does not exist", []string{"folder:new#parent@folder:nothing"}, false},
	{"a new folder with a crew without a tenant", []string{"folder:new#tenant@tenant:acme", "folder:new#viewer@crew:lost#member"}, false},
	{"an object that is named as a subject already", []string{"folder:ghost#parent@folder:support"}, false},
	{"an object that an agent waits for", []string{"folder:waiting#parent@folder:support"}, false},
}

// TestPlacing: a service may place new objects under parents of one tenant, and may write whatever no agent can
// reach anything through. Each case stands alone: what it wrote is deleted after it.
func TestPlacing(t *testing.T) {
	h := openPlaces(t)
	ctx := context.Background()
	service, admin := h.client(t, serviceKey), h.client(t, adminKey)
	for _, operation := range []v1.RelationshipUpdate_Operation{v1.RelationshipUpdate_OPERATION_CREATE, v1.RelationshipUpdate_OPERATION_TOUCH} {
		for _, c := range placements {
			name := c.name + ", " + operation.String()
			req := updates(c.list...)
			for _, u := range req.GetUpdates() {
				u.Operation = operation
			}
			_, err := service.WriteRelationships(ctx, req)
			switch {
			case !c.ok && status.Code(err) != codes.PermissionDenied, infoOf(err).GetReason() != authz.ReasonRoleRequired && !c.ok:
				t.Errorf("%s: %v, want it refused", name, err)
			case c.ok && err != nil:
				t.Errorf("%s: %v", name, err)
			}
			if c.ok {
				// Undoing takes an admin where placing did not.
				undo := updates(c.list...)
				for _, u := range undo.GetUpdates() {
					u.Operation = v1.RelationshipUpdate_OPERATION_DELETE
				}
				if _, err := service.WriteRelationships(ctx, undo); strings.Contains(c.name, "new") != (status.Code(err) == codes.PermissionDenied) {
					t.Errorf("%s, undone by a service: %v", name, err)
				}
				must[*v1.WriteRelationshipsResponse](t)(admin.WriteRelationships(ctx, undo))
			}
			if _, err := load(ctx, service, relationships(c.list...)); strings.Contains(c.name, "new") && infoOf(err).GetReason() != authz.ReasonRoleRequired {
				t.Errorf("%s, as an import: %v", name, err)
			} else if err == nil {
				undo := updates(c.list...)
				for _, u := range undo.GetUpdates() {
					u.Operation = v1.RelationshipUpdate_OPERATION_DELETE
				}
				must[*v1.WriteRelationshipsResponse](t)(admin.WriteRelationships(ctx, undo))
			}
		}
	}
}

// TestPlacingOnce: of two writes that place one object, one wins; the loser's relationships are not there.
func TestPlacingOnce(t *testing.T) {
	h := openPlaces(t)
	ctx := context.Background()
	service := h.client(t, serviceKey)
	for round := range 20 {
		var (
			wait sync.WaitGroup
			errs [2]error
		)
		for i, folder := range []string{"support", "finance"} {
			wait.Go(func() {
				_, errs[i] = service.WriteRelationships(ctx, updates(fmt.Sprintf("document:once%d#folder@folder:%s", round, folder)))
			})
		}
		wait.Wait()
		read, err := service.ReadRelationships(ctx, &v1.ReadRelationshipsRequest{
			Consistency: fully, RelationshipFilter: filter("document", fmt.Sprintf("once%d", round), "", "folder", "", ""),
		})
		if got := collect(t, read, err); len(got) != 1 || (errs[0] == nil) == (errs[1] == nil) {
			t.Fatalf("round %d: %v and %v leave %v", round, errs[0], errs[1], got)
		}
	}
}

// TestPlacingAgain: a write that repeats what is stored changes nothing and is answered; one that changes a caveat or a
// time, or adds to it, is not.
func TestPlacingAgain(t *testing.T) {
	h := openPlaces(t)
	ctx := context.Background()
	service, admin := h.client(t, serviceKey), h.client(t, adminKey)
	tomorrow := time.Now().Add(24 * time.Hour).UTC().Format(time.RFC3339)
	list := []string{"folder:again#parent@folder:support", "folder:again#tenant@tenant:acme"}
	for range 3 {
		must[*v1.WriteRelationshipsResponse](t)(service.WriteRelationships(ctx, updates(list...)))
	}
	must[*v1.WriteRelationshipsResponse](t)(service.WriteRelationships(ctx, updates(append(list, "folder:again#viewer@user:bob")...)))
	for _, other := range []string{
		"folder:again#parent@folder:support[on_call]", "folder:again#parent@folder:support[expiration:" + tomorrow + "]", "folder:again#parent@folder:finance",
	} {
		_, err := service.WriteRelationships(ctx, updates(append(list, other)...))
		if infoOf(err).GetReason() != authz.ReasonRoleRequired {
			t.Errorf("%s: %v", other, err)
		}
	}
	// What an admin has limited since is not undone.
	must[*v1.WriteRelationshipsResponse](t)(admin.WriteRelationships(ctx, updates("folder:again#parent@folder:support[expiration:"+tomorrow+"]")))
	_, err := service.WriteRelationships(ctx, updates(list...))
	wants(t, "repeated after an admin", err, codes.PermissionDenied, authz.ReasonRoleRequired, "updates[0]")

	// An id whose relationships are all gone is as good as new.
	must[*v1.DeleteRelationshipsResponse](t)(admin.DeleteRelationships(ctx, &v1.DeleteRelationshipsRequest{RelationshipFilter: filter("folder", "again", "", "", "", "")}))
	must[*v1.WriteRelationshipsResponse](t)(service.WriteRelationships(ctx, updates("folder:again#parent@folder:finance")))
}

// TestPlacingAgainWhileItGoes: what is left out because it is stored has to be stored still when the rest is written.
func TestPlacingAgainWhileItGoes(t *testing.T) {
	h := openPlaces(t)
	ctx := context.Background()
	service, admin := h.client(t, serviceKey), h.client(t, adminKey)
	list := []string{"folder:again#parent@folder:support", "folder:again#tenant@tenant:acme"}
	must[*v1.WriteRelationshipsResponse](t)(service.WriteRelationships(ctx, updates(list...)))
	// The door looks at the graph as it is now, and only then an admin deletes.
	h.hold()
	must[*v1.DeleteRelationshipsResponse](t)(admin.DeleteRelationships(ctx, &v1.DeleteRelationshipsRequest{RelationshipFilter: filter("folder", "again", "", "", "", "")}))
	_, err := service.WriteRelationships(ctx, updates(append(list, "folder:again#viewer@user:bob")...))
	if status.Code(err) != codes.FailedPrecondition {
		t.Errorf("%v, want FAILED_PRECONDITION: the answer would say that what is gone is there", err)
	}
}

// TestPlacingIsBounded: a write places no more objects than its preconditions allow, and looks at no more parents.
func TestPlacingIsBounded(t *testing.T) {
	h := openPlaces(t)
	ctx := context.Background()
	service := h.client(t, serviceKey)
	many := func(n int, format string) (list []string) {
		for i := range n {
			list = append(list, fmt.Sprintf(format, i))
		}
		return list
	}
	must[*v1.WriteRelationshipsResponse](t)(service.WriteRelationships(ctx, updates(many(500, "document:a%d#folder@folder:support")...)))
	_, err := service.WriteRelationships(ctx, updates(many(501, "document:b%d#folder@folder:support")...))
	wants(t, "too many objects", err, codes.InvalidArgument, authz.ReasonInvalidField, "updates")

	admin := h.client(t, adminKey)
	must[*v1.WriteRelationshipsResponse](t)(admin.WriteRelationships(ctx, updates(many(maxParents+1, "folder:p%[1]d#tenant@tenant:acme")...)))
	_, err = service.WriteRelationships(ctx, updates(many(maxParents+1, "document:c#folder@folder:p%[1]d")...))
	wants(t, "too many parents", err, codes.InvalidArgument, authz.ReasonInvalidField, fmt.Sprintf("updates[%d]", maxParents))
}
