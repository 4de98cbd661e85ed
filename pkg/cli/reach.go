package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	deputy "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/pkg/reach"
)

// The words of --grants.
const (
	grantsAuto = "auto"
	grantsOn   = "on"
	grantsOff  = "off"
)

// reaching is what `deputy reach` was asked for.
type reaching struct {
	onBehalfOf, tenant   string
	types, permissions   []string
	context, consistency string
	grants               string
	relationships        int
	list                 bool
	csv, svg             string
	diff, schema         string
}

// newReach builds `deputy reach`, ReachService.ReadReach.
func newReach(p *program) *cobra.Command {
	var r reaching
	cmd := &cobra.Command{
		Use:   "reach ACTOR",
		Short: "Show what an agent can touch, for whom, and through which grants (auditors)",
		Long: `Show all that ACTOR reaches, by type and permission: for each principal that it acts for, what the agent, the
principal and the delegation may all three do, in the tenant. ACTOR is an agent (agent:ID, or the ID alone), a
delegation (delegation:ID) or a session (session:ID). An agent is shown as if it had started a session. This is for
reviews, and no answer to act on: ask check before an act.

It shows counts, the grants behind them, and flags at the lines that a reviewer should look at. --list names the objects. --csv
writes them into a file for a spreadsheet, and --svg draws a picture of the whole; "-" is standard output, in place of
the text. With -o json each line is one message of the stream.

--diff compares with the reach at another revision: the token is what "revision" of an earlier reach shows. --schema
compares with the reach under a schema that is not written: all relationships are read from the server and judged in
memory, and those that the schema does not admit count as deleted. Both list the objects that were gained, lost or changed, party
by party, and the exit code is 1 if there are any.`,
		Example: `  deputy reach triage-bot
  deputy reach triage-bot --for user:alice --type document --list
  deputy reach agent:triage-bot --csv reach.csv --svg reach.svg
  deputy reach triage-bot --diff GhUKEzE3…`,
		GroupID: groupAsk,
		Args:    cobra.ExactArgs(1),
	}
	flags := cmd.Flags()
	flags.StringVar(&r.onBehalfOf, "for", "", "only for this principal, such as user:alice")
	flags.StringVar(&r.tenant, "tenant", "", "only in this tenant")
	flags.StringSliceVar(&r.types, "type", nil, "only objects of this type; may be repeated, or a list with commas")
	flags.StringSliceVar(&r.permissions, "permission", nil, "only this permission or relation; may be repeated, or a list with commas")
	flags.StringVar(&r.context, "context", "", "caveat context: a JSON object, or @FILE with one")
	flags.StringVar(&r.consistency, "consistency", "", consistencies)
	choiceVar(flags, &r.grants, "grants", "", grantsAuto, "whether to show through which grants, which takes longer; auto: where the server's engine can",
		grantsAuto, grantsOn, grantsOff)
	flags.BoolVar(&r.list, "list", false, "name the objects too; with --diff and --schema all of those that differ")
	flags.StringVar(&r.csv, "csv", "", "file to write the objects to, one a row")
	flags.StringVar(&r.svg, "svg", "", "file to draw the picture in")
	flags.StringVar(&r.diff, "diff", "", "compare with the reach at the revision of this token")
	flags.StringVar(&r.schema, "schema", "", "compare with the reach under the schema in this file, which is not written")
	flags.IntVar(&r.relationships, "max-relationships", 1_000_000, "with --schema: refuse more relationships, because all are held in memory")
	c := client(p, cmd)
	online := c.runLong(func(ctx context.Context, s *server, args []string) error { return r.run(ctx, c, s, args[0]) })
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := r.check(c.output == formatJSON, cmd.Flags().Changed("grants")); err != nil {
			return err
		}
		return online(cmd, args)
	}
	return cmd
}

// check refuses flags that make no sense together.
func (r *reaching) check(asJSON, grantsSaid bool) error {
	compares := r.diff != "" || r.schema != ""
	switch {
	case r.diff != "" && r.schema != "":
		return errors.New("--diff and --schema exclude each other: compare two revisions, or two schemas")
	case compares && (r.csv != "" || r.svg != ""):
		return errors.New("--csv and --svg show one reach, and --diff and --schema compare two: ask for them one after the other")
	case compares && grantsSaid && r.grants == grantsOn:
		return errors.New("--grants=on does not go with --diff and --schema, which compare objects: leave it out")
	case r.schema != "" && r.consistency != "":
		return errors.New("--schema judges the relationships that there are now: leave out --consistency")
	case r.csv == "-" && r.svg == "-":
		return errors.New("--csv and --svg cannot both be standard output: name a file for one of them")
	case asJSON && (r.csv == "-" || r.svg == "-"):
		return errors.New("--output json needs standard output: name a file with --csv and --svg")
	default:
		return nil
	}
}

// request builds the request. What is compared, listed or put into a table names objects.
func (r *reaching) request(actor string) (*deputy.ReadReachRequest, error) {
	request := &deputy.ReadReachRequest{
		TenantId: bareID("tenant", r.tenant), ResourceObjectTypes: r.types, Permissions: r.permissions,
		WithObjects: r.list || r.csv != "" || r.diff != "" || r.schema != "",
		WithGrants:  r.grants != grantsOff && r.diff == "" && r.schema == "",
	}
	kind, id, typed := strings.Cut(actor, ":")
	switch {
	case typed && kind == "delegation":
		request.Of = &deputy.ReadReachRequest_DelegationId{DelegationId: id}
	case typed && kind == "session":
		request.Of = &deputy.ReadReachRequest_SessionId{SessionId: id}
	default:
		if err := checkID("ACTOR", "agent", actor); err != nil {
			return nil, fmt.Errorf("ACTOR must be agent:ID, delegation:ID or session:ID, or the ID of an agent alone, not %q", actor)
		}
		request.Of = &deputy.ReadReachRequest_AgentId{AgentId: bareID("agent", actor)}
	}
	var err error
	if r.onBehalfOf != "" {
		if request.OnBehalfOf, err = parseObject("--for", r.onBehalfOf); err != nil {
			return nil, err
		}
	}
	if request.Context, err = parseContext(r.context); err != nil {
		return nil, err
	}
	request.Consistency, err = parseConsistency(r.consistency)
	return request, err
}

// title says whose reach a request asks for.
func title(request *deputy.ReadReachRequest) string {
	var text string
	switch of := request.GetOf().(type) {
	case *deputy.ReadReachRequest_DelegationId:
		text = "delegation:" + of.DelegationId
	case *deputy.ReadReachRequest_SessionId:
		text = "session:" + of.SessionId
	default:
		text = "agent:" + request.GetAgentId()
	}
	if request.GetOnBehalfOf() != nil {
		text += " for " + object(request.GetOnBehalfOf())
	}
	return text
}

// run asks and shows.
func (r *reaching) run(ctx context.Context, c *connection, s *server, actor string) error {
	request, err := r.request(actor)
	if err != nil {
		return err
	}
	switch {
	case r.diff != "":
		return r.compareRevisions(ctx, c, s, request)
	case r.schema != "":
		return r.compareSchemas(ctx, c, s, request)
	}
	sum := reach.NewSum()
	takers := []func(*reach.Message) error{func(m *reach.Message) error { sum.Add(m); return nil }}
	switch {
	case c.output == formatJSON:
		takers = append(takers, func(m *reach.Message) error { return writeJSON(c.program.Out, m, "") })
	case r.csv != "-" && r.svg != "-":
		table := &reachTable{out: c.program.Out, sum: sum, list: r.list, of: title(request)}
		takers = append(takers, table.add)
	}
	read := func() error { return r.read(ctx, c, s, request, takers) }
	if r.csv != "" {
		err = r.writeCSV(c.program.Out, &takers, read)
	} else {
		err = read()
	}
	if err != nil || r.svg == "" {
		return err
	}
	draw := func(w io.Writer) error { return reach.WritePicture(w, title(request), sum) }
	if r.svg == "-" {
		return draw(c.program.Out)
	}
	return writeWhole("--svg", r.svg, 0o600, draw)
}

// writeCSV writes the objects while they are read.
func (r *reaching) writeCSV(stdout io.Writer, takers *[]func(*reach.Message) error, read func() error) error {
	fill := func(w io.Writer) error {
		b := bufio.NewWriter(w)
		*takers = append(*takers, reach.NewCSV(b).Add)
		if err := read(); err != nil {
			return err
		}
		if err := b.Flush(); err != nil {
			return fmt.Errorf("writing: %w", err)
		}
		return nil
	}
	if r.csv == "-" {
		return fill(stdout)
	}
	return writeWhole("--csv", r.csv, 0o600, fill)
}

// read reads a reach, and hands it on. Where the engine cannot say through which grants, and nobody insists, it is read without.
func (r *reaching) read(
	ctx context.Context, c *connection, s *server, request *deputy.ReadReachRequest, takers []func(*reach.Message) error,
) error {
	begun := false
	take := func(m *reach.Message) error {
		begun = true
		for _, add := range takers {
			if err := add(m); err != nil {
				return err
			}
		}
		return nil
	}
	err := s.readReach(ctx, request, take)
	if !begun && r.grants == grantsAuto && request.GetWithGrants() && status.Code(err) == codes.FailedPrecondition {
		without := proto.CloneOf(request)
		without.WithGrants = false
		if err := s.readReach(ctx, without, take); err != nil {
			return err
		}
		if c.output != formatJSON {
			_, _ = fmt.Fprintln(c.program.Err, "Through which grants is not shown, because this server's engine cannot say it; the engine embedded can, and --follow.")
		}
		return nil
	}
	return err
}

// readReach reads a reach, however many streams that takes, as one stream. A stream without an end was cut off, and is an error: half a reach
// must not pass for all of it.
func (s *server) readReach(ctx context.Context, request *deputy.ReadReachRequest, take func(*reach.Message) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	join := reach.NewJoin(take)
	request = proto.CloneOf(request)
	for {
		stream, err := deputy.NewReachServiceClient(s.conn).ReadReach(ctx, request)
		if err != nil {
			return err
		}
		var end *deputy.ReachEnd
		for end == nil {
			m, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				return errors.New("the server cut the reach off")
			}
			if err != nil {
				return err
			}
			end = m.GetEnd()
			if err := join.Add(m); err != nil {
				return err
			}
		}
		if end.GetComplete() {
			return nil
		}
		// The cursor pins the revision already.
		request.Cursor, request.Consistency = end.GetNext(), nil
	}
}
