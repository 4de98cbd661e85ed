// Package schema is the one model of a SpiceDB schema: what each relation admits, and what each permission is computed from.
// Read makes it of the definitions that SpiceDB's compiler or datastore returns, and refuses what it does not know: a part that
// is left out would be taken for nobody, and an evaluator, a guard or a comparison that stands on the model would be wrong
// about who has access. So code that holds a Schema can switch over its operations and be sure that there are no others.
//
// A Schema is immutable and safe for concurrent use. Nothing here reads relationships: all that is said of a member holds
// whatever relationships there are.
package schema
