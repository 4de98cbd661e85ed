package authz

import (
	"crypto/sha256"
	"encoding/hex"
)

// Metadata of authzed.api.v1 with which a schema is written only over the schema that its writer has seen.
const (
	// MetadataExpectSchema goes with WriteSchema: the SchemaDigest of the only schema that it may replace.
	// If another one is in force, nothing is written.
	MetadataExpectSchema = "deputy-expect-schema"
	// MetadataSchemaGuard comes back as a trailer: with ReadSchema it tells that the server understands
	// MetadataExpectSchema, with WriteSchema that it has compared. Its value is a SchemaGuard constant.
	MetadataSchemaGuard = "deputy-schema-guard"
)

// How a server compares the schema in force with the one that a write expects.
const (
	// SchemaGuardLocked: within the transaction that writes, so that nothing comes between.
	SchemaGuardLocked = "locked"
	// SchemaGuardChecked: just before the write. Another write can come between.
	SchemaGuardChecked = "checked-not-locked"
)

// SchemaDigest names a schema by its text as ReadSchema returns it: SHA-256, in hexadecimal. A graph without
// a schema has the digest of "".
func SchemaDigest(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}
