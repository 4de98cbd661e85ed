package daemon_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/deputyauth/deputy/pkg/daemon"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/tests/harness"
)

// health is how the server says that something of it is.
func (m *mutual) health(t *testing.T, name string) healthv1.HealthCheckResponse_ServingStatus {
	t.Helper()
	is, err := healthv1.NewHealthClient(m.Nobody).Check(t.Context(), &healthv1.HealthCheckRequest{Service: name})
	if err != nil {
		t.Fatal(err)
	}
	return is.GetStatus()
}

// figure returns a line of the server's metrics.
func (m *mutual) figure(t *testing.T, name string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+m.MetricsAddr().String()+"/metrics", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	line := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(name) + ` (\S+)$`).FindStringSubmatch(string(text))
	if line == nil {
		t.Fatalf("there is no %s", name)
	}
	return line[1]
}

// TestWrongCertificates: what cannot be used is told by the log, the metrics and the health service, and what was in force stays, until the
// files are right again.
func TestWrongCertificates(t *testing.T) {
	m := startMutual(t, func(cfg *daemon.Config) { cfg.MetricsAddr = "127.0.0.1:0"; *cfg = cfg.LookingEvery(time.Hour) })
	const ok, failed = `deputy_tls_reloads_total{result="success"}`, `deputy_tls_reloads_total{result="failure"}`
	cert, key, ca := filepath.Join(m.dir, "tls.crt"), filepath.Join(m.dir, "tls.key"), filepath.Join(m.dir, "ca.crt")
	first := servedBy(t, m.Addr())
	client := m.authority.Issue(t, harness.ForURI(billingID))
	write := func(path, text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	read := func(path string) string {
		t.Helper()
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	was := map[string]string{cert: read(cert), key: read(key), ca: read(ca)}
	hour := time.Hour
	other := t.TempDir()
	harness.WritePair(t, other, m.authority.Issue(t))
	late := t.TempDir()
	harness.WritePair(t, late, m.authority.Issue(t, harness.Valid(time.Now().Add(-2*hour), time.Now().Add(-hour))))
	early := t.TempDir()
	harness.WritePair(t, early, m.authority.Issue(t, harness.Valid(time.Now().Add(hour), time.Now().Add(2*hour))))
	failures := 0
	for _, test := range []struct {
		what  string
		files map[string]string
		want  string
	}{
		{"a certificate without its key", map[string]string{cert: read(filepath.Join(other, "tls.crt"))}, "--tls-cert " + cert + " with --tls-key " + key},
		{"a key of another certificate", map[string]string{key: read(filepath.Join(other, "tls.key"))}, "private key does not match public key"},
		{"half a certificate", map[string]string{cert: was[cert][:len(was[cert])/2]}, cert},
		{"no certificate", map[string]string{cert: ""}, "failed to find any PEM data"},
		{"no file", map[string]string{key: "absent"}, key},
		{"an expired certificate", map[string]string{cert: read(filepath.Join(late, "tls.crt")), key: read(filepath.Join(late, "tls.key"))}, "renew it, or check the clock"},
		{"tomorrow's certificate", map[string]string{cert: read(filepath.Join(early, "tls.crt")), key: read(filepath.Join(early, "tls.key"))}, "renew it, or check the clock"},
		{"no authorities", map[string]string{ca: "\n"}, "--tls-client-ca " + ca + ": it holds no certificate"},
		{"a key among the authorities", map[string]string{ca: was[ca] + was[key]}, "it holds a PRIVATE KEY"},
		{"half an authority", map[string]string{ca: was[ca] + "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"}, "its certificate 2"},
		{"a file without an end", map[string]string{ca: strings.Repeat(was[ca], 1<<20/len(was[ca])+1)}, "has more than 1048576 bytes"},
	} {
		for path, text := range test.files {
			if text == "absent" {
				if err := os.Remove(path); err != nil {
					t.Fatal(err)
				}
				continue
			}
			write(path, text)
		}
		for range 2 { // the second time is no news
			if err := m.ReloadTLS(); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%s: got %v, want an error with %q", test.what, err, test.want)
			}
		}
		failures++
		if lines := m.calls.FilterMessageSnippet("what was in force stays").TakeAll(); len(lines) != 1 || !strings.Contains(lines[0].ContextMap()["error"].(string), test.want) {
			t.Errorf("%s: the log has %d lines: %v", test.what, len(lines), lines)
		}
		if is, all := m.health(t, daemon.HealthTLS), m.health(t, ""); is != healthv1.HealthCheckResponse_NOT_SERVING || all != healthv1.HealthCheckResponse_SERVING {
			t.Errorf("%s: the health of TLS is %s, and the server's %s", test.what, is, all)
		}
		if got := m.figure(t, failed); got != strconv.Itoa(failures) {
			t.Errorf("%s: %s reloads failed, want %d", test.what, got, failures)
		}
		if got := servedBy(t, m.Addr()); got != first {
			t.Errorf("%s: new connections get another certificate", test.what)
		}
		if name, code := m.as(t, harness.DialTLS(t, m.Addr().String(), "", m.authority, client)); name != "billing" || code != codes.NotFound {
			t.Errorf("%s: a client's call is %q's and %s", test.what, name, code)
		}
		for path, text := range was {
			write(path, text)
		}
		if err := m.ReloadTLS(); err != nil {
			t.Errorf("after %s: %v", test.what, err)
		}
		if is := m.health(t, daemon.HealthTLS); is != healthv1.HealthCheckResponse_SERVING {
			t.Errorf("after %s: the health of TLS is %s", test.what, is)
		}
	}
	if got := m.figure(t, ok); got != "0" {
		t.Errorf("%s changes were counted before there was one", got)
	}
	until := time.Now().Add(3 * hour).Truncate(time.Second)
	harness.WritePair(t, m.dir, m.authority.Issue(t, harness.Valid(time.Now().Add(-hour), until)))
	if err := m.Reload(); err != nil {
		t.Fatal(err)
	}
	if servedBy(t, m.Addr()) == first {
		t.Error("new connections get the certificate from before")
	}
	if got := m.figure(t, ok); got != "1" {
		t.Errorf("%s changes were counted, want 1", got)
	}
	if got, want := m.figure(t, "deputy_tls_certificate_expires_timestamp_seconds"), strconv.FormatFloat(float64(until.Unix()), 'g', -1, 64); got != want {
		t.Errorf("the certificate expires at %s, want %s", got, want)
	}
}

// TestWrongPartsAreApart: a certificate that cannot be used keeps no authority in force that was taken out, and authorities that cannot be used
// keep no new certificate away.
func TestWrongPartsAreApart(t *testing.T) {
	m := startMutual(t, func(cfg *daemon.Config) { *cfg = cfg.LookingEvery(time.Hour) })
	cert, ca, next := filepath.Join(m.dir, "tls.crt"), filepath.Join(m.dir, "ca.crt"), harness.NewAuthority(t, "next")
	conn := harness.DialTLS(t, m.Addr().String(), "", m.authority, m.authority.Issue(t, harness.ForURI(billingID)))
	if _, code := m.as(t, conn); code != codes.NotFound {
		t.Fatalf("at first a call is %s", code)
	}
	if err := os.WriteFile(cert, []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	harness.WriteAuthorities(t, ca, next)
	if err := m.ReloadTLS(); err == nil || !strings.Contains(err.Error(), cert) {
		t.Errorf("a wrong certificate: %v", err)
	}
	if _, code := m.as(t, conn); code != codes.Unauthenticated {
		t.Errorf("beside a wrong certificate a call whose authority was taken out is %s", code)
	}
	pair := m.authority.Issue(t)
	harness.WritePair(t, m.dir, pair)
	if err := os.WriteFile(ca, []byte("no authority"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := m.ReloadTLS(); err == nil || !strings.Contains(err.Error(), ca) || strings.Contains(err.Error(), cert) {
		t.Errorf("wrong authorities: %v", err)
	}
	if servedBy(t, m.Addr()) != pair.Leaf.SerialNumber.String() {
		t.Error("beside wrong authorities new connections do not get the new certificate")
	}
	if name, code := m.as(t, harness.DialTLS(t, m.Addr().String(), "", m.authority, next.Issue(t, harness.ForURI(billingID)))); name != "billing" {
		t.Errorf("beside wrong authorities a call of those from before is %q's and %s", name, code)
	}
}

// TestAuthorityGoesBeforeTheMessage: a call that was opened while its authority was trusted, and whose message comes once it is not, is refused.
func TestAuthorityGoesBeforeTheMessage(t *testing.T) {
	m := startMutual(t, func(cfg *daemon.Config) { cfg.MetricsAddr = "127.0.0.1:0"; *cfg = cfg.LookingEvery(time.Hour) })
	ca, next := filepath.Join(m.dir, "ca.crt"), harness.NewAuthority(t, "next")
	harness.WriteAuthorities(t, ca, m.authority, next)
	if err := m.ReloadTLS(); err != nil {
		t.Fatal(err)
	}
	calls := map[codes.Code]grpc.ClientStream{}
	for want, by := range map[codes.Code]*harness.Authority{codes.Unauthenticated: m.authority, codes.NotFound: next} {
		conn := harness.DialTLS(t, m.Addr().String(), "", m.authority, by.Issue(t, harness.ForURI(billingID)))
		call, err := conn.NewStream(t.Context(), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/deputy.v1.SessionsService/GetSession")
		if err != nil {
			t.Fatal(err)
		}
		calls[want] = call
	}
	eventually(t, "both calls are open", func() bool { return m.figure(t, "deputy_calls_in_flight") == "2" })
	harness.WriteAuthorities(t, ca, next)
	if err := m.ReloadTLS(); err != nil {
		t.Fatal(err)
	}
	for want, call := range calls {
		if err := call.SendMsg(&deputyv1.GetSessionRequest{SessionId: "absent"}); err != nil {
			t.Fatal(err)
		}
		if err := call.CloseSend(); err != nil {
			t.Fatal(err)
		}
		if err := call.RecvMsg(&deputyv1.GetSessionResponse{}); status.Code(err) != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

// TestWrongCertificatesAtTheStart: a server does not start with what it could not reload.
func TestWrongCertificatesAtTheStart(t *testing.T) {
	dir, authority := t.TempDir(), harness.NewAuthority(t, "trusted")
	cfg := harness.TLS(t, dir, authority, true, daemon.Config{PresharedKeys: []string{harness.ServiceKey}})
	cfg.Engine.Kind = "memory"
	harness.WritePair(t, dir, authority.Issue(t, harness.Valid(time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour))))
	for what, open := range map[string]func() error{
		"Check": cfg.Check,
		"Open": func() error {
			d, err := daemon.Open(t.Context(), cfg, zap.NewNop())
			if err == nil {
				_ = d.Close()
			}
			return err
		},
	} {
		if err := open(); err == nil || !strings.Contains(err.Error(), "--tls-cert "+cfg.TLSCertPath+", is valid from") {
			t.Errorf("%s: got %v", what, err)
		}
	}
}

// TestAuthoritiesOnly: what is to sign clients' certificates is an authority's. A client's own certificate there would mostly be a mix-up of two files.
func TestAuthoritiesOnly(t *testing.T) {
	dir, authority := t.TempDir(), harness.NewAuthority(t, "trusted")
	cfg := harness.TLS(t, dir, authority, true, daemon.Config{PresharedKeys: []string{harness.ServiceKey}})
	cfg.Engine.Kind = "memory"
	if err := cfg.Check(); err != nil {
		t.Fatalf("with an authority: %v", err)
	}
	leaf := authority.Issue(t, harness.ForName(auditName))
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf.Certificate[0]})
	if err := os.WriteFile(cfg.TLSClientCAPath, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := cfg.Check(); err == nil || !strings.Contains(err.Error(), "its certificate 1") || !strings.Contains(err.Error(), "is no authority's") {
		t.Errorf("with a client's certificate: %v", err)
	}
}

// TestKubernetesSwap: the server finds by itself what Kubernetes puts into a mounted Secret: the files are links into a directory, which is a
// link to another one that is exchanged.
func TestKubernetesSwap(t *testing.T) {
	mount, authority := t.TempDir(), harness.NewAuthority(t, "trusted")
	swap := func(version string, pair tls.Certificate) {
		t.Helper()
		dir := filepath.Join(mount, version)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		harness.WritePair(t, dir, pair)
		harness.WriteAuthorities(t, filepath.Join(dir, "ca.crt"), authority)
		old, _ := os.Readlink(filepath.Join(mount, "..data"))
		if err := os.Symlink(version, filepath.Join(mount, "..data_tmp")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(mount, "..data_tmp"), filepath.Join(mount, "..data")); err != nil {
			t.Fatal(err)
		}
		if old != "" {
			if err := os.RemoveAll(filepath.Join(mount, old)); err != nil {
				t.Fatal(err)
			}
		}
	}
	pair := authority.Issue(t)
	swap("..2026_11_28_1", pair)
	for _, name := range []string{"tls.crt", "tls.key", "ca.crt"} {
		if err := os.Symlink(filepath.Join("..data", name), filepath.Join(mount, name)); err != nil {
			t.Fatal(err)
		}
	}
	m := startMutual(t, func(cfg *daemon.Config) {
		cfg.TLSCertPath, cfg.TLSKeyPath = filepath.Join(mount, "tls.crt"), filepath.Join(mount, "tls.key")
		cfg.TLSClientCAPath = filepath.Join(mount, "ca.crt")
		*cfg = cfg.LookingEvery(10 * time.Millisecond)
	})
	for _, version := range []string{"..2026_11_28_2", "..2026_11_28_3"} {
		if got := servedBy(t, m.Addr()); got != pair.Leaf.SerialNumber.String() {
			t.Fatal("new connections get another certificate than the one that is mounted")
		}
		pair = authority.Issue(t)
		swap(version, pair)
		eventually(t, "new connections get the certificate that is mounted now", func() bool { return servedBy(t, m.Addr()) == pair.Leaf.SerialNumber.String() })
	}
	if failed := m.calls.FilterMessageSnippet("what was in force stays").All(); len(failed) != 0 {
		t.Errorf("a swap was taken for a wrong certificate: %v", failed)
	}
}

// TestRotationUnderLoad: 10,000 calls, with -short 1,000, while the server's certificate, the clients' and the authorities change. None fails that was entitled
// all the time, and none passes whose authority was taken out before it began.
func TestRotationUnderLoad(t *testing.T) {
	const workers = 8
	calls := int64(10_000)
	if testing.Short() {
		calls = 1000
	}
	m := startMutual(t, func(cfg *daemon.Config) { *cfg = cfg.LookingEvery(5 * time.Millisecond) })
	stays, goes := m.authority, harness.NewAuthority(t, "goes and comes")
	ca := filepath.Join(m.dir, "ca.crt")
	var made, wrong, refusedCalls, passed, changes atomic.Int64
	// state is what is known of the second authority; neither while it changes.
	type state struct{ trusted, revoked bool }
	var inForce atomic.Pointer[state]
	harness.WriteAuthorities(t, ca, stays, goes)
	if err := m.ReloadTLS(); err != nil {
		t.Fatal(err)
	}
	inForce.Store(&state{trusted: true})
	over := make(chan struct{})
	var rotating, calling, connected sync.WaitGroup
	connected.Add(workers)
	rotating.Go(func() {
		connected.Wait() // a client that is refused at first waits a second and more until it connects again
		for i := 0; ; i++ {
			select {
			case <-over:
				return
			default:
			}
			harness.WritePair(t, m.dir, stays.Issue(t))
			inForce.Store(&state{})
			if i%2 == 0 {
				harness.WriteAuthorities(t, ca, stays)
			} else {
				harness.WriteAuthorities(t, ca, goes, stays)
			}
			if err := m.ReloadTLS(); err != nil {
				t.Errorf("rotation %d: %v", i, err)
			}
			inForce.Store(&state{trusted: i%2 == 1, revoked: i%2 == 0})
			changes.Add(1)
			// Some calls are made in each state.
			for from := made.Load(); made.Load() < min(from+100, calls); {
				select {
				case <-over:
					return
				case <-time.After(time.Millisecond):
				}
			}
		}
	})
	for range workers {
		calling.Go(func() {
			dial := func(by *harness.Authority, change func(*x509.Certificate)) *grpc.ClientConn {
				conn, err := harness.ConnectTLS(m.Addr().String(), "", &tls.Config{RootCAs: harness.Pool(stays)}, by.Issue(t, change))
				if err != nil {
					t.Error(err)
				}
				return conn
			}
			entitled, revoked := dial(stays, harness.ForURI(billingID)), dial(goes, harness.ForName(auditName))
			defer func() { _ = entitled.Close(); _ = revoked.Close() }()
			if code := ask(t.Context(), revoked); code != codes.NotFound {
				t.Errorf("a call before anything changes: %v", code)
			}
			connected.Done()
			for n := made.Add(1); n <= calls; n = made.Add(1) {
				if n%50 == 0 { // a new certificate, and a connection with it
					_ = entitled.Close()
					entitled = dial(stays, harness.ForURI(billingID))
				}
				if code := ask(t.Context(), entitled); code != codes.NotFound {
					wrong.Add(1)
					t.Errorf("a call that was entitled is %s", code)
				}
				before := inForce.Load()
				code := ask(t.Context(), revoked)
				unchanged := inForce.Load() == before
				switch code {
				case codes.NotFound:
					passed.Add(1)
					if before.revoked && unchanged {
						t.Error("a call passed whose authority had been taken out")
					}
				case codes.Unauthenticated, codes.Unavailable:
					refusedCalls.Add(1)
					// A connection that could not be made is tried again after a while, so that only an open one tells.
					if before.trusted && unchanged && code == codes.Unauthenticated {
						t.Error("a call was refused whose authority is trusted")
					}
				default:
					t.Errorf("a call is %s", code)
				}
			}
		})
	}
	calling.Wait()
	close(over)
	rotating.Wait()
	t.Logf("%d changes; of the calls with the authority that goes and comes %d passed and %d were refused", changes.Load(), passed.Load(), refusedCalls.Load())
	if wrong.Load() > 0 || changes.Load() < 10 || passed.Load() < 100 || refusedCalls.Load() < 100 {
		t.Errorf("%d calls failed, there were %d changes, %d passed and %d were refused", wrong.Load(), changes.Load(), passed.Load(), refusedCalls.Load())
	}
}
