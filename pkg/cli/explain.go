package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	authzed "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"github.com/spf13/cobra"

	deputy "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/pkg/schema"
	"github.com/deputyauth/deputy/pkg/schema/source"
)

// newExplain builds `deputy explain`, PermissionsService.ExplainPermission. People call it to learn why, so a
// refusal is no failure of the command.
func newExplain(p *program) *cobra.Command {
	var q question
	var trace bool
	var decision string
	cmd := &cobra.Command{
		Use:   "explain [AGENT RESOURCE PERMISSION]",
		Short: "Show a decision with every gate behind it (auditors)",
		Long: `Decide as check does, but without short cuts, and show for each gate whether it holds, and why. A check
that holds comes with the relationships that make it hold. One that does not comes with the relationships
that are missing, the exclusions that take the subject away, the circles and the caveats. This command tells
what check conceals, so it takes the role auditor. The exit code is 0 whatever the answer. -o json has all
conditions.

With --decision a decision of the past is judged again, at the revision and the moment of its record, and
once more at the head revision. The output says whether the record is right, what the answer would be today,
and why it would be another. If the decision had a --context, give the same one again, unless
--journal-context-fields names all of its fields: of the others the journal holds only a digest. This takes
the role auditor, and the role admin is not enough.` + questionUsage,
		Example: `  deputy explain triage-bot ticket:1001 view --session 5f0c…
  deputy explain triage-bot ticket:1001 view --on-behalf-of user:alice --tenant acme --trace
  deputy explain --decision 1a2b…`,
		GroupID: groupAsk,
		Args: func(cmd *cobra.Command, args []string) error {
			if decision != "" {
				return nil
			}
			return cobra.ExactArgs(3)(cmd, args)
		},
		PreRunE: func(_ *cobra.Command, args []string) error {
			if decision != "" && len(args) > 0 {
				return errors.New("--decision and AGENT RESOURCE PERMISSION exclude each other: leave out AGENT RESOURCE PERMISSION to have a decision " +
					"of the past judged again, or leave out --decision to ask for a decision now")
			}
			return nil
		},
	}
	q.register(cmd)
	cmd.Flags().StringVar(&decision, "decision", "", "id of a past decision to judge again, instead of AGENT RESOURCE PERMISSION")
	cmd.Flags().BoolVar(&trace, "trace", false, "show SpiceDB's check traces too, with the operators and relationships behind them")
	c := client(p, cmd)
	c.completes(cmd, 1, false)
	cmd.RunE = c.run(func(ctx context.Context, s *server, args []string) error {
		request, err := explainRequest(q, decision, args)
		if err != nil {
			return err
		}
		request.WithTrace = trace
		answer, err := s.permissions.ExplainPermission(ctx, request)
		if err != nil {
			return err
		}
		var t *tracer
		if trace {
			t = &tracer{s.model(ctx)}
		}
		if answer.GetPast() != nil {
			return c.print(answer, func(w io.Writer) { pastTable(w, answer, t) })
		}
		return c.print(answer, func(w io.Writer) { explanationTable(w, answer, t) })
	})
	return cmd
}

// explainRequest asks for a decision of now, or for one of the past.
func explainRequest(q question, decision string, args []string) (*deputy.ExplainPermissionRequest, error) {
	if decision == "" {
		check, err := q.request(args)
		return &deputy.ExplainPermissionRequest{Check: check}, err
	}
	if context := q.context; q != (question{context: context}) {
		return nil, errors.New("the record of a decision holds its question: of the flags of a question only --context goes with --decision; leave the others out")
	}
	given, err := parseContext(q.context)
	return &deputy.ExplainPermissionRequest{DecisionId: decision, Context: given}, err
}

// explanationTable writes the decision and, for each candidate, a tree of gates, conditions and reasons:
//
//	answer      NO_PERMISSION
//	refused by  object
//
//	Candidate 1 of 1: NO_PERMISSION
//	  principal    user:alice
//	  tenant       acme
//
//	├ agent: no
//	│ └ document:handbook#edit@agent:triage-bot: no
//	│   └ document:handbook#writer does not name agent:triage-bot
//
// The candidate that decided is the first.
func explanationTable(w io.Writer, e *deputy.ExplainPermissionResponse, t *tracer) {
	decisionTable(w, e.GetDecision())
	candidateTables(w, e.GetCandidates(), e.GetReasons(), t)
}

// candidateTables writes the candidates that were weighed.
func candidateTables(w io.Writer, candidates []*deputy.CandidateExplanation, reasons []string, t *tracer) {
	if len(candidates) == 0 {
		row(w, "")
		row(w, "Nothing in the graph lets this agent act in this way: no gate was reached.")
		for _, reason := range reasons {
			row(w, "  "+reason)
		}
	}
	for i, candidate := range candidates {
		row(w, "")
		row(w, fmt.Sprintf("Candidate %d of %d: %s", i+1, len(candidates), permissionship(candidate.GetPermissionship())))
		field(w, "  principal", object(candidate.GetPrincipal()))
		field(w, "  tenant", candidate.GetTenantId())
		field(w, "  agents", agentChain(candidate.GetAgentChain()))
		field(w, "  delegations", strings.Join(candidate.GetDelegationChain(), " > "))
		// A line without a tab starts a new block of columns.
		row(w, "")
		writeTree(w, gateBranches(candidate.GetGates()), "")
		if t != nil {
			t.candidate(w, candidate)
		}
	}
}

// candidate writes the traces of a candidate's checks.
func (t *tracer) candidate(w io.Writer, candidate *deputy.CandidateExplanation) {
	row(w, "")
	row(w, "SpiceDB's traces:")
	for _, gate := range candidate.GetGates() {
		for _, c := range gate.GetConditions() {
			if c.GetTrace() != nil {
				t.rows(w, nil, c.GetTrace(), "  ")
			}
		}
	}
}

// tracer shows SpiceDB's check traces. SpiceDB's own traces name neither operators nor the relationships that an arrow follows, so the tracer
// adds those from the schema. Without a schema it shows the traces alone.
type tracer struct{ schema *schema.Schema }

// model returns the server's schema, or nil if it cannot be read: a trace can be shown without.
func (s *server) model(ctx context.Context) *schema.Schema {
	answer, err := s.schema.ReadSchema(ctx, &authzed.ReadSchemaRequest{})
	if err != nil {
		return nil
	}
	parsed, err := source.Parse("schema", answer.GetSchemaText(), nil, source.Options{}) //nolint:contextcheck // compiling the schema is no I/O
	if err != nil {
		return nil
	}
	model, err := parsed.Model()
	if err != nil {
		return nil
	}
	return model
}

// rows writes a node of a trace and all nodes below it, in the order of the schema, because SpiceDB's own order changes from call to call.
func (t *tracer) rows(w io.Writer, above, of *deputy.CheckTrace, indent string) {
	text := object(of.GetResource()) + "#" + of.GetPermission() + "@" + subject(of.GetSubject())
	var details []string
	_, via := t.via(above, of)
	if len(via) > 0 {
		details = append(details, "by "+strings.Join(via, " or "))
	}
	if m := t.member(of); m.IsPermission() {
		details = append(details, of.GetPermission()+" = "+m.Expression.String())
	}
	if of.GetCaveat() != "" {
		details = append(details, "caveat "+of.GetCaveat())
	}
	row(w, indent+text, outcome(of.GetOutcome()), strings.Join(details, "; "))
	children := slices.Clone(of.GetChildren())
	slices.SortStableFunc(children, func(a, b *deputy.CheckTrace) int {
		i, _ := t.via(of, a)
		j, _ := t.via(of, b)
		return i - j
	})
	for _, child := range children {
		t.rows(w, of, child, indent+"  ")
	}
}

// member returns the relation or permission of a node; nil where the schema lacks it.
func (t *tracer) member(of *deputy.CheckTrace) *schema.Member {
	if t.schema == nil {
		return nil
	}
	return t.schema.Member(schema.Name{Type: of.GetResource().GetObjectType(), Member: of.GetPermission()})
}

// via returns which part of the expression above a node is, and the relationship by which that came to the node: more than one where
// several arrows may have followed it, none for a member of the same object.
func (t *tracer) via(above, of *deputy.CheckTrace) (part int, relationships []string) {
	m := t.member(above)
	from, to := object(above.GetResource()), object(of.GetResource())
	switch {
	case m == nil:
		return 0, nil
	case !m.IsPermission():
		return 0, []string{from + "#" + m.Member + "@" + to + "#" + of.GetPermission()}
	}
	part = len(m.Leaves)
	for i, leaf := range m.Leaves {
		switch {
		case leaf.Member != of.GetPermission():
		case !leaf.IsArrow():
			if from == to {
				return i, nil
			}
		case t.follows(schema.Name{Type: m.Type, Member: leaf.Through}, of.GetResource().GetObjectType()):
			part = min(part, i)
			relationships = append(relationships, from+"#"+leaf.Through+"@"+to)
		}
	}
	return part, relationships
}

// follows reports whether a relation may have objects of a type.
func (t *tracer) follows(relation schema.Name, objectType string) bool {
	m := t.schema.Member(relation)
	return m != nil && slices.ContainsFunc(m.Allowed, func(a schema.Allowed) bool { return a.Type == objectType && !a.Wildcard })
}

// gateName returns a gate's name as the design spells it.
func gateName(g deputy.Gate) string { return short(g.String(), "GATE_") }

// outcome returns the outcome of a condition. An outcome that this program does not know is a refusal.
func outcome(o deputy.Outcome) string {
	if o == deputy.Outcome_OUTCOME_UNSPECIFIED {
		return "no"
	}
	return short(o.String(), "OUTCOME_")
}
