package bench

import (
	"context"
	"fmt"
	"math/rand/v2"

	"github.com/authzed/spicedb/pkg/datastore"
	"github.com/authzed/spicedb/pkg/tuple"

	"github.com/deputyauth/deputy/schema"
)

// domain is the schema of the graph "folders", beside the core.
const domain = `
definition group {
	relation member: user | group#member
}

definition folder {
	relation tenant: tenant
	relation parent: folder
	relation viewer: user | group#member | agent | service
	relation editor: user
	permission edit = editor + tenant->admin
	permission view = viewer + edit + parent->view
}

definition document {
	relation folder: folder
	relation owner: user
	relation viewer: user | agent
	relation banned: user
	permission tenant = folder->tenant
	permission edit = owner
	permission view = (viewer + edit + folder->view) - banned
}
`

// schemaText is the whole schema.
func schemaText() string { return schema.Core + domain }

// The shape of a tenant.
const (
	usersPerTenant     = 100
	groupsPerTenant    = 10
	agentsPerTenant    = 5
	foldersPerTenant   = 50
	documentsPerTenant = 2000
	// perTenant is how many relationships that makes.
	perTenant = 2*documentsPerTenant + 3*foldersPerTenant - 1 + 2*usersPerTenant + groupsPerTenant/2 + 2*agentsPerTenant + 1
)

// graph is the graph "folders": tenants of one shape, generated from a seed, so that every run and every
// engine has the same.
type graph struct{ tenants int }

// sized returns the graph with about n relationships.
func sized(n int) graph { return graph{tenants: max(1, n/perTenant)} }

func (g graph) relationships() int { return g.tenants * perTenant }

func document(t, i int) string { return fmt.Sprintf("t%d-doc-%d", t, i) }
func folder(t, i int) string   { return fmt.Sprintf("t%d-folder-%d", t, i) }
func user(t, i int) string     { return fmt.Sprintf("t%d-user-%d", t, i) }
func agent(t, i int) string    { return fmt.Sprintf("t%d-agent-%d", t, i) }
func group(t, i int) string    { return fmt.Sprintf("t%d-group-%d", t, i) }
func tenant(t int) string      { return fmt.Sprintf("tenant-%d", t) }

// eachOf emits the relationships of one tenant.
func eachOf(t int, emit func(tuple.Relationship) error) error {
	r := rand.New(rand.NewPCG(1, uint64(t)))
	var failed error
	rel := func(resourceType, resource, relation, subjectType, subject, subjectRelation string) {
		if failed == nil {
			failed = emit(tuple.Relationship{RelationshipReference: tuple.RelationshipReference{
				Resource: tuple.ObjectAndRelation{ObjectType: resourceType, ObjectID: resource, Relation: relation},
				Subject:  tuple.ObjectAndRelation{ObjectType: subjectType, ObjectID: subject, Relation: subjectRelation},
			}})
		}
	}
	const self = tuple.Ellipsis
	for i := range usersPerTenant {
		rel("tenant", tenant(t), "member", "user", user(t, i), self)
		rel("group", group(t, i%groupsPerTenant), "member", "user", user(t, i), self)
	}
	rel("tenant", tenant(t), "admin", "user", user(t, 0), self)
	for i := range groupsPerTenant / 2 {
		rel("group", group(t, 2*i), "member", "group", group(t, 2*i+1), "member")
	}
	for i := range agentsPerTenant {
		rel("tenant", tenant(t), "agent", "agent", agent(t, i), self)
		rel("folder", folder(t, i), "viewer", "agent", agent(t, i), self)
	}
	for i := range foldersPerTenant {
		rel("folder", folder(t, i), "tenant", "tenant", tenant(t), self)
		rel("folder", folder(t, i), "viewer", "group", group(t, r.IntN(groupsPerTenant)), "member")
		if i > 0 {
			rel("folder", folder(t, i), "parent", "folder", folder(t, (i-1)/3), self)
		}
	}
	for i := range documentsPerTenant {
		rel("document", document(t, i), "folder", "folder", folder(t, r.IntN(foldersPerTenant)), self)
		rel("document", document(t, i), "owner", "user", user(t, r.IntN(usersPerTenant)), self)
	}
	return failed
}

// load is a datastore.BulkWriteRelationshipSource over some relationships.
type load struct {
	rels []tuple.Relationship
	next int
}

var _ datastore.BulkWriteRelationshipSource = (*load)(nil)

func (l *load) Next(context.Context) (*tuple.Relationship, error) {
	if l.next == len(l.rels) {
		return nil, nil //nolint:nilnil // that is how a source ends
	}
	l.next++
	return &l.rels[l.next-1], nil
}
