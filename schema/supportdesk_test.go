package schema_test

import (
	"context"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"github.com/authzed/spicedb/pkg/cmd/datastore"
	"github.com/authzed/spicedb/pkg/cmd/server"
	"github.com/authzed/spicedb/pkg/cmd/util"
	corev1 "github.com/authzed/spicedb/pkg/proto/core/v1"
	implv1 "github.com/authzed/spicedb/pkg/proto/impl/v1"
	"github.com/authzed/spicedb/pkg/schemadsl/compiler"
	"github.com/authzed/spicedb/pkg/schemadsl/generator"
	"github.com/authzed/spicedb/pkg/schemadsl/input"
	"github.com/authzed/spicedb/pkg/tuple"
	"google.golang.org/grpc"

	"github.com/deputyauth/deputy/schema"
)

// folder is the source folder of the example domain.
func folder(t *testing.T) fs.FS {
	t.Helper()
	sub, err := fs.Sub(schema.SupportDesk, "supportdesk")
	if err != nil {
		t.Fatal(err)
	}
	return sub
}

// file returns the text of one of the example's files.
func file(t *testing.T, name string) string {
	t.Helper()
	text, err := fs.ReadFile(folder(t), name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// compile returns the definitions of a schema text, imports resolved within the example's folder.
func compile(t *testing.T, text string) *compiler.CompiledSchema {
	t.Helper()
	compiled, err := compiler.Compile(
		compiler.InputSchema{Source: input.Source("schema"), SchemaString: text},
		compiler.AllowUnprefixedObjectType(), compiler.SourceFS(folder(t)))
	if err != nil {
		t.Fatal(err)
	}
	return compiled
}

// flat returns a compiled schema as one text without imports and partials.
func flat(t *testing.T, compiled *compiler.CompiledSchema) string {
	t.Helper()
	text, complete, err := generator.GenerateSchema(t.Context(), compiled.OrderedDefinitions)
	if err != nil || !complete {
		t.Fatalf("flat schema: complete %v, %v", complete, err)
	}
	return text
}

// relationships returns the example's relationships.
func relationships(t *testing.T) []*v1.Relationship {
	t.Helper()
	var rels []*v1.Relationship
	for i, line := range strings.Split(file(t, "relationships.txt"), "\n") {
		if line == "" || strings.HasPrefix(line, "//") {
			continue
		}
		rel, err := tuple.ParseV1Rel(line)
		if err != nil {
			t.Fatalf("relationships.txt:%d: %v", i+1, err)
		}
		rels = append(rels, rel)
	}
	return rels
}

// stockSpiceDB returns a connection to a SpiceDB in this process, over its memory datastore.
func stockSpiceDB(t *testing.T) *grpc.ClientConn {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	ds, err := datastore.NewDatastore(ctx,
		datastore.DefaultDatastoreConfig().ToOption(),
		datastore.WithEngine(datastore.MemoryEngine),
		datastore.WithRequestHedgingEnabled(false))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ds.Close() })
	srv, err := server.NewConfigWithOptionsAndDefaults(
		server.WithDatastore(ds),
		server.WithGRPCServer(util.GRPCServerConfig{Network: util.BufferedNetwork, Enabled: true}),
		server.WithHTTPGateway(util.HTTPServerConfig{}),
		server.WithMetricsAPI(util.HTTPServerConfig{}),
		server.WithDispatchServer(util.GRPCServerConfig{}),
		server.WithGRPCAuthFunc(func(ctx context.Context) (context.Context, error) { return ctx, nil }),
		server.WithSchemaPrefixesRequired(false),
		server.WithSilentlyDisableTelemetry(true),
	).Complete(ctx)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- srv.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	conn, err := srv.NewClient()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// TestSupportDeskKeepsCore holds the example's copy of the core to the original, as text and after the
// imports were resolved.
func TestSupportDeskKeepsCore(t *testing.T) {
	if file(t, "core.zed") != schema.Core {
		t.Error("supportdesk/core.zed differs from core.zed: copy it again")
	}
	core, desk := compile(t, schema.Core), compile(t, file(t, "supportdesk.zed"))
	for _, want := range core.OrderedDefinitions {
		i := slices.IndexFunc(desk.OrderedDefinitions, func(d compiler.SchemaDefinition) bool {
			return d.GetName() == want.GetName()
		})
		if i < 0 {
			t.Errorf("%s is missing", want.GetName())
			continue
		}
		if got, want := text(t, desk.OrderedDefinitions[i]), text(t, want); got != want {
			t.Errorf("got\n%s\nwant\n%s", got, want)
		}
	}
}

// text returns one definition as schema text.
func text(t *testing.T, d compiler.SchemaDefinition) string {
	t.Helper()
	s, _, err := generator.GenerateSchema(t.Context(), []compiler.SchemaDefinition{d})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestSupportDeskIsSafe asserts what a domain beside the core has to keep: a tenant on each type, no
// shape that SpiceDB evaluates wrongly, a comment on everything.
func TestSupportDeskIsSafe(t *testing.T) {
	for _, def := range compile(t, file(t, "supportdesk.zed")).ObjectDefinitions {
		members := map[string]bool{}
		documented(t, def.Name, def.Metadata)
		for _, rel := range def.Relation {
			members[rel.Name] = true
			documented(t, def.Name+"#"+rel.Name, rel.Metadata)
			unsafeShape(t, def.Name+"#"+rel.Name, rel.GetTypeInformation().GetAllowedDirectRelations())
		}
		if !isCore(def.Name) && !members["tenant"] {
			t.Errorf("%s has no tenant", def.Name)
		}
	}
	for _, c := range compile(t, file(t, "supportdesk.zed")).CaveatDefinitions {
		documented(t, c.Name, c.Metadata)
	}
}

// isCore reports whether core.zed defines the type.
func isCore(name string) bool {
	return strings.Contains(schema.Core, "definition "+name+" {")
}

// documented asserts that a doc comment starting with the name stands above a definition or member.
func documented(t *testing.T, name string, metadata *corev1.Metadata) {
	t.Helper()
	word := name[strings.Index(name, "#")+1:]
	for _, m := range metadata.GetMetadataMessage() {
		var doc implv1.DocComment
		if m.UnmarshalTo(&doc) == nil && strings.Contains(doc.Comment, word) {
			return
		}
	}
	t.Errorf("%s has no comment that says what it is", name)
}

// unsafeShape asserts that no type stands with a caveat or an expiration beside a userset of the same
// type without one: SpiceDB v1.56.2 then counts the userset among the subjects that have none, and skips
// reading it from the others.
func unsafeShape(t *testing.T, name string, allowed []*corev1.AllowedRelation) {
	t.Helper()
	for _, trait := range allowed {
		for _, userset := range allowed {
			if userset.Namespace != trait.Namespace || userset.GetPublicWildcard() != nil || userset.GetRelation() == tuple.Ellipsis {
				continue
			}
			if trait.RequiredCaveat != nil && userset.RequiredCaveat == nil ||
				trait.RequiredExpiration != nil && userset.RequiredExpiration == nil {
				t.Errorf("%s admits %s with a caveat or an expiration beside %s#%s",
					name, trait.Namespace, userset.Namespace, userset.GetRelation())
			}
		}
	}
}

// TestSupportDeskOnStockSpiceDB writes the flat schema and every relationship to a SpiceDB that knows
// nothing of Deputy, and asks it for the tenant of each object of the domain.
func TestSupportDeskOnStockSpiceDB(t *testing.T) {
	conn := stockSpiceDB(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	desk := compile(t, file(t, "supportdesk.zed"))
	if _, err := v1.NewSchemaServiceClient(conn).WriteSchema(ctx, &v1.WriteSchemaRequest{Schema: flat(t, desk)}); err != nil {
		t.Fatalf("schema: %v", err)
	}
	permissions := v1.NewPermissionsServiceClient(conn)
	objects := map[string]*v1.ObjectReference{}
	used := map[string]bool{}
	var updates []*v1.RelationshipUpdate
	for _, rel := range relationships(t) {
		updates = append(updates, &v1.RelationshipUpdate{Operation: v1.RelationshipUpdate_OPERATION_CREATE, Relationship: rel})
		used[rel.Resource.ObjectType+"#"+rel.Relation] = true
		if !isCore(rel.Resource.ObjectType) {
			objects[tuple.V1StringObjectRef(rel.Resource)] = rel.Resource
		}
	}
	if _, err := permissions.WriteRelationships(ctx, &v1.WriteRelationshipsRequest{Updates: updates}); err != nil {
		t.Fatalf("relationships: %v", err)
	}
	for _, name := range []string{"acme", "globex"} {
		for id, object := range objects {
			answer, err := permissions.CheckPermission(ctx, &v1.CheckPermissionRequest{
				Consistency: &v1.Consistency{Requirement: &v1.Consistency_FullyConsistent{FullyConsistent: true}},
				Resource:    object,
				Permission:  "tenant",
				Subject:     &v1.SubjectReference{Object: &v1.ObjectReference{ObjectType: "tenant", ObjectId: name}},
			})
			if err != nil {
				t.Errorf("%s: %v", id, err)
				continue
			}
			// The example's ids start with their tenant.
			want := strings.HasPrefix(object.ObjectId, name+"-")
			if got := answer.Permissionship == v1.CheckPermissionResponse_PERMISSIONSHIP_HAS_PERMISSION; got != want {
				t.Errorf("%s is in tenant %s: %v, want %v", id, name, got, want)
			}
		}
	}
	for _, def := range desk.ObjectDefinitions {
		for _, rel := range def.Relation {
			// Only an assignee is left to the stories, which pass tickets on.
			if name := def.Name + "#" + rel.Name; !isCore(def.Name) && rel.UsersetRewrite == nil && !used[name] && name != "ticket#assignee" {
				t.Errorf("no relationship shows what %s is for", name)
			}
		}
	}
}
