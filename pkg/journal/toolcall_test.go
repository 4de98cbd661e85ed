package journal

import (
	"bytes"
	"context"
	"crypto/sha256"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// TestArgumentsOfTools: the same arguments are found by their plain digest and by that of a record, with the journal's key alone, and where people can be
// erased with the person's alone.
func TestArgumentsOfTools(t *testing.T) {
	t.Parallel()
	plain, other := sha256.Sum256([]byte(`{"path":"a"}`)), sha256.Sum256([]byte(`{"path":"b"}`))
	for name, personal := range map[string]bool{"erasable": true, "as it is": false} {
		e := openErasable(t, vfs.NewMem(), func(c *Config) {
			if !personal {
				c.Personal = nil
			}
		})
		reader, err := e.Reader(e.Persons())
		if err != nil {
			t.Fatal(err)
		}
		record := func(user string, sum [sha256.Size]byte) {
			call := e.ToolCall(&deputyv1.ToolCall{Server: "files", Method: "tools/call", Name: "read", ArgumentsHash: sum[:]})
			add(t, e.Journal, Refuse, &Record{
				Kind: deputyv1.RecordKind_RECORD_KIND_DECISION, TenantId: "acme", PrincipalType: "user", PrincipalId: user, ToolCall: call,
			})
		}
		record("alice", plain)
		record("alice", plain)
		record("bob", plain)
		record("alice", other)
		stored := e.stored(t)
		digest := func(i int) []byte { return stored[i].GetToolCall().GetArgumentsHash() }
		switch {
		case len(digest(0)) != ArgumentsDigest || bytes.Contains(plain[:], digest(0)):
			t.Errorf("%s: a record has the digest %x of %x", name, digest(0), plain)
		case !bytes.Equal(digest(0), digest(1)) || bytes.Equal(digest(0), digest(3)):
			t.Errorf("%s: the same arguments of a person have two digests, or others the same", name)
		case bytes.Equal(digest(0), digest(2)) == personal:
			t.Errorf("%s: the digest depends on the person: %t", name, !personal)
		case personal == bytes.Equal(digest(0), argumentsDigest(e.arguments, plain[:])):
			t.Errorf("%s: the digest is made with the journal's secret alone: %t", name, personal)
		}
		find := func(r *Reader, digest []byte) (n int) {
			t.Helper()
			_, err := r.Query(context.Background(), &Query{Tool: &deputyv1.ToolCall{Name: "read", ArgumentsHash: digest}}, nil, func(Found) (bool, error) {
				n++
				return true, nil
			})
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
		if got := find(reader, plain[:]); got != 3 {
			t.Errorf("%s: %d records have the arguments, want 3", name, got)
		}
		if got, want := find(reader, digest(0)), map[bool]int{true: 2, false: 3}[personal]; got != want {
			t.Errorf("%s: %d records have the digest of a record, want %d", name, got, want)
		}
		without, err := OpenReader(ReaderConfig{Dir: e.cfg.Dir, FS: e.fs})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := without.Query(context.Background(), &Query{Tool: &deputyv1.ToolCall{ArgumentsHash: plain[:]}}, nil, nil); err == nil {
			t.Errorf("%s: arguments can be tried without the secret", name)
		}
		if !personal {
			continue
		}
		e.erase(t, "acme", "alice")
		if got := find(reader, plain[:]); got != 1 {
			t.Errorf("%s: %d records have the arguments after the erasure of alice, want bob's", name, got)
		}
	}
}
