package source

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/deputyauth/deputy/pkg/authz"
)

// syntaxHint goes on from what SpiceDB's parser says about a text, and says what was probably meant; empty where it is not known.
func syntaxHint(rest, message string) string {
	word := firstWord.FindString(rest)
	switch {
	case strings.HasPrefix(message, "Unexpected token at root level"):
		switch word {
		case "import", "partial":
			return fmt.Sprintf(`; write "use %s" in the first line of the file`, word)
		case "":
			return ""
		}
		return fmt.Sprintf(`; a schema has definition, caveat, use, import and partial, not %q`, word)
	case !strings.HasPrefix(message, "Expected end of statement or definition"):
		return ""
	case strings.HasSuffix(message, "Comma"):
		return `; a relation's types are separated by "|", such as user | agent`
	case strings.HasSuffix(message, "Pipe"), word == "and", word == "or", word == "not":
		return `; the operators of a permission are + (or), & (and) and - (but not)`
	case strings.HasSuffix(message, "RightBrace"):
		return `; each relation and permission ends with its line, or with ";"`
	}
	return ""
}

var firstWord = regexp.MustCompile(`^[A-Za-z_]+`)

// nameHint goes on from SpiceDB's complaint about a name, which is a regular expression.
func nameHint(message string) string {
	if !strings.Contains(message, "does not match regex pattern") {
		return ""
	}
	return "; a name has 3 to 64 lower-case letters, digits and underscores, begins with a letter and ends with no underscore"
}

var (
	noType    = regexp.MustCompile("object definition `([^`]+)` not found")
	noMember  = regexp.MustCompile("relation/permission `([^`]+)` not found under definition `([^`]+)`")
	noFeature = regexp.MustCompile("caveat with name `expiration` not found")
)

// typeHint goes on from what SpiceDB's type system says, and asks whether the nearest name that the schema has was meant.
func (s *Schema) typeHint(message string) string {
	var word string
	var known []string
	if noFeature.MatchString(message) {
		return `; write "use expiration" in the first line of the file`
	} else if of := noMember.FindStringSubmatch(message); of != nil {
		word = of[1]
		for _, definition := range s.Objects {
			for _, member := range definition.GetRelation() {
				if definition.GetName() == of[2] {
					known = append(known, member.GetName())
				}
			}
		}
	} else if of := noType.FindStringSubmatch(message); of != nil {
		word = of[1]
		for _, definition := range s.Objects {
			known = append(known, definition.GetName())
		}
	}
	if near := authz.Nearest(word, known); near != "" {
		return fmt.Sprintf("; did you mean %q?", near)
	}
	return ""
}
