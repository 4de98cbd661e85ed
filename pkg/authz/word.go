package authz

import (
	"fmt"
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
