// Package evaluate answers checks over the rows of a graph, with SpiceDB's semantics.
//
// A schema is compiled once, each of its versions, into a Program (program.go). A Walk reads the graph through Rows (rows.go) and
// goes through it once for all subjects of a call (walk.go): where several of them ask for the same resource, they are carried
// through the same traversal, each as a bit of a set (value.go). What was found out of an object's permission is kept for the rest
// of the call. Objects are read in one short scan, and only wide ones relation by relation (objects.go). Caveats on the way are
// gathered into an expression, and evaluated in the end with the request's context by SpiceDB's own pkg/caveats (expression.go).
// An explanation of a check is made by the walk that has answered it (explain.go).
// Where the rows come from is somebody else's: pkg/evaluate/kept has them from a store, and pkg/fixture/world in memory.
//
// # What an answer is
//
// The meaning is that of SpiceDB v1.56.2 for one check with nothing cached, with two differences, both where
// SpiceDB's own answer depends on which goroutine is first, or on what else is in a chunk:
//
//   - An error (of depth, or of a caveat) counts as unknown. A union has who is in one of its parts, an
//     intersection has not who is missing in one, whatever the others come to. Only where the parts that
//     are known do not decide, the error is the answer. SpiceDB answers with the error if it is met first.
//   - tupleset.all(permission) takes the caveats of an object's own relationships, not those of another
//     object that SpiceDB happens to evaluate in the same chunk.
//
// Depth is counted as SpiceDB counts dispatches: 50 of them answer, one more is an error; a permission that
// is an alias of another member costs none, unless the subject's type is the resource's.
package evaluate
