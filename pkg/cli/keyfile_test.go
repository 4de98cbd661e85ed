package cli

import (
	"os"
	"path/filepath"
	"slices"
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

// TestKeysOfAFile: what editors put around a key is no part of it, and a key that nobody could use is named by its line.
func TestKeysOfAFile(t *testing.T) {
	const a, b = "key-a-of-16-bytes", "key-b-of-16-bytes"
	path := filepath.Join(t.TempDir(), "keys")
	for name, test := range map[string]struct{ text, want string }{
		"a byte order mark":                     {"\ufeff" + a + "\n" + b + "\n", ""},
		"a byte order mark, and lines' own end": {"\ufeff" + a + "\r\n\r\n" + b, ""},
		"a byte order mark within":              {a + "\n\ufeff" + b, "--preshared-key-file: the key in line 2 of " + path + " has a character that is not allowed (byte 1)"},
		"UTF-16":                                {"\xff\xfek\x00e\x00y\x00-\x00o\x00f\x00-\x00i\x00t\x00", "line 1 of " + path + " has a character that is not allowed (byte 1)"},
		"a short one":                           {a + "\n\n" + b[:15] + "\n", "line 3 of " + path + " has 15 bytes and needs at least 16; generate one with: openssl rand -hex 32"},
		"a zero":                                {a + "\x00", "has a character that is not allowed (byte 18)"},
		"an umlaut":                             {a + "ü", "has a character that is not allowed (byte 18)"},
	} {
		if err := os.WriteFile(path, []byte(test.text), 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := parseServe(t, []string{"--preshared-key-file", path}, nil, "")
		switch {
		case test.want == "" && (err != nil || !slices.Equal(s.config.PresharedKeys, []string{a, b})):
			t.Errorf("%s: %q, %v", name, s.config.PresharedKeys, err)
		case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "of-16")):
			t.Errorf("%s: %v, want %q and no key", name, err, test.want)
		}
	}
}
