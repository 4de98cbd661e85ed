package file_test

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/deputyauth/deputy/pkg/caller/file"
)

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestNewKey: the digest in the file is that of the key, whose shape scanners for secrets know.
func TestNewKey(t *testing.T) {
	t.Parallel()
	key, digest := file.NewKey()
	if !regexp.MustCompile(`^deputy_[0-9a-f]{64}$`).MatchString(key) {
		t.Errorf("the key is %s", key)
	}
	if want := fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(key))); digest != want {
		t.Errorf("the digest is %s, want %s", digest, want)
	}
	if other, _ := file.NewKey(); other == key {
		t.Error("two keys are the same")
	}
}

// TestEditsTogether: of many that edit a file at once, which is not there at first, none is lost, and nobody reads half a file meanwhile.
func TestEditsTogether(t *testing.T) {
	t.Parallel()
	const editors = 20
	path := filepath.Join(t.TempDir(), "callers.yaml")
	var all sync.WaitGroup
	for i := range editors {
		all.Go(func() {
			err := file.Edit(path, true, func(d *file.Document) error {
				return d.Add(file.Entry{
					Name: fmt.Sprintf("c%d", i), Roles: []string{"checker"}, Tenants: file.Set{Names: []string{"acme"}},
					Credentials: []file.Credential{{ID: "k", DNS: fmt.Sprintf("c%d", i)}},
				})
			})
			if err != nil {
				t.Error(err)
			}
			text, err := file.Read(path)
			if err == nil {
				_, err = file.Decode(path, text)
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	got, err := file.Decode(path, []byte(read(t, path)))
	if err != nil || len(got.Callers) != editors {
		t.Errorf("%d callers, %v", len(got.Callers), err)
	}
	left, err := filepath.Glob(filepath.Join(filepath.Dir(path), ".callers.yaml*"))
	if err != nil || len(left) != 1 || !strings.HasSuffix(left[0], ".lock") {
		t.Errorf("beside the file are %q, %v", left, err)
	}
}

// TestEditRefused: a file stays as it is where an edit fails, or would make it wrong, or cannot be kept.
func TestEditRefused(t *testing.T) {
	t.Parallel()
	const text = "callers:\n- {name: a, roles: [checker], tenants: [acme], credentials: [{id: k, dns: a}]} # a\n"
	entry := file.Entry{Name: "b", Roles: []string{"checker"}, Tenants: file.Set{All: true}}
	for want, change := range map[string]func(d *file.Document) error{
		"no":                               func(*file.Document) error { return errors.New("no") },
		"there is a caller a already":      func(d *file.Document) error { return d.Add(file.Entry{Name: "a"}) },
		"has no caller \"c\"; there are a": func(d *file.Document) error { _, err := d.Revoke("c", ""); return err },
		"roles is an empty list":           func(d *file.Document) error { return d.Add(file.Entry{Name: "b", Roles: nil}) },
		"already proves that a call is from a": func(d *file.Document) error {
			_, err := d.AddCredential("a", file.Credential{DNS: "a"})
			return err
		},
		"changed by an edit of one": func(d *file.Document) error {
			_, err := d.Revoke("a", "k")
			return errors.Join(err, d.Add(entry))
		},
	} {
		path := filepath.Join(t.TempDir(), "callers.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := file.Edit(path, true, change); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
		if got := read(t, path); got != text {
			t.Errorf("the file is\n%s", got)
		}
	}
	dir := t.TempDir()
	if err := file.Edit(dir, true, func(*file.Document) error { return nil }); err == nil || !strings.Contains(err.Error(), "is no regular file") {
		t.Errorf("a folder: %v", err)
	}
	if err := file.Edit(filepath.Join(dir, "none"), false, func(*file.Document) error { return nil }); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("no file: %v", err)
	}
	if err := os.Symlink("nowhere", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := file.Edit(filepath.Join(dir, "link"), true, func(*file.Document) error { return nil }); err == nil {
		t.Error("a link that leads nowhere was followed")
	}
	if err := file.Edit(filepath.Join(dir, "no/such/folder"), true, func(*file.Document) error { return nil }); err == nil {
		t.Error("no folder")
	}
}

// TestExpireKeys: preshared keys get an end, but for those that end sooner; certificates do not.
func TestExpireKeys(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "callers.yaml")
	text := one("credentials:\n    - {id: never, key: sha256:" + digest1 + "} # ours\n    - {id: sooner, key: sha256:" + digest2 +
		", expires: 2027-01-01T00:00:00Z}\n    - {id: certificate, dns: a}")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	at := time.Date(2027, 2, 1, 0, 0, 0, 0, time.UTC)
	if err := file.Edit(path, false, func(d *file.Document) error {
		ids, err := d.ExpireKeys("a", at)
		if len(ids) != 1 || ids[0] != "never" {
			t.Errorf("%q have got an end", ids)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	got, err := file.Decode(path, []byte(read(t, path)))
	if err != nil {
		t.Fatal(err)
	}
	c := got.Callers[0].Credentials
	if !c[0].Expires.Equal(at) || c[1].Expires.Month() != time.January || !c[2].Expires.IsZero() {
		t.Errorf("the credentials are %+v", c)
	}
	if !strings.Contains(read(t, path), "# ours") {
		t.Errorf("a comment is lost:\n%s", read(t, path))
	}
}
