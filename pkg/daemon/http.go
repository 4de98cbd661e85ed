package daemon

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	nethttp "net/http"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/caller"
	"github.com/deputyauth/deputy/pkg/caller/certificate"
	"github.com/deputyauth/deputy/pkg/door/http"
	"github.com/deputyauth/deputy/pkg/door/signals"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/pkg/gen/openapi"
	"github.com/deputyauth/deputy/pkg/rpc"
	"github.com/deputyauth/deputy/pkg/signal"
	"github.com/deputyauth/deputy/pkg/statuses"
)

// SignalsDir returns where in a data directory the signals are that were received, unless they are kept elsewhere.
func SignalsDir(dataDir string) string { return filepath.Join(dataDir, "signals") }

// checkHTTP fills in where signals are kept, and refuses what contradicts itself.
func (c Config) checkHTTP() (Config, error) {
	if c.HTTPAddr == "" {
		if len(c.HTTPOrigins) > 0 {
			return c, errors.New("--http-origin is for pages that call over HTTP: set --http-listen too")
		}
		return c, nil
	}
	if c.SignalsDir == "" && c.Engine.Dir != "" {
		c.SignalsDir = SignalsDir(c.Engine.Dir)
	}
	for _, one := range c.HTTPOrigins {
		if err := http.CheckOrigin(one); err != nil {
			return c, fmt.Errorf("--http-origin %w", err)
		}
	}
	reachable, err := isReachable("--http-listen", c.HTTPAddr)
	if err == nil && reachable && !c.secured() && !c.Insecure {
		err = fmt.Errorf("--http-listen %s can be reached from other machines, and without TLS the keys of callers can be read on the way: "+
			"set --tls-cert and --tls-key, or --insecure where the network itself encrypts", c.HTTPAddr)
	}
	return c, err
}

// httpConnections is how many of a server's connections its door over HTTP may have: a quarter, and none without the door.
func (c Config) httpConnections(all int) (grpc, overHTTP int) {
	if c.HTTPAddr == "" {
		return all, 0
	}
	overHTTP = max(all/4, 1)
	return max(all-overHTTP, 1), overHTTP
}

// httpServer serves the door over HTTP. nil serves none.
type httpServer struct {
	listener *listener
	server   *nethttp.Server
	secured  bool
	log      *zap.Logger
}

// openLedger opens what keeps the signals that were received; nil without a directory for them.
func (c Config) openLedger() (*signal.Ledger, error) {
	if c.SignalsDir == "" {
		return nil, nil //nolint:nilnil // a server without signals
	}
	return signal.OpenLedger(signal.Config{Dir: c.SignalsDir, FS: c.signalsFiles})
}

// listenHTTP opens the port for the door over HTTP, on which nothing is answered yet. Without an address there is none.
func (c Config) listenHTTP(ctx context.Context, connections int) (*listener, error) {
	if c.HTTPAddr == "" {
		return nil, nil //nolint:nilnil // a server without the door
	}
	raw, err := (&net.ListenConfig{}).Listen(ctx, "tcp", c.HTTPAddr)
	if err != nil {
		return nil, fmt.Errorf("cannot listen for HTTP: %w", err)
	}
	return newListener(raw, connections), nil
}

// openHTTP builds the door over HTTP, whose calls are carried to the services. Without a listener there is none.
func (d *Daemon) openHTTP(port *listener, calls *rpc.Carried) (*httpServer, error) {
	if port == nil {
		return nil, nil //nolint:nilnil // a server without the door
	}
	errorLog, err := zap.NewStdLogAt(d.log.Named("http"), zap.DebugLevel) // strangers choose how much there is
	if err != nil {
		return nil, err
	}
	cfg := http.Config{
		Calls: calls, Services: calls.Services(), Peer: d.peerOf, Old: d.isOld, OpenAPI: openapi.Document, Origins: d.cfg.HTTPOrigins,
		Ready: func(ctx context.Context) bool {
			state, err := d.health.Check(ctx, &healthv1.HealthCheckRequest{Service: HealthCalls})
			return err == nil && state.GetStatus() == healthv1.HealthCheckResponse_SERVING
		},
	}
	if d.ledger != nil {
		cfg.Signals = signals.New(d.sender)
	}
	door, err := http.New(cfg)
	if err != nil {
		return nil, err
	}
	s := &httpServer{listener: port, server: door.Server(d.transport != nil), log: d.log}
	s.server.ErrorLog = errorLog
	s.server.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		if secured, ok := c.(*tls.Conn); ok {
			c = secured.NetConn()
		}
		if ours, ok := c.(*conn); ok {
			return context.WithValue(ctx, connKey{}, &httpConn{ours, time.Now()})
		}
		return ctx
	}
	if d.transport != nil {
		s.secured, s.server.TLSConfig = true, d.transport.httpConfig()
	}
	return s, nil
}

// httpConn is the connection of a request, and since when there is it.
type httpConn struct {
	*conn
	since time.Time
}

// connKey is under which a request's context has its connection.
type connKey struct{}

// isOld reports whether a connection has served for as long as one may: see Config.limits.
func (d *Daemon) isOld(r *nethttp.Request) bool {
	over, ok := r.Context().Value(connKey{}).(*httpConn)
	return ok && time.Since(over.since) > d.cfg.connectionAge()
}

// peerOf is what is known of the connection that a request came over, as that of a call over gRPC.
func (d *Daemon) peerOf(r *nethttp.Request) *peer.Peer {
	from := &peer.Peer{Addr: &net.UnixAddr{Name: r.RemoteAddr}}
	if over, ok := r.Context().Value(connKey{}).(*httpConn); ok {
		from.Addr = over.RemoteAddr()
	}
	if d.transport != nil && d.cfg.asksClients() && r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		from.AuthInfo = securedConn{client: certificate.NewPresented(&d.transport.trust, r.TLS.PeerCertificates)}
	}
	return from
}

// httpConfig is what an HTTP server makes connections with.
func (t *transport) httpConfig() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12, SessionTicketsDisabled: t.cfg.asksClients(),
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			config := t.inForce.Load().config.Clone()
			config.NextProtos = []string{"h2", "http/1.1"}
			return config, nil
		},
	}
}

// serve answers until close.
func (s *httpServer) serve() {
	if s == nil {
		return
	}
	serve := func() error { return s.server.Serve(s.listener) }
	if s.secured {
		serve = func() error { return s.server.ServeTLS(s.listener, "", "") }
	}
	if err := serve(); err != nil && !errors.Is(err, nethttp.ErrServerClosed) {
		s.log.Error("calls over HTTP are not answered any more", zap.Error(err))
	}
}

// drain takes no more requests, and waits for those under way.
func (s *httpServer) drain(ctx context.Context) {
	if s != nil {
		_ = s.server.Shutdown(ctx) // what has not ended by then is cut off by close
	}
}

// close ends it. It is safe to call twice.
func (s *httpServer) close() error {
	if s == nil {
		return nil
	}
	return errors.Join(s.server.Close(), s.listener.Close())
}

// HTTPAddr is where calls over HTTP are answered, and security events taken; nil means nowhere.
func (d *Daemon) HTTPAddr() net.Addr {
	if d.http == nil {
		return nil
	}
	return d.http.listener.Addr()
}

// TakesSignals reports whether security events are taken over HTTP.
func (d *Daemon) TakesSignals() bool { return d.http != nil && d.ledger != nil }

// receives is the method that a security event is a call of.
const receives = "/deputy.v1.SignalsService/ReceiveSignal"

// sender finds out whose a request is, by the same proofs as those of calls.
func (d *Daemon) sender(r *nethttp.Request) (string, signals.Sender, error) {
	ctx := peer.NewContext(metadata.NewIncomingContext(r.Context(), metadata.MD{"authorization": r.Header.Values("Authorization")}), d.peerOf(r))
	is, err := d.gate.Whose(ctx, receives)
	if err != nil {
		return "", nil, err
	}
	send := func(ctx context.Context, token string) error {
		_, err := deputyv1.NewSignalsServiceClient(d.local.As(is)).ReceiveSignal(ctx, &deputyv1.ReceiveSignalRequest{Token: token})
		return said(err)
	}
	if is.May(caller.MethodOf(receives)) != nil {
		// The gate refuses it, and records that. Nothing of its body is read.
		return "", nil, send(r.Context(), "")
	}
	if over, ok := r.Context().Value(connKey{}).(*httpConn); ok {
		over.keep(standingOf(caller.With(ctx, is)))
	}
	return is.Name, send, nil
}

// said is what a status says, as an error.
func said(err error) error {
	if err == nil {
		return nil
	}
	st := status.Convert(err)
	kind, found := kinds[st.Code()]
	if !found {
		return err
	}
	return &authz.Error{Kind: kind, Reason: statuses.Info(st).GetReason(), Message: st.Message(), RetryAfter: statuses.RetryAfter(st)}
}

// kinds are those of the codes that a signal can be refused with.
var kinds = map[codes.Code]authz.Kind{
	codes.InvalidArgument: authz.Invalid, codes.PermissionDenied: authz.Denied, codes.Unauthenticated: authz.Unauthenticated,
	codes.ResourceExhausted: authz.Exhausted, codes.Unavailable: authz.Unavailable, codes.DeadlineExceeded: authz.Deadline,
	codes.Aborted: authz.Aborted, codes.Canceled: authz.Canceled, codes.FailedPrecondition: authz.Precondition,
}

// signalFigures are the ledger's.
func signalFigures(l *signal.Ledger) []prometheus.Collector {
	if l == nil {
		return nil
	}
	return []prometheus.Collector{
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "deputy_signals_waiting", Help: "Signals that wait for a person, or were broken off: see deputy signal list.",
		}, func() float64 { _, open := l.Counts(); return float64(open) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "deputy_signals_kept", Help: "Signals that are remembered, so that none of them takes effect twice.",
		}, func() float64 { kept, _ := l.Counts(); return float64(kept) }),
	}
}
