// Package kept answers questions about a graph that pkg/store keeps.
//
//	evaluator.go  checks and lookups at one revision of a store, under the schema in force there
//	graph.go      a Graph: the engine over the store, whose checks and small reads are answered here instead
//	reach.go      a Graph's lookups of objects, page by page
//	explain.go    a Graph's explanations of checks
//	api.go        authzed.api.v1's checks, where SpiceDB would answer the same
//	lookups.go    authzed.api.v1's lookups, which list what checks say
//	expand.go     authzed.api.v1's trees
//	turns.go      how many lookups and trees are under way at once, and for how long
//	verify.go     compares a share of the answers with SpiceDB's; where they differ, the stricter one holds
//	versions.go   the programs and schemas of the last few versions of the schema
//
// SpiceDB's engine answers every question that this package does not.
package kept
