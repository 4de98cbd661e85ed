package daemon_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/zap"

	"github.com/deputyauth/deputy/pkg/daemon"
	"github.com/deputyauth/deputy/pkg/engine"
)

// TestPlacesOfTheJournal: the keys of a journal never lie in what is copied as the data, however that is written.
func TestPlacesOfTheJournal(t *testing.T) {
	root := t.TempDir()
	t.Chdir(root)
	data := filepath.Join(root, "data")
	if err := os.MkdirAll(filepath.Join(data, "graph"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(data, "graph"), filepath.Join(root, "link")); err != nil {
		t.Fatal(err)
	}
	embedded := engine.Config{Kind: engine.Embedded, Dir: data}
	memory := engine.Config{Kind: engine.Memory}
	for _, test := range []struct {
		name    string
		engine  engine.Config
		journal daemon.Journal
		want    string
	}{
		{"by default", embedded, daemon.Journal{}, ""},
		{"the data directory by a relative path", engine.Config{Kind: engine.Embedded, Dir: "data"}, daemon.Journal{}, ""},
		{"off", embedded, daemon.Journal{Off: true}, ""},
		{"elsewhere", embedded, daemon.Journal{Dir: "elsewhere", KeyDir: "keys"}, ""},
		{"keys whose name begins like the data's", embedded, daemon.Journal{KeyDir: "database"}, ""},
		{"keys in the data directory", embedded, daemon.Journal{KeyDir: filepath.Join(data, "keys")}, "lies in the data directory"},
		{"keys in it by a relative path", embedded, daemon.Journal{KeyDir: "data/keys"}, "lies in the data directory"},
		{"keys in it by a link", embedded, daemon.Journal{KeyDir: "link/keys"}, "lies in the data directory"},
		{"the data directory itself", embedded, daemon.Journal{KeyDir: data + "/."}, "lies in the data directory"},
		{"keys in the journal", embedded, daemon.Journal{Dir: "elsewhere", KeyDir: "elsewhere/keys"}, "lies in the journal's directory"},
		{"keys in the journal of an engine without a directory", memory, daemon.Journal{Dir: "j", KeyDir: "j"}, "lies in the journal's directory"},
		{"the journal is the data directory", embedded, daemon.Journal{Dir: "data"}, "is the data directory"},
		{"the journal in the store", embedded, daemon.Journal{Dir: "data/graph/journal"}, "lies in the store's directory"},
		{"off, and set", embedded, daemon.Journal{Off: true, Sync: true}, "--journal-sync is set, and --journal is off"},
		{"off, and with a directory", embedded, daemon.Journal{Off: true, Dir: "j"}, "--journal-dir is set, and --journal is off"},
		{"a quota that is too small", embedded, daemon.Journal{QuotaBytes: 1 << 20}, "--journal-quota-mib must be 256 or more"},
		{"a share of no quota", embedded, daemon.Journal{CallerShare: 0.1}, "set --journal-quota-mib"},
		{"a share that is none", embedded, daemon.Journal{CallerShare: 1.1, QuotaBytes: 1 << 30}, "is not a share"},
		{"a witness without a key", embedded, daemon.Journal{Witness: "https://w"}, "are needed together"},
		{"none", memory, daemon.Journal{}, ""},
		{"none, and set", memory, daemon.Journal{Sync: true}, "has no directory for it: name one with --journal-dir"},
		{"an engine without a directory, and one for the journal", memory, daemon.Journal{Dir: "j"}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := daemon.Config{PresharedKeys: []string{adminKey}, Engine: test.engine, Journal: test.journal}.Check()
			switch {
			case test.want == "" && err != nil:
				t.Error(err)
			case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)):
				t.Errorf("the error is %v, want one that says %q", err, test.want)
			}
		})
	}
}

// TestJournalIsMade: a server has a journal in its data directory and keys beside it, unless it is told otherwise, and decisions have ids.
func TestJournalIsMade(t *testing.T) {
	for _, test := range []struct {
		name             string
		engine           func(dir string) engine.Config
		journal          func(dir string) daemon.Journal
		records, secrets string
	}{
		{"by default", embeddedIn, func(string) daemon.Journal { return daemon.Journal{} }, "data/journal", "data.keys"},
		{"elsewhere", embeddedIn, func(dir string) daemon.Journal {
			return daemon.Journal{Dir: filepath.Join(dir, "j"), KeyDir: filepath.Join(dir, "k")}
		}, "j", "k"},
		{"off", embeddedIn, func(string) daemon.Journal { return daemon.Journal{Off: true} }, "", ""},
		{"no directory", func(string) engine.Config { return engine.Config{Kind: engine.Memory} },
			func(string) daemon.Journal { return daemon.Journal{} }, "", ""},
		{"memory, and a directory", func(string) engine.Config { return engine.Config{Kind: engine.Memory} },
			func(dir string) daemon.Journal { return daemon.Journal{Dir: filepath.Join(dir, "j")} }, "j", "j.keys"},
	} {
		t.Run(test.name, func(t *testing.T) {
			root := t.TempDir()
			d, err := daemon.Open(t.Context(), daemon.Config{NoListener: true, Engine: test.engine(root), Journal: test.journal(root)}, zap.NewNop())
			if err != nil {
				t.Fatal(err)
			}
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
			var journals, keys []string
			err = filepath.WalkDir(root, func(path string, _ os.DirEntry, err error) error {
				switch name, _ := filepath.Rel(root, filepath.Dir(path)); filepath.Base(path) {
				case "segments":
					journals = append(journals, name)
				case "secret.key":
					keys = append(keys, name)
				}
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(journals, " "); got != test.records {
				t.Errorf("journals are in %q, want %q", got, test.records)
			}
			if got := strings.Join(keys, " "); got != test.secrets {
				t.Errorf("keys are in %q, want %q", got, test.secrets)
			}
		})
	}
}

func embeddedIn(dir string) engine.Config {
	return engine.Config{Kind: engine.Embedded, Dir: filepath.Join(dir, "data")}
}
