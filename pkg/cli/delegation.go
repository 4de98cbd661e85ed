package cli

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	deputy "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// idempotencyUsage is the help of every --idempotency-key flag.
const idempotencyUsage = "a retry with the same key returns what the first try made"

// newDelegation builds `deputy delegation`.
func newDelegation(p *program) *cobra.Command {
	cmd := group(groupGovern, "delegation", "Create, list and revoke delegations")
	c := client(p, cmd)
	cmd.AddCommand(newDelegationCreate(c), newDelegationGet(c), newDelegationList(c), newDelegationRevoke(c))
	return cmd
}

// newDelegationCreate builds `deputy delegation create`. The server judges who may grant what;
// the time to live has no default here, because a delegation that nobody gave an end is a mistake.
func newDelegationCreate(c *connection) *cobra.Command {
	var agent, principal, tenant, grantedBy, parent, idempotencyKey, consent, actorTokenFile string
	var scope []string
	var unscoped, allowDirect bool
	var lasts time.Duration
	cmd := &cobra.Command{
		Use:   "create --agent AGENT --ttl DURATION",
		Short: "Let an agent act for a principal, in one tenant, until a time",
		Long: `Let an agent act for a principal, in one tenant, until a time.

It reaches only what each --scope names, or with --unscoped all that the agent and the principal both
reach; with neither it reaches nothing. With --parent it is a part of another delegation, and never
more than that one. With --consent-token-file it is no more than the person has agreed to by the token,
which is used up.`,
		Example: `  deputy delegation create --agent triage-bot --principal user:alice --tenant acme --unscoped --ttl 8h
  deputy delegation create --agent triage-bot --principal tenant:acme#member --tenant acme \
    --granted-by user:dana --scope folder:inbox#reader --ttl 720h
  deputy delegation create --agent triage-bot --unscoped --consent-token-file consent.jwt`,
		Args: cobra.NoArgs,
	}
	flags := cmd.Flags()
	flags.StringVar(&agent, "agent", "", "the agent that is to act")
	flags.StringVar(&principal, "principal", "",
		"for whom: user:ID, service:ID, tenant:ID#member or tenant:ID#admin; with --parent, the parent's if left out")
	flags.StringVar(&tenant, "tenant", "", "in which tenant; with --parent, the parent's if left out")
	flags.StringVar(&grantedBy, "granted-by", "", "who grants, such as user:dana; may be left out for a user and with --parent")
	flags.StringVar(&parent, "parent", "", "the delegation that this one is a part of")
	flags.StringArrayVar(&scope, "scope", nil, "reach only this grant, TYPE:ID#RELATION; may be repeated")
	flags.BoolVar(&unscoped, "unscoped", false, "reach all that the agent reaches")
	flags.BoolVar(&allowDirect, "allow-direct", false, "let the agent act without a session")
	flags.DurationVar(&lasts, "ttl", 0, "how long it holds, such as 8h; with --consent-token-file until the token ends if left out")
	flags.StringVar(&consent, "consent-token-file", "",
		"file with the person's own token by which the person consents; --principal and --tenant may be left out then")
	flags.StringVar(&idempotencyKey, "idempotency-key", "", idempotencyUsage)
	flags.StringVar(&actorTokenFile, "actor-token-file", "", actorTokenUsage)
	cmd.RunE = c.run(func(ctx context.Context, s *server, _ []string) error {
		if lasts < 0 || lasts == 0 && consent == "" {
			return errors.New("--ttl must say how long the delegation holds, such as 8h")
		}
		request := &deputy.CreateDelegationRequest{
			AgentId: bareID("agent", agent), TenantId: bareID("tenant", tenant),
			ParentDelegationId: bareID("delegation", parent),
			Unscoped:           unscoped, AllowDirect: allowDirect, Ttl: ttl(lasts), IdempotencyKey: idempotencyKey,
		}
		var err error
		if request.ConsentToken, err = readToken("consent-token-file", "person", consent); err != nil {
			return err
		}
		if principal != "" {
			if request.Principal, err = parsePrincipal(principal); err != nil {
				return err
			}
		}
		if grantedBy != "" {
			if request.GrantedBy, err = parseObject("--granted-by", grantedBy); err != nil {
				return err
			}
		}
		if request.Scope, err = parseScope(scope); err != nil {
			return err
		}
		if request.ActorToken, err = readToken("actor-token-file", "agent", actorTokenFile); err != nil {
			return err
		}
		answer, err := s.delegations.CreateDelegation(ctx, request)
		if err != nil {
			return err
		}
		if !unscoped && len(scope) == 0 && c.output != "json" {
			_, _ = io.WriteString(c.program.Err, "It reaches nothing, because it has neither a --scope nor --unscoped.\n")
		}
		return c.print(answer, func(w io.Writer) { describeDelegation(w, answer.GetDelegation()) })
	})
	return cmd
}

// newDelegationGet builds `deputy delegation get`.
func newDelegationGet(c *connection) *cobra.Command {
	return &cobra.Command{
		Use:   "get DELEGATION",
		Short: "Show a delegation",
		Args:  cobra.ExactArgs(1),
		RunE: c.run(func(ctx context.Context, s *server, args []string) error {
			answer, err := s.delegations.GetDelegation(ctx, &deputy.GetDelegationRequest{DelegationId: bareID("delegation", args[0])})
			if err != nil {
				return err
			}
			return c.print(answer, func(w io.Writer) { describeDelegation(w, answer.GetDelegation()) })
		}),
	}
}

// newDelegationList builds `deputy delegation list`.
func newDelegationList(c *connection) *cobra.Command {
	var agent, principal, tenant, parent string
	var inactive, leaves bool
	var pages paging
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List delegations by agent, principal, tenant or parent",
		Example: `  deputy delegation list --agent triage-bot
  deputy delegation list --principal user:alice --all`,
		Args: cobra.NoArgs,
	}
	flags := cmd.Flags()
	flags.StringVar(&agent, "agent", "", "only those of this agent")
	flags.StringVar(&principal, "principal", "", "only those that name this principal or set")
	flags.StringVar(&tenant, "tenant", "", "only those in this tenant")
	flags.StringVar(&parent, "parent", "", "only direct parts of this delegation")
	flags.BoolVar(&inactive, "all", false, "also those that were revoked or have run out")
	flags.BoolVar(&leaves, "leaves", false, "also the leaves that sessions minted")
	pages.register(flags)
	cmd.RunE = c.run(func(ctx context.Context, s *server, _ []string) error {
		request := &deputy.ListDelegationsRequest{
			AgentId: bareID("agent", agent), TenantId: bareID("tenant", tenant),
			ParentDelegationId: bareID("delegation", parent),
			IncludeInactive:    inactive, IncludeLeaves: leaves,
		}
		if principal != "" {
			var err error
			if request.Principal, err = parsePrincipal(principal); err != nil {
				return err
			}
		}
		answer, err := all(pages, func(limit uint32, at *deputy.Cursor) (*deputy.ListDelegationsResponse, error) {
			request.Limit, request.Cursor = limit, at
			return s.delegations.ListDelegations(ctx, request)
		}, func(r *deputy.ListDelegationsResponse) *[]*deputy.Delegation { return &r.Delegations })
		if everything := agent == "" && principal == "" && tenant == "" && parent == ""; everything && status.Code(err) == codes.InvalidArgument {
			return errors.New("--agent, --principal, --tenant or --parent is required") // a person's own token needs none of them
		}
		if err != nil {
			return err
		}
		return c.printList(answer, answer, func(w io.Writer) {
			row(w, "DELEGATION", "STATE", "AGENT", "PRINCIPAL", "TENANT", "UNSCOPED", "DIRECT", "EXPIRES")
			for _, d := range answer.GetDelegations() {
				row(w, d.GetDelegationId(), state(d.GetState()), d.GetAgentId(), subject(d.GetPrincipal()), d.GetTenantId(),
					yes(d.GetUnscoped()), yes(d.GetAllowDirect()), moment(d.GetExpiresAt()))
			}
		})
	})
	return cmd
}

// newDelegationRevoke builds `deputy delegation revoke`. Once it returns, every check under the
// delegation or a part of it refuses. Revoking twice is no error.
func newDelegationRevoke(c *connection) *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use:   "revoke DELEGATION",
		Short: "End a delegation and all that was passed on from it",
		Args:  cobra.ExactArgs(1),
		RunE: c.run(func(ctx context.Context, s *server, args []string) error {
			id := bareID("delegation", args[0])
			answer, err := s.delegations.RevokeDelegation(ctx, &deputy.RevokeDelegationRequest{DelegationId: id, Reason: reason})
			if err != nil {
				return err
			}
			return c.printDone(answer, "delegation:"+id+" is revoked")
		}),
	}
	reasonVar(cmd, &reason)
	return cmd
}

// describeDelegation writes a delegation, one fact a line.
func describeDelegation(w io.Writer, d *deputy.Delegation) {
	field(w, "delegation", d.GetDelegationId())
	field(w, "state", state(d.GetState()))
	field(w, "agent", d.GetAgentId())
	field(w, "principal", subject(d.GetPrincipal()))
	field(w, "tenant", d.GetTenantId())
	field(w, "granted by", object(d.GetGrantedBy()))
	field(w, "parent", d.GetParentDelegationId())
	field(w, "session", d.GetSessionId())
	field(w, "unscoped", yes(d.GetUnscoped()))
	field(w, "allow direct", yes(d.GetAllowDirect()))
	field(w, "created", moment(d.GetCreatedAt()))
	field(w, "expires", moment(d.GetExpiresAt()))
}
