package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	deputy "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// newSignal builds `deputy signal`.
func newSignal(p *program) *cobra.Command {
	cmd := group(groupGovern, "signal", "List, apply and drop security events that wait for a person (responders)")
	cmd.Long = `Identity providers send security events (Shared Signals, CAEP and RISC) to --http-listen, and most take effect at once.
An event that reaches beyond what its transmitter may do, or is too old, waits until a person applies or drops it.
Each server has its own list: ask the one that received it.`
	c := client(p, cmd)
	cmd.AddCommand(newSignalList(c), newSignalApply(c), newSignalDrop(c))
	return cmd
}

// newSignalList builds `deputy signal list`.
func newSignalList(c *connection) *cobra.Command {
	var pages paging
	cmd := &cobra.Command{Use: "list", Short: "List the signals that wait, the oldest first", Args: cobra.NoArgs}
	pages.register(cmd.Flags())
	cmd.RunE = c.run(func(ctx context.Context, s *server, _ []string) error {
		answer, err := all(pages, func(limit uint32, at *deputy.Cursor) (*deputy.ListSignalsResponse, error) {
			return s.client.Signals.ListSignals(ctx, &deputy.ListSignalsRequest{Limit: limit, Cursor: at})
		}, func(r *deputy.ListSignalsResponse) *[]*deputy.Signal { return &r.Signals })
		if err != nil {
			return err
		}
		return c.printList(answer, answer, func(w io.Writer) {
			row(w, "SIGNAL", "EVENTS", "ABOUT", "WOULD", "FROM", "RECEIVED", "WAITS BECAUSE")
			for _, one := range answer.GetSignals() {
				row(w, one.GetSignalId(), strings.Join(one.GetEvents(), ","), aboutSignal(one), wouldSignal(one), one.GetTransmitter(),
					moment(one.GetReceivedAt()), because(one))
			}
		})
	})
	return cmd
}

// newSignalApply builds `deputy signal apply`.
func newSignalApply(c *connection) *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use: "apply SIGNAL --reason TEXT", Short: "Apply a signal that waits",
		Example: `  deputy signal apply 9b2e… --reason "acme's security team confirms it"`, Args: cobra.ExactArgs(1),
	}
	reasonVar(cmd, &reason)
	cmd.RunE = c.run(func(ctx context.Context, s *server, args []string) error {
		if reason == "" {
			return errors.New(`--reason is required: say why, such as --reason "acme's security team confirms it"`)
		}
		answer, err := s.client.ApplySignal(ctx, args[0], reason)
		if answer == nil {
			return err
		}
		if printed := c.print(answer, func(w io.Writer) { describeApplied(w, answer) }); printed != nil {
			return printed
		}
		if err != nil {
			return fmt.Errorf("not all that was begun has ended; run the same command again: %w", err)
		}
		return nil
	})
	return cmd
}

// newSignalDrop builds `deputy signal drop`.
func newSignalDrop(c *connection) *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use: "drop SIGNAL --reason TEXT", Short: "Take a signal from the list without applying it",
		Example: `  deputy signal drop 9b2e… --reason "a drill"`, Args: cobra.ExactArgs(1),
	}
	reasonVar(cmd, &reason)
	cmd.RunE = c.run(func(ctx context.Context, s *server, args []string) error {
		if reason == "" {
			return errors.New(`--reason is required: say why, such as --reason "a drill"`)
		}
		answer, err := s.client.Signals.DropSignal(ctx, &deputy.DropSignalRequest{SignalId: args[0], Reason: reason})
		if err != nil {
			return err
		}
		return c.print(answer, func(w io.Writer) {
			row(w, "The signal "+answer.GetSignal().GetSignalId()+" is dropped. Nothing was changed.")
		})
	})
	return cmd
}

// describeApplied says what a signal stopped.
func describeApplied(w io.Writer, answer *deputy.ApplySignalResponse) {
	is := answer.GetSignal()
	if is.GetAct() == deputy.SignalAct_SIGNAL_ACT_BRAKE && is.GetSessionId() == "" {
		row(w, strings.TrimSuffix(aboutSignal(is), " in "+is.GetTenantId())+" is suspended: every check refuses from now on.")
	}
	row(w, fmt.Sprintf("Ended: %s. Revoked: %s.",
		count(answer.GetSessionsEnded(), "live session"), count(answer.GetDelegationsRevoked(), "live delegation")))
}

// aboutSignal is what a signal is about.
func aboutSignal(s *deputy.Signal) string {
	in := ""
	if s.GetTenantId() != "" {
		in = " in " + s.GetTenantId()
	}
	switch {
	case s.GetAgentId() != "":
		return "agent:" + s.GetAgentId() + in
	case s.GetPrincipal() != nil:
		return s.GetPrincipal().GetObjectType() + ":" + s.GetPrincipal().GetObjectId() + in
	case s.GetSessionId() != "":
		return "session:" + s.GetSessionId()
	default:
		return "tenant:" + s.GetTenantId()
	}
}

// wouldSignal is what a signal asks for.
func wouldSignal(s *deputy.Signal) string {
	if s.GetAct() == deputy.SignalAct_SIGNAL_ACT_BRAKE {
		return "suspend"
	}
	return "end sessions"
}

// because is why a signal is in the list.
func because(s *deputy.Signal) string {
	if s.GetState() == deputy.SignalState_SIGNAL_STATE_BEGUN {
		return "it was broken off; its transmitter sends it again"
	}
	return s.GetWaitsBecause()
}
