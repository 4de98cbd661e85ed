package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	deputy "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// maxLookup is the most that the server streams in one call; a longer lookup is asked in pieces.
const maxLookup = 10_000

// newLookup builds `deputy lookup`.
func newLookup(p *program) *cobra.Command {
	cmd := group(groupAsk, "lookup", "List what an agent reaches, or who reaches an object")
	c := client(p, cmd)
	cmd.AddCommand(newLookupResources(c), newLookupAgents(c))
	return cmd
}

// newLookupResources builds `deputy lookup resources`, PermissionsService.LookupResources.
func newLookupResources(c *connection) *cobra.Command {
	var q question
	var limit uint32
	var from string
	cmd := &cobra.Command{
		Use:   "resources AGENT TYPE PERMISSION",
		Short: "List the objects of a type that an agent reaches",
		Long: `List the objects of a type on which an agent has a permission, with whom it acts for.

With -o json each line is one message of the stream; the last one says whether the list is complete.` + questionUsage,
		Example: `  deputy lookup resources triage-bot ticket view --session 5f0c…`,
		Args:    cobra.ExactArgs(3),
	}
	q.register(cmd)
	c.completes(cmd, 1, true)
	cmd.Flags().Uint32Var(&limit, "limit", 0, "stop after this many; 0 lists all")
	cmd.Flags().StringVar(&from, "cursor", "", "go on where an earlier list stopped")
	cmd.RunE = c.run(func(ctx context.Context, s *server, args []string) error {
		// The arguments are check's, with a type in place of an object.
		check, err := q.request([]string{args[0], args[1] + ":any", args[2]})
		if err != nil {
			return err
		}
		request := &deputy.LookupResourcesRequest{
			AgentId:            check.GetAgentId(),
			OnBehalfOf:         check.GetOnBehalfOf(),
			TenantId:           check.GetTenantId(),
			ResourceObjectType: args[1],
			Permission:         args[2],
			Context:            check.GetContext(),
			Consistency:        check.GetConsistency(),
			SessionToken:       check.GetSessionToken(),
			ActorToken:         check.GetActorToken(),
		}
		switch via := check.GetVia().(type) {
		case *deputy.CheckPermissionRequest_SessionId:
			request.Via = &deputy.LookupResourcesRequest_SessionId{SessionId: via.SessionId}
		case *deputy.CheckPermissionRequest_DelegationId:
			request.Via = &deputy.LookupResourcesRequest_DelegationId{DelegationId: via.DelegationId}
		}
		return lookUp(c, limit, from, []string{"RESOURCE", "FOR", "TENANT", "DELEGATION", "MISSING CONTEXT"},
			func(piece uint32, at *deputy.Cursor) (grpc.ServerStreamingClient[deputy.LookupResourcesResponse], error) {
				request.Limit, request.Cursor = piece, at
				if at != nil {
					// The cursor pins the revision already.
					request.Consistency = nil
				}
				return s.permissions.LookupResources(ctx, request)
			},
			func(r *deputy.LookupResourcesResponse) []string {
				found := r.GetResource()
				return []string{object(found.GetResource()), object(found.GetPrincipal()), found.GetTenantId(),
					found.GetDelegationId(), strings.Join(found.GetMissingContext(), ", ")}
			},
			func(r *deputy.LookupResourcesResponse) (string, *deputy.ErrorStatus) {
				return object(r.GetFailed().GetResource()), r.GetFailed().GetError()
			})
	})
	return cmd
}

// newLookupAgents builds `deputy lookup agents`, PermissionsService.LookupAgents.
func newLookupAgents(c *connection) *cobra.Command {
	var onBehalfOf, caveatContext, consistency, from string
	var limit uint32
	cmd := &cobra.Command{
		Use:   "agents RESOURCE PERMISSION",
		Short: "List the agents that reach an object, and for whom (auditors)",
		Long: `List the agents that have a permission on an object, with the principals they act for.

With -o json each line is one message of the stream; the last one says whether the list is complete.`,
		Example: `  deputy lookup agents ticket:1001 view`,
		Args:    cobra.ExactArgs(2),
	}
	c.completes(cmd, 0, false)
	flags := cmd.Flags()
	flags.StringVar(&onBehalfOf, "on-behalf-of", "", "only for this principal, such as user:alice")
	flags.StringVar(&caveatContext, "context", "", "caveat context: a JSON object, or @FILE with one")
	flags.StringVar(&consistency, "consistency", "", consistencies)
	flags.Uint32Var(&limit, "limit", 0, "stop after this many; 0 lists all")
	flags.StringVar(&from, "cursor", "", "go on where an earlier list stopped")
	cmd.RunE = c.run(func(ctx context.Context, s *server, args []string) error {
		request := &deputy.LookupAgentsRequest{Permission: args[1]}
		var err error
		if request.Resource, err = parseObject("RESOURCE", args[0]); err != nil {
			return err
		}
		if onBehalfOf != "" {
			if request.OnBehalfOf, err = parseObject("--on-behalf-of", onBehalfOf); err != nil {
				return err
			}
		}
		if request.Context, err = parseContext(caveatContext); err != nil {
			return err
		}
		if request.Consistency, err = parseConsistency(consistency); err != nil {
			return err
		}
		return lookUp(c, limit, from, []string{"AGENT", "FOR", "TENANT", "DELEGATION", "NEEDS SESSION", "CHAIN", "MISSING CONTEXT"},
			func(piece uint32, at *deputy.Cursor) (grpc.ServerStreamingClient[deputy.LookupAgentsResponse], error) {
				request.Limit, request.Cursor = piece, at
				if at != nil {
					request.Consistency = nil
				}
				return s.permissions.LookupAgents(ctx, request)
			},
			func(r *deputy.LookupAgentsResponse) []string {
				found := r.GetAgent()
				return []string{found.GetAgentId(), object(found.GetPrincipal()), found.GetTenantId(), found.GetDelegationId(),
					yes(found.GetNeedsSession()), agentChain(found.GetAgentChain()), strings.Join(found.GetMissingContext(), ", ")}
			},
			func(r *deputy.LookupAgentsResponse) (string, *deputy.ErrorStatus) {
				failed := r.GetFailed()
				return "agent:" + failed.GetAgentId() + " for " + object(failed.GetPrincipal()), failed.GetError()
			})
	})
	return cmd
}

// found is a message of a lookup's stream: a result, or the end.
type found[M any] interface {
	*M
	proto.Message
	GetEnd() *deputy.LookupEnd
}

// showFound prints what has its place now, and returns the row that a table has for the message, if any.
func showFound[M any, P found[M]](
	c *connection, m P, what string, why *deputy.ErrorStatus, cells func(P) []string,
) (rows [][]string, err error) {
	switch {
	case c.output == "json":
		return nil, writeJSON(c.program.Out, m, "")
	case why != nil:
		_, err := fmt.Fprintf(c.program.Err, "%s cannot be decided, and is not listed: %s\n", what, why.GetMessage())
		return nil, err
	}
	return [][]string{cells(m)}, nil
}

// lookUp asks piece after piece until the lookup is complete or the limit is reached, and prints what
// comes: JSON as it comes, a table once it is whole. A stream without an end was cut off, and is an
// error: half a list of what an agent reaches must not pass for all of it.
//
// A limit of 0 is none. columns are the table's heads, and cells a row; ask opens a stream for at most
// piece results from a cursor on, or from the beginning if that is nil. failure says of a message what could not be
// decided, and why; nil for any other message. That goes to the errors beside a table.
func lookUp[M any, P found[M]](
	c *connection, limit uint32, from string, columns []string,
	ask func(piece uint32, at *deputy.Cursor) (grpc.ServerStreamingClient[M], error),
	cells func(P) []string, failure func(P) (string, *deputy.ErrorStatus),
) error {
	var rows [][]string
	var end *deputy.LookupEnd
	var results, failed uint32 // those that failed are among the results
	for at := cursor(from); end == nil || !end.GetComplete() && (limit == 0 || results < limit); at = end.GetNext() {
		piece := uint32(maxLookup)
		if limit != 0 {
			piece = min(piece, limit-results)
		}
		stream, err := ask(piece, at)
		if err != nil {
			return err
		}
		end = nil
		for end == nil {
			message, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				return errors.New("the server cut the lookup off")
			}
			if err != nil {
				return err
			}
			m := P(message)
			if end = m.GetEnd(); end != nil {
				break
			}
			results++
			what, why := failure(m)
			if why != nil {
				failed++
			}
			shown, err := showFound(c, m, what, why, cells)
			if err != nil {
				return err
			}
			rows = append(rows, shown...)
		}
	}
	if c.output == "json" {
		// One end for all pieces, so that a reader sees one stream.
		end.Results, end.Failed = uint64(results-failed), uint64(failed)
		last := P(new(M))
		setEnd(last, end)
		return writeJSON(c.program.Out, last, "")
	}
	err := writeTable(c.program.Out, func(w io.Writer) {
		row(w, columns...)
		for _, r := range rows {
			row(w, r...)
		}
	})
	if err == nil {
		more(c.program.Err, end.GetComplete(), end.GetNext())
	}
	return err
}

// setEnd makes a message of a lookup the last one.
func setEnd(message proto.Message, end *deputy.LookupEnd) {
	switch m := message.(type) {
	case *deputy.LookupResourcesResponse:
		m.Result = &deputy.LookupResourcesResponse_End{End: end}
	case *deputy.LookupAgentsResponse:
		m.Result = &deputy.LookupAgentsResponse_End{End: end}
	}
}

// more tells a person that a list goes on, and how.
func more(w io.Writer, complete bool, next *deputy.Cursor) {
	if !complete {
		_, _ = fmt.Fprintf(w, "There is more: --cursor %s\n", next.GetToken())
	}
}
