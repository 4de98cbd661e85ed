package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/mod/sumdb/note"

	"github.com/deputyauth/deputy/pkg/daemon"
	"github.com/deputyauth/deputy/pkg/smallfile"
)

// maxJournalName bounds the file with the name of a journal, in bytes.
const maxJournalName = 1 << 12

// isJournal reports whether a directory is that of a journal, or what is left of one.
func isJournal(dir string) bool {
	return slices.ContainsFunc([]string{"origin", "verifier.key"}, func(name string) bool {
		_, err := os.Stat(filepath.Join(dir, name))
		return err == nil
	})
}

// journalsIn returns the directories of the journals that a directory stands for: itself, or the journal of a data directory. Another directory
// stands for those of all journals below, as deputy journal collect puts them there, and collected says so. Its errors begin with word, by which
// the caller's help knows the directory.
func journalsIn(word, dir string) (dirs []string, collected bool, err error) {
	for _, one := range []string{dir, daemon.JournalDir(dir)} {
		if isJournal(one) {
			return []string{one}, false, nil
		}
	}
	const instead = "name the directory of a journal, a data directory, or one with journals below it"
	switch about, err := os.Stat(dir); {
	case errors.Is(err, fs.ErrNotExist):
		return nil, false, fmt.Errorf("%s %s does not exist: %s", word, dir, instead)
	case err != nil:
		return nil, false, fmt.Errorf("%s %w", word, err)
	case !about.IsDir():
		return nil, false, fmt.Errorf("%s %s is not a directory: %s", word, dir, instead)
	}
	err = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.IsDir() || !isJournal(path) {
			return err
		}
		dirs = append(dirs, path)
		return filepath.SkipDir
	})
	switch {
	case err != nil:
		return nil, false, fmt.Errorf("%s %w", word, err)
	case len(dirs) == 0:
		return nil, false, fmt.Errorf("%s %s holds no journal, and no directory below it does: a journal has the files origin and verifier.key", word, dir)
	}
	return dirs, true, nil
}

// journalName returns the name of the journal in a directory; empty where nothing says it.
func journalName(dir string) string {
	text, err := smallfile.Read(filepath.Join(dir, "origin"), maxJournalName)
	if err != nil {
		return ""
	}
	return strings.TrimSuffix(string(text), "\n")
}

// perJournal is what a flag gives for each of several journals, by their names.
type perJournal struct {
	flag string
	of   map[string]string
}

// add notes what is given for a journal.
func (p *perJournal) add(name, value string) error {
	if before, found := p.of[name]; found && before != value {
		return fmt.Errorf("%s is given twice for the journal %s: leave one out", p.flag, name)
	}
	if p.of == nil {
		p.of = map[string]string{}
	}
	p.of[name] = value
	return nil
}

// verifierKeys reads the keys that verify checkpoints, each as it is or in a file.
func verifierKeys(given []string) (perJournal, error) {
	keys := perJournal{flag: "--key"}
	for _, key := range given {
		if !strings.Contains(key, "+") {
			text, err := smallfile.Read(key, maxVerifierKey)
			if err != nil {
				return keys, fmt.Errorf("--key: %w", err)
			}
			key = strings.TrimSpace(string(text))
		}
		verifier, err := note.NewVerifier(key)
		if err != nil {
			return keys, errors.New("--key does not hold a key that verifies checkpoints: such a key is written NAME+HASH+KEY, " +
				"as in the file verifier.key of a journal")
		}
		if err := keys.add(verifier.Name(), key); err != nil {
			return keys, err
		}
	}
	return keys, nil
}

// each returns what is given for each of the journals in the directories; empty strings where nothing is given at all. A journal for which nothing
// is given is an error if all need it. So is one that is given for and that is not there: somebody may have removed it.
func (p *perJournal) each(dirs []string, all bool) ([]string, error) {
	values := make([]string, len(dirs))
	var names []string
	for i, dir := range dirs {
		name := journalName(dir)
		names = append(names, name)
		value, found := p.of[name]
		if !found && all && len(p.of) > 0 {
			return nil, fmt.Errorf("%s: nothing is given for the journal %s, which is in %s: give it for each journal, or for none", p.flag, name, dir)
		}
		values[i] = value
	}
	for name := range p.of {
		if !slices.Contains(names, name) {
			return nil, fmt.Errorf("%s is given for the journal %s, which is not in %s", p.flag, name, strings.Join(dirs, ", "))
		}
	}
	return values, nil
}
