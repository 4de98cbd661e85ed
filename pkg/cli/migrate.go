package cli

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/deputyauth/deputy/pkg/engine"
)

// newMigrate builds `deputy migrate`. It takes the flags of serve that are about the engine, and reads the
// same configuration file, so that an operator writes the connection string once.
func newMigrate(p *program) *cobra.Command {
	settings := &serverSettings{}
	var output string
	cmd := &cobra.Command{
		Use:   "migrate [REVISION]",
		Short: "Bring the database of an engine to SpiceDB's schema",
		Long: `Bring the database of an engine to a revision of SpiceDB's own tables: to the newest one ("head") if
none is named. Run it before the first start and after each upgrade. A database that is up to date
stays as it is. The engines without a database of their own have nothing to migrate.`,
		Example: `  deputy migrate --engine postgres --datastore-conn-uri postgres://deputy@db/deputy`,
		GroupID: groupServer,
		Args:    cobra.MaximumNArgs(1),
	}
	settings.registerEngine(cmd.Flags())
	settings.registerConfig(cmd)
	outputVar(cmd.Flags(), &output, "json")
	cmd.AddCommand(newRepair(p))
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
		kind := settings.config.Engine.Kind
		return say(p.Out, output, map[string]string{"engine": kind, "revision": at}, kind+" is at revision "+at)
	}
	return cmd
}

// tellEvery is how often a repair that takes long says how far it is.
const tellEvery = 5 * time.Second

// newRepair builds `deputy migrate repair`.
func newRepair(p *program) *cobra.Command {
	settings := &serverSettings{}
	var output string
	cmd := &cobra.Command{
		Use:   "repair",
		Short: "Advance a PostgreSQL cluster's counter beyond a restored dump",
		Long: `Advance the transaction counter of a PostgreSQL cluster beyond the transactions that the database holds.
A database that was restored from a dump (pg_dump, or a logical copy) into another cluster needs it
where that cluster's counter is lower: what was revoked would be in force again, so no server starts
over it. Stop every server over the database first. It spends one transaction id for each that is
missing, can be interrupted and run again, and changes no row. Where nothing is missing it does nothing.`,
		Example: `  deputy migrate repair --engine postgres --datastore-conn-uri postgres://deputy@db/deputy`,
		Args:    cobra.NoArgs,
	}
	settings.registerEngine(cmd.Flags())
	settings.registerConfig(cmd)
	outputVar(cmd.Flags(), &output, "json")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := settings.readConfig(cmd.Flags()); err != nil {
			return err
		}
		told := time.Now()
		spent, err := engine.Repair(cmd.Context(), settings.config.Engine, func(spent, of uint64) {
			if time.Since(told) >= tellEvery {
				told = time.Now()
				_, _ = fmt.Fprintf(p.Err, "%d of %d transaction ids\n", spent, of)
			}
		})
		if err != nil {
			return err
		}
		text := fmt.Sprintf("the transaction counter was advanced by %d", spent)
		if spent == 0 {
			text = "the transaction counter is beyond what the database holds; nothing to repair"
		}
		return say(p.Out, output, map[string]uint64{"transactionIds": spent}, text)
	}
	return cmd
}
