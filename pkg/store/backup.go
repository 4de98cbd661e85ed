package store

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"time"

	"github.com/authzed/spicedb/pkg/datastore"
)

// A backup is one stream, of everything that is live at one revision:
//
//	"deputy backup\n", then a number of format (a varint), the id of the store, the revision (a varint)
//	blocks: length (a varint, not 0), that many bytes, their CRC-32C (4 bytes)
//	0, how many rows and records there are (a varint), the SHA-256 of all before
//
// A block holds keys without versions and values, encoded as the changelog's changes are. History is not
// part of it: revisions before it, which frozen sessions rest on, cannot be read after a restore.
const (
	backupMagic  = "deputy backup\n"
	backupFormat = 1
)

// backupKinds are the kinds of keys in a backup, in order. What is found from its subject is made anew.
var backupKinds = []byte{kindCaveat, kindForward, kindSchemaHash, kindCounter, kindNamespace, kindSchema}

// maxBlock bounds a block that is read, in bytes: one is chunkSize and one value long.
const maxBlock = 64 << 20

// Summary says what a backup holds.
type Summary struct {
	// Store is the id of the store that it is of.
	Store string
	// Revision is the one revision that it shows.
	Revision Revision
	// Entries is how many relationships, definitions, caveats and counters there are.
	Entries uint64
}

// Backup writes everything at the head revision to w, while the store goes on. Nothing that it reads is
// collected meanwhile. It ends early if ctx does; then what was written is no backup, and Restore says so.
func (s *Store) Backup(ctx context.Context, w io.Writer) (Summary, error) {
	at := s.head.Load().at
	p := pin{at, s.config.Now().Unix()}
	if !s.leases.take(p) {
		return Summary{}, datastore.NewInvalidRevisionErr(at, datastore.RevisionStale)
	}
	defer s.leases.give(p)
	out := &backupWriter{w: bufio.NewWriterSize(w, 64<<10), sum: sha256.New()}
	out.write([]byte(backupMagic))
	out.uint(backupFormat)
	out.write(appendBytes(nil, []byte(s.id)))
	out.uint(uint64(at))
	v := view{store: s, at: at}
	block := &chunks{}
	for _, kind := range backupKinds {
		err := v.walk([]span{under([]byte{kind}, true)}, time.Time{}, func(key []byte, _ Revision, value []byte) error {
			out.entries++
			block.add(key, value)
			for _, full := range block.done {
				out.block(full)
			}
			block.done = block.done[:0]
			return errors.Join(out.err, ctx.Err())
		})
		if err != nil {
			return Summary{}, fmt.Errorf("store: backup: %w", err)
		}
	}
	if len(block.open) > 0 {
		out.block(block.open)
	}
	out.uint(0)
	out.uint(out.entries)
	out.raw(out.sum.Sum(nil))
	if out.err == nil {
		out.err = out.w.Flush()
	}
	if out.err != nil {
		return Summary{}, fmt.Errorf("store: backup: %w", out.err)
	}
	return Summary{Store: s.id, Revision: at, Entries: out.entries}, nil
}

// backupWriter writes a backup's parts; after an error it writes nothing.
type backupWriter struct {
	w       *bufio.Writer
	sum     hash.Hash
	entries uint64
	err     error
}

func (b *backupWriter) raw(p []byte) {
	if b.err == nil {
		_, b.err = b.w.Write(p)
	}
}

func (b *backupWriter) write(p []byte) {
	_, _ = b.sum.Write(p) // never fails
	b.raw(p)
}

func (b *backupWriter) uint(v uint64) { b.write(binary.AppendUvarint(nil, v)) }

func (b *backupWriter) block(p []byte) {
	b.write(appendBytes(nil, p))
	b.write(binary.BigEndian.AppendUint32(nil, crc32.Checksum(p, castagnoli)))
}

// Restore makes a store in a directory that is empty or does not exist, from a backup. The whole backup is
// checked; if anything in it is not as it was written, or it ends early, there is no store afterwards. The
// store gets an id of its own, so that revisions of the one that was backed up cannot name its data.
func Restore(ctx context.Context, r io.Reader, dir string, config Config) (Summary, error) {
	config = config.complete()
	if _, found, err := readDescription(config.FS, dir); err != nil {
		return Summary{}, fmt.Errorf("store: cannot restore into %s: %w", dir, err)
	} else if found {
		return Summary{}, fmt.Errorf("store: cannot restore into %s: it holds a store; name an empty directory", dir)
	}
	// It is made beside its place, and moved there once it is complete.
	making := dir + ".restoring"
	if err := config.FS.RemoveAll(making); err != nil {
		return Summary{}, fmt.Errorf("store: restore: %w", err)
	}
	summary, err := restore(ctx, r, making, config)
	if err == nil {
		err = errors.Join(config.FS.RemoveAll(dir), config.FS.Rename(making, dir))
	}
	if err == nil {
		err = syncDir(config.FS, config.FS.PathDir(dir))
	}
	if err != nil {
		return Summary{}, fmt.Errorf("store: restore: %w", errors.Join(err, config.FS.RemoveAll(making)))
	}
	return summary, nil
}

// restoreBatch is how many rows and records a transaction of a restore writes.
const restoreBatch = 50_000

func restore(ctx context.Context, r io.Reader, dir string, config Config) (_ Summary, err error) {
	in := &backupReader{r: bufio.NewReaderSize(r, 1<<20), sum: sha256.New()}
	summary, err := in.head()
	if err != nil {
		return Summary{}, err
	}
	s, err := Open(dir, config) //nolint:contextcheck // what it starts ends with the store
	if err != nil {
		return Summary{}, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	batch := &writes{byKey: map[string]*write{}, any: true}
	flush := func() error {
		p, err := batch.propose(nil, nil)
		if err != nil {
			return err
		}
		tx, err := s.begin()
		if err != nil {
			return err
		}
		tx.finish()
		batch = &writes{byKey: map[string]*write{}, any: true}
		_, err = s.commit(ctx, tx, p)
		return err
	}
	for {
		block, err := in.block()
		if err != nil {
			return Summary{}, err
		}
		if block == nil {
			break
		}
		if err := readChanges(block, func(c change) error {
			summary.Entries++
			return batch.restored(c)
		}); err != nil {
			return Summary{}, err
		}
		if len(batch.byKey) >= restoreBatch {
			if err := flush(); err != nil {
				return Summary{}, err
			}
		}
	}
	if err := in.tail(summary.Entries); err != nil {
		return Summary{}, err
	}
	return summary, flush()
}

// restored takes over an entry of a backup.
func (w *writes) restored(c change) error {
	if isGone(c.value) || !whole(c.key) || !bytes.Contains(backupKinds, c.key[:1]) {
		return notABackup("an entry that does not belong there")
	}
	if c.key[0] != kindForward {
		w.set(c.key, false, row{}, bytes.Clone(c.value), nil, false)
		return nil
	}
	r, err := parseRow(c.key)
	if err != nil {
		return err
	}
	w.set(c.key, true, r, bytes.Clone(c.value), nil, false)
	return nil
}

// backupReader reads a backup's parts.
type backupReader struct {
	r   *bufio.Reader
	sum hash.Hash
}

func notABackup(found string) error {
	return fmt.Errorf("%w: the backup has %s; take another one", ErrDamaged, found)
}

// ReadByte is io.ByteReader's, for numbers.
func (b *backupReader) ReadByte() (byte, error) {
	c, err := b.r.ReadByte()
	if err == nil {
		_, _ = b.sum.Write([]byte{c}) // never fails
	}
	return c, err
}

func (b *backupReader) uint() (uint64, error) {
	v, err := binary.ReadUvarint(b)
	if err != nil {
		return 0, endsEarly(err)
	}
	return v, nil
}

func (b *backupReader) bytes(n uint64) ([]byte, error) {
	p := make([]byte, n)
	if _, err := io.ReadFull(b.r, p); err != nil {
		return nil, endsEarly(err)
	}
	_, _ = b.sum.Write(p) // never fails
	return p, nil
}

func endsEarly(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return notABackup("no end")
	}
	return err
}

// head reads what comes before the blocks.
func (b *backupReader) head() (Summary, error) {
	magic, err := b.bytes(uint64(len(backupMagic)))
	if err != nil {
		return Summary{}, err
	}
	if string(magic) != backupMagic {
		return Summary{}, errors.New("this is not a backup of a Deputy store")
	}
	format, err := b.uint()
	if err != nil {
		return Summary{}, err
	}
	if format != backupFormat {
		return Summary{}, fmt.Errorf("the backup has format %d, and this version reads format %d; use the version of Deputy that wrote it", format, backupFormat)
	}
	n, err := b.uint()
	if err != nil {
		return Summary{}, err
	}
	if n > 64 {
		return Summary{}, notABackup("a malformed head")
	}
	id, err := b.bytes(n)
	if err != nil {
		return Summary{}, err
	}
	at, err := b.uint()
	return Summary{Store: string(id), Revision: Revision(at)}, err
}

// block reads the next block; nil means that there are no more.
func (b *backupReader) block() ([]byte, error) {
	n, err := b.uint()
	if err != nil || n == 0 {
		return nil, err
	}
	if n > maxBlock {
		return nil, notABackup("a block that is too long")
	}
	p, err := b.bytes(n)
	if err != nil {
		return nil, err
	}
	sum, err := b.bytes(4)
	if err != nil {
		return nil, err
	}
	if binary.BigEndian.Uint32(sum) != crc32.Checksum(p, castagnoli) {
		return nil, notABackup("a block that was changed")
	}
	return p, nil
}

// tail checks what comes after the blocks, and that nothing comes after that.
func (b *backupReader) tail(entries uint64) error {
	n, err := b.uint()
	if err != nil {
		return err
	}
	expected := b.sum.Sum(nil)
	sum, err := b.bytes(sha256.Size)
	switch {
	case err != nil:
		return err
	case n != entries || !bytes.Equal(sum, expected):
		return notABackup("not what was written")
	}
	if _, err := b.r.ReadByte(); !errors.Is(err, io.EOF) {
		return notABackup("something after its end")
	}
	return nil
}
