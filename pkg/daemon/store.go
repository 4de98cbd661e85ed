package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"go.uber.org/zap"

	"github.com/deputyauth/deputy/pkg/engine"
	"github.com/deputyauth/deputy/pkg/facts"
	"github.com/deputyauth/deputy/pkg/rpc"
	"github.com/deputyauth/deputy/pkg/store"
)

// StoreDir returns where in a data directory the store of the engine embedded is.
func StoreDir(dataDir string) string { return filepath.Join(dataDir, "graph") }

// TokenKeyFile returns where in a data directory the key that seals tokens is, unless it is kept elsewhere.
func TokenKeyFile(dataDir string) string { return filepath.Join(dataDir, "token.key") }

// MakeDataDir makes a data directory if it does not exist. One that holds other files than Deputy's is
// refused: a mistyped path must not fill a directory with ours.
func MakeDataDir(dir string) error {
	there, err := checkDataDir(dir)
	if err != nil || there {
		return err
	}
	return os.MkdirAll(dir, 0o700)
}

// checkDataDir refuses a data directory that holds other files than Deputy's, and reports whether it is there.
func checkDataDir(dir string) (there bool, err error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("the data directory: %w", err)
	}
	other := ""
	for _, e := range entries {
		switch filepath.Join(dir, e.Name()) {
		case StoreDir(dir), TokenKeyFile(dir), JournalDir(dir):
			return true, nil
		}
		// A file system's own, and files that a shell does not show, may be there.
		if e.Name() != "lost+found" && e.Name()[0] != '.' {
			other = e.Name()
		}
	}
	if other != "" {
		return false, fmt.Errorf("the data directory %s holds other files (%s); name an empty one, or one that does not exist", dir, other)
	}
	return true, nil
}

// checkDirectories refuses directories that cannot be read, or that hold other files than a server's.
func (c Config) checkDirectories() error {
	if c.Engine.Dir != "" {
		if _, err := checkDataDir(c.Engine.Dir); err != nil {
			return err
		}
	}
	if c.Following.On {
		if _, err := checkFollowDir(c.Following.Dir); err != nil {
			return err
		}
	}
	for _, one := range []struct{ flag, dir string }{
		{"--journal-dir", c.Journal.Dir}, {"--journal-key-dir", c.Journal.KeyDir}, {"--signals-dir", c.SignalsDir},
	} {
		if c.Following.On && one.dir != "" && (liesIn(one.dir, c.Following.Dir) || liesIn(c.Following.Dir, one.dir)) {
			return fmt.Errorf("of the directories of %s (%s) and --follow-dir (%s) one lies in the other, and the copy may be deleted at any time: "+
				"name one outside of it", one.flag, one.dir, c.Following.Dir)
		}
	}
	for _, one := range []struct {
		flag, dir string
		given     bool
	}{
		{"--journal-dir", c.Journal.Dir, c.journalFiles != nil}, {"--journal-key-dir", c.Journal.KeyDir, c.journalFiles != nil},
		{"--signals-dir", c.SignalsDir, c.signalsFiles != nil},
	} {
		if one.dir == "" || one.given {
			continue
		}
		if _, err := os.ReadDir(one.dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s: %w; name a directory, or a path that does not exist", one.flag, err)
		}
	}
	return nil
}

// liesIn reports whether a path is a directory or lies in it, by the paths alone.
func liesIn(path, dir string) bool {
	path, err := filepath.Abs(path)
	if err != nil {
		return false // it is found out where it is opened
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return false
	}
	inside, err := filepath.Rel(dir, path)
	return err == nil && filepath.IsLocal(inside)
}

// openStore opens the store of the engine embedded, which keeps so many files open at most. Other engines have none.
func (c Config) openStore(files int, log *zap.Logger) (*store.Store, error) {
	if c.Engine.Kind != engine.Embedded && c.Engine.Kind != "" {
		return nil, nil //nolint:nilnil // other engines have none
	}
	if err := MakeDataDir(c.Engine.Dir); err != nil {
		return nil, err
	}
	memory := memory()
	return store.Open(StoreDir(c.Engine.Dir), store.Config{
		Retention: c.Engine.Retention, CacheBytes: cmp.Or(c.Engine.CacheBytes, cacheFor(memory)),
		KeptBytes: keptFor(memory), PackedBytes: packedFor(memory), ReadAhead: true,
		OpenFiles: files, Log: log, Narrows: facts.IsTombstone, FS: c.files,
	})
}

// Restore makes the store of a data directory from a backup; see store.Restore. log is told what goes
// wrong on the way.
func Restore(ctx context.Context, backup io.Reader, dataDir string, log *zap.Logger) (entries uint64, of time.Time, err error) {
	if err := MakeDataDir(dataDir); err != nil {
		return 0, time.Time{}, err
	}
	summary, err := store.Restore(ctx, backup, StoreDir(dataDir), store.Config{Log: log})
	return summary.Entries, summary.Revision.Time(), err
}

// keeper looks after the store in rpc's words.
type keeper struct{ *store.Store }

// Figures is rpc.Keeper's.
func (k keeper) Figures() (rpc.StoreFigures, error) {
	f, err := k.Store.Figures()
	if err != nil {
		return rpc.StoreFigures{}, err
	}
	out := rpc.StoreFigures{
		ID: f.ID, Head: f.Head.Time(), Retention: f.Retention, Relationships: f.Relationships,
		DiskBytes: f.DiskBytes, LogBytes: f.LogBytes, MemTableBytes: f.MemTableBytes, CacheBytes: f.CacheBytes,
		CompactionDebtBytes: f.CompactionDebtBytes, ReadAmplification: uint32(max(f.ReadAmplification, 0)), Writable: f.Writing, //nolint:gosec // small
	}
	if f.Horizon != 0 {
		out.Horizon = f.Horizon.Time()
	}
	for _, l := range f.Levels {
		out.Levels = append(out.Levels, rpc.StoreLevel{
			Number: uint32(max(l.Number, 0)), Files: uint64(max(l.Files, 0)), Bytes: uint64(max(l.Bytes, 0)), //nolint:gosec // small
		})
	}
	return out, nil
}

// Backup is rpc.Keeper's.
func (k keeper) Backup(ctx context.Context, w io.Writer) error {
	_, err := k.Store.Backup(ctx, w)
	return err
}

// openEngine opens the engine, over the store where that is a store of Deputy's own. graph is nil for the other engines.
func (c Config) openEngine(ctx context.Context, graph *store.Store) (*engine.Engine, error) {
	if graph != nil {
		return engine.Over(ctx, c.Engine, graph)
	}
	c.Engine.Deputy = c.Following.On && c.Engine.Kind == engine.Remote
	return engine.Open(ctx, c.Engine)
}
