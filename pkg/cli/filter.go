package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	deputy "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// newFilter builds `deputy filter`, PermissionsService.FilterResources.
func newFilter(p *program) *cobra.Command {
	var q question
	cmd := &cobra.Command{
		Use:   "filter AGENT TYPE PERMISSION ID…|-",
		Short: "Print those of many objects on which an agent may act",
		Long: `Print those of many objects of one type on which an agent may act, one id a line, in the order in
which they were given. With "-" the ids are read from standard input, one a line. The server takes up to
10,000 ids at once.

An object whose answer depends on context that --context lacks, and an object that cannot be decided, are
not printed. They are named on standard error.` + questionUsage,
		Example: `  deputy filter triage-bot ticket view 1001 1002 --session 5f0c…
  search "refund" | deputy filter triage-bot document view - --session 5f0c…`,
		GroupID: groupAsk,
		Args:    cobra.MinimumNArgs(4),
	}
	q.register(cmd)
	c := client(p, cmd)
	c.completes(cmd, 1, true)
	cmd.RunE = c.run(func(ctx context.Context, s *server, args []string) error {
		// The arguments are those of check, with a type in place of an object.
		check, err := q.request([]string{args[0], args[1] + ":any", args[2]})
		if err != nil {
			return err
		}
		ids := args[3:]
		if len(ids) == 1 && ids[0] == "-" {
			if ids, err = readIDs(c.program.In); err != nil {
				return err
			}
		}
		request := &deputy.FilterResourcesRequest{
			AgentId: check.GetAgentId(), OnBehalfOf: check.GetOnBehalfOf(), TenantId: check.GetTenantId(),
			ResourceObjectType: args[1], ResourceObjectIds: ids, Permission: args[2],
			Context: check.GetContext(), Consistency: check.GetConsistency(), SessionToken: check.GetSessionToken(),
			ActorToken: check.GetActorToken(),
		}
		switch via := check.GetVia().(type) {
		case *deputy.CheckPermissionRequest_SessionId:
			request.Via = &deputy.FilterResourcesRequest_SessionId{SessionId: via.SessionId}
		case *deputy.CheckPermissionRequest_DelegationId:
			request.Via = &deputy.FilterResourcesRequest_DelegationId{DelegationId: via.DelegationId}
		}
		found, err := s.permissions.FilterResources(ctx, request)
		if err != nil {
			return err
		}
		if c.output == "json" {
			return writeJSON(c.program.Out, found, "  ")
		}
		for _, id := range found.GetAllowedObjectIds() {
			if _, err := fmt.Fprintln(c.program.Out, id); err != nil {
				return err
			}
		}
		leftOut(c.program.Err, args[1], found)
		return nil
	})
	return cmd
}

// maxFiltered is how many ids the server takes in one call. The command makes no second call, because that would answer at another revision.
const maxFiltered = 10_000

// readIDs reads ids, one a line. Empty lines are none.
func readIDs(in io.Reader) (ids []string, err error) {
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		id := lines.Text() // without the line's end, be it LF or CRLF
		if id == "" {
			continue
		}
		if len(ids) == maxFiltered {
			return nil, fmt.Errorf("standard input has more than %d ids, and the server takes no more at once; filter them in several calls", maxFiltered)
		}
		ids = append(ids, id)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("standard input: %w", err)
	}
	if len(ids) == 0 {
		return nil, errors.New("standard input has no ids: it takes one a line")
	}
	return ids, nil
}

// leftOut tells a person which objects were not printed although they are not refused, and whether everything is refused for the same reason.
func leftOut(w io.Writer, objectType string, found *deputy.FilterResourcesResponse) {
	for _, one := range found.GetConditional() {
		_, _ = fmt.Fprintf(w, "%s:%s depends on context that was not given, and is not printed: %s\n",
			objectType, one.GetObjectId(), strings.Join(one.GetMissingContext(), ", "))
	}
	for _, one := range found.GetFailed() {
		_, _ = fmt.Fprintf(w, "%s:%s cannot be decided, and is not printed: %s\n", objectType, one.GetObjectId(), one.GetError().GetMessage())
	}
	if found.GetRefusedBy() == deputy.RefusedBy_REFUSED_BY_ACTOR {
		_, _ = fmt.Fprintln(w, "The agent may act on no object at all: its session, its delegation or its registration refuses. "+
			"As an auditor, see deputy explain.")
	}
}
