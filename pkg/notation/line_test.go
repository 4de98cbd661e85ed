package notation

import "testing"

// TestLine: no text of a file acts on a terminal, or on the workflow whose log it goes into.
func TestLine(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"plain text\n":              "plain text",
		"a\n::error::b":             "a ::error::b",
		"::error::b":                `\::error::b`,
		"  ::stop":                  `  \::stop`,
		"##[error]x ##vso[y":        `##\[error]x ##vso\[y`,
		"red \x1b[31m \u202e\u200b": `red \x1b[31m \u202e\u200b`,
	} {
		if got := Line(text); got != want {
			t.Errorf("%q is shown as %q, want %q", text, got, want)
		}
	}
}

// TestTextIsVisible: what a context holds and nobody sees is written with its number, and read back.
func TestTextIsVisible(t *testing.T) {
	t.Parallel()
	read, err := Parse(`doc:a#reader@user:b[str:{"x":"red` + "\u202e\u200b" + ` é \ud83d\ude00"}]`)
	if err != nil {
		t.Fatal(err)
	}
	text, err := Text(read)
	if err != nil {
		t.Fatal(err)
	}
	if shown := `doc:a#reader@user:b[str:{"x":"red\u202e\u200b é 😀"}]`; text != shown {
		t.Errorf("%s, want %s", text, shown)
	}
}
