package diff

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/deputyauth/deputy/pkg/schema/source"
)

// Counts are how many changes there are of each class. One that is breaking and widening counts as both, and a
// changed comment as nothing.
type Counts struct {
	Breaking   int `json:"breaking"`
	Widening   int `json:"widening"`
	Compatible int `json:"compatible"`
}

// Count counts changes.
func Count(changes []Change) Counts {
	var n Counts
	for _, c := range changes {
		if c.Breaking {
			n.Breaking++
		}
		if c.Widening {
			n.Widening++
		}
		if !c.Breaking && !c.Widening && c.Kind != CommentChanged {
			n.Compatible++
		}
	}
	return n
}

// String is "1 breaking, 2 widening, 3 compatible".
func (n Counts) String() string {
	return fmt.Sprintf("%d breaking, %d widening, %d compatible", n.Breaking, n.Widening, n.Compatible)
}

// MarshalJSON writes the positions as "file:line:column", and the class beside Breaking and Widening.
func (c Change) MarshalJSON() ([]byte, error) {
	type plain Change
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false) // arrows stay readable
	err := e.Encode(struct {
		Class string `json:"class"`
		plain
		OldAt string `json:"oldAt,omitempty"`
		NewAt string `json:"newAt,omitempty"`
	}{c.Class(), plain(c), c.OldAt.String(), c.NewAt.String()})
	return b.Bytes(), err
}

// Text writes changes for people, one a line and the place first, as compilers do. Changed comments are left
// out unless verbose.
func Text(w io.Writer, changes []Change, verbose bool) error {
	var b strings.Builder
	for _, c := range changes {
		if c.Kind == CommentChanged && !verbose {
			continue
		}
		if at := c.At(); at != (source.Position{}) {
			b.WriteString(at.String() + ": ")
		}
		b.WriteString(c.Class() + ": " + c.String())
		if c.OldAt != (source.Position{}) && c.NewAt != (source.Position{}) {
			b.WriteString(" (was at " + c.OldAt.String() + ")")
		}
		if c.Why != "" {
			b.WriteString(": " + c.Why)
		}
		b.WriteByte('\n')
	}
	if n := Count(changes); n == (Counts{}) {
		b.WriteString("Nothing changes for anybody.\n")
	} else {
		b.WriteString("Changes: " + n.String() + "\n")
	}
	return write(w, b.String())
}

// GitHub writes changes as annotations of a GitHub workflow: errors for those that fail it, warnings for others that are breaking or
// widening, notices for the rest. Changed comments are left out.
func GitHub(w io.Writer, changes []Change, fails func(Change) bool) error {
	var b strings.Builder
	for _, c := range changes {
		level := "notice"
		switch {
		case c.Kind == CommentChanged:
			continue
		case fails(c):
			level = "error"
		case c.Breaking || c.Widening:
			level = "warning"
		}
		message := c.String()
		if c.Why != "" {
			message += ": " + c.Why
		}
		b.WriteString(c.At().Annotation(level, "schema diff: "+c.Class(), message))
	}
	return write(w, b.String())
}

// JSON writes changes for programs.
func JSON(w io.Writer, changes []Change) error {
	if changes == nil {
		changes = []Change{}
	}
	return WriteJSON(w, struct {
		Counts
		Changes []Change `json:"changes"`
	}{Count(changes), changes})
}

// WriteJSON writes a value for programs, indented. Schema text is full of < and >, which stay as they are.
func WriteJSON(w io.Writer, v any) error {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(v); err != nil {
		return fmt.Errorf("encoding: %w", err)
	}
	return write(w, b.String())
}

func write(w io.Writer, text string) error {
	if _, err := io.WriteString(w, text); err != nil {
		return fmt.Errorf("writing: %w", err)
	}
	return nil
}
