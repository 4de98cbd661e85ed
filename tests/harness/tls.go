package harness

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/deputyauth/deputy/pkg/daemon"
)

// Authority is a certificate authority in memory. It is safe for concurrent use.
type Authority struct {
	// Certificate is its own.
	Certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

// NewAuthority makes an authority that signs itself.
func NewAuthority(t testing.TB, name string) *Authority {
	t.Helper()
	a := &Authority{key: newKey(t)}
	template := authorityTemplate(t, name)
	a.Certificate = sign(t, template, template, a.key, a.key)
	return a
}

// Intermediate makes an authority that this one signs.
func (a *Authority) Intermediate(t testing.TB, name string, change ...func(*x509.Certificate)) *Authority {
	t.Helper()
	below := &Authority{key: newKey(t)}
	template := authorityTemplate(t, name)
	for _, one := range change {
		one(template)
	}
	below.Certificate = sign(t, template, a.Certificate, below.key, a.key)
	return below
}

func authorityTemplate(t testing.TB, name string) *x509.Certificate {
	t.Helper()
	return &x509.Certificate{
		SerialNumber: serial(t), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
}

// Issue signs a certificate for a TLS client and server at 127.0.0.1, unless it is changed, that is valid for an hour.
func (a *Authority) Issue(t testing.TB, change ...func(*x509.Certificate)) tls.Certificate {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: serial(t), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	for _, one := range change {
		one(template)
	}
	key := newKey(t)
	leaf := sign(t, template, a.Certificate, key, a.key)
	return tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf}
}

// ForURI gives a certificate one more URI, such as a SPIFFE id.
func ForURI(uri string) func(*x509.Certificate) {
	return func(c *x509.Certificate) {
		parsed, err := url.Parse(uri)
		if err != nil {
			panic(err) // a test's own text
		}
		c.URIs = append(c.URIs, parsed)
	}
}

// ForName gives a certificate one more DNS name.
func ForName(name string) func(*x509.Certificate) {
	return func(c *x509.Certificate) { c.DNSNames = append(c.DNSNames, name) }
}

// Valid sets when a certificate is valid.
func Valid(from, until time.Time) func(*x509.Certificate) {
	return func(c *x509.Certificate) { c.NotBefore, c.NotAfter = from, until }
}

// For sets what a certificate may be used for; nothing said is everything.
func For(usages ...x509.ExtKeyUsage) func(*x509.Certificate) {
	return func(c *x509.Certificate) { c.ExtKeyUsage = usages }
}

// Pool holds authorities, for a client that trusts servers of theirs.
func Pool(authorities ...*Authority) *x509.CertPool {
	pool := x509.NewCertPool()
	for _, a := range authorities {
		pool.AddCert(a.Certificate)
	}
	return pool
}

// WriteAuthorities writes a file of authorities in PEM, at once as a rename does.
func WriteAuthorities(t testing.TB, path string, authorities ...*Authority) {
	t.Helper()
	var text []byte
	for _, a := range authorities {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.Certificate.Raw})...)
	}
	replace(t, path, text)
}

// WritePair writes tls.crt and tls.key into a directory, as a Secret of Kubernetes has them.
func WritePair(t testing.TB, dir string, pair tls.Certificate) {
	t.Helper()
	var text []byte
	for _, one := range pair.Certificate {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: one})...)
	}
	key, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	replace(t, filepath.Join(dir, "tls.key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}))
	replace(t, filepath.Join(dir, "tls.crt"), text)
}

// TLS has a server use certificates in a directory: a pair of the authority's, and the authority's own as the one of clients, with SPIFFE ids
// of example.org. With mutual it asks clients for certificates.
//
//	authority := harness.NewAuthority(b, "bench")
//	cfg := harness.TLS(b, b.TempDir(), authority, true, daemon.Config{Engine: harness.Embedded(b), Callers: …})
//	conn := harness.DialTLS(b, server.Addr().String(), "", authority, authority.Issue(b, harness.ForURI("spiffe://example.org/billing")))
func TLS(t testing.TB, dir string, authority *Authority, mutual bool, cfg daemon.Config) daemon.Config {
	t.Helper()
	WritePair(t, dir, authority.Issue(t))
	cfg.TLSCertPath, cfg.TLSKeyPath = filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	if mutual {
		cfg.TLSClientCAPath, cfg.SPIFFETrustDomains = filepath.Join(dir, "ca.crt"), []string{"example.org"}
		WriteAuthorities(t, cfg.TLSClientCAPath, authority)
	}
	return cfg
}

// DialTLS connects to a server of an authority's, with a key unless it is empty, and with client certificates, of which there may be none. It
// sends them whatever authorities the server names.
func DialTLS(t testing.TB, addr, key string, authority *Authority, own ...tls.Certificate) *grpc.ClientConn {
	t.Helper()
	conn, err := ConnectTLS(addr, key, &tls.Config{RootCAs: Pool(authority)}, own...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// ConnectTLS is DialTLS for what outlives a test or has none: the caller closes the connection.
func ConnectTLS(addr, key string, config *tls.Config, own ...tls.Certificate) (*grpc.ClientConn, error) {
	if len(own) > 0 {
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &own[0], nil }
	}
	opts := []grpc.DialOption{grpc.WithTransportCredentials(credentials.NewTLS(config))}
	if key != "" {
		opts = append(opts, grpc.WithPerRPCCredentials(Bearer(key)))
	}
	return grpc.NewClient(addr, opts...)
}

// replace writes a file at once.
func replace(t testing.TB, path string, text []byte) {
	t.Helper()
	if err := os.WriteFile(path+".new", text, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func serial(t testing.TB) *big.Int {
	t.Helper()
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func sign(t testing.TB, template, parent *x509.Certificate, own, by *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	raw, err := x509.CreateCertificate(rand.Reader, template, parent, &own.PublicKey, by)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(raw)
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}
