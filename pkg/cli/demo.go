package cli

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/deputyauth/deputy/pkg/daemon"
	"github.com/deputyauth/deputy/pkg/engine"
	"github.com/deputyauth/deputy/pkg/fixture"
	"github.com/deputyauth/deputy/pkg/fixture/endpoint"
)

// demoParts is how many parts of the example's decisions.yaml the demo shows; the rest is told to `deputy test`.
const demoParts = 9

// newDemo builds `deputy demo` around a fixture file, of which there is one; a test has another. It is the whole
// product in one process: a server as serve opens it, reached over gRPC as any client would, with the
// keys of a service and of an admin, and of a caller that is bound to one tenant.
func newDemo(p *program, files fs.FS, name string) *cobra.Command {
	var output, dataDir string
	var all bool
	var on engine.Config
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Run the example: a support desk, its agents, and what they may do",
		Long: `Start a server on a loopback port over a temporary directory, load the example domain, and ask for
decisions over gRPC. Each is shown with the gate that refused, and compared with what is expected:
the exit code is 1 if any differs. Then the server's journal is verified, changed by one byte, and
verified again.

With --data-dir the directory stays, for "deputy serve --data-dir" to go on with.

With --engine postgres the example is loaded into an empty PostgreSQL database, which two servers follow. Everything is written
through the first one, every decision is asked of the second one, and one more part of the story has the first revoke, and the
second refuse.`,
		GroupID: groupAsk,
		Args:    cobra.NoArgs,
	}
	outputVar(cmd.Flags(), &output, "json")
	cmd.Flags().BoolVar(&all, "all", false, "run all parts of the example, not just the first ones")
	cmd.Flags().StringVar(&dataDir, "data-dir", "", "new directory to run it in, and to leave behind")
	choiceVar(cmd.Flags(), &on.Kind, "engine", "", engine.Embedded,
		"where the graph is: in the temporary directory ("+engine.Embedded+"), or in a database ("+engine.Postgres+")", engine.Embedded, engine.Postgres)
	cmd.Flags().Var((*hiddenText)(&on.URI), "datastore-conn-uri", "connection string of an empty PostgreSQL database, for --engine postgres")
	allowEnvOf(cmd.Flags().Lookup("datastore-conn-uri"))
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		switch {
		case on.Kind == engine.Postgres && on.URI == "":
			return errors.New("--engine postgres needs --datastore-conn-uri, the connection string of an empty PostgreSQL database; " +
				"in a clone, make demo ENGINE=postgres starts one that is gone afterwards")
		case on.Kind != engine.Postgres && on.URI != "":
			return errors.New("--datastore-conn-uri is set, and --engine is not postgres: set that too, or leave --datastore-conn-uri out")
		}
		suite, err := fixture.Read(cmd.Context(), files, name, fixture.Options{})
		if err != nil {
			return err
		}
		defer suite.Close()
		if !all {
			suite.Steps = firstParts(suite.Steps, demoParts)
		}
		run, err := runDemo(cmd.Context(), suite, on, dataDir)
		if err != nil {
			return err
		}
		if output == "json" {
			err = run.writeJSON(p.Out)
		} else {
			err = run.writeTable(p.Out)
		}
		if err != nil {
			return err
		}
		if _, unexpected := run.count(); unexpected > 0 || !run.evidence.ok() {
			return errDenied
		}
		return nil
	}
	return cmd
}

// firstParts are the steps of the first parts of a story, each of which begins with a heading.
func firstParts(steps []fixture.Step, parts int) []fixture.Step {
	for i, step := range steps {
		if step.About != "" {
			if parts == 0 {
				return steps[:i]
			}
			parts--
		}
	}
	return steps
}

// demoRun is the demo under way: the connections to its servers, and what it got so far.
type demoRun struct {
	// service asks as the services of a deployment do, admin explains, loads and suspends. outsider is bound to one tenant. Where there are two
	// servers, admin is connected to the first one, and the others to the second.
	service, admin, outsider *server
	// first asks as service does, of the first of two servers; nil where there is one.
	first    *server
	sections []demoSection
	// dir is the directory of the server that decides, and temporary the one that it is in and that goes with the demo; empty if one was named.
	dir, temporary string
	evidence       *demoEvidence
	// stop ends what start started, the last first.
	stop []func() error
}

// demoSection is a headline with the decisions below it.
type demoSection struct {
	Title string    `json:"title"`
	Rows  []demoRow `json:"decisions"`
}

// demoRow is one answer beside the one that is expected, both as "allowed", "conditional", "refused by GATE", or, of a caller that
// is bound, "refused". Without an agent it is SpiceDB's own answer about the user alone, or what a caller is told of a method.
type demoRow struct {
	// Caller is who asks, if not the service or the admin of the demo.
	Caller string `json:"caller,omitempty"`
	// Server is A or B where one of two is asked on purpose.
	Server string `json:"server,omitempty"`
	Agent  string `json:"agent,omitempty"`
	// Under is "session NAME", "frozen NAME", "delegation NAME" or "no session".
	Under      string `json:"under,omitempty"`
	OnBehalfOf string `json:"on_behalf_of"`
	Tenant     string `json:"tenant,omitempty"`
	// May is permission and object: "view document:plan".
	May string `json:"may"`
	// Context is the caveat context, "amount=150", or empty.
	Context string `json:"context,omitempty"`
	// Permissionship is the verdict as the API spells it.
	Permissionship string `json:"permissionship"`
	Answer         string `json:"answer"`
	Expected       string `json:"expected"`
	OK             bool   `json:"ok"`
}

// runDemo starts the server, or two over a database, runs the file against it, and stops it. Its data are in dataDir, which must not
// exist and stays, or if that is empty in a temporary directory.
func runDemo(ctx context.Context, suite *fixture.Suite, on engine.Config, dataDir string) (run *demoRun, err error) {
	run = &demoRun{}
	defer func() {
		err = errors.Join(err, run.end())
		if run.temporary != "" {
			err = errors.Join(err, os.RemoveAll(run.temporary))
		}
	}()
	bounded := outsiderOf(suite, rand.Text())
	if err := run.open(ctx, on, dataDir, bounded); err != nil {
		return run, fmt.Errorf("starting the server: %w", err)
	}
	servers := endpoint.NewServer(run.service.conn, run.admin.conn)
	if err := servers.Load(ctx, suite, false); errors.Is(err, endpoint.ErrHolds) {
		return run, errors.New("the database holds a schema already: name an empty one with --datastore-conn-uri")
	} else if err != nil {
		return run, fmt.Errorf("loading the example: %w", err)
	}
	memory, err := suite.Run(ctx, nil)
	if err != nil {
		return run, err
	}
	results, err := servers.Run(ctx, suite, memory)
	if err != nil {
		return run, err
	}
	run.tell(suite, results)
	if bounded != nil {
		err = run.askOutside(ctx, bounded)
		if err == nil && run.first != nil {
			err = run.askBoth(ctx, bounded)
		}
	}
	if err = errors.Join(err, run.end()); err != nil {
		return run, err
	}
	if err := run.verifyJournal(ctx, run.dir); err != nil {
		return run, fmt.Errorf("verifying the journal: %w", err)
	}
	return run, nil
}

// end stops the server. It is safe to call twice.
func (r *demoRun) end() (err error) {
	for _, stop := range slices.Backward(r.stop) {
		err = errors.Join(err, stop())
	}
	r.stop = nil
	return err
}

// tell makes the sections of what the cases of the file came to.
func (r *demoRun) tell(suite *fixture.Suite, results []fixture.Result) {
	frozen := map[string]bool{}
	for _, step := range suite.Steps {
		if step.About != "" {
			r.sections = append(r.sections, demoSection{Title: step.About})
		}
		if step.Start != nil {
			frozen[step.Start.Name] = step.Start.Frozen
		}
		for range step.Cases {
			section := &r.sections[len(r.sections)-1]
			section.Rows = append(section.Rows, rowOf(&results[0], frozen))
			results = results[1:]
		}
	}
}

// rowOf shows what a case came to.
func rowOf(r *fixture.Result, frozen map[string]bool) demoRow {
	row := demoRow{OK: r.OK, Answer: everyday(r.Got), Expected: everyday(r.Want)}
	row.Permissionship, _, _ = strings.Cut(r.Got, ",")
	d := r.Decision
	if d == nil {
		of := r.Check
		row.OnBehalfOf = of.Subject.ObjectType + ":" + of.Subject.ObjectID
		row.May = of.Resource.Relation + " " + of.Resource.ObjectType + ":" + of.Resource.ObjectID
		row.Permissionship = map[string]string{
			fixture.AnswerTrue: "HAS_PERMISSION", fixture.AnswerCaveated: "CONDITIONAL_PERMISSION",
		}[r.Got]
		row.Permissionship = cmp.Or(row.Permissionship, "NO_PERMISSION")
		return row
	}
	row.Agent, row.OnBehalfOf, row.Tenant, row.May = d.Agent, d.OnBehalfOf, d.Tenant, d.Permission+" "+d.Resource
	switch {
	case frozen[d.Session]:
		row.Under = "frozen " + d.Session
	case d.Session != "":
		row.Under = "session " + d.Session
	case d.Delegation != "":
		row.Under = "delegation " + d.Delegation
	default:
		row.Under = "no session"
	}
	var given []string
	for _, name := range slices.Sorted(maps.Keys(d.Context)) {
		given = append(given, fmt.Sprintf("%s=%v", name, d.Context[name]))
	}
	row.Context = strings.Join(given, ", ")
	return row
}

// everyday puts an answer into everyday words: "allowed", "conditional", "refused by GATE". What is not known is shown as it is.
func everyday(answer string) string {
	permissionship, _, _ := strings.Cut(answer, ",")
	switch permissionship, _, _ = strings.Cut(permissionship, " ("); permissionship {
	case "HAS_PERMISSION", fixture.AnswerTrue:
		return "allowed"
	case "CONDITIONAL_PERMISSION", fixture.AnswerCaveated:
		return "conditional"
	case fixture.AnswerFalse:
		return "refused"
	case "NO_PERMISSION":
		if _, gate, ok := strings.Cut(answer, ", refused by "); ok {
			return "refused by " + gate
		}
		return "refused"
	default:
		return answer
	}
}

// open makes the directory, starts the server or the two, and connects, with keys that nobody else has.
func (r *demoRun) open(ctx context.Context, on engine.Config, dir string, bounded *outsider) error {
	var err error
	if dir == "" {
		if dir, err = os.MkdirTemp("", "deputy-demo-"); err != nil {
			return err
		}
		r.temporary = dir
		dir = filepath.Join(dir, "data") // the journal's keys are beside it
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return fmt.Errorf("--data-dir: %w", err)
	}
	seal, err := tokenKey(filepath.Join(dir, "token.key"))
	if err != nil {
		return err
	}
	serviceKey, adminKey := rand.Text(), rand.Text()
	cfg := bounded.with(daemon.Config{
		Addr:               "127.0.0.1:0",
		PresharedKeys:      []string{serviceKey},
		AdminPresharedKeys: []string{adminKey},
		TokenKey:           seal,
		Engine:             on,
	})
	var first, decides string
	if on.Kind == engine.Postgres {
		first, decides, err = r.startTwo(ctx, cfg, dir)
	} else {
		r.dir = dir
		cfg.Engine.Dir = dir
		decides, err = r.start(ctx, cfg)
		first = decides
	}
	if err != nil {
		return err
	}
	if r.service, err = r.dial(decides, serviceKey); err != nil { //nolint:contextcheck // Dial takes no context
		return err
	}
	if r.admin, err = r.dial(first, adminKey); err != nil { //nolint:contextcheck // Dial takes no context
		return err
	}
	if first != decides {
		if r.first, err = r.dial(first, serviceKey); err != nil { //nolint:contextcheck // Dial takes no context
			return err
		}
	}
	if bounded != nil {
		r.outsider, err = r.dial(decides, bounded.key) //nolint:contextcheck // Dial takes no context
	}
	return err
}

// start opens a server, which serves until the demo ends, and returns where it listens.
func (r *demoRun) start(ctx context.Context, cfg daemon.Config) (addr string, err error) {
	d, err := daemon.Open(ctx, cfg, zap.NewNop())
	if err != nil {
		return "", err
	}
	r.stop = append(r.stop, d.Close)
	serving, end := context.WithCancel(ctx)
	served := make(chan error, 1)
	go func() { served <- d.Serve(serving) }()
	r.stop = append(r.stop, func() error { end(); return <-served })
	return d.Addr().String(), nil
}

// dial connects to a server until the demo ends.
func (r *demoRun) dial(addr, key string) (*server, error) {
	s, err := newServer(addr, key)
	if err != nil {
		return nil, fmt.Errorf("connecting: %w", err)
	}
	r.stop = append(r.stop, s.Close)
	return s, nil
}

// count returns how many answers were asked for, and how many of them differ from what is expected.
func (r *demoRun) count() (asked, unexpected int) {
	for _, section := range r.sections {
		for _, row := range section.Rows {
			asked++
			if !row.OK {
				unexpected++
			}
		}
	}
	return asked, unexpected
}

// writeJSON writes everything as one JSON object.
func (r *demoRun) writeJSON(out io.Writer) error {
	encoder := json.NewEncoder(out)
	encoder.SetIndent("", "  ")
	asked, unexpected := r.count()
	all := map[string]any{"sections": r.sections, "decisions": asked, "unexpected": unexpected, "journal": r.evidence}
	if err := encoder.Encode(all); err != nil {
		return fmt.Errorf("writing: %w", err)
	}
	return nil
}

// writeTable writes the sections with their columns aligned across all of them: within 100 columns,
// and without ids and times, so that it is the same each time.
func (r *demoRun) writeTable(out io.Writer) error {
	table := [][]string{{"AGENT", "FOR", "IN", "MAY", "ANSWER"}}
	for _, section := range r.sections {
		table = append(table, nil, []string{section.Title})
		for _, row := range section.Rows {
			table = append(table, row.cells())
		}
	}
	widths := map[int]int{}
	for _, cells := range table {
		for i, cell := range cells {
			if len(cells) > 1 {
				widths[i] = max(widths[i], utf8.RuneCountInString(cell))
			}
		}
	}
	var b strings.Builder
	for _, cells := range table {
		line := strings.Join(cells, "")
		if len(cells) > 1 {
			line = ""
			for i, cell := range cells {
				line += "  " + cell + strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
			}
		}
		b.WriteString(strings.TrimRight(line, " ") + "\n")
	}
	asked, unexpected := r.count()
	if unexpected > 0 {
		fmt.Fprintf(&b, "\n%d of %d answers are not as expected.\n", unexpected, asked)
	} else {
		fmt.Fprintf(&b, "\n%d answers, all as expected.\n", asked)
	}
	b.WriteString("\n" + r.evidence.lines())
	if _, err := io.WriteString(out, b.String()); err != nil {
		return fmt.Errorf("writing: %w", err)
	}
	return nil
}

// cells returns a row's columns; the last one says so if the answer is not the expected one.
func (r demoRow) cells() []string {
	agent, may, answer := r.Agent, r.May, r.Answer
	if agent == "" {
		agent = "(no agent)"
	}
	if r.Context != "" {
		may += " " + r.Context
	}
	switch kind, _, _ := strings.Cut(r.Under, " "); kind {
	case "no":
		may += " (no session)"
	case "frozen":
		may += " (frozen)"
	}
	if r.Server != "" {
		may += " (at " + r.Server + ")"
	}
	if !r.OK {
		answer += ", EXPECTED: " + r.Expected
	}
	return []string{agent, r.OnBehalfOf, r.Tenant, may, answer}
}
