package cli

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/door/mcp"
	deputy "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/pkg/journal"
	"github.com/deputyauth/deputy/pkg/notation"
)

// recordFilter holds the flags that say which records are looked for.
type recordFilter struct {
	agent, principal, tenant, resource, permission, caller string
	answer, refusedBy, session, delegation                 string
	tool, arguments                                        string
	kinds                                                  []string
	from, until                                            string
}

// register adds the flags.
func (f *recordFilter) register(flags *pflag.FlagSet) {
	flags.StringVar(&f.agent, "agent", "", "only records with this agent: the one that acted, or one that passed a delegation on")
	flags.StringVar(&f.principal, "principal", "", "only records with this principal, such as user:alice")
	flags.StringVar(&f.tenant, "tenant", "", "only records with this tenant")
	flags.StringVar(&f.resource, "resource", "", "only records with this object, such as ticket:1001")
	flags.StringVar(&f.permission, "permission", "", "only records with this permission")
	flags.StringVar(&f.caller, "caller", "", "only records of this caller")
	choiceVar(flags, &f.answer, "answer", "", "", "only records with this answer", answers...)
	choiceVar(flags, &f.refusedBy, "refused-by", "", "", "only decisions that this gate refused", gateNames()...)
	flags.StringVar(&f.session, "session", "", "only records with this session")
	flags.StringVar(&f.delegation, "delegation", "", "only records with this delegation")
	flags.StringVar(&f.tool, "tool", "", "only records of calls of this tool or prompt, which the guard of an MCP server asked about")
	flags.StringVar(&f.arguments, "arguments", "", "only records of calls with these arguments, as JSON, or with this digest")
	flags.StringSliceVar(&f.kinds, "kind", nil, "only records of these kinds: "+either(kindNames()))
	flags.StringVar(&f.from, "from", "", "only calls that began at this time or later: 2026-03-01T12:00:00Z, or 90m for as long ago")
	flags.StringVar(&f.until, "until", "", "only calls that began before this time, likewise")
}

// answers are the words of --answer.
var answers = []string{"HAS_PERMISSION", "NO_PERMISSION", "CONDITIONAL_PERMISSION"}

// gateNames are the words of --refused-by.
func gateNames() []string { return names(deputy.Gate_name, "GATE_") }

// kindNames are the words of --kind.
func kindNames() []string { return names(deputy.RecordKind_name, "RECORD_KIND_") }

// names are the words of an enum without its type, in lower case, in the order of their numbers.
func names(of map[int32]string, prefix string) []string {
	var out []string
	for n := int32(1); int(n) < len(of); n++ {
		out = append(out, short(of[n], prefix))
	}
	return out
}

// set reports whether any flag narrows.
func (f *recordFilter) set() bool {
	return len(f.kinds) > 0 || f.agent+f.principal+f.tenant+f.resource+f.permission+f.caller+f.answer+f.refusedBy+f.session+f.delegation+
		f.tool+f.arguments+f.from+f.until != ""
}

// request returns the query that the flags say.
func (f *recordFilter) request() (*deputy.QueryRecordsRequest, error) {
	q := &deputy.QueryRecordsRequest{
		AgentId: f.agent, TenantId: f.tenant, Permission: f.permission, Caller: f.caller, SessionId: f.session, DelegationId: f.delegation,
		Answer: deputy.Permissionship(deputy.Permissionship_value["PERMISSIONSHIP_"+f.answer]),
	}
	if f.refusedBy != "" {
		q.RefusedBy = deputy.Gate(slices.Index(gateNames(), f.refusedBy) + 1) //nolint:gosec // small
	}
	for _, name := range f.kinds {
		n := slices.Index(kindNames(), name)
		if n < 0 {
			return nil, fmt.Errorf("--kind must be %s, not %q%s", either(kindNames()), name, didYouMean(name, kindNames()))
		}
		q.Kinds = append(q.Kinds, deputy.RecordKind(n+1)) //nolint:gosec // small
	}
	var err error
	if q.ToolCall, err = f.toolCall(); err != nil {
		return nil, err
	}
	if q.AgentId = bareID(authz.TypeAgent, f.agent); strings.Contains(q.GetAgentId(), "#") {
		return nil, fmt.Errorf("--agent must be the id of an agent, such as triage-bot, not %q", f.agent)
	}
	q.TenantId = bareID(authz.TypeTenant, f.tenant)
	if f.principal != "" {
		if q.Principal, err = parseObject("--principal", f.principal); err != nil {
			return nil, err
		}
		switch q.GetPrincipal().GetObjectType() {
		case authz.TypeUser, authz.TypeService, authz.TypeTenant:
		default:
			return nil, fmt.Errorf("--principal must be a user, a service or a tenant, such as user:alice, not %q", f.principal)
		}
	}
	if f.resource != "" {
		if q.Resource, err = parseObject("--resource", f.resource); err != nil {
			return nil, err
		}
	}
	now := time.Now()
	for _, one := range []struct {
		name, text string
		into       **timestamppb.Timestamp
	}{{"--from", f.from, &q.From}, {"--until", f.until, &q.Until}} {
		at, err := parseMoment(one.name, one.text, now)
		if err != nil {
			return nil, err
		}
		if !at.IsZero() {
			*one.into = timestamppb.New(at)
		}
	}
	return q, nil
}

// toolCall is the call of a tool that the flags say; nil for none.
func (f *recordFilter) toolCall() (*deputy.ToolCall, error) {
	if f.tool == "" && f.arguments == "" {
		return nil, nil //nolint:nilnil // none
	}
	asked := &deputy.ToolCall{Name: f.tool}
	if digest, err := hex.DecodeString(f.arguments); err == nil {
		if len(digest) != 0 && len(digest) != journal.ArgumentsDigest {
			return nil, fmt.Errorf("--arguments is a digest of %d bytes; that of a record has %d", len(digest), journal.ArgumentsDigest)
		}
		asked.ArgumentsHash = digest
		return asked, nil
	}
	sum, err := mcp.ArgumentsHash([]byte(f.arguments))
	if err != nil {
		return nil, fmt.Errorf(
			`--arguments must be the arguments of a call as a JSON object, such as {"path":"notes/a.txt"}, or the digest that a record has, not %q`, f.arguments)
	}
	asked.ArgumentsHash = sum[:]
	return asked, nil
}

// maxRecords is the most that the server streams in one call; a longer query is asked in pieces.
const maxRecords = 10_000

// defaultRecords is how many records query shows unless it is told otherwise.
const defaultRecords = 100

// newJournalQuery builds `deputy journal query`.
func newJournalQuery(p *program) *cobra.Command {
	var filter recordFilter
	var from journalFrom
	var limit uint32
	var at string
	var oldest bool
	cmd := &cobra.Command{
		Use:   "query",
		Short: "List the records that match, the newest first (auditors)",
		Long: `List the records that match all flags that are set, the newest first. It takes a caller with the role auditor;
an admin needs that role too. A caller that is bound to tenants sees only their records.

With --dir it reads a journal's directory, or a copy of it, and needs no server.

With -o json each line is one message of the stream; the last one says whether the list is complete.`,
		Example: `  deputy journal query --agent triage-bot --answer NO_PERMISSION --from 24h
  deputy journal query --dir /var/lib/deputy/journal --key-dir /var/lib/deputy.keys --resource ticket:1001`,
		Args: cobra.NoArgs,
	}
	filter.register(cmd.Flags())
	cmd.Flags().Uint32Var(&limit, "limit", defaultRecords, "stop after this many; 0 lists all")
	cmd.Flags().StringVar(&at, "cursor", "", "go on where an earlier query stopped")
	cmd.Flags().BoolVar(&oldest, "oldest-first", false, "list the oldest first")
	from.register(p, cmd)
	cmd.RunE = from.run(false, func(ctx context.Context, s journalSource, _ []string) error {
		q, err := filter.request()
		if err != nil {
			return err
		}
		q.NewestFirst, q.Cursor = !oldest, cursor(at)
		show := newRecordTable(from.c)
		end, err := eachRecord(ctx, s, q, limit, show.add)
		if err != nil {
			return errors.Join(err, show.broken())
		}
		if err := show.end(end); err != nil {
			return err
		}
		if show.shown == 0 && from.c.output != formatJSON {
			_, _ = fmt.Fprintln(p.Err, "no records match")
		}
		return whole(s)
	})
	return cmd
}

// eachRecord asks piece after piece until the query is complete or the limit is reached; a limit of 0 is none.
func eachRecord(
	ctx context.Context, s journalSource, q *deputy.QueryRecordsRequest, limit uint32, each func(*deputy.FoundRecord) error,
) (*deputy.QueryEnd, error) {
	for n := uint32(0); ; {
		if q.Limit = maxRecords; limit != 0 {
			q.Limit = min(maxRecords, limit-n)
		}
		end, err := s.query(ctx, q, nil, func(f *deputy.FoundRecord) error {
			n++
			return each(f)
		})
		if err != nil {
			return nil, err
		}
		if end.GetComplete() || limit != 0 && n >= limit {
			return end, nil
		}
		if q.Cursor = end.GetNext(); q.GetCursor().GetToken() == "" {
			if _, isKept := s.(keptJournals); !isKept {
				return nil, errors.New("the server cut the query off")
			}
			return nil, errors.New("a directory is read whole") // merged asks for no pieces
		}
	}
}

// newJournalTail builds `deputy journal tail`.
func newJournalTail(p *program) *cobra.Command {
	var filter recordFilter
	var from journalFrom
	var last uint32
	follow := true
	cmd := &cobra.Command{
		Use:   "tail",
		Short: "Show the newest records, and those that come (auditors)",
		Long: `Show the newest records that match, the oldest of them first, and go on with those that are written until it is
interrupted. With -o json each line is a record.`,
		Example: `  deputy journal tail --tenant acme
  deputy journal tail --kind refused --last 100 --follow=false`,
		Args: cobra.NoArgs,
	}
	filter.register(cmd.Flags())
	cmd.Flags().Uint32VarP(&last, "last", "n", 10, "how many of the records that there are to show first, 10,000 at most")
	cmd.Flags().BoolVar(&follow, "follow", follow, "go on with records as they are written")
	from.register(p, cmd)
	cmd.RunE = from.run(true, func(ctx context.Context, s journalSource, _ []string) error {
		q, err := filter.request()
		if err != nil {
			return err
		}
		if last > maxRecords {
			return fmt.Errorf("--last is %d, and %d is the most", last, maxRecords)
		}
		show := newRecordTable(from.c)
		show.bare = true
		newest := uint64(0) // the first record that was not shown
		before := func() error {
			if last == 0 {
				return show.flush()
			}
			ask := proto.CloneOf(q)
			ask.NewestFirst, ask.Follow = true, false
			var found []*deputy.FoundRecord
			_, err := eachRecord(ctx, s, ask, last, func(f *deputy.FoundRecord) error { found = append(found, f); return nil })
			if err != nil {
				return err
			}
			for _, f := range slices.Backward(found) {
				newest = max(newest, f.GetRecord().GetSequence()+1)
				if err := show.add(f); err != nil {
					return err
				}
			}
			return show.flush()
		}
		if !follow {
			return before()
		}
		// What there is comes after it is known from when on the rest will come, so that nothing falls between the two.
		q.Follow = true
		var early error
		_, err = s.query(ctx, q, func() { early = before() }, func(f *deputy.FoundRecord) error {
			if early != nil || f.GetRecord().GetSequence() < newest {
				return early
			}
			if err := show.add(f); err != nil {
				return err
			}
			return show.flush()
		})
		return errors.Join(early, err)
	})
	return cmd
}

// recordTable shows records as they come: as JSON, a line each, or as rows of a table whose columns are as wide as the first rows need, and grow.
type recordTable struct {
	c *connection
	// bare says that JSON has records, and no messages of a stream.
	bare  bool
	begun bool
	// shown counts the records.
	shown   int
	widths  []int
	pending [][]string
}

// recordColumns are the heads of the table.
var recordColumns = []string{"TIME", "CALLER", "AGENT", "FOR", "IN", "MAY", "ANSWER", "DECISION"}

// maxColumn is how wide a column gets, in characters: a longer cell pushes the rest of its own row to the right, and no other's.
const maxColumn = 60

// pendingRows is how many rows are looked at before the first is written.
const pendingRows = 200

func newRecordTable(c *connection) *recordTable {
	return &recordTable{c: c, widths: make([]int, len(recordColumns))}
}

// add shows a record, or keeps it for flush.
func (t *recordTable) add(f *deputy.FoundRecord) error {
	t.shown++
	if t.c.output == formatJSON {
		if t.bare {
			return writeJSON(t.c.program.Out, f, "")
		}
		return writeJSON(t.c.program.Out, &deputy.QueryRecordsResponse{Result: &deputy.QueryRecordsResponse_Record{Record: f}}, "")
	}
	t.pending = append(t.pending, recordRow(f))
	if len(t.pending) < pendingRows {
		return nil
	}
	return t.flush()
}

// flush writes what is kept.
func (t *recordTable) flush() error {
	if t.c.output == formatJSON {
		return nil
	}
	rows := t.pending
	if !t.begun {
		rows = append([][]string{recordColumns}, rows...)
	}
	t.begun, t.pending = true, t.pending[:0]
	for _, cells := range rows {
		for i := range cells {
			cells[i] = notation.Visible(cells[i])
			t.widths[i] = max(t.widths[i], min(utf8.RuneCountInString(cells[i]), maxColumn))
		}
	}
	for _, cells := range rows {
		var line strings.Builder
		for i, cell := range cells {
			line.WriteString(cell)
			line.WriteString(strings.Repeat(" ", max(t.widths[i]-utf8.RuneCountInString(cell), 0)+2))
		}
		if _, err := io.WriteString(t.c.program.Out, strings.TrimRight(line.String(), " ")+"\n"); err != nil {
			return fmt.Errorf("writing: %w", err)
		}
	}
	return nil
}

// broken ends a query that failed: it writes what is kept, and no heads without a record.
func (t *recordTable) broken() error {
	if len(t.pending) == 0 {
		return nil
	}
	return t.flush()
}

// end ends a query.
func (t *recordTable) end(end *deputy.QueryEnd) error {
	if t.c.output == formatJSON {
		return writeJSON(t.c.program.Out, &deputy.QueryRecordsResponse{Result: &deputy.QueryRecordsResponse_End{End: end}}, "")
	}
	if err := t.flush(); err != nil {
		return err
	}
	if end.GetNext() != nil {
		more(t.c.program.Err, false, end.GetNext())
	} else if !end.GetComplete() {
		_, _ = fmt.Fprintln(t.c.program.Err, "There is more: --limit 0 lists all")
	}
	return nil
}

// recordRow is a record as a row of the table.
func recordRow(f *deputy.FoundRecord) []string {
	r := f.GetRecord()
	agent := r.GetAgentId()
	if len(r.GetAgentChain()) > 1 {
		agent = agentChain(r.GetAgentChain())
	}
	return []string{
		recordTime(r), r.GetCaller(), agent, recordObject(f, r.GetPrincipalType(), r.GetPrincipalId()), r.GetTenantId(), recordAsks(f), recordAnswer(r),
		f.GetDecisionId(),
	}
}

// recordTime is when a record's call began.
func recordTime(r *deputy.Record) string {
	return time.Unix(0, r.GetTime()).UTC().Format("2006-01-02T15:04:05.000Z")
}

// recordObject is a type and an id, of which a record may have only one, or one that cannot be opened any more.
func recordObject(f *deputy.FoundRecord, kind, id string) string {
	switch {
	case kind == "" && id == "":
		return ""
	case id == "" && f.GetErased():
		id = "(erased)"
	case id == "" && len(f.GetRecord().GetPersonal()) > 0:
		id = "(sealed)"
	}
	return strings.Trim(kind+":"+id, ":")
}

// recordAsks is what was asked for: a permission on an object, or what was called.
func recordAsks(f *deputy.FoundRecord) string {
	r := f.GetRecord()
	method := r.GetMethod()[strings.LastIndexByte(r.GetMethod(), '/')+1:]
	resource := recordObject(f, r.GetResourceType(), r.GetResourceId())
	called := strings.TrimSpace(r.GetToolCall().GetMethod() + " " + r.GetToolCall().GetName())
	switch {
	case r.GetToolRefusal() != 0:
		return called
	case r.GetPermission() != "" && called != "":
		return strings.TrimSpace(r.GetPermission()+" "+resource) + ", for " + called
	case r.GetPermission() != "":
		return strings.TrimSpace(r.GetPermission() + " " + resource)
	case r.GetKind() == deputy.RecordKind_RECORD_KIND_NOTE:
		return r.GetNote()
	case r.GetKind() == deputy.RecordKind_RECORD_KIND_SUMMARY:
		s := r.GetSummary()
		return fmt.Sprintf("%s of nobody known",
			plural(s.GetWithoutCredential()+s.GetInvalidCredential()+s.GetUnknownCredential(), "call"))
	}
	about := []string{method, resource}
	if r.GetDelegationId() != "" {
		about = append(about, "delegation:"+r.GetDelegationId())
	}
	if r.GetSessionId() != "" {
		about = append(about, "session:"+r.GetSessionId())
	}
	return strings.Join(slices.DeleteFunc(about, func(part string) bool { return part == "" }), " ")
}

// toolRefusal is why a caller refused a call of a tool by itself.
func toolRefusal(r *deputy.Record) string { return short(r.GetToolRefusal().String(), "TOOL_REFUSAL_") }

// recordAnswer is how a call was answered. What an explanation came to is marked, because it let nobody act.
func recordAnswer(r *deputy.Record) string {
	answer := permissionship(r.GetAnswer())
	if r.GetRefusedBy() != 0 {
		answer += " (" + gateName(r.GetRefusedBy()) + ")"
	}
	switch {
	case r.GetToolRefusal() != 0 && r.GetCode() == 0:
		return "not asked (" + toolRefusal(r) + ")"
	case r.GetCode() != 0:
		if r.GetReason() != "" {
			return r.GetReason()
		}
		return codeName(codes.Code(r.GetCode())) //nolint:gosec // as gRPC has codes
	case r.GetAnswer() != 0 && r.GetKind() == deputy.RecordKind_RECORD_KIND_EXPLANATION:
		return "explained: " + answer
	case r.GetAnswer() != 0:
		return answer
	case r.GetStage() == deputy.RecordStage_RECORD_STAGE_BEGUN && r.GetDryRun():
		return "begun (dry run)"
	case r.GetStage() == deputy.RecordStage_RECORD_STAGE_BEGUN:
		return "begun"
	case r.GetDryRun():
		return "dry run"
	case r.GetCaller() != "":
		return "done"
	}
	return ""
}
