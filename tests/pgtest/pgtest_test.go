//go:build unix

package pgtest

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
)

func TestMain(m *testing.M) { Main(m) }

// query returns the one text that a statement yields.
func query(t *testing.T, uri, statement string) string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), uri)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	var text string
	if err := conn.QueryRow(t.Context(), statement).Scan(&text); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
	return text
}

func TestDatabaseIsRealAndSetUpForSpiceDB(t *testing.T) {
	uri := Database(t)
	if got := query(t, uri, "SHOW track_commit_timestamp"); got != "on" {
		t.Errorf("track_commit_timestamp is %q: SpiceDB's Watch needs it on", got)
	}
	if got := query(t, uri, "SHOW listen_addresses"); got != "" {
		t.Errorf("the cluster listens on %q: only its socket should be open", got)
	}
}

func TestDatabasesAreSeparate(t *testing.T) {
	one, two := Database(t), Database(t)
	if one == two {
		t.Fatalf("two calls returned %s", one)
	}
	conn, err := pgx.Connect(t.Context(), one)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if _, err := conn.Exec(t.Context(), "CREATE TABLE here ()"); err != nil {
		t.Fatal(err)
	}
	const count = "SELECT count(*)::text FROM pg_tables WHERE tablename = 'here'"
	if query(t, one, count) != "1" || query(t, two, count) != "0" {
		t.Error("a table made in one database should be in that one only")
	}
}

// A test that fails half-way leaves connections open; the next one must not notice.
func TestDatabaseIsDroppedThoughConnected(t *testing.T) {
	var uri string
	t.Run("leaves a connection", func(t *testing.T) {
		uri = Database(t)
		conn, err := pgx.Connect(t.Context(), uri)
		if err != nil {
			t.Fatal(err)
		}
		_ = conn // Left open on purpose.
	})
	if uri == "" {
		Skip(t, errNoServer.Error())
	}
	if _, err := pgx.Connect(t.Context(), uri); err == nil || !strings.Contains(err.Error(), "does not exist") {
		t.Errorf("connecting after the test ended: %v, want that the database does not exist", err)
	}
}

// Without Main the last test that used the cluster stops it, and nothing stays on the disk.
func TestClusterEndsWithItsLastUser(t *testing.T) {
	var h holder
	var c *cluster
	t.Run("user", func(t *testing.T) {
		_, err := h.database(t, nil)
		if errors.Is(err, errNoServer) {
			Skip(t, err.Error())
		}
		if err != nil {
			t.Fatal(err)
		}
		c = h.running
	})
	if c == nil {
		Skip(t, errNoServer.Error())
	}
	<-c.exited
	if _, err := os.Stat(c.dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the cluster's directory is still there: %v", err)
	}
	if h.running != nil {
		t.Error("the holder still names the stopped cluster")
	}
}

// program writes an executable file that does nothing.
func program(t *testing.T, path string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"), mode); err != nil {
		t.Fatal(err)
	}
}

func TestServerBinaries(t *testing.T) {
	dir := t.TempDir()
	pattern := filepath.Join(dir, "lib", "*", "bin")
	find := func(path string) string {
		t.Helper()
		found, err := serverBinaries(path, pattern)
		if err != nil && !errors.Is(err, errNoServer) {
			t.Fatal(err)
		}
		return strings.TrimPrefix(found, dir+"/")
	}
	if got := find(""); got != "" {
		t.Errorf("nothing installed: found %q", got)
	}
	for _, version := range []string{"9", "15", "17"} {
		program(t, filepath.Join(dir, "lib", version, "bin", "initdb"), 0o755)
	}
	if got := find(""); got != "" {
		t.Errorf("only initdb installed: found %q", got)
	}
	program(t, filepath.Join(dir, "lib", "9", "bin", "postgres"), 0o755)
	program(t, filepath.Join(dir, "lib", "15", "bin", "postgres"), 0o755)
	program(t, filepath.Join(dir, "lib", "17", "bin", "postgres"), 0o644) // Not executable.
	if got := find(""); got != "lib/15/bin" {
		t.Errorf("15 is the highest complete version: found %q", got)
	}
	if err := os.MkdirAll(filepath.Join(dir, "links"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(dir, "lib", "9", "bin", "initdb"), filepath.Join(dir, "links", "initdb")); err != nil {
		t.Fatal(err)
	}
	if got := find(filepath.Join(dir, "links")); got != "lib/9/bin" {
		t.Errorf("PATH goes first, through a link: found %q", got)
	}
}

func TestCockroachBinaryIsNeverDownloaded(t *testing.T) {
	empty := t.TempDir()
	t.Setenv("PATH", empty)
	t.Setenv(CockroachBinary, "")
	if _, err := startCockroach(); !errors.Is(err, errNoCockroach) {
		t.Errorf("without a binary: %v, want errNoCockroach", err)
	}
	t.Setenv(CockroachBinary, filepath.Join(empty, "cockroach"))
	if _, err := startCockroach(); err == nil || errors.Is(err, errNoCockroach) {
		t.Errorf("a binary that is named and missing: %v, want an error that is no skip", err)
	}
}

func TestCockroach(t *testing.T) {
	if got := query(t, Cockroach(t), "SELECT version()"); !strings.Contains(got, "CockroachDB") {
		t.Errorf("version is %q", got)
	}
}

func TestSkipsAreSaid(t *testing.T) {
	file := filepath.Join(t.TempDir(), "not-run")
	var s skips
	for _, test := range []string{"TestA", "TestB"} {
		if err := s.add(test, "no database", file); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.add("TestC", "no other", file); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	s.print(&out)
	want := "pgtest: 2 of this package's tests did not run: no database\n\tTestA\n\tTestB\n" +
		"pgtest: 1 of this package's tests did not run: no other\n\tTestC\n"
	if out.String() != want {
		t.Errorf("printed %q, want %q", out.String(), want)
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	const path = "github.com/deputyauth/deputy/tests/pgtest\t"
	if want := path + "TestA\tno database\n" + path + "TestB\tno database\n" + path + "TestC\tno other\n"; string(got) != want {
		t.Errorf("the file holds %q, want %q", got, want)
	}
}

// Main's work, seen from outside: a run without any server says so at its end and still passes.
func TestRunWithoutAServerSaysSo(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "not-run")
	cmd := exec.Command(self, "-test.run=^TestCockroach$")
	cmd.Env = []string{"PATH=" + t.TempDir(), NotRunFile + "=" + file}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if !strings.Contains(string(out), errNoCockroach.Error()+"\n\tTestCockroach\n") {
		t.Errorf("the run does not say that TestCockroach did not run:\n%s", out)
	}
	if noted, err := os.ReadFile(file); err != nil || !strings.Contains(string(noted), "TestCockroach\t") {
		t.Errorf("the file holds %q (%v)", noted, err)
	}
}

// TestPreparedDatabase: each copy has what the prepared database was filled with, which happens once, and what no other copy may have.
func TestPreparedDatabase(t *testing.T) {
	t.Parallel()
	filled := 0
	as := &Prepared{
		Fill: func(uri string) error {
			filled++
			conn, err := pgx.Connect(t.Context(), uri)
			if err != nil {
				return err
			}
			_, err = conn.Exec(t.Context(), "CREATE TABLE a AS SELECT 'same' AS shared, 'same' AS own")
			return errors.Join(err, conn.Close(t.Context()))
		},
		Differs: "UPDATE a SET own = gen_random_uuid()",
	}
	shared, own := map[string]bool{}, map[string]bool{}
	for range 3 {
		uri := PreparedDatabase(t, as)
		shared[query(t, uri, "SELECT shared FROM a")] = true
		own[query(t, uri, "SELECT own FROM a")] = true
	}
	if filled != 1 || len(shared) != 1 || !shared["same"] || len(own) != 3 {
		t.Errorf("it was filled %d times, and the copies have %v and %v", filled, shared, own)
	}
}
