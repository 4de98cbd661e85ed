// Package oracle answers what Deputy has to answer, from a plain model in memory and by brute force.
//
// It is written from the rule alone and shares no code with the server's decision: it knows no SpiceDB,
// no revisions and no queries. A State is everything that is the case at one moment; State.Decide walks
// it with recursion. A frozen session keeps a whole copy of the State in which it started.
//
// The tests beside it drive a real server over gRPC and this model side by side, and compare.
package oracle
