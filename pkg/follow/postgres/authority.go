// Package postgres is SpiceDB's PostgreSQL datastore as an authority that is followed. It reads SpiceDB's tables with SQL of its own, because
// SpiceDB's interface cannot say "nothing new for you": the only head that it has is the cluster's, which grows with every transaction of every
// database.
//
// The tables are those of one migration (Migration). Another one is refused, whatever has changed: a contributor who raises SpiceDB's version reads
// its migrations, compares them with the queries here, and then changes the constant. Three of the tables' properties carry everything:
//
//   - A row has the id of the transaction that created it (created_xid) and of the one that deleted it (deleted_xid, the highest number while
//     it is alive). It is changed in no other way. Counters are an exception: their values are overwritten, and are not followed.
//   - Of one relationship, type, caveat or counter at most one row is alive in any snapshot.
//   - Collection deletes rows that were deleted before a transaction which is older than the window, relationships that expired
//     before the window, and transactions as the rows.
//
// Every answer is from one snapshot of the cluster: of one statement, or of one transaction, REPEATABLE READ and READ ONLY, whose statements are sent
// together. What comes first says who the server is, so nothing that comes after it is believed if that is not who it should be. The
// role needs SELECT on SpiceDB's tables and nothing else.
package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/deputyauth/deputy/pkg/follow"
)

// Migration is the version of SpiceDB's tables that is followed.
const Migration = "populate-schema-tables"

// Config says which database is followed.
type Config struct {
	// URI is the connection string. It should have pgx take a primary, where it names several servers.
	URI string
	// Window is for how long every SpiceDB over the database keeps what was deleted: its collection's window. It must be set.
	Window time.Duration
	// Conns is how many connections are kept at most; 0 means 4.
	Conns int
}

// Authority is a database of SpiceDB's. It is safe for concurrent use.
type Authority struct {
	pool   *pgxpool.Pool
	window time.Duration

	mu sync.Mutex
	// seen is the newest timeline that each cluster was seen to write, by its system identifier: a few, for an address leads to few clusters.
	seen map[string]uint64
	// changing is what share of the last pulls found that something had changed, the latest counting most.
	changing float64
}

var _ follow.Parted = (*Authority)(nil)

// Open connects to a database, and refuses one that cannot be followed; the errors are those of follow.Authority.Head.
func Open(ctx context.Context, config Config) (*Authority, error) {
	if config.Window <= 0 {
		return nil, errors.New("follow: the collection's window is not set")
	}
	pool, err := pgxpool.ParseConfig(config.URI)
	if err != nil {
		// pgx quotes what it cannot read, which may be the password.
		return nil, errors.New("follow: the connection string is neither a URI, such as postgres://deputy@db/deputy, nor words, such as " +
			"host=db user=deputy")
	}
	pool.MaxConns = 4
	if config.Conns > 0 {
		pool.MaxConns = int32(min(config.Conns, 1000))
	}
	// Statements stay prepared unless the connection string has default_query_exec_mode: to plan the changes anew for each pull takes ten times as long
	// as to read them. A pooler between pools sessions, as SpiceDB needs it too. A batch of statements is one round trip.
	pool.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, pulling)
		return err
	}
	connected, err := pgxpool.NewWithConfig(ctx, pool)
	if err != nil {
		return nil, fmt.Errorf("follow: %w", err)
	}
	a := &Authority{pool: connected, window: config.Window, seen: map[string]uint64{}}
	if _, err := a.Head(ctx); err != nil {
		connected.Close()
		return nil, err
	}
	return a, nil
}

// closePatience is how long Close waits for connections that are in use: each tells the server that it is not, and some servers do not answer.
const closePatience = time.Second

// Close closes the connections.
func (a *Authority) Close() {
	closed := make(chan struct{})
	go func() { defer close(closed); a.pool.Close() }()
	patience := time.NewTimer(closePatience)
	defer patience.Stop()
	select {
	case <-closed:
	case <-patience.C:
	}
}

// A guard is what the first statement of every transaction, or the first row of a statement that is alone, says: one row, on every server that has
// SpiceDB's tables, with a list of texts; see readGuard. Times are in microseconds.
//
// A server in recovery writes no timeline and cannot be asked for it. The times are taken where they err to the safe side: what a
// snapshot does not show commits after the transaction that takes the snapshot has begun, and the clock is read last.
const (
	guardTexts = `(SELECT version_num FROM alembic_version),
	pg_is_in_recovery()::text,
	(SELECT system_identifier::text FROM pg_control_system()),
	CASE WHEN pg_is_in_recovery() THEN '' ELSE substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8) END,
	(SELECT oid::text FROM pg_database WHERE datname = current_database()),
	(SELECT unique_id FROM metadata),
	pg_current_snapshot()::text,
	(extract(epoch FROM now()) * 1000000)::bigint::text,
	(extract(epoch FROM clock_timestamp()) * 1000000)::bigint::text,
	newest.xid::text, (extract(epoch FROM newest.timestamp) * 1000000)::bigint::text,
	settled.xid::text, (extract(epoch FROM settled.timestamp) * 1000000)::bigint::text`

	guardTables = `
FROM (SELECT 1) AS one
LEFT JOIN (SELECT xid, timestamp FROM relation_tuple_transaction ORDER BY xid DESC LIMIT 1) AS newest ON true
LEFT JOIN (
	SELECT xid, timestamp FROM relation_tuple_transaction WHERE xid < pg_snapshot_xmin(pg_current_snapshot()) ORDER BY xid DESC LIMIT 1
) AS settled ON true`

	// knownCount is how many of the two transactions that a position names ($2 to $5) are there. SpiceDB's column of times has no zone; they are UTC.
	knownCount = `(SELECT count(*) FROM relation_tuple_transaction WHERE
		xid = $2::text::xid8 AND timestamp = $3::timestamptz AT TIME ZONE 'UTC' OR
		xid = $4::text::xid8 AND timestamp = $5::timestamptz AT TIME ZONE 'UTC')`

	// headQuery asks nothing about a position.
	headQuery = `SELECT ARRAY[` + guardTexts + `, '0', '0']` + guardTables
)

// sinceQuery asks about a position too: for those that it names, and for how many transactions there are that its snapshot ($1) does not show.
var sinceQuery = `SELECT ARRAY[` + guardTexts + `, ` + knownCount + `::text, ` + sinceCount + `::text]` + guardTables

// guard is what the first statement finds.
type guard struct {
	position follow.Position
	shows    snapshot
	// clock is the server's time, after its snapshot was taken.
	clock time.Time
	// known is how many there are of the transactions that a position names, since how many there are that it does not show.
	known, since int
	// system and timeline say which cluster the server is of, and which of its histories it writes.
	system   string
	timeline uint64
}

// guardLength is how many texts a guard has.
const guardLength = 15

// scanGuard reads a row that is a guard, and refuses a server that is not followed.
func scanGuard(row pgx.Row) (guard, error) {
	var texts []*string
	if err := row.Scan(&texts); err != nil {
		return guard{}, refusal(err)
	}
	return readGuard(texts)
}

// readGuard reads a guard, and refuses a server that is not followed.
func readGuard(texts []*string) (g guard, err error) {
	if len(texts) != guardLength {
		return g, fmt.Errorf("follow: the server says who it is in %d texts, want %d", len(texts), guardLength)
	}
	text := func(i int) string {
		if texts[i] == nil {
			return ""
		}
		return *texts[i]
	}
	migration, system, timeline, database, datastore := text(0), text(2), text(3), text(4), text(5)
	switch {
	case migration != Migration:
		return g, fmt.Errorf("%w: the database is at %q, and this version follows %q. Migrate the database with this version of Deputy, or "+
			"run the version that belongs to the database", follow.ErrMigration, migration, Migration)
	case text(1) != "false":
		return g, fmt.Errorf("%w: it is in recovery: it is a standby, or restores", follow.ErrStandby)
	case system == "" || timeline == "" || database == "" || datastore == "":
		return g, fmt.Errorf("follow: the server does not say who it is: system %q, timeline %q, database %q, SpiceDB %q",
			system, timeline, database, datastore)
	}
	number := func(i int) (n int64) {
		if err == nil {
			if n, err = strconv.ParseInt(text(i), 10, 64); err != nil {
				err = fmt.Errorf("follow: %q is no number", text(i))
			}
		}
		return n
	}
	g.position = follow.Position{
		Authority: follow.Identity(fmt.Sprintf("PostgreSQL %s, timeline %s, database %s, SpiceDB %s", system, timeline, database, datastore)),
		State:     text(6), At: time.UnixMicro(number(7)).UTC(),
	}
	g.clock, g.known, g.since = time.UnixMicro(number(8)), int(number(13)), int(number(14))
	if err != nil {
		return g, err
	}
	g.system = system
	if g.timeline, err = strconv.ParseUint(timeline, 16, 32); err != nil {
		return g, fmt.Errorf("follow: %q is no timeline", timeline)
	}
	if g.shows, err = parseSnapshot(g.position.State); err != nil {
		return g, fmt.Errorf("follow: %w", err)
	}
	for _, i := range []int{9, 11} { // the newest transaction, and the newest that is settled
		if texts[i] == nil {
			continue
		}
		began := number(i + 1)
		if err != nil {
			return g, err
		}
		id, wrong := strconv.ParseUint(*texts[i], 10, 64)
		if wrong != nil {
			return g, fmt.Errorf("follow: %q is no transaction", *texts[i])
		}
		if !g.shows.shows(id) {
			return g, fmt.Errorf("follow: the database holds transaction %d, and the cluster's own counter is at %d: it was restored from a dump, or "+
				"copied, into another cluster. Stop every server over it, run `deputy migrate repair`, and start them again", id, g.shows.xmax)
		}
		t := follow.Transaction{ID: id, Began: time.UnixMicro(began).UTC()}
		if !slices.Contains(g.position.Known, t) {
			g.position.Known = append(g.position.Known, t)
		}
	}
	return g, nil
}

// refusal puts an error of PostgreSQL's into follow's words, where there is one for it.
func refusal(err error) error {
	var refused *pgconn.PgError
	if errors.As(err, &refused) && slices.Contains([]string{"42P01", "42703"}, refused.Code) { // undefined table or column
		return fmt.Errorf("%w: %s. If the database is new, run `deputy migrate`", follow.ErrMigration, refused.Message)
	}
	return fmt.Errorf("PostgreSQL: %w", err)
}

// forward refuses a server that writes an older timeline of its cluster than another one was seen to write: a primary that was replaced and does
// not know it. What it acknowledges is lost.
func (a *Authority) forward(g *guard) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if newest := a.seen[g.system]; g.timeline < newest {
		return fmt.Errorf("%w: it writes timeline %X of its cluster, and timeline %X was seen: it is a primary that was replaced. Stop it; or, if an older "+
			"state was restored on purpose, start this server again",
			follow.ErrStandby, g.timeline, newest)
	}
	a.seen[g.system] = g.timeline
	return nil
}

// check refuses a server that was replaced, and a position that this server's history does not show, or that has left the window.
func (a *Authority) check(g *guard, from *follow.Position) error {
	if err := a.forward(g); err != nil {
		return err
	}
	if from.Authority != g.position.Authority {
		return fmt.Errorf("%w: it is of %q, and the server is %q", follow.ErrOther, from.Authority, g.position.Authority)
	}
	shown, err := parseSnapshot(from.State)
	if err != nil {
		return fmt.Errorf("%w: %w", follow.ErrOther, err)
	}
	if !g.shows.covers(shown) {
		return fmt.Errorf("%w: it shows transactions that the server does not (%s, now %s)", follow.ErrOther, from.State, g.position.State)
	}
	// The window goes first: what has left it may lack its transactions because they were collected.
	if age := g.clock.Sub(from.At); age > a.window-a.window/10 {
		return fmt.Errorf("%w: it is %s old, and the window is %s", follow.ErrMissed, age.Round(time.Second), a.window)
	}
	if g.known != len(from.Known) {
		return fmt.Errorf("%w: the server does not have the transactions that it names any more: they were collected with a shorter window than "+
			"the configured one (%s), or the server was put back to an older state", follow.ErrOther, a.window)
	}
	return nil
}

// sinceArgs are sinceQuery's parameters. A position may name less than two transactions; 0 is the id of none.
func sinceArgs(p *follow.Position) []any {
	args := []any{p.State, "0", time.Time{}, "0", time.Time{}}
	for i, t := range p.Known[:min(len(p.Known), 2)] {
		args[2*i+1], args[2*i+2] = strconv.FormatUint(t.ID, 10), t.Began.UTC()
	}
	return args
}

// reading is a transaction of reads whose statements are sent together.
type reading []question

// question is a statement with what takes its result.
type question struct {
	sql  string
	args []any
	take func(pgx.BatchResults) error
}

// ask adds a statement.
func (r *reading) ask(take func(pgx.BatchResults) error, sql string, args ...any) {
	*r = append(*r, question{sql, args, take})
}

func ignore(results pgx.BatchResults) error {
	_, err := results.Exec()
	return err
}

// nothing is avoided: it is a setting that is off.
const nothing = "jit"

const (
	// pulling is a connection's settings, which are for pulls: a statement is planned once for the connection, from indexes alone, so that the plan is
	// good whatever the tables hold when it is made and later; see relationshipsSince. Rows come in the order in which a statement names them, so it is
	// not run in parallel.
	pulling = `SELECT set_config('jit', 'off', false), set_config('plan_cache_mode', 'force_generic_plan', false),
	set_config('enable_seqscan', 'off', false), set_config('enable_sort', 'off', false), set_config('max_parallel_workers_per_gather', '0', false)`

	// settings are for one transaction that reads a state: a way of planning ($1) that is off, and a plan of its own for each statement, on whose
	// parameters it depends how much of a state it reads. Statements are not compiled: that takes a hundred times as long as they run, and the planner,
	// which adds a large number to the costs of what it is told to avoid, would take each of them for an expensive one.
	settings = `SELECT set_config('enable_seqscan', 'on', true), set_config('enable_sort', 'on', true),
	set_config('max_parallel_workers_per_gather', '2', true), set_config('plan_cache_mode', 'force_custom_plan', true), set_config($1, 'off', true)`
)

// read runs a reading in one round trip. avoid names a way of planning that is off for it.
func (a *Authority) read(ctx context.Context, avoid string, r reading) error {
	var whole reading
	whole.ask(ignore, "BEGIN READ ONLY ISOLATION LEVEL REPEATABLE READ")
	whole.ask(ignore, settings, avoid)
	whole = append(whole, r...)
	whole.ask(ignore, "COMMIT")
	return a.send(ctx, whole)
}

// send sends statements together, and takes their results.
func (a *Authority) send(ctx context.Context, r reading) error {
	var batch pgx.Batch
	for _, q := range r {
		batch.Queue(q.sql, q.args...)
	}
	return a.pool.AcquireFunc(ctx, func(pooled *pgxpool.Conn) error {
		conn := pooled.Conn()
		results := conn.SendBatch(ctx, &batch)
		var err error
		for _, q := range r {
			if err = q.take(results); err != nil {
				break
			}
		}
		if closed := results.Close(); err == nil && closed != nil {
			err = refusal(closed)
		}
		if err != nil && conn.PgConn().TxStatus() != 'I' {
			// The transaction has failed, and is still open. The pool does not take back a connection that is closed.
			err = errors.Join(err, conn.Close(context.WithoutCancel(ctx)))
		}
		return err
	})
}

// guarded begins a reading at a position: with the guard, which checks it.
func (a *Authority) guarded(at *follow.Position, g *guard) (r reading) {
	r.ask(func(results pgx.BatchResults) (err error) {
		if *g, err = scanGuard(results.QueryRow()); err != nil {
			return err
		}
		return a.check(g, at)
	}, sinceQuery, sinceArgs(at)...)
	return r
}

// Head is follow.Authority's. One statement has one snapshot.
func (a *Authority) Head(ctx context.Context) (follow.Position, error) {
	g, err := scanGuard(a.pool.QueryRow(ctx, headQuery))
	if err == nil {
		err = a.forward(&g)
	}
	if err != nil {
		return follow.Position{}, err
	}
	return g.position, nil
}
