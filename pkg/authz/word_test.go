package authz

import (
	"strings"
	"testing"
)

// TestNearest: a slip finds the word that was meant, and another word finds none.
func TestNearest(t *testing.T) {
	t.Parallel()
	known := []string{"view", "reply", "close", "agent", "session", "delegation", "allow_direct", strings.Repeat("k", maxWord+1)}
	for word, want := range map[string]string{
		"veiw": "view", "vew": "view", "vieww": "view", "View": "view", "repyl": "reply", "delegaton": "delegation",
		"allowDirect": "allow_direct", "delgatoin": "delegation", "": "", "x": "", "vx": "", "read": "", "closed": "close",
		strings.Repeat("k", maxWord): "", strings.Repeat("k", maxWord+1): "",
	} {
		if got := Nearest(word, known); got != want {
			t.Errorf("%q: %q, want %q", word, got, want)
		}
	}
	if got := Nearest("a", nil); got != "" {
		t.Errorf("of no words: %q", got)
	}
	if got := Nearest("b", []string{"a"}); got != "" {
		t.Errorf("one letter that is another: %q", got)
	}
}

// TestWords: very many words are counted and not all named.
func TestWords(t *testing.T) {
	t.Parallel()
	if got := Words([]string{"view", "reply"}); got != "view, reply" {
		t.Error(got)
	}
	many := strings.Split(strings.Repeat("a", maxWords+2), "")
	if got := Words(many); !strings.HasSuffix(got, "a and 2 more") || strings.Count(got, ",") != maxWords-1 {
		t.Error(got)
	}
}
