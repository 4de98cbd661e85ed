// Package differential holds the native evaluator against two others: a naive reference that is written
// here from SpiceDB's semantics alone, and SpiceDB's own dispatcher over the same store.
//
// TestFollowed holds a copy that follows a database, or the store of another Deputy, against the reference in the same way, while others write to that.
//
// The native evaluator is asked twice: over pkg/store, and over a graph in memory. Both have to answer the same, at once.
//
// The reference is as plain as possible. It reads a list of relationships, walks it with recursion, and
// skips nothing: it also notes what SpiceDB might stumble over in a branch that does not decide. The tests
// draw random worlds, ask all three the same questions, and compare. What they may differ in is said in
// judge_test.go, and nowhere else.
package differential
