package client_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	workload "github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/deputyauth/deputy/pkg/client"
	"github.com/deputyauth/deputy/pkg/daemon"
	"github.com/deputyauth/deputy/pkg/engine"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// recorder is a server that notes how it was called, and lets a call in by what the test says.
type recorder struct {
	deputyv1.UnimplementedAgentsServiceServer
	deputyv1.UnimplementedPermissionsServiceServer

	mu sync.Mutex
	// bearers are the authorization values that came, in order, deadlines until when the callers wait, and leaf the client's certificate.
	bearers   []string
	deadlines []time.Duration
	leaf      *x509.Certificate
	// admit is what every call has to pass, with what it brings; nil lets all in.
	admit func(bearer string) error
}

func (r *recorder) note(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	bearer := strings.Join(metadata.ValueFromIncomingContext(ctx, "authorization"), " & ")
	r.bearers = append(r.bearers, bearer)
	until := time.Duration(0)
	if deadline, set := ctx.Deadline(); set {
		until = time.Until(deadline)
	}
	r.deadlines = append(r.deadlines, until)
	if p, ok := peer.FromContext(ctx); ok {
		if info, ok := p.AuthInfo.(credentials.TLSInfo); ok && len(info.State.PeerCertificates) > 0 {
			r.leaf = info.State.PeerCertificates[0]
		}
	}
	if r.admit == nil {
		return nil
	}
	return r.admit(bearer)
}

// came returns the authorization values that came since the last time.
func (r *recorder) came() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	came := r.bearers
	r.bearers, r.deadlines = nil, nil
	return came
}

func (r *recorder) shown() *x509.Certificate {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.leaf
}

func (r *recorder) GetAgent(ctx context.Context, _ *deputyv1.GetAgentRequest) (*deputyv1.GetAgentResponse, error) {
	return &deputyv1.GetAgentResponse{}, r.note(ctx)
}

func (r *recorder) ResumeAgent(ctx context.Context, _ *deputyv1.ResumeAgentRequest) (*deputyv1.ResumeAgentResponse, error) {
	return &deputyv1.ResumeAgentResponse{}, r.note(ctx)
}

func (r *recorder) LookupResources(
	q *deputyv1.LookupResourcesRequest, s grpc.ServerStreamingServer[deputyv1.LookupResourcesResponse],
) error {
	if err := r.note(s.Context()); err != nil {
		return err
	}
	return errors.Join(
		s.Send(&deputyv1.LookupResourcesResponse{Result: &deputyv1.LookupResourcesResponse_Resource{Resource: &deputyv1.ReachedResource{
			Resource:       &deputyv1.ObjectReference{ObjectType: q.GetResourceObjectType(), ObjectId: "plan"},
			Permissionship: deputyv1.Permissionship_PERMISSIONSHIP_HAS_PERMISSION,
		}}}),
		s.Send(&deputyv1.LookupResourcesResponse{Result: &deputyv1.LookupResourcesResponse_End{End: &deputyv1.LookupEnd{Complete: true}}}),
	)
}

// serveOn serves the recorder and returns its address.
func serveOn(t *testing.T, r *recorder, network, address string, opts ...grpc.ServerOption) string {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), network, address)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(opts...)
	deputyv1.RegisterAgentsServiceServer(server, r)
	deputyv1.RegisterPermissionsServiceServer(server, r)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	return listener.Addr().String()
}

func dial(t *testing.T, target string, opts ...client.Option) *client.Client {
	t.Helper()
	c, err := client.Dial(target, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// call makes one call, and says how it ended.
func call(t *testing.T, c *client.Client) error {
	t.Helper()
	_, err := c.Agents.GetAgent(t.Context(), &deputyv1.GetAgentRequest{AgentId: "bot"})
	return err
}

// look makes one call that streams.
func look(t *testing.T, c *client.Client) error {
	t.Helper()
	_, err := c.LookupResources(client.ResourceQuery{Agent: "bot", Session: "s1", Type: "document", Permission: "view"}).Collect(t.Context())
	return err
}

func unauthenticated(string) error {
	return status.Error(codes.Unauthenticated, "a valid credential is required")
}

// only lets in those who bring one bearer token.
func only(token string) func(string) error {
	return func(bearer string) error {
		if bearer == "Bearer "+token {
			return nil
		}
		return unauthenticated(bearer)
	}
}

func TestDialRefuses(t *testing.T) {
	for name, test := range map[string]struct {
		target string
		opts   []client.Option
		want   string
	}{
		"nothing":           {"", nil, "the target is empty"},
		"a URL":             {"https://deputy.internal", nil, "write deputy.internal:50051"},
		"a URL with a port": {"grpcs://me:s3cret@deputy.internal:8443/path", nil, "write deputy.internal:8443"},
		"no port":           {"deputy.internal", nil, "is not host:port"},
		"a port by name":    {"deputy.internal:grpc", nil, "a number from 1 to 65535"},
		"the port 0":        {"localhost:0", nil, "a number from 1 to 65535"},
		"a large port":      {"localhost:70000", nil, "a number from 1 to 65535"},
		"no host":           {":50051", nil, "write localhost:50051"},
		"no socket":         {"unix:", nil, "no Unix socket"},
		"an empty key":      {"localhost:1", []client.Option{client.WithPresharedKey("")}, "is empty"},
		"a key of a file":   {"localhost:1", []client.Option{client.WithPresharedKey("s3cret\n")}, "cannot carry"},
		"two keys":          {"localhost:1", []client.Option{client.WithPresharedKey("s3cret"), client.WithPresharedKey("t")}, "one credential"},
		"no key file":       {"localhost:1", []client.Option{client.WithKeyFile(filepath.Join(t.TempDir(), "none"))}, "no such file"},
		"no source":         {"localhost:1", []client.Option{client.WithTokenSource(nil)}, "no source"},
		"two words about TLS": {
			"localhost:1", []client.Option{client.WithInsecure(), client.WithTLS(&tls.Config{MinVersion: tls.VersionTLS13})}, "exclude each other",
		},
		"SPIFFE and an authority": {
			"localhost:1", []client.Option{client.WithCAFile("ca.pem"), client.WithSPIFFE("spiffe://example.org/deputy", nil)}, "exclude each other",
		},
		"SPIFFE without an id":     {"localhost:1", []client.Option{client.WithSPIFFE("deputy", nil)}, "no SPIFFE id"},
		"SPIFFE without a source":  {"localhost:1", []client.Option{client.WithSPIFFE("spiffe://example.org/deputy", nil)}, "no source"},
		"no authority's file":      {"localhost:1", []client.Option{client.WithCAFile(filepath.Join(t.TempDir(), "none"))}, "no such file"},
		"a certificate without":    {"localhost:1", []client.Option{client.WithClientCertificate("", "")}, "client certificate"},
		"a timeout of no time":     {"localhost:1", []client.Option{client.WithTimeout(0)}, "has to be positive"},
		"a token source and a key": {"localhost:1", []client.Option{client.WithPresharedKey("s3cret"), client.WithTokenSource(nil)}, "one credential"},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := client.Dial(test.target, test.opts...)
			if err == nil {
				_ = c.Close()
				t.Fatal("no error")
			}
			if !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "s3cret") {
				t.Errorf("%v, want %q and no key", err, test.want)
			}
		})
	}
}

// To this machine a key goes in the clear without a word, to no other: neither by default, nor where gRPC is told to.
func TestKeysStayOnThisMachine(t *testing.T) {
	r := &recorder{}
	port := serveOn(t, r, "tcp", "127.0.0.1:0")
	_, number, _ := strings.Cut(port, ":")
	socket := filepath.Join(t.TempDir(), "deputy.sock")
	serveOn(t, r, "unix", socket)
	for _, target := range []string{port, "localhost:" + number, "dns:///127.0.0.1:" + number, "passthrough:///" + port, "unix:" + socket} {
		if err := call(t, dial(t, target, client.WithPresharedKey("s3cret"))); err != nil {
			t.Errorf("%s: %v", target, err)
		}
		if came := r.came(); len(came) != 1 || came[0] != "Bearer s3cret" {
			t.Errorf("%s: %q came", target, came)
		}
	}
	// All these go to the same server, whatever they are called.
	to := grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", port)
	})
	for name, opts := range map[string][]client.Option{
		"by default": nil,
		"with TLS":   {client.WithTLS(nil)},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		c := dial(t, "passthrough:///deputy.internal:50051", append(opts, client.WithPresharedKey("s3cret"), client.WithDialOptions(to))...)
		if _, err := c.Agents.GetAgent(ctx, &deputyv1.GetAgentRequest{}); status.Code(err) != codes.Unavailable {
			t.Errorf("%s, to a server without TLS: %v", name, err)
		}
		cancel()
	}
	inClear := client.WithDialOptions(to, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if c, err := client.Dial("passthrough:///deputy.internal:50051", client.WithPresharedKey("s3cret"), inClear); err == nil {
		_ = c.Close()
		t.Error("gRPC was told to send the key in the clear, and would")
	}
	if came := r.came(); came != nil {
		t.Fatalf("%q came in the clear", came)
	}
	c := dial(t, "passthrough:///deputy.internal:50051", client.WithPresharedKey("s3cret"), client.WithInsecure(), client.WithDialOptions(to))
	if err := call(t, c); err != nil {
		t.Errorf("WithInsecure: %v", err)
	}
	if came := r.came(); len(came) != 1 {
		t.Errorf("WithInsecure: %q came", came)
	}
}

// A key that rotates is read again when the server does not know it any more, and the call is made again: one whose key changes while it
// runs sees no failure.
func TestKeyFileRotates(t *testing.T) {
	r := &recorder{admit: only("first-key")}
	addr := serveOn(t, r, "tcp", "127.0.0.1:0")
	file := filepath.Join(t.TempDir(), "key")
	write(t, file, "first-key\n")
	c := dial(t, addr, client.WithKeyFile(file))
	if err := call(t, c); err != nil {
		t.Fatal(err)
	}
	rotate := func(to string) {
		r.mu.Lock()
		r.admit = only(to)
		r.mu.Unlock()
	}

	// Replaced as Kubernetes does it: by a link that leads elsewhere.
	write(t, file+"-2", "second-key")
	if err := errors.Join(os.Remove(file), os.Symlink(file+"-2", file)); err != nil {
		t.Fatal(err)
	}
	rotate("second-key")
	if err := call(t, c); err != nil {
		t.Errorf("a rotated key: %v", err)
	}
	write(t, file, "third-key")
	rotate("third-key")
	if err := look(t, c); err != nil {
		t.Errorf("a rotated key of a stream: %v", err)
	}
	// A call that changes something is made again, too: one that is not authenticated has done nothing.
	write(t, file, "fourth-key")
	rotate("fourth-key")
	if _, err := c.ResumeAgent(t.Context(), "bot"); err != nil {
		t.Errorf("a rotated key of a write: %v", err)
	}

	// Half a file, and none: the key stays, and works.
	for name, broken := range map[string]func(){
		"an empty file": func() { write(t, file, "") },
		"two lines":     func() { write(t, file, "fourth-key\nfifth-key") },
		"no file":       func() { _ = os.Remove(file) },
	} {
		broken()
		r.came()
		if err := call(t, c); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A key that is no longer good, and none to follow: once and no more, with what is wrong with the file.
	_ = os.Remove(file)
	rotate("fifth-key")
	r.came()
	err := call(t, c)
	if status.Code(err) != codes.Unauthenticated || !strings.Contains(err.Error(), "no such file") || strings.Contains(err.Error(), "fourth-key") {
		t.Errorf("a key that is no longer good: %v", err)
	}
	write(t, file, "fourth-key")
	if err := look(t, c); status.Code(err) != codes.Unauthenticated {
		t.Errorf("a key that is no longer good, of a stream: %v", err)
	}
	if came := r.came(); len(came) != 2 {
		t.Errorf("the server was asked with %q, want each once", came)
	}
	write(t, file, "fifth-key")
	if err := call(t, c); err != nil {
		t.Errorf("once the file is there again: %v", err)
	}
	// Neither the key of the file nor the one that worked last is good: once each, and no more.
	write(t, file, "sixth-key")
	rotate("seventh-key")
	r.came()
	if err := call(t, c); status.Code(err) != codes.Unauthenticated {
		t.Errorf("no key is good: %v", err)
	}
	if came := r.came(); len(came) != 2 || came[0] == came[1] {
		t.Errorf("the server was asked with %q, want two keys, each once", came)
	}
}

// A key file that changes is read within a second, also while the server takes the old key. A new key that the server does not know yet costs
// no call: the old one is sent, until the new one works.
func TestKeyFileIsLookedAt(t *testing.T) {
	for name, ask := range map[string]func(*client.Client) error{
		"a question": func(c *client.Client) error { return call(t, c) },
		"a stream":   func(c *client.Client) error { return look(t, c) },
		"a write":    func(c *client.Client) error { _, err := c.ResumeAgent(t.Context(), "bot"); return err },
	} {
		r := &recorder{admit: only("first-key")}
		file := filepath.Join(t.TempDir(), "key")
		write(t, file, "first-key")
		c := dial(t, serveOn(t, r, "tcp", "127.0.0.1:0"), client.WithKeyFile(file))
		// until asks until the server was asked in this way.
		until := func(want string) {
			t.Helper()
			for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); {
				if err := ask(c); err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				if strings.Join(r.came(), " ") == want {
					return
				}
			}
			t.Errorf("%s: the server was never asked with %s", name, want)
		}
		until("Bearer first-key")
		write(t, file, "second-key")
		until("Bearer second-key Bearer first-key")
		until("Bearer first-key")
		r.mu.Lock()
		r.admit = nil // both are good
		r.mu.Unlock()
		until("Bearer second-key")
		// It is the one that works from now on.
		r.mu.Lock()
		r.admit = only("second-key")
		r.mu.Unlock()
		for range 10 {
			if err := ask(c); err != nil {
				t.Errorf("%s with the new key: %v", name, err)
			}
		}
		if came := strings.Join(r.came(), " "); strings.Contains(came, "first") {
			t.Errorf("%s: the server was asked with %s, want the second key alone", name, came)
		}
	}
}

func TestTokenSource(t *testing.T) {
	r := &recorder{admit: only("a.b.2")}
	tokens := make(chan string, 9)
	var failed atomic.Pointer[error]
	c := dial(t, serveOn(t, r, "tcp", "127.0.0.1:0"), client.WithTokenSource(func(context.Context) (string, error) {
		if err := failed.Load(); err != nil {
			return "", *err
		}
		return <-tokens, nil
	}))
	tokens <- "a.b.1"
	tokens <- "a.b.2"
	if err := call(t, c); err != nil {
		t.Errorf("a token that ran out: %v", err)
	}
	if came := r.came(); strings.Join(came, " ") != "Bearer a.b.1 Bearer a.b.2" {
		t.Errorf("%q came", came)
	}
	tokens <- "a.b.1"
	tokens <- "a.b.1"
	if err := call(t, c); status.Code(err) != codes.Unauthenticated {
		t.Errorf("a source that knows no other: %v", err)
	}
	if came := r.came(); len(came) != 1 {
		t.Errorf("one token was tried %d times", len(came))
	}
	tokens <- "a.b\n.1"
	if err := call(t, c); err == nil || !strings.Contains(err.Error(), "cannot carry") || strings.Contains(err.Error(), "a.b") {
		t.Errorf("a token that is none: %v", err)
	}
	down := errors.New("the issuer is down")
	failed.Store(&down)
	if err := call(t, c); !errors.Is(err, down) {
		t.Errorf("a source that fails: %v", err)
	}
	if came := r.came(); came != nil {
		t.Errorf("%q came without a token", came)
	}
}

// What reads is made again where the server does not answer, what widens is not. A call without a deadline gets one.
func TestRetriesAndDeadlines(t *testing.T) {
	r := &recorder{}
	c := dial(t, serveOn(t, r, "tcp", "127.0.0.1:0"), client.WithPresharedKey("s3cret"), client.WithTimeout(7*time.Second))
	twice := func() {
		left := 2
		r.admit = func(string) error {
			if left--; left >= 0 {
				return status.Error(codes.Unavailable, "the engine does not answer")
			}
			return nil
		}
	}
	twice()
	if err := call(t, c); err != nil {
		t.Errorf("a read: %v", err)
	}
	if got := r.deadlines; len(got) != 3 || got[0] > 7*time.Second || got[0] < time.Second {
		t.Errorf("a read was made with the deadlines %v", got)
	}
	r.came()
	twice()
	if err := look(t, c); err != nil {
		t.Errorf("a stream: %v", err)
	}
	r.came()
	twice()
	if _, err := c.ResumeAgent(t.Context(), "bot"); status.Code(err) != codes.Unavailable {
		t.Errorf("a write: %v", err)
	}
	if came := r.came(); len(came) != 1 {
		t.Errorf("a write was made %d times", len(came))
	}
}

// pki is a certificate authority.
type pki struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newPKI(t *testing.T) *pki {
	t.Helper()
	p := &pki{t: t}
	p.key = must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		URIs: []*url.URL{{Scheme: "spiffe", Host: "example.org"}},
	}
	p.cert = must(x509.ParseCertificate(must(x509.CreateCertificate(rand.Reader, template, template, p.key.Public(), p.key))))
	return p
}

func (p *pki) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(p.cert)
	return pool
}

// issue makes a certificate for a name, or for a SPIFFE id.
func (p *pki) issue(name string) *tls.Certificate {
	p.t.Helper()
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	if id, err := url.Parse(name); err == nil && id.Scheme == "spiffe" {
		template.URIs = []*url.URL{id}
	} else {
		template.DNSNames = []string{name}
	}
	der := must(x509.CreateCertificate(rand.Reader, template, p.cert, key.Public(), p.key))
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: must(x509.ParseCertificate(der))}
}

// files writes a certificate and its key.
func files(t *testing.T, c *tls.Certificate, cert, key string) {
	t.Helper()
	write(t, cert, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]})))
	write(t, key, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: must(x509.MarshalPKCS8PrivateKey(c.PrivateKey))})))
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// A daemon that speaks TLS is believed by its authority, and by no other.
func TestTLSToADaemon(t *testing.T) {
	ours, other := newPKI(t), newPKI(t)
	dir := t.TempDir()
	cert, key, ca := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"), filepath.Join(dir, "ca.pem")
	files(t, ours.issue("localhost"), cert, key)
	server, err := daemon.Open(t.Context(), daemon.Config{
		AdminPresharedKeys: []string{"key-of-the-admin"}, TLSCertPath: cert, TLSKeyPath: key, Engine: engine.Config{Kind: engine.Memory},
	}, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	serving, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Serve(serving) }()
	t.Cleanup(func() {
		stop()
		if err := errors.Join(<-done, server.Close()); err != nil {
			t.Error(err)
		}
	})
	lists := func(opts ...client.Option) error {
		c := dial(t, server.Addr().String(), append(opts, client.WithPresharedKey("key-of-the-admin"))...)
		defer func() { _ = c.Close() }()
		_, err := c.ListSessions(client.SessionQuery{Agent: "bot"}).Collect(t.Context())
		return err
	}
	write(t, ca, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: other.cert.Raw})))
	for name, opts := range map[string][]client.Option{
		"another authority": {client.WithCAFile(ca)}, "the system's authorities": {client.WithTLS(nil)}, "no TLS": nil,
	} {
		if err := lists(opts...); status.Code(err) != codes.Unavailable {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A connection that is made later trusts what the file holds by then.
	c := dial(t, server.Addr().String(), client.WithCAFile(ca), client.WithPresharedKey("key-of-the-admin"))
	if err := call(t, c); status.Code(err) != codes.Unavailable {
		t.Errorf("before the file changes: %v", err)
	}
	write(t, ca, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ours.cert.Raw})))
	_, err = c.Agents.GetAgent(t.Context(), &deputyv1.GetAgentRequest{AgentId: "bot"}, grpc.WaitForReady(true))
	if client.ReasonOf(err) != client.ReasonCoreSchemaDiffers && client.ReasonOf(err) != client.ReasonAgentNotFound {
		t.Errorf("once the file holds the authority: %v", err)
	}
	if err := lists(client.WithTLS(&tls.Config{RootCAs: ours.pool(), MinVersion: tls.VersionTLS13})); status.Code(err) == codes.Unavailable {
		t.Errorf("a TLS configuration: %v", err)
	}
}

// mutual serves with client certificates.
func mutual(t *testing.T, r *recorder, server *tls.Certificate, clients *x509.CertPool) (addr string) {
	t.Helper()
	return serveOn(t, r, "tcp", "127.0.0.1:0", grpc.Creds(credentials.NewTLS(&tls.Config{
		Certificates: []tls.Certificate{*server}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: clients, MinVersion: tls.VersionTLS13,
	})))
}

// Each connection shows the certificate that the files hold by then, and the one before while they are half written.
func TestClientCertificateRotates(t *testing.T) {
	p := newPKI(t)
	dir := t.TempDir()
	cert, key, ca := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"), filepath.Join(dir, "ca.pem")
	write(t, ca, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.cert.Raw})))
	first, second := p.issue("first.example.org"), p.issue("second.example.org")
	files(t, first, cert, key)
	r := &recorder{}
	addr := mutual(t, r, p.issue("localhost"), p.pool())
	shows := func(c *client.Client, want string) {
		t.Helper()
		if err := call(t, c); err != nil {
			t.Errorf("the certificate of %s: %v", want, err)
		} else if got := r.shown().DNSNames[0]; got != want {
			t.Errorf("shown is the certificate of %s, want that of %s", got, want)
		}
	}
	// Each call over a connection of its own: the last one is cut.
	var conns []net.Conn
	c := dial(t, addr, client.WithCAFile(ca), client.WithClientCertificate(cert, key), client.WithDialOptions(
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
			conns = append(conns, conn)
			return conn, err
		})))
	again := func() {
		t.Helper()
		for _, conn := range conns {
			_ = conn.Close()
		}
		conns = nil
	}
	shows(c, "first.example.org")
	files(t, second, cert, filepath.Join(dir, "key-of-the-second.pem")) // its key is not there yet
	again()
	shows(c, "first.example.org")
	if err := os.Rename(filepath.Join(dir, "key-of-the-second.pem"), key); err != nil {
		t.Fatal(err)
	}
	again()
	shows(c, "second.example.org")
	bare := dial(t, addr, client.WithCAFile(ca))
	if err := call(t, bare); status.Code(err) != codes.Unavailable {
		t.Errorf("without a certificate: %v", err)
	}
}

// svids is a source of SVIDs in memory.
type svids struct {
	mine   *tls.Certificate
	domain spiffeid.TrustDomain
	trust  *x509.Certificate
}

func (s *svids) GetX509SVID() (*x509svid.SVID, error) {
	return &x509svid.SVID{
		ID: spiffeid.RequireFromURI(s.mine.Leaf.URIs[0]), Certificates: []*x509.Certificate{s.mine.Leaf},
		PrivateKey: s.mine.PrivateKey.(*ecdsa.PrivateKey),
	}, nil
}

func (s *svids) GetX509BundleForTrustDomain(spiffeid.TrustDomain) (*x509bundle.Bundle, error) {
	return x509bundle.FromX509Authorities(s.domain, []*x509.Certificate{s.trust}), nil
}

const billing, deputy = "spiffe://example.org/billing", "spiffe://example.org/deputy"

func TestSPIFFE(t *testing.T) {
	p := newPKI(t)
	r := &recorder{}
	addr := mutual(t, r, p.issue(deputy), p.pool())
	source := &svids{mine: p.issue(billing), domain: spiffeid.RequireTrustDomainFromString("example.org"), trust: p.cert}
	api := workloadAPI(t, p, p.issue(billing))
	for name, by := range map[string]func(server string) client.Option{
		"a source":         func(server string) client.Option { return client.WithSPIFFE(server, source) },
		"the Workload API": func(server string) client.Option { return client.WithWorkloadAPI(server, api) },
	} {
		t.Run(name, func(t *testing.T) {
			if err := call(t, dial(t, addr, by(deputy))); err != nil {
				t.Fatal(err)
			}
			if shown := r.shown(); len(shown.URIs) != 1 || shown.URIs[0].String() != billing {
				t.Errorf("shown is %v", shown.URIs)
			}
			if err := call(t, dial(t, addr, by("spiffe://example.org/imposter"))); status.Code(err) != codes.Unavailable {
				t.Errorf("a server of another id: %v", err)
			}
		})
	}
	// A server whose certificate is good, and no SVID of the trust domain.
	addr = mutual(t, r, newPKI(t).issue(deputy), p.pool())
	if err := call(t, dial(t, addr, client.WithSPIFFE(deputy, source))); status.Code(err) != codes.Unavailable {
		t.Errorf("a server of another authority: %v", err)
	}
}

// agent is a SPIFFE agent with one SVID.
type agent struct {
	workload.UnimplementedSpiffeWorkloadAPIServer
	answer *workload.X509SVIDResponse
}

func (a *agent) FetchX509SVID(_ *workload.X509SVIDRequest, s workload.SpiffeWorkloadAPI_FetchX509SVIDServer) error {
	if err := s.Send(a.answer); err != nil {
		return err
	}
	<-s.Context().Done()
	return nil
}

// workloadAPI serves an SVID over a Unix socket, and returns its address.
func workloadAPI(t *testing.T, p *pki, c *tls.Certificate) string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "agent.sock")
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	workload.RegisterSpiffeWorkloadAPIServer(server, &agent{answer: &workload.X509SVIDResponse{Svids: []*workload.X509SVID{{
		SpiffeId: c.Leaf.URIs[0].String(), X509Svid: c.Certificate[0], X509SvidKey: must(x509.MarshalPKCS8PrivateKey(c.PrivateKey)),
		Bundle: p.cert.Raw,
	}}}})
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	return "unix://" + socket
}
