// Package pgtest gives tests a real database: a private PostgreSQL cluster made from the server
// binaries of the machine, or a CockroachDB started from a binary that is already there. Nothing is
// downloaded and nothing that already runs is touched. Servers and their files are gone after the run; a
// run that is killed leaves a directory in the temporary directory, and on Linux no server.
//
//	func TestMain(m *testing.M) { pgtest.Main(m) }
//
//	func TestDecisions(t *testing.T) {
//		uri := pgtest.Database(t) // empty, for this test alone
//		…
//	}
//
// One cluster serves a whole test binary; each test gets a database of its own. A test that stops its server, copies
// it, has standbys of it or restores into it takes a NewCluster of its own. Where the binaries are
// missing the test is skipped, and the skip is said aloud: `go test` hides what a passing package
// prints, so it goes into the file that DEPUTY_NOT_RUN names as well, and `make test` ends with it.
package pgtest
