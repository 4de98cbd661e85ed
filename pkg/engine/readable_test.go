package engine

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/deputyauth/deputy/tests/pgtest"
)

// notMigrated is what SpiceDB says of a database that is not migrated.
const notMigrated = `datastore is not migrated: currently at revision "". Please run "spicedb datastore migrate".`

// hiding is an error that does not say what its cause says.
type hiding struct{ cause error }

func (hiding) Error() string { return "cannot connect" }

func (h hiding) Unwrap() error { return h.cause }

// TestDatabaseNamesItsSettings: what a database says is told with the settings of this program, and the command as it is to be run.
func TestDatabaseNamesItsSettings(t *testing.T) {
	t.Parallel()
	refused := func(code, says string) error {
		return fmt.Errorf("failed to connect: %w", &pgconn.PgError{Severity: "FATAL", Code: code, Message: says})
	}
	for name, c := range map[string]struct {
		err  error
		says []string
	}{
		"no connection is left": {
			refused("53300", "remaining connection slots are reserved"),
			[]string{"remaining connection slots", "lower --datastore-conn-pool-read-max-open and --datastore-conn-pool-write-max-open", "max_connections"},
		},
		"a wrong password": {refused("28P01", "password authentication failed"), []string{"password authentication failed", "--datastore-conn-uri"}},
		"no such database": {refused("3D000", `database "deputy" does not exist`), []string{"does not exist", "--datastore-conn-uri"}},
		"another text, which does not say the code": {
			hiding{refused("53300", "remaining connection slots are reserved")}, []string{"cannot connect: lower --datastore-conn-pool-read-max-open"},
		},
		"a text that says the code": {
			errors.New("unable to connect: FATAL: sorry (SQLSTATE 53300)"), []string{"--datastore-conn-pool-read-max-open"},
		},
		"not migrated": {
			errors.New(notMigrated),
			[]string{`Please run "deputy migrate --engine postgres --datastore-conn-uri `},
		},
		"a secret": {errors.New("cannot use postgres://u:hunter2@db/d"), []string{"cannot use [connection string]"}},
	} {
		said := Config{Kind: Postgres}.readable(c.err, "postgres://u:hunter2@db/d").Error()
		for _, part := range c.says {
			if !strings.Contains(said, part) {
				t.Errorf("%s: it says %q, without %q", name, said, part)
			}
		}
	}
	if said := (Config{Kind: Postgres}).readable(refused("57P03", "the database system is starting up"), "").Error(); strings.Contains(said, "--") {
		t.Errorf("a database that starts lies in a setting: %q", said)
	}
}

// TestMigrateAtStandby: a migration says of a standby what a server says of it.
func TestMigrateAtStandby(t *testing.T) {
	t.Parallel()
	cluster := pgtest.NewCluster(t)
	cluster.Create(t, "deputy")
	standby := cluster.Standby(t)
	standby.CatchUp(t, cluster)
	const says = "is a primary that takes writes"
	at := Config{Kind: Postgres, URI: standby.URI("deputy")}
	if err := Migrate(t.Context(), at, "head"); err == nil || !strings.Contains(err.Error(), says) {
		t.Errorf("migrating at a standby: %v", err)
	}
	if _, err := MigratedTo(t.Context(), at); err == nil || !strings.Contains(err.Error(), says) {
		t.Errorf("the revision at a standby: %v", err)
	}
	if _, err := Repair(t.Context(), at, nil); err == nil || !strings.Contains(err.Error(), says) {
		t.Errorf("repairing at a standby: %v", err)
	}
}
