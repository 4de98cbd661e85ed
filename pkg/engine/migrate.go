package engine

import (
	"context"
	"fmt"
	"time"

	// Linking the drivers makes them migratable.
	_ "github.com/authzed/spicedb/pkg/cmd/datastore"
	"github.com/authzed/spicedb/pkg/datastore/migration"
)

// Limits of a migration. SpiceDB's own command has the same.
const (
	migrationTimeout   = time.Hour
	migrationBatchSize = 1000
)

// Migrate brings the engine's database to a revision of SpiceDB's tables; "head" is the newest. It
// does nothing where the database is there already. Not to be called twice at the same time for one
// database.
func Migrate(ctx context.Context, cfg Config, revision string) error {
	c, err := migrationConfig(cfg)
	if err != nil {
		return err
	}
	if revision == "" {
		return fmt.Errorf("revision is empty; the newest is %q", "head")
	}
	if err := migration.Run(ctx, c, revision); err != nil {
		return migrationFailure("migrate", cfg, err)
	}
	return nil
}

// migrationFailure says why a migration failed, and which settings that may lie in.
func migrationFailure(what string, cfg Config, err error) error {
	switch see := databaseSettings(err); {
	case cfg.Kind == Postgres && isNoPrimary(err):
		return fmt.Errorf("%s %s: %w", what, cfg.Kind, errNoPrimary)
	case see != "":
		return fmt.Errorf("%s %s: %w: %s", what, cfg.Kind, err, see)
	default:
		return fmt.Errorf("%s %s: %w", what, cfg.Kind, err)
	}
}

// MigratedTo returns the revision of SpiceDB's tables that the engine's database is at.
func MigratedTo(ctx context.Context, cfg Config) (string, error) {
	c, err := migrationConfig(cfg)
	if err != nil {
		return "", err
	}
	revision, err := migration.Version(ctx, c)
	if err != nil {
		return "", migrationFailure("migration revision of", cfg, err)
	}
	return revision, nil
}

// migrationConfig says the same in SpiceDB's words, and refuses engines without a database that Deputy
// could migrate.
func migrationConfig(cfg Config) (*migration.Config, error) {
	switch cfg.Kind {
	case Postgres, CockroachDB, MySQL, Spanner:
	case Remote:
		return nil, fmt.Errorf("engine %s: its SpiceDB migrates its own database (spicedb datastore migrate)", Remote)
	case Memory:
		return nil, fmt.Errorf("engine %s keeps nothing, so there is nothing to migrate", Memory)
	case Embedded, "":
		return nil, fmt.Errorf("engine %s makes its store itself, so there is nothing to migrate; name another engine with --engine, and its database "+
			"with --datastore-conn-uri", Embedded)
	}
	if err := cfg.Check(); err != nil {
		return nil, err
	}
	uri, err := cfg.connection()
	if err != nil {
		return nil, err
	}
	return &migration.Config{
		DatastoreEngine: cfg.Kind,
		DatastoreURI:    uri,
		Timeout:         migrationTimeout,
		BatchSize:       migrationBatchSize,
	}, nil
}
