package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffegrpc/grpccredentials"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

// SPIFFESource gives the X.509 SVID that the client shows, and the bundles that it trusts. It is safe for concurrent use.
type SPIFFESource interface {
	x509svid.Source
	x509bundle.Source
}

// spiffe is what WithSPIFFE and WithWorkloadAPI say.
type spiffe struct {
	server string
	source SPIFFESource
	// api is the address of the Workload API, where the source is to be opened.
	api *string
}

// transport is how the connection is secured.
func (s *settings) transport(plain bool) (credentials.TransportCredentials, error) {
	switch {
	case plain:
		return insecure.NewCredentials(), nil
	case s.spiffe != nil:
		return s.mutual(*s.spiffe)
	case s.caFile == nil && s.pair == nil:
		return credentials.NewTLS(s.tls), nil
	}
	t := &fileTLS{}
	var err error
	if s.caFile != nil {
		if t.authorities, err = openFiles(readAuthorities, *s.caFile); err != nil {
			return nil, fmt.Errorf("the certificate authorities: %w", err)
		}
	}
	if s.pair != nil {
		if t.certificate, err = openFiles(readPair, s.pair...); err != nil {
			return nil, fmt.Errorf("the client certificate: %w", err)
		}
	}
	return t, nil
}

// mutual is TLS with SVIDs on both sides.
func (s *settings) mutual(by spiffe) (credentials.TransportCredentials, error) {
	server, err := spiffeid.FromString(by.server)
	if err != nil {
		return nil, fmt.Errorf("%q is no SPIFFE id of a server: %w; write one such as spiffe://example.org/deputy", by.server, err)
	}
	if by.api != nil {
		if by.source, err = s.openWorkloadAPI(*by.api); err != nil {
			return nil, err
		}
	}
	if by.source == nil {
		return nil, errors.New("WithSPIFFE has no source of SVIDs")
	}
	return grpccredentials.MTLSClientCredentials(by.source, by.source, tlsconfig.AuthorizeID(server)), nil
}

// fileTLS is TLS whose authorities and certificate stand in files. Each connection is made with what they hold by then.
type fileTLS struct {
	// authorities is nil for the system's, and certificate for none.
	authorities *fromFiles[*x509.CertPool]
	certificate *fromFiles[*tls.Certificate]
}

// current is TLS with what the files hold, or did before they were broken.
func (t *fileTLS) current() credentials.TransportCredentials {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if t.authorities != nil {
		config.RootCAs, _ = t.authorities.get(true)
	}
	if t.certificate != nil {
		pair, _ := t.certificate.get(true)
		// Shown whatever authorities the server says it knows: which one is at fault is then the server's to say.
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return pair, nil }
	}
	return credentials.NewTLS(config)
}

// ClientHandshake implements credentials.TransportCredentials.
func (t *fileTLS) ClientHandshake(ctx context.Context, authority string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return t.current().ClientHandshake(ctx, authority, conn)
}

// ServerHandshake implements credentials.TransportCredentials, for nobody.
func (*fileTLS) ServerHandshake(net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("client: this is no server")
}

// Info implements credentials.TransportCredentials.
func (*fileTLS) Info() credentials.ProtocolInfo { return credentials.NewTLS(nil).Info() }

// Clone implements credentials.TransportCredentials.
func (t *fileTLS) Clone() credentials.TransportCredentials { return t }

// OverrideServerName implements credentials.TransportCredentials. Nobody may: grpc.WithAuthority is for that.
func (*fileTLS) OverrideServerName(string) error {
	return errors.New("client: the name of the server is not to be overridden")
}

// readAuthorities reads certificates in PEM.
func readAuthorities(contents [][]byte) (*x509.CertPool, error) {
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(contents[0]) {
		return nil, errors.New("the file holds no certificate in PEM")
	}
	return pool, nil
}

// readPair reads a certificate and its private key in PEM.
func readPair(contents [][]byte) (*tls.Certificate, error) {
	pair, err := tls.X509KeyPair(contents[0], contents[1])
	return &pair, err
}
