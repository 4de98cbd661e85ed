package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	authzed "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"github.com/authzed/spicedb/pkg/tuple"
	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/deputyauth/deputy/pkg/fixture"
	"github.com/deputyauth/deputy/pkg/fixture/plan"
	"github.com/deputyauth/deputy/pkg/schema/source"
)

// planning is what `deputy schema plan` was asked for.
type planning struct {
	against, old   string
	fixtures       []string
	sample         plan.Sampling
	format, failOn string
	out            string
}

// newSchemaPlan builds `deputy schema plan`.
func newSchemaPlan(c *connection) *cobra.Command {
	var p planning
	cmd := &cobra.Command{
		Use:   "plan NEW",
		Short: "Show what a schema would change on a server or an exported graph; changes nothing",
		Long: `Show what writing the schema in the file NEW would change, and change nothing:

  - how it differs from the schema in force, as deputy schema diff says it;
  - the relationships that it does not admit; SpiceDB refuses it while there are any;
  - with --fixtures, the cases that come to something else under it;
  - on a sample of objects, who gains and who loses access: every permission that both schemas have, for all
    the subjects that an object's relationships lead to. A sample proves nothing about the rest.

The schema and all relationships are read from the server, at one revision. With --against they come from a
file that deputy relationship export has written, and with --schema the schema that it was under.

--out writes the plan for deputy schema write --require-plan.

The exit code is 1 if the change is breaking or widening, orphans relationships, flips a case, or changes
access in the sample, and 0 otherwise. With --fail-on=breaking a change that is only widening is no reason.`,
		Example: `  deputy schema plan schema.zed --fixtures fixtures/... --out plan.json
  deputy schema plan schema.zed --against graph.txt --schema old.zed`,
		Args: cobra.ExactArgs(1),
	}
	online := c.runLong(func(ctx context.Context, s *server, args []string) error {
		graph, err := readGraph(ctx, s)
		if err != nil {
			return err
		}
		return p.run(ctx, c.program, graph, args[0])
	})
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := p.check(args[0]); err != nil {
			return err
		}
		if p.against == "" {
			return online(cmd, args)
		}
		graph, err := p.readFiles(c.program)
		if err != nil {
			return err
		}
		return p.run(cmd.Context(), c.program, graph, args[0])
	}
	flags := cmd.Flags()
	flags.StringVar(&p.against, "against", "", "file with exported relationships, instead of a server")
	flags.StringVar(&p.old, "schema", "", "file with the schema that --against was exported under")
	flags.StringSliceVar(&p.fixtures, "fixtures", nil, "fixtures whose cases are judged under both schemas; as for deputy test")
	flags.IntVar(&p.sample.Objects, "sample", 200, "how many objects of each type are sampled; 0 for none")
	flags.Uint64Var(&p.sample.Seed, "seed", 1, "which objects are sampled")
	flags.IntVar(&p.sample.Subjects, "subjects", 200, "how many subjects are asked about for each object")
	flags.IntVar(&p.sample.Relationships, "max-relationships", 1_000_000, "beyond how many relationships nothing is sampled, because all are held in memory")
	flags.StringVar(&p.format, "format", "text", "text or json")
	flags.StringVar(&p.out, "out", "", "file to write the plan to, as JSON")
	addFailOn(cmd, &p.failOn)
	_ = cmd.RegisterFlagCompletionFunc("format", cobra.FixedCompletions([]string{"text", "json"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// check refuses flags that make no sense together.
func (p *planning) check(after string) error {
	if err := oneOf("format", p.format, "text", "json"); err != nil {
		return err
	}
	if err := oneOf("fail-on", p.failOn, failOnWidening, failOnBreaking, failOnNone); err != nil {
		return err
	}
	switch {
	case p.sample.Objects < 0 || p.sample.Subjects < 0 || p.sample.Relationships < 0:
		return errors.New("--sample, --subjects and --max-relationships cannot be negative")
	case (p.against == "") != (p.old == ""):
		return errors.New("--against and --schema go together")
	case p.out != "" && p.against != "":
		return errors.New("--out needs a server: what is planned against a file cannot be written")
	case p.old == "-" && after == "-":
		return errors.New("NEW and --schema cannot both be standard input")
	default:
		return nil
	}
}

// run plans and shows.
func (p *planning) run(ctx context.Context, program *program, graph plan.Graph, after string) error {
	schema, err := readSchemaFile(after, program.In) //nolint:contextcheck // a few small files
	if err != nil {
		return err
	}
	var fixtures []fixture.Located
	if len(p.fixtures) > 0 {
		found, err := find("", p.fixtures)
		if err != nil {
			return err
		}
		defer func() { _ = found.Close() }() // it was only read
		fixtures = found.files
	}
	planned, err := plan.New(ctx, graph, schema, p.sample, fixtures...)
	if err != nil {
		return err
	}
	if p.out != "" {
		if err := writeWhole("--out", p.out, 0o600, planned.JSON); err != nil {
			return err
		}
	}
	show := planned.Text
	if p.format == "json" {
		show = planned.JSON
	}
	if err := show(program.Out); err != nil {
		return err
	}
	if p.failOn != failOnNone && planned.Breaks() || fails(p.failOn, planned.Counts) {
		return errDenied
	}
	return nil
}

// readFiles is the graph of --against and --schema.
func (p *planning) readFiles(program *program) (plan.Graph, error) {
	old, err := readSchemaFile(p.old, program.In)
	if err != nil {
		return plan.Graph{}, err
	}
	text, err := old.Flat()
	if err != nil {
		return plan.Graph{}, err
	}
	return plan.Graph{Against: plan.AgainstFile, Text: text, Schema: old, Relationships: fileRows(p.against)}, nil
}

// fileRows are the relationships in a file.
func fileRows(name string) plan.Rows {
	return func(yield func(tuple.Relationship, error) bool) {
		file, err := os.Open(name) //nolint:gosec // reading it is what was asked for
		if err != nil {
			yield(tuple.Relationship{}, fmt.Errorf("--against: %w", err))
			return
		}
		defer func() { _ = file.Close() }()
		reader, err := newRelationshipReader(name, file)
		if err != nil {
			yield(tuple.Relationship{}, err)
			return
		}
		for {
			r, err := reader.next()
			switch {
			case errors.Is(err, io.EOF):
				return
			case err != nil:
				yield(tuple.Relationship{}, err)
				return
			case !yield(tuple.FromV1Relationship(r), nil):
				return
			}
		}
	}
}

// readGraph is the graph of a server, at the revision at which the schema is read.
func readGraph(ctx context.Context, s *server) (plan.Graph, error) {
	graph := plan.Graph{Against: plan.AgainstServer}
	answer, err := s.schema.ReadSchema(ctx, &authzed.ReadSchemaRequest{})
	if status.Code(err) == codes.NotFound {
		// Without a schema there are no relationships.
		graph.Relationships = func(func(tuple.Relationship, error) bool) {}
		return graph, nil
	}
	if err != nil {
		return graph, err
	}
	graph.Text, graph.Revision = answer.GetSchemaText(), answer.GetReadAt().GetToken()
	if graph.Schema, err = source.Parse("schema in force", graph.Text, nil, source.Options{}); err != nil { //nolint:contextcheck // a schema in memory
		return graph, err
	}
	graph.Relationships = serverRows(ctx, s.relationships, answer.GetReadAt())
	return graph, nil
}

// serverRows are all relationships at a revision.
func serverRows(ctx context.Context, client authzed.PermissionsServiceClient, at *authzed.ZedToken) plan.Rows {
	return func(yield func(tuple.Relationship, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		stream, err := client.ExportBulkRelationships(ctx, &authzed.ExportBulkRelationshipsRequest{
			Consistency:   &authzed.Consistency{Requirement: &authzed.Consistency_AtExactSnapshot{AtExactSnapshot: at}},
			OptionalLimit: messageSize,
		})
		for err == nil {
			var message *authzed.ExportBulkRelationshipsResponse
			if message, err = stream.Recv(); err != nil {
				break
			}
			for _, r := range message.GetRelationships() {
				if !yield(tuple.FromV1Relationship(r), nil) {
					return
				}
			}
		}
		if !errors.Is(err, io.EOF) {
			yield(tuple.Relationship{}, err)
		}
	}
}
