package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/deputyauth/deputy/pkg/door/mcp"
	"github.com/deputyauth/deputy/pkg/door/mcp/mapping"
	"github.com/deputyauth/deputy/pkg/door/mcp/mapping/offer"
)

// offers holds the flags that say where a server's lists come from.
type offers struct {
	program *program
	file    string
	timeout time.Duration
}

func (o *offers) register(cmd *cobra.Command) {
	cmd.Flags().StringVar(&o.file, "tools", "", "JSON file with the result of the server's tools/list, to read instead of starting a server")
	cmd.Flags().DurationVar(&o.timeout, "timeout", 30*time.Second, "how long to wait for the server")
}

// read reads the lists from the file, or from the server that a command starts. Without either it returns nil.
func (o *offers) read(ctx context.Context, server []string) (*offer.Offer, error) {
	switch {
	case o.file != "" && len(server) > 0:
		return nil, errors.New("--tools and a server behind -- exclude each other: the tools are read from one of them")
	case o.file != "":
		text, err := mapping.ReadFile(o.file, offer.MaxBytes)
		if err != nil {
			return nil, fmt.Errorf("--tools: %w", err)
		}
		of, err := offer.Parse(text)
		if err != nil {
			return nil, fmt.Errorf("--tools: %s: %w", o.file, err)
		}
		return of, nil
	case len(server) == 0:
		return nil, nil //nolint:nilnil // nothing was named
	}
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	process, err := mcp.Start(ctx, server, o.program.Err)
	if err != nil {
		return nil, err
	}
	defer process.Stop()
	lists, err := process.Offers(ctx)
	if err != nil {
		return nil, fmt.Errorf("the server's lists cannot be read: %w", err)
	}
	of, err := offer.Of(lists)
	if err != nil {
		return nil, fmt.Errorf("the server's list %w", err)
	}
	return of, nil
}

// newMCPMap builds `deputy mcp map`.
func newMCPMap(p *program) *cobra.Command {
	from := offers{program: p}
	var options offer.Options
	var out, output string
	cmd := &cobra.Command{
		Use:   "map [flags] {-- SERVER [ARGUMENT…] | --tools FILE}",
		Short: "Propose a file of mappings from a server's own lists",
		Long: `Start an MCP server, read its lists of tools, prompts and resources, and propose a file of mappings. The proposal has a check for each argument whose
name and kind say that it names an object, and a comment at each argument that you have to look at. With --tools the command reads the list from a file and
starts no server.

Where the command is unsure about a tool, it marks the tool "undecided: true". The guard hides the tool and refuses its calls until you have looked at its
checks and removed that line. The command relies only on the names and kinds of the server's arguments, and on nothing that the server says in words.`,
		Example: `  deputy mcp map --root /srv/files -- npx -y @modelcontextprotocol/server-filesystem /srv/files > guard.yaml
  deputy mcp map --tools tools.json --server tickets --out guard.yaml`,
	}
	from.register(cmd)
	flags := cmd.Flags()
	flags.StringVar(&options.Server, "server", "", "the server's name in the file; if left out, the name that the server gives itself")
	flags.StringVar(&options.Root, "root", "", "folder with the server's files, which the guard has to see too; without it, tools that take paths are undecided")
	flags.StringVar(&out, "out", "", "new file for the proposal; if left out, it goes to standard output")
	outputVar(flags, &output, "json")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if options.Server != "" && !mapping.IsServerName(options.Server) {
			return fmt.Errorf("--server is %q, which is no name for a server: write %s", options.Server, mapping.NameRule)
		}
		of, err := from.read(cmd.Context(), args)
		switch {
		case err != nil:
			return err
		case of == nil:
			return errors.New("there is no list of tools: write the server's command behind --, or name a file with its list with --tools")
		}
		if options.Root != "" {
			if options.Root, err = filepath.Abs(options.Root); err != nil {
				return fmt.Errorf("--root: %w", err)
			}
		}
		proposal, err := offer.Propose(of, options)
		if err != nil {
			return err
		}
		return printProposal(p, output, out, proposal)
	}
	return cmd
}

// printProposal writes a proposal to a file or to standard output.
func printProposal(p *program, output, file string, proposal *offer.Proposal) error {
	if file != "" {
		if _, err := os.Lstat(file); err == nil {
			return fmt.Errorf("--out: %s is there already, and is not written over: name a new file", file)
		}
		err := writeWhole("--out", file, readable, func(w io.Writer) error {
			_, err := w.Write(proposal.Text)
			return err
		})
		if err != nil {
			return err
		}
	}
	if output == formatJSON {
		return say(p.Out, output, map[string]any{
			"file": file, "mapping": string(proposal.Text), "tools": proposal.Tools, "decided": proposal.Decided, "prompts": proposal.Prompts,
		}, "")
	}
	if file == "" {
		_, err := p.Out.Write(proposal.Text)
		return err
	}
	return writeTable(p.Out, func(w io.Writer) {
		row(w, fmt.Sprintf("%s maps %s; undecided, and therefore hidden: %d", file, plural(proposal.Tools, "tool"), proposal.Tools-proposal.Decided))
	})
}
