package daemon_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.uber.org/zap"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/daemon"
	"github.com/deputyauth/deputy/pkg/engine"
	"github.com/deputyauth/deputy/pkg/journal/verify"
)

// TestBentJournalRefusesTheStart: a server does not start on a journal that is not as it was written up to its last checkpoint. The error names the
// file and what is wrong with it, and says what to do. Nothing in the directory is changed.
func TestBentJournalRefusesTheStart(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	const asEvidence = "nothing was changed. Keep the directory as evidence: move it away"
	older, whole := filepath.Join(root, "older"), filepath.Join(root, "whole")
	recorded(t, filepath.Join(root, "data"), 300)
	copied(t, filepath.Join(root, "data"), older)
	recorded(t, filepath.Join(root, "data"), 20)
	copied(t, filepath.Join(root, "data"), whole)
	recorded(t, filepath.Join(root, "other", "data"), 10)
	keys := filepath.Join(root, "data.keys")

	remove := func(name string) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			t.Helper()
			if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	change := func(name string, how func([]byte) []byte) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			t.Helper()
			found, err := filepath.Glob(filepath.Join(dir, name))
			if err != nil || len(found) == 0 {
				t.Fatalf("%s: %v", name, err)
			}
			path := found[len(found)-1]
			b, err := os.ReadFile(path)
			if err = errors.Join(err, os.WriteFile(path, how(b), 0o600)); err != nil {
				t.Fatal(err)
			}
		}
	}
	from := func(other, name string) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			t.Helper()
			b, err := os.ReadFile(filepath.Join(other, "journal", name))
			if err = errors.Join(err, os.WriteFile(filepath.Join(dir, name), b, 0o600)); err != nil {
				t.Fatal(err)
			}
		}
	}
	flip := func(at int) func([]byte) []byte {
		return func(b []byte) []byte { b[(at+len(b))%len(b)] ^= 1; return b }
	}
	half := func(b []byte) []byte { return b[:len(b)/2] }
	other := filepath.Join(root, "other", "data")
	tests := []struct {
		name string
		bend func(t *testing.T, dir string)
		keys string
		want []string
	}{
		{"as it was", func(*testing.T, string) {}, keys, nil},
		{"the checkpoint is gone", remove("checkpoint"), keys, []string{"has records", `"checkpoint"`, "is missing", asEvidence}},
		{"a byte of the checkpoint", change("checkpoint", flip(40)), keys, []string{"journal/checkpoint", asEvidence}},
		{"a byte of its signature", change("checkpoint", flip(-10)), keys, []string{"journal/checkpoint", asEvidence}},
		{"the checkpoint is cut", change("checkpoint", half), keys, []string{"journal/checkpoint", asEvidence}},
		{"another journal's checkpoint", from(other, "checkpoint"), keys, []string{"journal/checkpoint", asEvidence}},
		{"the name is gone", remove("origin"), keys, []string{`"origin"`, "is missing", asEvidence}},
		{"the name is another", from(other, "origin"), keys, []string{"signing.key", "move the journal's directory away"}},
		{"the key is gone", remove("verifier.key"), keys, []string{`"verifier.key"`, "is missing", asEvidence}},
		{"the key is another", from(other, "verifier.key"), keys, []string{"signing.key", "bring back that file", "move the journal's directory away"}},
		{"other keys", func(*testing.T, string) {}, other + ".keys", []string{"signing.key", "bring back that file"}},
		{"the segments are gone", remove("segments"), keys, []string{"has records up to 256 in its tree", "its segments end with record 0", asEvidence}},
		{"the segments are older", func(t *testing.T, dir string) {
			remove("segments")(t, dir)
			copied(t, filepath.Join(older, "journal", "segments"), filepath.Join(dir, "segments"))
		}, keys, []string{"journal/checkpoint", "are missing", asEvidence}},
		{"the last segment is cut", change("segments/*", half), keys, []string{"journal/checkpoint", "are missing", asEvidence}},
		{"a byte of the last segment", change("segments/*", flip(200)), keys, []string{"journal/checkpoint", "are missing", asEvidence}},
		{"a byte of its header", change("segments/*", flip(3)), keys, []string{"journal/segments/", "at byte 0", asEvidence}},
		// What the segments still have is put into the tree anew, which has to have the root that was signed.
		{"the tree is gone", remove("tile"), keys, nil},
		{"a tile is gone", remove("tile/0/000"), keys, nil},
		{"a bundle is gone", remove("tile/entries/000.zst"), keys, nil},
		{"a tile is cut", change("tile/0/000", half), keys, []string{"tile/0/000", asEvidence}},
		{"a byte of a tile", change("tile/0/000", flip(77)), keys, []string{"a record was changed", "deputy journal verify", asEvidence}},
		{"records are said to be removed", func(t *testing.T, dir string) {
			t.Helper()
			if err := os.WriteFile(filepath.Join(dir, "minimum"), []byte("256\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, keys, []string{"minimum", asEvidence}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			data := filepath.Join(t.TempDir(), "data")
			copied(t, whole, data)
			dir := daemon.JournalDir(data)
			test.bend(t, dir)
			before := contents(t, dir)
			d, err := daemon.Open(t.Context(), startedOn(data, test.keys), zap.NewNop())
			if test.want == nil {
				if err != nil {
					t.Fatal(err)
				}
				if err := d.Close(); err != nil {
					t.Fatal(err)
				}
				report, err := verify.Run(t.Context(), verify.Options{Dir: dir})
				if err != nil || len(report.Problems) > 0 || report.Records < 320 {
					t.Errorf("the server starts, and then %+v is found (%v)", report, err)
				}
				return
			}
			if err == nil {
				t.Fatal("the server starts", d.Close())
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("the error does not say %q: %v", want, err)
				}
			}
			for name, b := range contents(t, dir) {
				if was, there := before[name]; !there || !bytes.Equal(was, b) {
					t.Errorf("%s was changed", name)
				}
				delete(before, name)
			}
			if len(before) > 0 {
				t.Errorf("files were removed: %v", before)
			}
		})
	}
}

// startedOn is a server in the process, with data and keys in two directories.
func startedOn(data, keys string) daemon.Config {
	return daemon.Config{
		NoListener: true, Engine: engine.Config{Kind: engine.Embedded, Dir: data}, Journal: daemon.Journal{KeyDir: keys},
	}
}

// recorded has a server record so many decisions, and stops it.
func recorded(t *testing.T, data string, n int) {
	t.Helper()
	d, err := daemon.Open(t.Context(), startedOn(data, daemon.KeyDir(data)), zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	for range n {
		_, err := d.Decide(t.Context(), authz.Case{
			Agent: "bot", Principal: authz.Principal{Object: authz.Object{Type: "user", ID: "alice"}}, Tenant: "acme",
			Resource: authz.Object{Type: "tenant", ID: "acme"}, Permission: "access",
		}, authz.Freshness{})
		if err == nil {
			t.Fatal("a server without a schema decides")
		}
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
}

// copied copies a directory.
func copied(t *testing.T, from, to string) {
	t.Helper()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
}

// contents are the files below a directory, but for those that are beside the evidence.
func contents(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	found := map[string][]byte{}
	err := filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(dir, path)
		if entry.IsDir() || slices.Contains([]string{"lock", "reserve"}, name) {
			return nil
		}
		found[name], err = os.ReadFile(path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}
