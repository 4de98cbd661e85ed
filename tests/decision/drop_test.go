package decision_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	dscfg "github.com/authzed/spicedb/pkg/cmd/datastore"
	"github.com/authzed/spicedb/pkg/tuple"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/deputyauth/deputy/pkg/daemon"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/schema"
	"github.com/deputyauth/deputy/tests/harness"
)

// drop is one trait that schema writes drop: a type's body before, after each write, and a row that has the trait.
type drop struct {
	name   string
	before string
	// after is what the type becomes, write by write; "" removes the type.
	after []string
	// grant is the subject of the row, in relation "doubt" or in the one that it names.
	grant string
	// expires says that the row can expire.
	expires bool
	// unseen says that memdb, which the harness has behind remote, does not see the live row when SpiceDB looks for it.
	unseen bool
	// lasting says that a live row does not keep the schema from being written, because it stays admitted.
	lasting bool
}

// drops are the traits. In each, alice has what the row gives her, and nothing else.
var drops = []drop{
	{name: "expiration", before: "relation doubt: user | user with expiration", after: []string{"relation doubt: user"}, grant: "user:alice", expires: true},
	{name: "caveat", before: "relation doubt: user | user with office_hours", after: []string{"relation doubt: user"}, grant: "user:alice[office_hours]"},
	{name: "wildcard", before: "relation doubt: user | user:*", after: []string{"relation doubt: user"}, grant: "user:*"},
	{
		name: "caveat and expiration", before: "relation doubt: user | user with office_hours and expiration",
		after: []string{"relation doubt: user"}, grant: "user:alice[office_hours]", expires: true,
	},
	{
		name: "expiration of a caveated type", before: "relation doubt: user with office_hours | user with office_hours and expiration",
		after: []string{"relation doubt: user with office_hours"}, grant: `user:alice[office_hours:{"hour":10}]`, expires: true,
	},
	{name: "expiration of a wildcard", before: "relation doubt: user:* | user:* with expiration", after: []string{"relation doubt: user:*"}, grant: "user:*", expires: true},
	{name: "wildcard with expiration", before: "relation doubt: user | user:* with expiration", after: []string{"relation doubt: user", "relation doubt: user | user:*"}, grant: "user:*", expires: true},
	{
		name: "expiration of a userset", before: "relation doubt: tenant#member | tenant#member with expiration",
		after: []string{"relation doubt: tenant#member"}, grant: "tenant:acme#member", expires: true,
	},
	{
		name: "expiration of an arrow", before: "relation held: document | document with expiration\n\tpermission doubt = held->view",
		after: []string{"relation held: document\n\tpermission doubt = held->view"}, grant: "held@document:plan", expires: true,
	},
	{name: "a relation, and back", before: "relation doubt: user | user with expiration", after: []string{"permission doubt = nil", "relation doubt: user"}, grant: "user:alice", expires: true},
	{
		name: "a caveated relation, and back", before: "relation doubt: user | user with office_hours",
		after: []string{"permission doubt = nil", "relation doubt: user | user with office_hours"}, grant: `user:alice[office_hours:{"hour":10}]`,
		unseen: true,
	},
	{name: "a type, and back", before: "relation doubt: user | user with expiration", after: []string{"", "relation doubt: user"}, grant: "user:alice", expires: true},
	{
		name: "the expiration of another type", before: "relation doubt: user with expiration | service | service with expiration",
		after: []string{"relation doubt: user with expiration | service"}, grant: "user:alice", expires: true, lasting: true,
	},
}

// bodies are the types of all cells, by name.
type bodies map[string]string

// text is the whole schema.
func (b bodies) text() string {
	var names []string
	for name := range b {
		names = append(names, name)
	}
	slices.Sort(names)
	var out strings.Builder
	out.WriteString(schema.Core + domain)
	for _, name := range names {
		if b[name] != "" {
			fmt.Fprintf(&out, "\ndefinition %s {\n\trelation tenant: tenant\n\trelation reader: agent\n\t%s\n\tpermission view = reader + doubt\n}\n", name, b[name])
		}
	}
	return out.String()
}

// writeSchema writes a schema over a connection.
func writeSchema(ctx context.Context, conn grpc.ClientConnInterface, text string) error {
	_, err := v1.NewSchemaServiceClient(conn).WriteSchema(ctx, &v1.WriteSchemaRequest{Schema: text})
	return err
}

// doubtful writes the objects of a cell: only the row with the trait is missing for alice.
func (w *world) doubtful(d drop, object, state string) {
	w.Helper()
	w.Touch(w.T, object+"#tenant@tenant:acme", object+"#reader@agent:bot")
	relation, subject, ok := strings.Cut(d.grant, "@")
	if !ok {
		relation, subject = "doubt", d.grant
	}
	row := tuple.MustParseV1Rel(object + "#" + relation + "@" + subject)
	if d.expires {
		until := time.Hour
		if state == "expired" {
			until = -time.Hour
		}
		row = tuple.MustParseV1Rel(object + "#" + relation + "@" + subject + "[expiration:" + time.Now().Add(until).UTC().Format(time.RFC3339) + "]")
	}
	perms := v1.NewPermissionsServiceClient(w.Admin)
	operations := []v1.RelationshipUpdate_Operation{v1.RelationshipUpdate_OPERATION_TOUCH}
	if state == "deleted" {
		operations = append(operations, v1.RelationshipUpdate_OPERATION_DELETE)
	}
	for _, op := range operations {
		_, err := perms.WriteRelationships(w.Context(), &v1.WriteRelationshipsRequest{Updates: []*v1.RelationshipUpdate{{Operation: op, Relationship: row}}})
		w.ok(err)
	}
}

// TestDroppedTraitsDoNotComeBack: whatever a schema write drops, a row that had expired or was deleted does not count
// afterwards, and one that is live keeps the schema from being written. On remote, where Deputy cannot remove an
// expired row within the write, no decision is made that would count it.
func TestDroppedTraitsDoNotComeBack(t *testing.T) {
	harness.EachEngine(t, func(t *testing.T, s *harness.Server) {
		w := newWorld(t, s)
		under := under(w.delegate(&deputyv1.CreateDelegationRequest{Unscoped: true, AllowDirect: true}))
		all := bodies{}
		type cell struct {
			drop
			state, objectType string
		}
		var cells []cell
		for i, d := range drops {
			for _, state := range []string{"live", "expired", "deleted"} {
				if state == "expired" && !d.expires {
					continue
				}
				c := cell{d, state, fmt.Sprintf("cell%02d_%s", i, state)}
				cells = append(cells, c)
				all[c.objectType] = d.before
			}
		}
		w.ok(writeSchema(t.Context(), s.Admin, all.text()))
		for _, c := range cells {
			w.doubtful(c.drop, c.objectType+":one", c.state)
		}
		for _, c := range cells {
			t.Run(c.name+", "+c.state, func(t *testing.T) {
				w := &world{t, s}
				refused := false
				others := []string{c.objectType + ":one#tenant@tenant:acme", c.objectType + ":one#reader@agent:bot"}
				for _, body := range c.after {
					if body == "" {
						s.Delete(t, others...)
					}
					before := all[c.objectType]
					all[c.objectType] = body
					if err := writeSchema(t.Context(), s.Admin, all.text()); err != nil {
						all[c.objectType] = before
						if code := status.Code(err); code != codes.InvalidArgument && code != codes.FailedPrecondition {
							t.Fatalf("the schema write fails with %v", err)
						}
						refused = true
						if body == "" {
							s.Touch(t, others...)
						}
						break
					}
				}
				if !refused {
					s.Touch(t, others...)
				}
				if want := c.state == "live" && !c.lasting && (!c.unseen || !s.IsRemote()); refused != want {
					t.Errorf("the schema write is refused: %t, want %t", refused, want)
				}
				decided, err := w.Permissions().CheckPermission(t.Context(), under.view(c.objectType+":one").with(map[string]any{"hour": 10}).CheckPermissionRequest)
				switch {
				case c.state == "live" && (refused || c.lasting || c.unseen):
					if err != nil || decided.GetPermissionship() != has {
						t.Errorf("what is live gives %v, %v", decided, err)
					}
				case status.Code(err) == codes.FailedPrecondition && c.state == "expired" && s.IsRemote():
					w.fails(err, codes.FailedPrecondition, "EXPIRED_RELATIONSHIPS", "")
				case err != nil || decided.GetPermissionship() != no:
					t.Errorf("what is %s gives %v, %v", c.state, decided, err)
				}
			})
		}
		// The rest of the schema is decided on all the while.
		w.allow(under.view("document:plan"))
	})
}

// TestDroppedTraitsOnATrustedRemote: an operator who vouches for the schema of a remote SpiceDB (--remote-trust-schema) gets
// SpiceDB's own answers at once, also the one that counts an expired row.
func TestDroppedTraitsOnATrustedRemote(t *testing.T) {
	doubts := harness.Remote(t)
	trusts := doubts
	trusts.TrustSchema = true
	s := harness.Start(t, daemon.Config{Engine: doubts})
	w := newWorld(t, s)
	d := under(w.delegate(&deputyv1.CreateDelegationRequest{Unscoped: true, AllowDirect: true}))
	all := bodies{"doubted": "relation doubt: user | user with expiration"}
	w.ok(writeSchema(t.Context(), s.Admin, all.text()))
	w.doubtful(drop{grant: "user:alice", expires: true}, "doubted:one", "expired")
	w.deny(d.view("doubted:one"), byObject)
	all["doubted"] = "relation doubt: user"
	w.ok(writeSchema(t.Context(), s.Admin, all.text()))
	_, err := w.Permissions().CheckPermission(t.Context(), d.view("doubted:one").CheckPermissionRequest)
	w.fails(err, codes.FailedPrecondition, "EXPIRED_RELATIONSHIPS", "")

	trusting := &world{t, harness.Start(t, daemon.Config{Engine: trusts})}
	trusting.allow(d.view("doubted:one"))
}

// TestDroppedPastDeputy: where another SpiceDB over the same database drops an expiration, the decisions that
// would count expired rows are refused, and no others. A schema write through Deputy mends it.
func TestDroppedPastDeputy(t *testing.T) {
	cfg := harness.Postgres(t)
	s := harness.Start(t, daemon.Config{Engine: cfg})
	w := newWorld(t, s)
	d := w.delegate(&deputyv1.CreateDelegationRequest{Unscoped: true, AllowDirect: true})
	all := bodies{"doubted": "relation doubt: user | user with expiration", "leads": "relation held: doubted\n\tpermission doubt = held->view"}
	before := all.text()
	w.ok(writeSchema(t.Context(), s.Admin, before))
	w.doubtful(drop{grant: "user:alice", expires: true}, "doubted:one", "expired")
	s.Touch(t, "leads:one#tenant@tenant:acme", "leads:one#reader@agent:bot", "leads:one#held@doubted:one")
	w.deny(under(d).view("doubted:one"), byObject)
	w.deny(under(d).view("leads:one"), byObject)

	ds, err := dscfg.NewDatastore(t.Context(), dscfg.WithEngine(dscfg.PostgresEngine), dscfg.WithURI(cfg.URI), dscfg.WithEnableDatastoreMetrics(false))
	w.ok(err)
	defer func() { _ = ds.Close() }()
	past, stop, err := harness.SpiceDB(ds)
	w.ok(err)
	defer func() { _ = stop() }()
	all["doubted"] = "relation doubt: user"
	w.ok(writeSchema(t.Context(), past, all.text()))
	for _, object := range []string{"doubted:one", "leads:one"} {
		_, err := w.Permissions().CheckPermission(t.Context(), under(d).view(object).CheckPermissionRequest)
		w.fails(err, codes.FailedPrecondition, "EXPIRED_RELATIONSHIPS", "")
	}
	w.allow(under(d).view("document:plan"))

	w.ok(writeSchema(t.Context(), s.Admin, before))
	w.ok(writeSchema(t.Context(), s.Admin, all.text()))
	w.deny(under(d).view("doubted:one"), byObject)
	w.deny(under(d).view("leads:one"), byObject)
}
