package cli

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	deputy "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// newExplain builds `deputy explain`, PermissionsService.ExplainPermission. It is for people who want to
// know why, so that a refusal is no failure of the command.
func newExplain(p *program) *cobra.Command {
	var q question
	var trace bool
	cmd := &cobra.Command{
		Use:   "explain AGENT RESOURCE PERMISSION",
		Short: "Show a decision with every gate behind it (admins)",
		Long: `Decide as check does, without short cuts, and show what each gate and each condition behind it came
to. It says what check conceals, so it takes an admin's key. The exit code is 0 whatever the answer.` + questionUsage,
		Example: `  deputy explain triage-bot ticket:1001 view --session 5f0c…
  deputy explain triage-bot ticket:1001 view --on-behalf-of user:alice --tenant acme --trace`,
		GroupID: groupAsk,
		Args:    cobra.ExactArgs(3),
	}
	q.register(cmd)
	cmd.Flags().BoolVar(&trace, "trace", false, "show SpiceDB's check trace below each check")
	c := client(p, cmd)
	c.completes(cmd, 1, false)
	cmd.RunE = c.run(func(ctx context.Context, s *server, args []string) error {
		request, err := q.request(args)
		if err != nil {
			return err
		}
		answer, err := s.permissions.ExplainPermission(ctx, &deputy.ExplainPermissionRequest{Check: request})
		if err != nil {
			return err
		}
		return c.print(answer, func(w io.Writer) { explanationTable(w, answer, trace) })
	})
	return cmd
}

// explanationTable writes the decision and, for each candidate, a tree of gates and conditions:
//
//	answer      NO_PERMISSION
//	refused by  object
//
//	Candidate 1 of 1: NO_PERMISSION
//	  principal    user:alice
//	  tenant       acme
//
//	  agent                                             no
//	    document:handbook#edit@agent:triage-bot         no
//
// The candidate that decided is the first.
func explanationTable(w io.Writer, e *deputy.ExplainPermissionResponse, trace bool) {
	decisionTable(w, e.GetDecision())
	if len(e.GetCandidates()) == 0 {
		row(w, "")
		row(w, "Nothing in the graph lets this agent act in this way: no gate was reached.")
	}
	for i, candidate := range e.GetCandidates() {
		row(w, "")
		row(w, fmt.Sprintf("Candidate %d of %d: %s", i+1, len(e.GetCandidates()), permissionship(candidate.GetPermissionship())))
		field(w, "  principal", object(candidate.GetPrincipal()))
		field(w, "  tenant", candidate.GetTenantId())
		field(w, "  agents", strings.Join(candidate.GetAgentChain(), " > "))
		field(w, "  delegations", strings.Join(candidate.GetDelegationChain(), " > "))
		// A line without a tab starts a new block of columns.
		row(w, "")
		for _, gate := range candidate.GetGates() {
			row(w, "  "+gateName(gate.GetGate()), outcome(gate.GetOutcome()))
			for _, condition := range gate.GetConditions() {
				conditionRows(w, condition, trace)
			}
		}
	}
}

// conditionRows writes a condition and, if asked for, the trace below it. A trace is long, and what it
// says is rarely the question, so it is left out otherwise; -o json always has it.
func conditionRows(w io.Writer, c *deputy.ConditionExplanation, trace bool) {
	text := c.GetCondition()
	if c.GetAtBaseline() {
		text += " (at the baseline)"
	}
	detail := c.GetDetail()
	if missing := c.GetMissingContext(); len(missing) > 0 {
		detail = strings.TrimSpace(detail + " missing context: " + strings.Join(missing, ", "))
	}
	row(w, "    "+text, outcome(c.GetOutcome()), detail)
	if trace && c.GetTrace() != nil {
		traceRows(w, c.GetTrace(), "      ")
	}
}

// traceRows writes a node of SpiceDB's check trace and all below it.
func traceRows(w io.Writer, t *deputy.CheckTrace, indent string) {
	text := object(t.GetResource()) + "#" + t.GetPermission() + "@" + subject(t.GetSubject())
	detail := ""
	if t.GetCaveat() != "" {
		detail = "caveat " + t.GetCaveat()
	}
	row(w, indent+text, outcome(t.GetOutcome()), detail)
	for _, child := range t.GetChildren() {
		traceRows(w, child, indent+"  ")
	}
}

// gateName returns a gate's name as the design spells it.
func gateName(g deputy.Gate) string { return short(g.String(), "GATE_") }

// outcome returns what a condition came to. What this program does not know is a refusal.
func outcome(o deputy.Outcome) string {
	if o == deputy.Outcome_OUTCOME_UNSPECIFIED {
		return "no"
	}
	return short(o.String(), "OUTCOME_")
}
