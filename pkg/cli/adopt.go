package cli

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/status"

	deputy "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

const (
	// adoptBatch is how many one call adopts, all or none: the most that the server takes.
	adoptBatch = 20
	// ownerUnsaid stands in a list where an agent's owners are to be named, and noOwner where there are none to name.
	ownerUnsaid, noOwner = "?", "-"
)

// newAdopt builds `deputy adopt`, AdoptionService.
func newAdopt(p *program) *cobra.Command {
	var confirm string
	var owners []string
	cmd := &cobra.Command{
		Use:   "adopt [NAME]...",
		Short: "Bring an existing graph under Deputy: list what is not active, and activate it (admins)",
		Long: `List the agents, users, services and tenants that relationships name and that are not active, with what
each would hold. With arguments, list only those: each NAME is TYPE:ID.

The list is also the file that --confirm takes. Each has a line with a digest, its owners and its name; lines
that start with "//" are comments. Keep the lines of those to activate, and name each agent's owners in place of
"?", separated by commas, or all agents' owners with --owner. Then confirm the file. If what one of them holds has
changed since the list was made, it is not activated. Delegations, sessions and other facts that were imported are
listed, and never activated.`,
		Example: `  deputy adopt > list.txt
  deputy adopt --confirm list.txt --owner carol
  deputy adopt agent:scribe user:alice`,
		GroupID: groupGovern,
	}
	cmd.Flags().StringVar(&confirm, "confirm", "", `activate those in this list; "-" reads it from standard input`)
	cmd.Flags().StringArrayVar(&owners, "owner", nil, `user who answers for each agent of the list that has "?"; may be repeated`)
	c := client(p, cmd)
	cmd.RunE = c.runLong(func(ctx context.Context, s *server, args []string) error {
		client := deputy.NewAdoptionServiceClient(s.conn)
		switch {
		case confirm != "" && len(args) > 0:
			return errors.New("--confirm takes the names from its file: leave the arguments out, or keep only their lines in the file")
		case confirm != "":
			return c.adopt(ctx, client, confirm, owners)
		case len(owners) > 0:
			return errors.New("--owner is for --confirm")
		default:
			return c.review(ctx, client, args)
		}
	})
	return cmd
}

// review lists what could be adopted, as it comes.
func (c *connection) review(ctx context.Context, client deputy.AdoptionServiceClient, names []string) error {
	request := &deputy.ReviewAdoptionRequest{Limit: maxLookup}
	for _, name := range names {
		o, err := parseObject("NAME", name)
		if err != nil {
			return err
		}
		request.Objects = append(request.Objects, o)
	}
	listed := 0
	for {
		end, err := c.reviewPage(ctx, client, request, &listed)
		switch {
		case err != nil:
			return err
		case !end.GetComplete():
			request.Cursor = end.GetNext()
		case c.output == "json":
			return writeJSON(c.program.Out, &deputy.ReviewAdoptionResponse{Result: &deputy.ReviewAdoptionResponse_End{End: end}}, "")
		case listed == 0:
			return writeText(c.program.Out, "// Nothing to adopt: all that relationships name is active.\n")
		default:
			return nil
		}
	}
}

// reviewPage prints the candidates of one stream and returns its end. A stream without one was cut off, and is an error.
func (c *connection) reviewPage(
	ctx context.Context, client deputy.AdoptionServiceClient, request *deputy.ReviewAdoptionRequest, listed *int,
) (*deputy.AdoptionEnd, error) {
	stream, err := client.ReviewAdoption(ctx, request)
	if err != nil {
		return nil, err
	}
	for {
		message, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return nil, errors.New("the server cut the list off")
		case err != nil:
			return nil, err
		case message.GetEnd() != nil:
			return message.GetEnd(), nil
		case c.output == "json":
			err = writeJSON(c.program.Out, message, "")
		default:
			text := candidateText(message.GetCandidate())
			if *listed == 0 {
				text = "// DIGEST                         OWNERS  NAME\n" + text
			}
			err = writeText(c.program.Out, text)
		}
		if err != nil {
			return nil, err
		}
		*listed++
	}
}

// candidateText is a candidate's line of the list, and the comments below it. One that cannot be adopted is a comment.
func candidateText(c *deputy.AdoptionCandidate) string {
	var b strings.Builder
	comment := func(format string, args ...any) { fmt.Fprintf(&b, "//   "+format+"\n", args...) }
	name := object(c.GetObject())
	switch {
	case c.GetObject().GetObjectId() == "*":
		fmt.Fprintf(&b, "// %s: wildcards grant this to every %s, also to those that nothing names yet\n", name, c.GetObject().GetObjectType())
	case c.GetRefusal() != "":
		fmt.Fprintf(&b, "// %s cannot be adopted\n", name)
	default:
		owner := noOwner
		if c.GetObject().GetObjectType() == "agent" {
			owner = ownerUnsaid
		}
		fmt.Fprintf(&b, "%s  %s       %s\n", c.GetDigest(), owner, name)
	}
	if c.GetRefusal() != "" {
		comment("%s", c.GetRefusal())
	}
	for _, h := range c.GetHoldings() {
		if c.GetObject().GetObjectType() == "tenant" {
			comment("in it: %s", few(h))
			continue
		}
		comment("in %s: %s on %s", cmp.Or(h.GetTenantId(), "no tenant"), h.GetPermission(), few(h))
	}
	left(comment, len(c.GetHoldings()), c.GetHoldingsTotal(), "holdings")
	for _, r := range c.GetRelationships() {
		comment("%s", r)
	}
	left(comment, len(c.GetRelationships()), c.GetRelationshipsTotal(), "relationships")
	for _, d := range c.GetDelegations() {
		comment("delegation %s: agent:%s for %s in %s, %s", d.GetDelegationId(), d.GetAgentId(), subject(d.GetPrincipal()), d.GetTenantId(),
			force(d.GetState())+extent(d))
	}
	left(comment, len(c.GetDelegations()), c.GetDelegationsTotal(), "delegations")
	for _, s := range c.GetSessions() {
		comment("session %s: %s", s.GetSessionId(), force(s.GetState()))
	}
	left(comment, len(c.GetSessions()), c.GetSessionsTotal(), "sessions")
	return b.String()
}

// few names the first objects of a holding, and says how many there are if those are not all.
func few(h *deputy.AdoptionHolding) string {
	var names []string
	for _, id := range h.GetObjectIds() {
		names = append(names, h.GetObjectType()+":"+id)
	}
	text := strings.Join(names, ", ")
	if h.GetObjects() > uint64(len(names)) {
		text += fmt.Sprintf(", … (%d in all)", h.GetObjects())
	}
	return text
}

// left says how many more there are than are shown.
func left(comment func(string, ...any), shown int, total uint64, what string) {
	if more := total - uint64(shown); more > 0 { //nolint:gosec // a length
		comment("and %d more %s, which the digest covers", more, what)
	}
}

// force says what becomes of an imported delegation or session.
func force(s deputy.LifecycleState) string {
	if s == deputy.LifecycleState_LIFECYCLE_STATE_ACTIVE {
		return "active: it comes into force"
	}
	return "not active, and stays so"
}

// extent says how far a delegation that comes into force reaches; nothing of one that does not.
func extent(d *deputy.Delegation) string {
	if d.GetState() != deputy.LifecycleState_LIFECYCLE_STATE_ACTIVE {
		return ""
	}
	text := ", for what its scope holds"
	if d.GetUnscoped() {
		text = ", for all that both may do"
	}
	if d.GetAllowDirect() {
		text += ", without a session too"
	}
	return text
}

// adopt activates what a list names, a batch at a time: agents last, because their owners are named by it.
func (c *connection) adopt(ctx context.Context, client deputy.AdoptionServiceClient, path string, owners []string) error {
	for i, owner := range owners {
		owners[i] = bareID("user", owner)
	}
	_, in, _, err := openImport("--confirm", path, c.program.In)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	adoptions, err := readAdoptions(in, owners)
	if err != nil {
		return err
	}
	slices.SortStableFunc(adoptions, func(a, b adoption) int {
		return cmp.Compare(yes(isAgent(a.Adoption)), yes(isAgent(b.Adoption)))
	})
	all := &deputy.ConfirmAdoptionResponse{}
	asked := 0
	var failed error
	for batch := range slices.Chunk(adoptions, adoptBatch) {
		request := &deputy.ConfirmAdoptionRequest{}
		for _, a := range batch {
			request.Adoptions = append(request.Adoptions, a.Adoption)
		}
		answer, err := client.ConfirmAdoption(ctx, request)
		if err != nil {
			failed = atLine(err, batch)
			break
		}
		asked += len(batch)
		all.Adopted, all.WrittenAt = append(all.GetAdopted(), answer.GetAdopted()...), answer.GetWrittenAt()
		all.UnnamedOwnerIds = append(all.GetUnnamedOwnerIds(), answer.GetUnnamedOwnerIds()...)
	}
	done := len(all.GetAdopted())
	if failed != nil && done == 0 {
		return fmt.Errorf("%w; nothing was adopted", failed)
	}
	for _, owner := range all.GetUnnamedOwnerIds() {
		c.unnamed(true, "user:"+owner)
	}
	err = c.print(all, func(w io.Writer) {
		for _, o := range all.GetAdopted() {
			row(w, object(o)+" is active")
		}
		if already := asked - done; already > 0 {
			row(w, fmt.Sprintf("%d of the list had been active already", already))
		}
	})
	if failed != nil {
		return fmt.Errorf("%w; before that, %d of the list became active, and stay so", failed, done)
	}
	return err
}

func isAgent(a *deputy.Adoption) bool { return a.GetObject().GetObjectType() == "agent" }

// adoption is one of a list, with the line that it was read from, the first of which is 1.
type adoption struct {
	*deputy.Adoption
	line int
}

// atLine puts in front of an error about one of a batch which line of the list that is.
func atLine(err error, batch []adoption) error {
	var i int
	if _, none := fmt.Sscanf(errorInfo(status.Convert(err)).GetMetadata()["field"], "adoptions[%d]", &i); none != nil || i >= len(batch) {
		return err
	}
	return fmt.Errorf("--confirm: line %d: %w", batch[i].line, err)
}

// readAdoptions reads a list: on each line a digest, owners and a name, which may hold blanks.
func readAdoptions(in io.Reader, owners []string) ([]adoption, error) {
	var out []adoption
	scanner := bufio.NewScanner(in)
	for line := 1; scanner.Scan(); line++ {
		text := strings.TrimSpace(scanner.Text())
		if text == "" || strings.HasPrefix(text, "//") {
			continue
		}
		if strings.HasPrefix(text, "{") {
			return nil, fmt.Errorf("--confirm: line %d is JSON; name a list that deputy adopt printed as text, without -o json", line)
		}
		digest, rest, _ := strings.Cut(text, " ")
		owner, name, _ := strings.Cut(strings.TrimSpace(rest), " ")
		o, err := parseObject("NAME", strings.TrimSpace(name))
		if err != nil {
			return nil, fmt.Errorf("--confirm: line %d must be DIGEST OWNERS NAME, as deputy adopt prints it: %w", line, err)
		}
		a := &deputy.Adoption{Object: o, Digest: digest}
		switch {
		case owner == ownerUnsaid && len(owners) == 0:
			return nil, fmt.Errorf(`--confirm: line %d: %s needs an owner: put users in place of "?", or give --owner`, line, object(o))
		case owner == ownerUnsaid:
			a.OwnerIds = owners
		case owner != noOwner:
			for id := range strings.SplitSeq(owner, ",") {
				if err := checkID("the owner", "user", id); err != nil {
					return nil, fmt.Errorf("--confirm: line %d: %w", line, err)
				}
				a.OwnerIds = append(a.OwnerIds, bareID("user", id))
			}
		}
		out = append(out, adoption{a, line})
	}
	if err := scanner.Err(); err != nil {
		return nil, fmt.Errorf("--confirm: %w", err)
	}
	if len(out) == 0 {
		return nil, errors.New("--confirm: the list names nothing")
	}
	return out, nil
}

// unnamed tells a person that what was asked for was done, for an id that nothing named.
func (c *connection) unnamed(is bool, name string) {
	if is && c.output != "json" {
		_, _ = fmt.Fprintf(c.program.Err, "No relationship named %s before: check the id.\n", name)
	}
}

// adoptHint tells a person, after an import, why agents may act for nobody that it named.
func (c *connection) adoptHint() {
	if c.output != "json" {
		_, _ = io.WriteString(c.program.Err,
			"Agents, users, services and tenants without the mark \"active\" in the import are not active: deputy adopt lists them.\n")
	}
}
