package caller

import (
	"slices"
	"strings"
	"sync"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// Method is one method of the server, with what it takes to call it. The zero Method is open to nobody.
type Method struct {
	// Full is its name on the wire: "/deputy.v1.PermissionsService/CheckPermission".
	Full string
	// Roles are those that open it, each by itself, besides the admin's.
	Roles Roles
	// Open says that it takes no credential at all, AnyRole that it takes no role.
	Open, AnyRole bool
	// WithoutAdmin says that an admin needs one of the roles too.
	WithoutAdmin bool
	// Effect is what a call of it does to the graph, which says how it is recorded.
	Effect deputyv1.Effect
	// SpiceDB says that it is one of authzed.api.v1's, which are opened to a caller one by one besides.
	SpiceDB bool
	// AllTenants says that it is about all tenants at once, so that a confined caller may not call it, and AllTypes the same of types of
	// objects.
	AllTenants, AllTypes bool
	// Everything says that it is about everything at once, so that no caller with bounds may call it.
	Everything bool
}

// Name is the method's name without its service's.
func (m *Method) Name() string { return m.Full[strings.LastIndexByte(m.Full, '/')+1:] }

// MethodOf returns a method by its name on the wire; nil for one that stands nowhere, which nobody may call.
func MethodOf(full string) *Method { return methods()[full] }

// Methods lists all methods, by name on the wire. The map is shared: do not change it.
func Methods() map[string]*Method { return methods() }

// SpiceDBMethods lists the names of the methods of authzed.api.v1 that can be opened to a caller, sorted.
func SpiceDBMethods() []string {
	var names []string
	for _, m := range methods() {
		if m.SpiceDB && m.Roles != 0 {
			names = append(names, m.Name())
		}
	}
	slices.Sort(names)
	return names
}

// methods reads the contract once.
var methods = sync.OnceValue(func() map[string]*Method {
	all := map[string]*Method{}
	add := func(m Method) { all[m.Full] = &m }
	protoregistry.GlobalFiles.RangeFilesByPackage(contractPackage, func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			service := f.Services().Get(i)
			for j := range service.Methods().Len() {
				m := service.Methods().Get(j)
				access, _ := proto.GetExtension(m.Options(), deputyv1.E_Access).(*deputyv1.Access)
				add(Method{
					Full:  "/" + string(service.FullName()) + "/" + string(m.Name()),
					Roles: RolesOf(access.GetRoles()...), AllTenants: access.GetAllTenants(), Everything: access.GetEverything(),
					WithoutAdmin: access.GetWithoutAdmin(), Effect: access.GetEffect(),
				})
			}
		}
		return true
	})
	for key, m := range spicedbMethods {
		m.Full, m.SpiceDB = "/authzed.api.v1."+key, true
		add(m)
	}
	// What probes a server has no credential. Reflection would say nothing about the graph either, but answers a few bytes with all that the
	// server knows of its own API, so it takes a credential, with any role.
	for _, name := range []string{"Check", "List", "Watch"} {
		add(Method{Full: "/grpc.health.v1.Health/" + name, Open: true, Effect: deputyv1.Effect_EFFECT_NONE})
	}
	for _, version := range []string{"v1", "v1alpha"} {
		add(Method{Full: "/grpc.reflection." + version + ".ServerReflection/ServerReflectionInfo", AnyRole: true, Effect: deputyv1.Effect_EFFECT_NONE})
	}
	return all
})

// contractPackage is the protobuf package whose methods name the roles that they take.
const contractPackage protoreflect.FullName = "deputy.v1"

// The roles that open methods of authzed.api.v1.
//
// A server that follows this one passes on here what its own callers may do, so the role follower opens all of them.
var (
	followers = RolesOf(deputyv1.Role_ROLE_FOLLOWER)
	readers   = followers | RolesOf(deputyv1.Role_ROLE_CHECKER, deputyv1.Role_ROLE_WRITER, deputyv1.Role_ROLE_ORGANIZER, deputyv1.Role_ROLE_AUDITOR)
	// schemaReaders also write the schema, and read what they change.
	schemaReaders = readers | schemaWriters
	schemaWriters = followers | RolesOf(deputyv1.Role_ROLE_SCHEMA_ADMIN)
	writers       = followers | RolesOf(deputyv1.Role_ROLE_WRITER, deputyv1.Role_ROLE_ORGANIZER)
	admins        = followers | RolesOf(deputyv1.Role_ROLE_ADMIN)
)

// What calls of the methods of authzed.api.v1 do to the graph. A check of theirs is recorded with the answer, as a read is.
const (
	reads   = deputyv1.Effect_EFFECT_READS
	writes  = deputyv1.Effect_EFFECT_WRITES
	decides = deputyv1.Effect_EFFECT_DECIDES
)

// spicedbMethods says who may call the methods of authzed.api.v1, named as service/method. What they may do to the graph besides, the door
// judges message by message.
//
// A caller that is bound to tenants reads and writes exact rows only, of the objects of its tenants: what filters, streams, loads or counts is
// about all tenants. The schema is everybody's, and shows all types.
var spicedbMethods = map[string]Method{
	"PermissionsService/CheckPermission":         {Roles: readers, Effect: decides},
	"PermissionsService/CheckBulkPermissions":    {Roles: readers, Effect: decides},
	"PermissionsService/ReadRelationships":       {Roles: readers, Effect: reads},
	"PermissionsService/ExpandPermissionTree":    {Roles: readers, AllTenants: true, Effect: reads},
	"PermissionsService/LookupResources":         {Roles: readers, AllTenants: true, Effect: reads},
	"PermissionsService/LookupSubjects":          {Roles: readers, AllTenants: true, Effect: reads},
	"PermissionsService/ExportBulkRelationships": {Roles: readers, AllTenants: true, AllTypes: true, Effect: reads},
	"PermissionsService/WriteRelationships":      {Roles: writers, Effect: writes},
	"PermissionsService/DeleteRelationships":     {Roles: writers, AllTenants: true, Effect: writes},
	"PermissionsService/ImportBulkRelationships": {Roles: writers, AllTenants: true, Effect: writes},

	"SchemaService/ReadSchema":            {Roles: schemaReaders, AllTypes: true, Effect: reads},
	"SchemaService/ReflectSchema":         {Roles: schemaReaders, AllTypes: true, Effect: reads},
	"SchemaService/ComputablePermissions": {Roles: schemaReaders, AllTypes: true, Effect: reads},
	"SchemaService/DependentRelations":    {Roles: schemaReaders, AllTypes: true, Effect: reads},
	"SchemaService/DiffSchema":            {Roles: schemaReaders, AllTypes: true, Effect: reads},
	"SchemaService/WriteSchema":           {Roles: schemaWriters, AllTenants: true, AllTypes: true, Effect: writes},

	"WatchService/Watch": {Roles: readers, AllTenants: true, AllTypes: true, Effect: reads},

	"ExperimentalService/BulkCheckPermission":               {Roles: readers, Effect: decides},
	"ExperimentalService/BulkExportRelationships":           {Roles: readers, AllTenants: true, AllTypes: true, Effect: reads},
	"ExperimentalService/BulkImportRelationships":           {Roles: writers, AllTenants: true, Effect: writes},
	"ExperimentalService/ExperimentalReflectSchema":         {Roles: schemaReaders, AllTypes: true, Effect: reads},
	"ExperimentalService/ExperimentalComputablePermissions": {Roles: schemaReaders, AllTypes: true, Effect: reads},
	"ExperimentalService/ExperimentalDependentRelations":    {Roles: schemaReaders, AllTypes: true, Effect: reads},
	"ExperimentalService/ExperimentalDiffSchema":            {Roles: schemaReaders, AllTypes: true, Effect: reads},
	"ExperimentalService/ExperimentalCountRelationships":    {Roles: readers, AllTenants: true, AllTypes: true, Effect: reads},
	// A counter makes the engine count in the background for everybody, under a name that all share.
	"ExperimentalService/ExperimentalRegisterRelationshipCounter":   {Roles: admins, AllTenants: true, AllTypes: true, Effect: writes},
	"ExperimentalService/ExperimentalUnregisterRelationshipCounter": {Roles: admins, AllTenants: true, AllTypes: true, Effect: writes},
}
