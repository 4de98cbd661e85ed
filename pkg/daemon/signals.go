package daemon

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/caller"
	"github.com/deputyauth/deputy/pkg/caller/certificate"
	"github.com/deputyauth/deputy/pkg/door/signals"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/pkg/signal"
	"github.com/deputyauth/deputy/pkg/statuses"
)

// maxTransmitters is how many connections the listener for security events may have.
const maxTransmitters = 256

// SignalsDir returns where in a data directory the signals are that were received, unless they are kept elsewhere.
func SignalsDir(dataDir string) string { return filepath.Join(dataDir, "signals") }

// checkSignals fills in where signals are kept, and refuses what contradicts itself.
func (c Config) checkSignals() (Config, error) {
	if c.SignalsAddr == "" {
		return c, nil
	}
	if c.SignalsDir == "" {
		if c.Engine.Dir == "" {
			return c, fmt.Errorf("--signals-listen is set, and the engine %s has no data directory that the signals could be kept in: name a directory "+
				"for them with --signals-dir", c.Engine.Kind)
		}
		c.SignalsDir = SignalsDir(c.Engine.Dir)
	}
	reachable, err := isReachable(c.SignalsAddr)
	if err == nil && reachable && !c.secured() && !c.Insecure {
		err = fmt.Errorf("--signals-listen %s can be reached from other machines, and without TLS the keys of transmitters can be read on the way: "+
			"set --tls-cert and --tls-key, or --insecure where the network itself encrypts", c.SignalsAddr)
	}
	return c, err
}

// signalsServer takes security events over HTTP. nil takes none.
type signalsServer struct {
	listener *listener
	server   *http.Server
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

// listenSignals opens the listener for security events. Without an address there is none.
func (d *Daemon) listenSignals(ctx context.Context) (*signalsServer, error) {
	if d.cfg.SignalsAddr == "" {
		return nil, nil //nolint:nilnil // a server without signals
	}
	raw, err := (&net.ListenConfig{}).Listen(ctx, "tcp", d.cfg.SignalsAddr)
	if err != nil {
		return nil, fmt.Errorf("cannot listen for signals: %w", err)
	}
	errorLog, err := zap.NewStdLogAt(d.log.Named("signals"), zap.DebugLevel) // strangers choose how much there is
	if err != nil {
		return nil, errors.Join(err, raw.Close())
	}
	s := &signalsServer{listener: newListener(raw, maxTransmitters), server: signals.New(d.sender).Server(), log: d.log}
	s.server.ErrorLog = errorLog
	s.server.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		if secured, ok := c.(*tls.Conn); ok {
			c = secured.NetConn()
		}
		if ours, ok := c.(*conn); ok {
			return context.WithValue(ctx, connKey{}, ours)
		}
		return ctx
	}
	if d.transport != nil {
		s.secured, s.server.TLSConfig = true, d.transport.httpConfig()
	}
	return s, nil
}

// connKey is under which a request's context has its connection.
type connKey struct{}

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
func (s *signalsServer) serve() {
	if s == nil {
		return
	}
	serve := func() error { return s.server.Serve(s.listener) }
	if s.secured {
		serve = func() error { return s.server.ServeTLS(s.listener, "", "") }
	}
	if err := serve(); err != nil && !errors.Is(err, http.ErrServerClosed) {
		s.log.Error("signals are not taken any more", zap.Error(err))
	}
}

// drain takes no more requests, and waits for those under way.
func (s *signalsServer) drain(ctx context.Context) {
	if s != nil {
		_ = s.server.Shutdown(ctx) // what has not ended by then is cut off by close
	}
}

// close ends it. It is safe to call twice.
func (s *signalsServer) close() error {
	if s == nil {
		return nil
	}
	return errors.Join(s.server.Close(), s.listener.Close())
}

// SignalsAddr is where security events are taken; nil means nowhere.
func (d *Daemon) SignalsAddr() net.Addr {
	if d.signals == nil {
		return nil
	}
	return d.signals.listener.Addr()
}

// receives is the method that a security event is a call of.
const receives = "/deputy.v1.SignalsService/ReceiveSignal"

// sender finds out whose a request is, by the same proofs as those of calls.
func (d *Daemon) sender(r *http.Request) (string, signals.Sender, error) {
	from := &peer.Peer{Addr: &net.UnixAddr{Name: r.RemoteAddr}}
	if d.transport != nil && d.cfg.asksClients() && r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		from.AuthInfo = securedConn{client: certificate.NewPresented(&d.transport.trust, r.TLS.PeerCertificates)}
	}
	ctx := peer.NewContext(metadata.NewIncomingContext(r.Context(), metadata.MD{"authorization": r.Header.Values("Authorization")}), from)
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
	if ours, ok := r.Context().Value(connKey{}).(*conn); ok {
		ours.keep(standingOf(caller.With(ctx, is)))
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
