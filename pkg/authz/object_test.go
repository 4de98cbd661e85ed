package authz_test

import (
	"regexp"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"pgregory.net/rapid"

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

// TestEncodeIDRefuses: what cannot be stored, and what looks like another id, is refused with a reason.
func TestEncodeIDRefuses(t *testing.T) {
	for outside, want := range map[string]string{
		"": "is empty", "*": `must name one object, not "*"`, "\xff\xfe": "is not valid UTF-8",
		strings.Repeat("a", authz.MaxOutsideIDBytes+1): "is 513 bytes long, more than 512",
		// 170 characters of three bytes: 510 bytes outside, three times as many stored.
		strings.Repeat("\u754c", 170): "takes 1531 bytes where it is stored, more than 1024: each byte of a character other than letters and digits of ASCII",
		" a":                          "begins or ends with a blank", "a ": "begins or ends with a blank", " ": "begins or ends with a blank",
		"a\u00a0b": "contains the space U+00A0; the only space in an id is U+0020", "\u3000": "contains the space U+3000",
		"a\x00b": "contains the invisible character U+0000", "line\nbreak": "contains the invisible character U+000A",
		"tab\t": "contains the invisible character U+0009", "a\u0085": "contains the invisible character U+0085",
		"right\u202eleft": "contains the invisible character U+202E", "zero\u200bwidth": "contains the invisible character U+200B",
		"\ufeffbom": "contains the invisible character U+FEFF", "soft\u00adhyphen": "contains the invisible character U+00AD",
		"\u3164": "contains the invisible character U+3164", "a\u115fb": "contains the invisible character U+115F",
		"a\ufe0f": "contains the invisible character U+FE0F", "a\u034fb": "contains the invisible character U+034F",
		"a\u2800": "contains the invisible character U+2800", "a\U000e0101": "contains the invisible character U+E0101",
		"a\ue000": "contains the invisible character U+E000",
	} {
		if got, err := authz.EncodeID(outside); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("EncodeID(%q) = %q, %v, want the error %q", outside, got, err, want)
		}
	}
	for _, taken := range []string{strings.Repeat("\u754c", 113), strings.Repeat("a", authz.MaxOutsideIDBytes), "a b", "a  b", "é", "e\u0301"} {
		if _, err := authz.EncodeID(taken); err != nil {
			t.Errorf("EncodeID(%q): %v", taken, err)
		}
	}
}

// TestStoredIDsOfOthers: a stored id that nothing is encoded to is shown as what it is, and named by what is shown.
func TestStoredIDsOfOthers(t *testing.T) {
	long := strings.Repeat("a", authz.MaxOutsideIDBytes+1)
	for _, stored := range []string{
		"=", "=a=4", "=a=zz", "=a=2d", "=plain", "==", "=a=2A=2a", "=a=00", "=41", "==2A", "==41", "=stored", long,
		// What was encoded before look-alikes were refused.
		"=alice=20", "=a=C2=A0b", "=a=EF=B8=8F",
		strings.Repeat("=", authz.MaxIDBytes),
	} {
		shown := authz.DecodeID(stored)
		if shown != "=stored:"+stored {
			t.Errorf("DecodeID(%q) = %q", stored, shown)
		}
		if back, err := authz.EncodeID(shown); err != nil || back != stored {
			t.Errorf("EncodeID(%q) = %q, %v, want %q", shown, back, err, stored)
		}
	}
	// What cannot be stored is no stored id.
	for _, none := range []string{"", "*", "a b"} {
		if got := authz.DecodeID(none); got != none {
			t.Errorf("DecodeID(%q) = %q", none, got)
		}
	}
	// Nobody gets another's id by naming it as a stored one.
	for outside, want := range map[string]string{
		"=stored:alice":                  "==3Dstored=3Aalice",
		"=stored:=alice=40example=2Ecom": "==3Dstored=3A=3Dalice=3D40example=3D2Ecom",
		"=stored:":                       "==3Dstored=3A",
		"=stored:a b":                    "==3Dstored=3Aa=20b",
		"=stored:=41":                    "=41",
		"=stored:==3Dstored=3A=3D41":     "==3Dstored=3A=3D41",
		"=stored:=stored:=41":            "==3Dstored=3A=3Dstored=3A=3D41",
		"=stored:" + long:                long,
	} {
		got, err := authz.EncodeID(outside)
		if err != nil || got != want {
			t.Errorf("EncodeID(%q) = %q, %v, want %q", outside, got, err, want)
		}
		if shown := authz.DecodeID(got); shown != outside {
			t.Errorf("%q is shown as %q", outside, shown)
		}
	}
}

// TestEveryStoredIDHasOneName: whatever is stored, what is shown names it, so no two stored ids are shown as one; and
// whatever is accepted from outside comes back as it was, so no two of those are one stored id.
func TestEveryStoredIDHasOneName(t *testing.T) {
	// Ids in which much is escaped, or nearly.
	pieces := rapid.SampledFrom([]string{
		"=", "==", "=3D", "=41", "=40", "=2A", "=20", "=2e", "=C3=AB", "=C3", "=stored=3A", "=stored:", "=00", "a", "41", "3D", "/", "|", "-", "+", "_",
		strings.Repeat("a", 300), strings.Repeat("=", 200), strings.Repeat("=40", 170),
	})
	stored := rapid.OneOf(
		rapid.StringMatching(`[a-zA-Z0-9/_|\-=+]{1,24}`),
		rapid.Custom(func(t *rapid.T) string {
			id := strings.ReplaceAll(strings.Join(rapid.SliceOfN(pieces, 1, 8).Draw(t, "pieces"), ""), ":", "=3A")
			return id[:min(len(id), authz.MaxIDBytes)]
		}),
	)
	outside := rapid.OneOf(
		rapid.StringMatching(`[ -~]{1,24}`), rapid.String(), stored,
		rapid.Map(rapid.SliceOfN(pieces, 1, 4), func(p []string) string { return strings.Join(p, "") }),
		rapid.Map(stored, func(id string) string { return "=stored:" + id }),
	)
	rapid.Check(t, func(t *rapid.T) {
		id := stored.Draw(t, "stored")
		shown := authz.DecodeID(id)
		if back, err := authz.EncodeID(shown); err != nil || back != id {
			t.Fatalf("%q is shown as %q, which names %q (%v)", id, shown, back, err)
		}
		given := outside.Draw(t, "outside")
		encoded, err := authz.EncodeID(given)
		if err != nil {
			return
		}
		if back := authz.DecodeID(encoded); back != given {
			t.Fatalf("%q is stored as %q, which is shown as %q", given, encoded, back)
		}
	})
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
