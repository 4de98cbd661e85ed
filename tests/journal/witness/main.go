// The command witness makes the database of a litewitness that knows one log: witness DATABASE ORIGIN KEY. litewitness's own tool for it needs
// modules that its witness does not.
package main

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"os"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"
)

func main() {
	if err := run(os.Args[1], os.Args[2], os.Args[3]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// run makes the tables as litewitness does, and a log of which nothing was seen.
func run(path, origin, key string) error {
	db, err := sqlite.OpenConn(path)
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }() // every statement is committed by itself
	if err := sqlitex.ExecScript(db, `
		CREATE TABLE log (origin TEXT PRIMARY KEY, tree_size INTEGER NOT NULL, tree_hash TEXT NOT NULL);
		CREATE TABLE key (origin TEXT NOT NULL, key TEXT NOT NULL, FOREIGN KEY(origin) REFERENCES log(origin));
	`); err != nil {
		return err
	}
	empty := sha256.Sum256(nil)
	if err := sqlitex.Execute(db, "INSERT INTO log VALUES (?, 0, ?)",
		&sqlitex.ExecOptions{Args: []any{origin, base64.StdEncoding.EncodeToString(empty[:])}}); err != nil {
		return err
	}
	return sqlitex.Execute(db, "INSERT INTO key VALUES (?, ?)", &sqlitex.ExecOptions{Args: []any{origin, key}})
}
