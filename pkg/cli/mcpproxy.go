package cli

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.uber.org/zap"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/caller/actor"
	callersfile "github.com/deputyauth/deputy/pkg/caller/file"
	issuing "github.com/deputyauth/deputy/pkg/caller/token"
	goclient "github.com/deputyauth/deputy/pkg/client"
	"github.com/deputyauth/deputy/pkg/door/mcp"
	"github.com/deputyauth/deputy/pkg/door/mcp/proxy"
	"github.com/deputyauth/deputy/pkg/smallfile"
)

// upstreamFlags say which MCP server there is over HTTP.
type upstreamFlags struct {
	url, tokenFile string
	plaintext      bool
}

func (u *upstreamFlags) register(flags *pflag.FlagSet) {
	flags.StringVar(&u.url, "upstream", "", "URL of an MCP server over HTTP")
	flags.StringVar(&u.tokenFile, "upstream-token-file", "", "file with the guard's own bearer token for the MCP server; read again when it changes")
	flags.BoolVar(&u.plaintext, "plaintext", false,
		"do without TLS beyond this machine: anyone who can read the network can then read tokens")
}

// open returns the server.
func (u *upstreamFlags) open() (*proxy.Upstream, error) {
	at, err := url.Parse(u.url)
	if err == nil && at.Scheme == "http" && !isLoopback(at.Hostname()) && !u.plaintext {
		return nil, fmt.Errorf("--upstream %s is not secured by TLS: write https://, or add --plaintext", u.url)
	}
	var credential func() (string, error)
	if u.tokenFile != "" {
		credential = func() (string, error) { return readToken("upstream-token-file", "guard", u.tokenFile) }
		if _, err := credential(); err != nil {
			return nil, err
		}
	}
	up, err := proxy.NewUpstream(u.url, credential)
	if err != nil {
		return nil, fmt.Errorf("--upstream: %w", err)
	}
	return up, nil
}

// proxyFlags hold the flags of `deputy mcp guard` that are about HTTP.
type proxyFlags struct {
	upstream                                   upstreamFlags
	listen, resource, issuers, tlsCert, tlsKey string
	origins, scopes                            []string
	maxSessions, maxPersonSessions             int
	idle                                       time.Duration
}

func (f *proxyFlags) register(flags *pflag.FlagSet) {
	f.upstream.register(flags)
	flags.StringVar(&f.listen, "listen", "", "host and port to listen on, for an MCP server at --upstream; port 0 picks one")
	flags.StringVar(&f.resource, "resource", "", "the guard's URL as agents know it, which their tokens have to be for")
	flags.StringVar(&f.issuers, "issuers", "", "file with the issuers of agents' tokens, as the server's --callers has them")
	flags.StringVar(&f.tlsCert, "tls-cert", "", "PEM file with the guard's certificate; read again when it changes")
	flags.StringVar(&f.tlsKey, "tls-key", "", "PEM file with its key")
	flags.StringArrayVar(&f.scopes, "require-scope", nil, "scope that an agent's token has to have, such as mcp:files; may be repeated")
	flags.StringArrayVar(&f.origins, "allow-origin", nil, "origin of web pages that may send requests, such as https://chat.example.com; may be repeated")
	flags.IntVar(&f.maxSessions, "max-sessions", proxy.DefaultMaxSessions, "how many sessions there can be at once")
	flags.IntVar(&f.maxPersonSessions, "max-person-sessions", proxy.DefaultMaxPersonSessions, "how many of them an agent can have for one person")
	flags.DurationVar(&f.idle, "session-idle", proxy.DefaultIdle, "after which time without a request a session ends")
}

// oneServer refuses a command line that names no MCP server, or two: a command after --, and --upstream.
func (u *upstreamFlags) oneServer(command []string) error {
	switch {
	case u.url == "" && len(command) == 0:
		return errors.New("there is no MCP server: write its command after --, or its URL with --upstream")
	case u.url != "" && len(command) > 0:
		return errors.New("--upstream is an MCP server that runs already: leave out the command after --")
	}
	return nil
}

// proxyOnly are the flags that mean nothing without --upstream, and stdioOnly those that mean nothing with it.
var (
	proxyOnly = []string{
		"listen", "resource", "issuers", "tls-cert", "tls-key", "allow-origin", "require-scope", "max-sessions", "max-person-sessions", "session-idle",
		"upstream-token-file", "plaintext",
	}
	stdioOnly = []string{"agent", "session", "delegation", "on-behalf-of", "tenant"}
)

// check refuses flags and arguments that do not go together. http says whether the guard serves over HTTP.
func (f *proxyFlags) check(cmd *cobra.Command, args []string) (http bool, err error) {
	changed := func(names []string) string {
		for _, name := range names {
			if cmd.Flags().Changed(name) {
				return name
			}
		}
		return ""
	}
	http = f.upstream.url != ""
	switch {
	case http && changed(stdioOnly) != "":
		return http, fmt.Errorf("--%s and --upstream exclude each other: over HTTP an agent's token says who acts", changed(stdioOnly))
	case !http && changed(proxyOnly) != "":
		return http, fmt.Errorf("--%s is for an MCP server over HTTP: name it with --upstream", changed(proxyOnly))
	}
	return http, f.upstream.oneServer(args)
}

// serve guards the server at --upstream until ctx is over. pass says whether Deputy can verify an agent's token itself.
func (f *proxyFlags) serve(ctx context.Context, cfg mcp.Config, decider mcp.Decider, pass bool) error {
	resource, err := url.Parse(f.resource)
	if err == nil {
		err = proxy.CheckResource(resource)
	}
	switch {
	case f.listen == "":
		return errors.New("--listen is missing: write the host and port on which the guard listens")
	case f.resource == "":
		return errors.New("--resource is missing: write the guard's URL as agents know it, such as https://mcp.example.com/files")
	case err != nil:
		return fmt.Errorf("--resource: %w", err)
	case f.issuers == "":
		return errors.New("--issuers is missing: name the file that says whose tokens are accepted, and how they name agents and people")
	case (f.tlsCert == "") != (f.tlsKey == ""):
		return errors.New("--tls-cert and --tls-key go together")
	case f.maxSessions < 1 || f.maxPersonSessions < 1 || f.idle <= 0:
		return errors.New("--max-sessions, --max-person-sessions and --session-idle must be positive")
	}
	for _, one := range f.scopes {
		if err := proxy.CheckScope(one); err != nil {
			return fmt.Errorf("--require-scope: %w", err)
		}
	}
	host, _, err := net.SplitHostPort(f.listen)
	if err != nil {
		return fmt.Errorf("--listen: %w", err)
	}
	if f.tlsCert == "" && !isLoopback(host) && !f.upstream.plaintext {
		return fmt.Errorf("--listen %s lets other machines in without TLS: add --tls-cert and --tls-key, or --plaintext where something in front of "+
			"the guard has TLS", f.listen)
	}
	up, err := f.upstream.open()
	if err != nil {
		return err
	}
	issuers, verify, closing, err := openIssuers(ctx, f.issuers, f.resource, cfg.Log)
	if err != nil {
		return fmt.Errorf("--issuers: %w", err)
	}
	defer closing()
	door := proxy.Config{
		Guard: cfg, Resource: resource, AuthorizationServers: issuers, Scopes: f.scopes, Verify: verify, Upstream: up, Origins: f.origins,
		MaxSessions: f.maxSessions, MaxPersonSessions: f.maxPersonSessions, Idle: f.idle,
		Ask: func(c proxy.Caller) mcp.Asker { return mcp.AskerOf(decider, questionOf(c, pass)) },
	}
	if f.tlsCert != "" {
		pair := &keyPair{cert: f.tlsCert, key: f.tlsKey, log: cfg.Log}
		if _, err := pair.get(nil); err != nil {
			return fmt.Errorf("cannot use --tls-cert %s with --tls-key %s: %w", f.tlsCert, f.tlsKey, err)
		}
		door.TLS = &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: pair.get}
	}
	p, err := proxy.New(door)
	if err != nil {
		return err
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", f.listen)
	if err != nil {
		return err
	}
	cfg.Log.Info("the guard listens", zap.String("addr", listener.Addr().String()), zap.String("resource", f.resource))
	return p.Serve(ctx, listener)
}

// questionOf is what all questions for a caller have in common. Where Deputy gets the token, it refuses one that does not say what the question does.
func questionOf(c proxy.Caller, pass bool) goclient.Question {
	q := goclient.Question{Agent: c.Agent, Tenant: c.Tenant}
	switch kind, id, _ := strings.Cut(c.Principal, ":"); kind {
	case authz.TypeUser:
		q.Principal = goclient.User(id)
	case authz.TypeService:
		q.Principal = goclient.Service(id)
	}
	if pass {
		q.ActorToken = c.Token
	}
	return q
}

// openIssuers reads a file of issuers, and returns their names and what verifies the tokens of agents that are for a resource.
func openIssuers(ctx context.Context, path, resource string, log *zap.Logger) (
	names []string, verify func(context.Context, string) (proxy.Caller, error), closing func(), err error,
) {
	fail := func(err error) ([]string, func(context.Context, string) (proxy.Caller, error), func(), error) {
		return nil, nil, nil, err
	}
	text, err := callersfile.Read(path)
	if err != nil {
		return fail(err)
	}
	content, err := callersfile.Decode(path, text)
	if err != nil {
		return fail(err)
	}
	var of []issuing.Issuer
	for _, one := range content.Actors {
		if !slices.Contains(one.Audiences, resource) {
			return fail(fmt.Errorf("the issuer %s makes no tokens for this guard: add its --resource %s to the audiences of its actors", one.Issuer, resource))
		}
		names = append(names, one.Issuer)
	}
	for _, one := range content.Issuers {
		if slices.Contains(names, one.Issuer) {
			of = append(of, one)
		}
	}
	if len(of) == 0 {
		return fail(fmt.Errorf("no issuer of %s has actors, so that no token would say which agent acts: add actors to one", path))
	}
	actors := slices.Clone(content.Actors)
	for i := range actors {
		actors[i].Audiences = nil // a token for something else that the file is for, too, is not for the guard
	}
	keys, err := issuing.Open(ctx, of, issuing.Options{Log: log})
	if err != nil {
		return fail(err)
	}
	verifier, err := actor.New(keys, actors)
	if err != nil {
		keys.Close()
		return fail(err)
	}
	return names, func(ctx context.Context, raw string) (proxy.Caller, error) {
		is, err := verifier.Verify(ctx, raw, []string{resource})
		if err != nil {
			return proxy.Caller{}, err
		}
		c := proxy.Caller{Issuer: is.Evidence.Issuer, Agent: is.AgentName, Tenant: is.TenantName, Scopes: strings.Split(is.Scope, " "), Ends: is.Ends}
		if is.PrincipalName != "" {
			c.Principal = is.Principal.Type + ":" + is.PrincipalName
		}
		return c, nil
	}, keys.Close, nil
}

// keyPair is a certificate and its key in files, which are read again from time to time.
type keyPair struct {
	cert, key string
	log       *zap.Logger

	mu   sync.Mutex
	pair *tls.Certificate
	at   time.Time
}

const (
	// pairAge is for how long a certificate is used that was read, and maxPair the length of each of its files.
	pairAge = 10 * time.Second
	maxPair = 1 << 20
)

// get returns the certificate: the last one that could be used, where the files cannot be now.
func (k *keyPair) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.pair != nil && time.Since(k.at) < pairAge {
		return k.pair, nil
	}
	k.at = time.Now()
	cert, err := smallfile.Read(k.cert, maxPair)
	var key []byte
	if err == nil {
		key, err = smallfile.Read(k.key, maxPair)
	}
	var pair tls.Certificate
	if err == nil {
		pair, err = tls.X509KeyPair(cert, key)
	}
	switch {
	case err == nil:
		k.pair = &pair
	case k.pair == nil:
		return nil, err
	default:
		k.log.Warn("the certificate cannot be read again; the last one is used", zap.Error(err))
	}
	return k.pair, nil
}
