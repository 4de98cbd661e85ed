package cli

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"time"

	authzed "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"google.golang.org/grpc"

	goclient "github.com/deputyauth/deputy/pkg/client"
	deputy "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// defaultEndpoint is where `deputy serve` listens unless it is told otherwise.
const defaultEndpoint = "127.0.0.1:50051"

// maxMessageBytes is the largest answer that a client takes: an exported batch of relationships with
// big caveat contexts is larger than gRPC's own 4 MiB.
const maxMessageBytes = 64 << 20

// connection holds the flags that every client command has, and opens what they describe.
//
// It speaks TLS unless the address can only be this machine, because `deputy serve` without a
// certificate listens there and nowhere else. So the two find each other without a flag, and a key
// never leaves the machine in the clear unless somebody wrote --insecure.
type connection struct {
	program *program
	// endpoint is the server's host and port.
	endpoint string
	// key and keyFile give the preshared key, one of them.
	key     secrets
	keyFile string
	// insecure, ca, cert and certKey say how the connection is secured; see dial.
	insecure      bool
	ca            string
	cert, certKey string
	// timeout bounds the whole command, all pages of a list included.
	timeout time.Duration
	// output is "text" or "json".
	output string
	// tls is how the connection is secured once it was dialled; nil is without TLS.
	tls *tls.Config
	// insecureUnsaid tells that nobody set --insecure, so that the endpoint decides.
	insecureUnsaid bool
	// flags are those that credentials has added to; nil before.
	flags *pflag.FlagSet
}

// client adds the client flags to a command and all below it, and returns what they fill. The flags are
// not the root's: `deputy serve --key` would mean nothing, and has to be an error.
func client(p *program, cmd *cobra.Command) *connection {
	c := &connection{program: p}
	c.register(cmd.PersistentFlags())
	return c
}

// register adds the client flags.
func (c *connection) register(flags *pflag.FlagSet) {
	outputVar(flags, &c.output, "json")
	c.connect(flags)
}

// connect adds the flags that say which server is asked, and how. Help has them on a page of their own, see newOptions.
func (c *connection) connect(flags *pflag.FlagSet) {
	own := pflag.NewFlagSet("", pflag.ContinueOnError)
	own.StringVar(&c.endpoint, "endpoint", defaultEndpoint, "host and port of the server")
	c.credentials(own)
	own.DurationVar(&c.timeout, "timeout", 30*time.Second, "how long to wait; imports and exports take their time unless it is set")
	own.VisitAll(func(f *pflag.Flag) {
		allowEnvOf(f)
		f.Annotations[connectionAnnotation] = nil
	})
	flags.AddFlagSet(own)
}

// connectionAnnotation marks the flags of connect.
const connectionAnnotation = "deputy-connection"

// isConnectionFlag reports whether a flag is one of connect's.
func isConnectionFlag(f *pflag.Flag) bool {
	_, marked := f.Annotations[connectionAnnotation]
	return marked
}

// credentials adds the flags that say with which key and how securely a connection is made.
func (c *connection) credentials(flags *pflag.FlagSet) {
	c.flags = flags
	flags.Var(&c.key, "key", "preshared key; better in the environment or a file, where ps does not show it")
	flags.StringVar(&c.keyFile, "key-file", "", "file with the preshared key")
	flags.BoolVar(&c.insecure, "insecure", false, "connect without TLS, as is done anyway on a loopback address without --ca or --cert")
	flags.StringVar(&c.ca, "ca", "", "PEM file with the certificate authorities to trust; the system's if left out")
	flags.StringVar(&c.cert, "cert", "", "PEM file with the client certificate to show; no key is needed then, and one that is given decides")
	flags.StringVar(&c.certKey, "cert-key", "", "PEM file with the client certificate's private key")
}

// server is an open connection with a stub for each service. Schema and relationships go through
// authzed.api.v1, which Deputy serves beside its own API. It is safe for concurrent use.
type server struct {
	permissions   deputy.PermissionsServiceClient
	sessions      deputy.SessionsServiceClient
	delegations   deputy.DelegationsServiceClient
	agents        deputy.AgentsServiceClient
	principals    deputy.PrincipalsServiceClient
	store         deputy.StoreServiceClient
	copies        deputy.CopyServiceClient
	retention     deputy.RetentionServiceClient
	schema        authzed.SchemaServiceClient
	relationships authzed.PermissionsServiceClient
	conn          grpc.ClientConnInterface
	client        *goclient.Client
}

// newServer prepares a connection, which shows no key where that is empty.
func newServer(endpoint, key string, opts ...goclient.Option) (*server, error) {
	opts = append(opts, goclient.WithDialOptions(grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessageBytes))))
	if key != "" {
		opts = append(opts, goclient.WithPresharedKey(key))
	}
	c, err := goclient.Dial(endpoint, opts...)
	if err != nil {
		return nil, err
	}
	return &server{
		permissions:   c.Permissions,
		sessions:      c.Sessions,
		delegations:   c.Delegations,
		agents:        c.Agents,
		principals:    c.Principals,
		store:         c.Store,
		copies:        c.Copies,
		retention:     c.Retention,
		schema:        authzed.NewSchemaServiceClient(c.Conn()),
		relationships: authzed.NewPermissionsServiceClient(c.Conn()),
		conn:          c.Conn(),
		client:        c,
	}, nil
}

// Close releases the connection.
func (s *server) Close() error { return s.client.Close() }

// clientCommand does the work of a client command. ctx ends after the timeout.
type clientCommand func(ctx context.Context, s *server, args []string) error

// run returns a cobra RunE that checks the flags, connects, and calls do.
func (c *connection) run(do clientCommand) func(*cobra.Command, []string) error {
	return c.runFor(do, true)
}

// runLong is like run, but the default timeout does not count: only one that was asked for.
func (c *connection) runLong(do clientCommand) func(*cobra.Command, []string) error {
	return c.runFor(do, false)
}

func (c *connection) runFor(do clientCommand, defaultTimeout bool) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		// A user who sets a timeout means it, for an import too.
		timeoutSaid := cmd.Flags().Changed("timeout")
		c.insecureUnsaid = !cmd.Flags().Changed("insecure")
		if c.timeout <= 0 {
			return errors.New("--timeout must be positive")
		}
		if err := checkIDs(cmd, args); err != nil {
			return err
		}
		s, err := c.dial()
		if err != nil {
			return err
		}
		defer func() { _ = s.Close() }()
		ctx := cmd.Context()
		if defaultTimeout || timeoutSaid {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, c.timeout)
			defer cancel()
		}
		return do(ctx, s, args)
	}
}

// dial checks the flags and prepares the connection. gRPC opens it with the first call, so a server
// that is not there is that call's UNAVAILABLE.
func (c *connection) dial() (*server, error) {
	key, err := oneKey("key", &c.key, c.keyFile)
	if err != nil {
		return nil, err
	}
	switch {
	case (c.cert == "") != (c.certKey == ""):
		given := "cert"
		if c.cert == "" {
			given = "cert-key"
		}
		return nil, fmt.Errorf("%s is given alone: --cert and --cert-key go together, the client certificate and its private key", origin(c.flags, given))
	case key == "" && c.cert == "":
		return nil, errors.New("--key is missing: set $DEPUTY_KEY, or name a file with --key-file, or a client certificate with --cert and --cert-key")
	}
	host, port, err := net.SplitHostPort(c.endpoint)
	if err != nil {
		return nil, fmt.Errorf("%s must be host:port, not %q", origin(c.flags, "endpoint"), c.endpoint)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return nil, fmt.Errorf("%s must end in a port from 1 to 65535, such as %s, and not in %q", origin(c.flags, "endpoint"), defaultEndpoint, port)
	}
	// Said is said, either way: --insecure=false speaks TLS to this machine, too.
	plain := c.insecure
	if c.insecureUnsaid {
		plain = c.ca == "" && c.cert == "" && isLoopback(host)
	}
	opts := []goclient.Option{goclient.WithDialOptions(
		grpc.WithUnaryInterceptor(c.explainUnary), grpc.WithStreamInterceptor(c.explainStream))}
	switch {
	case plain && c.ca != "":
		return nil, fmt.Errorf("%s and %s exclude each other: an authority has a part in TLS alone", origin(c.flags, "insecure"), origin(c.flags, "ca"))
	case plain && c.cert != "":
		return nil, fmt.Errorf("%s and %s exclude each other: a client certificate is shown by TLS", origin(c.flags, "insecure"), origin(c.flags, "cert"))
	case plain:
		opts = append(opts, goclient.WithInsecure())
	default:
		secured, err := c.secured(host)
		if err != nil {
			return nil, err
		}
		opts = append(opts, secured...)
	}
	s, err := newServer(c.endpoint, key, opts...)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", origin(c.flags, "endpoint"), err)
	}
	return s, nil
}

// secured returns how the client speaks TLS, and keeps the same for looking into why there is no connection.
func (c *connection) secured(host string) ([]goclient.Option, error) {
	pool, err := c.trusted()
	if err != nil {
		return nil, err
	}
	c.tls = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12, ServerName: host}
	if c.cert == "" {
		return []goclient.Option{goclient.WithTLS(c.tls)}, nil
	}
	pair, err := tls.LoadX509KeyPair(c.cert, c.certKey)
	if err != nil {
		return nil, fmt.Errorf("%s %s with %s %s: %w", origin(c.flags, "cert"), c.cert, origin(c.flags, "cert-key"), c.certKey, err)
	}
	c.tls.Certificates = []tls.Certificate{pair}
	opts := []goclient.Option{goclient.WithClientCertificate(c.cert, c.certKey)}
	if c.ca != "" {
		opts = append(opts, goclient.WithCAFile(c.ca))
	}
	return opts, nil
}

// trusted returns the certificate authorities of --ca, or nil for the system's.
func (c *connection) trusted() (*x509.CertPool, error) {
	if c.ca == "" {
		return nil, nil //nolint:nilnil // crypto/tls takes nil for the system's
	}
	pem, err := readNamed(origin(c.flags, "ca"), c.ca)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s: %s holds no PEM certificate", origin(c.flags, "ca"), c.ca)
	}
	return pool, nil
}

// isLoopback reports whether a host can only be this machine. "localhost" counts: RFC 6761 reserves
// it.
func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.Unmap().IsLoopback()
}
