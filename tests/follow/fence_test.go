package follow_test

import (
	"net/url"
	"os"
	"path/filepath"
	"testing"

	"github.com/deputyauth/deputy/pkg/engine"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/tests/harness"
	"github.com/deputyauth/deputy/tests/pgtest"
)

// TestOldPrimaryRunsOn promotes a replica and moves the address to it, while the primary that it replaces runs on, and connections that were made to
// it before stay there. Once a server has found out that the database has another history, nothing that is read or written through it is the old
// primary's.
func TestOldPrimaryRunsOn(t *testing.T) {
	t.Parallel()
	old := primaryWith(t)
	replica := old.Standby(t)
	// The address is a directory with a socket: a link that is moved.
	address := filepath.Join(t.TempDir(), "db")
	uri := func(c *pgtest.Cluster) *url.URL {
		u, err := url.Parse(pgtest.URI("deputy", c))
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	lead := func(to *pgtest.Cluster) {
		next := address + ".next"
		if err := os.Symlink(uri(to).Query().Get("host"), next); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(next, address); err != nil {
			t.Fatal(err)
		}
	}
	lead(old)
	at := uri(old)
	q := at.Query()
	q.Set("host", address)
	at.RawQuery = q.Encode()
	n := surviving(t, engine.Config{Kind: engine.Postgres, URI: at.String()}, nil)
	check := n.furnish(t)
	n.Touch(t, grants("kept")...)
	replica.CatchUp(t, old)
	replica.Promote(t)
	lead(replica)
	// The connections that the database is followed over break, as on a lossy network; those of SpiceDB's pools do not.
	eventually(t, "the server has found out", func() bool {
		old.Exec(t, "deputy", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%pg_control_system%' AND pid <> pg_backend_pid()")
		return n.figure(t, "deputy_follow_loads_total") == 2 && n.figure(t, "deputy_follow_serves") == 1
	})
	n.wants(t, of(check, "kept"), has)
	eventually(t, "the server writes", func() bool {
		_, err := n.Principals().Resume(t.Context(), resumed("user:dave"))
		return err == nil
	})
	n.Touch(t, grants("written")...)
	n.wants(t, of(check, "written"), has)
	const count = "SELECT count(*)::text FROM relation_tuple WHERE object_id = 'written' OR object_id = 'dave'"
	if got := old.Query(t, "deputy", count); got != "0" {
		t.Errorf("%s relationships were written to the primary that was replaced", got)
	}
	if got := replica.Query(t, "deputy", count); got != "4" {
		t.Errorf("%s relationships were written to the primary, want 4", got)
	}
	// Nor does any connection of the server's stay.
	eventually(t, "no connection leads to the primary that was replaced", func() bool {
		return old.Query(t, "deputy", "SELECT count(*)::text FROM pg_stat_activity WHERE datname = 'deputy' AND pid <> pg_backend_pid()") == "0"
	})
}

func resumed(principal string) *deputyv1.ResumeRequest {
	return &deputyv1.ResumeRequest{Principal: harness.Ref(principal)}
}
