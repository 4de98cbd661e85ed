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
	"github.com/deputyauth/deputy/pkg/door/mcp/mapping/offer"
	"github.com/deputyauth/deputy/pkg/smallfile"
)

// offers holds the flags that say where a server's lists come from.
type offers struct {
	program *program
	file    string
	timeout time.Duration
}

func (o *offers) register(cmd *cobra.Command) {
	cmd.Flags().StringVar(&o.file, "tools", "", "file with the result of the server's tools/list, as JSON, in the place of a server")
	cmd.Flags().DurationVar(&o.timeout, "timeout", 30*time.Second, "how long to wait for the server")
}

// read reads the lists from the file, or from the server that a command starts. Without either it returns nil.
func (o *offers) read(ctx context.Context, server []string) (*offer.Offer, error) {
	switch {
	case o.file != "" && len(server) > 0:
		return nil, errors.New("--tools and a server exclude each other: name the one that the lists come from")
	case o.file != "":
		text, err := smallfile.Read(o.file, offer.MaxBytes)
		if err != nil {
			return nil, err
		}
		of, err := offer.Parse(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", o.file, err)
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
		Use:   "map [-- SERVER [ARGUMENT…]]",
		Short: "Propose a file of mappings from a server's own lists",
		Long: `Start an MCP server, read its lists of tools, prompts and resources, and propose a file of mappings: a check for each argument that by its
name and kind names an object, and a comment at each argument that has to be looked at. With --tools the list comes from a file.

A tool about which anything is unsure is marked "undecided: true". The guard hides and refuses it until somebody has looked at its checks
and takes that line away. The server is believed in nothing but the names and kinds of its arguments.`,
		Example: `  deputy mcp map --root /srv/files -- npx -y @modelcontextprotocol/server-filesystem /srv/files > guard.yaml
  deputy mcp map --tools tools.json --server tickets --out guard.yaml`,
	}
	from.register(cmd)
	flags := cmd.Flags()
	flags.StringVar(&options.Server, "server", "", "the server's name in the file; the one that it gives itself if left out")
	flags.StringVar(&options.Root, "root", "", "folder that the server's files lie in, which the guard sees too; without it tools with paths are undecided")
	flags.StringVar(&out, "out", "", "new file for the proposal, instead of standard output")
	outputVar(flags, &output, "json")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		of, err := from.read(cmd.Context(), args)
		switch {
		case err != nil:
			return err
		case of == nil:
			return errors.New("nothing says which tools there are: name the server behind --, or a file with its list with --tools")
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
