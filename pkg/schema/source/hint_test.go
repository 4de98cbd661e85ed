package source

import (
	"strings"
	"testing"
)

// TestHints: what SpiceDB says stays, and what was probably meant follows.
func TestHints(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"import \"./x.zed\"\n": "1:1: Unexpected token at root level: Identifier; write \"use import\" in the first line of the file",
		"type doc {}\n":        "1:1: Unexpected token at root level: Identifier; a schema has definition, caveat, use, import and partial, not \"type\"",
		"definition doc {\n\trelation own: user, agent\n}\n":                     "found: Comma; a relation's types are separated by \"|\", such as user | agent",
		"definition doc {\n\tpermission a = b | c\n}\n":                          "found: Pipe; the operators of a permission are + (or), & (and) and - (but not)",
		"definition doc {\n\tpermission a = b and c\n}\n":                        "found: Identifier; the operators of a permission are + (or), & (and) and - (but not)",
		"definition doc { relation own: user }\n":                                "found: RightBrace; each relation and permission ends with its line, or with \";\"",
		"definition Doc {}\n":                                                    "; a name has 3 to 64 lower-case letters, digits and underscores, begins with a letter and ends with no underscore",
		"definition doc {\n\trelation owner: usr\n}\n":                           "object definition `usr` not found; did you mean \"user\"?",
		"definition doc {\n\trelation owner: starship\n}\n":                      "object definition `starship` not found",
		"definition doc {\n\trelation owner: user\n\tpermission a1_ = b\n":       "found: end of file",
		"definition doc {\n\trelation owner: user\n\tpermission see = ownr\n}\n": "relation/permission `ownr` not found under definition `doc`; did you mean \"owner\"?",
		"definition doc {\n\trelation owner: user with expiration\n}\n":          "caveat with name `expiration` not found; write \"use expiration\" in the first line of the file",
	} {
		if _, err := Parse("s.zed", text, nil, Options{Core: true}); err == nil || !strings.HasSuffix(err.Error(), want) {
			t.Errorf("%s\n%v\nwant %s", text, err, want)
		}
	}
}
