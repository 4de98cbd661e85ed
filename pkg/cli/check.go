package cli

import (
	"context"
	"errors"
	"io"
	"strings"

	"github.com/spf13/cobra"

	deputy "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// newCheck builds `deputy check`, PermissionsService.CheckPermission.
//
// Its exit code is made for `if deputy check …; then act; fi`: only HAS_PERMISSION is 0. An answer that
// depends on context that was not given is no yes, and a failure is a code of its own, because a script
// may want to stop where it got no answer instead of taking it for a refusal.
func newCheck(p *program) *cobra.Command {
	var q question
	var watch bool
	cmd := &cobra.Command{
		Use:   "check AGENT RESOURCE PERMISSION",
		Short: "Decide whether an agent may act: exit code 0 yes, 1 no, 2 error",
		Long: `Decide whether an agent may do something to an object, on behalf of a principal, in a tenant.

The exit code is 0 if it may, 1 if it may not or if the answer depends on context that --context did
not carry, and 2 if there is no answer.

With --watch the command goes on until the permission ends, prints the decision by which it did, and exits
with 1. If the server stops, or cannot say any more whether the permission holds, it exits with 2.` + questionUsage,
		Example: `  deputy check triage-bot ticket:1001 view --session 5f0c…
  deputy check triage-bot ticket:1001 view --session 5f0c… --watch
  deputy check triage-bot ticket:1001 view --on-behalf-of user:alice --tenant acme`,
		GroupID: groupAsk,
		Args:    cobra.ExactArgs(3),
	}
	q.register(cmd)
	cmd.Flags().BoolVar(&watch, "watch", false, "go on until the permission ends")
	c := client(p, cmd)
	c.completes(cmd, 1, false)
	once := c.run(func(ctx context.Context, s *server, args []string) error {
		request, err := q.request(args)
		if err != nil {
			return err
		}
		decision, err := s.permissions.CheckPermission(ctx, request)
		if err != nil {
			return err
		}
		return c.decided(decision)
	})
	on := c.runLong(func(ctx context.Context, s *server, args []string) error {
		request, err := q.request(args)
		if err != nil {
			return err
		}
		return c.watch(ctx, s, request)
	})
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if watch {
			return on(cmd, args)
		}
		return once(cmd, args)
	}
	return cmd
}

// decided prints a decision. Its error is errDenied unless that allows.
func (c *connection) decided(decision *deputy.CheckPermissionResponse) error {
	// An answer that could not be printed is an error, even if it was a yes.
	err := c.print(decision, func(w io.Writer) {
		decisionTable(w, decision)
		if decision.GetRefusedBy() == deputy.RefusedBy_REFUSED_BY_ACTOR {
			row(w, "see", "deputy explain, as an auditor: there may be no delegation, a revoked or expired one, "+
				"one that needs a session, or an agent, a principal or a tenant that is not active")
		}
	})
	if err != nil {
		return err
	}
	if decision.GetPermissionship() != deputy.Permissionship_PERMISSIONSHIP_HAS_PERMISSION {
		return errDenied
	}
	return nil
}

// watch prints the decision that a watch begins with, and the one by which the permission ends.
func (c *connection) watch(ctx context.Context, s *server, request *deputy.CheckPermissionRequest) error {
	stream, err := s.permissions.WatchPermission(ctx, &deputy.WatchPermissionRequest{Check: request})
	if err != nil {
		return err
	}
	for {
		message, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return errors.New("the server ended the watch without saying that the permission has ended: it may not hold any more")
		}
		if err != nil {
			return err
		}
		for _, decision := range []*deputy.CheckPermissionResponse{message.GetDecision(), message.GetEnded()} {
			if decision == nil {
				continue
			}
			if err := c.decided(decision); err != nil {
				return err
			}
		}
		if message.GetEnded() != nil { // by a permission, as no server ends one: there is no answer then
			return errors.New("the server ended the watch and says that the permission holds")
		}
	}
}

// decisionTable writes a decision, one fact a line. On a refusal most lines are not there, because the
// server does not say them: absent, foreign and forbidden objects look the same.
func decisionTable(w io.Writer, d *deputy.CheckPermissionResponse) {
	row(w, "answer", permissionship(d.GetPermissionship()))
	field(w, "refused by", refusedBy(d.GetRefusedBy()))
	field(w, "missing context", strings.Join(d.GetMissingContext(), ", "))
	field(w, "principal", object(d.GetPrincipal()))
	field(w, "tenant", d.GetTenantId())
	field(w, "agents", agentChain(d.GetAgentChain()))
	field(w, "delegation", d.GetDelegationId())
	field(w, "valid until", moment(d.GetValidUntil()))
	field(w, "decision", d.GetDecisionId())
	field(w, "checked at", d.GetCheckedAt().GetToken())
	field(w, "fresh at", moment(d.GetFreshAt()))
}
