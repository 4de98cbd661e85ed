package store

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"strconv"
	"strings"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/uuid"
)

// A store's directory has a file DEPUTY, which is read before anything else is touched:
//
//	deputy store
//	format 1
//	id 0f6f1e3c-…-…
//	state new | ready
//	reached 1764030000000000000
//	sum 1c291ca3
//
// The format says how everything else in the directory is to be read. The id is the store's own; a restored
// store has another one. A store is new until its database was created: a ready store whose database is
// missing is damaged, and no empty one is made in its place. What it reached is a revision that is on the disk,
// see history.go. The sum is the CRC-32C of the lines above it.
const (
	formatFile = "DEPUTY"
	// Format is the number of the format that this version writes and reads.
	Format = 1
)

// pebbleFormat is the format of Pebble's files that format 1 means.
const pebbleFormat = pebble.FormatTableFormatV6

// description is what the file says.
type description struct {
	format int
	id     string
	state  string
	// reached is a revision that was synced; later ones may have been.
	reached Revision
}

const (
	stateNew   = "new"
	stateReady = "ready"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func (d description) text() string {
	body := fmt.Sprintf("deputy store\nformat %d\nid %s\nstate %s\nreached %d\n", d.format, d.id, d.state, uint64(d.reached))
	return fmt.Sprintf("%ssum %08x\n", body, crc32.Checksum([]byte(body), castagnoli))
}

// parseDescription reads the file. Of a newer format it understands the number alone.
func parseDescription(text string) (description, error) {
	unreadable := fmt.Errorf("%w: its file %s is not readable; restore a backup into an empty directory", ErrDamaged, formatFile)
	rest, ok := strings.CutPrefix(text, "deputy store\nformat ")
	if !ok {
		return description{}, unreadable
	}
	number, _, _ := strings.Cut(rest, "\n")
	format, err := strconv.Atoi(number)
	if err != nil {
		return description{}, unreadable
	}
	if format > Format {
		return description{}, fmt.Errorf(
			"it has format %d, and this version reads formats up to %d; use the version of Deputy that wrote it, or a newer one", format, Format)
	}
	var d description
	_, err = fmt.Sscanf(text, "deputy store\nformat %d\nid %s\nstate %s\nreached %d\n", &d.format, &d.id, &d.state, &d.reached)
	if err != nil || d.text() != text || d.state != stateNew && d.state != stateReady {
		return description{}, unreadable
	}
	return d, nil
}

// readDescription returns what a directory says that it is; found is false if it is empty or missing.
func readDescription(fs vfs.FS, dir string) (d description, found bool, err error) {
	names, err := fs.List(dir)
	if isNotExist(err) {
		return description{}, false, nil
	}
	if err != nil {
		return description{}, false, err
	}
	ours, others := false, ""
	for _, name := range names {
		switch name {
		case formatFile:
			ours = true
		case formatFile + ".tmp", "LOCK", "lost+found":
		default:
			others = name
		}
	}
	if !ours {
		if others != "" {
			return description{}, false, fmt.Errorf(
				"it holds other files (%s) and no store; name an empty directory, or one that does not exist", others)
		}
		return description{}, false, nil
	}
	file, err := fs.Open(fs.PathJoin(dir, formatFile))
	if err != nil {
		return description{}, false, err
	}
	text, err := io.ReadAll(io.LimitReader(file, 4096))
	if closed := file.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return description{}, false, err
	}
	d, err = parseDescription(string(text))
	return d, true, err
}

// writeDescription writes the file, all of it or nothing.
func writeDescription(fs vfs.FS, dir string, d description) error {
	path := fs.PathJoin(dir, formatFile)
	if err := writeFile(fs, path+".tmp", d.text()); err != nil {
		return err
	}
	if err := fs.Rename(path+".tmp", path); err != nil {
		return err
	}
	return syncDir(fs, dir)
}

// makeDir makes a directory, with those that it lies in, so that a crash does not take it away again with
// all that was synced in it.
func makeDir(fs vfs.FS, dir string) error {
	parent := fs.PathDir(dir)
	switch _, err := fs.Stat(dir); {
	case err == nil:
		// The program that made it may not have synced that. If it cannot be done here either, so be it: a directory
		// that is there is as good as its owner has made it.
		_ = syncDir(fs, parent)
		return nil
	case !isNotExist(err):
		return err
	}
	if err := makeDir(fs, parent); err != nil {
		return err
	}
	if err := fs.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := syncDir(fs, parent); err != nil {
		// The next try has to make it again.
		return errors.Join(err, fs.Remove(dir))
	}
	return nil
}

// writeFile writes and syncs a file.
func writeFile(fs vfs.FS, path, text string) (err error) {
	file, err := fs.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	defer func() {
		if closed := file.Close(); err == nil {
			err = closed
		}
	}()
	if _, err := file.Write([]byte(text)); err != nil {
		return err
	}
	return file.Sync()
}

func syncDir(fs vfs.FS, dir string) error {
	d, err := fs.OpenDir(dir)
	if err != nil {
		return err
	}
	if err := d.Sync(); err != nil {
		_ = d.Close()
		return err
	}
	return d.Close()
}

func newDescription() description {
	return description{format: Format, id: uuid.NewString(), state: stateNew}
}
