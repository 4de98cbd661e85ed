package decision_test

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	authzed "github.com/authzed/authzed-go/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/caller"
	"github.com/deputyauth/deputy/pkg/daemon"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/schema"
	"github.com/deputyauth/deputy/tests/harness"
)

// confinedDomain has what callers with bounds are tried on. Readers of everything are all users.
const confinedDomain = `
definition group {
	relation tenant: tenant
	relation member: user | group#member
}

definition folder {
	relation tenant: tenant
	relation parent: folder
	relation reader: user | group#member
	permission home = tenant + parent->home
}

definition document {
	relation tenant: tenant
	relation folder: folder
	relation reader: user | user:* | user#active | agent | delegation | group#member | tenant#member | document#reader
	permission view = reader + folder->reader
}

definition secret {
	relation tenant: tenant
	relation reader: user
}
`

// placeable makes a document's tenant follow its folder, so that a document can be placed.
var placeable = strings.Replace(confinedDomain, `definition document {
	relation tenant: tenant
`, `definition document {
	relation home: tenant
	permission tenant = home + folder->home
`, 1)

// boundCallers are callers with bounds, by name.
func boundCallers() []*caller.Caller {
	acme := func() authz.Bounds {
		return authz.Bounds{
			Tenants: authz.NamesOf("acme"), Agents: authz.NamesOf("bot", "far", "gon"), Principals: authz.NamesOf("user"),
			Objects: authz.NamesOf("document", "folder", "group"), IDs: authz.AllPrefixes(),
		}
	}
	everywhere := *authz.Unbounded()
	someTypes, someIDs := everywhere, everywhere
	someTypes.Objects, someTypes.Agents, someTypes.Principals = authz.NamesOf("document"), authz.NamesOf("bot"), authz.NamesOf("user")
	someIDs.IDs = authz.PrefixesOf("acme/")
	oneTenant := everywhere
	oneTenant.Tenants = authz.NamesOf("acme")
	confinedIDs := acme()
	confinedIDs.IDs = authz.PrefixesOf("acme/")
	var out []*caller.Caller
	for name, of := range map[string]struct {
		bounds authz.Bounds
		roles  []caller.Role
	}{
		"acme":           {acme(), []caller.Role{deputyv1.Role_ROLE_CHECKER, deputyv1.Role_ROLE_WRITER}},
		"acme-all":       {oneTenant, []caller.Role{deputyv1.Role_ROLE_CHECKER, deputyv1.Role_ROLE_ORGANIZER}},
		"acme-organizer": {acme(), []caller.Role{deputyv1.Role_ROLE_CHECKER, deputyv1.Role_ROLE_ORGANIZER}},
		"acme-admin":     {acme(), []caller.Role{deputyv1.Role_ROLE_ADMIN}},
		"acme-ids":       {confinedIDs, []caller.Role{deputyv1.Role_ROLE_CHECKER, deputyv1.Role_ROLE_WRITER}},
		"some-types":     {someTypes, []caller.Role{deputyv1.Role_ROLE_CHECKER, deputyv1.Role_ROLE_WRITER, deputyv1.Role_ROLE_ORGANIZER}},
		"some-ids":       {someIDs, []caller.Role{deputyv1.Role_ROLE_CHECKER, deputyv1.Role_ROLE_WRITER, deputyv1.Role_ROLE_ORGANIZER}},
		"organizer":      {everywhere, []caller.Role{deputyv1.Role_ROLE_CHECKER, deputyv1.Role_ROLE_ORGANIZER}},
		"writer":         {everywhere, []caller.Role{deputyv1.Role_ROLE_CHECKER, deputyv1.Role_ROLE_WRITER}},
	} {
		bounds := of.bounds
		out = append(out, &caller.Caller{
			Name: name, Roles: caller.RolesOf(of.roles...), Bounds: &bounds, SpiceDB: authz.AllNames(),
			Credentials: []caller.Credential{{ID: "k", Key: sha256.Sum256([]byte("the-key-of-" + name))}},
		})
	}
	return out
}

// boundAtDoor is a server with two tenants, and callers with bounds.
type boundAtDoor struct {
	*testing.T
	*harness.Server
	clients map[string]*authzed.ClientWithExperimental
	conns   map[string]*grpc.ClientConn
}

func (b *boundAtDoor) as(name string) *authzed.ClientWithExperimental {
	b.Helper()
	if b.clients[name] == nil {
		key := "the-key-of-" + name
		if name == caller.AdminName {
			key = harness.AdminKey
		}
		if name == caller.ServiceName {
			key = harness.ServiceKey
		}
		c, err := authzed.NewClientWithExperimentalAPIs(b.Addr().String(),
			grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithPerRPCCredentials(harness.Bearer(key)))
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = c.Close() })
		b.clients[name] = c
	}
	return b.clients[name]
}

// eachBounded runs a test on the engines that differ in what answers the door.
func eachBounded(t *testing.T, run func(*boundAtDoor)) {
	t.Helper()
	engines := harness.Engines()
	for _, name := range []string{"embedded", "memory", "postgres", "remote"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			run(newBounded(t, daemon.Config{Engine: engines[name](t)}))
		})
	}
}

func newBounded(t *testing.T, cfg daemon.Config) *boundAtDoor {
	t.Helper()
	cfg.PresharedKeys, cfg.AdminPresharedKeys = []string{harness.ServiceKey}, []string{harness.AdminKey}
	cfg.Callers = boundCallers()
	s := harness.Start(t, cfg)
	b := &boundAtDoor{t, s, map[string]*authzed.ClientWithExperimental{}, map[string]*grpc.ClientConn{}}
	s.WriteSchema(t, schema.Core+placeable)
	s.Touch(t,
		"tenant:acme#member@user:alice", "tenant:acme#admin@user:carol", "tenant:acme#agent@agent:bot", "tenant:acme#agent@agent:sub",
		"tenant:globex#member@user:mallory", "tenant:globex#agent@agent:bot", "tenant:globex#agent@agent:spy",
		"group:ours#tenant@tenant:acme", "group:ours#member@user:alice",
		"group:theirs#tenant@tenant:globex", "group:theirs#member@user:mallory", "group:theirs#member@user:alice",
		"folder:ours#tenant@tenant:acme", "folder:theirs#tenant@tenant:globex",
		"document:ours#home@tenant:acme", "document:ours#reader@user:alice", "document:ours#reader@agent:bot", "document:ours#reader@agent:sub",
		"document:open#home@tenant:acme", "document:open#reader@user:*",
		"document:theirs#home@tenant:globex", "document:theirs#reader@user:alice", "document:theirs#reader@user:mallory",
		"document:shared#home@tenant:acme", "document:shared#home@tenant:globex", "document:shared#reader@user:alice",
		"document:orphan#reader@user:alice",
		"document:acme/one#home@tenant:acme", "document:acme/one#reader@user:alice", "document:acme/one#reader@agent:bot",
		"secret:theirs#tenant@tenant:globex", "secret:theirs#reader@user:alice", "secret:ours#tenant@tenant:acme", "secret:ours#reader@user:alice",
		"delegation:ours#tenant@tenant:acme", "delegation:ours#agent@agent:bot", "delegation:ours#principal@user:alice",
		"delegation:theirs#tenant@tenant:globex", "delegation:theirs#agent@agent:bot", "delegation:theirs#principal@user:alice",
		"document:ours#reader@delegation:ours", "document:ours#reader@delegation:theirs",
		"tenant:globex#agent@agent:far", "document:ours#reader@agent:far", "document:ours#reader@user:mallory",
		"delegation:sub#tenant@tenant:acme", "delegation:sub#agent@agent:sub", "delegation:sub#principal@user:alice", "document:ours#reader@delegation:sub",
		"delegation:nightly#tenant@tenant:acme", "delegation:nightly#agent@agent:bot", "delegation:nightly#principal@service:nightly",
		"document:ours#reader@delegation:nightly",
		"document:ours#reader@group:theirs#member", "agent:bot#owner@user:alice", "agent:bot#owner@user:mallory",
		"session:both#unfrozen@session:both", `session:both#agent@agent:bot[issued:{"at":"2026-01-01T00:00:00Z","until":"","key":""}]`,
		`session:both#delegation@delegation:ours[leaf:{"principal":"user:alice","tenant":"acme"}]`,
		`session:both#delegation@delegation:theirs[leaf:{"principal":"user:alice","tenant":"globex"}]`,
	)
	for session, of := range map[string][2]string{"ours": {"bot", "ours"}, "theirs": {"bot", "theirs"}, "sub": {"sub", "ours"}} {
		s.Touch(t, "session:"+session+"#unfrozen@session:"+session,
			"session:"+session+"#agent@agent:"+of[0]+`[issued:{"at":"2026-01-01T00:00:00Z","until":"","key":""}]`,
			"session:"+session+"#delegation@delegation:"+of[1]+`[leaf:{"principal":"user:alice","tenant":"acme"}]`)
	}
	return b
}

var head = &v1.Consistency{Requirement: &v1.Consistency_FullyConsistent{FullyConsistent: true}}

// asked is a check, read from "document:ours#view@user:alice".
func asked(text string) *v1.CheckPermissionRequest {
	r := rowOf(text)
	return &v1.CheckPermissionRequest{Consistency: head, Resource: r.GetResource(), Permission: r.GetRelation(), Subject: r.GetSubject()}
}

// rowOf reads a relationship whose ids may be none.
func rowOf(text string) *v1.Relationship {
	left, right, _ := strings.Cut(text, "@")
	resource, relation, _ := strings.Cut(left, "#")
	of, rest, _ := strings.Cut(right, "#")
	object := func(s string) *v1.ObjectReference {
		kind, id, _ := strings.Cut(s, ":")
		return &v1.ObjectReference{ObjectType: kind, ObjectId: id}
	}
	return &v1.Relationship{
		Resource: object(resource), Relation: relation, Subject: &v1.SubjectReference{Object: object(of), OptionalRelation: rest},
	}
}

func writing(op v1.RelationshipUpdate_Operation, rows ...string) *v1.WriteRelationshipsRequest {
	r := &v1.WriteRelationshipsRequest{}
	for _, row := range rows {
		r.Updates = append(r.Updates, &v1.RelationshipUpdate{Operation: op, Relationship: rowOf(row)})
	}
	return r
}

const (
	create = v1.RelationshipUpdate_OPERATION_CREATE
	touch  = v1.RelationshipUpdate_OPERATION_TOUCH
	remove = v1.RelationshipUpdate_OPERATION_DELETE
)

func reading(objectType, id string) *v1.ReadRelationshipsRequest {
	return &v1.ReadRelationshipsRequest{Consistency: head, RelationshipFilter: &v1.RelationshipFilter{ResourceType: objectType, OptionalResourceId: id}}
}

// callOf sends any request of authzed.api.v1, and returns all that comes back as one text, without what tells one moment from another.
func (b *boundAtDoor) callOf(as string, request proto.Message) string {
	b.Helper()
	method := map[protoreflect.FullName]string{
		"authzed.api.v1.BulkCheckPermissionRequest": "/authzed.api.v1.ExperimentalService/BulkCheckPermission",
		"authzed.api.v1.ReadSchemaRequest":          "/authzed.api.v1.SchemaService/ReadSchema",
		"authzed.api.v1.WatchRequest":               "/authzed.api.v1.WatchService/Watch",
	}[request.ProtoReflect().Descriptor().FullName()]
	if method == "" {
		method = "/authzed.api.v1.PermissionsService/" + strings.TrimSuffix(string(request.ProtoReflect().Descriptor().Name()), "Request")
	}
	if b.conns[as] == nil {
		b.conns[as] = harness.Dial(b.T, b.Addr().String(), "the-key-of-"+as)
	}
	stream, err := b.conns[as].NewStream(b.Context(), &grpc.StreamDesc{ServerStreams: true}, method)
	if err != nil {
		b.Fatal(err)
	}
	var out strings.Builder
	if err = errors.Join(stream.SendMsg(request), stream.CloseSend()); err != nil {
		b.Fatal(err)
	}
	for {
		answer := answerTo(b, method)
		if err = stream.RecvMsg(answer); err != nil {
			break
		}
		timeless(answer.ProtoReflect())
		fmt.Fprintln(&out, prototext.MarshalOptions{}.Format(answer))
	}
	if !errors.Is(err, io.EOF) {
		fmt.Fprintln(&out, prototext.MarshalOptions{}.Format(status.Convert(err).Proto()))
	}
	// prototext puts blanks at random.
	return strings.ReplaceAll(out.String(), "  ", " ")
}

// answerTo returns an empty answer of a method.
func answerTo(b *boundAtDoor, method string) proto.Message {
	b.Helper()
	service, name, _ := strings.Cut(method[1:], "/")
	found, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(service + "." + name))
	if err != nil {
		b.Fatal(err)
	}
	m, ok := found.(protoreflect.MethodDescriptor)
	if !ok {
		b.Fatalf("%s is no method", method)
	}
	answer, err := protoregistry.GlobalTypes.FindMessageByName(m.Output().FullName())
	if err != nil {
		b.Fatal(err)
	}
	return answer.New().Interface()
}

// provided is a write on condition that a relationship is stored, or is not.
func provided(op v1.Precondition_Operation, row string) *v1.WriteRelationshipsRequest {
	r, of := writing(touch, "document:ours#reader@user:alice"), rowOf(row)
	r.OptionalPreconditions = []*v1.Precondition{{Operation: op, Filter: &v1.RelationshipFilter{
		ResourceType: of.GetResource().GetObjectType(), OptionalResourceId: of.GetResource().GetObjectId(), OptionalRelation: of.GetRelation(),
		OptionalSubjectFilter: &v1.SubjectFilter{
			SubjectType: of.GetSubject().GetObject().GetObjectType(), OptionalSubjectId: of.GetSubject().GetObject().GetObjectId(),
		},
	}}}
	return r
}

// timeless clears tokens, which tell when something was asked.
func timeless(m protoreflect.Message) {
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.Message() == nil || f.IsMap():
		case f.Message().FullName() == "authzed.api.v1.ZedToken" || f.Message().FullName() == "authzed.api.v1.Cursor":
			m.Clear(f)
		case f.IsList():
			for i := range v.List().Len() {
				timeless(v.List().Get(i).Message())
			}
		default:
			timeless(v.Message())
		}
		return true
	})
}

// TestForeignIsAbsentAtTheDoor: what another tenant has, and what nobody has, get the same answer, in each message that a confined caller can send.
// Only the names of the objects differ.
func TestForeignIsAbsentAtTheDoor(t *testing.T) {
	t.Parallel()
	eachBounded(t, func(b *boundAtDoor) {
		withTrace := func(text string) proto.Message {
			r := asked(text)
			r.WithTracing = true
			return r
		}
		bulk := func(rows ...string) proto.Message {
			r := &v1.CheckBulkPermissionsRequest{Consistency: head}
			for _, row := range rows {
				one := asked(row)
				r.Items = append(r.Items, &v1.CheckBulkPermissionsRequestItem{Resource: one.GetResource(), Permission: one.GetPermission(), Subject: one.GetSubject()})
			}
			return r
		}
		oldBulk := func(rows ...string) proto.Message {
			r := &v1.BulkCheckPermissionRequest{Consistency: head}
			for _, row := range rows {
				one := asked(row)
				//nolint:staticcheck // it is served
				r.Items = append(r.Items, &v1.BulkCheckPermissionRequestItem{Resource: one.GetResource(), Permission: one.GetPermission(), Subject: one.GetSubject()})
			}
			return r
		}
		on := func(op v1.Precondition_Operation, objectType, id string) proto.Message {
			r := writing(touch, "document:ours#reader@user:alice")
			r.OptionalPreconditions = []*v1.Precondition{{Operation: op, Filter: &v1.RelationshipFilter{ResourceType: objectType, OptionalResourceId: id}}}
			return r
		}
		stored := func(row string) proto.Message {
			return provided(v1.Precondition_OPERATION_MUST_MATCH, row)
		}
		// What does not exist for the callers, by its kind, and names of nothing that are as long.
		names := map[string]map[string]string{
			"document": {"theirs": "qwxzvk", "shared": "qwxzvk", "orphan": "qwxzvk"}, "user": {"mallory": "qwxzvkj"},
			"agent": {"spy": "qwx", "sub": "qwx", "far": "gon"}, "tenant": {"globex": "qwxzvk"}, "type": {"secret": "qwxzvk"},
		}
		for _, kind := range []string{"group", "folder", "delegation", "session"} {
			names[kind] = map[string]string{"theirs": "qwxzvk"}
		}
		names["delegation"]["sub"], names["delegation"]["nightly"], names["session"]["sub"] = "qwx", "qwxzvkj", "qwx"
		for name, request := range map[[2]string]func(string) proto.Message{
			{"document", "check an object"}:              func(s string) proto.Message { return asked("document:" + s + "#view@user:alice") },
			{"document", "check an object's relation"}:   func(s string) proto.Message { return asked("document:" + s + "#reader@user:alice") },
			{"document", "check with itself"}:            func(s string) proto.Message { return asked("document:" + s + "#reader@document:" + s + "#reader") },
			{"document", "check its tenant"}:             func(s string) proto.Message { return asked("document:" + s + "#tenant@tenant:acme") },
			{"document", "check what is no permission"}:  func(s string) proto.Message { return asked("document:" + s + "#nothing@user:alice") },
			{"document", "check with a trace"}:           func(s string) proto.Message { return withTrace("document:" + s + "#view@user:alice") },
			{"user", "check a user"}:                     func(s string) proto.Message { return asked("document:ours#view@user:" + s) },
			{"user", "check a user of a wildcard"}:       func(s string) proto.Message { return asked("document:open#view@user:" + s) },
			{"group", "check a group's members"}:         func(s string) proto.Message { return asked("document:ours#view@group:" + s + "#member") },
			{"group", "check a group"}:                   func(s string) proto.Message { return asked("group:" + s + "#member@user:alice") },
			{"agent", "check an agent"}:                  func(s string) proto.Message { return asked("document:ours#view@agent:" + s) },
			{"delegation", "check a delegation"}:         func(s string) proto.Message { return asked("document:ours#view@delegation:" + s) },
			{"delegation", "check a delegation's agent"}: func(s string) proto.Message { return asked("delegation:" + s + "#agent@agent:bot") },
			{"session", "check a session"}:               func(s string) proto.Message { return asked("session:" + s + "#unfrozen@session:" + s) },
			{"session", "read a session"}:                func(s string) proto.Message { return reading("session", s) },
			{"tenant", "check a tenant"}:                 func(s string) proto.Message { return asked("tenant:" + s + "#access@user:alice") },
			{"tenant", "check a tenant's members"}:       func(s string) proto.Message { return asked("document:ours#view@tenant:" + s + "#member") },
			{"type", "check a type"}:                     func(s string) proto.Message { return asked(s + ":ours#reader@user:alice") },
			{"type", "check subjects of a type"}:         func(s string) proto.Message { return asked("document:ours#view@" + s + ":ours") },
			{"document", "check many"}: func(s string) proto.Message {
				return bulk("document:ours#view@user:alice", "document:"+s+"#view@user:alice", "document:ours#view@document:"+s+"#reader",
					"folder:"+s+"#reader@user:"+s, "document:ours#view@user:alice")
			},
			{"type", "check many of a type"}: func(s string) proto.Message {
				return bulk("document:ours#view@user:alice", s+":ours#reader@user:alice", "document:ours#nothing@"+s+":ours", "document:ours#view@user:alice")
			},
			{"type", "check many of a type the old way"}: func(s string) proto.Message {
				return oldBulk(s+":ours#reader@user:alice", "document:ours#view@user:alice")
			},
			{"document", "check many the old way"}: func(s string) proto.Message {
				return oldBulk("document:"+s+"#view@user:alice", "document:ours#view@user:alice")
			},
			{"document", "read an object"}:      func(s string) proto.Message { return reading("document", s) },
			{"tenant", "read a tenant"}:         func(s string) proto.Message { return reading("tenant", s) },
			{"user", "read a user"}:             func(s string) proto.Message { return reading("user", s) },
			{"delegation", "read a delegation"}: func(s string) proto.Message { return reading("delegation", s) },
			{"type", "read a type"}:             func(s string) proto.Message { return reading(s, "ours") },
			{"document", "write an object"}:     func(s string) proto.Message { return writing(touch, "document:"+s+"#reader@user:alice") },
			{"document", "create a row of it"}:  func(s string) proto.Message { return writing(create, "document:"+s+"#reader@user:alice") },
			{"document", "delete a row of it"}:  func(s string) proto.Message { return writing(remove, "document:"+s+"#reader@user:alice") },
			{"type", "write a type"}:            func(s string) proto.Message { return writing(touch, s+":ours#reader@user:alice") },
			{"tenant", "write its tenant"}:      func(s string) proto.Message { return writing(touch, "document:ours#home@tenant:"+s) },
			{"group", "write a group's members"}: func(s string) proto.Message {
				return writing(touch, "document:ours#reader@group:"+s+"#member")
			},
			{"document", "write a document's readers"}: func(s string) proto.Message {
				return writing(touch, "document:ours#reader@document:"+s+"#reader")
			},
			{"folder", "place under it"}:              func(s string) proto.Message { return writing(create, "document:new#folder@folder:"+s) },
			{"tenant", "place in it"}:                 func(s string) proto.Message { return writing(create, "document:new#home@tenant:"+s) },
			{"document", "write if it is"}:            func(s string) proto.Message { return on(v1.Precondition_OPERATION_MUST_MATCH, "document", s) },
			{"document", "write if it is not"}:        func(s string) proto.Message { return on(v1.Precondition_OPERATION_MUST_NOT_MATCH, "document", s) },
			{"user", "write if it reads"}:             func(s string) proto.Message { return stored("document:ours#reader@user:" + s) },
			{"user", "write if it owns"}:              func(s string) proto.Message { return stored("agent:bot#owner@user:" + s) },
			{"agent", "write if an agent reads"}:      func(s string) proto.Message { return stored("document:ours#reader@agent:" + s) },
			{"group", "write if a group reads"}:       func(s string) proto.Message { return stored("document:ours#reader@group:" + s + "#member") },
			{"delegation", "write if it is in scope"}: func(s string) proto.Message { return stored("document:ours#reader@delegation:" + s) },
			{"delegation", "write if a session has it"}: func(s string) proto.Message {
				return stored("session:both#delegation@delegation:" + s)
			},
			{"user", "create what it may have"}: func(s string) proto.Message { return writing(create, "document:ours#reader@user:"+s) },
			{"agent", "create what an agent may have"}: func(s string) proto.Message {
				return writing(create, "document:ours#reader@agent:"+s)
			},
			{"user", "read what it may have"}: func(s string) proto.Message {
				r := reading("document", "ours")
				r.RelationshipFilter.OptionalSubjectFilter = &v1.SubjectFilter{SubjectType: "user", OptionalSubjectId: s}
				return r
			},
			{"tenant", "write if its tenant"}: func(s string) proto.Message { return on(v1.Precondition_OPERATION_MUST_NOT_MATCH, "tenant", s) },
		} {
			for _, as := range []string{"acme", "acme-organizer", "acme-admin", "acme-all"} {
				for foreign, absent := range names[name[0]] {
					if as == "acme-all" && (name[0] == "type" || foreign == "sub" || foreign == "nightly") {
						continue // for it they exist
					}
					theirs, nobodys := b.callOf(as, request(foreign)), b.callOf(as, request(absent))
					if strings.ReplaceAll(theirs, foreign, absent) != strings.ReplaceAll(nobodys, foreign, absent) {
						b.Errorf("%s, by %s: %s and %s are told apart:\n%s\n%s", name[1], as, foreign, absent, theirs, nobodys)
					}
				}
			}
		}
	})
}
