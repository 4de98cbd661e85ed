package journal

import (
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/zap"

	"github.com/deputyauth/deputy/pkg/journal/tree"
)

// reserveFile is the file that holds room for what a full disk must not stop.
const reserveFile = "reserve"

// openReserve finds the reserve, or makes it. A journal without room for it is full.
func (j *Journal) openReserve() error {
	info, err := j.fs.Stat(j.fs.PathJoin(j.cfg.Dir, reserveFile))
	if err == nil && info.Size() == j.cfg.ReserveBytes {
		j.reserved = true
		return nil
	}
	if err != nil && !isNotExist(err) {
		return fmt.Errorf("journal: cannot look at the reserve: %w", err)
	}
	if err := j.makeReserve(); isNoRoom(err) {
		j.full = err
		j.cfg.Log.Error("the journal has no room", zap.String("directory", j.cfg.Dir), zap.Error(err))
	} else if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	return nil
}

// makeReserve writes the reserve. Zeros are written, and not a hole, so that the room is taken on every file system that does not compress.
func (j *Journal) makeReserve() error {
	path := j.fs.PathJoin(j.cfg.Dir, reserveFile)
	file, err := j.fs.Create(path+newSegment, vfs.WriteCategoryUnspecified)
	if err != nil {
		return fmt.Errorf("cannot create the reserve: %w", err)
	}
	zeros := make([]byte, min(j.cfg.ReserveBytes, 1<<20))
	for left := j.cfg.ReserveBytes; left > 0 && err == nil; left -= int64(len(zeros)) {
		_, err = file.Write(zeros[:min(left, int64(len(zeros)))])
	}
	if err == nil {
		err = file.Sync()
	}
	if err = errors.Join(err, file.Close()); err == nil {
		err = j.fs.Rename(path+newSegment, path)
	}
	if err == nil {
		err = tree.SyncDir(j.fs, j.cfg.Dir)
	}
	if err != nil {
		_ = j.fs.Remove(path + newSegment) // it would keep the room that there is
		return fmt.Errorf("cannot write the reserve: %w", err)
	}
	j.mu.Lock()
	j.reserved = true
	j.mu.Unlock()
	return nil
}

// giveUpReserve removes the reserve, so that the records that may use its room can be written. The journal is full then. It reports whether there
// was a reserve.
func (j *Journal) giveUpReserve(cause error) bool {
	j.mu.Lock()
	had := j.reserved
	j.reserved, j.full = false, cause
	j.mu.Unlock()
	if !had {
		return false
	}
	if err := j.fs.Remove(j.fs.PathJoin(j.cfg.Dir, reserveFile)); err != nil && !isNotExist(err) {
		j.cfg.Log.Error("the journal cannot give up its reserve", zap.Error(err))
	}
	return true
}

// refill ends it that the journal is full, if there is room to make the reserve again. The caller has the room in writing.
func (j *Journal) refill() error {
	usage, err := j.fs.GetDiskUsage(j.cfg.Dir)
	if err == nil && usage.AvailBytes < 2*uint64(j.cfg.ReserveBytes) { //nolint:gosec // not negative
		j.mu.Lock()
		defer j.mu.Unlock()
		return j.full
	}
	if err := j.makeReserve(); err != nil {
		return err
	}
	j.mu.Lock()
	j.full = nil
	j.mu.Unlock()
	j.cfg.Log.Info("the journal has room again, and takes all records", zap.String("directory", j.cfg.Dir))
	return nil
}
