// Package kept answers what is asked of a graph that pkg/store keeps.
//
//	evaluator.go  checks at one revision of a store, under the schema in force there
//	graph.go      a Graph: the engine over the store, whose checks and small reads are answered here instead
//	api.go        authzed.api.v1's checks, where SpiceDB would answer the same
//	lookups.go    authzed.api.v1's lookups, which list what checks say
//	expand.go     authzed.api.v1's trees
//	turns.go      how many lookups and trees are under way at once, and for how long
//	verify.go     a share of the answers is compared with SpiceDB's, and a difference makes the stricter one hold
//	versions.go   what was made of the last few versions of the schema
//
// SpiceDB's engine stands behind all of it: whatever is asked that is not answered here, it answers.
package kept
