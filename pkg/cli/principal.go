package cli

import (
	"context"

	"github.com/spf13/cobra"

	deputy "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// newPrincipal builds `deputy principal`. A user, service or tenant that was never resumed (or imported
// as active) is acted for by nobody, so resume is also how it is let in for the first time.
func newPrincipal(p *program) *cobra.Command {
	cmd := group(groupGovern, "principal", "Suspend users, services and tenants (responders), and resume them (admins)")
	c := client(p, cmd)
	cmd.AddCommand(newPrincipalSuspend(c), newPrincipalResume(c))
	return cmd
}

// newPrincipalSuspend builds `deputy principal suspend`.
func newPrincipalSuspend(c *connection) *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use:     "suspend PRINCIPAL",
		Short:   "Stop every agent from acting for a user or service, or in a tenant; any id will do",
		Example: `  deputy principal suspend user:alice`,
		Args:    cobra.ExactArgs(1),
		RunE: c.run(func(ctx context.Context, s *server, args []string) error {
			whom, err := parseObject("PRINCIPAL", args[0])
			if err != nil {
				return err
			}
			answer, err := s.principals.Suspend(ctx, &deputy.SuspendRequest{Principal: whom, Reason: reason})
			if err != nil {
				return err
			}
			c.unnamed(answer.GetUnnamed(), args[0])
			return c.printDone(answer, args[0]+" is suspended")
		}),
	}
	reasonVar(cmd, &reason)
	return cmd
}

// newPrincipalResume builds `deputy principal resume`.
func newPrincipalResume(c *connection) *cobra.Command {
	return &cobra.Command{
		Use:        "resume PRINCIPAL",
		SuggestFor: []string{"user", "users", "service", "services", "tenant", "tenants", "create", "add", "activate"},
		Short:      "Let agents act for it: again, or for the first time",
		Long: `Let agents act for a user or a service, or in a tenant: again, or for the first time.

Before this, agents act for nobody: a user that relationships name is not active, and neither is a tenant. "deputy
adopt" lists all that are not, with what they would hold.`,
		Example: `  deputy principal resume user:alice
  deputy principal resume tenant:acme`,
		Args: cobra.ExactArgs(1),
		RunE: c.run(func(ctx context.Context, s *server, args []string) error {
			whom, err := parseObject("PRINCIPAL", args[0])
			if err != nil {
				return err
			}
			answer, err := s.principals.Resume(ctx, &deputy.ResumeRequest{Principal: whom})
			if err != nil {
				return err
			}
			c.unnamed(answer.GetUnnamed(), args[0])
			return c.printDone(answer, args[0]+" is active")
		}),
	}
}
