package daemon_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/deputyauth/deputy/pkg/caller"
	"github.com/deputyauth/deputy/pkg/daemon"
	"github.com/deputyauth/deputy/pkg/engine"
	"github.com/deputyauth/deputy/tests/harness"
)

// workloadAPI is the SPIFFE Workload API over a Unix socket, as an agent of SPIRE serves it: the wire is go-spiffe's, and what it says is the
// test's. It is safe for concurrent use.
type workloadAPI struct {
	workload.UnimplementedSpiffeWorkloadAPIServer
	addr string

	mu      sync.Mutex
	says    *workload.X509SVIDResponse
	changed chan struct{}
}

// startWorkloadAPI serves one that knows nobody.
func startWorkloadAPI(t *testing.T) (api *workloadAPI, stop func()) {
	t.Helper()
	dir, err := os.MkdirTemp("", "spiffe-") //nolint:usetesting // t.TempDir is too long for the path of a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := filepath.Join(dir, "api.sock")
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	api = &workloadAPI{addr: "unix://" + socket, changed: make(chan struct{})}
	server := grpc.NewServer()
	workload.RegisterSpiffeWorkloadAPIServer(server, api)
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	stop = sync.OnceFunc(func() {
		server.Stop()
		<-done
	})
	t.Cleanup(stop)
	return api, stop
}

// say has the API give a server its certificate, with the authorities of its trust domain, which come first, and of others.
func (w *workloadAPI) say(t *testing.T, id string, own tls.Certificate, domains map[string][]*harness.Authority) {
	t.Helper()
	key, err := x509.MarshalPKCS8PrivateKey(own.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	domain := spiffeid.RequireFromString(id).TrustDomain().Name()
	says := &workload.X509SVIDResponse{FederatedBundles: map[string][]byte{}}
	for name, authorities := range domains {
		var bundle []byte
		for _, a := range authorities {
			bundle = append(bundle, a.Certificate.Raw...)
		}
		if name == domain {
			says.Svids = []*workload.X509SVID{{SpiffeId: id, X509Svid: own.Leaf.Raw, X509SvidKey: key, Bundle: bundle}}
			continue
		}
		says.FederatedBundles["spiffe://"+name] = bundle
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.says = says
	close(w.changed)
	w.changed = make(chan struct{})
}

// FetchX509SVID is the Workload API's.
func (w *workloadAPI) FetchX509SVID(_ *workload.X509SVIDRequest, stream grpc.ServerStreamingServer[workload.X509SVIDResponse]) error {
	if md, _ := metadata.FromIncomingContext(stream.Context()); len(md.Get("workload.spiffe.io")) == 0 {
		return status.Error(codes.InvalidArgument, "the security header is missing")
	}
	for {
		w.mu.Lock()
		says, changed := w.says, w.changed
		w.mu.Unlock()
		if says == nil {
			return status.Error(codes.PermissionDenied, "no identity issued")
		}
		if err := stream.Send(says); err != nil {
			return err
		}
		select {
		case <-changed:
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}

const deputyID = "spiffe://example.org/deputy"

// TestWorkloadAPI: the Workload API gives the server its certificate, and the authorities of the trust domains that are stated, and of no
// others; what it changes counts at once, on open connections too.
func TestWorkloadAPI(t *testing.T) {
	api, stop := startWorkloadAPI(t)
	home, next, other, third := harness.NewAuthority(t, "home"), harness.NewAuthority(t, "next"), harness.NewAuthority(t, "other"), harness.NewAuthority(t, "third")
	names := harness.NewAuthority(t, "names")
	issue := func(by *harness.Authority, id string) tls.Certificate {
		return by.Issue(t, harness.ForURI(id), func(c *x509.Certificate) { c.IPAddresses = nil })
	}
	say := func(own *harness.Authority, domains map[string][]*harness.Authority) {
		t.Helper()
		api.say(t, deputyID, issue(own, deputyID), domains)
	}
	all := map[string][]*harness.Authority{"example.org": {home}, "other.example": {other}, "third.example": {third}}
	say(home, all)
	m := startMutual(t, func(cfg *daemon.Config) {
		ca := filepath.Join(t.TempDir(), "names.pem")
		harness.WriteAuthorities(t, ca, names)
		cfg.TLSCertPath, cfg.TLSKeyPath, cfg.TLSClientCAPath = "", "", ca
		cfg.SPIFFETrustDomains, cfg.SPIFFEWorkloadAPI = []string{"example.org", "other.example"}, api.addr
		cfg.Callers = append(cfg.Callers, certifiedAs("third", caller.Credential{ID: "svid", SPIFFE: "spiffe://third.example/billing"}))
		*cfg = cfg.LookingEvery(time.Hour) // it is told
	})
	// A client by go-spiffe, which finds out that the server is deputy.
	dial := func(trusted *harness.Authority, own tls.Certificate) *grpc.ClientConn {
		t.Helper()
		bundle := x509bundle.FromX509Authorities(spiffeid.RequireTrustDomainFromString("example.org"), []*x509.Certificate{trusted.Certificate})
		config := tlsconfig.TLSClientConfig(bundle, tlsconfig.AuthorizeID(spiffeid.RequireFromString(deputyID)))
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &own, nil }
		conn, err := grpc.NewClient(m.Addr().String(), grpc.WithTransportCredentials(credentials.NewTLS(config)))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		return conn
	}
	expect := func(what string, conn *grpc.ClientConn, name string, code codes.Code) {
		t.Helper()
		if is, got := m.as(t, conn); is != name || got != code {
			t.Errorf("%s: the call is %q's and %s, want %q and %s", what, is, got, name, code)
		}
	}
	billing, elsewhere := dial(home, issue(home, billingID)), dial(home, issue(other, otherID))
	expect("a SPIFFE id", billing, "billing", codes.NotFound)
	expect("a SPIFFE id of another trust domain that is stated", elsewhere, "elsewhere", codes.NotFound)
	expect("a SPIFFE id of a trust domain that is not stated", dial(home, issue(third, "spiffe://third.example/billing")), "", codes.Unavailable)
	expect("a SPIFFE id that another trust domain's authority signed", dial(home, issue(other, billingID)), "", codes.Unavailable)
	expect("a DNS name", dial(home, names.Issue(t, harness.ForName(auditName))), "audit", codes.NotFound)
	expect("a DNS name that a trust domain's authority signed", dial(home, home.Issue(t, harness.ForName(auditName))), "", codes.Unavailable)
	expect("a SPIFFE id that the authority of names signed", dial(home, issue(names, billingID)), "", codes.Unavailable)

	// Another certificate, by another authority, beside the one from before.
	first := servedBy(t, m.Addr())
	say(next, map[string][]*harness.Authority{"example.org": {home, next}, "other.example": {other}})
	eventually(t, "new connections get the new certificate", func() bool { return servedBy(t, m.Addr()) != first })
	expect("a SPIFFE id after the change", dial(next, issue(next, billingID)), "billing", codes.NotFound)
	expect("an open connection after the change", billing, "billing", codes.NotFound)
	expect("another trust domain after the change", elsewhere, "elsewhere", codes.NotFound)

	// Without the authority from before, and the other trust domain.
	second := servedBy(t, m.Addr())
	say(next, map[string][]*harness.Authority{"example.org": {next}})
	eventually(t, "new connections get the third certificate", func() bool { return servedBy(t, m.Addr()) != second })
	expect("an open connection of an authority that is gone", billing, caller.NobodyName, codes.Unauthenticated)
	expect("an open connection of a trust domain that is gone", elsewhere, caller.NobodyName, codes.Unauthenticated)

	// The server goes on without the Workload API.
	last := servedBy(t, m.Addr())
	stop()
	expect("a new connection without the Workload API", dial(next, issue(next, billingID)), "billing", codes.NotFound)
	if is := m.health(t, daemon.HealthTLS); is != healthv1.HealthCheckResponse_SERVING || servedBy(t, m.Addr()) != last {
		t.Errorf("without the Workload API the health of TLS is %s", is)
	}
}

// certifiedAs is a caller like the others here, with one proof.
func certifiedAs(name string, proof caller.Credential) *caller.Caller {
	like := *certified()[0]
	like.Name, like.Credentials = name, []caller.Credential{proof}
	return &like
}

// TestNoWorkloadAPI: a server whose certificate does not come does not start, and says where it was to come from.
func TestNoWorkloadAPI(t *testing.T) {
	api, _ := startWorkloadAPI(t)
	for what, addr := range map[string]string{"nobody listens": "unix:///nonexistent/api.sock", "it does not know the server": api.addr} {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		d, err := daemon.Open(ctx, daemon.Config{
			Engine: engine.Config{Kind: engine.Memory}, PresharedKeys: []string{harness.ServiceKey}, SPIFFEWorkloadAPI: addr, SPIFFETrustDomains: []string{"example.org"},
		}, zap.NewNop())
		cancel()
		if err == nil {
			_ = d.Close()
		}
		if err == nil || !strings.Contains(err.Error(), "the Workload API at "+addr+" gives this server no certificate") {
			t.Errorf("%s: got %v", what, err)
		}
	}
}

// TestExpiredWorkload: a certificate is not only as good as the authority that signed it: one of the Workload API's that nobody renews ends as
// others do. What is in force then stays, and the health service says that it cannot be used.
func TestExpiredWorkload(t *testing.T) {
	api, _ := startWorkloadAPI(t)
	home := harness.NewAuthority(t, "home")
	api.say(t, deputyID, home.Issue(t, harness.ForURI(deputyID), harness.Valid(time.Now().Add(-time.Hour), time.Now().Add(2*time.Second))),
		map[string][]*harness.Authority{"example.org": {home}})
	m := startMutual(t, func(cfg *daemon.Config) {
		cfg.TLSCertPath, cfg.TLSKeyPath, cfg.TLSClientCAPath = "", "", ""
		cfg.SPIFFETrustDomains, cfg.SPIFFEWorkloadAPI = []string{"example.org"}, api.addr
		*cfg = cfg.LookingEvery(20 * time.Millisecond)
	})
	eventually(t, "the health service says that the certificate has expired", func() bool {
		return m.health(t, daemon.HealthTLS) == healthv1.HealthCheckResponse_NOT_SERVING
	})
	api.say(t, deputyID, home.Issue(t, harness.ForURI(deputyID)), map[string][]*harness.Authority{"example.org": {home}})
	eventually(t, "the health service says that the certificate is well again", func() bool {
		return m.health(t, daemon.HealthTLS) == healthv1.HealthCheckResponse_SERVING
	})
}
