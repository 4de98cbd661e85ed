package cli

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// probeTime bounds how long it is looked into why there is no connection.
const probeTime = 3 * time.Second

// asSent takes off what gRPC says around a status of a call that it has made several times.
func asSent(err error) error {
	if s, ok := errors.AsType[grpcError](err); ok {
		return s
	}
	return err
}

// sentStream is a stream whose errors are those that the server sent.
type sentStream struct{ grpc.ClientStream }

// RecvMsg receives a message.
func (s sentStream) RecvMsg(m any) error { return asSent(s.ClientStream.RecvMsg(m)) }

// explainUnary says why a call reached no server.
func (c *connection) explainUnary(
	ctx context.Context, method string, request, answer any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, options ...grpc.CallOption,
) error {
	return c.explain(ctx, invoke(ctx, method, request, answer, conn, options...))
}

// explainStream says why a stream reached no server. Once it is open there is a connection.
func (c *connection) explainStream(
	ctx context.Context, desc *grpc.StreamDesc, conn *grpc.ClientConn, method string, open grpc.Streamer, options ...grpc.CallOption,
) (grpc.ClientStream, error) {
	stream, err := open(ctx, desc, conn, method, options...)
	if err != nil {
		return nil, c.explain(ctx, err)
	}
	return sentStream{stream}, nil
}

// explain puts into words why a call reached no server. What a server said stays as it is.
func (c *connection) explain(ctx context.Context, err error) error {
	err = asSent(err)
	s := status.Convert(err)
	if err == nil || errorInfo(s) != nil {
		return err
	}
	late := s.Code() == codes.DeadlineExceeded
	if !late && s.Code() != codes.Unavailable {
		return err
	}
	// The time of the call may be over, so that looking has one of its own.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), probeTime)
	defer cancel()
	if why := c.unreachable(ctx); why != "" {
		return status.Error(codes.Unavailable, why)
	}
	if late {
		return status.Errorf(codes.DeadlineExceeded, "%s did not answer within --timeout %s", c.endpoint, c.timeout)
	}
	return err
}

// unreachable connects once more, without a key, and says why that fails and what to do, or "" if it does not fail. gRPC has
// that in texts only, and of a server that speaks TLS to a client that does not it has nothing but a connection that broke.
func (c *connection) unreachable(ctx context.Context) string {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", c.endpoint)
	if err != nil {
		return c.notDialled(err)
	}
	defer func() { _ = conn.Close() }()
	config := &tls.Config{InsecureSkipVerify: true} //nolint:gosec // nothing is sent: it only matters whether TLS is spoken
	if c.tls != nil {
		config = c.tls.Clone()
	}
	config.NextProtos = []string{"h2"}
	asked := false
	config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		asked = true
		if len(config.Certificates) == 0 {
			return &tls.Certificate{}, nil
		}
		return &config.Certificates[0], nil
	}
	client := tls.Client(conn, config)
	err = client.HandshakeContext(ctx)
	if err == nil && asked {
		// In TLS 1.3 a client is through before the server has seen its certificate. The server's first words say how it went.
		if deadline, ok := ctx.Deadline(); ok {
			_ = conn.SetReadDeadline(deadline)
		}
		if _, err = client.Read(make([]byte, 1)); !isAlert(err) {
			err = nil
		}
	}
	switch {
	case c.tls != nil && asked && isAlert(err):
		return c.notAdmitted(err)
	case c.tls != nil:
		return c.notTrusted(err)
	case err == nil || asked:
		return fmt.Sprintf("the server at %s speaks TLS, and this connection does not: name the file of its certificate authority with --ca, "+
			"or give --insecure=false if the system trusts it", c.endpoint)
	default:
		return ""
	}
}

// isAlert reports whether it was the other side that ended a handshake.
func isAlert(err error) bool {
	of, ok := errors.AsType[*net.OpError](err)
	return ok && of.Op == "remote error"
}

// notAdmitted says why a server that asks for client certificates ended the handshake.
func (c *connection) notAdmitted(err error) string {
	if c.cert == "" {
		return "the server asks for a client certificate: give --cert and --cert-key"
	}
	return fmt.Sprintf("the server at %s does not take the client certificate in --cert %s (%v): give one that an authority signed which the "+
		"server trusts, and that is valid now", c.endpoint, c.cert, bareNet(err))
}

// notDialled says why there was no answer at all.
func (c *connection) notDialled(err error) string {
	const other = "name the server with --endpoint or $DEPUTY_ENDPOINT"
	unknown, isUnknown := errors.AsType[*net.DNSError](err)
	refused := errors.Is(err, syscall.ECONNREFUSED)
	silent, _ := errors.AsType[net.Error](err)
	switch {
	case isUnknown && unknown.IsNotFound:
		return fmt.Sprintf("there is no host %q: %s", unknown.Name, other)
	case refused:
		return fmt.Sprintf("no server listens on %s: start one with deputy serve, or %s", c.endpoint, other)
	case silent != nil && silent.Timeout():
		return fmt.Sprintf("nothing answers at %s: a firewall may be in between, or %s", c.endpoint, other)
	default:
		return fmt.Sprintf("%s cannot be connected to (%v): %s", c.endpoint, bareNet(err), other)
	}
}

// bareNet is a network error without the address that it is about.
func bareNet(err error) error {
	if of, ok := errors.AsType[*net.OpError](err); ok {
		return of.Err
	}
	return err
}

// notTrusted says what a handshake failed of; "" if it did not fail.
func (c *connection) notTrusted(err error) string {
	if err == nil {
		return ""
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return fmt.Sprintf("the server at %s does not speak TLS, and this connection does: start the server with --tls-cert and --tls-key, "+
			"or give --insecure without --ca if the key may travel unencrypted", c.endpoint)
	}
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		if c.ca != "" {
			return fmt.Sprintf("the certificate of %s is not signed by an authority in --ca %s: name the file of the one that signed it", c.endpoint, c.ca)
		}
		return fmt.Sprintf("the certificate of %s is signed by an authority that the system does not trust: name its file with --ca", c.endpoint)
	}
	if wrong, ok := errors.AsType[x509.HostnameError](err); ok {
		return fmt.Sprintf("the certificate of %s is not for %s but for %s: name the server so with --endpoint",
			c.endpoint, wrong.Host, certifiedFor(wrong.Certificate))
	}
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok && invalid.Reason == x509.Expired {
		return fmt.Sprintf("the certificate of %s is valid from %s to %s only: check the clock, or renew the certificate", c.endpoint,
			invalid.Cert.NotBefore.UTC().Format(time.RFC3339), invalid.Cert.NotAfter.UTC().Format(time.RFC3339))
	}
	return fmt.Sprintf("the TLS handshake with %s failed: %v", c.endpoint, err)
}

// certifiedFor lists the names and addresses that a certificate is for.
func certifiedFor(certificate *x509.Certificate) string {
	names := certificate.DNSNames
	for _, ip := range certificate.IPAddresses {
		names = append(names, ip.String())
	}
	if len(names) == 0 {
		return "no name at all"
	}
	return strings.Join(names, ", ")
}
