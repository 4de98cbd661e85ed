package journal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/zap"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/deputyauth/deputy/pkg/authz"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/pkg/journal/tree"
)

// What a journal keeps is bounded twice. Records older than the retention are removed, by whole bundles; nothing younger ever is. And the
// directory has a quota: a journal that has used it up is full, until the retention has removed something or the quota is raised.
//
// So that no caller fills the journal for all others, and none has its traces removed by making more of them, each may take a share of
// the quota only. What a caller has of it is counted in bytes of encoded records, and its share of the quota is converted into those by the
// compression of the whole journal. The counts are in the file callersFile, which says which records they are of. Those behind it are counted at start.

const (
	// callersFile is what each caller has of the journal.
	callersFile = "callers"
	// maxCallers bounds for how many callers that is known. Those with the least are forgotten first: they are far from their share.
	maxCallers = 1 << 16
	// maxCallersFile bounds callersFile, in bytes.
	maxCallersFile = 64 << 20
)

// room is how much of its quota a journal uses, and who. Journal.mu guards it.
type room struct {
	// used is how many bytes the directory has, but for the reserve: as it was measured, and what was written since.
	used int64
	// bytes are those of each caller's records, and total is their sum.
	bytes map[string]int64
	total int64
	// from is the first record that is counted, and through the one behind the last that was, of those that were there when the journal was
	// opened: so many as opened says. All that was appended since is counted too. counted says that nothing is missing.
	from, through, opened uint64
	counted               bool
	// counting is held by the goroutine that counts records that are in the tree, or removes them. It is taken before Journal.mu.
	counting sync.Mutex
	// measureAfter is when the directory may be measured again because the quota seems to be used up.
	measureAfter time.Time
	// measuring is how many measure it now.
	measuring int
	// limit is how much a caller may have, and beyond what callers have in excess of it, all together: records with a duty other than Refuse.
	limit, beyond int64
	// overShare is how many records were refused to callers over their share, and noted how many of those are recorded.
	overShare, noted uint64
	// unwritten is how many records with a duty other than Refuse were not written of each caller over its share, until that is recorded.
	unwritten map[string]uint64
}

// errQuota is why a journal is full that has used up its quota.
var errQuota = errors.New("the journal has used up its quota: raise it, or shorten the retention")

// add counts records of a caller.
func (r *room) add(caller string, bytes int64) {
	if r.bytes == nil {
		r.bytes = map[string]int64{}
	}
	before := r.excess(caller)
	r.bytes[caller] = max(r.bytes[caller]+bytes, 0)
	r.beyond += r.excess(caller) - before
	r.total = max(r.total+bytes, 0)
	if len(r.bytes) > maxCallers {
		sizes := slices.Sorted(maps.Values(r.bytes))
		median := sizes[len(sizes)/2]
		maps.DeleteFunc(r.bytes, func(_ string, n int64) bool { return n <= median })
		r.setLimit(r.limit)
	}
}

// excess is how much a caller has in excess of its share. The journal's own records, which are no caller's, have no share.
func (r *room) excess(caller string) int64 {
	if caller == "" {
		return 0
	}
	return max(r.bytes[caller]-r.limit, 0)
}

// setLimit sets how much a caller may have.
func (r *room) setLimit(limit int64) {
	r.limit, r.beyond = limit, 0
	for caller := range r.bytes {
		r.beyond += r.excess(caller)
	}
}

// quotaReserve is how much of the quota is for records with a duty other than Refuse.
func (j *Journal) quotaReserve() int64 { return min(j.cfg.ReserveBytes, j.cfg.QuotaBytes/4) }

// overQuota is why a journal that has used up its quota takes no records of duty Refuse; nil while it has not. What callers have in excess of
// their shares is part of the reserve, so that it refuses nobody else's records. j.mu is held.
func (j *Journal) overQuota() error {
	if j.cfg.QuotaBytes > 0 && j.used-min(j.beyond, j.quotaReserve()) > j.cfg.QuotaBytes-j.quotaReserve() {
		return errQuota
	}
	return nil
}

// charge counts records of a caller, or refuses them. j.mu is held.
func (j *Journal) charge(duty Duty, caller string, frames []byte) error {
	if j.cfg.QuotaBytes == 0 {
		return nil
	}
	bytes := int64(len(frames))
	if caller == "" || j.bytes[caller]+bytes <= j.limit || duty != Refuse && j.beyond+bytes <= j.quotaReserve() {
		j.add(caller, bytes)
		return nil
	}
	if duty == Refuse {
		j.overShare++
	} else {
		if j.unwritten == nil {
			j.unwritten = map[string]uint64{}
		}
		j.unwritten[caller] += count(frames)
	}
	return &authz.Error{
		Op: "journal.Append", Kind: authz.Exhausted, Reason: authz.ReasonJournalShare,
		Message: "this caller has used up its share of the journal; what only takes access away is still done",
	}
}

// OverShare reports whether a caller has used up its share of the journal. Then its records of duty Refuse are refused. Those with another duty
// take the reserve of the quota, which callers over their shares have together; once that is used up too, they are only counted.
func (j *Journal) OverShare(caller string) bool {
	if j.cfg.QuotaBytes == 0 || caller == "" {
		return false
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.bytes[caller] >= j.limit
}

// tidy removes what is older than the retention, and measures what there is. It reports whether there may be more to remove.
func (j *Journal) tidy() (more bool) {
	more, err := j.prune()
	if err != nil {
		j.cfg.Log.Error("the journal cannot remove what is older than its retention", zap.Error(err))
	}
	if j.cfg.QuotaBytes == 0 {
		return more
	}
	before := j.Err()
	if err := j.measure(); err != nil {
		j.cfg.Log.Error("the journal cannot measure its directory", zap.Error(err))
	}
	if err := j.saveCallers(); err != nil {
		j.cfg.Log.Error("the journal cannot save what each caller has of it", zap.Error(err))
	}
	if after := j.Err(); errors.Is(after, errQuota) != errors.Is(before, errQuota) {
		j.cfg.Log.Warn("the journal's quota", zap.Int64("bytes", j.cfg.QuotaBytes), zap.Bool("used up", after != nil))
	}
	j.noteShares()
	return more
}

// prune removes whole bundles of records that are all older than the retention. It reports whether there may be more of them.
func (j *Journal) prune() (more bool, err error) {
	if j.cfg.Retention <= 0 {
		return false, nil
	}
	j.counting.Lock()
	defer j.counting.Unlock()
	j.mu.Lock()
	from, through, opened := j.from, j.through, j.opened
	j.mu.Unlock()
	oldest := j.cfg.Now().Add(-j.cfg.Retention).UnixNano()
	t, end := j.sealer.tree, min(j.sealer.tree.Saved(), j.Sealing().Records)/tree.Width
	n, removed := t.Minimum()/tree.Width, map[string]int64{}
	stop := min(end, n+j.cfg.pruneAtOnce)
	for ; n < stop; n++ {
		records, err := t.Bundle(n)
		if err != nil {
			return false, fmt.Errorf("journal: %w", err)
		}
		old := true
		for _, r := range records {
			at, _ := timeAndCaller(r)
			old = old && at < oldest
		}
		if !old {
			break
		}
		for i, r := range records {
			at := n*tree.Width + uint64(i)
			if counted := at >= from && (at < through || at >= opened); counted {
				_, caller := timeAndCaller(r)
				removed[caller] += int64(frameHeader + len(r))
			}
		}
	}
	minimum := n * tree.Width
	if minimum <= t.Minimum() {
		return false, nil
	}
	if j.cfg.QuotaBytes > 0 {
		j.mu.Lock()
		for caller, bytes := range removed {
			j.add(caller, -bytes)
		}
		j.from, j.through = max(j.from, minimum), max(j.through, min(minimum, opened))
		j.mu.Unlock()
		// First what is counted: a crash in between leaves records that are counted no more, and are removed with the next ones.
		if err := j.saveCallers(); err != nil {
			return false, err
		}
	}
	return n == stop && stop < end, j.Prune(minimum)
}

// dropped notes that segments are removed, whose records are in the tree.
func (j *Journal) dropped(bytes int64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.measuring == 0 { // it may have been measured without them already
		j.used = max(j.used-bytes, 0)
	}
}

// remeasure measures again where the quota seems to be used up, because what was written since is only estimated. It reports whether records are
// taken now. It takes a tenth of the time at most.
func (j *Journal) remeasure() bool {
	j.mu.Lock()
	due := j.overQuota() != nil && !j.closed && !time.Now().Before(j.measureAfter)
	if due {
		j.measureAfter = time.Now().Add(time.Minute) // until this one is done
	}
	j.mu.Unlock()
	if !due {
		return false
	}
	began := time.Now()
	err := j.measure()
	j.mu.Lock()
	defer j.mu.Unlock()
	j.measureAfter = time.Now().Add(max(9*time.Since(began), j.cfg.retryPause))
	return err == nil && j.refuses(Refuse) == nil
}

// measure finds out how much of the quota is used, and how much of it a caller may have.
func (j *Journal) measure() error {
	j.mu.Lock()
	before := j.used
	j.measuring++
	j.mu.Unlock()
	defer func() {
		j.mu.Lock()
		defer j.mu.Unlock()
		j.measuring--
	}()
	size, err := treeSize(j.fs, j.cfg.Dir)
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	if info, err := j.fs.Stat(j.fs.PathJoin(j.cfg.Dir, reserveFile)); err == nil {
		size -= info.Size()
	}
	j.mu.Lock()
	j.used = size + j.used - before // with what was written meanwhile, some of which may be counted twice until the next time
	ratio := 1.0
	if j.used > 0 {
		ratio = max(1, float64(j.total)/float64(j.used))
	}
	j.setLimit(int64(min(j.cfg.CallerShare*float64(j.cfg.QuotaBytes)*ratio, math.MaxInt64/2)))
	j.mu.Unlock()
	return nil
}

// treeSize is how long the files below a directory are together. What is removed meanwhile does not count.
func treeSize(fs vfs.FS, dir string) (size int64, err error) {
	names, err := fs.List(dir)
	if isNotExist(err) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("cannot list a directory: %w", err)
	}
	slices.Sort(names) // segments before the tree, so that records which move meanwhile are counted at least once
	for _, name := range names {
		path := fs.PathJoin(dir, name)
		info, err := fs.Stat(path)
		if isNotExist(err) {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("cannot look at a file: %w", err)
		}
		if !info.IsDir() {
			size += info.Size()
			continue
		}
		below, err := treeSize(fs, path)
		if err != nil {
			return 0, err
		}
		size += below
	}
	return size, nil
}

// callers is the content of callersFile.
type callers struct {
	// From and Through are the first record that is counted, and the one behind the last.
	From    uint64           `json:"from"`
	Through uint64           `json:"through"`
	Bytes   map[string]int64 `json:"bytes"`
}

// openRoom reads how much of the journal each caller has, as far as that was saved.
func (j *Journal) openRoom() error {
	if j.cfg.QuotaBytes == 0 {
		return nil
	}
	j.opened = j.Written()
	j.from, j.through = j.sealer.tree.Minimum(), j.sealer.tree.Minimum()
	path := j.fs.PathJoin(j.cfg.Dir, callersFile)
	b, err := tree.ReadFile(j.fs, path, maxCallersFile)
	if err != nil && !isNotExist(err) {
		return fmt.Errorf("journal: %w", err)
	}
	var c callers
	if err == nil {
		err = json.Unmarshal(b, &c)
	}
	if err == nil && c.From >= j.from && c.Through >= c.From && c.Through <= j.Written() {
		for caller, bytes := range c.Bytes {
			j.add(caller, bytes)
		}
		j.from, j.through = c.From, c.Through
	} else if !isNotExist(err) {
		j.cfg.Log.Warn("the file with what each caller has of the journal cannot be used, and all records are counted again",
			zap.String("file", path), zap.Error(err))
	}
	return j.measure()
}

// hasCounted reports whether all records are counted.
func (j *Journal) hasCounted() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.counted
}

// recount counts the records that were there when the journal was opened, and were not counted yet. It stops when the journal does.
func (j *Journal) recount() error {
	for {
		select {
		case <-j.stop:
			return nil
		default:
		}
		if done, err := j.countBundle(); done || err != nil {
			return err
		}
	}
}

// countBundle counts the next bundle of records that are not counted yet, and reports whether all are.
func (j *Journal) countBundle() (done bool, err error) {
	j.counting.Lock() // so that none is removed meanwhile
	defer j.counting.Unlock()
	j.mu.Lock()
	through, opened := j.through, j.opened
	j.counted = through >= opened
	done = j.counted
	j.mu.Unlock()
	if done {
		return true, nil
	}
	bundle := through / tree.Width
	records, err := j.sealer.tree.Bundle(bundle)
	if err != nil {
		return false, fmt.Errorf("journal: cannot count what each caller has: %w", err)
	}
	sizes := map[string]int64{}
	end := min(bundle*tree.Width+uint64(len(records)), opened)
	for at := through; at < end; at++ {
		record := records[at%tree.Width]
		_, caller := timeAndCaller(record)
		sizes[caller] += int64(frameHeader + len(record))
	}
	if end <= through {
		return false, fmt.Errorf("journal: cannot count what each caller has: record %d is missing", through)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	for caller, bytes := range sizes {
		j.add(caller, bytes)
	}
	j.through = end
	return false, nil
}

// saveCallers saves what each caller has of the journal.
func (j *Journal) saveCallers() error {
	j.mu.Lock()
	// What waits to be written is counted already: where it comes to nothing, the counts are too high by that.
	c := callers{From: j.from, Through: j.written.Load(), Bytes: maps.Clone(j.bytes)}
	counted := j.counted
	j.mu.Unlock()
	if !counted {
		return nil
	}
	b, err := json.Marshal(c)
	if err == nil {
		err = tree.WriteFile(j.fs, j.fs.PathJoin(j.cfg.Dir, callersFile), b)
	}
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	return nil
}

// noteShares records how many records were refused because of shares since that was last recorded.
func (j *Journal) noteShares() {
	j.mu.Lock()
	n := j.overShare
	refused := n - j.noted
	unwritten := j.unwritten
	j.unwritten = nil
	j.mu.Unlock()
	for caller, n := range unwritten {
		if j.Note(fmt.Sprintf("%d records of the caller %q, which had used up its share of the journal, were not written: "+
			"they are about calls that take access away, which are done all the same", n, caller)) != nil {
			j.mu.Lock()
			if j.unwritten == nil {
				j.unwritten = map[string]uint64{}
			}
			j.unwritten[caller] += n
			j.mu.Unlock()
		}
	}
	if refused == 0 || j.Note(fmt.Sprintf("%d records were refused to callers that had used up their share of the journal", refused)) != nil {
		return
	}
	j.mu.Lock()
	j.noted = n
	j.mu.Unlock()
}

// timeAndCaller returns two fields of an encoded record.
func timeAndCaller(record []byte) (at int64, caller string) {
	for len(record) > 0 {
		number, kind, n := protowire.ConsumeTag(record)
		if n < 0 {
			return at, caller
		}
		record = record[n:]
		switch {
		case number == 2 && kind == protowire.Fixed64Type:
			v, _ := protowire.ConsumeFixed64(record)
			at = int64(v) //nolint:gosec // that is how it is encoded
		case number == 5 && kind == protowire.BytesType:
			v, _ := protowire.ConsumeBytes(record)
			caller = string(v)
		}
		if n = protowire.ConsumeFieldValue(number, kind, record); n < 0 {
			return at, caller
		}
		record = record[n:]
	}
	return at, caller
}

// Note records a text of the server's own. Errors: that the journal takes no records, although the reserve is used for notes.
func (j *Journal) Note(text string) error {
	r := &Record{
		Kind: deputyv1.RecordKind_RECORD_KIND_NOTE, Stage: deputyv1.RecordStage_RECORD_STAGE_WHOLE, Time: j.cfg.Now().UnixNano(), Note: text,
	}
	frames, err := appendFrames(nil, []*Record{r})
	if err == nil {
		_, err = j.appendFrames(context.Background(), Reserve, "", frames)
	}
	return err
}
