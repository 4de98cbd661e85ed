package guard_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/engine"
	"github.com/deputyauth/deputy/pkg/schema/guard"
	"github.com/deputyauth/deputy/pkg/store"
	coreschema "github.com/deputyauth/deputy/schema"
)

// broken breaks the line before each closing brace, as SpiceDB's grammar wants it.
func broken(text string) string { return strings.ReplaceAll(text, " }", "\n}") }

// modelOf compiles text or ends the test.
func modelOf(t *testing.T, text string) *authz.Schema {
	t.Helper()
	m, err := guard.Compile(text)
	if err != nil {
		t.Fatal(err)
	}
	return m.Schema
}

// shapes are the ways in which one relation can mix a trait with usersets of the same type.
var shapes = []struct {
	allowed string // the allowed types of group#rel
	unsafe  bool   // whether there is an UnsafeGrant
	// wrong says what SpiceDB v1.56.2 does for an expired group:direct, and for a caveated one.
	wrong bool
}{
	{"group with %s", false, false},
	{"group | group with %s", false, false},
	{"group with %s | user", false, false},
	{"group with %s | other#rel", false, false},
	{"group with %s | group#rel", true, true},
	{"group | group with %s | group#rel", true, true},
	{"group with %s | group#rel with %s", false, false},
	{"group with %s | group#rel | group#rel with %s", true, true},
	{"group | group#rel with %s", false, false},
	{"group with %s | group#rel | group#mate", true, false},
	{"group with %s | group#rel with %s | group#mate", true, true},
	{"group:* with %s | group#rel", true, true},
	{"group:* with %s | group | group#rel", true, true},
	{"group with %s | group:* with %s | group#rel | group#mate", true, true},
	{"group with %s | group:* with %s | group#rel", true, false},
	{"group with %s | group:* | group#rel", true, true},
}

// TestUnsafeShape asks SpiceDB itself which shapes it gets wrong, and that none of them is called safe.
func TestUnsafeShape(t *testing.T) {
	for _, trait := range []string{"expiration", "never"} {
		var b strings.Builder
		b.WriteString("use expiration\ncaveat never(on bool) { on && !on }\ndefinition user {}\n" +
			"definition other { relation rel: user }\ndefinition group { relation rel: user\nrelation mate: user }\n")
		for i, s := range shapes {
			fmt.Fprintf(&b, "definition thing%02d { relation rel: %s }\n", i, strings.ReplaceAll(s.allowed, "%s", trait))
		}
		text := broken(b.String())
		p, m := inMemory(t, text), modelOf(t, text)
		whole := overStore(t, text)
		for i, s := range shapes {
			thing := fmt.Sprintf("thing%02d", i)
			got := m.Types[thing].UnsafeShape
			if got != "" && got != thing+"#rel" || (got != "") != s.unsafe {
				t.Errorf("%s, %s: unsafe shape %q, want %t", s.allowed, trait, got, s.unsafe)
			}
			if wrong := p.answersWrongly(thing+":one", s.allowed, trait); wrong != s.wrong {
				t.Errorf("%s, %s: SpiceDB answers wrongly: %t, want %t", s.allowed, trait, wrong, s.wrong)
			} else if wrong && got == "" {
				t.Errorf("%s, %s: is called safe, and SpiceDB gets it wrong", s.allowed, trait)
			}
			if whole.answersWrongly(thing+":one", s.allowed, trait) {
				t.Errorf("%s, %s: SpiceDB answers wrongly over Deputy's own store", s.allowed, trait)
			}
		}
	}
}

// TestUnsafeShapeIsInherited: a type is unsafe too where its evaluation only leads to such a relation.
func TestUnsafeShapeIsInherited(t *testing.T) {
	text := broken(`use expiration
		definition user {}
		definition group { relation rel: user
		relation member: group with expiration | group#rel }
		definition usersets { relation reader: group#member }
		definition arrows { relation group: group
		permission reader = group->member }
		definition functions { relation group: group
		permission reader = group.all(member) }
		definition walks { relation left: group with expiration | group#rel
		permission reader = left->rel }
		definition plain { relation group: group
		permission reader = group->rel }
		definition leftmost { relation parent: walks
		permission reader = parent->reader }`)
	m := modelOf(t, text)
	for name, want := range map[string]string{
		"user": "", "group": "group#member", "usersets": "group#member", "arrows": "group#member",
		"functions": "group#member", "plain": "",
		// Its own relation can be asked for by itself.
		"walks": "walks#left",
		// From elsewhere it is only walked, which reads it in full.
		"leftmost": "",
	} {
		if got := m.Types[name].UnsafeShape; got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}

	// SpiceDB's own answers, with all groups on the left of all, though expired.
	p := inMemory(t, text)
	p.write("group:all", "member", "group:left", "expiration")
	p.write("walks:all", "left", "group:left", "expiration")
	p.write("group:left", "rel", "user:alice", "")
	p.write("usersets:one", "reader", "group:all#member", "")
	p.write("arrows:one", "group", "group:all", "")
	p.write("functions:one", "group", "group:all", "")
	p.write("leftmost:one", "parent", "walks:all", "")
	for resource, subject := range map[string]string{
		"usersets:one": "group:left", "arrows:one": "group:left", "functions:one": "group:left", "leftmost:one": "user:alice",
	} {
		has := p.check(resource, "reader", subject) == v1.CheckPermissionResponse_PERMISSIONSHIP_HAS_PERMISSION
		if flagged := m.Types[object(resource).GetObjectType()].UnsafeShape != ""; has != flagged {
			t.Errorf("%s: the expired grant answers HAS: %t; called unsafe: %t", resource, has, flagged)
		}
	}
}

// TestCoreSurvivesSpiceDB: the core has no difference after SpiceDB stored it, read either way.
func TestCoreSurvivesSpiceDB(t *testing.T) {
	ctx := context.Background()
	e := inMemory(t, coreschema.Core).engine
	resp, err := v1.NewSchemaServiceClient(e.Conn()).ReadSchema(ctx, &v1.ReadSchemaRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if difference := modelOf(t, resp.GetSchemaText()).CoreDifference; difference != "" {
		t.Errorf("as text: %s", difference)
	}
	s, err := e.Snapshot(ctx, authz.Freshness{})
	if err != nil {
		t.Fatal(err)
	}
	m, err := s.Schema(ctx)
	if err != nil || m.CoreDifference != "" {
		t.Errorf("as definitions: %v %v", m, err)
	}
}

// spicedb asks an engine's SpiceDB, past everything else of Deputy's.
type spicedb struct {
	*testing.T
	engine *engine.Engine
	perms  v1.PermissionsServiceClient
}

func inMemory(t *testing.T, schema string) *spicedb {
	t.Helper()
	e, err := engine.Open(context.Background(), engine.Config{Kind: engine.Memory})
	if err != nil {
		t.Fatal(err)
	}
	return asking(t, e, schema)
}

// overStore asks the SpiceDB over Deputy's own store.
func overStore(t *testing.T, schema string) *spicedb {
	t.Helper()
	s, err := store.Open(t.TempDir(), store.Config{CacheBytes: 1 << 20, MemTableBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	e, err := engine.Over(context.Background(), engine.Config{Kind: engine.Embedded}, s)
	if err != nil {
		t.Fatal(err)
	}
	return asking(t, e, schema)
}

func asking(t *testing.T, e *engine.Engine, schema string) *spicedb {
	t.Helper()
	t.Cleanup(func() { _ = e.Close() })
	if _, err := v1.NewSchemaServiceClient(e.Conn()).WriteSchema(context.Background(), &v1.WriteSchemaRequest{Schema: schema}); err != nil {
		t.Fatal(err)
	}
	return &spicedb{t, e, v1.NewPermissionsServiceClient(e.Conn())}
}

// object reads "type:id".
func object(s string) *v1.ObjectReference {
	objectType, id, _ := strings.Cut(s, ":")
	return &v1.ObjectReference{ObjectType: objectType, ObjectId: id}
}

// write grants; the subject is "type:id" or "type:id#relation", trait "", "expiration" (which is over)
// or a caveat.
func (p *spicedb) write(resource, relation, subject, trait string) {
	p.Helper()
	of, subjectRelation, _ := strings.Cut(subject, "#")
	r := &v1.Relationship{
		Resource: object(resource), Relation: relation,
		Subject: &v1.SubjectReference{Object: object(of), OptionalRelation: subjectRelation},
	}
	switch trait {
	case "":
	case "expiration":
		r.OptionalExpiresAt = timestamppb.New(time.Now().Add(-time.Hour))
	default:
		r.OptionalCaveat = &v1.ContextualizedCaveat{CaveatName: trait}
	}
	if _, err := p.perms.WriteRelationships(context.Background(), &v1.WriteRelationshipsRequest{Updates: []*v1.RelationshipUpdate{
		{Operation: v1.RelationshipUpdate_OPERATION_TOUCH, Relationship: r},
	}}); err != nil {
		p.Fatal(err)
	}
}

func (p *spicedb) check(resource, permission, subject string) v1.CheckPermissionResponse_Permissionship {
	p.Helper()
	resp, err := p.perms.CheckPermission(context.Background(), &v1.CheckPermissionRequest{
		Consistency: &v1.Consistency{Requirement: &v1.Consistency_FullyConsistent{FullyConsistent: true}},
		Resource:    object(resource), Permission: permission,
		Subject: &v1.SubjectReference{Object: object(subject)},
	})
	if err != nil {
		p.Fatal(err)
	}
	return resp.GetPermissionship()
}

// answersWrongly writes a direct grant that has the trait and must not count, and reports whether it
// does, or is lost: expired, it answers HAS; caveated, memdb does not see that it is conditional.
func (p *spicedb) answersWrongly(resource, allowed, trait string) bool {
	p.Helper()
	granted := "group:direct"
	switch {
	case strings.Contains(allowed, "group with"):
	case strings.Contains(allowed, "group:* with"):
		granted = "group:*"
	default:
		return false // no direct grant can have the trait
	}
	p.write(resource, "rel", granted, trait)
	wants := v1.CheckPermissionResponse_PERMISSIONSHIP_CONDITIONAL_PERMISSION
	if trait == "expiration" {
		wants = v1.CheckPermissionResponse_PERMISSIONSHIP_NO_PERMISSION
	}
	return p.check(resource, "rel", "group:direct") != wants
}
