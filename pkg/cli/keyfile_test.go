package cli

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

func TestTokenKeyIsMadeOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token.key")
	var made [16]string
	var group sync.WaitGroup
	for i := range made {
		group.Go(func() {
			key, err := tokenKey(path)
			if err != nil {
				t.Error(err)
			}
			made[i] = string(key)
		})
	}
	group.Wait()
	for i, key := range made {
		if len(key) < tokenKeyBytes || key != made[0] {
			t.Fatalf("key %d is %q, key 0 is %q", i, key, made[0])
		}
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("the key file is readable by others: %v", info.Mode())
	}
	if left, _ := os.ReadDir(filepath.Dir(path)); len(left) != 1 {
		t.Errorf("temporary files are left: %v", left)
	}
}

func TestTokenKeyRefused(t *testing.T) {
	dir := t.TempDir()
	short := filepath.Join(dir, "short")
	if err := os.WriteFile(short, []byte(strings.Repeat("k", tokenKeyBytes-1)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		short:                               "holds 31 bytes, fewer than 32",
		dir:                                 "is a directory",
		filepath.Join(dir, "absent", "key"): "no such file or directory",
	} {
		if _, err := tokenKey(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: the error is %v, want %q in it", path, err, want)
		}
	}
}

func TestOneKey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(path, []byte("k1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if key, err := oneKey("key", &secrets{}, path); key != "k1" || err != nil {
		t.Errorf("from the file: %q, %v", key, err)
	}
	if key, err := oneKey("key", &secrets{values: []string{"k2"}}, ""); key != "k2" || err != nil {
		t.Errorf("from the flag: %q, %v", key, err)
	}
	if _, err := oneKey("key", &secrets{values: []string{"k2"}}, path); err == nil {
		t.Error("two keys are no error")
	}
	if err := os.WriteFile(path, []byte("\n \n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := oneKey("key", &secrets{}, path); err == nil {
		t.Error("an empty file is no error")
	}
}
