package cli

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/spf13/cobra"

	"github.com/deputyauth/deputy/pkg/door/mcp"
	"github.com/deputyauth/deputy/pkg/door/mcp/mapping"
)

// newMCP builds `deputy mcp`.
func newMCP(p *program) *cobra.Command {
	cmd := group(groupServer, "mcp", "Guard an MCP server: have each call of its tools decided first")
	cmd.Long = `Guard an MCP server. The guard relays the messages between an agent and the server. It hides the tools that the agent may not call. It has
Deputy decide every call, with the objects in its arguments, for the person that the agent acts for. A file says which arguments name which objects.`
	cmd.AddCommand(newMCPGuard(p), newMCPApprove(p), newMCPMap(p), newMCPLint(p), newMCPTest(p))
	return cmd
}

// guardFiles holds the flags that name the guard's files.
type guardFiles struct {
	config, lock string
}

func (g *guardFiles) register(cmd *cobra.Command) {
	cmd.Flags().StringVar(&g.config, "config", "guard.yaml", "file that maps the server's tools to objects")
	cmd.Flags().StringVar(&g.lock, "lock", "", "file with the approved tools; if left out, the name of --config with .lock added")
}

func (g *guardFiles) lockFile() string {
	if g.lock != "" {
		return g.lock
	}
	return g.config + ".lock"
}

// maxLock is the length of a file of approved tools.
const maxLock = 1 << 20

// open reads both files. Where there is none of approved tools, pins is nil.
func (g *guardFiles) open() (m *mapping.Map, pins *mcp.Pins, err error) {
	if m, err = mapping.Open(g.config); err != nil {
		return nil, nil, err
	}
	text, err := mapping.ReadFile(g.lockFile(), maxLock)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return m, nil, nil
	case err != nil:
		return nil, nil, err
	}
	if pins, err = mcp.ParsePins(text, m.Server()); err != nil {
		return nil, nil, fmt.Errorf("%s %w; name the right file with --lock, or remove this one, look at the server's tools, and approve them with: "+
			"deputy mcp approve", g.lockFile(), err)
	}
	return m, pins, nil
}
