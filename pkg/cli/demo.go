package cli

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"

	authzed "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"github.com/spf13/cobra"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/deputyauth/deputy/pkg/daemon"
	"github.com/deputyauth/deputy/pkg/engine"
	"github.com/deputyauth/deputy/schema"
)

// newDemo builds `deputy demo` around a story, of which there is one; a test has another. It is the whole
// product in one process: a server as serve opens it, reached over gRPC as any client would, with the
// keys of a service and of an admin.
func newDemo(p *program, story []demoChapter) *cobra.Command {
	var output, dataDir string
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Run the example: a support desk, its agents, and what they may do",
		Long: `Start a server on a loopback port over a temporary directory, load the example domain, and ask for
decisions over gRPC. Each is shown with the gate that refused, and compared with what is expected:
the exit code is 1 if any differs.

With --data-dir the directory stays, for "deputy serve --data-dir" to go on with.`,
		GroupID: groupAsk,
		Args:    cobra.NoArgs,
	}
	cmd.Flags().StringVarP(&output, "output", "o", "table", "table for people or json for programs")
	cmd.Flags().StringVar(&dataDir, "data-dir", "", "new directory to run it in, and to leave behind")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if output != "table" && output != "json" {
			return fmt.Errorf("--output must be table or json, not %q", output)
		}
		run, err := runDemo(cmd.Context(), story, dataDir)
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
		if _, unexpected := run.count(); unexpected > 0 {
			return errDenied
		}
		return nil
	}
	return cmd
}

// demoRun is the demo under way: two connections to its server, and what it got so far.
type demoRun struct {
	// service asks as the services of a deployment do, admin explains, loads and suspends.
	service *server
	admin   *server
	// ids maps the names that the story uses to the ids that the server minted.
	ids      map[string]string
	sections []demoSection
	// stop ends what start started, the last first.
	stop []func() error
}

// demoSection is a headline with the decisions below it.
type demoSection struct {
	Title string    `json:"title"`
	Rows  []demoRow `json:"decisions"`
}

// demoRow is one decision beside the one that is expected, both as "allowed", "conditional" or
// "refused by GATE". Without an agent it is SpiceDB's own answer about the user alone.
type demoRow struct {
	Agent string `json:"agent,omitempty"`
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

// runDemo starts the server, tells the story, and stops the server. Its data are in dataDir, which must not
// exist and stays, or if that is empty in a temporary directory.
func runDemo(ctx context.Context, story []demoChapter, dataDir string) (run *demoRun, err error) {
	run = &demoRun{ids: map[string]string{}}
	defer func() {
		for _, stop := range slices.Backward(run.stop) {
			err = errors.Join(err, stop())
		}
	}()
	if err := run.start(ctx, dataDir); err != nil {
		return run, fmt.Errorf("starting the server: %w", err)
	}
	if err := run.load(ctx); err != nil {
		return run, fmt.Errorf("loading the example: %w", err)
	}
	for _, chapter := range story {
		run.sections = append(run.sections, demoSection{Title: chapter.title})
		for _, step := range chapter.steps {
			if err := step.do(ctx, run); err != nil {
				return run, fmt.Errorf("%s: %w", chapter.title, err)
			}
		}
	}
	return run, nil
}

// start opens a server over a directory and connects to it, with keys that nobody else has.
func (r *demoRun) start(ctx context.Context, dir string) error {
	var err error
	if dir == "" {
		if dir, err = os.MkdirTemp("", "deputy-demo-"); err != nil {
			return err
		}
		r.stop = append(r.stop, func() error { return os.RemoveAll(dir) })
	} else if err := os.Mkdir(dir, 0o700); err != nil {
		return fmt.Errorf("--data-dir: %w", err)
	}
	seal, err := tokenKey(filepath.Join(dir, "token.key"))
	if err != nil {
		return err
	}
	serviceKey, adminKey := rand.Text(), rand.Text()
	d, err := daemon.Open(ctx, daemon.Config{
		Addr:               "127.0.0.1:0",
		PresharedKeys:      []string{serviceKey},
		AdminPresharedKeys: []string{adminKey},
		TokenKey:           seal,
		Engine:             engine.Config{Kind: engine.Embedded, Dir: dir},
	}, zap.NewNop())
	if err != nil {
		return err
	}
	r.stop = append(r.stop, d.Close)
	serving, end := context.WithCancel(ctx)
	served := make(chan error, 1)
	go func() { served <- d.Serve(serving) }()
	r.stop = append(r.stop, func() error { end(); return <-served })

	if r.service, err = dialDemo(d.Addr().String(), serviceKey); err != nil {
		return err
	}
	r.stop = append(r.stop, r.service.Close)
	if r.admin, err = dialDemo(d.Addr().String(), adminKey); err != nil {
		return err
	}
	r.stop = append(r.stop, r.admin.Close)
	return nil
}

// dialDemo connects to the demo's server.
func dialDemo(addr, key string) (*server, error) {
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithPerRPCCredentials(bearer{key: key, plain: true}))
	if err != nil {
		return nil, fmt.Errorf("connecting: %w", err)
	}
	return newServer(conn), nil
}

// load writes the example's schema and relationships, as `schema write` and `relationship import` do.
func (r *demoRun) load(ctx context.Context) error {
	files, err := fs.Sub(schema.SupportDesk, "supportdesk")
	if err != nil {
		return err
	}
	flat, err := flattenIn(files, "supportdesk.zed") //nolint:contextcheck // what is read is small and in memory
	if err != nil {
		return err
	}
	if _, err := r.admin.schema.WriteSchema(ctx, &authzed.WriteSchemaRequest{Schema: flat.text}); err != nil {
		return err
	}
	const relationships = "relationships.txt"
	graph, err := files.Open(relationships)
	if err != nil {
		return err
	}
	defer func() { _ = graph.Close() }()
	reader, err := newRelationshipReader(relationships, graph)
	if err != nil {
		return err
	}
	return (&importer{reader: reader, batchSize: messageSize}).run(ctx, r.admin.relationships)
}

// add adds a row to the section that is being told.
func (r *demoRun) add(row demoRow) {
	row.OK = row.Answer == row.Expected
	section := &r.sections[len(r.sections)-1]
	section.Rows = append(section.Rows, row)
}

// count returns how many decisions were asked for, and how many of them differ from what is expected.
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
	all := map[string]any{"sections": r.sections, "decisions": asked, "unexpected": unexpected}
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
		fmt.Fprintf(&b, "\n%d of %d decisions are not as expected.\n", unexpected, asked)
	} else {
		fmt.Fprintf(&b, "\n%d decisions, all as expected.\n", asked)
	}
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
	if !r.OK {
		answer += ", EXPECTED: " + r.Expected
	}
	return []string{agent, r.OnBehalfOf, r.Tenant, may, answer}
}
