package journal

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/mod/sumdb/note"

	"github.com/deputyauth/deputy/pkg/smallfile"
)

// Keys are the keys of a journal. They lie in a directory of their own, apart from the journal and from the data:
//
//	secret.key   32 bytes, from which the ids of decisions, the digests of contexts and of tools' arguments, and the MACs of segments are derived: the
//	             same on every node
//	signing.key  the key that signs checkpoints, a line in the notation of golang.org/x/mod/sumdb/note
//
// persons.keys, where ids of people are sealed, lies beside them.
type Keys struct {
	secret []byte
	seed   []byte
}

// The files of a key directory.
const (
	secretFile  = "secret.key"
	signingFile = "signing.key"
	// maxKeyFile bounds what is read of one.
	maxKeyFile = 1 << 12
)

// keyName is the name in signing.key. Checkpoints are signed under the origin of their journal, so that one key serves another journal too, once
// an operator has moved the first away.
const keyName = "deputy"

// OpenKeys reads the keys in a directory. With create, a file that is missing is made first, durably. Errors name the file: it is missing, others
// than its owner and group can read it, or it does not hold a key.
func OpenKeys(dir string, create bool) (*Keys, error) {
	if create {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("journal: cannot make the directory of its keys: %w", err)
		}
	}
	secret, err := openKey(filepath.Join(dir, secretFile), create, func() []byte {
		b := make([]byte, MinSecret)
		_, _ = rand.Read(b) // never fails, see crypto/rand
		return b
	})
	if err != nil {
		return nil, err
	}
	if len(secret) != MinSecret {
		return nil, fmt.Errorf("journal: %s has %d bytes, and the secret of a journal has %d: bring back the file as it was",
			filepath.Join(dir, secretFile), len(secret), MinSecret)
	}
	text, err := openKey(filepath.Join(dir, signingFile), create, func() []byte {
		key, _, err := note.GenerateKey(rand.Reader, keyName)
		if err != nil {
			return nil // neither the name nor the source can be wrong; an empty file is refused below
		}
		return []byte(key + "\n")
	})
	if err != nil {
		return nil, err
	}
	seed, err := parseSigningKey(string(text))
	if err != nil {
		return nil, fmt.Errorf("journal: %s does not hold a signing key: bring back the file as it was", filepath.Join(dir, signingFile))
	}
	return &Keys{secret: secret, seed: seed}, nil
}

// Secret is what the ids of decisions, the digests of contexts and of tools' arguments, and the MACs of segments are derived from.
func (k *Keys) Secret() []byte { return k.secret }

// Signer signs checkpoints of the journal with an origin, which is also the name of the key. verifier is the key that verifies them, in the
// notation of C2SP signed-note. Errors: the origin is not the name of a key.
func (k *Keys) Signer(origin string) (signer note.Signer, verifier string, err error) {
	public, _ := ed25519.NewKeyFromSeed(k.seed).Public().(ed25519.PublicKey)
	if verifier, err = note.NewEd25519VerifierKey(origin, public); err != nil {
		return nil, "", fmt.Errorf("journal: no key of the name %q: %w", origin, err)
	}
	signer, err = note.NewSigner(signingKey(origin, public, k.seed))
	if err != nil {
		return nil, "", fmt.Errorf("journal: no key of the name %q: %w", origin, err)
	}
	return signer, verifier, nil
}

// algorithm is how golang.org/x/mod/sumdb/note writes that a key is one of Ed25519.
const algorithm = 1

// signingKey writes a key as golang.org/x/mod/sumdb/note does, which has no function that gives a key another name.
func signingKey(name string, public ed25519.PublicKey, seed []byte) string {
	sum := sha256.Sum256(append([]byte(name+"\n"+string(rune(algorithm))), public...))
	return fmt.Sprintf("PRIVATE+KEY+%s+%08x+%s", name, binary.BigEndian.Uint32(sum[:]),
		base64.StdEncoding.EncodeToString(append([]byte{algorithm}, seed...)))
}

// parseSigningKey returns the seed in signing.key.
func parseSigningKey(text string) (seed []byte, err error) {
	line := strings.TrimSuffix(text, "\n")
	if _, err := note.NewSigner(line); err != nil {
		return nil, err //nolint:wrapcheck // the caller says which file; the key is not shown
	}
	// PRIVATE+KEY+NAME+HASH+KEY, which base64 may write with further ones.
	parts := strings.SplitN(line, "+", 5)
	key, err := base64.StdEncoding.DecodeString(parts[len(parts)-1])
	if err != nil || len(key) != 1+ed25519.SeedSize || key[0] != algorithm {
		return nil, errors.New("it is not a key of Ed25519")
	}
	return key[1:], nil
}

// openKey reads a file of keys, which is made if it is missing and may be.
func openKey(path string, create bool, text func() []byte) ([]byte, error) {
	b, err := smallfile.Read(path, maxKeyFile)
	if errors.Is(err, fs.ErrNotExist) && create {
		if err = writeKey(path, text()); err == nil {
			b, err = smallfile.Read(path, maxKeyFile)
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("journal: the key %s is missing: bring back the file", path)
	}
	if err != nil {
		return nil, fmt.Errorf("journal: cannot read a key: %w", err)
	}
	about, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("journal: cannot read a key: %w", err)
	}
	// A group may read it: that is how Kubernetes mounts a secret for one that is not root.
	if about.Mode().Perm()&0o037 != 0 {
		return nil, fmt.Errorf("journal: the key %s has the mode %04o, with which others can read or change it: run chmod 600 on it",
			path, about.Mode().Perm())
	}
	return b, nil
}

// writeKey makes a file of keys, durably.
func writeKey(path string, b []byte) error {
	unfinished := path + ".new"
	f, err := os.OpenFile(unfinished, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600) //nolint:gosec // it lies where the keys do
	if err != nil {
		return err //nolint:wrapcheck // it names the file
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(unfinished, path); err != nil {
		return err //nolint:wrapcheck // it names the file
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err //nolint:wrapcheck // it names the file
	}
	return errors.Join(dir.Sync(), dir.Close())
}
