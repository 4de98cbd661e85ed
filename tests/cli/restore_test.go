//go:build unix

package cli

import (
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/deputyauth/deputy/tests/pgtest"
)

// TestRestoreScript runs the script of a backup with pg_dump. It has two more commands:
//
//	spend     advances the transaction counter of the cluster, as years of work do
//	restore   dumps the database and restores it into a new cluster, whose counter is between what it was before and
//	          after "spend"; $POSTGRES_URI is there from then on
func TestRestoreScript(t *testing.T) {
	cluster := pgtest.NewCluster(t)
	p := params(t, "testdata/restore", map[string]string{"POSTGRES_URI": cluster.Create(t, "deputy")})
	p.Cmds["spend"] = func(*testscript.TestScript, bool, []string) { cluster.SpendTransactions(t, 40_000) }
	p.Cmds["restore"] = func(ts *testscript.TestScript, _ bool, _ []string) {
		restored := pgtest.NewCluster(t)
		restored.SpendTransactions(t, 20_000)
		ts.Setenv("POSTGRES_URI", restored.Restore(t, "deputy", cluster.Dump(t, "deputy")))
	}
	testscript.Run(t, p)
}
