package cli

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/deputyauth/deputy/pkg/daemon"
)

// tokenKeyBytes is the least length of a token key, and the length of the randomness in a new one.
const tokenKeyBytes = 32

// readKeys returns the keys in a file, one a line; blank lines and a byte order mark do not count. Without a path there are
// none. name is the flag's name without "--", and check says what a key has to be.
func readKeys(name, path string, check func(key string) error) ([]string, error) {
	if path == "" {
		return nil, nil
	}
	text, err := readNamed("--"+name, path)
	if err != nil {
		return nil, err
	}
	var keys []string
	n := 0
	for line := range strings.Lines(string(bytes.TrimPrefix(text, byteOrderMark))) {
		n++
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		if err := check(line); err != nil {
			return nil, fmt.Errorf("--%s: the key in line %d of %s %w", name, n, path, err)
		}
		keys = append(keys, line)
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("--%s: %s holds no key", name, path)
	}
	return keys, nil
}

// allKeys returns the keys that are given by a flag, and those in the file of the flag "NAME-file".
func allKeys(name string, given *secrets, path string, check func(key string) error) ([]string, error) {
	for i, key := range given.values {
		if err := check(key); err != nil {
			return nil, fmt.Errorf("--%s: key %d %w", name, i+1, err)
		}
	}
	fromFile, err := readKeys(name+"-file", path, check)
	return slices.Concat(given.values, fromFile), err
}

// oneKey returns the key that is given by a flag or stands in the file of the flag "NAME-file", or "". It is shown to somebody
// else's server, who decides how long it has to be.
func oneKey(name string, given *secrets, path string) (string, error) {
	keys, err := allKeys(name, given, path, daemon.CheckKeyCharacters)
	if err != nil {
		return "", err
	}
	switch len(keys) {
	case 0:
		return "", nil
	case 1:
		return keys[0], nil
	default:
		variable := envName(name)
		return "", fmt.Errorf("--%s and --%s-file: give one key, and unset $%s or $%s if the environment has both", name, name, variable, variable+"_FILE")
	}
}

// tokenKey returns the key in the file of --token-key-file.
func tokenKey(path string) ([]byte, error) { return fileKey("--token-key-file", path) }

// fileKey returns the key in the file of a flag, whose surrounding blanks do not count: at least 32 bytes; nil where no file is named. If
// there is no such file it is made, readable by its owner alone, with 32 random bytes as hex digits.
// Of several processes that make it at the same time all get the same key.
func fileKey(flag, path string) ([]byte, error) {
	if path == "" {
		return nil, nil
	}
	text, err := readNamed(flag, path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := makeTokenKey(path); err != nil {
			return nil, fmt.Errorf("%s: %w", flag, err)
		}
		text, err = readNamed(flag, path)
	}
	if err != nil {
		return nil, err
	}
	if text = bytes.TrimSpace(text); len(text) < tokenKeyBytes {
		return nil, fmt.Errorf("%s: %s holds %d bytes, fewer than %d", flag, path, len(text), tokenKeyBytes)
	}
	return text, nil
}

// makeTokenKey writes a new key beside path and links it into place, so that nobody ever reads half a
// key, and a key that somebody else made in the meantime stays.
func makeTokenKey(path string) error {
	key := make([]byte, tokenKeyBytes)
	_, _ = rand.Read(key)                                                             // never fails
	temporary, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(temporary.Name()) }()
	if _, err := temporary.WriteString(hex.EncodeToString(key) + "\n"); err != nil {
		_ = temporary.Close()
		return err
	}
	if err := errors.Join(temporary.Sync(), temporary.Close()); err != nil {
		return err
	}
	if err := os.Link(temporary.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}
