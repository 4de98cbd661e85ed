package engine

import (
	"errors"
	"fmt"
	"slices"
	"strings"
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
	// CacheBytes is the size of the cache of Embedded's store; 0 leaves it to who opens that, see Over.
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
	// Deputy says that what is behind Remote is another Deputy server, which takes it that its clients ask whether it is still there; see
	// Engine.Follows.
	Deputy bool
	// CAPath is a PEM file with the certificate authorities that Remote trusts; empty means the
	// system's.
	CAPath string
	// Retention is how far back revisions stay readable: what the in-process engines keep, and what
	// a SpiceDB behind Remote was configured with (its --datastore-gc-window). 0 means 24 h.
	Retention time.Duration
	// ClockOffset is the most by which the clocks of a CockroachDB cluster's nodes may differ (its
	// --max-offset): calls that revoke, end or suspend wait that long before they return. 0 means
	// 500 ms on CockroachDB, its own default, and nothing on Remote, which may stand over such a cluster.
	ClockOffset time.Duration
	// Log takes a line for each panic of SpiceDB or of its datastore, which fails the call that met it; nil
	// means no log.
	Log *zap.Logger
}

// Check refuses a configuration that lacks what its engine needs, or that sets what its engine does not read: an operator who sets
// something expects it to count. Nothing is opened for it. Errors name the flags of `deputy serve`.
func (c Config) Check() error {
	if c.Kind == "" {
		c.Kind = Embedded
	}
	if !slices.Contains(Kinds, c.Kind) {
		return fmt.Errorf("engine must be one of %s, not %q", strings.Join(Kinds, ", "), c.Kind)
	}
	sql := []string{Postgres, CockroachDB, MySQL, Spanner}
	for _, s := range []struct {
		flag string
		set  bool
		// readBy are the kinds that read it.
		readBy []string
		// needed is what the flag has to give those kinds, or empty.
		needed string
	}{
		{"--data-dir", c.Dir != "", []string{Embedded}, "the directory that it keeps everything in (to try Deputy out, run: deputy serve --dev)"},
		{"--cache-mib", c.CacheBytes != 0, []string{Embedded}, ""},
		{"--datastore-conn-uri", c.URI != "", sql, "the database's connection string"},
		{"--datastore-conn-pool-read-max-open", c.ReadConns != 0, sql[:3], ""},
		{"--datastore-conn-pool-write-max-open", c.WriteConns != 0, sql[:3], ""},
		{"--remote-endpoint", c.Endpoint != "", []string{Remote}, "the host and port of your SpiceDB"},
		{"--remote-preshared-key", c.PresharedKey != "", []string{Remote}, "the preshared key of your SpiceDB"},
		{"--remote-insecure", c.Insecure, []string{Remote}, ""},
		{"--remote-trust-schema", c.TrustSchema, []string{Remote}, ""},
		{"--remote-ca", c.CAPath != "", []string{Remote}, ""},
		{"--clock-offset", c.ClockOffset != 0, []string{CockroachDB, Remote}, ""},
	} {
		switch reads := slices.Contains(s.readBy, c.Kind); {
		case s.set && !reads:
			return fmt.Errorf("engine %s does not read %s, which is for %s: leave it out, or choose another --engine",
				c.Kind, s.flag, strings.Join(s.readBy, ", "))
		case !s.set && reads && s.needed != "":
			return fmt.Errorf("engine %s needs %s, %s", c.Kind, s.flag, s.needed)
		}
	}
	if c.Kind == Remote {
		if err := c.checkEndpoint(); err != nil {
			return err
		}
	}
	if c.Insecure && c.CAPath != "" {
		return errors.New("--remote-insecure and --remote-ca exclude each other: without TLS no certificate is verified")
	}
	return nil
}
