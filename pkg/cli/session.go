package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	deputy "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// newSession builds `deputy session`.
func newSession(p *program) *cobra.Command {
	cmd := group(groupGovern, "session", "Start, list, renew and end sessions")
	c := client(p, cmd)
	cmd.AddCommand(newSessionStart(c), newSessionGet(c), newSessionList(c), newSessionRenew(c), newSessionEnd(c))
	return cmd
}

// newSessionStart builds `deputy session start`.
func newSessionStart(c *connection) *cobra.Command {
	var agent string
	var targets, scope []string
	var lasts time.Duration
	var frozen bool
	var idempotencyKey, actorTokenFile string
	cmd := &cobra.Command{
		Use:   "start --agent AGENT --target DELEGATION[,PRINCIPAL…]",
		Short: "Start a run of an agent that acts under delegations",
		Long: `Start a run of an agent. Each --target names a delegation of that agent and the principals to act
for; they may be left out where the delegation is for one user or service.`,
		Example: `  deputy session start --agent triage-bot --target 9b2e… --ttl 30m
  deputy session start --agent triage-bot --target 77c1…,user:alice,user:bob --scope folder:inbox#reader`,
		Args: cobra.NoArgs,
	}
	flags := cmd.Flags()
	flags.StringVar(&agent, "agent", "", "the agent that is to act; required")
	flags.StringArrayVar(&targets, "target", nil, "DELEGATION[,PRINCIPAL…] to act under; may be repeated")
	flags.StringArrayVar(&scope, "scope", nil, "reach only this grant, TYPE:ID#RELATION, under every target; may be repeated")
	flags.DurationVar(&lasts, "ttl", 0, "how long it lasts without renewal; the server's default is 1h")
	flags.BoolVar(&frozen, "frozen", false, "freeze the rights now: what is granted later does not count, what is taken away does")
	flags.StringVar(&idempotencyKey, "idempotency-key", "", idempotencyUsage)
	flags.StringVar(&actorTokenFile, "actor-token-file", "", actorTokenUsage)
	cmd.RunE = c.run(func(ctx context.Context, s *server, _ []string) error {
		if lasts < 0 {
			return errors.New("--ttl must be positive")
		}
		grants, err := parseScope(scope)
		if err != nil {
			return err
		}
		request := &deputy.StartSessionRequest{
			AgentId: bareID("agent", agent), Ttl: ttl(lasts), Frozen: frozen, IdempotencyKey: idempotencyKey,
		}
		for _, text := range targets {
			target, err := parseTarget(text)
			if err != nil {
				return err
			}
			target.Scope = grants
			request.Targets = append(request.Targets, target)
		}
		if request.ActorToken, err = readToken("actor-token-file", "agent", actorTokenFile); err != nil {
			return err
		}
		answer, err := s.sessions.StartSession(ctx, request)
		if err != nil {
			return err
		}
		return c.print(answer, func(w io.Writer) { describeSession(w, answer.GetSession()) })
	})
	return cmd
}

// parseTarget reads "DELEGATION,PRINCIPAL,…". Without a principal the server takes the delegation's own,
// where that is one user or service.
func parseTarget(text string) (*deputy.SessionTarget, error) {
	id, rest, more := strings.Cut(text, ",")
	if id == "" {
		return nil, fmt.Errorf("--target must be DELEGATION or DELEGATION,PRINCIPAL…, not %q", text)
	}
	if err := checkID("--target", "delegation", id); err != nil {
		return nil, err
	}
	target := &deputy.SessionTarget{DelegationId: bareID("delegation", id)}
	if !more {
		return target, nil
	}
	for one := range strings.SplitSeq(rest, ",") {
		principal, err := parseObject("--target's principal", one)
		if err != nil {
			return nil, err
		}
		target.Principals = append(target.Principals, principal)
	}
	return target, nil
}

// newSessionGet builds `deputy session get`.
func newSessionGet(c *connection) *cobra.Command {
	return &cobra.Command{
		Use:   "get SESSION",
		Short: "Show a session, and the principals and tenants that it acts for",
		Args:  cobra.ExactArgs(1),
		RunE: c.run(func(ctx context.Context, s *server, args []string) error {
			answer, err := s.sessions.GetSession(ctx, &deputy.GetSessionRequest{SessionId: bareID("session", args[0])})
			if err != nil {
				return err
			}
			return c.print(answer, func(w io.Writer) { describeSession(w, answer.GetSession()) })
		}),
	}
}

// newSessionList builds `deputy session list`.
func newSessionList(c *connection) *cobra.Command {
	var agent string
	var inactive bool
	var pages paging
	cmd := &cobra.Command{
		Use:     "list --agent AGENT",
		Short:   "List an agent's sessions",
		Example: `  deputy session list --agent triage-bot --all`,
		Args:    cobra.NoArgs,
	}
	cmd.Flags().StringVar(&agent, "agent", "", "the agent whose sessions are listed; required")
	cmd.Flags().BoolVar(&inactive, "all", false, "also those that have ended or run out")
	pages.register(cmd.Flags())
	cmd.RunE = c.run(func(ctx context.Context, s *server, _ []string) error {
		request := &deputy.ListSessionsRequest{AgentId: bareID("agent", agent), IncludeInactive: inactive}
		answer, err := all(pages, func(limit uint32, at *deputy.Cursor) (*deputy.ListSessionsResponse, error) {
			request.Limit, request.Cursor = limit, at
			return s.sessions.ListSessions(ctx, request)
		}, func(r *deputy.ListSessionsResponse) *[]*deputy.Session { return &r.Sessions })
		if err != nil {
			return err
		}
		return c.printList(answer, answer, func(w io.Writer) {
			row(w, "SESSION", "STATE", "FROZEN", "ACTS FOR", "STARTED", "EXPIRES")
			for _, session := range answer.GetSessions() {
				row(w, session.GetSessionId(), state(session.GetState()), yes(session.GetFrozen()), actsFor(session),
					moment(session.GetStartedAt()), moment(session.GetExpiresAt()))
			}
		})
	})
	return cmd
}

// actsFor sums up a session's leaves: the first one, and how many more.
func actsFor(s *deputy.Session) string {
	leaves := s.GetLeaves()
	if len(leaves) == 0 {
		return ""
	}
	text := object(leaves[0].GetPrincipal()) + " in " + leaves[0].GetTenantId()
	if more := len(leaves) - 1; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

// newSessionRenew builds `deputy session renew`.
func newSessionRenew(c *connection) *cobra.Command {
	var lasts time.Duration
	cmd := &cobra.Command{Use: "renew SESSION", Short: "Move the end of a live session", Args: cobra.ExactArgs(1)}
	cmd.Flags().DurationVar(&lasts, "ttl", 0, "how long it lasts from now; the server's default is 1h")
	cmd.RunE = c.run(func(ctx context.Context, s *server, args []string) error {
		if lasts < 0 {
			return errors.New("--ttl must be positive")
		}
		answer, err := s.sessions.RenewSession(ctx, &deputy.RenewSessionRequest{SessionId: bareID("session", args[0]), Ttl: ttl(lasts)})
		if err != nil {
			return err
		}
		return c.print(answer, func(w io.Writer) { describeSession(w, answer.GetSession()) })
	})
	return cmd
}

// newSessionEnd builds `deputy session end`. Once it returns, every check in the session refuses. Ending
// twice is no error.
func newSessionEnd(c *connection) *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use:   "end SESSION",
		Short: "End a session and all that was passed on from it",
		Args:  cobra.ExactArgs(1),
		RunE: c.run(func(ctx context.Context, s *server, args []string) error {
			id := bareID("session", args[0])
			answer, err := s.sessions.EndSession(ctx, &deputy.EndSessionRequest{SessionId: id, Reason: reason})
			if err != nil {
				return err
			}
			return c.printDone(answer, "session:"+id+" has ended")
		}),
	}
	reasonVar(cmd, &reason)
	return cmd
}

// describeSession writes a session, one fact a line, and then its leaves: whom it acts for, and the
// delegation that was minted for each.
func describeSession(w io.Writer, s *deputy.Session) {
	field(w, "session", s.GetSessionId())
	field(w, "state", state(s.GetState()))
	field(w, "agent", s.GetAgentId())
	field(w, "frozen", yes(s.GetFrozen()))
	if lost := s.GetBaselineLost(); lost != "" {
		field(w, "baseline", "lost, and every check is refused: "+lost)
	}
	field(w, "started", moment(s.GetStartedAt()))
	field(w, "expires", moment(s.GetExpiresAt()))
	row(w, "")
	row(w, "ACTS FOR", "TENANT", "LEAF", "MINTED FROM")
	for _, leaf := range s.GetLeaves() {
		row(w, object(leaf.GetPrincipal()), leaf.GetTenantId(), leaf.GetDelegationId(), leaf.GetParentDelegationId())
	}
}
