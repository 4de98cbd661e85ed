package daemon

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"go.uber.org/zap"
	"google.golang.org/grpc/credentials"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/caller"
	"github.com/deputyauth/deputy/pkg/caller/certificate"
	"github.com/deputyauth/deputy/pkg/smallfile"
)

// HealthTLS is the name under which grpc.health.v1 says how the server's certificate is: NOT_SERVING while the files, or the Workload
// API, say what cannot be used, and once the certificate has expired. The server itself goes on with what was in force.
const HealthTLS = "deputy.tls"

// The versions of TLS that a server can ask for at least, and the ways in which it can ask for client certificates, the default first.
var (
	TLSVersions    = []string{"1.3", "1.2"}
	TLSClientAuths = []string{"request", "require"}
)

const (
	// certificatesEvery is how often the files are compared with those in force.
	certificatesEvery = 5 * time.Second
	// workloadTime is how long the Workload API may take to give the server its first certificate.
	workloadTime = 30 * time.Second
	// maxHints is how many bytes of authorities' names a client is told, so that it can choose its certificate. Where there are more it is
	// told none, which means that it may send any: a handshake has room for 64 KiB.
	maxHints = 16 << 10
	// maxSmall is how many bytes a file with certificates or keys may have: thousands of authorities.
	maxSmall = 1 << 20
)

// secured reports whether connections have TLS.
func (c Config) secured() bool { return c.TLSCertPath != "" || c.SPIFFEWorkloadAPI != "" }

// asksClients reports whether clients are asked for certificates.
func (c Config) asksClients() bool { return c.TLSClientCAPath != "" || c.SPIFFEWorkloadAPI != "" }

// checkTransport refuses settings of TLS that do not go together, and addresses that others can reach without it.
func (c Config) checkTransport() error {
	switch {
	case c.TLSCertPath == "" && c.TLSKeyPath != "":
		return fmt.Errorf("TLS needs a certificate too: --tls-key is %s, and --tls-cert is missing", c.TLSKeyPath)
	case c.TLSCertPath != "" && c.TLSKeyPath == "":
		return fmt.Errorf("TLS needs the certificate's key too: --tls-cert is %s, and --tls-key is missing", c.TLSCertPath)
	case c.TLSCertPath != "" && c.SPIFFEWorkloadAPI != "":
		return errors.New("the server gets its certificate from --spiffe-workload-api, so it cannot have the one of --tls-cert: " +
			"leave out one of the two")
	case c.TLSMinVersion != "" && !slices.Contains(TLSVersions, c.TLSMinVersion):
		return fmt.Errorf("--tls-min-version must be one of %s, not %q", strings.Join(TLSVersions, ", "), c.TLSMinVersion)
	case c.TLSClientAuth != "" && !slices.Contains(TLSClientAuths, c.TLSClientAuth):
		return fmt.Errorf("--tls-client-auth must be one of %s, not %q", strings.Join(TLSClientAuths, ", "), c.TLSClientAuth)
	case c.TLSClientCAPath != "" && !c.secured():
		return errors.New("--tls-client-ca is for a server with TLS: set --tls-cert and --tls-key, or --spiffe-workload-api, too")
	case c.TLSClientAuth == "require" && !c.asksClients():
		return errors.New("--tls-client-auth require needs authorities to verify client certificates by: " +
			"set --tls-client-ca, or --spiffe-workload-api")
	case len(c.SPIFFETrustDomains) > 0 && !c.asksClients():
		return errors.New("--spiffe-trust-domain needs the trust domain's authorities: set --tls-client-ca, or --spiffe-workload-api")
	case len(c.SPIFFETrustDomains) == 0 && c.SPIFFEWorkloadAPI != "":
		return errors.New("--spiffe-workload-api needs --spiffe-trust-domain, the trust domains whose SPIFFE ids may be callers")
	case len(c.SPIFFETrustDomains) > 1 && c.SPIFFEWorkloadAPI == "":
		return errors.New("--tls-client-ca holds the authorities of one trust domain: name one with --spiffe-trust-domain; " +
			"several need --spiffe-workload-api")
	case c.Insecure && c.secured():
		return errors.New("--insecure is for a server without TLS: leave it out, since with TLS other machines may connect anyway; " +
			"for figures that other machines may read there is --insecure-metrics")
	}
	if _, err := c.trustDomains(); err != nil {
		return err
	}
	if c.SPIFFEWorkloadAPI != "" {
		if err := workloadapi.ValidateAddress(c.SPIFFEWorkloadAPI); err != nil {
			return fmt.Errorf("--spiffe-workload-api %s: %w; an address looks like unix:///run/spire/agent.sock", c.SPIFFEWorkloadAPI, err)
		}
	}
	reachable, err := isReachable("--addr", c.Addr)
	if err == nil && reachable && !c.secured() && !c.Insecure {
		err = fmt.Errorf("%s can be reached from other machines, and without TLS the keys of callers can be read on the way: "+
			"set --tls-cert and --tls-key, or --insecure where the network itself encrypts", c.Addr)
	}
	if err != nil || c.MetricsAddr == "" {
		return err
	}
	reachable, err = isReachable("--metrics-addr", c.MetricsAddr)
	if err == nil && reachable && !c.Insecure && !c.InsecureMetrics {
		err = fmt.Errorf("%s can be reached from other machines, and metrics are served over HTTP without a key: "+
			"set --insecure-metrics to allow that", c.MetricsAddr)
	}
	return err
}

// trustDomains are those whose SPIFFE ids may be callers.
func (c Config) trustDomains() ([]spiffeid.TrustDomain, error) {
	var domains []spiffeid.TrustDomain
	for _, name := range c.SPIFFETrustDomains {
		domain, err := spiffeid.TrustDomainFromString(name)
		if err != nil {
			return nil, fmt.Errorf("--spiffe-trust-domain %q is no trust domain, such as example.org: %w", name, err)
		}
		domains = append(domains, domain)
	}
	return domains, nil
}

// isReachable reports whether other machines can reach an address, which is a flag's value.
func isReachable(flag, addr string) (bool, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return true, fmt.Errorf("%s %.200q is no host and port, such as 127.0.0.1:50051", flag, addr)
	}
	if _, err := net.ResolveTCPAddr("tcp", net.JoinHostPort("127.0.0.1", port)); err != nil { // asks no other machine: only the port may be a name
		return true, fmt.Errorf("%s %.200q has no port that can be listened on: name one of 0 to 65535, as in 127.0.0.1:50051", flag, addr)
	}
	ip := net.ParseIP(host)
	return host != "localhost" && (ip == nil || !ip.IsLoopback()), nil
}

// transport secures connections with what the files, or the Workload API, say now, and verifies client certificates by it. It is safe for
// concurrent use.
type transport struct {
	cfg     Config
	domains []spiffeid.TrustDomain
	log     *zap.Logger
	// source is the Workload API; nil means that the files count.
	source *workloadapi.X509Source
	// trust are the authorities of client certificates; without any nobody is asked for one.
	trust certificate.Trust
	// inForce is what new connections are made with.
	inForce atomic.Pointer[generation]
	// refused lets a line through now and then about certificates that are refused.
	refused authz.Seldom
	// onHealth is called whenever it may have changed whether all is well.
	onHealth func()

	// mu keeps one reload at a time.
	mu sync.Mutex
	// failure is why what was read last is not in force; nil if it is.
	failure atomic.Pointer[error]
	reloads *prometheus.CounterVec
}

// generation is what connections are made with from one reload to the next.
type generation struct {
	material
	config *tls.Config
}

// expires is when the server's certificate does.
func (g *generation) expires() time.Time { return g.own.Leaf.NotAfter }

// material is what TLS is made of. Its parts are read one by one: a certificate that cannot be used must not keep authorities in force that
// were taken out, nor the other way around.
type material struct {
	own tls.Certificate
	// names are the authorities of DNS names, and bundles those of SPIFFE ids.
	names   []*x509.Certificate
	bundles []*x509bundle.Bundle
}

// digest tells one material from another. A certificate has one key, so that the key adds nothing.
func (m *material) digest() [sha256.Size]byte {
	all := sha256.New()
	for _, one := range m.own.Certificate {
		fmt.Fprintf(all, "own %x\n", one)
	}
	list := func(kind string, authorities []*x509.Certificate) {
		for _, one := range authorities {
			fmt.Fprintf(all, "%s %x\n", kind, one.Raw)
		}
	}
	list("name", m.names)
	for _, bundle := range m.bundles {
		list(bundle.TrustDomain().IDString(), bundle.X509Authorities())
	}
	return [sha256.Size]byte(all.Sum(nil))
}

// openTransport reads the files, or asks the Workload API. It returns nil for a server without TLS. ctx bounds the opening only.
func openTransport(ctx context.Context, cfg Config, log *zap.Logger) (*transport, error) {
	if !cfg.secured() {
		return nil, nil //nolint:nilnil // a server without TLS
	}
	domains, err := cfg.trustDomains()
	if err != nil {
		return nil, err
	}
	t := &transport{
		cfg: cfg, domains: domains, log: log, onHealth: func() {},
		reloads: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "deputy_tls_reloads_total",
			Help: "How often the server's certificate or its clients' authorities were found changed: in force (success), or refused (failure).",
		}, []string{"result"}),
	}
	for _, result := range []string{"success", "failure"} {
		t.reloads.WithLabelValues(result)
	}
	if cfg.SPIFFEWorkloadAPI != "" {
		bounded, cancel := context.WithTimeout(ctx, workloadTime)
		defer cancel()
		t.source, err = workloadapi.NewX509Source(bounded, workloadapi.WithClientOptions(
			workloadapi.WithAddr(cfg.SPIFFEWorkloadAPI), workloadapi.WithLogger(spiffeLog{log.Named("spiffe").Sugar()})))
		if err != nil {
			return nil, fmt.Errorf("the Workload API at %s gives this server no certificate: %w", cfg.SPIFFEWorkloadAPI, err)
		}
	}
	first, err := t.read(material{}, time.Now())
	if err != nil {
		return nil, errors.Join(err, t.close())
	}
	t.use(first)
	return t, nil
}

// spiffeLog has go-spiffe's words in the server's log. That an attempt failed is not yet an error here: another one follows.
type spiffeLog struct{ *zap.SugaredLogger }

// Errorf is go-spiffe's.
func (l spiffeLog) Errorf(format string, args ...any) { l.Warnf(format, args...) }

func (t *transport) close() error {
	if t == nil || t.source == nil {
		return nil
	}
	return t.source.Close()
}

// credentials are what a gRPC server makes connections with.
func (t *transport) credentials() credentials.TransportCredentials {
	return &transportCredentials{
		// Tickets are off here too: this configuration's are those that all generations share.
		TransportCredentials: credentials.NewTLS(&tls.Config{
			MinVersion: tls.VersionTLS12, NextProtos: []string{"h2"}, SessionTicketsDisabled: t.cfg.asksClients(),
			GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return t.inForce.Load().config, nil },
		}),
		transport: t,
	}
}

// transportCredentials are TLS's whose connections know the certificate that the client presented.
type transportCredentials struct {
	credentials.TransportCredentials
	transport *transport
}

// ServerHandshake is credentials.TransportCredentials'.
func (c *transportCredentials) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := c.TransportCredentials.ServerHandshake(raw)
	if err != nil {
		return nil, nil, err
	}
	state, ok := info.(credentials.TLSInfo)
	if !ok {
		return nil, nil, errors.Join(fmt.Errorf("daemon: a connection with TLS says %T of itself", info), conn.Close())
	}
	secured := securedConn{TLSInfo: state}
	if chain := state.State.PeerCertificates; len(chain) > 0 {
		secured.client = certificate.NewPresented(&c.transport.trust, chain)
	}
	return conn, secured, nil
}

// Clone is credentials.TransportCredentials'.
func (c *transportCredentials) Clone() credentials.TransportCredentials {
	return &transportCredentials{TransportCredentials: c.TransportCredentials.Clone(), transport: c.transport}
}

// securedConn is what is known of a connection with TLS.
type securedConn struct {
	credentials.TLSInfo
	client *certificate.Presented
}

// ClientCertificate is caller.Certified's.
func (s securedConn) ClientCertificate() caller.Certificate {
	if s.client == nil {
		return nil
	}
	return s.client
}

// watch reloads what has changed until ctx ends.
func (t *transport) watch(ctx context.Context) {
	if t == nil {
		return
	}
	var updated <-chan struct{}
	if t.source != nil {
		updated = t.source.Updated()
	}
	tick := time.NewTicker(orDefault(t.cfg.certificatesEvery, certificatesEvery))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-updated:
		case <-tick.C:
		}
		// A reload tells by itself why it failed.
		if err := authz.Safely("daemon.transport", func() error { _ = t.reload(); return nil }); err != nil {
			t.log.Error("the files of TLS cannot be looked at", zap.Error(err))
		}
	}
}

// reload puts in force what the files, or the Workload API, say now. A part that cannot be used is logged and counted once, and told by health
// for as long as it lasts; what was in force of it stays.
func (t *transport) reload() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	defer t.onHealth()
	was := t.inForce.Load()
	is, err := t.read(was.material, time.Now())
	if err != nil && t.source == nil {
		// The files may have been exchanged in between.
		is, err = t.read(was.material, time.Now())
	}
	if is.digest() != was.digest() {
		t.use(is)
		t.reloads.WithLabelValues("success").Inc()
		t.log.Info("TLS uses another certificate, or other authorities of clients",
			zap.Time("expires", is.own.Leaf.NotAfter), zap.Int("authorities", len(t.trust.InForce().All())))
	}
	before := t.failure.Load()
	if err == nil {
		t.failure.Store(nil)
		return nil
	}
	if before == nil || (*before).Error() != err.Error() {
		t.reloads.WithLabelValues("failure").Inc()
		t.log.Error("what TLS is to use from now on cannot be used, so what was in force stays",
			zap.Error(err), zap.Time("expires", is.own.Leaf.NotAfter))
	}
	t.failure.Store(&err)
	return err
}

// use puts material in force.
func (t *transport) use(m material) {
	g := &generation{material: m, config: t.config(m)}
	// The authorities are replaced first, so that one that is believed no more does not count a moment longer.
	if t.cfg.asksClients() {
		t.trust.Replace(certificate.NewAuthorities(m.names, m.bundles...))
		g.config.ClientCAs = hints(t.trust.InForce().All())
	}
	t.inForce.Store(g)
}

// well reports whether what TLS is to use is in force, and has not expired.
func (t *transport) well(now time.Time) bool {
	return t.failure.Load() == nil && now.Before(t.inForce.Load().expires())
}

// collectors are the figures of the certificate in force.
func (t *transport) collectors() []prometheus.Collector {
	if t == nil {
		return nil
	}
	return []prometheus.Collector{t.reloads, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "deputy_tls_certificate_expires_timestamp_seconds", Help: "When the server's certificate expires, in seconds since 1970.",
	}, func() float64 { return float64(t.inForce.Load().expires().Unix()) })}
}

// config is what new connections are made with. It is fresh for each generation, since one that is in use must not be changed.
func (t *transport) config(m material) *tls.Config {
	config := &tls.Config{Certificates: []tls.Certificate{m.own}, MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"}}
	if t.cfg.TLSMinVersion == "1.2" {
		config.MinVersion = tls.VersionTLS12
	}
	if !t.cfg.asksClients() {
		return config
	}
	config.ClientAuth = tls.RequestClientCert
	if t.cfg.TLSClientAuth == "require" {
		config.ClientAuth = tls.RequireAnyClientCert
	}
	// A session that is resumed would bring a certificate that was verified by authorities that may be gone.
	config.SessionTicketsDisabled = true
	// Verified here, a wrong certificate ends the handshake. What counts is that calls verify it again: see certificate.Presented.
	config.VerifyConnection = func(state tls.ConnectionState) error {
		if len(state.PeerCertificates) == 0 {
			return nil // where one is required, the handshake has failed already
		}
		_, err := t.trust.InForce().Verify(state.PeerCertificates, time.Now())
		if err == nil {
			return nil
		}
		if kept, ok := t.refused.Next(); ok {
			shown := certificate.Claims(state.PeerCertificates[0])
			t.log.Warn("a client certificate is refused", zap.Error(err), zap.String("claims", shown), zap.Int("more", kept))
		}
		return err
	}
	return config
}

// hints are the authorities that clients are told of. They verify nothing.
func hints(authorities []*x509.Certificate) *x509.CertPool {
	pool, size := x509.NewCertPool(), 0
	for _, one := range authorities {
		pool.AddCert(one)
		size += len(one.RawSubject) + 2
	}
	if size > maxHints {
		return nil
	}
	return pool
}

// read returns what the files, or the Workload API, say, and of each part that cannot be used what was before. The error says which, and names
// the file.
func (t *transport) read(was material, now time.Time) (material, error) {
	m, failed := was, []error(nil)
	keep := func(err error) {
		if err != nil {
			failed = append(failed, err)
		}
	}
	own, err := t.readOwn(now)
	if keep(err); err == nil {
		m.own = own
	}
	if t.cfg.TLSClientCAPath != "" {
		names, err := readAuthorities(t.cfg.TLSClientCAPath)
		if err != nil {
			keep(fmt.Errorf("cannot use --tls-client-ca %s: %w", t.cfg.TLSClientCAPath, err))
		} else {
			m.names = names
		}
	}
	m.bundles = nil
	for _, domain := range t.domains {
		if t.source == nil {
			m.bundles = append(m.bundles, x509bundle.FromX509Authorities(domain, m.names))
		} else if bundle, err := t.source.GetX509BundleForTrustDomain(domain); err == nil {
			m.bundles = append(m.bundles, bundle)
		} // a trust domain that the Workload API does not know, or knows no more, is trusted no more
	}
	return m, errors.Join(failed...)
}

// readOwn returns the server's own certificate, which has to be valid.
func (t *transport) readOwn(now time.Time) (tls.Certificate, error) {
	var own tls.Certificate
	from := "--spiffe-workload-api " + t.cfg.SPIFFEWorkloadAPI
	if t.source != nil {
		svid, err := t.source.GetX509SVID()
		if err != nil {
			return own, fmt.Errorf("cannot use the certificate of %s: %w", from, err)
		}
		own.PrivateKey, own.Leaf = svid.PrivateKey, svid.Certificates[0]
		for _, one := range svid.Certificates {
			own.Certificate = append(own.Certificate, one.Raw)
		}
	} else {
		var err error
		if own, err = readPair(t.cfg.TLSCertPath, t.cfg.TLSKeyPath); err != nil {
			return own, fmt.Errorf("cannot use --tls-cert %s with --tls-key %s: %w", t.cfg.TLSCertPath, t.cfg.TLSKeyPath, err)
		}
		from = "--tls-cert " + t.cfg.TLSCertPath
	}
	if leaf := own.Leaf; now.Before(leaf.NotBefore) || !now.Before(leaf.NotAfter) {
		return own, fmt.Errorf("the server's certificate, of %s, is valid from %s to %s only: renew it, or check the clock",
			from, leaf.NotBefore.UTC().Format(time.RFC3339), leaf.NotAfter.UTC().Format(time.RFC3339))
	}
	return own, nil
}

// readPair reads a certificate and its key.
func readPair(certPath, keyPath string) (tls.Certificate, error) {
	cert, err := smallfile.Read(certPath, maxSmall)
	if err != nil {
		return tls.Certificate{}, err
	}
	key, err := smallfile.Read(keyPath, maxSmall)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.X509KeyPair(cert, key)
}

// readAuthorities reads a file of certificates in PEM.
func readAuthorities(path string) ([]*x509.Certificate, error) {
	text, err := smallfile.Read(path, maxSmall)
	if err != nil {
		return nil, err
	}
	var all []*x509.Certificate
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("it holds a %s: name a file that holds certificates of authorities and nothing else", block.Type)
		}
		one, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("its certificate %d: %w", len(all)+1, err)
		}
		if one.Version >= 3 && (!one.BasicConstraintsValid || !one.IsCA) {
			return nil, fmt.Errorf("its certificate %d, of %.200q, is no authority's: "+
				"name the certificates of the authorities that sign client certificates, and no client certificate", len(all)+1, one.Subject.String())
		}
		all = append(all, one)
	}
	if len(all) == 0 {
		return nil, errors.New("it holds no certificate in PEM")
	}
	return all, nil
}
