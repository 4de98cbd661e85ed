package persons

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

const (
	// FileName is the file of keys in the key directory.
	FileName = "persons.keys"
	lockName = "persons.lock"
	// DefaultMax is how many persons there may be unless more are asked for: 512 MB on disk, 200 MB in memory.
	DefaultMax = 4 << 20
	// refreshEvery is how often a reader looks for keys that were made since.
	refreshEvery = time.Second
	// tries is how often a slot is read that another process may be about to overwrite.
	tries = 3
	// chunk is how much is read at once where all slots are.
	chunk = 1024 * slotSize
)

// Config is what keys need; Dir and Secret are required.
type Config struct {
	// Dir is the key directory; it is there.
	Dir string
	// FS is where it lies; nil means the operating system's.
	FS vfs.FS
	// Secret is the journal's, of secret.key: at least 32 bytes.
	Secret []byte
	// ReadOnly opens keys and makes none, beside the server that does.
	ReadOnly bool
	// Max is how many persons there may be; 0 means DefaultMax.
	Max int
}

// Keys are the keys of all persons. They are safe for concurrent use.
type Keys struct {
	*crypto
	cfg  Config
	lock io.Closer
	// closed closes it.
	closed func() error
	// file is nil where there are no keys, and none can be made.
	file vfs.File
	// damaged is how many slots could not be read when the file was opened.
	damaged int

	// making is held by the goroutine that fills slots, or looks for filled ones. It guards what follows.
	making sync.Mutex
	// free are slots that are zero, and slots how many the file has, the header included.
	free  []uint32
	slots uint32
	// spoilt are slots that were written to and perhaps not made durable: nobody uses what is in them.
	spoilt []uint32
	// refreshed is when a reader looked for keys last.
	refreshed time.Time

	mu    sync.RWMutex
	table map[Tag]uint32
	// failing is why a key could not be read or made, since the disk did so last.
	failing error
}

// Open opens the keys of a key directory; the file is made if it is not there. One process has them open at a time, besides readers.
func Open(cfg Config) (k *Keys, err error) {
	if cfg.FS == nil {
		cfg.FS = vfs.Default
	}
	if cfg.Max == 0 {
		cfg.Max = DefaultMax
	}
	k = &Keys{cfg: cfg, table: map[Tag]uint32{}}
	k.closed = sync.OnceValue(k.closeFiles)
	if k.crypto, err = newCrypto(cfg.Secret); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("persons: cannot open the keys of persons in %s: %w", cfg.FS.PathJoin(cfg.Dir, FileName), errors.Join(err, k.Close()))
			k = nil
		}
	}()
	if !cfg.ReadOnly {
		if k.lock, err = cfg.FS.Lock(cfg.FS.PathJoin(cfg.Dir, lockName)); err != nil {
			return k, fmt.Errorf("another process has them open (each server needs a key directory of its own): %w", err)
		}
	}
	if k.file, err = openFile(cfg, k.crypto); err != nil || k.file == nil {
		return k, err
	}
	k.slots = 1
	return k, k.scan()
}

// openFile opens the file, and makes it if it may. It is nil for a reader who finds none.
func openFile(cfg Config, c *crypto) (f vfs.File, err error) {
	path := cfg.FS.PathJoin(cfg.Dir, FileName)
	if info, err := cfg.FS.Stat(path); err == nil && !info.Mode().IsRegular() { // opening a named pipe would wait for good
		return nil, fmt.Errorf("%s is no regular file", path)
	}
	if cfg.ReadOnly {
		if f, err = cfg.FS.Open(path); err != nil {
			if _, statErr := cfg.FS.Stat(path); statErr != nil && isNotExist(statErr) {
				return nil, nil //nolint:nilnil // there are no keys
			}
			return nil, err //nolint:wrapcheck // the caller says which file
		}
	} else if f, err = cfg.FS.OpenReadWrite(path, vfs.WriteCategoryUnspecified); err != nil {
		return nil, err //nolint:wrapcheck // the caller says which file
	}
	var head slot
	n, err := f.ReadAt(head[:], 0)
	switch {
	case err != nil && !errors.Is(err, io.EOF):
	case n < slotSize || head.empty():
		// It was never used: the header is made durable before anything else.
		if cfg.ReadOnly {
			return nil, f.Close() //nolint:wrapcheck // the caller says which file
		}
		err = begin(cfg, f, c.header())
	default:
		err = c.checkHeader(&head)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// begin makes a new file durable.
func begin(cfg Config, f vfs.File, header *slot) error {
	if err := writeSlot(f, 0, header); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("cannot sync: %w", err)
	}
	d, err := cfg.FS.OpenDir(cfg.Dir)
	if err != nil {
		return err //nolint:wrapcheck // the caller says which file
	}
	return errors.Join(d.Sync(), d.Close())
}

// isNotExist reports whether an error is that a file is not there.
func isNotExist(err error) bool { return errors.Is(err, fs.ErrNotExist) }

// scan reads the slots from k.slots on into the table. The caller has making, or is the only one.
func (k *Keys) scan() error {
	found := map[Tag]uint32{}
	err := each(k.file, k.slots, func(n uint32, s *slot) error {
		switch {
		case s.empty():
			k.free = append(k.free, n)
		case !s.sound():
			// Left as it is: what was sealed under it may be opened again with a copy of this file.
			k.damaged++
		default:
			found[s.tag()] = n
		}
		k.slots = n + 1
		return nil
	})
	if err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	maps.Copy(k.table, found)
	return nil
}

// each reads whole slots, from one on.
func each(f vfs.File, from uint32, do func(n uint32, s *slot) error) error {
	buffer := make([]byte, chunk)
	for {
		length, err := f.ReadAt(buffer, int64(from)*slotSize)
		if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("cannot read: %w", err)
		}
		for b := buffer[:length-length%slotSize]; len(b) > 0; b = b[slotSize:] {
			s := slot(b[:slotSize])
			if err := do(from, &s); err != nil {
				return err
			}
			from++
		}
		if length < len(buffer) {
			return nil
		}
	}
}

func writeSlot(f vfs.File, n uint32, s *slot) error {
	b := *s // a file may change what it is given
	if _, err := f.WriteAt(b[:], int64(n)*slotSize); err != nil {
		return fmt.Errorf("cannot write: %w", err)
	}
	return nil
}

// ReadOnly reports whether the keys are open for reading only.
func (k *Keys) ReadOnly() bool { return k.cfg.ReadOnly }

// Damaged is how many slots were not as they were written when the file was opened: what was sealed under their keys is taken for erased until
// the file is put back from a copy.
func (k *Keys) Damaged() int { return k.damaged }

// Tag names the key of a person in a tenant, whether there is one or not.
func (k *Keys) Tag(p Person) Tag { return k.tag(p) }

// Key returns a key. Errors: ErrErased for one that is not there; the disk's.
func (k *Keys) Key(tag Tag) (*Key, error) {
	found, err := k.find(tag)
	if err != nil || found != nil {
		return found, err
	}
	if k.cfg.ReadOnly && k.file != nil {
		if err := k.refresh(); err != nil {
			return nil, err
		}
		if found, err = k.find(tag); err != nil || found != nil {
			return found, err
		}
	}
	return nil, ErrErased
}

// find returns the key with a tag that the table knows of, unless it was erased since; else nil.
func (k *Keys) find(tag Tag) (*Key, error) {
	k.mu.RLock()
	n, ok := k.table[tag]
	k.mu.RUnlock()
	if !ok {
		return nil, nil //nolint:nilnil // as documented
	}
	var s slot
	for range tries {
		if _, err := k.file.ReadAt(s[:], int64(n)*slotSize); err != nil {
			return nil, k.fail(fmt.Errorf("persons: cannot read a key: %w", err))
		}
		if s.empty() || s.sound() {
			break // else it is perhaps being overwritten
		}
	}
	switch {
	case s.empty() || s.sound() && s.tag() != tag:
		return nil, nil //nolint:nilnil // erased, and perhaps somebody else's by now
	case !s.sound():
		return nil, errors.New("persons: a key is not as it was written; put back persons.keys from a copy")
	}
	found, err := k.open(&s)
	if err != nil {
		return nil, fmt.Errorf("persons: %w", err)
	}
	return found, nil
}

// refresh has a reader see keys that were made since it opened them.
func (k *Keys) refresh() error {
	k.making.Lock()
	defer k.making.Unlock()
	if time.Since(k.refreshed) < refreshEvery {
		return nil
	}
	k.refreshed, k.slots, k.free, k.damaged = time.Now(), 1, nil, 0
	if err := k.scan(); err != nil {
		return fmt.Errorf("persons: %w", err)
	}
	return nil
}

// Make returns the keys of persons, in order. Those who have none get one, which is durable when Make returns. Errors: the disk's, and that there are
// too many persons.
func (k *Keys) Make(persons ...Person) ([]*Key, error) {
	keys := make([]*Key, len(persons))
	missing := false
	for i, p := range persons {
		var err error
		if keys[i], err = k.find(k.tag(p)); err != nil {
			return nil, err
		}
		missing = missing || keys[i] == nil
	}
	if !missing {
		return keys, nil
	}
	if k.cfg.ReadOnly {
		return nil, errors.New("persons: the keys are open for reading only")
	}
	k.making.Lock()
	defer k.making.Unlock()
	if err := k.repair(); err != nil {
		return nil, k.fail(fmt.Errorf("persons: cannot make a key: %w", err))
	}
	if err := k.fillMissing(persons, keys); err != nil {
		return nil, fmt.Errorf("persons: cannot make a key: %w", err)
	}
	return keys, nil
}

// repair empties slots that were written to in vain, so that there is never a second key with the same tag. The caller has making.
func (k *Keys) repair() error {
	if len(k.spoilt) == 0 {
		return nil
	}
	for _, n := range k.spoilt {
		if err := writeSlot(k.file, n, new(slot)); err != nil {
			return err
		}
	}
	if err := k.file.SyncData(); err != nil {
		return fmt.Errorf("cannot sync: %w", err)
	}
	k.free, k.spoilt = append(k.free, k.spoilt...), nil
	return nil
}

// fillMissing makes the keys that are missing. The caller has making.
func (k *Keys) fillMissing(persons []Person, keys []*Key) error {
	made := map[Tag]uint32{}
	fresh := map[Tag]*Key{}
	for i, p := range persons {
		if keys[i] != nil {
			continue
		}
		tag := k.tag(p)
		if keys[i] = fresh[tag]; keys[i] != nil {
			continue
		}
		var err error
		if keys[i], err = k.find(tag); err != nil { // another one may have made it meanwhile
			return k.spoil(made, err)
		} else if keys[i] != nil {
			continue
		}
		n, err := k.room(tag)
		if err != nil {
			return k.spoil(made, err)
		}
		made[tag] = n
		s, key := k.fill(tag, k.person(p))
		if err := writeSlot(k.file, n, s); err != nil {
			return k.spoil(made, err)
		}
		keys[i], fresh[tag] = key, key
	}
	if len(made) == 0 {
		return nil
	}
	if err := k.file.SyncData(); err != nil {
		return k.spoil(made, fmt.Errorf("cannot sync: %w", err))
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	maps.Copy(k.table, made)
	return nil
}

// room returns a slot for a person: the one that was erased, if it is still zero, another one that is, or a new one. The caller has making.
func (k *Keys) room(tag Tag) (uint32, error) {
	k.mu.Lock()
	old, erased := k.table[tag]
	delete(k.table, tag)
	k.mu.Unlock()
	if erased { // nobody else can have filled it: slots of the table are in no list of free ones
		return old, nil
	}
	if last := len(k.free) - 1; last >= 0 {
		n := k.free[last]
		k.free = k.free[:last]
		return n, nil
	}
	if int(k.slots) > k.cfg.Max {
		return 0, fmt.Errorf("there are keys of %d persons, and no more may be made: erase persons who have left, or raise the limit", k.cfg.Max)
	}
	n := k.slots
	k.slots++
	return n, nil
}

// spoil notes slots that were written to, and whose keys nobody gets.
func (k *Keys) spoil(made map[Tag]uint32, err error) error {
	for _, n := range made {
		k.spoilt = append(k.spoilt, n)
	}
	return k.fail(err)
}

// fail notes that the disk failed, and returns why.
func (k *Keys) fail(err error) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.failing = err
	return err
}

// Err is why keys can be neither read nor made; nil while they can. Where the disk failed it is tried again, so that the answer is true of now.
func (k *Keys) Err() error {
	k.mu.RLock()
	failing := k.failing
	k.mu.RUnlock()
	if failing == nil {
		return nil
	}
	k.making.Lock()
	defer k.making.Unlock()
	if err := k.try(); err != nil {
		return k.fail(fmt.Errorf("persons: %w", err))
	}
	return k.fail(nil)
}

// try reads the header, and empties the slots that were written to in vain. The caller has making.
func (k *Keys) try() error {
	var head slot
	if _, err := k.file.ReadAt(head[:], 0); err != nil {
		return fmt.Errorf("cannot read: %w", err)
	}
	if err := k.checkHeader(&head); err != nil {
		return err
	}
	return k.repair()
}

// Tenants returns the tags of a person's keys, in all tenants. It reads the whole file.
func (k *Keys) Tenants(p Person) ([]Tag, error) {
	if k.file == nil {
		return nil, nil
	}
	who := k.person(p)
	var tags []Tag
	err := each(k.file, 1, func(_ uint32, s *slot) error {
		if s.person() == who && s.sound() {
			tags = append(tags, s.tag())
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("persons: %w", err)
	}
	return tags, nil
}

// Close closes the file, once. Keys that were returned remain usable.
func (k *Keys) Close() error { return k.closed() }

func (k *Keys) closeFiles() error {
	var errs []error
	if k.file != nil {
		errs = append(errs, k.file.Close())
	}
	if k.lock != nil {
		errs = append(errs, k.lock.Close())
	}
	return errors.Join(errs...)
}
