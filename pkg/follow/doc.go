// Package follow keeps a copy of an authority's schema and relationships in a pkg/store of this machine, so that decisions are
// made there, at the authority's revision, and not by walking the authority's database.
//
// The authority takes every write and says what is true. A copy is never asked what is true now: it is asked what was true at
// a state of the authority, and only once the authority has said that nothing newer is visible.
//
// # Reached
//
// An authority's state is a set of transactions: those that are visible in it. For PostgreSQL it is a pg_snapshot. It is no number
// that grows: of two transactions that run at the same time, the one that began later may be visible first. A copy has reached a
// state if every transaction of SpiceDB's that is visible in the state has been applied to the copy. A transaction that runs at the
// same time and has been applied does not make up for one that has not.
//
// What else uses up transaction ids in the cluster does not count: writes to other databases, autoanalyze, SpiceDB's
// own collection. It makes the snapshot of the head grow without end, so waiting until the newest applied transaction is as high as the
// head's would be waiting for ever. The question that ends is: is there a transaction of SpiceDB's which the copy's state does not show?
// Every one of them notes itself in SpiceDB's table of transactions, and an authority answers the question together with the head, from one
// snapshot of its own (ChangesSince). Where there is none, that was all.
//
// # From one state to the next
//
// ChangesSince returns differences of states and not a list of events. Both states are snapshots of the same tables, whose rows
// carry the ids of the transactions that created and deleted them. So a row that is alive now and was created by a transaction that
// the copy's state does not show is written, and a row that the copy's state shows and that is deleted now is deleted. Nothing
// depends on the order in which transactions committed, so nothing is applied twice and nothing is left out, in whatever order
// transactions that ran at the same time became visible. (SpiceDB's Watch delivers events, and with three transactions that
// overlap it delivers some of them again. Applied a second time, an old grant would come back after it was revoked.) Commit
// timestamps are not needed either.
//
// The new state is the snapshot in which the differences were read. It shows all that the state before it shows, because
// what a primary shows only grows. Where it does not, it is no longer the same history; see "When a copy is discarded".
//
// # What a copy holds
//
//   - Relationships with caveats and expirations, definitions, caveats, and the names and filters of counters.
//   - A mark (store.WriteMarked): the authority's identity and the position that the copy has reached, in the same batch on the disk
//     as the relationships. A crash keeps both or neither.
//
// A copy does not hold: the metadata of transactions, and a counter's value. Who watches or counts asks the authority. SpiceDB's
// unified stored schema is not read either: Deputy runs SpiceDB so that it reads and writes the definitions one by one.
//
// A local commit leads from one position to the next. Several of the authority's transactions may be in one. Between
// the two positions the copy has no revision, so nobody reads half of what the authority committed at once, and a local revision
// is always a state that the authority itself could have shown.
//
// Where nothing has changed nothing is written. The position then moves in memory alone, and is written down now and then, so that
// it does not leave the window while nobody writes.
//
// # Identity
//
// A position carries who the authority is. For PostgreSQL: the cluster's system identifier, the timeline that it writes,
// the database's object id and SpiceDB's own id. The timeline changes with every promotion and every restore to a point in time, after which
// transaction ids are used again for other writes. The database's object id tells a database from one that was made with it as its template. For another
// Deputy it is the id of its store, which every restore and every promotion changes.
//
// A disk that was put back to what it was before has the same identity. So a position also names two transactions that it shows, with the
// times at which they began: the newest of all, and the newest below which none was running. The authority must still have both.
//
// # The window
//
// SpiceDB deletes for good what was deleted longer ago than its collection's window. A position that is older than the window may miss
// deletions, which would leave revoked grants in the copy. The authority refuses such a position (ErrMissed) by its own clock, with a
// tenth of the window to spare, and where one of the two transactions above was collected. The window is a setting that follower and
// authority have to share: every SpiceDB that collects in this database must have one at least as long. A position that is older than a minute is
// also checked against one that has not, because its collection takes away deletions before it takes away the transactions by which they are missed:
// nothing is believed that was read while a collection was under way.
//
// Relationships that have expired are deleted without a change that anybody could see, once the window has passed since. The copy collects
// them by its own clock. Neither is seen by a decision, so what has expired is left out of every comparison (Compare).
//
// # The load
//
// A copy begins with all relationships, page by page. Each page is read at the newest state, together with what has changed since the one before, which
// is written to the copy first. So after each page the copy is one state as far as the pages go; see load.go. A load needs no
// transaction that stays open, which would keep the whole cluster from vacuuming, and may take longer than the window; it goes on after a lost connection
// and after a restart of this process; and it has no more to catch up with at its end than at any other time, so that it ends beside any
// database that it is faster than. The mark says how far the load is, in the same batch as the page. A load is made beside the copy that is there, which
// goes on to serve what it can prove, and takes its place once it is complete.
//
// Where more changes between two pages than one local commit holds, PostgreSQL's changes are taken in several commits (Parted), in which nobody reads. From
// another Deputy the load begins again.
//
// # Being sure
//
// A copy is compared with its authority at the position that it has just reached: the whole of it when somebody asks (Graph.Verify), and a few
// relationships all the time (see sampler). A difference takes it out of service at once: decisions that begin afterwards do not use it, and nor does
// the next start.
//
// # When a copy is discarded
//
//   - ErrMissed: the position has left the window.
//   - ErrOther: the authority has another identity, or does not show what the position shows. A crash of PostgreSQL may
//     take back ids of transactions that failed shortly before it; that looks the same, and costs a load.
//   - ErrTooMany: more has changed since the position of a copy that is served than one local commit holds.
//   - The copy's store is damaged, or has failed to write and takes no writes any more (ErrStopped). Damage is found when a block is read:
//     at the start, while changes are applied, or by a decision, which fails; the next one finds the copy out of service.
//   - The copy differs from the authority (Distrust).
//
// In each of these cases a new copy is loaded, and meanwhile the authority's own engine answers. ErrStandby and ErrMigration are for the operator:
// nothing is discarded, nothing is answered.
// A copy's directory may be deleted at any time while no process has it open.
//
// # How a decision uses it
//
// Graph is what the judge asks. A decision asks for the authority's head, which is one ChangesSince that all decisions which arrive together share
// and that starts after the last of them has arrived; what is missing is applied, once for all of them; the decision is made at the local
// revision and returns the authority's revision as checked_at. Where that takes longer than the configured wait, the authority's own engine answers, for
// a few questions at once. No answer is served for a call that asks for the head by a copy that has not proven, since the question was asked, that the
// authority shows nothing newer.
//
// The head is refused where the authority's engine would refuse it: where it lies behind what this server has read or acknowledged before. Once the
// authority's identity is another one, nothing of before compares with its head, and the engine is told to forget it.
//
// # Histories
//
// Revisions carry a digest of the identity of the authority that they are of (authz.InHistory), and so do the tokens, cursors and baselines that are made
// of them. A revision of another history is out of range, whoever would answer. What the authority's engine answers is taken to be of the history that the
// authority had before and after it was asked; if these differ the call fails. A write that took place meanwhile returns a revision that is good nowhere.
//
// The copy's commits are not synced: a crash of the machine takes the copy back to an earlier position, from which it goes on.
//
// A copy that was replaced takes along everything that was kept of it: stamps name the copy that they are of (authz.Stamp), and revisions that only
// the old one has stood at are the authority's to answer.
package follow
