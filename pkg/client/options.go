package client

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc"
	_ "google.golang.org/grpc/health" // with which gRPC asks for the health of servers
	"google.golang.org/grpc/keepalive"
)

const (
	// maxAnswer is the largest answer that is taken, in bytes: that of a bulk check of 1,000 questions, which
	// are repeated in it, is larger than gRPC's own 4 MiB where their ids and contexts are long.
	maxAnswer = 32 << 20
	// defaultTimeout is how long a call waits whose context has no deadline.
	defaultTimeout = 10 * time.Second
	// pingTime and pongTime are after how long of silence a server is asked whether it is there, while a call is under way, and how long it has to
	// say so.
	pingTime, pongTime = 30 * time.Second, 20 * time.Second
	// workloadTime is how long Dial waits for the Workload API.
	workloadTime = 10 * time.Second
)

// Option sets up a connection.
type Option func(*settings)

// settings is what the options say.
type settings struct {
	// tokens are the options that say what proves who calls: one at most.
	tokens []func() (tokens, error)
	// plaintext is WithInsecure, and secure are the options that say how TLS is done.
	plaintext bool
	secure    []string
	tls       *tls.Config
	// caFile, pair (a certificate's file and its key's) and spiffe are nil where nothing is said of them.
	caFile  *string
	pair    []string
	spiffe  *spiffe
	timeout time.Duration
	// balanced is WithBalancing, and once WithoutRetries.
	balanced, once bool
	more           []grpc.DialOption
	closers        []func() error
}

// WithPresharedKey sends the key with every call.
func WithPresharedKey(key string) Option {
	return withTokens(func() (tokens, error) {
		if err := checkKey(key); err != nil {
			return nil, fmt.Errorf("the preshared key %w", err)
		}
		return fixedKey(key), nil
	})
}

// WithKeyFile sends the preshared key that stands in a file, alone in it, with every call. The file is read again when it changes: within a
// second, and at once where the server does not know the key, in which case the call is made once more with the new one. Where the server does
// not know the new one yet, the call is made once more with the key that worked last, which is sent until the new one works. A file that cannot
// be read, or holds no key, leaves the key as it was; Dial needs one that does.
func WithKeyFile(path string) Option {
	return withTokens(func() (tokens, error) {
		file, err := openFiles(readKey, path)
		if err != nil {
			return nil, fmt.Errorf("the key file: %w", err)
		}
		return &keyFile{file: file}, nil
	})
}

// WithTokenSource asks source for a bearer token for every call, such as a JWT of one of the server's issuers. The source keeps its token by
// itself for as long as it is good, and is safe for concurrent use. An error of it is the call's. Where the server does not take the token, it
// is asked once more, and the call is made again if the token is another one.
func WithTokenSource(source func(ctx context.Context) (string, error)) Option {
	return withTokens(func() (tokens, error) {
		if source == nil {
			return nil, errors.New("WithTokenSource has no source")
		}
		return tokenSource(source), nil
	})
}

func withTokens(open func() (tokens, error)) Option {
	return func(s *settings) { s.tokens = append(s.tokens, open) }
}

// WithTLS connects by TLS with this configuration, which is not to be changed afterwards; nil is the default one, also to this machine.
func WithTLS(config *tls.Config) Option {
	return func(s *settings) { s.secure, s.tls = append(s.secure, "WithTLS"), config }
}

// WithCAFile connects by TLS and trusts the certificate authorities in a PEM file, and not the system's. Each new connection trusts those
// that the file then holds.
func WithCAFile(path string) Option {
	return func(s *settings) { s.secure, s.caFile = append(s.secure, "WithCAFile"), &path }
}

// WithClientCertificate connects by TLS and shows the certificate in a PEM file, whose private key is in another one. Each new connection
// shows the one that the files then hold, or the one before while they do not fit together.
func WithClientCertificate(certFile, keyFile string) Option {
	return func(s *settings) {
		s.secure, s.pair = append(s.secure, "WithClientCertificate"), []string{certFile, keyFile}
	}
}

// WithSPIFFE connects by mutual TLS with the X.509 SVID and the bundles of a source, and only to a server whose SPIFFE id is server, such as
// "spiffe://example.org/deputy". A *workloadapi.X509Source is a source; it stays the program's to close.
func WithSPIFFE(server string, source SPIFFESource) Option {
	return func(s *settings) {
		s.secure, s.spiffe = append(s.secure, "WithSPIFFE"), &spiffe{server: server, source: source}
	}
}

// WithWorkloadAPI is WithSPIFFE with the source at the address of a SPIFFE Workload API, such as "unix:///run/spire/agent.sock". An empty
// address is that of the environment variable SPIFFE_ENDPOINT_SOCKET. Dial waits up to 10 s for the first SVID.
func WithWorkloadAPI(server, address string) Option {
	return func(s *settings) {
		s.secure, s.spiffe = append(s.secure, "WithWorkloadAPI"), &spiffe{server: server, api: &address}
	}
}

// WithInsecure connects without TLS, wherever the server is, and sends the key or token in the clear. It is for a network that encrypts by
// itself.
func WithInsecure() Option {
	return func(s *settings) { s.plaintext = true }
}

// WithTimeout is how long a call of deputy.v1 waits whose context has no deadline, 10 s without this option. It has to be positive. It does not
// count for streams, nor for Compact.
func WithTimeout(d time.Duration) Option {
	return func(s *settings) { s.timeout = d }
}

// WithBalancing spreads calls over all addresses that the name of the target resolves to, and sends none to a server that says by
// grpc.health.v1 that it takes no calls: one whose engine does not answer, or that is about to stop. Without it, calls go to the first address
// that answers. A server of a version without the health name deputy.calls is sent no calls.
func WithBalancing() Option {
	return func(s *settings) { s.balanced = true }
}

// WithoutRetries makes every call once, whatever comes of it.
func WithoutRetries() Option {
	return func(s *settings) { s.once = true }
}

// WithDialOptions passes options on to gRPC: interceptors, keepalive, a service config.
func WithDialOptions(opts ...grpc.DialOption) Option {
	return func(s *settings) { s.more = append(s.more, opts...) }
}

// dialOptions turns the settings into gRPC's. local says that the server can only be on this machine.
func (s *settings) dialOptions(local bool) ([]grpc.DialOption, error) {
	if s.timeout <= 0 {
		return nil, fmt.Errorf("the timeout is %v, and has to be positive", s.timeout)
	}
	if err := s.checkSecure(); err != nil {
		return nil, err
	}
	plain := s.plaintext || local && len(s.secure) == 0
	transport, err := s.transport(plain)
	if err != nil {
		return nil, err
	}
	opts := []grpc.DialOption{
		grpc.WithTransportCredentials(transport),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer)),
		grpc.WithDefaultServiceConfig(serviceConfig(s.balanced)),
		grpc.WithDisableServiceConfig(), // else a record in DNS says what is made again
		grpc.WithChainUnaryInterceptor(timed(s.timeout)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: pingTime, Timeout: pongTime}),
	}
	if s.once {
		opts = append(opts, grpc.WithDisableRetry())
	}
	if len(s.tokens) > 1 {
		return nil, errors.New("a call carries one credential: give one of WithPresharedKey, WithKeyFile and WithTokenSource")
	}
	for _, open := range s.tokens {
		source, err := open()
		if err != nil {
			return nil, err
		}
		b := bearer{source: source, plain: plain}
		opts = append(opts, grpc.WithPerRPCCredentials(b), grpc.WithChainUnaryInterceptor(b.unary), grpc.WithChainStreamInterceptor(b.stream))
	}
	return append(opts, s.more...), nil
}

// checkSecure refuses options that say different things about how the connection is secured.
func (s *settings) checkSecure() error {
	named := slices.Compact(slices.Sorted(slices.Values(s.secure)))
	files := !slices.ContainsFunc(named, func(option string) bool { return option != "WithCAFile" && option != "WithClientCertificate" })
	switch {
	case s.plaintext && len(named) > 0:
		return fmt.Errorf("WithInsecure and %s exclude each other", named[0])
	case len(named) > 1 && !files:
		return fmt.Errorf("%s exclude each other", strings.Join(named, " and "))
	}
	return nil
}

func (s *settings) close() error { return closeAll(s.closers) }

// closeAll closes, the last first.
func closeAll(closers []func() error) error {
	var failed error
	for _, c := range slices.Backward(closers) {
		failed = errors.Join(failed, c())
	}
	return failed
}

// openWorkloadAPI opens a source of SVIDs.
func (s *settings) openWorkloadAPI(address string) (SPIFFESource, error) {
	ctx, cancel := context.WithTimeout(context.Background(), workloadTime)
	defer cancel()
	var opts []workloadapi.X509SourceOption
	if address != "" {
		opts = append(opts, workloadapi.WithClientOptions(workloadapi.WithAddr(address)))
	}
	source, err := workloadapi.NewX509Source(ctx, opts...)
	if err != nil {
		return nil, fmt.Errorf("the SPIFFE Workload API gives no SVID: %w", err)
	}
	s.closers = append(s.closers, source.Close)
	return source, nil
}
