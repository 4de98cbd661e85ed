package authz_test

import (
	"regexp"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/deputyauth/deputy/pkg/authz"
)

var alphabet = regexp.MustCompile(`^[a-zA-Z0-9/_|\-=+]+$`)

func TestEncodeID(t *testing.T) {
	for outside, want := range map[string]string{
		"alice":                         "alice",
		"team/alice_1|x-y+z":            "team/alice_1|x-y+z",
		"YWxpY2U=":                      "YWxpY2U=",
		"alice@example.com":             "=alice=40example=2Ecom",
		"spiffe://prod.example/ns/bot":  "=spiffe=3A//prod=2Eexample/ns/bot",
		"=alice":                        "==3Dalice",
		"=alice=40example=2Ecom":        "==3Dalice=3D40example=3D2Ecom",
		"zoë":                           "=zo=C3=AB",
		"**":                            "==2A=2A",
		"a b":                           "=a=20b",
		"https://example.com/?a=b#frag": "=https=3A//example=2Ecom/=3Fa=3Db=23frag",
	} {
		got, err := authz.EncodeID(outside)
		if err != nil || got != want {
			t.Errorf("EncodeID(%q) = %q, %v, want %q", outside, got, err, want)
		}
		if back := authz.DecodeID(got); back != outside {
			t.Errorf("DecodeID(%q) = %q, want %q", got, back, outside)
		}
	}
}

func TestEncodeIDRefuses(t *testing.T) {
	for _, outside := range []string{
		"", "*", "a\x00b", "line\nbreak", "tab\t", "\xff\xfe", "right\u202eleft", "zero\u200bwidth",
		strings.Repeat("a", authz.MaxOutsideIDBytes+1), strings.Repeat("@", authz.MaxOutsideIDBytes),
	} {
		if got, err := authz.EncodeID(outside); err == nil {
			t.Errorf("EncodeID(%q) = %q, want an error", outside, got)
		}
	}
}

// TestDecodeIDKeepsForeignIDs: ids that were stored by others are shown as they are.
func TestDecodeIDKeepsForeignIDs(t *testing.T) {
	for _, stored := range []string{"", "=", "=a=4", "=a=zz", "=a=2d", "=plain", "==", "=a=2A=2a", "=a=00"} {
		if got := authz.DecodeID(stored); got != stored {
			t.Errorf("DecodeID(%q) = %q", stored, got)
		}
	}
}

// FuzzEncodeID: what is accepted lies in SpiceDB's alphabet, comes back as it was, and nothing else
// comes to the same id.
func FuzzEncodeID(f *testing.F) {
	for _, s := range []string{"alice", "alice@example.com", "=", "=a=40", "a=40", "*", "é", "=2A", "a/b|c"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, outside string) {
		encoded, err := authz.EncodeID(outside)
		if err != nil {
			return
		}
		if !alphabet.MatchString(encoded) || len(encoded) > authz.MaxIDBytes {
			t.Fatalf("EncodeID(%q) = %q lies outside SpiceDB's alphabet", outside, encoded)
		}
		if !utf8.ValidString(outside) || strings.ContainsFunc(outside, func(r rune) bool { return !unicode.IsGraphic(r) }) {
			t.Fatalf("EncodeID accepts %q", outside)
		}
		if back := authz.DecodeID(encoded); back != outside {
			t.Fatalf("%q came back as %q", outside, back)
		}
		// Injective: the encoded form, taken as an outside id of its own, is another id.
		if again, err := authz.EncodeID(encoded); err == nil && encoded != outside && again == encoded {
			t.Fatalf("%q and %q are both stored as %q", outside, encoded, encoded)
		}
	})
}
