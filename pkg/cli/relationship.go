package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"
)

// messageSize is how many relationships travel in one message of a stream.
const messageSize = 1000

// newRelationship builds `deputy relationship`.
func newRelationship(p *program) *cobra.Command {
	cmd := group(groupGraph, "relationship", "Import and export relationships in bulk")
	c := client(p, cmd)
	cmd.AddCommand(newRelationshipImport(c), newRelationshipExport(c))
	return cmd
}

// summarize writes the last line of an import or an export.
func (c *connection) summarize(w io.Writer, verb string, count uint64, took time.Duration) error {
	text := verb + " " + rate(count, took)
	if c.output == "json" {
		line, err := json.Marshal(map[string]any{"relationships": count, "seconds": took.Seconds()})
		if err != nil {
			return fmt.Errorf("encoding the answer: %w", err)
		}
		text = string(line)
	}
	if _, err := fmt.Fprintln(w, text); err != nil {
		return fmt.Errorf("writing: %w", err)
	}
	return nil
}
