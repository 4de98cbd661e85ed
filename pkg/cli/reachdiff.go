package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/deputyauth/deputy/pkg/fixture/plan"
	deputy "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/pkg/notation"
	"github.com/deputyauth/deputy/pkg/reach"
)

// maxDifferences is how many objects of each kind the text names for a party without --list.
const maxDifferences = 20

// half is one of two reaches that are compared.
type half struct {
	// at is the revision, once the end was read.
	at string
	// orphaned is how many relationships count as deleted.
	orphaned int
	// absent is the error that says that there is nobody of whom the reach could be. It then is empty.
	absent error
}

// stream is the reach that read reads.
func (h *half) stream(read func(take func(*reach.Message) error) error) reach.Stream {
	return func(yield func(*reach.Message, error) bool) {
		begun := false
		err := read(func(m *reach.Message) error {
			begun = true
			if m.GetEnd() != nil {
				h.at = m.GetEnd().GetLookedUpAt().GetToken()
			}
			if !yield(m, nil) {
				return errStopped
			}
			return nil
		})
		switch {
		case err == nil || errors.Is(err, errStopped):
		case !begun && status.Code(err) == codes.NotFound:
			h.absent = err
		default:
			yield(nil, err)
		}
	}
}

// errStopped ends the reading of a reach that nobody goes on with.
var errStopped = errors.New("stopped")

// compareRevisions is --diff.
func (r *reaching) compareRevisions(ctx context.Context, c *connection, s *server, request *deputy.ReadReachRequest) error {
	older := proto.CloneOf(request)
	older.Consistency = &deputy.Consistency{Requirement: &deputy.Consistency_AtExactSnapshot{AtExactSnapshot: token(r.diff)}}
	var before, after half
	return r.compare(c, &before, &after,
		before.stream(func(take func(*reach.Message) error) error { return s.readReach(ctx, older, take) }),
		after.stream(func(take func(*reach.Message) error) error { return s.readReach(ctx, request, take) }))
}

// compareSchemas is --schema.
func (r *reaching) compareSchemas(ctx context.Context, c *connection, s *server, request *deputy.ReadReachRequest) error {
	other, err := readSchemaFile(r.schema, c.program.In) //nolint:contextcheck // a few small files
	if err != nil {
		return err
	}
	graph, err := readGraph(ctx, s)
	if err != nil {
		return err
	}
	was, is, orphaned, err := plan.Reach(ctx, graph, other, r.relationships, request)
	if err != nil {
		return err
	}
	before, after := half{at: graph.Revision}, half{at: "under the schema in " + r.schema, orphaned: orphaned}
	return r.compare(c, &before, &after, was, is)
}

// compare shows what differs. The exit code is 1 if anything does. A party that is in neither reach is an error, so that a typo is found.
func (r *reaching) compare(c *connection, before, after *half, was, is reach.Stream) error {
	d := &reachDiff{out: c.program.Out, all: r.list, json: c.output == formatJSON, counts: map[[2]string]*differing{}}
	if err := reach.Compare(was, is, d.add); err != nil {
		return err
	}
	if before.absent != nil && after.absent != nil {
		return after.absent
	}
	if err := d.end(before.at, after); err != nil {
		return err
	}
	if d.parties > 0 {
		return errDenied
	}
	return nil
}

// reachDiff prints what differs between two reaches, party by party.
type reachDiff struct {
	out       io.Writer
	all, json bool

	parties int
	counts  map[[2]string]*differing
}

// differing is how many objects of a type differ with a permission.
type differing struct{ gained, lost, changed int }

func (d *reachDiff) count(o *deputy.ReachObject) *differing {
	key := [2]string{o.GetResource().GetObjectType(), o.GetPermission()}
	if d.counts[key] == nil {
		d.counts[key] = &differing{}
	}
	return d.counts[key]
}

// add shows what became of one party.
func (d *reachDiff) add(c *reach.Change) error {
	d.parties++
	for _, o := range c.Gained {
		d.count(o).gained++
	}
	for _, o := range c.Lost {
		d.count(o).lost++
	}
	for _, o := range c.Changed {
		d.count(o.After).changed++
	}
	if d.json {
		return d.addJSON(c)
	}
	var lines []string
	list := func(sign string, objects []*deputy.ReachObject) {
		for i, o := range objects {
			if i == maxDifferences && !d.all {
				lines = append(lines, fmt.Sprintf("  %s … and %d more: --list names them", sign, len(objects)-i))
				return
			}
			lines = append(lines, "  "+sign+" "+objectLine(o))
		}
	}
	lines = append(lines, partyLine(c.Party())+", under "+reach.Delegation(c.Party()))
	switch was, is := c.Before.GetRefusedBy(), c.After.GetRefusedBy(); {
	case c.Before == nil && is != 0:
		lines = append(lines, "  It is new, and refused by the gate "+reach.Gate(is)+".")
	case c.Before == nil:
		lines = append(lines, "  It is new.")
	case c.After == nil:
		lines = append(lines, "  It is gone.")
	case was == is:
	case is == 0:
		lines = append(lines, "  It was refused by the gate "+reach.Gate(was)+", and is refused no more.")
	default:
		lines = append(lines, "  It is refused by the gate "+reach.Gate(is)+" now.")
	}
	list("+", c.Gained)
	list("-", c.Lost)
	for i, o := range c.Changed {
		if i == maxDifferences && !d.all {
			lines = append(lines, fmt.Sprintf("  ~ … and %d more: --list names them", len(c.Changed)-i))
			break
		}
		lines = append(lines, fmt.Sprintf("  ~ %s %s: was %s, is %s", object(o.After.GetResource()), o.After.GetPermission(),
			reach.Answer(o.Before), reach.Answer(o.After)))
	}
	if d.parties > 1 {
		lines = append([]string{""}, lines...)
	}
	for _, line := range lines {
		if _, err := fmt.Fprintln(d.out, notation.Visible(line)); err != nil {
			return fmt.Errorf("writing: %w", err)
		}
	}
	return nil
}

// addJSON shows it as one line.
func (d *reachDiff) addJSON(c *reach.Change) error {
	type changed struct {
		Before json.RawMessage `json:"before"`
		After  json.RawMessage `json:"after"`
	}
	var line struct {
		Before  json.RawMessage   `json:"before"`
		After   json.RawMessage   `json:"after"`
		Gained  []json.RawMessage `json:"gained"`
		Lost    []json.RawMessage `json:"lost"`
		Changed []changed         `json:"changed"`
	}
	var failed error
	raw := func(m proto.Message) json.RawMessage {
		if !m.ProtoReflect().IsValid() {
			return json.RawMessage("null")
		}
		text, err := protojson.MarshalOptions{EmitDefaultValues: true}.Marshal(m)
		failed = cmp.Or(failed, err)
		return text
	}
	line.Before, line.After = raw(c.Before), raw(c.After)
	line.Gained, line.Lost, line.Changed = []json.RawMessage{}, []json.RawMessage{}, []changed{}
	for _, o := range c.Gained {
		line.Gained = append(line.Gained, raw(o))
	}
	for _, o := range c.Lost {
		line.Lost = append(line.Lost, raw(o))
	}
	for _, o := range c.Changed {
		line.Changed = append(line.Changed, changed{raw(o.Before), raw(o.After)})
	}
	return errors.Join(failed, d.writeLine(line))
}

// writeLine writes a value as one line of JSON.
func (d *reachDiff) writeLine(value any) error {
	text, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("encoding the answer: %w", err)
	}
	if _, err := fmt.Fprintln(d.out, notation.JSON(string(text))); err != nil {
		return fmt.Errorf("writing: %w", err)
	}
	return nil
}

// differEnd is the last line of JSON.
type differEnd struct {
	// Before and After are the revisions; After says under which schema, where two are compared.
	Before string `json:"before"`
	After  string `json:"after"`
	// Orphaned is how many relationships the other schema does not admit.
	Orphaned int `json:"orphaned"`
	// Parties is how many parties differ, and the others are how many of their objects do.
	Parties int `json:"parties"`
	Gained  int `json:"gained"`
	Lost    int `json:"lost"`
	Changed int `json:"changed"`
}

// end shows how much differs, and between which revisions.
func (d *reachDiff) end(before string, after *half) error {
	if d.json {
		var sum differing
		for _, n := range d.counts {
			sum.gained += n.gained
			sum.lost += n.lost
			sum.changed += n.changed
		}
		return d.writeLine(struct {
			End differEnd `json:"end"`
		}{differEnd{before, after.at, after.orphaned, d.parties, sum.gained, sum.lost, sum.changed}})
	}
	return writeTable(d.out, func(w io.Writer) {
		if d.parties == 0 {
			row(w, "Nothing differs.")
		}
		if len(d.counts) > 0 {
			row(w, "")
			row(w, "TYPE", "PERMISSION", "GAINED", "LOST", "CHANGED")
		}
		for _, key := range slices.SortedFunc(maps.Keys(d.counts), func(a, b [2]string) int {
			return strings.Compare(a[0]+" "+a[1], b[0]+" "+b[1])
		}) {
			n := d.counts[key]
			row(w, key[0], key[1], countOf(n.gained), countOf(n.lost), countOf(n.changed))
		}
		row(w, "")
		field(w, "before", before)
		field(w, "after", after.at)
		if after.orphaned > 0 {
			field(w, "deleted", reach.Plural(uint64(after.orphaned), "relationship")+
				" that the other schema does not admit; deputy schema plan lists them")
		}
	})
}

// countOf is a number, or nothing for none.
func countOf(n int) string { return number(uint64(n)) } //nolint:gosec // a count
