package notation

import (
	"strconv"
	"strings"
	"unicode"
)

// Line returns a text that somebody else wrote as one line that does nothing to a terminal, or to a workflow whose log it goes into:
// blanks stay blanks, and what cannot be seen is written as Go does it. GitHub's runner takes "::" at the beginning of a line for a
// command, and "##[" wherever it stands; Azure's takes "##vso[".
func Line(text string) string {
	text = Visible(strings.TrimRightFunc(text, unicode.IsSpace))
	if blank := len(text) - len(strings.TrimLeft(text, " ")); strings.HasPrefix(text[blank:], "::") {
		text = text[:blank] + `\` + text[blank:]
	}
	return commands.Replace(text)
}

var commands = strings.NewReplacer("##[", `##\[`, "##vso[", `##vso\[`)

// Visible writes what cannot be seen as Go does it, which JSON reads too but for a few, and all blanks as one kind: a text from outside then
// neither moves a terminal's cursor nor looks like another line.
func Visible(text string) string {
	var b strings.Builder
	for _, r := range text {
		switch {
		case unicode.IsSpace(r):
			b.WriteByte(' ')
		case unicode.IsPrint(r):
			b.WriteRune(r)
		default:
			b.WriteString(strings.Trim(strconv.QuoteRune(r), "'"))
		}
	}
	return b.String()
}
