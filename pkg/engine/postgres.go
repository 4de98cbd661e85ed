package engine

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	dscfg "github.com/authzed/spicedb/pkg/cmd/datastore"
	"github.com/authzed/spicedb/pkg/datastore"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Connections that a server keeps to its database, unless it is told otherwise. They are SpiceDB's defaults.
const (
	DefaultReadConns  = 20
	DefaultWriteConns = 10
)

// The fewest connections that a server works with. Of those that write, SpiceDB's heartbeat holds one for good
// and its garbage collection another one while it runs; with two of those that read, a list that is being
// read leaves one to decisions.
const (
	MinReadConns  = 2
	MinWriteConns = 3
)

// maxConns is far beyond what a database takes.
const maxConns = 10_000

// usesPgx reports whether SpiceDB speaks to the engine's database with pgx, whose connection strings
// PostgreSQL and CockroachDB share.
func (c Config) usesPgx() bool { return c.Kind == Postgres || c.Kind == CockroachDB }

// Connection returns the connection string that SpiceDB is given, for code that reads its tables besides.
func (c Config) Connection() (string, error) { return c.connection() }

// connection returns the connection string that SpiceDB is given. PostgreSQL's makes every connection one to
// a primary that takes writes: on a standby a decision would be made on the past, however fresh the revision
// that it was asked for. Of several hosts in the string pgx then takes the first that is such a primary.
//
// A string that pgx cannot read is returned as it is, so that SpiceDB's own error, without the password, is
// what its reader gets.
func (c Config) connection() (string, error) {
	if !c.usesPgx() {
		return c.URI, nil
	}
	parsed, err := pgconn.ParseConfig(c.URI)
	if err != nil {
		return c.URI, nil //nolint:nilerr // see above
	}
	for name := range parsed.RuntimeParams {
		if strings.HasPrefix(name, "pool_") {
			return "", fmt.Errorf("engine: %s in the connection string has no effect: SpiceDB keeps two pools. Take it out, and set their "+
				"sizes with --datastore-conn-pool-read-max-open (%d unless set) and --datastore-conn-pool-write-max-open (%d unless set)",
				name, DefaultReadConns, DefaultWriteConns)
		}
	}
	if c.Kind != Postgres {
		return c.URI, nil
	}
	const attribute = "target_session_attrs"
	switch {
	case takesPrimary(parsed):
		return c.URI, nil
	case parsed.ValidateConnect != nil || strings.Contains(c.URI, attribute):
		return "", fmt.Errorf("engine: %s of the connection must be read-write or primary, or left out, which is the same as read-write: "+
			"a decision that is made on a standby does not see what was revoked since", attribute)
	}
	// Added as text: taken apart and put together again, not every string would survive. Which of these is right depends on
	// the string's form, and a password may hold any of the signs; so it is pgx that says.
	for _, sign := range []string{" ", "&", "?"} {
		uri := c.URI + sign + attribute + "=read-write"
		if again, err := pgconn.ParseConfig(uri); err == nil && takesPrimary(again) && again.Database == parsed.Database {
			return uri, nil
		}
	}
	return "", fmt.Errorf("engine: add %s=read-write to the connection string: Deputy cannot do so itself with one of this form", attribute)
}

// CheckConnection refuses settings and files with which no connection can be made to what is behind the engine. Nothing is connected to. An engine that is
// opened refuses the same.
func (c Config) CheckConnection() error {
	switch {
	case c.Kind == Remote && !c.Insecure && c.CAPath != "":
		_, err := c.authorities()
		return err
	case !databases[c.Kind]:
		return nil
	}
	uri, err := c.connection()
	if err != nil {
		return err
	}
	if c.usesPgx() {
		if _, err := pgconn.ParseConfig(uri); err != nil {
			return fmt.Errorf("engine: cannot open %s: %w", c.Kind, c.readable(err, uri))
		}
	}
	_, err = c.pools()
	return err
}

// takesPrimary reports whether connections are made to a primary alone. pgx turns the attribute into a function, whether
// it is in the string, in the environment or in a service file.
func takesPrimary(c *pgconn.Config) bool {
	if c.ValidateConnect == nil {
		return false
	}
	at := reflect.ValueOf(c.ValidateConnect).Pointer()
	return at == reflect.ValueOf(pgconn.ValidateConnectTargetSessionAttrsReadWrite).Pointer() ||
		at == reflect.ValueOf(pgconn.ValidateConnectTargetSessionAttrsPrimary).Pointer()
}

// pools are SpiceDB's options for the connections that a server keeps.
func (c Config) pools() ([]dscfg.ConfigOption, error) {
	for _, pool := range []struct {
		flag        string
		size, least int
	}{
		{"--datastore-conn-pool-read-max-open", c.ReadConns, MinReadConns},
		{"--datastore-conn-pool-write-max-open", c.WriteConns, MinWriteConns},
	} {
		if pool.size != 0 && (pool.size < pool.least || pool.size > maxConns) {
			return nil, fmt.Errorf("engine: %s must be %d to %d, or 0 for its default, not %d", pool.flag, pool.least, maxConns, pool.size)
		}
	}
	sized := func(defaults *dscfg.ConnPoolConfig, size int) dscfg.ConnPoolConfig {
		if size != 0 {
			// As SpiceDB does by default, all of them are kept open.
			defaults.MaxOpenConns, defaults.MinOpenConns = size, size
		}
		return *defaults
	}
	return []dscfg.ConfigOption{
		dscfg.WithReadConnPool(sized(dscfg.DefaultReadConnPool(), c.ReadConns)),
		dscfg.WithWriteConnPool(sized(dscfg.DefaultWriteConnPool(), c.WriteConns)),
	}, nil
}

// guarded returns the datastore as the engine serves it, once it has been found ready. SpiceDB's drivers over
// pgx open a new connection to say whether they are ready; from then on it is the connections that decisions are made
// with that count. open opens it anew.
func (c Config) guarded(
	ds datastore.Datastore, open func(context.Context) (datastore.Datastore, error), uri string, watch *pgx.Conn,
) datastore.Datastore {
	if c.Kind == Postgres {
		ds = guardPrimary(ds, open, uri, watch, c.KeyMark)
	}
	if c.usesPgx() {
		ds = &pooled{Datastore: ds}
	}
	return ds
}

// examinePostgres connects to the database before SpiceDB does, which would begin to write into it, and
// refuses a server that is no primary, or whose counter of transactions lies below what the database holds.
// The connection that it returns goes on to watch the server.
func (c Config) examinePostgres(ctx context.Context, uri string) (*pgx.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	conn, err := connectPrimary(ctx, uri)
	switch {
	case err != nil && isNoPrimary(err):
		return nil, fmt.Errorf("engine: postgres: %w", errNoPrimary)
	case err != nil:
		return nil, fmt.Errorf("engine: cannot open %s: %w", Postgres, c.readable(err, uri))
	}
	found, err := inspect(ctx, conn)
	if err == nil {
		err = found.unfit()
	}
	if err == nil {
		err = holdMark(ctx, conn, c.KeyMark)
	}
	if err != nil {
		hangUp(ctx, conn)
		return nil, fmt.Errorf("engine: postgres: %w", c.readable(err, uri))
	}
	return conn, nil
}

// markClass is the class of the advisory locks that Deputy's servers hold; SpiceDB's own have none.
const markClass = 0x44657079 // "Depy"

// errOtherKey says that two servers would not know each other's tokens.
var errOtherKey = errors.New("another server is running over this database with another token key: they would refuse each other's tokens, and make " +
	"two delegations of one that is asked for again. Give every server the same --token-key-file; to change the key, stop all servers first")

// holdMark holds, as long as the connection lives, a lock that says which token key this server has, and refuses if
// another server holds one with another. It locks before it looks, so that of two that start at once at least one
// sees the other.
func holdMark(ctx context.Context, conn *pgx.Conn, mark int32) error {
	if mark == 0 {
		return nil
	}
	if _, err := conn.Exec(ctx, "SELECT pg_advisory_lock_shared($1::int4, $2::int4)", markClass, mark); err != nil {
		return err
	}
	// objsubid 2 are the locks of two numbers; pg_locks shows numbers as oid, without a sign.
	var others int
	err := conn.QueryRow(ctx, `SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 2
		AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
		AND classid = $1::int8::oid AND objid <> $2::int8::oid`, int64(markClass), int64(uint32(mark))).Scan(&others) //nolint:gosec // the same bits
	if err == nil && others > 0 {
		err = errOtherKey
	}
	return err
}

// connectTimeout bounds the making of one connection beside the pools, and what is asked over it.
const connectTimeout = 10 * time.Second

// connectPrimary makes one connection as SpiceDB does.
func connectPrimary(ctx context.Context, uri string) (*pgx.Conn, error) {
	cfg, err := pgx.ParseConfig(uri)
	if err != nil {
		// pgx quotes what it cannot read, which may be the password.
		return nil, errors.New("the connection string is neither a URI, such as postgres://deputy@db/deputy, nor words, such as host=db user=deputy")
	}
	if !strings.Contains(uri, "default_query_exec_mode") {
		// SpiceDB's own default. It is also what a pooler between takes.
		cfg.DefaultQueryExecMode = pgx.QueryExecModeExec
	}
	return pgx.ConnectConfig(ctx, cfg)
}

// hangUp closes a connection, also once ctx has ended. A server that does not answer is not waited for, and an error
// changes nothing.
func hangUp(ctx context.Context, conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_ = conn.Close(ctx)
}

// condition is what one look at a PostgreSQL server finds.
type condition struct {
	// standby says that the server replays what another one writes.
	standby bool
	// next is the least transaction id that no transaction has ended with, by the server's counter, and stored
	// the highest one in SpiceDB's tables. stored is below next on every server that wrote its rows itself.
	next, stored uint64
}

// SpiceDB's rows carry the ids of the transactions that created and deleted them. Every transaction leaves its own id
// in relation_tuple_transaction, and the last ones are never collected; the ids of deleted rows are indexed, so they
// cost nothing to look at, and count where that table was not restored with the rest.
const lookQuery = `SELECT pg_is_in_recovery(), pg_snapshot_xmax(pg_current_snapshot())::text, GREATEST(
	COALESCE((SELECT xid FROM relation_tuple_transaction ORDER BY xid DESC LIMIT 1), '0'::xid8),
	COALESCE((SELECT deleted_xid FROM relation_tuple WHERE deleted_xid < '9223372036854775807'::xid8
		ORDER BY deleted_xid DESC LIMIT 1), '0'::xid8))::text`

// inspect asks a server what it is and where its counter is. A database without SpiceDB's tables holds no ids.
func inspect(ctx context.Context, conn *pgx.Conn) (condition, error) {
	var found condition
	var next, stored string
	err := conn.QueryRow(ctx, lookQuery).Scan(&found.standby, &next, &stored)
	var refused *pgconn.PgError
	if errors.As(err, &refused) && slices.Contains([]string{"42P01", "42703"}, refused.Code) { // undefined table or column
		return found, nil
	}
	if err != nil {
		return found, err
	}
	if _, err := fmt.Sscan(next+" "+stored, &found.next, &found.stored); err != nil {
		return found, fmt.Errorf("cannot read the ids of transactions: %w", err)
	}
	return found, nil
}

// behind is how many transaction ids the counter lacks.
func (c condition) behind() uint64 {
	if c.stored < c.next || c.stored == 0 {
		return 0
	}
	return c.stored - c.next + 1
}

// unfit says why no decision is made on such a server, or nil.
func (c condition) unfit() error {
	switch {
	case c.standby:
		return errors.New("the server is a standby: what was revoked may not have reached it")
	case c.behind() > 0:
		return fmt.Errorf("the database holds transactions up to %d, and the cluster's own counter is at %d: it was restored from a dump, or "+
			"copied, into another cluster. What was revoked would be in force again. Stop every server over it, run "+
			"`deputy migrate repair`, and start them again", c.stored, c.next)
	}
	return nil
}

// repairBatch is how many ids one statement spends: about a second's worth.
const repairBatch = 200_000

// Repair advances the counter of transactions of a PostgreSQL cluster beyond the ids in SpiceDB's tables, as
// SpiceDB's own repair "transaction-ids" does, and returns by how much: 0 where it was beyond them already. It
// is for a database that was restored from a dump into another cluster. No server may be running over the
// database. progress, if there is one, is told now and then how many ids of how many are spent. Where it is
// interrupted it can be run again.
//
// SpiceDB's own is not called because it reads ids as 32-bit numbers, which a cluster outgrows, and because
// opening its datastore begins to write revisions.
func Repair(ctx context.Context, cfg Config, progress func(spent, of uint64)) (uint64, error) {
	if _, err := migrationConfig(cfg); err != nil {
		return 0, err
	}
	if cfg.Kind != Postgres {
		return 0, fmt.Errorf("engine %s has nothing to repair: only %s numbers rows by its cluster's transactions", cfg.Kind, Postgres)
	}
	uri, err := cfg.connection()
	if err != nil {
		return 0, err
	}
	conn, err := connectPrimary(ctx, uri)
	if err != nil && isNoPrimary(err) {
		return 0, fmt.Errorf("repair %s: %w", cfg.Kind, errNoPrimary)
	}
	if err != nil {
		return 0, fmt.Errorf("repair %s: %w", cfg.Kind, cfg.readable(err, uri))
	}
	defer hangUp(ctx, conn)
	found, err := inspect(ctx, conn)
	if err != nil {
		return 0, fmt.Errorf("repair %s: %w", cfg.Kind, cfg.readable(err, uri))
	}
	if found.next == 0 {
		return 0, fmt.Errorf("repair %s: the database has none of SpiceDB's tables, so there is nothing to repair; restore the dump, or run "+
			"`deputy migrate`", cfg.Kind)
	}
	var spent uint64
	for found.behind() > 0 {
		// Each turn of the loop is a transaction that takes an id and does nothing.
		batch := min(found.behind(), repairBatch)
		statement := fmt.Sprintf("DO $$ BEGIN FOR i IN 1..%d LOOP PERFORM pg_current_xact_id(); ROLLBACK; END LOOP; END $$", batch)
		if _, err = conn.Exec(ctx, statement); err == nil {
			spent += batch
			found, err = inspect(ctx, conn)
		}
		if err != nil {
			return spent, fmt.Errorf("repair %s: %w", cfg.Kind, cfg.readable(err, uri))
		}
		if progress != nil {
			progress(spent, spent+found.behind())
		}
	}
	return spent, nil
}
