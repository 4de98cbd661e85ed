package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/pflag"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	deputy "github.com/deputyauth/deputy/pkg/gen/deputy/v1"

	"github.com/deputyauth/deputy/pkg/notation"
)

// print writes a message as JSON, or calls table with a writer that aligns what is separated by tabs.
// The JSON has everything that the server said; the table has what a person looks for.
func (c *connection) print(message proto.Message, table func(w io.Writer)) error {
	if c.output == "json" {
		return writeJSON(c.program.Out, message, "  ")
	}
	return writeTable(c.program.Out, table)
}

// writeTable aligns what fill writes, two blanks between columns.
func writeTable(out io.Writer, fill func(w io.Writer)) error {
	// Rows often end in empty columns; their padding is cut off.
	var b bytes.Buffer
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fill(w)
	if err := w.Flush(); err != nil {
		return fmt.Errorf("writing: %w", err)
	}
	for line := range bytes.Lines(b.Bytes()) {
		if _, err := out.Write(append(bytes.TrimRight(line, " \n"), '\n')); err != nil {
			return fmt.Errorf("writing: %w", err)
		}
	}
	return nil
}

// row writes one row of a table. Cells can hold what others sent, so nothing in them moves the cursor, or looks like another row.
func row(w io.Writer, cells ...string) {
	shown := make([]string, len(cells))
	for i, cell := range cells {
		shown[i] = notation.Visible(cell)
	}
	_, _ = io.WriteString(w, strings.Join(shown, "\t")+"\n")
}

// field writes one line of a table that describes a single thing, unless there is nothing to say.
func field(w io.Writer, name, value string) {
	if value != "" {
		row(w, name, value)
	}
}

// writeJSON writes a message in protobuf's JSON form, with the fields that have their zero value, so
// that a program finds every field that it knows. With an empty indent it is one line. protojson
// varies its blanks on purpose; here the same message is always the same bytes.
func writeJSON(out io.Writer, message proto.Message, indent string) error {
	text, err := protojson.MarshalOptions{EmitDefaultValues: true}.Marshal(message)
	if err != nil {
		return fmt.Errorf("encoding the answer: %w", err)
	}
	var b bytes.Buffer
	if err := json.Compact(&b, text); err != nil {
		return fmt.Errorf("encoding the answer: %w", err)
	}
	text = []byte(notation.JSON(b.String())) // what is sent to a terminal moves nothing there
	b.Reset()
	if indent == "" {
		b.Write(text)
	} else if err := json.Indent(&b, text, "", indent); err != nil {
		return fmt.Errorf("encoding the answer: %w", err)
	}
	b.WriteByte('\n')
	if _, err := out.Write(b.Bytes()); err != nil {
		return fmt.Errorf("writing: %w", err)
	}
	return nil
}

// short returns an enum's name in lower case without its type: "active" for LIFECYCLE_STATE_ACTIVE.
func short(name, prefix string) string {
	return strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(name, prefix)), "_", " ")
}

// agentChain shows the agents of a chain of delegations. A session's own delegation is the same agent's as the one that it holds: where all
// of them are one agent, it is named once.
func agentChain(agents []string) string {
	if same := slices.Compact(slices.Clone(agents)); len(same) == 1 {
		return same[0]
	}
	return strings.Join(agents, " > ")
}

// permissionship returns the verdict as authzed.api.v1 spells it. What this program does not know is
// a refusal.
func permissionship(p deputy.Permissionship) string {
	switch p {
	case deputy.Permissionship_PERMISSIONSHIP_HAS_PERMISSION, deputy.Permissionship_PERMISSIONSHIP_CONDITIONAL_PERMISSION:
		return strings.TrimPrefix(p.String(), "PERMISSIONSHIP_")
	default:
		return "NO_PERMISSION"
	}
}

// refusedBy returns the side of a refusal.
func refusedBy(r deputy.RefusedBy) string {
	if r == deputy.RefusedBy_REFUSED_BY_UNSPECIFIED {
		return ""
	}
	return short(r.String(), "REFUSED_BY_")
}

// state returns where something stands.
func state(s deputy.LifecycleState) string { return short(s.String(), "LIFECYCLE_STATE_") }

// moment returns a time to the second in UTC, or "".
func moment(t *timestamppb.Timestamp) string {
	if t == nil {
		return ""
	}
	return t.AsTime().UTC().Format(time.RFC3339)
}

// object returns "type:id", or "".
func object(o *deputy.ObjectReference) string {
	if o.GetObjectType() == "" && o.GetObjectId() == "" {
		return ""
	}
	return o.GetObjectType() + ":" + o.GetObjectId()
}

// subject returns "type:id" or "type:id#relation", or "".
func subject(s *deputy.SubjectReference) string {
	text := object(s.GetObject())
	if s.GetOptionalRelation() != "" {
		text += "#" + s.GetOptionalRelation()
	}
	return text
}

// yes returns "yes" or "".
func yes(b bool) string {
	if b {
		return "yes"
	}
	return ""
}

// printList is print for a page of a list; it tells a person how to go on where there is more.
func (c *connection) printList(message proto.Message, p page, table func(w io.Writer)) error {
	if err := c.print(message, table); err != nil {
		return err
	}
	if c.output != "json" {
		more(c.program.Err, p.GetComplete(), p.GetNext())
	}
	return nil
}

// say writes a value as JSON where the output is to be JSON, and else the text. The value's fields are the program's: it is for
// commands whose answer is no message of a server.
func say(out io.Writer, output string, value any, text string) error {
	if output == "json" {
		encoded, err := json.MarshalIndent(value, "", "  ")
		if err != nil {
			return fmt.Errorf("encoding the answer: %w", err)
		}
		text = string(encoded)
	}
	return writeText(out, text)
}

// outputVar adds -o, --output, with which a command prints text or what else it can.
func outputVar(flags *pflag.FlagSet, output *string, more ...string) {
	among := append([]string{"text"}, more...)
	choiceVar(flags, output, "output", "o", "text", "text for people, or "+either(more)+" for programs", among...)
	allowEnvOf(flags.Lookup("output"))
}

// formatIsOutput lets --format stand for --output.
func formatIsOutput(_ *pflag.FlagSet, name string) pflag.NormalizedName {
	if name == "format" {
		name = "output"
	}
	return pflag.NormalizedName(name)
}

// printDone prints what was done, or the whole answer as JSON.
func (c *connection) printDone(message proto.Message, sentence string) error {
	return c.print(message, func(w io.Writer) { row(w, sentence) })
}
