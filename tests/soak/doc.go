// Package soak loads one `deputy serve` for a long time and looks whether what it takes stays flat: resident memory, heap,
// goroutines, descriptors, the sizes of the data directory and of the journal's, how many files the journal has, and how many of its records
// are under no checkpoint yet. Its retention is as short as the data's.
//
// The load is mixed and paced, and creates as much as it deletes: decisions of every kind; sessions that are started, renewed
// and ended; delegations created and revoked; agents suspended and resumed; rows toggled through authzed.api.v1; imports and
// exports; watches held open; reads at older revisions; schema writes; with a short retention, so that collection runs. It
// keeps a small model beside it: an ended session never allows, a revoked delegation refuses at the very next check, a live one
// allows. An answer that the model contradicts, and every error that it does not expect, fails the test.
//
// `make soak` runs it for SOAKTIME (30m) and prints the maximum of each figure in each third of that time. It passes if
// the last third's is at most 1.1 times the middle third's: what has not come to rest after the first third leaks. A third has to hold
// several rounds of the store's log, which is cut every 64 MiB: below some 20 minutes the directory's ratio says little. `make
// test` runs a miniature, which tests the load and the model, and no ratio. `make soak` runs what else takes long about the journal afterwards: a
// server killed 200 times, every I/O that fails, and every byte of the evidence bent.
package soak
