package daemon_test

import (
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/deputyauth/deputy/pkg/daemon"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/pkg/journal"
	"github.com/deputyauth/deputy/schema"
	"github.com/deputyauth/deputy/tests/harness"
)

// notes are what the journal of a data directory says of the server, in order.
func notes(t *testing.T, data string) (found []string) {
	t.Helper()
	reader, err := journal.OpenReader(journal.ReaderConfig{Dir: daemon.JournalDir(data)})
	if err != nil {
		t.Fatal(err)
	}
	_, err = reader.Query(t.Context(), &journal.Query{}, nil, func(f journal.Found) (bool, error) {
		if f.Record.GetKind() == deputyv1.RecordKind_RECORD_KIND_NOTE {
			found = append(found, f.Record.GetNote())
		}
		return true, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// openOnce opens a server and closes it again, and returns its log.
func openOnce(t *testing.T, cfg daemon.Config) *observer.ObservedLogs {
	t.Helper()
	core, logged := observer.New(zap.WarnLevel)
	d, err := daemon.Open(t.Context(), cfg, zap.New(core))
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	return logged
}

// TestJournalSaysWhenTheServerRan: a gap in the service leaves a trace, and records say how the server was set up.
func TestJournalSaysWhenTheServerRan(t *testing.T) {
	t.Parallel()
	var full atomic.Bool
	var written atomic.Int64
	files := errorfs.Wrap(vfs.Default, errorfs.InjectorFunc(func(op errorfs.Op) error {
		// The head of the new segment can still be written, and no record.
		if full.Load() && op.Kind == errorfs.OpFileWrite && strings.Contains(op.Path, "segments") && written.Add(1) > 1 {
			return syscall.ENOSPC
		}
		return nil
	}))
	cfg := daemon.Config{NoListener: true, Engine: embeddedIn(t.TempDir())}
	openOnce(t, cfg)
	cfg.Journal = daemon.Journal{Sync: true, Erasable: true}
	openOnce(t, cfg.JournalOn(files))

	got := notes(t, cfg.Engine.Dir)
	for i, want := range []string{
		"the journal begins: deputy/",
		"the server started: deputy (devel), engine embedded, evaluator native, sync false, erasable false, answer unrecorded false, retention 2160h0m0s",
		"the server stopped",
		"the server started: deputy (devel), engine embedded, evaluator native, sync true, erasable true,",
		"the server stopped",
	} {
		if i >= len(got) || !strings.HasPrefix(got[i], want) {
			t.Fatalf("the notes are %q, want %q as number %d", got, want, i)
		}
	}
	if len(got) != 5 {
		t.Errorf("the notes are %q", got)
	}

	full.Store(true)
	d, err := daemon.Open(t.Context(), cfg.JournalOn(files), zap.NewNop())
	if err == nil {
		_ = d.Close()
	}
	if err == nil || !strings.Contains(err.Error(), "the journal takes no record that the server has started") {
		t.Errorf("with a journal that takes no records a server starts, or says %v", err)
	}
}

// TestErasableStays: a journal whose people are sealed does not go on in the clear because a setting is forgotten.
func TestErasableStays(t *testing.T) {
	t.Parallel()
	cfg := daemon.Config{NoListener: true, Engine: embeddedIn(t.TempDir()), Journal: daemon.Journal{Erasable: true}}
	openOnce(t, cfg)
	cfg.Journal.Erasable = false
	d, err := daemon.Open(t.Context(), cfg, zap.NewNop())
	if err == nil {
		_ = d.Close()
	}
	if err == nil || !strings.Contains(err.Error(), "--journal-erasable is not set: set it, or say --journal-erasable=false") {
		t.Errorf("without the setting a server starts, or says %v", err)
	}
	cfg.Journal.InTheClear = true
	if logged := openOnce(t, cfg).FilterMessageSnippet("recorded as they are from now on"); logged.Len() != 1 {
		t.Errorf("it is logged %d times that people are not sealed any more", logged.Len())
	}
	cfg.Journal.Erasable = true
	if err := cfg.Check(); err == nil {
		t.Error("both are set, and it is fine")
	}
}

// TestPersonalTypesAreNamed: a type that the schema does not have is said, once there is a schema.
func TestPersonalTypesAreNamed(t *testing.T) {
	t.Parallel()
	cfg := daemon.Config{
		Engine: harness.Embedded(t), Journal: daemon.Journal{Erasable: true, PersonalTypes: []string{"ticket", "tikcet"}},
	}
	s := harness.Start(t, cfg)
	s.WriteSchema(t, schema.Core+"\ndefinition ticket {}\n")
	s.Stop()
	<-s.Stopped
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s.Failed = true // it is closed already
	cfg.NoListener = true
	logged := openOnce(t, cfg).FilterMessageSnippet("--journal-personal-types")
	var named []any
	for _, l := range logged.All() {
		named = append(named, l.ContextMap()["type"])
	}
	if !slices.Equal(named, []any{"tikcet"}) {
		t.Errorf("it is said of %v that the schema does not have them", named)
	}
}
