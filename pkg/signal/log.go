package signal

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"iter"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// logFile is the file of a ledger, "signals-1", in which 1 is the version of the format: frames, one after the other. A later frame of a signal
// replaces an earlier one.
//
//	+--------------+---------------------+---------------+
//	| length of    | CRC-32C of length   | an Entry, as  |
//	| the entry, 4 | and entry, 4        | JSON          |
//	+--------------+---------------------+---------------+
//
// Each frame is synced before its signal is answered. A frame that cannot be read at the end is one that a crash tore: it was never answered. One
// that is followed by a whole frame is damage, and the ledger does not open: what is lost could be what keeps a signal from taking effect twice.
type logFile struct {
	fs  vfs.FS
	dir string
	// file is open for appending.
	file vfs.File
	// frames counts those in it, so that it is rewritten once most are replaced.
	frames int
	// failed says that a write or a sync failed.
	failed bool
}

const (
	logName, newName = "signals-1", "signals-1.new"
	frameHead        = 8
	// maxFrame is more than an entry can have.
	maxFrame = 64 << 10
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func (f *logFile) path(name string) string { return f.fs.PathJoin(f.dir, name) }

// read gives all frames to put, in their order.
func (f *logFile) read(put func(*Entry)) error {
	file, err := f.fs.Open(f.path(logName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	text, err := io.ReadAll(file)
	if err = errors.Join(err, file.Close()); err != nil {
		return err
	}
	for at := 0; at < len(text); {
		entry, size := frame(text[at:])
		if entry == nil {
			for later := at + 1; later < len(text); later++ {
				if entry, _ := frame(text[later:]); entry != nil {
					return fmt.Errorf("the file %s is damaged at byte %d, and goes on after that: restore it from a backup, or move it away, "+
						"which forgets what was received", logName, at)
				}
			}
			return nil
		}
		put(entry)
		at += size
	}
	return nil
}

// frame reads the frame at the beginning of a text; nil where there is no whole one.
func frame(text []byte) (e *Entry, size int) {
	if len(text) < frameHead {
		return nil, 0
	}
	length := binary.BigEndian.Uint32(text)
	if length > maxFrame || int(length) > len(text)-frameHead {
		return nil, 0
	}
	size = frameHead + int(length)
	body := text[frameHead:size]
	if checksum(text[:4], body) != binary.BigEndian.Uint32(text[4:]) {
		return nil, 0
	}
	e = &Entry{}
	if json.Unmarshal(body, e) != nil || e.ID == "" { //nolint:musttag // the names of an authz.Object are those of its fields
		return nil, 0
	}
	return e, size
}

func checksum(length, body []byte) uint32 {
	return crc32.Update(crc32.Checksum(length, castagnoli), castagnoli, body)
}

// encode returns an entry's frame.
func encode(e *Entry) ([]byte, error) {
	body, err := json.Marshal(e) //nolint:musttag // as in frame
	if err != nil {
		return nil, err
	}
	if len(body) > maxFrame {
		return nil, fmt.Errorf("it has %d bytes, more than %d", len(body), maxFrame)
	}
	out := make([]byte, frameHead, frameHead+len(body))
	binary.BigEndian.PutUint32(out, uint32(len(body))) //nolint:gosec // bounded
	binary.BigEndian.PutUint32(out[4:], checksum(out[:4], body))
	return append(out, body...), nil
}

// append writes an entry, and syncs it.
func (f *logFile) append(e *Entry) error {
	text, err := encode(e)
	if err != nil {
		return err
	}
	if _, err = f.file.Write(text); err == nil {
		err = f.file.Sync()
	}
	if err != nil {
		f.failed = true
		return err
	}
	f.frames++
	return nil
}

// rewrite writes all entries into a new file, puts it in the place of the old one, and goes on with it. Where it fails the old file is as it was.
func (f *logFile) rewrite(all iter.Seq[*Entry]) (err error) {
	file, err := f.fs.Create(f.path(newName), vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	frames := 0
	var pending []byte
	for e := range all {
		text, err := encode(e)
		if err != nil {
			return errors.Join(err, file.Close())
		}
		frames++
		if pending = append(pending, text...); len(pending) < maxFrame {
			continue
		}
		if _, err := file.Write(pending); err != nil {
			return errors.Join(err, file.Close())
		}
		pending = pending[:0]
	}
	if _, err := file.Write(pending); err != nil {
		return errors.Join(err, file.Close())
	}
	if err := file.Sync(); err != nil {
		return errors.Join(err, file.Close())
	}
	if err := f.fs.Rename(f.path(newName), f.path(logName)); err != nil {
		return errors.Join(err, file.Close())
	}
	// From here on the name is the new file's, whether the directory is synced or not: the old one is written to no more.
	was := f.file
	f.file, f.frames, f.failed = file, frames, true
	if was != nil {
		_ = was.Close() // all of it was synced, or replaced
	}
	if err := syncDir(f.fs, f.dir); err != nil {
		return err
	}
	f.failed = false
	return nil
}

func syncDir(fs vfs.FS, name string) error {
	dir, err := fs.OpenDir(name)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

func (f *logFile) close() error {
	if f.file == nil {
		return nil
	}
	return f.file.Close()
}
