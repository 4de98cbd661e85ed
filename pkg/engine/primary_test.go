package engine

import (
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/deputyauth/deputy/tests/pgtest"
)

// TestWatchFindsAStandby: behind a pooler the server at the other end of a connection can become another one. The watch
// asks what it is; a look that is not answered changes nothing.
func TestWatchFindsAStandby(t *testing.T) {
	cluster := pgtest.NewCluster(t)
	cfg := Config{Kind: Postgres, URI: cluster.Create(t, "deputy")}
	if err := Migrate(t.Context(), cfg, "head"); err != nil {
		t.Fatal(err)
	}
	standby := cluster.Standby(t)
	uri, err := cfg.connection()
	if err != nil {
		t.Fatal(err)
	}
	p := &primary{uri: uri}
	if p.lookOver(t.Context(), nil) == nil {
		t.Fatal("the primary does not answer")
	}
	if _, err := p.fit(); err != nil {
		t.Fatalf("the primary is not fit: %v", err)
	}
	conn, err := pgx.Connect(t.Context(), standby.URI("deputy"))
	if err != nil {
		t.Fatal(err)
	}
	if conn = p.lookOver(t.Context(), conn); conn == nil {
		t.Fatal("the standby does not answer")
	}
	if _, err := p.fit(); err == nil || !strings.Contains(err.Error(), "standby") {
		t.Errorf("over a standby: %v, want that it is one", err)
	}
	standby.Stop(t)
	if conn = p.lookOver(t.Context(), conn); conn != nil {
		t.Error("a server that is gone answers")
	}
	if _, err := p.fit(); err == nil {
		t.Error("a look that was not answered found that all is well")
	}
	if p.lookOver(t.Context(), nil) == nil {
		t.Fatal("the primary does not answer")
	}
	if _, err := p.fit(); err != nil {
		t.Errorf("the primary is not fit again: %v", err)
	}
}
