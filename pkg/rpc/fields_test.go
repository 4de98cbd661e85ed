package rpc

import (
	"regexp"
	"strings"
	"testing"

	"github.com/deputyauth/deputy/pkg/authz"
)

// TestNames: what is a name, or an id, is what SpiceDB's patterns say.
func TestNames(t *testing.T) {
	t.Parallel()
	patterns := map[string]struct {
		pattern *regexp.Regexp
		matches func(string) bool
	}{
		"type":     {regexp.MustCompile(`^([a-z][a-z0-9_]{1,61}[a-z0-9]/)*[a-z][a-z0-9_]{1,62}[a-z0-9]$`), isTypeName},
		"relation": {regexp.MustCompile(`^[a-z][a-z0-9_]{1,62}[a-z0-9]$`), isRelationName},
		"id":       {regexp.MustCompile(`^[a-zA-Z0-9/_|\-=+]+$`), authz.IsStoredID},
	}
	var texts []string
	// All short texts of some letters, and long ones around the limits.
	letters := []string{"a", "z", "_", "0", "9", "/", "A", "-", "\n", "é", "{", "`", "@"}
	for _, a := range append(letters, "") {
		for _, b := range append(letters, "") {
			for _, c := range append(letters, "") {
				for _, d := range append(letters, "") {
					texts = append(texts, a+b+c+d, "abc/"+a+b+c+d, a+b+c+d+"/abc")
				}
			}
		}
	}
	for n := 60; n < 67; n++ {
		long := strings.Repeat("a", n)
		texts = append(texts, long, long+"/abc", "abc/"+long, long+"/"+long, long+"_", "_"+long, long+"\n")
	}
	for c := range 256 {
		texts = append(texts, string([]byte{byte(c)}), string([]byte{'a', byte(c), 'b'}), string([]byte{byte(c), 'a', 'b'}), string([]byte{'a', 'b', byte(c)}))
	}
	for name, p := range patterns {
		yes := 0
		for _, text := range texts {
			want := p.pattern.MatchString(text)
			if want {
				yes++
			}
			if got := p.matches(text); got != want {
				t.Errorf("%q is a %s: %v, want %v", text, name, got, want)
			}
		}
		if yes < 100 {
			t.Errorf("only %d texts are a %s", yes, name)
		}
	}
}
