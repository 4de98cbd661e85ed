// Package evaluate answers checks over the rows of a graph, with SpiceDB's semantics.
//
// A schema is compiled once, each of its versions, into a Program (program.go). A Walk reads the graph through Rows (rows.go) and
// goes through it once for all subjects of a call (walk.go): where several of them ask for the same resource, they are carried
// through the same traversal, each as a bit of a set (value.go). What a walk finds out about a permission of an object it keeps for the
// rest of the call. Objects are read in one short scan, and only wide ones relation by relation (objects.go). Caveats on the way are
// gathered into an expression, and evaluated in the end with the request's context by SpiceDB's own pkg/caveats (expression.go).
// An explanation of a check is made by the walk that has answered it (explain.go).
// This package does not know where the rows come from: pkg/evaluate/kept reads them from a store, and pkg/fixture/world has them in memory.
//
// A lookup finds candidates first, and then checks each of them (lookup.go, and listing.go for the subjects of an object). The schema,
// read backwards (ways.go), says which rows lead to candidates. A spread follows those rows (spread.go, listing.go) until it knows all lists
// of ids that hold candidates, and the lists are merged as they are read, in the order of ids (candidates.go).
//
// # What an answer is
//
// The meaning is that of SpiceDB v1.56.2 for one check with nothing cached, with two differences, both where
// SpiceDB's own answer depends on which goroutine is first, or on what else is in a chunk:
//
//   - An error (of depth, or of a caveat) counts as unknown. A subject that is in one part of a union is in the
//     union, and a subject that is missing from one part of an intersection is missing from the intersection,
//     whatever the other parts come to. The error is the answer only where the known parts do not decide.
//     SpiceDB answers with the error if it meets it first.
//   - tupleset.all(permission) takes the caveats of an object's own relationships, not those of another
//     object that SpiceDB happens to evaluate in the same chunk.
//
// Depth is counted as SpiceDB counts dispatches: 50 of them answer, one more is an error; a permission that
// is an alias of another member costs none, unless the subject's type is the resource's.
package evaluate
