package daemon_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/caller"
	"github.com/deputyauth/deputy/pkg/daemon"
	"github.com/deputyauth/deputy/pkg/engine"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/schema"
	"github.com/deputyauth/deputy/tests/harness"
)

// The SPIFFE ids and DNS names of the callers.
const (
	billingID = "spiffe://example.org/billing"
	otherID   = "spiffe://other.example/billing"
	auditName = "audit.example.org"
	buildName = "build.example.org"
)

// certified are callers that are known by certificates.
func certified() []*caller.Caller {
	by := func(name string, proofs ...caller.Credential) *caller.Caller {
		return &caller.Caller{
			Name: name, Roles: caller.RolesOf(deputyv1.Role_ROLE_CHECKER, deputyv1.Role_ROLE_DELEGATOR), Bounds: authz.Unbounded(),
			SpiceDB: authz.AllNames(), Credentials: proofs,
		}
	}
	return []*caller.Caller{
		by("billing", caller.Credential{ID: "svid", SPIFFE: billingID}, caller.Credential{ID: "name", DNS: "billing.example.org"}),
		by("elsewhere", caller.Credential{ID: "svid", SPIFFE: otherID}),
		by("audit", caller.Credential{ID: "name", DNS: auditName}),
		by("build", caller.Credential{ID: "name", DNS: buildName}),
	}
}

// mutual is a server that asks clients for certificates.
type mutual struct {
	*harness.Server
	dir string
	// authority is that of the server and of its clients.
	authority *harness.Authority
	calls     *observer.ObservedLogs
}

// startMutual starts a server with the callers above, which change may set otherwise.
func startMutual(t *testing.T, change func(*daemon.Config)) *mutual {
	t.Helper()
	m := &mutual{dir: t.TempDir(), authority: harness.NewAuthority(t, "trusted")}
	cfg := harness.TLS(t, m.dir, m.authority, true, daemon.Config{Engine: engine.Config{Kind: engine.Memory}, Callers: certified()})
	cfg.PresharedKeys, cfg.AdminPresharedKeys = []string{harness.ServiceKey}, []string{harness.AdminKey}
	if change != nil {
		change(&cfg)
	}
	var core zapcore.Core
	core, m.calls = observer.New(zap.DebugLevel)
	m.Server = harness.StartLogging(t, cfg, zap.New(core))
	if cfg.TLSClientAuth != "require" {
		m.WriteSchema(t, schema.Core)
	}
	return m
}

// as returns whose a call over a connection is, and the call's code: NOT_FOUND if it came to its service.
func (m *mutual) as(t *testing.T, conn *grpc.ClientConn) (string, codes.Code) {
	t.Helper()
	m.calls.TakeAll()
	code := ask(t.Context(), conn)
	for _, line := range m.calls.FilterMessage("call").All() {
		name, _ := line.ContextMap()["caller"].(string)
		return name, code
	}
	return "", code
}

// ask makes a call, whose answer is NOT_FOUND.
func ask(ctx context.Context, conn *grpc.ClientConn) codes.Code {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	_, err := deputyv1.NewSessionsServiceClient(conn).GetSession(ctx, &deputyv1.GetSessionRequest{SessionId: "absent"})
	return status.Code(err)
}

// eventually waits until something holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for late := time.After(20 * time.Second); !holds(); {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("not within 20s: %s", what)
		}
	}
}

// TestClientCertificates: a certificate proves the caller of its SPIFFE id or DNS name, and a wrong one proves nothing.
func TestClientCertificates(t *testing.T) {
	m := startMutual(t, nil)
	foreign := harness.NewAuthority(t, "foreign")
	below := m.authority.Intermediate(t, "below")
	servers := m.authority.Intermediate(t, "servers", func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} })
	through := func(a *harness.Authority, change ...func(*x509.Certificate)) tls.Certificate {
		pair := a.Issue(t, change...)
		pair.Certificate = append(pair.Certificate, a.Certificate.Raw)
		return pair
	}
	hour := time.Hour
	spiffe, name := harness.ForURI(billingID), harness.ForName(auditName)
	// A handshake that fails is UNAVAILABLE, a certificate of nobody's is UNAUTHENTICATED, and NOT_FOUND is what the service answers.
	const failed, nobody, known = codes.Unavailable, codes.Unauthenticated, codes.NotFound
	for _, test := range []struct {
		what string
		pair tls.Certificate
		key  string
		name string
		code codes.Code
	}{
		{"a SPIFFE id", m.authority.Issue(t, spiffe), "", "billing", known},
		{"a SPIFFE id through an intermediate authority", through(below, spiffe), "", "billing", known},
		{"a SPIFFE id without extended key usages", m.authority.Issue(t, spiffe, harness.For()), "", "billing", known},
		{"a SPIFFE id and somebody's DNS name", m.authority.Issue(t, spiffe, name), "", "billing", known},
		{"a DNS name", m.authority.Issue(t, name), "", "audit", known},
		{"a DNS name in capitals", m.authority.Issue(t, harness.ForName("AUDIT.example.ORG")), "", "audit", known},
		{"a DNS name after one of nobody's", m.authority.Issue(t, harness.ForName("x.example.org"), name), "", "audit", known},
		{"a DNS name and a URI that is no SPIFFE id", m.authority.Issue(t, name, harness.ForURI("https://example.org/audit")), "", "audit", known},
		{"no certificate, but a key", tls.Certificate{}, harness.ServiceKey, "service", known},
		{"a certificate and a key of another caller", m.authority.Issue(t, spiffe), harness.ServiceKey, "service", known},

		{"no certificate", tls.Certificate{}, "", caller.NobodyName, nobody},
		{"a certificate and a wrong key", m.authority.Issue(t, spiffe), "not-a-key-of-anybody", caller.NobodyName, nobody},
		{"a SPIFFE id of nobody's", m.authority.Issue(t, harness.ForURI("spiffe://example.org/unknown")), "", caller.NobodyName, nobody},
		{"the beginning of a SPIFFE id", m.authority.Issue(t, harness.ForURI("spiffe://example.org/bill")), "", caller.NobodyName, nobody},
		{"a SPIFFE id of nobody's and somebody's DNS name", m.authority.Issue(t, harness.ForURI("spiffe://example.org/unknown"), name), "", caller.NobodyName, nobody},
		{"a DNS name of nobody's", m.authority.Issue(t, harness.ForName("x.example.org")), "", caller.NobodyName, nobody},
		{"a wildcard", m.authority.Issue(t, harness.ForName("*.example.org")), "", caller.NobodyName, nobody},
		{"DNS names of two callers", m.authority.Issue(t, name, harness.ForName(buildName)), "", caller.NobodyName, nobody},
		{"no name at all", m.authority.Issue(t), "", caller.NobodyName, nobody},
		{"a common name", m.authority.Issue(t, func(c *x509.Certificate) { c.Subject.CommonName = auditName }), "", caller.NobodyName, nobody},

		{"another authority's SPIFFE id", foreign.Issue(t, spiffe), "", "", failed},
		{"another authority's DNS name", foreign.Issue(t, name), "", "", failed},
		{"another authority's, and a key", foreign.Issue(t, spiffe), harness.ServiceKey, "", failed},
		{"an intermediate authority that is not sent", below.Issue(t, spiffe), "", "", failed},
		{"an expired SPIFFE id", m.authority.Issue(t, spiffe, harness.Valid(time.Now().Add(-hour), time.Now().Add(-time.Second))), "", "", failed},
		{"an expired DNS name", m.authority.Issue(t, name, harness.Valid(time.Now().Add(-hour), time.Now().Add(-time.Second))), "", "", failed},
		{"a SPIFFE id from tomorrow", m.authority.Issue(t, spiffe, harness.Valid(time.Now().Add(hour), time.Now().Add(2*hour))), "", "", failed},
		{"a DNS name from tomorrow", m.authority.Issue(t, name, harness.Valid(time.Now().Add(hour), time.Now().Add(2*hour))), "", "", failed},
		{"a SPIFFE id for servers", m.authority.Issue(t, spiffe, harness.For(x509.ExtKeyUsageServerAuth)), "", "", failed},
		{"a DNS name for servers", m.authority.Issue(t, name, harness.For(x509.ExtKeyUsageServerAuth)), "", "", failed},
		{"a SPIFFE id of an authority for servers", through(servers, spiffe), "", "", failed},
		{"a DNS name of an authority for servers", through(servers, name), "", "", failed},
		{"two SPIFFE ids", m.authority.Issue(t, spiffe, harness.ForURI("spiffe://example.org/audit")), "", "", failed},
		{"a SPIFFE id and another URI", m.authority.Issue(t, spiffe, harness.ForURI("https://example.org/billing")), "", "", failed},
		{"another URI and a SPIFFE id", m.authority.Issue(t, harness.ForURI("https://example.org/billing"), spiffe), "", "", failed},
		{"another trust domain", m.authority.Issue(t, harness.ForURI(otherID)), "", "", failed},
		{"another trust domain and somebody's DNS name", m.authority.Issue(t, harness.ForURI(otherID), name), "", "", failed},
		{"no SPIFFE id, though it says so", m.authority.Issue(t, harness.ForURI("spiffe://example.org/billing?x=1"), name), "", "", failed},
		{"a SPIFFE id of an authority", m.authority.Issue(t, spiffe, func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true }), "", "", failed},
	} {
		var own []tls.Certificate
		if test.pair.Leaf != nil {
			own = append(own, test.pair)
		}
		conn := harness.DialTLS(t, m.Addr().String(), test.key, m.authority, own...)
		if name, code := m.as(t, conn); name != test.name || code != test.code {
			t.Errorf("%s: the call is %q's and %s, want %q and %s", test.what, name, code, test.name, test.code)
		}
		_ = conn.Close()
	}
}

// TestCertificatesRequired: where a certificate is required, a key alone does not even make a connection.
func TestCertificatesRequired(t *testing.T) {
	m := startMutual(t, func(cfg *daemon.Config) { cfg.TLSClientAuth = "require" })
	if name, code := m.as(t, harness.DialTLS(t, m.Addr().String(), harness.ServiceKey, m.authority)); code != codes.Unavailable {
		t.Errorf("without a certificate the call is %q's and %s", name, code)
	}
	conn := harness.DialTLS(t, m.Addr().String(), "", m.authority, m.authority.Issue(t, harness.ForURI(billingID)))
	if name, code := m.as(t, conn); name != "billing" || code == codes.Unauthenticated || code == codes.Unavailable {
		t.Errorf("with a certificate the call is %q's and %s", name, code)
	}
}

// TestNoTrustDomain: where none is stated, no SPIFFE id proves anything, no matter which authority signed it, and DNS names still do.
func TestNoTrustDomain(t *testing.T) {
	m := startMutual(t, func(cfg *daemon.Config) { cfg.SPIFFETrustDomains = nil })
	for what, test := range map[string]struct {
		change func(*x509.Certificate)
		name   string
		code   codes.Code
		says   string // what the log says, and of whom
	}{
		"a SPIFFE id": {harness.ForURI(billingID), "", codes.Unavailable, "a client certificate is refused: " + billingID},
		"a DNS name":  {harness.ForName(auditName), "audit", codes.NotFound, ""},
		"a DNS name of nobody's": {harness.ForName("x.example.org"), caller.NobodyName, codes.Unauthenticated,
			"a call is refused, because a valid proof is no caller's: x.example.org"},
	} {
		conn := harness.DialTLS(t, m.Addr().String(), "", m.authority, m.authority.Issue(t, test.change))
		if name, code := m.as(t, conn); name != test.name || code != test.code {
			t.Errorf("%s: the call is %q's and %s, want %q and %s", what, name, code, test.name, test.code)
		}
		message, whose, _ := strings.Cut(test.says, ": ")
		lines := m.calls.FilterMessage(message).FilterLevelExact(zap.WarnLevel).All()
		if test.says != "" && (len(lines) != 1 || !strings.Contains(fmt.Sprint(lines[0].ContextMap()), whose)) {
			t.Errorf("%s: the log says %v, want one line of %q", what, lines, test.says)
		}
	}
}

// TestAuthorityTakenOut: the connections that are open when an authority is taken out get no further call through, and get the next one
// through when it is back. Those of other authorities go on.
func TestAuthorityTakenOut(t *testing.T) {
	m := startMutual(t, nil)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // a stream that hangs is a failure
	defer cancel()
	next := harness.NewAuthority(t, "next")
	file := filepath.Join(m.dir, "ca.crt")
	trust := func(authorities ...*harness.Authority) {
		t.Helper()
		harness.WriteAuthorities(t, file, authorities...)
		if err := m.ReloadTLS(); err != nil {
			t.Fatal(err)
		}
	}
	trust(m.authority, next)
	written := 0
	write := func() { // a row that was not there
		t.Helper()
		written++
		m.Touch(t, fmt.Sprintf("tenant:acme#admin@user:%d", written))
	}
	for _, change := range []func(*x509.Certificate){harness.ForURI(billingID), harness.ForName(auditName)} {
		before := harness.DialTLS(t, m.Addr().String(), "", m.authority, m.authority.Issue(t, change))
		after := harness.DialTLS(t, m.Addr().String(), "", m.authority, next.Issue(t, change))
		both := harness.DialTLS(t, m.Addr().String(), harness.ServiceKey, m.authority, m.authority.Issue(t, change))
		say := func(what string, want ...codes.Code) {
			t.Helper()
			for i, conn := range []*grpc.ClientConn{before, after, both} {
				if _, code := m.as(t, conn); code != want[i] {
					t.Errorf("%s: call %d is %s, want %s", what, i, code, want[i])
				}
			}
		}
		say("at first", codes.NotFound, codes.NotFound, codes.NotFound)
		var streams []grpc.ServerStreamingClient[v1.WatchResponse]
		for i, conn := range []*grpc.ClientConn{before, after, both} {
			now, err := v1.NewPermissionsServiceClient(conn).CheckPermission(ctx, &v1.CheckPermissionRequest{
				Resource: &v1.ObjectReference{ObjectType: "tenant", ObjectId: "acme"}, Permission: "admin",
				Subject:     &v1.SubjectReference{Object: &v1.ObjectReference{ObjectType: "user", ObjectId: "alice"}},
				Consistency: &v1.Consistency{Requirement: &v1.Consistency_FullyConsistent{FullyConsistent: true}},
			})
			if err != nil {
				t.Fatal(err)
			}
			stream, err := v1.NewWatchServiceClient(conn).Watch(ctx, &v1.WatchRequest{OptionalStartCursor: now.GetCheckedAt()})
			if err != nil {
				t.Fatal(err)
			}
			write()
			if _, err := stream.Recv(); err != nil {
				t.Fatalf("watch %d: %v", i, err)
			}
			streams = append(streams, stream)
		}
		trust(next)
		say("without the authority", codes.Unauthenticated, codes.NotFound, codes.NotFound)
		for err := error(nil); err == nil; {
			if _, err = streams[0].Recv(); err != nil && status.Code(err) != codes.Unauthenticated {
				t.Errorf("the stream of an authority that was taken out ends with %v", err)
			}
		}
		// The others go on to see what is written now.
		write()
		for i, stream := range streams[1:] {
			if _, err := stream.Recv(); err != nil {
				t.Errorf("stream %d: %v", i+1, err)
			}
		}
		trust(next, m.authority)
		say("with it again", codes.NotFound, codes.NotFound, codes.NotFound)
	}
}

// TestCertificateExpires: a certificate that expires while its connection is open gets no further call through.
func TestCertificateExpires(t *testing.T) {
	m := startMutual(t, nil)
	for _, change := range []func(*x509.Certificate){harness.ForURI(billingID), harness.ForName(auditName)} {
		until := time.Now().Add(2 * time.Second)
		conn := harness.DialTLS(t, m.Addr().String(), "", m.authority, m.authority.Issue(t, change, harness.Valid(time.Now().Add(-time.Hour), until)))
		if _, code := m.as(t, conn); code != codes.NotFound {
			t.Fatalf("at first a call is %s", code)
		}
		eventually(t, "a call with an expired certificate is refused", func() bool {
			_, code := m.as(t, conn)
			return code == codes.Unauthenticated
		})
		// A certificate counts whole seconds.
		if time.Now().Before(until.Truncate(time.Second)) {
			t.Error("a certificate was refused before it expired")
		}
	}
}

// TestConnectionsAreRenewed: a client that renews its certificate in time loses no call, although no connection asks for another certificate:
// the server has clients make new connections.
func TestConnectionsAreRenewed(t *testing.T) {
	m := startMutual(t, func(cfg *daemon.Config) { *cfg = cfg.RenewingAfter(300 * time.Millisecond) })
	const life, half = 3 * time.Second, time.Second
	var pair atomic.Pointer[tls.Certificate]
	renew := func() {
		next := m.authority.Issue(t, harness.ForURI(billingID), harness.Valid(time.Now().Add(-time.Minute), time.Now().Add(life)))
		pair.Store(&next)
	}
	renew()
	var handshakes atomic.Int64
	conn, err := grpc.NewClient(m.Addr().String(), grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{
		RootCAs: harness.Pool(m.authority), GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			handshakes.Add(1)
			return pair.Load(), nil
		},
	})))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	calls := 0
	began, renewed := time.Now(), time.Now()
	for ; time.Since(began) < life+half; calls++ {
		if code := ask(t.Context(), conn); code != codes.NotFound {
			t.Fatalf("after %s call %d is %s", time.Since(began), calls, code)
		}
		if time.Since(renewed) > half {
			renew()
			renewed = time.Now()
		}
	}
	t.Logf("%d calls over %d connections", calls, handshakes.Load())
	if handshakes.Load() < 3 {
		t.Errorf("%d connections were made, and certificates lasted as long as one", handshakes.Load())
	}
}

// sessions counts what a client is given to resume a session with.
type sessions struct{ put atomic.Int64 }

func (s *sessions) Get(string) (*tls.ClientSessionState, bool) { return nil, false }

func (s *sessions) Put(_ string, state *tls.ClientSessionState) {
	if state != nil {
		s.put.Add(1)
	}
}

// TestNoTickets: where clients are asked for certificates, no session can be resumed: it would bring a certificate that was verified before.
// Elsewhere sessions are resumed.
func TestNoTickets(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		for _, asks := range []bool{true, false} {
			m := startMutual(t, func(cfg *daemon.Config) {
				cfg.TLSMinVersion = "1.2"
				if !asks {
					cfg.TLSClientCAPath, cfg.SPIFFETrustDomains = "", nil
				}
			})
			given := &sessions{}
			pair := m.authority.Issue(t, harness.ForURI(billingID))
			conn, err := (&tls.Dialer{Config: &tls.Config{
				RootCAs: harness.Pool(m.authority), Certificates: []tls.Certificate{pair}, ClientSessionCache: given, MaxVersion: version, NextProtos: []string{"h2"},
			}}).DialContext(t.Context(), "tcp", m.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			// The server's first words of HTTP/2 come after the tickets.
			if _, err := conn.Write([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")); err != nil {
				t.Fatal(err)
			}
			if _, err := conn.Read(make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
			_ = conn.Close()
			if n := given.put.Load(); (n > 0) == asks {
				t.Errorf("TLS %x, asked for a certificate %v: %d tickets were given", version, asks, n)
			}
		}
	}
}

// TestTLSVersions: TLS 1.3, unless 1.2 is allowed, and never less.
func TestTLSVersions(t *testing.T) {
	for least, want := range map[string]map[uint16]bool{
		"":    {tls.VersionTLS11: false, tls.VersionTLS12: false, tls.VersionTLS13: true},
		"1.3": {tls.VersionTLS11: false, tls.VersionTLS12: false, tls.VersionTLS13: true},
		"1.2": {tls.VersionTLS11: false, tls.VersionTLS12: true, tls.VersionTLS13: true},
	} {
		m := startMutual(t, func(cfg *daemon.Config) { cfg.TLSMinVersion = least })
		for version, let := range want {
			conn, err := (&tls.Dialer{Config: &tls.Config{
				RootCAs: harness.Pool(m.authority), MinVersion: tls.VersionTLS10, MaxVersion: version, NextProtos: []string{"h2"},
			}}).DialContext(t.Context(), "tcp", m.Addr().String())
			if (err == nil) != let || err != nil && !strings.Contains(err.Error(), "protocol version") {
				t.Errorf("at least %q: a client with %s gets %v", least, tls.VersionName(version), err)
			}
			if conn != nil {
				_ = conn.Close()
			}
		}
	}
}

// servedBy returns the serial number of the certificate that new connections get.
func servedBy(t *testing.T, addr net.Addr) string {
	t.Helper()
	conn, err := (&tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}}}).DialContext(t.Context(), "tcp", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	return conn.(*tls.Conn).ConnectionState().PeerCertificates[0].SerialNumber.String()
}
