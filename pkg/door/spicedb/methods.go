package spicedb

import (
	"context"

	"google.golang.org/protobuf/proto"

	"github.com/deputyauth/deputy/pkg/rpc/wire"
)

// reads lists the methods that change nothing, and pass unjudged but for the caller's bounds. A method that is added here must not
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
	"PermissionsService/WriteRelationships":       noting(unlessFree((*call).judgeWrite)),
	"PermissionsService/DeleteRelationships":      unlessFree((*call).judgeDelete),
	"PermissionsService/ImportBulkRelationships":  noting(unlessFree((*call).judgeImport)),
	"ExperimentalService/BulkImportRelationships": noting(unlessFree((*call).judgeBulkImport)),

	"SchemaService/WriteSchema": everybody((*call).judgeSchema),

	"ExperimentalService/ExperimentalRegisterRelationshipCounter":   anything,
	"ExperimentalService/ExperimentalUnregisterRelationshipCounter": anything,
}

// anything lets every message of a caller pass that may call the method.
func anything(context.Context, *call, int, proto.Message) error { return nil }

// large lists the methods whose messages may be wire.Large; the others' are wire.Small.
var large = map[string]bool{
	"PermissionsService/CheckBulkPermissions":     true,
	"PermissionsService/WriteRelationships":       true,
	"PermissionsService/DeleteRelationships":      true,
	"PermissionsService/ImportBulkRelationships":  true,
	"ExperimentalService/BulkImportRelationships": true,
	"ExperimentalService/BulkCheckPermission":     true,
	"SchemaService/WriteSchema":                   true,
	"SchemaService/DiffSchema":                    true,
	"ExperimentalService/ExperimentalDiffSchema":  true,
}

// limitOf is what bounds a message of a method.
func limitOf(key string) wire.Limit {
	if large[key] {
		return wire.Large
	}
	return wire.Small
}
