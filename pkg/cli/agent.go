package cli

import (
	"context"
	"io"
	"strings"

	"github.com/spf13/cobra"

	deputy "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// newAgent builds `deputy agent`.
func newAgent(p *program) *cobra.Command {
	cmd := group(groupGovern, "agent", "Register, list, suspend and resume agents")
	c := client(p, cmd)
	cmd.AddCommand(newAgentRegister(c), newAgentGet(c), newAgentList(c), newAgentSuspend(c), newAgentResume(c))
	return cmd
}

// newAgentRegister builds `deputy agent register`.
func newAgentRegister(c *connection) *cobra.Command {
	var owners []string
	var adopt bool
	var idempotencyKey string
	cmd := &cobra.Command{
		Use:        "register AGENT --owner USER",
		SuggestFor: []string{"create", "add", "new"},
		Short:      "Make an agent known (admins)",
		Long: `Make an agent known. Its owners need not be active. The users that it is to act for do, and so do their
tenants: a user, service or tenant is not active before "deputy principal resume" or "deputy adopt".

An id that relationships name already is refused, because the agent would hold what they grant: "deputy adopt
agent:AGENT" shows that. With --adopt the id is taken as it is, unless it is suspended.`,
		Example: `  deputy agent register triage-bot --owner alice --owner bob
  deputy agent register scribe --owner alice --adopt`,
		Args: cobra.ExactArgs(1),
	}
	cmd.Flags().StringArrayVar(&owners, "owner", nil, "user who answers for the agent; may be repeated")
	cmd.Flags().BoolVar(&adopt, "adopt", false, "take an id that relationships name already, with what they grant")
	cmd.Flags().StringVar(&idempotencyKey, "idempotency-key", "", idempotencyUsage)
	cmd.RunE = c.run(func(ctx context.Context, s *server, args []string) error {
		for i, owner := range owners {
			owners[i] = bareID("user", owner)
		}
		answer, err := s.agents.RegisterAgent(ctx, &deputy.RegisterAgentRequest{
			AgentId: bareID("agent", args[0]), OwnerIds: owners, Adopt: adopt, IdempotencyKey: idempotencyKey,
		})
		if err != nil {
			return err
		}
		for _, owner := range answer.GetUnnamedOwnerIds() {
			c.unnamed(true, "user:"+owner)
		}
		return c.print(answer, func(w io.Writer) { agentTable(w, answer.GetAgent()) })
	})
	return cmd
}

// newAgentGet builds `deputy agent get`.
func newAgentGet(c *connection) *cobra.Command {
	return &cobra.Command{
		Use:   "get AGENT",
		Short: "Show an agent",
		Args:  cobra.ExactArgs(1),
		RunE: c.run(func(ctx context.Context, s *server, args []string) error {
			answer, err := s.agents.GetAgent(ctx, &deputy.GetAgentRequest{AgentId: bareID("agent", args[0])})
			if err != nil {
				return err
			}
			return c.print(answer, func(w io.Writer) { agentTable(w, answer.GetAgent()) })
		}),
	}
}

// newAgentList builds `deputy agent list`.
func newAgentList(c *connection) *cobra.Command {
	var pages paging
	cmd := &cobra.Command{Use: "list", Short: "List the registered agents", Args: cobra.NoArgs}
	pages.register(cmd.Flags())
	cmd.RunE = c.run(func(ctx context.Context, s *server, _ []string) error {
		answer, err := all(pages, func(limit uint32, at *deputy.Cursor) (*deputy.ListAgentsResponse, error) {
			return s.agents.ListAgents(ctx, &deputy.ListAgentsRequest{Limit: limit, Cursor: at})
		}, func(r *deputy.ListAgentsResponse) *[]*deputy.Agent { return &r.Agents })
		if err != nil {
			return err
		}
		return c.printList(answer, answer, func(w io.Writer) { agentTable(w, answer.GetAgents()...) })
	})
	return cmd
}

// newAgentSuspend builds `deputy agent suspend`. Once it returns, every check refuses.
func newAgentSuspend(c *connection) *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use:   "suspend AGENT",
		Short: "Stop an agent and every chain that it is part of (responders)",
		Args:  cobra.ExactArgs(1),
		RunE: c.run(func(ctx context.Context, s *server, args []string) error {
			id := bareID("agent", args[0])
			answer, err := s.agents.SuspendAgent(ctx, &deputy.SuspendAgentRequest{AgentId: id, Reason: reason})
			if err != nil {
				return err
			}
			c.unnamed(answer.GetUnnamed(), "agent:"+id)
			return c.printDone(answer, "agent:"+id+" is suspended")
		}),
	}
	reasonVar(cmd, &reason)
	return cmd
}

// newAgentResume builds `deputy agent resume`.
func newAgentResume(c *connection) *cobra.Command {
	return &cobra.Command{
		Use:   "resume AGENT",
		Short: "Let a suspended agent act again (admins)",
		Args:  cobra.ExactArgs(1),
		RunE: c.run(func(ctx context.Context, s *server, args []string) error {
			id := bareID("agent", args[0])
			answer, err := s.agents.ResumeAgent(ctx, &deputy.ResumeAgentRequest{AgentId: id})
			if err != nil {
				return err
			}
			if answer.GetState() != deputy.LifecycleState_LIFECYCLE_STATE_ACTIVE {
				return c.printDone(answer, "agent:"+id+" is no longer suspended, and not registered: it has no owner")
			}
			return c.printDone(answer, "agent:"+id+" may act")
		}),
	}
}

// agentTable writes one row for each agent. Ids are as they came from outside, not as they are stored.
func agentTable(w io.Writer, agents ...*deputy.Agent) {
	row(w, "AGENT", "STATE", "OWNERS")
	for _, a := range agents {
		row(w, a.GetAgentId(), state(a.GetState()), strings.Join(a.GetOwnerIds(), ", "))
	}
}
