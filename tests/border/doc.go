// Package border fuzzes all that Deputy lets in, against `deputy serve` in a process of its own: every method of
// deputy.v1, authzed.api.v1, grpc.health.v1 and of reflection, found in the registered protobuf descriptors, so that a new
// method is fuzzed by itself. Messages are drawn from their descriptors with values of a prepared world, then spoiled on the
// wire; calls go out without a key, with a wrong one, a service's and an admin's; frames and headers are odd, cut, held
// open and compressed.
//
// It fails when
//
//   - the process dies, or its resident memory rises by more than 512 MiB;
//   - a call ends as INTERNAL, UNKNOWN or DATA_LOSS, with no valid gRPC status, or not at all (excuses has what gRPC's own
//     transport says before any code of a server runs);
//   - a call without a valid key gets data or OK from anything but health;
//   - an answer tells of internals: stacks, source files, addresses;
//   - the log has a line at level error: what callers send is no fault of the server's;
//   - afterwards a fixed set of decisions is answered otherwise, a client that does everything right is not served, or
//     goroutines and descriptors do not come back.
//
// An input is a text (input_test.go has its words), so that one that failed can be read, mailed and kept: what lies in
// testdata/corpus is replayed on each run. `make test` fuzzes for some seconds from a fixed seed, `make fuzz-api` for FUZZTIME
// from a new one, which it prints. The same seed draws the same inputs but for the values that the server mints (ids and
// tokens) and for the times of its answers.
package border
