// Package follow keeps a copy of an authority's schema and relationships in a pkg/store of this machine. Decisions are made there, at the authority's
// revision, instead of by walking the authority's database.
//
// The authority takes every write, and its state is the true one. A copy is never asked for the state of now. It is asked for a state of the authority,
// and only once the authority has said that nothing newer is visible.
//
// # Words
//
//   - An authority is what is followed: a PostgreSQL database of SpiceDB's, or another Deputy's store. All messages, for operators and for callers, say
//     "the primary" of it, which is true of both: a database is followed at its primary alone. Pages say "the database" where one is meant, the
//     contract says "database" of both, and the metrics say "authority".
//   - A position is a state of the authority, in the authority's own words. The head is the newest one.
//   - An identity names an authority. It changes where the authority begins another history: after a failover, a restore or a promotion.
//   - A copy is a store with a mark that says which position it is of. A stand is a local revision of a copy together with the position that it is the
//     copy of.
//   - The authority's engine is the SpiceDB over the authority, which takes writes and answers what the copy does not.
//
// # Reached
//
// A state of an authority is a set of transactions: those that are visible in it. For PostgreSQL it is a pg_snapshot. It is no number
// that grows: of two transactions that run at the same time, the one that began later may be visible first. A copy has reached a
// state if every transaction of SpiceDB's that is visible in the state has been applied to the copy. A transaction that runs at the
// same time and has been applied does not make up for one that has not.
//
// Other uses of transaction ids in the cluster do not count: writes to other databases, autoanalyze, SpiceDB's own collection. They make the snapshot of
// the head grow without end, so a wait until the newest applied transaction is as high as the head's would never end. Therefore another question is asked:
// is there a transaction of SpiceDB's that the copy's state does not show? Each of them leaves a row in SpiceDB's table of transactions, and an authority
// answers the question together with the head, from one snapshot (ChangesSince). Where there is none, the copy has reached the head.
//
// # From one state to the next
//
// ChangesSince returns differences of states, and not a list of events. Both states are snapshots of the same tables, whose rows
// carry the ids of the transactions that created and deleted them. So a row that is alive now and was created by a transaction that
// the copy's state does not show is written, and a row that the copy's state shows and that is deleted now is deleted. Nothing
// depends on the order in which transactions committed. So nothing is applied twice and nothing is left out, in whatever order
// transactions that ran at the same time became visible. (SpiceDB's Watch delivers events, and with three transactions that
// overlap it delivers some of them again. Applied a second time, an old grant would come back after it was revoked.) Commit
// timestamps are not needed either.
//
// The new state is the snapshot in which the differences were read. It shows all that the state before it shows, because
// what a primary shows only grows. Where it does not, the history is another one; see "When a copy is discarded".
//
// # What a copy holds
//
//   - Relationships with caveats and expirations, definitions, caveats, and the names and filters of counters.
//   - A mark (store.WriteMarked): the authority's identity and the position that the copy has reached, in the same batch on the disk
//     as the relationships. A crash keeps both or neither.
//
// A copy does not hold the metadata of transactions, or the values of counters. Watches and counts go to the authority. SpiceDB's
// unified stored schema is not read either: Deputy runs SpiceDB so that it reads and writes the definitions one by one.
//
// A local commit leads from one position to the next. Several of the authority's transactions may be in one. Between
// the two positions the copy has no revision, so nothing reads half of what the authority committed at once, and a local revision
// is always a state that the authority itself could have shown. Where more has changed than one commit holds it takes several, and what is between
// the first and the last of them is read by nobody: see load.go. Until the last one the authority's engine answers at the head, and calls that do not
// ask for the head are answered at the revision from before, until that is MaxAge old.
//
// Where nothing has changed nothing is written. The position then moves in memory alone, and is written down now and then, so that
// it does not leave the window while the authority does not change.
//
// # Identity
//
// A position carries the authority's identity. For PostgreSQL that is the cluster's system identifier, the timeline that it writes,
// the database's object id and SpiceDB's own id. The timeline changes with every promotion and every restore to a point in time, after which
// transaction ids are used again for other writes. The database's object id tells a database from one that was made with it as its template. For another
// Deputy the identity is the id of its store, which every restore from a backup and every promotion changes.
//
// A disk that was put back to an older state has the same identity. So a position also names two transactions that it shows, with the
// times at which they began: the newest of all, and the newest below which none was running. The authority must still have both.
//
// # The window
//
// SpiceDB deletes for good what was deleted longer ago than its collection's window. From a position that is older than the window, deletions may be
// missed, and revoked grants would stay in the copy. So the authority refuses such a position (ErrMissed) by its own clock, with a
// tenth of the window to spare, and where one of the two transactions above was collected. Follower and authority have to share the window: every SpiceDB
// that collects in this database must have one at least as long.
//
// A collection takes away deletions before it takes away the transactions by which they are missed. So where the position is older than a minute, the
// database is asked two things after the changes were read: whether a collection is under way and, in a later snapshot, whether the two transactions are
// still there. Only then are the changes believed.
//
// Relationships that have expired are deleted without a visible change, once the window has passed since. The copy collects
// them by its own clock. Decisions see neither, so every comparison leaves out what has expired (Compare).
//
// # The load
//
// A copy begins with all relationships, page by page. Each page is read at the newest state, together with what has changed since the one before, which
// is written to the copy first. So after each page the copy is one state as far as the pages go; see load.go. A load needs no
// transaction that stays open, which would keep the whole cluster from vacuuming, and may take longer than the window; it goes on after a lost connection
// and after a restart of this process; and it has no more to catch up with at its end than at any other time, so that it ends beside any
// database that it is faster than. The mark says how far the load is, in the same batch as the page. A load is made beside the copy that is there, which
// goes on to serve as long as it can be proven, and takes its place once it is complete.
//
// Where more changes between two pages than one local commit holds, PostgreSQL's changes are taken in several commits (Parted), in which nobody reads. From
// another Deputy the load begins again.
//
// # Being sure
//
// A copy is compared with its authority at the position that it has just reached: the whole of it when an operator asks (Graph.Verify), and a few
// relationships all the time (see sampler). A difference takes it out of service at once: decisions that begin afterwards do not use it, and neither does
// the next start.
//
// # When a copy is discarded
//
//   - ErrMissed: the position has left the window.
//   - ErrOther: the authority has another identity, or does not show what the position shows. A crash of PostgreSQL may
//     take back ids of transactions that failed shortly before it; that looks the same, and costs a load.
//   - ErrTooMany: more has changed since the position than one local commit holds, and the authority does not tell it in parts (Parted).
//   - The copy's store is damaged, or has failed to write and takes no writes any more (ErrStopped). Damage is found when a block is read:
//     at the start, while changes are applied, or by a decision, which fails; the next one finds the copy out of service.
//   - The copy differs from the authority (Distrust).
//
// In each of these cases a new copy is loaded, and meanwhile the authority's engine answers. After ErrStandby and ErrMigration, which an operator has to
// mend, nothing is discarded and nothing is answered.
// A copy's directory may be deleted at any time while no process has it open.
//
// # How a decision uses it
//
// The judge asks a Graph. A decision asks for the authority's head: by one ChangesSince, which starts after the decision has asked, and which all
// decisions that arrive together share. The changes are applied, once for all of them. The decision is made at the local
// revision and returns the authority's revision as checked_at. Where that takes longer than the configured wait, the authority's engine answers, for
// a few questions at once. A copy answers no call that asks for the head unless it has proven, since the question was asked, that the
// authority shows nothing newer.
//
// The head is refused where the authority's engine would refuse it: where it lies behind what this server has read or acknowledged before. Once the
// authority's identity is another one, nothing of before compares with its head. The engine is told to forget it, and to make its connections anew, because
// those of before may lead to a server that was replaced.
//
// # Histories
//
// Revisions carry a digest of the identity of the authority that they are of (authz.InHistory), and so do the tokens, cursors and baselines that are made
// of them. A revision of another history is out of range, wherever it is asked for. An answer of the authority's engine is taken to be of the history that
// the authority had before and after the engine was asked. If these differ the call fails, and a write that took place meanwhile returns a revision that is
// good nowhere.
//
// The copy's commits are not synced: a crash of the machine takes the copy back to an earlier position, from which it goes on.
//
// All that is kept of a copy ends with it: stamps name the copy that they are of (authz.Stamp), and the authority's engine answers at revisions that
// only a copy before has stood at.
package follow
