package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/deputyauth/deputy/pkg/engine"
)

// newMigrate builds `deputy migrate`. It takes the flags of serve that are about the engine, and reads the
// same configuration file, so that an operator writes the connection string once.
func newMigrate(p *program) *cobra.Command {
	settings := &serverSettings{}
	cmd := &cobra.Command{
		Use:   "migrate [REVISION]",
		Short: "Bring the database of an engine to SpiceDB's schema",
		Long: `Bring the database of an engine to a revision of SpiceDB's own tables: to the newest one ("head") if
none is named. Run it before the first start and after each upgrade. What is up to date stays as it
is. The engines without a database of their own have nothing to migrate.`,
		Example: `  deputy migrate --engine postgres --datastore-conn-uri postgres://deputy@db/deputy`,
		GroupID: groupServer,
		Args:    cobra.MaximumNArgs(1),
	}
	settings.registerEngine(cmd.Flags())
	settings.registerConfig(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := settings.readConfig(cmd.Flags()); err != nil {
			return err
		}
		revision := "head"
		if len(args) == 1 {
			revision = args[0]
		}
		if err := engine.Migrate(cmd.Context(), settings.config.Engine, revision); err != nil {
			return err
		}
		at, err := engine.MigratedTo(cmd.Context(), settings.config.Engine)
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintf(p.Out, "%s is at revision %s\n", settings.config.Engine.Kind, at); err != nil {
			return fmt.Errorf("writing: %w", err)
		}
		return nil
	}
	return cmd
}
