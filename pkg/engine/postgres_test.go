package engine

import (
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
)

// TestConnectionIsToAPrimary: whatever form a connection string has, pgx takes a primary alone, and what asks for
// another one is refused by name.
func TestConnectionIsToAPrimary(t *testing.T) {
	for _, test := range []struct{ uri, want, refused string }{
		{"postgres://u:p@h/db", "postgres://u:p@h/db?target_session_attrs=read-write", ""},
		{"postgresql://u:p@h/db?sslmode=disable", "postgresql://u:p@h/db?sslmode=disable&target_session_attrs=read-write", ""},
		{"postgres://u:p@h1:5432,h2:5433/db", "postgres://u:p@h1:5432,h2:5433/db?target_session_attrs=read-write", ""},
		{"postgres:///db?host=/a,/b", "postgres:///db?host=/a,/b&target_session_attrs=read-write", ""},
		{"postgres://u:p%3Fq%26r%20s@h/db", "postgres://u:p%3Fq%26r%20s@h/db?target_session_attrs=read-write", ""},
		{"postgres://u:p?q@h/db", "postgres://u:p?q@h/db?target_session_attrs=read-write", ""},
		{"host=h user=u password='a b'", "host=h user=u password='a b' target_session_attrs=read-write", ""},
		{"postgres://h/db?target_session_attrs=read-write", "postgres://h/db?target_session_attrs=read-write", ""},
		{"postgres://h/db?target_session_attrs=primary", "postgres://h/db?target_session_attrs=primary", ""},
		{"host=h target_session_attrs=primary", "host=h target_session_attrs=primary", ""},
		{"postgres://h/db?target_session_attrs=any", "", "must be read-write or primary"},
		{"postgres://h/db?target_session_attrs=standby", "", "must be read-write or primary"},
		{"postgres://h/db?target_session_attrs=prefer-standby", "", "must be read-write or primary"},
		{"host=h target_session_attrs=read-only", "", "must be read-write or primary"},
		{"postgres://u:secret@h/db?pool_max_conns=4", "", "pool_max_conns"},
		{"postgres://h/db?pool_max_conns=4", "", "--datastore-conn-pool-read-max-open"},
		{"host=h pool_min_conns=4", "", "--datastore-conn-pool-write-max-open"},
	} {
		got, err := Config{Kind: Postgres, URI: test.uri}.connection()
		switch {
		case test.refused != "":
			if err == nil || !strings.Contains(err.Error(), test.refused) || strings.Contains(err.Error(), "secret") {
				t.Errorf("%s: %v, want an error with %q", test.uri, err, test.refused)
			}
			continue
		case err != nil || got != test.want:
			t.Errorf("%s becomes %s (%v), want %s", test.uri, got, err, test.want)
			continue
		}
		parsed, err := pgconn.ParseConfig(got)
		if err != nil || parsed.ValidateConnect == nil {
			t.Errorf("%s: pgx takes any server (%v)", got, err)
		}
	}
}

// TestEnvironmentChoosesNoStandby: pgx reads PostgreSQL's own variables too.
func TestEnvironmentChoosesNoStandby(t *testing.T) {
	t.Setenv("PGTARGETSESSIONATTRS", "prefer-standby")
	if uri, err := (Config{Kind: Postgres, URI: "postgres://h/db"}).connection(); err == nil {
		t.Errorf("the variable is overlooked: %s", uri)
	}
	t.Setenv("PGTARGETSESSIONATTRS", "any")
	if uri, err := (Config{Kind: Postgres, URI: "postgres://h/db"}).connection(); err != nil || !strings.HasSuffix(uri, "=read-write") {
		t.Errorf("the connection is %s (%v), want a primary", uri, err)
	}
}

// TestCockroachKeepsItsString: no server of a CockroachDB cluster is a standby. Its pools are SpiceDB's too.
func TestCockroachKeepsItsString(t *testing.T) {
	if uri, err := (Config{Kind: CockroachDB, URI: "postgres://h/db"}).connection(); err != nil || uri != "postgres://h/db" {
		t.Errorf("the connection is %s (%v)", uri, err)
	}
	if _, err := (Config{Kind: CockroachDB, URI: "postgres://h/db?pool_max_conns=4"}).connection(); err == nil {
		t.Error("pool_max_conns is taken, and has no effect")
	}
	if uri, err := (Config{Kind: MySQL, URI: "u:p@tcp(h)/db"}).connection(); err != nil || uri != "u:p@tcp(h)/db" {
		t.Errorf("MySQL's connection is %s (%v)", uri, err)
	}
}

// TestPoolsAreLargeEnough: with fewer connections SpiceDB would wait for itself.
func TestPoolsAreLargeEnough(t *testing.T) {
	for _, test := range []struct {
		read, write int
		refused     string
	}{
		{0, 0, ""}, {MinReadConns, MinWriteConns, ""}, {100, 50, ""},
		{MinReadConns - 1, 0, "--datastore-conn-pool-read-max-open"}, {0, MinWriteConns - 1, "--datastore-conn-pool-write-max-open"},
		{-1, 0, "--datastore-conn-pool-read-max-open"}, {0, 1 << 31, "--datastore-conn-pool-write-max-open"},
	} {
		_, err := Config{Kind: Postgres, ReadConns: test.read, WriteConns: test.write}.pools()
		if (err == nil) != (test.refused == "") || err != nil && !strings.Contains(err.Error(), test.refused) {
			t.Errorf("%d and %d: %v, want %q", test.read, test.write, err, test.refused)
		}
	}
}

// TestConditionComparesWithTheCounter: the next id is one that no row has.
func TestConditionComparesWithTheCounter(t *testing.T) {
	for _, test := range []struct {
		found  condition
		behind uint64
	}{
		{condition{}, 0},
		{condition{next: 730}, 0},
		{condition{next: 731, stored: 730}, 0},
		{condition{next: 730, stored: 730}, 1},
		{condition{next: 730, stored: 1 << 40}, 1<<40 - 729},
	} {
		if got := test.found.behind(); got != test.behind {
			t.Errorf("%+v is behind by %d, want %d", test.found, got, test.behind)
		}
		if unfit := test.found.unfit() != nil; unfit != (test.behind > 0) {
			t.Errorf("%+v is unfit: %t", test.found, unfit)
		}
	}
}
