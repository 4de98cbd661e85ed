// Package verify verifies a journal offline: its directory, or a copy of it, with nothing but the key that verifies its checkpoints.
//
// It reads every byte that is evidence: each record is hashed, each tile computed anew and compared, and the root compared with what was
// signed. Where they differ it says which record is not as it was written, as far as that can be known: a person who changes a record and
// all tiles above it leaves only a root that is not the signed one.
package verify

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	iofs "io/fs"
	"slices"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/deputyauth/deputy/pkg/journal"
	"github.com/deputyauth/deputy/pkg/journal/tree"
)

// Options say what is verified, and against what. Dir is required.
type Options struct {
	// Dir is the journal's directory, or a copy of it. Nothing in it is written.
	Dir string
	// FS is where it lies; nil means the operating system's.
	FS vfs.FS
	// Key verifies the checkpoints, in the notation of C2SP signed-note. Empty means the key in the directory, which a process that can write
	// there can replace.
	Key string
	// Checkpoint is one from outside of the directory, which the journal has to contain; nil if there is none.
	Checkpoint []byte
	// IDs finds the decisions that records are of; nil leaves them out.
	IDs *journal.IDs
	// Secret is the journal's, with which the MACs of the records in segments are checked; nil leaves that out, so that somebody who can write to
	// the directory can change records that are not signed yet.
	Secret []byte
	// Progress is told how many records are verified, of how many, now and then; nil tells nobody. It is called by one goroutine at a time.
	Progress func(records, total uint64)
}

// Report is what was found.
type Report struct {
	// Origin is the journal's name, and Key the key that verified its checkpoint.
	Origin string
	Key    string
	// TrustedDirectory says that the key was the directory's own.
	TrustedDirectory bool
	// Minimum is the first record that was not removed as the retention says, and Records how many there are with those.
	Minimum, Records uint64
	// Signed is how many records the checkpoint is over, and Root the root that it signs. Records from Signed on are not signed yet.
	Signed uint64
	Root   tlog.Hash
	// Authenticated says that the MACs of the records in segments were checked, so that the journal's server wrote those that are not signed yet.
	Authenticated bool
	// Outside is how many records the checkpoint from outside is over; 0 without one.
	Outside uint64
	// Unread is how many bytes the last segment has, from its byte UnreadFrom on, that are no whole record; 0 where it has none. That is how a write
	// that was cut off looks, and a record that was damaged and is not signed yet.
	Unread, UnreadFrom int64
	// Foreign are files that are not part of a journal, with slashes.
	Foreign []string
	// Problems are what is not as it was written, by sequence. None means that all is.
	Problems []Problem
}

// Problem is one thing that is not as it was written.
type Problem struct {
	// Sequence is the first record that it is about. Decision is its id, where Options.IDs is set.
	Sequence uint64
	Decision string
	// File is where it is, in the journal's directory, with slashes.
	File string
	// Message says what is wrong.
	Message string
	// tile is the tile of level 0 that a record differs from: one of the two is not as it was written.
	tile string
}

// maxProblems bounds how many problems are kept: one that concerns every record says no more than its first ones.
const maxProblems = 1000

// run is one verification.
type run struct {
	Options
	report   Report
	verifier note.Verifier
	files    *files

	// bundles is how many whole bundles there are, from 0 on, those that were removed included.
	bundles uint64
	// levels[l] are the hashes of level l, computed from the level below; of level 0 there are none.
	levels [][]tlog.Hash
	// tail are the hashes of records that come after the last bundle.
	tail []tlog.Hash
	// segments are the hashes of the records that the segments have, from the record oldest on, and rest what the last segment has behind its
	// last whole record.
	segments []tlog.Hash
	oldest   uint64
	rest     rest
	// leaves are the hashes of the records of one bundle, which was read last.
	leaves       []tlog.Hash
	leavesBundle uint64
}

// Run verifies a journal. What is wrong with it is in the report. A server may be writing it. Errors: it could not be verified, because ctx
// ended, the directory cannot be read or holds no journal, or an option is wrong.
func Run(ctx context.Context, o Options) (*Report, error) {
	if o.FS == nil {
		o.FS = tree.Disk
	}
	for again := 2; ; again-- {
		v := &run{Options: o}
		before, err := v.read("checkpoint", tree.MaxCheckpoint)
		if err != nil {
			return nil, err
		}
		err = v.all(ctx, before)
		if again == 0 || ctx.Err() != nil || v.verifier == nil || err == nil && len(v.report.Problems) == 0 {
			return &v.report, err
		}
		// Where a server has gone on meanwhile, it may have removed records that the retention does not keep.
		after, _ := v.read("checkpoint", tree.MaxCheckpoint)
		if minimum, _ := journal.ReadMinimum(v.FS, v.Dir, v.report.Origin, v.verifier); bytes.Equal(before, after) && minimum == v.report.Minimum {
			return &v.report, err
		}
	}
}

// all verifies everything, once.
func (v *run) all(ctx context.Context, checkpoint []byte) (err error) {
	if v.files, err = list(v.FS, v.Dir); err != nil {
		return err
	}
	v.report.Foreign = v.files.foreign
	if err := v.identify(checkpoint); err != nil {
		return err
	}
	if v.verifier != nil {
		if err := v.records(ctx, checkpoint); err != nil {
			return err
		}
	}
	v.finish()
	return nil
}

// problemf notes a problem.
func (v *run) problemf(sequence uint64, file, format string, args ...any) {
	v.report.Problems = append(v.report.Problems, Problem{Sequence: sequence, File: file, Message: fmt.Sprintf(format, args...)})
	if len(v.report.Problems) > 2*maxProblems {
		v.sort()
	}
}

// sort leaves the first problems.
func (v *run) sort() {
	slices.SortStableFunc(v.report.Problems, func(a, b Problem) int { return cmp.Compare(a.Sequence, b.Sequence) })
	v.report.Problems = v.report.Problems[:min(len(v.report.Problems), maxProblems)]
}

// finish puts the problems in order and names their decisions.
func (v *run) finish() {
	v.sort()
	if v.IDs == nil {
		return
	}
	tag := journal.Tag(v.report.Origin)
	for i := range v.report.Problems {
		v.report.Problems[i].Decision = v.IDs.Of(tag, v.report.Problems[i].Sequence)
	}
}

// identify reads which journal it is, and which key verifies it. Without a verifier afterwards nothing more can be verified.
func (v *run) identify(checkpoint []byte) error {
	origin, err := v.read("origin", 1<<12)
	if err != nil {
		return err
	}
	name, whole := strings.CutSuffix(string(origin), "\n")
	key, err := v.read("verifier.key", 1<<12)
	if err != nil {
		return err
	}
	if origin == nil && key == nil {
		return fmt.Errorf("%s holds no journal: it has neither a file origin nor a file verifier.key", v.Dir)
	}
	own := strings.TrimSuffix(string(key), "\n")
	v.report.Key = v.Key
	if v.Key == "" {
		v.report.Key, v.report.TrustedDirectory = own, true
	}
	if v.verifier, err = note.NewVerifier(v.report.Key); err != nil {
		if v.Key != "" {
			return errors.New("the key is not written as one: NAME+HASH+KEY, as in the file verifier.key of a journal")
		}
		v.problemf(0, "verifier.key", "it holds no key")
		v.verifier = nil
		return nil
	}
	if v.signedBy(own, checkpoint) {
		v.report.Origin = name
		v.problemf(0, "checkpoint", "it is signed with the directory's own key, %s, and not with the key that was given, %s: either that is the key of "+
			"another journal, or somebody has signed this one anew; its records were not verified", keyName(own), keyName(v.Key))
		v.verifier = nil
		return nil
	}
	v.report.Origin = v.verifier.Name()
	if !whole || name != v.report.Origin {
		v.problemf(0, "origin", "it does not name the journal that the key is of, %s", v.report.Origin)
	}
	if string(key) != v.report.Key+"\n" {
		v.problemf(0, "verifier.key", "it is not the key that is trusted")
	}
	return nil
}

// signedBy reports whether a checkpoint is signed with the directory's own key, and not with the one that was given.
func (v *run) signedBy(own string, checkpoint []byte) bool {
	verifier, err := note.NewVerifier(own)
	if v.Key == "" || own == v.Key || err != nil {
		return false
	}
	_, _, given := tree.ParseCheckpoint(checkpoint, v.verifier)
	_, _, err = tree.ParseCheckpoint(checkpoint, verifier)
	return given != nil && err == nil
}

// keyName is a key that verifies checkpoints without what it is made of: its name and its hash.
func keyName(key string) string {
	name, rest, _ := strings.Cut(key, "+")
	hash, _, _ := strings.Cut(rest, "+")
	return name + "+" + hash
}

// read reads a small file; nil where it is missing.
func (v *run) read(name string, limit int64) ([]byte, error) {
	b, err := tree.ReadFile(v.FS, v.FS.PathJoin(v.Dir, name), limit)
	if errors.Is(err, iofs.ErrNotExist) {
		return nil, nil
	}
	return b, err //nolint:wrapcheck // it names the file
}

// records verifies the records and tiles against each other, and then against the checkpoints.
func (v *run) records(ctx context.Context, checkpoint []byte) error {
	minimum, err := journal.ReadMinimum(v.FS, v.Dir, v.report.Origin, v.verifier)
	if err != nil {
		v.problemf(0, "minimum", "%v", err)
	}
	v.report.Minimum = minimum
	v.report.Records = minimum
	signed, others, err := tree.ParseCheckpoint(checkpoint, v.verifier)
	isSigned := err == nil && others == 0
	switch {
	case checkpoint == nil:
		v.problemf(0, "checkpoint", "it is missing")
	case err != nil:
		v.problemf(0, "checkpoint", "%v", err)
	case others > 0:
		v.problemf(0, "checkpoint", "it has signatures of other keys")
	default:
		v.report.Signed, v.report.Root = signed.Size, signed.Root
	}
	if err := v.readSteady(ctx); err != nil {
		return err
	}
	if err := v.readBundles(ctx); err != nil {
		return err
	}
	if err := v.climb(); err != nil {
		return err
	}
	v.readTail()
	v.listForeign()
	if isSigned {
		v.blame(v.compare("checkpoint", signed), signed.Size)
	}
	return v.others()
}

// blame says of records that differ from their tiles which of the two was changed. The root is computed from the records: if it is the one that
// was signed, all records are as they were written.
func (v *run) blame(signed bool, size uint64) {
	for i := range v.report.Problems {
		p := &v.report.Problems[i]
		if p.tile == "" {
			continue
		}
		p.Message = fmt.Sprintf("record %d is not as it was written: it does not have the hash that %s has of it", p.Sequence, p.tile)
		if signed && p.Sequence < size {
			p.Message = fmt.Sprintf("the hash of record %d is not as it was written; the record is", p.Sequence)
			p.File = p.tile
		}
	}
}

// others compares with the checkpoint that a witness signed, and with the one from outside.
func (v *run) others() error {
	witnessed, err := v.read("checkpoint.witnessed", tree.MaxCheckpoint)
	if err != nil {
		return err
	}
	if witnessed != nil {
		if c, _, err := tree.ParseCheckpoint(witnessed, v.verifier); err != nil {
			v.problemf(0, "checkpoint.witnessed", "%v", err)
		} else {
			v.compare("checkpoint.witnessed", c)
		}
	}
	if v.Checkpoint == nil {
		return nil
	}
	c, _, err := tree.ParseCheckpoint(v.Checkpoint, v.verifier)
	if err != nil {
		return fmt.Errorf("the checkpoint from outside: %w", err)
	}
	v.report.Outside = c.Size
	v.compare("", c)
	return nil
}

// compare compares the journal with a checkpoint, and reports whether the records are those that it signs. file is empty for the one from
// outside.
func (v *run) compare(file string, c tree.Checkpoint) bool {
	name := file
	if file == "" {
		name = "the checkpoint from outside"
	}
	switch have := v.report.Records; {
	case c.Size > have && v.rest.bytes > 0:
		v.problemf(have, v.rest.file, "record %d is damaged, at byte %d of the file, and nothing behind it can be read: %s is over %d records, "+
			"and records %d to %d are not there", have, v.rest.offset, name, c.Size, have, c.Size-1)
		return false
	case c.Size > have:
		v.problemf(have, file, "%s is over %d records: records %d to %d are missing", name, c.Size, have, c.Size-1)
		return false
	}
	root, err := tlog.TreeHash(int64(c.Size), v) //nolint:gosec // below 2^63
	if errors.Is(err, tree.ErrPruned) {
		return false // a checkpoint over records of which the last ones were removed since
	}
	if err == nil && root == c.Root {
		return true
	}
	if v.explained(c.Size) {
		return false
	}
	whole := v.bundles * tree.Width
	switch {
	case err != nil:
		v.problemf(v.report.Minimum, file, "the root of the first %d records cannot be computed: %v", c.Size, err)
	case file != "" && c.Size > whole:
		v.problemf(whole, file, "%s signs another root than records 0 to %d have: one of the last ones, from %d on, was changed, "+
			"or an earlier one with all tiles above it", name, c.Size-1, whole)
	default:
		v.problemf(v.report.Minimum, file, "%s signs another root than records 0 to %d have: one of them was changed, with all tiles above it",
			name, c.Size-1)
	}
	return false
}

// explained reports whether a problem is known already with a record before size.
func (v *run) explained(size uint64) bool {
	return slices.ContainsFunc(v.report.Problems, func(p Problem) bool {
		level, _, isTile := tree.ParsePath(p.File)
		return p.Sequence < size && (isTile && level < 0 || strings.HasPrefix(p.File, "segments/"))
	})
}
