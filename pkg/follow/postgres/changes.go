package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/authzed/spicedb/pkg/tuple"
	"github.com/jackc/pgx/v5"

	"github.com/deputyauth/deputy/pkg/follow"
)

// Kinds of rows that changesQuery returns.
const (
	isGuard = iota
	wroteType
	deletedType
	wroteCaveat
	deletedCaveat
	wroteCounter
	deletedCounter
	wroteRelationship
	deletedRelationship
)

// A snapshot ($1) does not show the transactions from its xmax on, and those before it that it lists as running. These are two conditions, and not
// pg_visible_in_snapshot, because there are indexes for them: one transaction that stays open, in whichever database of the cluster, would otherwise
// have each pull read all that has changed since it began.
const (
	fromXmax = ` >= pg_snapshot_xmax($1::text::pg_snapshot)`
	running  = `SELECT pg_snapshot_xip($1::text::pg_snapshot) AS id`

	// sinceCount is how many of SpiceDB's transactions there are that the snapshot does not show.
	sinceCount = `((SELECT count(*) FROM relation_tuple_transaction WHERE xid` + fromXmax + `) +
		(SELECT count(*) FROM relation_tuple_transaction WHERE xid = ANY (ARRAY(` + running + `))))`

	// shownThen says of a transaction whether the snapshot shows it. It is for few rows: no index has it.
	shownThen = `, (SELECT $1::text::pg_snapshot))`

	// anySince is for tables without such an index: they are not looked at where no transaction is new.
	anySince = `(SELECT n FROM since) > 0 AND `
)

// changesQuery reads the guard, and what has changed since a position: its snapshot is $1, the transactions that it names $2 to $5, and $6 is how
// many relationships of a kind are read at most.
//
// The server's own snapshot shows each row as it is now, so a row that is alive now and was created by a transaction which the former snapshot does
// not show was written, and a row that the former snapshot shows and that is not alive any more was deleted. A row that came and went in between is
// in neither.
var changesQuery = othersSince +
	relationshipsSince(wroteRelationship, "created_xid", `deleted_xid = `+alive) +
	relationshipsSince(deletedRelationship, "deleted_xid", `deleted_xid < `+alive+` AND pg_visible_in_snapshot(created_xid`+shownThen)

// partsQuery is changesQuery for a copy that may have some of what later states show: deletions come first, and also those of what the former
// snapshot does not show. NULL for $6 is no limit.
var partsQuery = othersSince +
	relationshipsSince(deletedRelationship, "deleted_xid", `deleted_xid < `+alive) +
	relationshipsSince(wroteRelationship, "created_xid", `deleted_xid = `+alive)

// othersSince is what both begin with: the guard, and all but relationships.
var othersSince = `WITH since AS MATERIALIZED (SELECT ` + sinceCount + ` AS n)
SELECT ` + fmt.Sprint(isGuard) + `, ARRAY[` + guardTexts + `, ` + knownCount + `::text, (SELECT n FROM since)::text],
	NULL::bytea, '', '', '', '', '', '', '', NULL, NULL::timestamptz` + guardTables +
	definitionsSince(wroteType, "namespace_config", "namespace", "serialized_config") +
	definitionsSince(wroteCaveat, "caveat", "name", "definition") +
	definitionsSince(wroteCounter, "relationship_counter", "name", "serialized_filter")

// definitionsSince reads from a table of few rows, those that were written, of a kind, and those that were deleted, of the next one.
func definitionsSince(kind int, table, name, text string) string {
	return fmt.Sprintf(`
UNION ALL
SELECT CASE WHEN deleted_xid = %[1]s THEN %[2]d ELSE %[3]d END, NULL, CASE WHEN deleted_xid = %[1]s THEN %[4]s END, %[5]s,
	'', '', '', '', '', '', NULL, NULL::timestamptz
FROM %[6]s WHERE %[7]s CASE WHEN deleted_xid = %[1]s THEN NOT pg_visible_in_snapshot(created_xid%[8]s
	ELSE NOT pg_visible_in_snapshot(deleted_xid%[8]s AND pg_visible_in_snapshot(created_xid%[8]s END`,
		alive, kind, kind+1, text, name, table, anySince, shownThen)
}

// relationshipsSince reads the relationships of a kind: those that have in a column a transaction which the snapshot does not show, and of which a
// condition is true. They are read in the column's order, so that no other index than the column's has them without a sort, which is avoided: the
// plan is made once for a connection, and may be made while a table is empty, when all indexes cost the same.
func relationshipsSince(kind int, column, condition string) string {
	ordered := func(of string) string {
		return `SELECT ` + columns + ` FROM relation_tuple WHERE ` + condition + ` AND ` + of + ` ORDER BY ` + column + ` DESC LIMIT $6`
	}
	return fmt.Sprintf( //nolint:unqueryvet // what it selects all of names its columns
		`
UNION ALL
(SELECT %d, NULL, NULL::bytea, * FROM (
	(%s)
	UNION ALL SELECT r.* FROM (%s) AS running CROSS JOIN LATERAL (%s) AS r
) AS r WHERE (SELECT n FROM since) > 0 LIMIT $6)`,
		kind, ordered(column+fromXmax), running, ordered(column+` >= running.id AND `+column+` <= running.id`))
}

// ChangesSince is follow.Authority's. Every transaction of SpiceDB's notes itself in the table of transactions. Where that has none which the
// position does not show, nothing has changed. Each answer is one statement with one snapshot.
//
// To ask for changes costs the database half as much again as to ask whether there are any. So where few of the last pulls have found some, it is asked
// whether there are any, and what they are in a second round trip; else all of it in one.
func (a *Authority) ChangesSince(ctx context.Context, from follow.Position, limit int) (follow.Changes, error) {
	if !a.likely() {
		g, err := scanGuard(a.pool.QueryRow(ctx, sinceQuery, sinceArgs(&from)...))
		if err != nil {
			return follow.Changes{}, err
		}
		if err := a.check(&g, &from); err != nil {
			return follow.Changes{}, err
		}
		if g.since == 0 {
			a.found(false)
			return follow.Changes{To: g.position}, a.uncollected(ctx, &g, &from)
		}
	}
	c, err := a.changes(ctx, from, changesQuery, limit+1, func(c *follow.Changes, _ int) error {
		if len(c.Written) > limit || len(c.Deleted) > limit {
			return follow.ErrTooMany
		}
		return nil
	})
	if err != nil {
		return follow.Changes{}, err
	}
	a.found(c.Transactions > 0)
	if len(c.Deleted) > 0 {
		rewritten := make(map[tuple.RelationshipReference]bool, len(c.Written))
		for i := range c.Written {
			rewritten[c.Written[i].RelationshipReference] = true
		}
		c.Deleted = slices.DeleteFunc(c.Deleted, func(rel tuple.Relationship) bool { return rewritten[rel.RelationshipReference] })
	}
	return c, nil
}

// often is the share of pulls that find changes from which on it costs less to ask for them at once.
const often = 1. / 3

// likely reports whether the next pull is likely to find changes.
func (a *Authority) likely() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.changing >= often
}

// found takes in whether a pull has found changes. About eight pulls count.
func (a *Authority) found(changes bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.changing -= a.changing / 8
	if changes {
		a.changing += 1. / 8
	}
}

// ChangesInParts is follow.Parted's.
func (a *Authority) ChangesInParts(
	ctx context.Context, from follow.Position, size int, take func(deleted, written []tuple.Relationship) error,
) (follow.Changes, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if time.Since(from.At) > youngest { // else all that is taken would be refused in the end
		if err := a.collecting(ctx); err != nil {
			return follow.Changes{}, err
		}
	}
	last := deletedRelationship
	return a.changes(ctx, from, partsQuery, nil, func(c *follow.Changes, kind int) error {
		if kind == deletedRelationship && last != kind {
			return errOutOfOrder
		}
		last = kind
		if len(c.Written) < size && len(c.Deleted) < size {
			return nil
		}
		deleted, written := c.Deleted, c.Written
		c.Deleted, c.Written = nil, nil
		err := take(deleted, written)
		if err != nil {
			cancel() // or the rest would be read, to be thrown away
		}
		return err
	})
}

// changes runs a query of changes since a position, with a limit of its own. It calls added after each relationship, of a kind, that is added to the changes.
func (a *Authority) changes(
	ctx context.Context, from follow.Position, query string, limit any, added func(c *follow.Changes, kind int) error,
) (follow.Changes, error) {
	var g guard
	var c follow.Changes
	var r reading
	r.ask(func(results pgx.BatchResults) error {
		return a.gatherChanges(results, &from, &g, &c, added)
	}, query, append(sinceArgs(&from), limit)...)
	if err := a.send(ctx, r); err != nil {
		return follow.Changes{}, err
	}
	if err := a.uncollected(ctx, &g, &from); err != nil {
		return follow.Changes{}, err
	}
	c.To, c.Transactions = g.position, g.since
	c.DeletedTypes = without(c.DeletedTypes, c.Definitions.Types)
	c.DeletedCaveats = without(c.DeletedCaveats, c.Definitions.Caveats)
	return c, nil
}

// gatherChanges takes the rows of a query of changes. The first one has to be the guard, and nothing is taken before that is checked.
func (a *Authority) gatherChanges(
	results pgx.BatchResults, from *follow.Position, g *guard, c *follow.Changes, added func(c *follow.Changes, kind int) error,
) error {
	var kind int
	var texts []*string
	var encoded []byte
	var row relationshipRow
	d, checked := &c.Definitions, false
	add := func(to *[]tuple.Relationship) error {
		if err := row.appendTo(to); err != nil {
			return err
		}
		return added(c, kind)
	}
	err := each(results, append([]any{&kind, &texts, &encoded}, row.targets()...), func() (err error) {
		if !checked && kind == isGuard {
			if *g, err = readGuard(texts); err == nil {
				err = a.check(g, from)
			}
			checked = err == nil
			return err
		}
		if !checked {
			return errUnguarded
		}
		switch name := row.rel.Resource.ObjectType; kind {
		case wroteType:
			return appendType(&d.Types, encoded)
		case deletedType:
			c.DeletedTypes = append(c.DeletedTypes, name)
		case wroteCaveat:
			return appendCaveat(&d.Caveats, encoded)
		case deletedCaveat:
			c.DeletedCaveats = append(c.DeletedCaveats, name)
		case wroteCounter:
			return appendCounter(&d.Counters, name, encoded)
		case deletedCounter:
			c.DeletedCounters = append(c.DeletedCounters, name)
		case wroteRelationship:
			return add(&c.Written)
		case deletedRelationship:
			return add(&c.Deleted)
		default:
			return fmt.Errorf("follow: the database returns a change of kind %d", kind)
		}
		return nil
	})
	if err == nil && !checked {
		err = errUnguarded
	}
	return err
}

// errOutOfOrder says that deletions come after what was written.
var errOutOfOrder = errors.New("follow: the database's answer names deletions after what was written")

// errUnguarded says that nothing of an answer is believed.
var errUnguarded = errors.New("follow: the database's answer does not begin with who the database is")

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
	if err := a.collecting(ctx); err != nil {
		return err
	}
	again, err := scanGuard(a.pool.QueryRow(ctx, sinceQuery, sinceArgs(from)...))
	if err != nil {
		return err
	}
	return a.check(&again, from)
}

// collecting refuses what is read while a collection is under way.
func (a *Authority) collecting(ctx context.Context) error {
	var collecting bool
	if err := a.pool.QueryRow(ctx, collectingQuery).Scan(&collecting); err != nil {
		return refusal(err)
	}
	if collecting {
		return errCollecting
	}
	return nil
}

// without takes the names of definitions that were written again out of those that were deleted.
func without[D interface{ GetName() string }](deleted []string, written []D) []string {
	return slices.DeleteFunc(deleted, func(name string) bool {
		return slices.ContainsFunc(written, func(d D) bool { return d.GetName() == name })
	})
}
