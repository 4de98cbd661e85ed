package engine_test

import (
	"crypto/tls"
	"encoding/pem"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/engine"
	"github.com/deputyauth/deputy/pkg/statuses"
)

// TestRemoteNamesItsSettings: a server that cannot use what is behind Remote says the cause, and which of its own settings to look at. It passes no status
// on, from which a client would take that its own key is wrong, and speaks of no writes.
func TestRemoteNamesItsSettings(t *testing.T) {
	t.Parallel()
	certified := httptest.NewUnstartedServer(nil)
	certified.StartTLS()
	certified.Close()
	certificate := certified.TLS.Certificates[0]
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Certificate[0]}), 0o600); err != nil {
		t.Fatal(err)
	}
	secure := grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12}))
	refuses := func(code codes.Code, reason, says string, options ...grpc.ServerOption) string {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		s := grpc.NewServer(append(options, grpc.UnknownServiceHandler(func(any, grpc.ServerStream) error {
			return statuses.New(code, reason, "", says).Err()
		}))...)
		go func() { _ = s.Serve(listener) }()
		t.Cleanup(s.Stop)
		return listener.Addr().String()
	}
	nobody, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	down := nobody.Addr().String()
	_ = nobody.Close()
	tlsOnly, plain := refuses(codes.NotFound, "NONE", "", secure), refuses(codes.NotFound, "NONE", "")
	for name, c := range map[string]struct {
		cfg  engine.Config
		says []string
	}{
		"a wrong key": {
			engine.Config{Endpoint: refuses(codes.Unauthenticated, "INVALID_CREDENTIAL", "the key is not known"), Insecure: true},
			[]string{"the key is not known", "--remote-preshared-key or --remote-preshared-key-file"},
		},
		"no method is open": {
			engine.Config{Endpoint: refuses(codes.PermissionDenied, authz.ReasonOutOfBounds, "ReadSchema is not open to the caller node"), Insecure: true},
			[]string{"ReadSchema is not open to the caller node", "--authzed-api all"},
		},
		"no authority":     {engine.Config{Endpoint: tlsOnly}, []string{"x509", "--remote-ca"}},
		"TLS is not asked": {engine.Config{Endpoint: tlsOnly, Insecure: true}, []string{"leave --remote-insecure out", "--remote-ca"}},
		"no TLS":           {engine.Config{Endpoint: plain, CAPath: ca}, []string{"does not look like a TLS handshake", "set --remote-insecure"}},
		"nobody is there":  {engine.Config{Endpoint: down, Insecure: true}, []string{"connection refused", "check that it runs", "--remote-endpoint"}},
		"a URL":            {engine.Config{Endpoint: "https://db:50051/", Insecure: true}, []string{"--remote-endpoint", "such as db:50051"}},
		"no port":          {engine.Config{Endpoint: "db", Insecure: true}, []string{"--remote-endpoint", "such as db:50051"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c.cfg.Kind, c.cfg.PresharedKey, c.cfg.Log = engine.Remote, "key", zap.NewNop()
			e, err := engine.Open(t.Context(), c.cfg)
			if err == nil {
				_ = e.Close()
				t.Fatal("it opens")
			}
			for _, part := range c.says {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("it says %q, without %q", err, part)
				}
			}
			if strings.Contains(err.Error(), "write was made") {
				t.Errorf("it speaks of writes: %q", err)
			}
			if statuses.Within(err) != nil {
				t.Errorf("it passes a status on: %v", statuses.Within(err))
			}
		})
	}
}
