package authz

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

const (
	// maxWord is how long a word may be, in bytes, for a slip in it to be looked for: the search takes the product of two lengths.
	maxWord = 64
	// maxWords is how many words one message names.
	maxWords = 20
)

// Nearest returns the one of the known words that a word is most likely a slip of, the first of several, or "" if none is
// near. A slip is a letter that is missing, is there too often, is another one or is exchanged with its neighbour: one of
// them, or one in every three letters, but never all letters. Upper and lower case are the same.
func Nearest(word string, known []string) string {
	best, least := "", min(max(1, len(word)/3)+1, len(word))
	if len(word) > maxWord {
		return best
	}
	for _, k := range known {
		if len(k) > maxWord {
			continue
		}
		if n := slips(strings.ToLower(word), strings.ToLower(k)); n < least {
			best, least = k, n
		}
	}
	return best
}

// Words lists words for a message, as they come: "view, reply, close", and of very many the first ones and how many more
// there are.
func Words(words []string) string {
	if more := len(words) - maxWords; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(words[:maxWords], ", "), more)
	}
	return strings.Join(words, ", ")
}

// Within returns the schema as it is for somebody with the bounds, for messages: without the types of domain objects that do not exist for it.
func (s *Schema) Within(b *Bounds) *Schema {
	if b != nil && b.Objects.All() {
		return s
	}
	within := *s
	within.Types = maps.Clone(s.Types)
	maps.DeleteFunc(within.Types, func(name string, _ *Type) bool { return !IsCore(name) && !b.HasType(name) })
	return &within
}

// NoType says that the schema lacks a type, and which types it has. It goes on from the name of the field that names the type.
func (s *Schema) NoType(name string) string {
	return fmt.Sprintf("%q does not exist: %s", name, s.HasTypes(name))
}

// HasTypes says which types the schema has, the domain's first, and which of them was perhaps meant by a name.
func (s *Schema) HasTypes(name string) string {
	types := slices.DeleteFunc(slices.Sorted(maps.Keys(s.Types)), IsCore)
	for _, t := range CoreTypes {
		if s.Types[t] != nil {
			types = append(types, t)
		}
	}
	if len(types) == 0 {
		return "the schema has no types"
	}
	return "the schema has " + Words(types) + suggestion(name, types)
}

// NoMember says that the type lacks a permission or relation, and which ones it has. It goes on from the name of the field that
// names it.
func (t *Type) NoMember(name string) string {
	return fmt.Sprintf("%q does not exist: %s", name, t.HasMembers(name))
}

// HasMembers says which permissions and relations the type has, and which of them was perhaps meant by a name.
func (t *Type) HasMembers(name string) string {
	permissions, relations := t.names(true), t.names(false)
	has := "the permissions " + Words(permissions) + " and the relations " + Words(relations)
	switch {
	case len(permissions) == 0 && len(relations) == 0:
		has = "neither permissions nor relations"
	case len(permissions) == 0:
		has = "the relations " + Words(relations)
	case len(relations) == 0:
		has = "the permissions " + Words(permissions)
	}
	return t.Name + " has " + has + suggestion(name, append(permissions, relations...))
}

// NoRelation says that a name is no relation of the type, though perhaps a permission, and which relations the type has. It goes on
// from the name of the field that names it.
func (t *Type) NoRelation(name string) string {
	if t.Members[name] {
		return fmt.Sprintf("%q is a permission, which holds no relationships: %s", name, t.HasRelations(""))
	}
	return fmt.Sprintf("%q does not exist: %s", name, t.HasRelations(name))
}

// HasRelations says which relations the type has, and which of them was perhaps meant by a name. It is for what is written, where a
// permission is no answer.
func (t *Type) HasRelations(name string) string {
	relations := t.names(false)
	if len(relations) == 0 {
		return t.Name + " has no relations"
	}
	return t.Name + " has the relations " + Words(relations) + suggestion(name, relations)
}

// Admitted says which kinds of subjects a relation admits: "document#reader admits user, group#member".
func (s *Schema) Admitted(objectType, relation string) string {
	var kinds []string
	if s.Admits != nil {
		kinds = s.Admits(objectType, relation)
	}
	if len(kinds) == 0 {
		kinds = []string{"nothing"}
	}
	return objectType + "#" + relation + " admits " + Words(kinds)
}

// names returns the names of the type's permissions, or of its relations, sorted.
func (t *Type) names(permissions bool) []string {
	var names []string
	for name, permission := range t.Members {
		if permission == permissions {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// suggestion asks whether the nearest of the known words was meant, if one is near.
func suggestion(word string, known []string) string {
	if near := Nearest(word, known); near != "" {
		return fmt.Sprintf("; did you mean %q?", near)
	}
	return ""
}

// LeaveCoreOut says what to do about definitions of the core that are another's. It goes on from what is wrong with them.
func LeaveCoreOut() string {
	return "leave your own definitions of " + Words(CoreTypes) + " out of the schema, because deputy schema write adds Deputy's; " +
		"a relation that yours have besides belongs on another type, such as profile#manager instead of user#manager"
}

// WrongCore says how the core of the schema differs from core.zed, where CoreDifference is not empty, and what to do about what is
// missing.
func (s *Schema) WrongCore() string {
	if len(s.Types) == 0 {
		return s.CoreDifference // no schema has been written, and it says so
	}
	var missing, others []string
	for difference := range strings.SplitSeq(s.CoreDifference, "; ") {
		if name, ok := strings.CutSuffix(difference, ": missing"); ok {
			missing = append(missing, name)
		} else {
			others = append(others, difference)
		}
	}
	differs := "the core definitions differ from core.zed: " + strings.Join(others, "; ") + "; " + LeaveCoreOut()
	if !slices.ContainsFunc(others, func(one string) bool { return !strings.Contains(one, ": missing ") }) {
		differs += "; an older Deputy's core lacks some: after an upgrade run deputy schema write FILE once, with your own definitions"
	}
	if len(missing) == 0 {
		return differs
	}
	lacks := "the schema lacks Deputy's core: " + Words(missing) + "; deputy schema write FILE adds what is missing"
	if len(others) == 0 {
		return lacks
	}
	return lacks + "; besides, " + differs
}

// Distinct returns names sorted, each once. It changes none of the given ones.
func Distinct(names []string) []string {
	if len(names) == 0 {
		return nil // as for nearly every answer
	}
	return slices.Compact(slices.Sorted(slices.Values(names)))
}

// slips counts the slips between two words (the optimal string alignment distance).
func slips(a, b string) int {
	// before, last and row are the distances of the beginnings of a that end two letters ago, one ago and here, from every
	// beginning of b.
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		before, last, row = last, row, before
		row[0] = i + 1
		for j := range len(b) {
			if a[i] == b[j] {
				row[j+1] = last[j]
				continue
			}
			row[j+1] = 1 + min(last[j], last[j+1], row[j])
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], 1+before[j-1])
			}
		}
	}
	return row[len(b)]
}
