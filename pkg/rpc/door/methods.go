package door

// reads lists the methods that change nothing and pass untouched. A method that is added here must not
// write relationships, schema or counters, now or with any of its options.
var reads = map[string]bool{
	"PermissionsService/CheckPermission":         true,
	"PermissionsService/CheckBulkPermissions":    true,
	"PermissionsService/ExpandPermissionTree":    true,
	"PermissionsService/LookupResources":         true,
	"PermissionsService/LookupSubjects":          true,
	"PermissionsService/ReadRelationships":       true,
	"PermissionsService/ExportBulkRelationships": true,

	"SchemaService/ReadSchema":            true,
	"SchemaService/ReflectSchema":         true,
	"SchemaService/ComputablePermissions": true,
	"SchemaService/DependentRelations":    true,
	"SchemaService/DiffSchema":            true,

	"WatchService/Watch": true,

	"ExperimentalService/BulkCheckPermission":               true,
	"ExperimentalService/BulkExportRelationships":           true,
	"ExperimentalService/ExperimentalReflectSchema":         true,
	"ExperimentalService/ExperimentalComputablePermissions": true,
	"ExperimentalService/ExperimentalDependentRelations":    true,
	"ExperimentalService/ExperimentalDiffSchema":            true,
	"ExperimentalService/ExperimentalCountRelationships":    true,
}

// guards lists the methods that write, each with what judges its messages.
var guards = map[string]guard{
	"PermissionsService/WriteRelationships":       unlessAdmin((*Door).judgeWrite),
	"PermissionsService/DeleteRelationships":      unlessAdmin((*Door).judgeDelete),
	"PermissionsService/ImportBulkRelationships":  unlessAdmin((*Door).judgeImport),
	"ExperimentalService/BulkImportRelationships": unlessAdmin((*Door).judgeBulkImport),

	"SchemaService/WriteSchema": adminOnly("write the schema", decoded((*Door).judgeSchema)),

	// A counter makes the engine count in the background for everybody, under a name that all share.
	"ExperimentalService/ExperimentalRegisterRelationshipCounter":   adminOnly("register a counter", nil),
	"ExperimentalService/ExperimentalUnregisterRelationshipCounter": adminOnly("unregister a counter", nil),
}
