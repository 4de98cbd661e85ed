// Package store is SpiceDB's datastore on Pebble: durable, in one directory, with nothing else to run.
//
// # What is on the disk
//
// A store is a directory with the files of a Pebble database and one of ours, DEPUTY, that says which
// format the rest has (see format.go). In the database everything is a key with a value; this is format 1:
//
//	F │ resource type ∅ resource id ∅ relation ∅ subject type ∅ subject relation ∅ subject id ∅ │ version
//	  → a relationship as it is from that version on, or that it is gone
//	R │ subject type ∅ subject relation ∅ subject id ∅ resource type ∅ relation ∅ resource id ∅ │ version
//	  → the same, to be found from its subject
//	N │ name ∅ │ version → a namespace definition      C │ name ∅ │ version → a caveat definition
//	K │ name ∅ │ version → a relationship counter
//	S │ version → the unified stored schema            H │ version → its hash
//	A │ version → the mark of a copy: of which state of its original it is (mark.go)
//	L │ revision │ chunk → the changelog: what the revision changed
//	E │ expiration │ version │ forward key → nothing: which rows expire when
//	M │ name → facts about the store itself: how far it was collected
//
// ∅ is a zero byte, which no component may contain, so that a key cannot be read in two ways and no key
// is the beginning of another. An ellipsis ("...") is stored as an empty subject relation. Numbers are big
// endian. A version is the complement of its revision, so that the newest version of a row comes first:
// reading a row at a revision is one seek, to its key with that revision's version, and what is found
// there, if it is the row's, is the row as it was then.
//
// # Revisions
//
// A revision is a number of nanoseconds since 1970: the time of the commit, or one more than the revision
// before where the clock did not move, or moved back. So revisions are totally ordered, none is ever used
// twice, and how old one is can be read off it. Between two commits every number names the state that the
// lower one left. The price: a clock that was ahead and is set back keeps history for longer, until it has
// caught up.
//
// # Transactions
//
// A transaction reads at the head that it began with, keeps its writes to itself, and notes the key
// ranges that it read. One goroutine commits (commit.go): it checks those ranges against what was committed
// since, gives the transaction the next revision, and hands it to Pebble; then it syncs once for all the
// transactions that were waiting, and only then moves the head and answers. So commits lie in the log in
// the order of their revisions, a crash keeps a beginning of them, and what was acknowledged is in it.
//
// # Collection
//
// A revision can be read for the retention window, and as long as somebody reads at it. What no readable
// revision shows is deleted (collect.go), found through the changelog, so that collecting costs what was
// changed and not what there is.
//
// # What is over
//
// Until then it is stepped over by who walks the rows around it, once: where nothing lives is noted in memory (voids.go).
//
// # When the disk fails
//
// A store that cannot write takes no more writes until it is opened again, and goes on reading (commit.go,
// files.go). Opening one looks for damage before anything is changed, and refuses with ErrDamaged; tables are
// not read as a whole, so what is wrong in one may be found only when it is read, with ErrDamaged too. Every
// byte that answers come from is covered by a checksum, and what was written has to be there (history.go). In a
// store that was not closed a log that is cut, gone, or changed in its last commits is taken for torn by a crash.
package store
