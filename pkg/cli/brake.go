package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	goclient "github.com/deputyauth/deputy/pkg/client"
	deputy "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// reasonVar adds --reason to a command that takes access away.
func reasonVar(cmd *cobra.Command, reason *string) {
	cmd.Flags().StringVar(reason, "reason", "", "why, in up to 512 bytes; the journal keeps it, and no caller is told")
}

// newBrake builds `deputy brake`.
func newBrake(p *program) *cobra.Command {
	cmd := group(groupGovern, "brake", "Stop an agent, a principal, a tenant, a session or a delegation, and all that runs under it (responders)")
	cmd.Long = `Stop an agent, a person or anything else that goes wrong, in one call. Every check refuses from the first write on,
on every node that shares the engine. Then the sessions and delegations that were begun under it end, so that nothing goes on
once it is resumed. --dry-run says what would stop, and
changes nothing; its exit code is 0, whatever it finds.`
	c := client(p, cmd)
	for _, b := range brakes {
		cmd.AddCommand(b.command(c))
	}
	return cmd
}

// brake is one subcommand of `deputy brake`.
type brake struct {
	use, short, example string
	// target reads the argument. name is how the target is called in messages.
	target func(text string) (of goclient.Brake, name string, err error)
	// stopped says how it is stopped, and again how it is let go again; empty where it cannot be.
	stopped string
	again   func(name string) string
}

// kept is said of delegations that a dry run counts, because they stop, and that a brake does not revoke.
const kept = "Delegations that users and admins granted are not revoked: a resume brings them back."

// undone is what is said of what cannot be let go again.
const undone = "This cannot be undone: "

var brakes = []brake{
	{
		use: "agent AGENT", short: "Suspend an agent, end its sessions, and revoke the delegations that it passed on",
		example: `  deputy brake agent triage-bot --reason "reads tickets that nobody asked it to read" --dry-run
  deputy brake agent triage-bot --reason "reads tickets that nobody asked it to read"`,
		target: func(text string) (goclient.Brake, string, error) {
			id := bareID("agent", text)
			return goclient.Brake{Agent: id}, "agent:" + id, nil
		},
		stopped: "is suspended",
		again:   func(name string) string { return "deputy agent resume " + bareID("agent", name) },
	},
	{
		use: "principal PRINCIPAL", short: "Suspend a user or a service, and end what agents do for it",
		example: `  deputy brake principal user:alice --reason "her account was taken over"`,
		target: func(text string) (goclient.Brake, string, error) {
			whom, err := parseObject("PRINCIPAL", text)
			switch {
			case err != nil:
				return goclient.Brake{}, "", err
			case whom.GetObjectType() == "user":
				return goclient.Brake{Principal: goclient.User(whom.GetObjectId())}, text, nil
			case whom.GetObjectType() == "service":
				return goclient.Brake{Principal: goclient.Service(whom.GetObjectId())}, text, nil
			default:
				return goclient.Brake{}, "", fmt.Errorf("PRINCIPAL must be user:ID or service:ID, not %q", text)
			}
		},
		stopped: "is suspended",
		again:   func(name string) string { return "deputy principal resume " + name },
	},
	{
		use: "tenant TENANT", short: "Suspend a tenant, and end what agents do in it",
		example: `  deputy brake tenant acme --reason "asked for by acme's security team"`,
		target: func(text string) (goclient.Brake, string, error) {
			id := bareID("tenant", text)
			return goclient.Brake{Tenant: id}, "tenant:" + id, nil
		},
		stopped: "is suspended",
		again:   func(name string) string { return "deputy principal resume " + name },
	},
	{
		use: "session SESSION", short: "End a session and all that was passed on from it",
		target: func(text string) (goclient.Brake, string, error) {
			id := bareID("session", text)
			return goclient.Brake{Session: id}, "session:" + id, nil
		},
		stopped: "has ended",
		again:   func(string) string { return undone + "its agent can start another session" },
	},
	{
		use: "delegation DELEGATION", short: "Revoke a delegation and all that was passed on from it",
		target: func(text string) (goclient.Brake, string, error) {
			id := bareID("delegation", text)
			return goclient.Brake{Delegation: id}, "delegation:" + id, nil
		},
		stopped: "is revoked",
		again:   func(string) string { return undone + "its principal can create another delegation" },
	},
}

// command builds the subcommand.
func (b brake) command(c *connection) *cobra.Command {
	var reason string
	var dryRun bool
	cmd := &cobra.Command{Use: b.use + " --reason TEXT", Short: b.short, Example: b.example, Args: cobra.ExactArgs(1)}
	reasonVar(cmd, &reason)
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "say what would stop, and change nothing")
	cmd.RunE = c.run(func(ctx context.Context, s *server, args []string) error {
		of, name, err := b.target(args[0])
		if err != nil {
			return err
		}
		if reason == "" {
			return errors.New(`--reason is required: say why, such as --reason "reads tickets that nobody asked it to read"`)
		}
		of.Reason = reason
		if dryRun {
			reach, err := s.client.WouldBrake(ctx, of)
			if err != nil {
				return err
			}
			return c.print(reach, func(w io.Writer) { describeReach(w, reach, !strings.HasPrefix(b.again(name), undone)) })
		}
		answer, err := s.client.Brake(ctx, of)
		if answer == nil {
			return err
		}
		c.unnamed(answer.GetUnnamed(), name)
		if printed := c.print(answer, func(w io.Writer) { b.describe(w, name, answer) }); printed != nil {
			return printed
		}
		if err != nil {
			return fmt.Errorf("%s %s, but not all that was begun under it has ended; run the same command again: %w", name, b.stopped, err)
		}
		return nil
	})
	return cmd
}

// describe says what was stopped, and how it is let go again.
func (b brake) describe(w io.Writer, name string, answer *deputy.BrakeResponse) {
	row(w, name+" "+b.stopped+": every check refuses from now on.")
	row(w, fmt.Sprintf("Ended: %s. Revoked: %s.",
		count(answer.GetSessionsEnded(), "live session"), count(answer.GetDelegationsRevoked(), "live delegation")))
	if again := b.again(name); strings.HasPrefix(again, undone) {
		row(w, again+".")
	} else {
		row(w, "To resume it (admins): "+again)
		row(w, "What was ended or revoked stays so. "+kept)
	}
}

// count returns a number with the noun that it counts.
func count(n uint64, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// describeReach says what would stop, and whether a resume would bring some of it back.
func describeReach(w io.Writer, r *deputy.BrakeReach, resumes bool) {
	least := ""
	if !r.GetComplete() {
		least = "at least "
	}
	row(w, fmt.Sprintf("Nothing was changed. This would stop %s%s, %s and %s.",
		least, count(r.GetAgents(), "agent"), count(r.GetSessions(), "session"), count(r.GetDelegations(), "delegation")))
	if resumes && r.GetDelegations() > 0 {
		row(w, kept)
	}
	if ids := r.GetAgentIds(); len(ids) > 0 {
		row(w, "")
		row(w, "AGENT"+firstOf(len(ids), r.GetAgents()))
		for _, id := range ids {
			row(w, id)
		}
	}
	if sessions := r.GetFirstSessions(); len(sessions) > 0 {
		row(w, "")
		row(w, "SESSION"+firstOf(len(sessions), r.GetSessions()), "AGENT", "ACTS FOR", "EXPIRES")
		for _, s := range sessions {
			row(w, s.GetSessionId(), s.GetAgentId(), actsFor(s), moment(s.GetExpiresAt()))
		}
	}
	if delegations := r.GetFirstDelegations(); len(delegations) > 0 {
		row(w, "")
		row(w, "DELEGATION"+firstOf(len(delegations), r.GetDelegations()), "AGENT", "PRINCIPAL", "TENANT", "EXPIRES")
		for _, d := range delegations {
			row(w, d.GetDelegationId(), d.GetAgentId(), subject(d.GetPrincipal()), d.GetTenantId(), moment(d.GetExpiresAt()))
		}
	}
}

// firstOf says that only the first ones are shown.
func firstOf(shown int, of uint64) string {
	if uint64(shown) >= of { //nolint:gosec // not negative
		return ""
	}
	return fmt.Sprintf(" (the first %d of %d)", shown, of)
}
