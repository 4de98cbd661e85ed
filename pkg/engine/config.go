package engine

import (
	"slices"
	"time"

	"go.uber.org/zap"
)

// The kinds of engine.
const (
	// Embedded is SpiceDB in this process over Deputy's own durable store, in a directory.
	Embedded = "embedded"
	// Memory is SpiceDB's memdb in this process: for tests and demos, nothing survives a restart.
	Memory = "memory"
	// Postgres is SpiceDB in this process over its own PostgreSQL driver.
	Postgres = "postgres"
	// CockroachDB is SpiceDB in this process over its own CockroachDB driver.
	CockroachDB = "cockroachdb"
	// Spanner is SpiceDB in this process over its own Spanner driver.
	Spanner = "spanner"
	// MySQL is SpiceDB in this process over its own MySQL driver.
	MySQL = "mysql"
	// Remote is a SpiceDB that already runs elsewhere.
	Remote = "remote"
)

// Kinds lists the kinds of engine, the default first.
var Kinds = []string{Embedded, Memory, Postgres, CockroachDB, MySQL, Spanner, Remote}

// Shared reports whether several servers can stand on one engine of the kind: all but those whose graph is in
// the server's own process or directory.
func Shared(kind string) bool {
	return slices.Contains([]string{Postgres, CockroachDB, MySQL, Spanner, Remote}, kind)
}

// Config says which engine to open and where it is.
type Config struct {
	// Kind is one of Kinds; empty means Embedded.
	Kind string
	// Dir is the directory of Embedded's store, for who opens that; see Over.
	Dir string
	// CacheBytes is the size of the cache of Embedded's store; 0 means 256 MiB.
	CacheBytes int64
	// URI is the database's connection string, for the in-process engines with a database. It may name
	// several servers of a PostgreSQL cluster: connections are made to the primary alone.
	URI string
	// ReadConns and WriteConns are how many connections to the database the engines Postgres, CockroachDB
	// and MySQL keep for reads and for writes; 0 means DefaultReadConns and DefaultWriteConns. Postgres
	// keeps one more, which watches the server.
	ReadConns, WriteConns int
	// KeyMark tells servers with different token keys apart without telling the keys: Postgres does not open while
	// a server with another mark runs over the database. 0 means that nothing is compared.
	KeyMark int32
	// Endpoint is the host and port of the SpiceDB behind Remote.
	Endpoint string
	// PresharedKey authenticates to the SpiceDB behind Remote. It is never logged.
	PresharedKey string
	// Insecure permits Remote without TLS.
	Insecure bool
	// TrustSchema says that no relation of the SpiceDB behind Remote holds relationships with an expiration that its
	// schema does not admit any more. Else their rows are counted whenever a schema is first met; see remoteStrays.
	TrustSchema bool
	// CAPath is a PEM file with the certificate authorities that Remote trusts; empty means the
	// system's.
	CAPath string
	// Retention is how far back revisions stay readable: what the in-process engines keep, and what
	// a SpiceDB behind Remote was configured with (its --datastore-gc-window). 0 means 24 h.
	Retention time.Duration
	// ClockOffset is the most by which the clocks of a CockroachDB cluster's nodes may differ (its
	// --max-offset): calls that revoke, end or suspend wait that long before they return. 0 means
	// 500 ms on CockroachDB, its own default, and nothing elsewhere.
	ClockOffset time.Duration
	// Log takes a line for each panic of SpiceDB or of its datastore, which fails the call that met it; nil
	// means no log.
	Log *zap.Logger
}
