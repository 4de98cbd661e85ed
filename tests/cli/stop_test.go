//go:build linux

package cli

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	authzed "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

// hardEnd is how much longer than its grace a server may take to end: 5 s, and what a machine at work needs to
// start a timer.
const hardEnd = 6 * time.Second

// TestStopWaitsForNoStranger: with a minute of grace, a server ends at once where nothing is under way but
// connections that are being made, or idle, and streams that have no end.
func TestStopWaitsForNoStranger(t *testing.T) {
	for name, args := range map[string][]string{"plaintext": nil, "TLS": keyPair(t)} {
		t.Run(name, func(t *testing.T) {
			beginnings := []string{silence, halfHello, halfPreface}
			if name == "TLS" {
				beginnings = beginnings[:2] // the last is no TLS
			}
			s := besiege(t, 0, append(args, "--shutdown-grace", "1m")...)
			if name == "plaintext" {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				populate(t, ctx, s.dial(t, strangersAdmin))
				health, err := healthv1.NewHealthClient(s.dial(t, "")).Watch(ctx, &healthv1.HealthCheckRequest{})
				if err != nil {
					t.Fatal(err)
				}
				if _, err := health.Recv(); err != nil {
					t.Fatal(err)
				}
				watch, err := authzed.NewWatchServiceClient(s.dial(t, strangersService)).Watch(ctx, &authzed.WatchRequest{})
				if err != nil {
					t.Fatal(err)
				}
				received := make(chan error, 100)
				go func() {
					for err := error(nil); err == nil; {
						_, err = watch.Recv()
						received <- err
					}
				}()
				n := 0
				settles(t, "the watch is under way", func() bool {
					n++
					touch(t, ctx, s.dial(t, strangersAdmin), fmt.Sprint(n))
					return len(received) > 0
				})
				defer func() {
					// Its client goes on elsewhere.
					err := <-received
					for err == nil {
						err = <-received
					}
					if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "the server stops") {
						t.Errorf("the watch ends with %v", err)
					}
				}()
			}
			before := s.figure(t, "deputy_connections")
			s.knock(t, 8, beginnings...)
			settles(t, "connections are there", func() bool { return s.figure(t, "deputy_connections") >= before+8 })
			s.stop(t, 10*time.Second)
		})
	}
}

// TestStopHasAHardEnd: whatever clients leave open, a server ends soon after its grace, and in order.
func TestStopHasAHardEnd(t *testing.T) {
	s := besiege(t, 0, "--shutdown-grace", "500ms")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	admin := s.dial(t, strangersAdmin)
	populate(t, ctx, admin)
	s.knock(t, 8, silence, halfHello, halfPreface, preface)

	// An import that is begun and goes no further. Its messages are more than the server takes in unread.
	load, err := authzed.NewPermissionsServiceClient(admin).ImportBulkRelationships(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		message := &authzed.ImportBulkRelationshipsRequest{}
		for j := range 1000 {
			message.Relationships = append(message.Relationships, reads(fmt.Sprintf("%d-%0500d", i, j)))
		}
		if err := load.Send(message); err != nil {
			t.Fatal(err)
		}
	}
	done, err := authzed.NewPermissionsServiceClient(admin).ImportBulkRelationships(ctx)
	if err != nil {
		t.Fatal(err)
	}
	message := &authzed.ImportBulkRelationshipsRequest{}
	for j := range 4000 {
		message.Relationships = append(message.Relationships, reads(fmt.Sprintf("done-%0500d", j)))
	}
	if err := done.Send(message); err != nil {
		t.Fatal(err)
	}
	if _, err := done.CloseAndRecv(); err != nil {
		t.Fatal(err)
	}

	// A call with a key whose message never comes.
	if _, err := s.dial(t, strangersService).NewStream(ctx, &grpc.StreamDesc{ClientStreams: true}, "/authzed.api.v1.PermissionsService/CheckPermission"); err != nil {
		t.Fatal(err)
	}

	// A client that asks for 2 MB and, from some moment on, reads nothing at all.
	stopped := make(chan struct{})
	defer close(stopped)
	deaf := make(chan struct{})
	reader := s.dial(t, strangersAdmin, grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
		return &deafConn{Conn: conn, deaf: deaf, stopped: stopped}, err
	}))
	export, err := authzed.NewPermissionsServiceClient(reader).ExportBulkRelationships(ctx, &authzed.ExportBulkRelationshipsRequest{
		Consistency: &authzed.Consistency{Requirement: &authzed.Consistency_FullyConsistent{FullyConsistent: true}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := export.Recv(); err != nil {
		t.Fatal(err)
	}
	close(deaf)

	if took := s.stop(t, 2*time.Minute); took > 500*time.Millisecond+hardEnd {
		t.Errorf("the server took %s to end, with a grace of 500ms", took)
	}
	log := s.Log()
	if !strings.Contains(log, "calls under way were cut off") {
		t.Errorf("the log does not say that calls were cut off:\n%s", log)
	}
}

// deafConn is a connection whose bytes are not read any more once deaf is closed.
type deafConn struct {
	net.Conn
	deaf, stopped <-chan struct{}
}

func (c *deafConn) Read(p []byte) (int, error) {
	select {
	case <-c.deaf:
		<-c.stopped
	default:
	}
	return c.Conn.Read(p)
}

// keyPair returns the flags for a certificate that signs itself.
func keyPair(t *testing.T) []string {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	key, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	flags := []string{"--tls-cert", filepath.Join(dir, "cert.pem"), "--tls-key", filepath.Join(dir, "key.pem")}
	for path, block := range map[string]*pem.Block{flags[1]: {Type: "CERTIFICATE", Bytes: certificate}, flags[3]: {Type: "PRIVATE KEY", Bytes: key}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return flags
}
