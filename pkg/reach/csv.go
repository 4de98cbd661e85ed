package reach

import (
	"io"
	"slices"
	"strings"
	"time"

	deputy "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// Columns are the names in the first row of a reach as CSV.
var Columns = []string{
	"agents", "principal", "principal_set", "tenant", "delegation", "session", "valid_until", "object", "permission", "answer", "missing_context",
	"error", "grants", "only_through",
}

// CSV writes a reach as RFC 4180 has it: a header, and a row for each object. It takes the messages of a Join, with objects. No cell is anything that
// a spreadsheet takes for a formula: see cell. It is not safe for concurrent use.
type CSV struct {
	out   io.Writer
	begun bool
	// party are the cells of the party that the objects are of.
	party []string
}

// NewCSV returns a CSV that writes to out, which should be buffered.
func NewCSV(out io.Writer) *CSV { return &CSV{out: out} }

// Add takes the next message. Errors: those of the writer.
func (c *CSV) Add(m *Message) error {
	if !c.begun {
		c.begun = true
		if err := c.row(Columns); err != nil {
			return err
		}
	}
	if p := m.GetParty(); p != nil {
		c.party = []string{
			typed("agent", Agents(p)), Object(p.GetPrincipal()), Subject(p.GetPrincipalSet()), typed("tenant", p.GetTenantId()),
			typed("delegation", Delegation(p)), typed("session", p.GetSessionId()), "",
		}
		if p.GetValidUntil() != nil {
			c.party[6] = p.GetValidUntil().AsTime().UTC().Format(time.RFC3339)
		}
	}
	o := m.GetObject()
	if o == nil {
		return nil
	}
	var grants, through []string
	for _, g := range o.GetGrants() {
		grants = append(grants, Object(g.GetHolder())+" by "+relationship(g.GetRelationship()))
		if g.GetOnlyThrough() != nil {
			through = append(through, Object(g.GetHolder())+" by "+Subject(g.GetOnlyThrough()))
		}
	}
	return c.row(append(slices.Clip(c.party),
		Object(o.GetResource()), o.GetPermission(), answer(o), strings.Join(o.GetMissingContext(), " "), o.GetError().GetMessage(),
		strings.Join(grants, " | "), strings.Join(through, " | ")))
}

// row writes one row. Every cell is quoted, so that one that holds a comma, a quote or the end of a line is one cell still.
func (c *CSV) row(cells []string) error {
	var b strings.Builder
	for i, text := range cells {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(`"` + strings.ReplaceAll(cell(text), `"`, `""`) + `"`)
	}
	b.WriteString("\r\n")
	_, err := io.WriteString(c.out, b.String())
	return err
}

// typed returns "type:id". The ids of a graph may begin with "=", "+" or "-", and types begin with a letter.
func typed(objectType, id string) string {
	if id == "" {
		return ""
	}
	return objectType + ":" + id
}

// cell makes of a text one that no spreadsheet takes for a formula. A cell is one if it begins with "=", "+", "-" or "@", or with their wide
// forms. Here a cell begins with a type or another word. But a program that was told of another separator than the comma cuts a cell in two, and
// ids from outside may hold any sign: so where such a sign stands behind what may be a separator, a ' is put between them. Ids of SpiceDB's
// alphabet hold no separator, and are left as they are.
func cell(text string) string {
	var b strings.Builder
	begins := true // of a cell, for somebody
	for _, r := range text {
		switch r {
		case ',', ';', '\t', '\r', '\n', '|', '"':
			begins = true
			if r == '\t' || r == '\r' {
				b.WriteByte('\'')
			}
		case ' ':
		case '=', '+', '-', '@', '＝', '＋', '－', '＠':
			if begins {
				b.WriteByte('\'')
			}
			begins = false
		default:
			begins = false
		}
		b.WriteRune(r)
	}
	return b.String()
}

// relationship returns "type:id#relation@subject".
func relationship(r *deputy.Relationship) string {
	return Object(r.GetResource()) + "#" + r.GetRelation() + "@" + Subject(r.GetSubject())
}
