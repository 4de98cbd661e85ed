package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/deputyauth/deputy/pkg/door/mcp"
)

// newMCPApprove builds `deputy mcp approve`.
func newMCPApprove(p *program) *cobra.Command {
	var files guardFiles
	var upstream upstreamFlags
	var timeout time.Duration
	var output string
	cmd := &cobra.Command{
		Use:   "approve [flags] {-- SERVER [ARGUMENT…] | --upstream URL}",
		Short: "Approve the tools that a server has now",
		Long: `Start an MCP server, or ask the one at --upstream, read the definitions of its tools, and write their names and hashes to the lock file. The guard
lets no call through while the server's tools differ from these: a new description can tell an agent's model anything. The command prints which tools have
changed since the last time. Look at them before you commit the file.`,
		Example: `  deputy mcp approve --config guard.yaml -- npx -y @modelcontextprotocol/server-filesystem /srv/files
  deputy mcp approve --config guard.yaml --upstream http://127.0.0.1:3000/mcp`,
		Args: cobra.ArbitraryArgs,
	}
	files.register(cmd)
	upstream.register(cmd.Flags())
	cmd.Flags().DurationVar(&timeout, "timeout", 30*time.Second, "how long to wait for the server")
	outputVar(cmd.Flags(), &output, "json")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := upstream.oneServer(args); err != nil {
			return err
		}
		m, before, err := files.open()
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
		defer cancel()
		all, err := definitions(ctx, p, &upstream, args)
		if err != nil {
			return err
		}
		now, err := mcp.PinsOf(m.Server(), all)
		if err != nil {
			return err
		}
		if before == nil {
			before = &mcp.Pins{}
		}
		changes := before.Changes(now)
		if err := os.WriteFile(files.lockFile(), now.Append(nil), 0o600); err != nil {
			return err
		}
		return printApproved(p.Out, output, files.lockFile(), len(now.Tools), changes)
	}
	return cmd
}

// definitions reads the definitions of a server that is started, or is there over HTTP.
func definitions(ctx context.Context, p *program, at *upstreamFlags, command []string) (all mcp.Definitions, err error) {
	switch {
	case at.url != "":
		server, err := at.open()
		if err != nil {
			return all, err
		}
		if all, err = server.Definitions(ctx); err != nil {
			return all, fmt.Errorf("the server's tools cannot be read: %w", err)
		}
	default:
		server, err := mcp.Start(ctx, command, p.Err)
		if err != nil {
			return all, err
		}
		defer server.Stop()
		if all, err = server.Definitions(ctx); err != nil {
			return all, fmt.Errorf("the server's tools cannot be read: %w", err)
		}
	}
	return all, nil
}

// printApproved prints what was approved.
func printApproved(out io.Writer, output, file string, tools int, changes []string) error {
	if output == "json" {
		return json.NewEncoder(out).Encode(map[string]any{"file": file, "tools": tools, "changes": append([]string{}, changes...)})
	}
	return writeTable(out, func(w io.Writer) {
		for _, change := range changes {
			what, name, _ := strings.Cut(change, " ")
			row(w, what, mcp.ShownName(name))
		}
		row(w, fmt.Sprintf("%d tools are approved in %s", tools, file))
	})
}
