package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	goclient "github.com/deputyauth/deputy/pkg/client"
	"github.com/deputyauth/deputy/pkg/daemon"
	"github.com/deputyauth/deputy/pkg/door/mcp"
	"github.com/deputyauth/deputy/pkg/engine"
)

// newMCPGuard builds `deputy mcp guard`.
func newMCPGuard(p *program) *cobra.Command {
	g := &guardCommand{program: p, connection: &connection{program: p}}
	cmd := &cobra.Command{
		Use:   "guard [flags] {-- SERVER [ARGUMENT…] | --listen ADDR --upstream URL --resource URL --issuers FILE}",
		Short: "Run an MCP server behind the guard, or stand in front of one over HTTP",
		Long: `Start an MCP server as a process and relay between it and the agent on standard input and output. An agent's configuration names this
command in the place of the server's own. The agent is --agent, in a --session or under a --delegation, as for "deputy check".

Or, with --upstream, listen for agents over HTTP and relay between them and an MCP server there. Then each request brings a token, by which the
guard knows which agent acts, for whom and where. The token has to be for --resource, and of one of the --issuers. The MCP server never gets it: it gets
the guard's own, from --upstream-token-file.

Deputy is asked at --endpoint, or with --data-dir in this process: then no other may serve that directory at the same time. At --endpoint it gets
the agent's token too, and verifies it.

The guard stands where the agent's client starts the server. Whoever may start the server itself, or reach its files in another way, goes
around it: run the server, and keep its files and its keys, under an account that the agent has no access to. The server gets none of the
variables DEPUTY_….`,
		Example: `  deputy mcp guard --config guard.yaml --agent bot --session 5f0c… -- npx -y @modelcontextprotocol/server-filesystem /srv/files
  deputy mcp guard --config guard.yaml --listen 127.0.0.1:8700 --upstream http://127.0.0.1:3000/mcp \
    --resource https://mcp.example.com/files --issuers issuers.yaml`,
		Args: cobra.ArbitraryArgs,
	}
	g.files.register(cmd)
	g.proxy.register(cmd.Flags())
	flags := cmd.Flags()
	flags.StringVar(&g.agent, "agent", "", "the agent that calls")
	flags.StringVar(&g.question.session, "session", "", "the session that it acts in")
	flags.StringVar(&g.question.delegation, "delegation", "", "the delegation that it acts under, created with --allow-direct")
	flags.StringVar(&g.question.onBehalfOf, "on-behalf-of", "", "the principal, such as user:alice or service:nightly")
	flags.StringVar(&g.question.tenant, "tenant", "", "the tenant")
	flags.StringVar(&g.dataDir, "data-dir", "", "decide in this process, over the directory of the engine embedded")
	flags.DurationVar(&g.callTimeout, "call-timeout", mcp.DefaultTimeout, "how long the MCP server may take for an answer")
	g.connection.connect(cmd.PersistentFlags())
	cmd.RunE = g.run
	return cmd
}

// guardCommand holds the flags of `deputy mcp guard`.
type guardCommand struct {
	program     *program
	connection  *connection
	files       guardFiles
	proxy       proxyFlags
	agent       string
	question    question
	dataDir     string
	callTimeout time.Duration
}

func (g *guardCommand) run(cmd *cobra.Command, args []string) error {
	overHTTP, err := g.proxy.check(cmd, args)
	if err != nil {
		return err
	}
	var base goclient.Question
	if !overHTTP {
		if base, err = g.base(); err != nil {
			return err
		}
	}
	m, pins, err := g.files.open()
	switch {
	case err != nil:
		return err
	case pins == nil:
		return fmt.Errorf("the tools of the server were not approved: there is no %s; look at the tools, and write it with: deputy mcp approve",
			g.files.lockFile())
	case g.callTimeout <= 0:
		return errors.New("--call-timeout must be positive")
	}
	log, err := newLog(g.program.Err, "info", "console")
	if err != nil {
		return err
	}
	checker, closing, err := g.checker(cmd, log)
	if err != nil {
		return err
	}
	defer closing()
	cfg := mcp.Config{Map: m, Pins: pins, Timeout: g.callTimeout, Log: log}
	if overHTTP {
		return g.proxy.serve(cmd.Context(), cfg, checker, g.dataDir == "")
	}
	cfg.Ask = mcp.AskerOf(checker, base)
	server, err := mcp.Start(cmd.Context(), args, g.program.Err)
	if err != nil {
		return err
	}
	defer server.Stop()
	return server.Serve(cmd.Context(), mcp.New(cfg), g.program.In, g.program.Out)
}

// base is what all questions have in common.
func (g *guardCommand) base() (goclient.Question, error) {
	q := goclient.Question{
		Agent: bareID("agent", g.agent), Session: bareID("session", g.question.session), Delegation: bareID("delegation", g.question.delegation),
		Tenant: bareID("tenant", g.question.tenant),
	}
	if q.Agent == "" {
		return q, errors.New("--agent is missing: name the agent that calls")
	}
	if q.Session != "" && q.Delegation != "" {
		return q, errors.New("--session and --delegation exclude each other")
	}
	if g.question.onBehalfOf != "" {
		principal, err := parseObject("--on-behalf-of", g.question.onBehalfOf)
		if err != nil {
			return q, err
		}
		switch principal.GetObjectType() {
		case "user":
			q.Principal = goclient.User(principal.GetObjectId())
		case "service":
			q.Principal = goclient.Service(principal.GetObjectId())
		default:
			return q, fmt.Errorf("--on-behalf-of is a %s; a principal is a user or a service", principal.GetObjectType())
		}
	}
	return q, nil
}

// checker connects to Deputy, or opens it in this process.
func (g *guardCommand) checker(cmd *cobra.Command, log *zap.Logger) (_ mcp.Decider, closing func(), err error) {
	if g.dataDir == "" {
		g.connection.insecureUnsaid = !cmd.Flags().Changed("insecure")
		s, err := g.connection.dial()
		if err != nil {
			return nil, nil, err
		}
		return timedDecider{s.client, g.connection.timeout}, func() { _ = s.Close() }, nil
	}
	for _, name := range []string{"endpoint", "key", "key-file"} {
		if cmd.Flags().Changed(name) {
			return nil, nil, fmt.Errorf("--data-dir and --%s exclude each other", name)
		}
	}
	key, err := tokenKey(daemon.TokenKeyFile(g.dataDir))
	if err != nil {
		return nil, nil, err
	}
	d, err := daemon.Open(cmd.Context(), daemon.Config{
		Engine: engine.Config{Kind: engine.Embedded, Dir: g.dataDir}, TokenKey: key, NoListener: true,
	}, log)
	if err != nil {
		return nil, nil, err
	}
	closing = func() {
		if err := d.Close(); err != nil {
			log.Warn("closing", zap.Error(err))
		}
	}
	return timedDecider{d.InProcess().Client(), g.connection.timeout}, closing, nil
}

// timedDecider gives all that is asked together a time.
type timedDecider struct {
	mcp.Decider

	timeout time.Duration
}

// CheckAll implements mcp.Decider.
func (t timedDecider) CheckAll(ctx context.Context, questions ...goclient.Question) ([]goclient.Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, t.timeout)
	defer cancel()
	return t.Decider.CheckAll(ctx, questions...)
}

// RecordToolRefusal implements mcp.Decider.
func (t timedDecider) RecordToolRefusal(ctx context.Context, q goclient.Question, why goclient.ToolRefusal) error {
	ctx, cancel := context.WithTimeout(ctx, t.timeout)
	defer cancel()
	return t.Decider.RecordToolRefusal(ctx, q, why)
}
