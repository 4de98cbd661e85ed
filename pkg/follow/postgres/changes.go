package postgres

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/authzed/spicedb/pkg/tuple"
	"github.com/jackc/pgx/v5"

	"github.com/deputyauth/deputy/pkg/follow"
)

// What has changed since a snapshot ($1). The server's own snapshot shows each row as it is now, so a row that is alive now and was created by a
// transaction which the former snapshot does not show was written, and a row that the former snapshot shows and that is not alive any more was
// deleted. A row that came and went in between is in neither. The conditions on xmin say nothing new, but there are indexes for them.
const (
	writtenSince = ` WHERE deleted_xid = ` + alive + `
		AND created_xid >= pg_snapshot_xmin($1::text::pg_snapshot) AND NOT pg_visible_in_snapshot(created_xid, $1::text::pg_snapshot)`
	deletedSince = ` WHERE deleted_xid < ` + alive + `
		AND deleted_xid >= pg_snapshot_xmin($1::text::pg_snapshot) AND NOT pg_visible_in_snapshot(deleted_xid, $1::text::pg_snapshot)
		AND pg_visible_in_snapshot(created_xid, $1::text::pg_snapshot)`
)

// wholeTables is avoided: there are indexes for changes, also where the planner knows nothing of a table yet.
const wholeTables = "enable_seqscan"

// ChangesSince is follow.Authority's. Every transaction of SpiceDB's notes itself in the table of transactions. Where that has none which the
// position does not show, nothing has changed, and one statement has said so; else a second round trip reads what has.
func (a *Authority) ChangesSince(ctx context.Context, from follow.Position, limit int) (follow.Changes, error) {
	g, err := scanGuard(a.pool.QueryRow(ctx, sinceQuery, sinceArgs(&from)...))
	if err != nil {
		return follow.Changes{}, err
	}
	if err := a.check(&g, &from); err != nil {
		return follow.Changes{}, err
	}
	c := follow.Changes{To: g.position}
	if g.since > 0 {
		if c, err = a.changes(ctx, from, limit); err != nil {
			return follow.Changes{}, err
		}
	}
	if err := a.uncollected(ctx, &g, &from); err != nil {
		return follow.Changes{}, err
	}
	return c, nil
}

const (
	// youngest is the age up to which no collection concerns a position: no SpiceDB is run with a window that is as short.
	youngest = time.Minute

	// collectingQuery asks whether a collection is under way in this database: SpiceDB's collections hold the advisory lock 1.
	collectingQuery = `SELECT EXISTS (SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND classid = 0 AND objid = 1 AND objsubid = 1
		AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))`
)

// errCollecting is passing: once the collection is over, the position is good or has been missed.
var errCollecting = errors.New("follow: SpiceDB is collecting in the database, and the position may be older than what it keeps; it is asked again")

// uncollected refuses what was read since an old position if a SpiceDB with a shorter window than the configured one may have been collecting
// meanwhile. Its collection is several transactions: first relationships that were deleted go, then the transactions by which check
// finds out that the position was missed. Between the two, deletions are missing unseen.
//
// So first it is asked whether a collection is under way, and then, in a later snapshot, whether the transactions are still there. A collection
// that was half done when the changes were read is found by the first, or has ended and is found by the second. One that was killed between the
// two is not found until the next one; Compare finds what it has cost.
func (a *Authority) uncollected(ctx context.Context, g *guard, from *follow.Position) error {
	if g.clock.Sub(from.At) <= youngest {
		return nil
	}
	var collecting bool
	if err := a.pool.QueryRow(ctx, collectingQuery).Scan(&collecting); err != nil {
		return refusal(err)
	}
	if collecting {
		return errCollecting
	}
	again, err := scanGuard(a.pool.QueryRow(ctx, sinceQuery, sinceArgs(from)...))
	if err != nil {
		return err
	}
	return a.check(&again, from)
}

// changes reads what has changed since a position.
func (a *Authority) changes(ctx context.Context, from follow.Position, limit int) (follow.Changes, error) {
	var g guard
	var c follow.Changes
	d := &c.Definitions
	r := a.guarded(&from, &g)
	for _, q := range []struct {
		take func(pgx.BatchResults) error
		sql  string
	}{
		{gatherTypes(&d.Types), `SELECT serialized_config FROM namespace_config` + writtenSince},
		{gatherNames(&c.DeletedTypes), `SELECT namespace FROM namespace_config` + deletedSince},
		{gatherCaveats(&d.Caveats), `SELECT definition FROM caveat` + writtenSince},
		{gatherNames(&c.DeletedCaveats), `SELECT name FROM caveat` + deletedSince},
		{gatherCounters(&d.Counters), `SELECT name, serialized_filter FROM relationship_counter` + writtenSince},
		{gatherNames(&c.DeletedCounters), `SELECT name FROM relationship_counter` + deletedSince},
	} {
		r.ask(q.take, q.sql, from.State)
	}
	r.ask(gather(&c.Written, limit), `SELECT `+columns+` FROM relation_tuple`+writtenSince+` LIMIT $2`, from.State, limit+1)
	r.ask(gather(&c.Deleted, limit), `SELECT `+columns+` FROM relation_tuple`+deletedSince+` LIMIT $2`, from.State, limit+1)
	if err := a.read(ctx, wholeTables, r); err != nil {
		return follow.Changes{}, err
	}
	c.To, c.Transactions = g.position, g.since
	c.DeletedTypes = without(c.DeletedTypes, d.Types)
	c.DeletedCaveats = without(c.DeletedCaveats, d.Caveats)
	rewritten := make(map[tuple.RelationshipReference]bool, len(c.Written))
	for i := range c.Written {
		rewritten[c.Written[i].RelationshipReference] = true
	}
	c.Deleted = slices.DeleteFunc(c.Deleted, func(rel tuple.Relationship) bool { return rewritten[rel.RelationshipReference] })
	return c, nil
}

// without takes the names of definitions that were written again out of those that were deleted.
func without[D interface{ GetName() string }](deleted []string, written []D) []string {
	return slices.DeleteFunc(deleted, func(name string) bool {
		return slices.ContainsFunc(written, func(d D) bool { return d.GetName() == name })
	})
}
