package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"runtime/debug"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/zap"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/engine"
	"github.com/deputyauth/deputy/pkg/follow"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/pkg/journal"
	"github.com/deputyauth/deputy/pkg/journal/persons"
)

// Journal is what can be set about the journal, which has a record of all that callers ask of the server. The zero value is one in the data
// directory of the engine embedded, and none on the other engines, which have no directory.
type Journal struct {
	// Off has the server record nothing. The other fields have to be zero then.
	Off bool
	// Dir is its directory, which is made if it is not there; empty means JournalDir of Engine.Dir on the engine embedded, and no journal on the
	// others.
	Dir string
	// KeyDir is the directory of its keys, which is made if it is not there. It lies neither in Dir nor in Engine.Dir, so that a copy of them
	// holds no key; empty means KeyDir of the data directory on the engine embedded, and of Dir on the others.
	KeyDir string
	// Witness is the URL of a witness of the logs of C2SP tlog-witness that cosigns the journal's checkpoints; empty means none. WitnessKey
	// verifies its signatures, in the notation of C2SP signed-note; both or neither.
	Witness, WitnessKey string
	// AnswerUnrecorded has decisions be answered without a record while the journal takes none. How many those were is recorded afterwards.
	AnswerUnrecorded bool
	// Retention is how long records are kept at least, and then removed by whole bundles; 0 means 90 days.
	Retention time.Duration
	// QuotaBytes is how much its directory may have; 0 means as much as the disk has. A journal that has used it up is full: nothing is removed
	// that the retention keeps.
	QuotaBytes int64
	// CallerShare is how much of the quota the records of one caller may have, 0 to 1; 0 means half of it. It needs a quota.
	CallerShare float64
	// Sync has each record survive a power cut before its answer leaves, and not just the death of the process.
	Sync bool
	// Erasable has what is a person's sealed with a key of that person's, which deputy journal erase destroys. The keys lie in KeyDir, which has to
	// be writable then.
	Erasable bool
	// InTheClear has a journal that was Erasable go on without: from then on ids of people are recorded as they are. Without it a server does not
	// start on such a journal unless Erasable is set.
	InTheClear bool
	// PersonalTypes are the types of objects whose ids are a person's, besides user; it takes Erasable.
	PersonalTypes []string
	// OpenFields are the fields of caveat contexts that records hold as they are; of all others they hold a keyed digest.
	OpenFields []string
}

const (
	// journalRetention is how long records are kept unless it is said.
	journalRetention = 90 * 24 * time.Hour
	// minQuota is the least quota, in bytes: a segment and the reserve fit into it several times.
	minQuota = 256 << 20
)

// JournalDir returns where in a data directory the journal is, unless it is kept elsewhere.
func JournalDir(dataDir string) string { return filepath.Join(dataDir, "journal") }

// KeyDir returns where the keys are of a journal in a directory, or in a data directory, unless they are kept elsewhere: beside it.
func KeyDir(dir string) string { return filepath.Clean(dir) + ".keys" }

// complete fills in where the journal of a server on an engine is, and refuses what contradicts itself.
func (j Journal) complete(e engine.Config) (Journal, error) {
	if j.Erasable && j.InTheClear {
		return j, errors.New("daemon: Journal.Erasable and Journal.InTheClear contradict each other: set one of them")
	}
	if len(j.PersonalTypes) > 0 && !j.Erasable && !j.Off {
		return j, errors.New("--journal-personal-types is set, and --journal-erasable is not: set it too, or leave the types out")
	}
	if j.Off {
		for _, one := range []struct {
			flag string
			set  bool
		}{
			{"--journal-dir", j.Dir != ""}, {"--journal-key-dir", j.KeyDir != ""}, {"--journal-sync", j.Sync},
			{"--journal-context-fields", len(j.OpenFields) > 0}, {"--journal-witness", j.Witness != ""}, {"--journal-witness-key", j.WitnessKey != ""},
			{"--journal-answer-unrecorded", j.AnswerUnrecorded}, {"--journal-retention", j.Retention != 0},
			{"--journal-quota-mib", j.QuotaBytes != 0}, {"--journal-caller-share", j.CallerShare != 0},
			{"--journal-erasable", j.Erasable}, {"--journal-personal-types", len(j.PersonalTypes) > 0},
		} {
			if one.set {
				return j, fmt.Errorf("%s is set, and --journal is off: leave one of them out", one.flag)
			}
		}
		return j, nil
	}
	beside := j.Dir
	if e.Dir != "" {
		beside = e.Dir
		if j.Dir == "" {
			j.Dir = JournalDir(e.Dir)
		}
	}
	if j.Dir == "" {
		if !reflect.DeepEqual(j, Journal{}) {
			return j, fmt.Errorf("the journal is set up, and the engine %s has no directory for it: name one with --journal-dir", e.Kind)
		}
		j.Off = true
		return j, nil
	}
	if j.KeyDir == "" {
		j.KeyDir = KeyDir(beside)
	}
	if (j.Witness == "") != (j.WitnessKey == "") {
		return j, errors.New("--journal-witness and --journal-witness-key are needed together: where the witness answers, and the key that verifies it")
	}
	switch {
	case j.Retention < 0:
		return j, errors.New("--journal-retention is negative: it is how long records are kept at least; 0 means 2160h, 90 days")
	case j.QuotaBytes < 0 || j.QuotaBytes > 0 && j.QuotaBytes < minQuota:
		return j, fmt.Errorf("--journal-quota-mib must be %d or more, or 0 for as much as the disk has", minQuota>>20)
	case !(j.CallerShare >= 0 && j.CallerShare <= 1): // NaN is neither
		return j, errors.New("--journal-caller-share is not a share, 0 to 1")
	case j.CallerShare > 0 && j.QuotaBytes == 0:
		return j, errors.New("--journal-caller-share is a share of the quota: set --journal-quota-mib, or leave it out")
	}
	j.Retention = orDefault(j.Retention, journalRetention)
	return j, j.checkPlaces(e.Dir)
}

// checkPlaces refuses directories that lie where they must not.
func (j Journal) checkPlaces(dataDir string) error {
	dir, keys := resolved(j.Dir), resolved(j.KeyDir)
	if inside(keys, dir) {
		return fmt.Errorf("--journal-key-dir %s lies in the journal's directory %s: name one outside, so that a copy of the journal holds no key",
			j.KeyDir, j.Dir)
	}
	if dataDir == "" {
		return nil
	}
	data := resolved(dataDir)
	switch {
	case inside(keys, data):
		return fmt.Errorf("--journal-key-dir %s lies in the data directory %s: name one outside, so that a copy of the data holds no key",
			j.KeyDir, dataDir)
	case dir == data:
		return fmt.Errorf("--journal-dir %s is the data directory: name another, or leave it out, which means %s", j.Dir, JournalDir(dataDir))
	case inside(dir, resolved(StoreDir(dataDir))):
		return fmt.Errorf("--journal-dir %s lies in the store's directory %s: name one outside of it", j.Dir, StoreDir(dataDir))
	}
	return nil
}

// resolved is a path without links, as far as it exists.
func resolved(path string) string {
	if absolute, err := filepath.Abs(path); err == nil {
		path = absolute
	}
	for rest := ""; ; {
		if found, err := filepath.EvalSymlinks(path); err == nil {
			return filepath.Join(found, rest)
		}
		parent := filepath.Dir(path)
		if parent == path {
			return filepath.Join(path, rest)
		}
		path, rest = parent, filepath.Join(filepath.Base(path), rest)
	}
}

// inside reports whether a path is a directory, or lies in it.
func inside(path, dir string) bool {
	from, err := filepath.Rel(dir, path)
	return err == nil && from != ".." && !strings.HasPrefix(from, ".."+string(filepath.Separator))
}

// checkJournal refuses a journal whose keys are not there, or that was begun with settings which these contradict.
func (c Config) checkJournal() error {
	if c.Journal.Off {
		return nil
	}
	if witness := c.Journal.witness(); witness != nil {
		if err := witness.Check(); err != nil {
			return err
		}
	}
	if c.journalExists() {
		if _, err := c.openKeys(); err != nil {
			return err
		}
	}
	_, err := c.sealedBefore()
	return err
}

// witness is nil where there is none.
func (j Journal) witness() *journal.WitnessConfig {
	if j.Witness == "" {
		return nil
	}
	return &journal.WitnessConfig{URL: j.Witness, Key: j.WitnessKey}
}

// openKeys opens the journal's keys, and makes those of a journal that does not exist yet.
func (c Config) openKeys() (*journal.Keys, error) {
	keys, err := journal.OpenKeys(c.Journal.KeyDir, !c.journalExists())
	if err != nil {
		return nil, fmt.Errorf("%w (the keys of the journal in %s are in --journal-key-dir %s)", err, c.Journal.Dir, c.Journal.KeyDir)
	}
	return keys, nil
}

// openJournal opens the journal of the store; nil where there is none.
func (c Config) openJournal(store string, log *zap.Logger) (*journal.Journal, error) {
	if c.Journal.Off {
		return nil, nil //nolint:nilnil // nil records nothing
	}
	keys, err := c.openKeys()
	if err != nil {
		return nil, err
	}
	evaluator := deputyv1.Evaluator_EVALUATOR_SPICEDB
	if c.Evaluator == EvaluatorNative {
		evaluator = deputyv1.Evaluator_EVALUATOR_NATIVE
	}
	personal, err := c.personal(keys.Secret(), log)
	if err != nil {
		return nil, err
	}
	opened, err := journal.Open(journal.Config{
		Dir: c.Journal.Dir, FS: c.journalFiles, Store: store, Keys: keys, Sync: c.Journal.Sync, OpenFields: c.Journal.OpenFields,
		Evaluator: evaluator, Personal: personal, Witness: c.Journal.witness(), AnswerUnrecorded: c.Journal.AnswerUnrecorded,
		Retention: c.Journal.Retention, QuotaBytes: c.Journal.QuotaBytes, CallerShare: c.Journal.CallerShare, Log: log,
	})
	if err != nil {
		if personal != nil {
			err = errors.Join(err, personal.Close())
		}
		return nil, err
	}
	of, _, _ := strings.Cut(strings.TrimPrefix(opened.Origin(), "deputy/"), "/")
	switch {
	case of == store:
	case c.followsDeputy():
		log.Info("the journal began with another store than the one that is followed now: it goes on, and a note in it names the store that is followed from now on",
			zap.String("began with", of), zap.String("follows", store))
	default:
		return nil, errors.Join(fmt.Errorf("the journal in %s is that of %s, and %s: move the directory away, "+
			"and keep it as evidence, or name another one with --journal-dir", c.Journal.Dir, storeNamed(of), c.storeServed(store)), opened.Close())
	}
	return opened, nil
}

// followsDeputy reports whether the server follows another Deputy. The store of that one has another id once it was promoted or restored, as the server
// sees while it runs too. So such a server's journal is not one store's: a note says which store is followed from there on, when the server starts, and
// when it changes. What records name of a store's revisions names the store.
func (c Config) followsDeputy() bool { return c.Following.On && c.Engine.Kind == engine.Remote }

// storeNamed names a store by its id, "" being one whose id is not known.
func storeNamed(id string) string {
	if id == "" {
		return "a store whose id is not known"
	}
	return "the store " + id
}

// storeServed says which store the server is over.
func (c Config) storeServed(id string) string {
	if id == "" {
		return fmt.Sprintf("the engine %s does not say which store this is", c.Engine.Kind)
	}
	return "this store is " + id
}

// sealedBefore returns the file with the keys of people, if ids of people were sealed in the journal so far and are not to be any more; "" otherwise. It
// refuses that unless it was said in so many words.
func (c Config) sealedBefore() (file string, err error) {
	if c.Journal.Erasable {
		return "", nil
	}
	file = filepath.Join(c.Journal.KeyDir, persons.FileName)
	if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if !c.Journal.InTheClear {
		return "", fmt.Errorf("the ids of people are sealed in the journal so far (%s has their keys), and --journal-erasable is not set: set it, or say "+
			"--journal-erasable=false, and from now on ids of people are recorded as they are, and cannot be erased", file)
	}
	return file, nil
}

// personal returns what seals what is a person's, or else opens what was sealed while that was set; nil where nothing ever was.
func (c Config) personal(secret []byte, log *zap.Logger) (*journal.Personal, error) {
	if !c.Journal.Erasable {
		file, err := c.sealedBefore()
		if err != nil {
			return nil, err
		}
		if file == "" {
			return nil, nil //nolint:nilnil // nil seals nothing
		}
		log.Warn("the ids of people are recorded as they are from now on, and cannot be erased, because --journal-erasable=false says so",
			zap.String("keys of people", file))
	}
	keys, err := persons.Open(persons.Config{
		Dir: c.Journal.KeyDir, FS: c.journalFiles, Secret: secret, ReadOnly: !c.Journal.Erasable,
	})
	if err != nil {
		return nil, err
	}
	if damaged := keys.Damaged(); damaged > 0 {
		log.Error("keys of persons are not as they were written, and what they seal is taken for erased; put the file back from a copy",
			zap.String("file", filepath.Join(c.Journal.KeyDir, persons.FileName)), zap.Int("keys", damaged))
	}
	return journal.NewPersonal(keys, c.Journal.PersonalTypes), nil
}

// noteHistory records that what is followed is another one than before, or has another history. What was asked for before may be answered, and recorded,
// after it; the revisions of such records are of before.
func (d *Daemon) noteHistory(before, now follow.Identity) {
	if d.journal == nil {
		return
	}
	if err := d.journal.Note(fmt.Sprintf("from here on the server follows %s; before, it followed %s", now, before)); err != nil {
		d.log.Error("the journal takes no record that another store or history is followed now", zap.String("now", string(now)), zap.Error(err))
	}
}

// noteStart records that the server has started, how it is set up, and which store it follows. While nothing can be written a server starts only where it
// may answer without records.
func (d *Daemon) noteStart(store string) error {
	if d.journal == nil {
		return nil
	}
	j := d.cfg.Journal
	text := fmt.Sprintf("the server started: deputy %s, engine %s, evaluator %s, sync %t, erasable %t, answer unrecorded %t, retention %s",
		version(), d.cfg.Engine.Kind, d.cfg.Evaluator, j.Sync, j.Erasable, j.AnswerUnrecorded, j.Retention)
	if d.cfg.followsDeputy() {
		text += ", follows " + storeNamed(store)
	}
	var err error
	if d.journal.Written() == 0 {
		err = d.journal.Note("the journal begins: " + d.journal.Origin())
	}
	if err == nil {
		err = d.journal.Note(text)
	}
	switch {
	case err == nil:
		return nil
	case j.AnswerUnrecorded:
		d.log.Error("the journal takes no record that the server has started, and --journal-answer-unrecorded lets it answer nevertheless", zap.Error(err))
		return nil
	default:
		return fmt.Errorf("the journal takes no record that the server has started, and nothing would be answered without records: %w", err)
	}
}

// closeJournal records that the server has stopped, as the last there is, and closes the journal.
func (d *Daemon) closeJournal() error {
	if d.journal == nil {
		return nil
	}
	err := d.gate.Summarize(context.Background())
	if unnoted := d.journal.Note("the server stopped"); unnoted != nil {
		d.log.Warn("the journal has no record that the server has stopped", zap.Error(unnoted))
	}
	return errors.Join(err, d.journal.Close())
}

// version is that of the module of this program, which may be one that opens the server in code.
func version() string {
	const module = "github.com/deputyauth/deputy"
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "of an unknown version"
	}
	for _, m := range append(info.Deps, &info.Main) {
		if m.Path == module {
			return m.Version
		}
	}
	return "of an unknown version"
}

// warnPersonalTypes says in the log which of the types that are personal the schema does not have: their names may be misspelt, and objects whose
// ids were to be sealed are recorded as they are. A store that has no types yet is not compared.
func (d *Daemon) warnPersonalTypes(ctx context.Context) {
	if d.journal == nil || len(d.cfg.Journal.PersonalTypes) == 0 {
		return
	}
	snap, err := d.graph.Snapshot(ctx, authz.Freshness{})
	if err != nil {
		return
	}
	schema, err := snap.Schema(ctx)
	if err != nil || len(schema.Types) == 0 {
		return
	}
	for _, name := range d.cfg.Journal.PersonalTypes {
		if schema.Types[name] == nil {
			d.log.Warn("the schema has no type of the name that --journal-personal-types has: if it is misspelt, ids of that type are recorded as they are",
				zap.String("type", name))
		}
	}
}

// journalExists reports whether there is a journal already. Its keys are not made anew then: with others its ids and its signatures would mean nothing.
func (c Config) journalExists() bool {
	files := c.journalFiles
	if files == nil {
		files = vfs.Default
	}
	segments, err := files.List(files.PathJoin(c.Journal.Dir, "segments"))
	return err == nil && len(segments) > 0
}
