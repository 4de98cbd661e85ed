package daemon

import (
	"context"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/peer"

	"github.com/deputyauth/deputy/pkg/caller"
	"github.com/deputyauth/deputy/pkg/rpc"
)

// What a connection may take. A stranger is a peer that has not proven who it is.
const (
	// handshakeTime is how long a connection may take until TLS and HTTP/2 are agreed on.
	handshakeTime = 10 * time.Second
	// idleTime is how long a connection may carry no call. It is then told to go, and the client makes a new one
	// when it needs one.
	idleTime = 5 * time.Minute
	// certifiedTime is how long a connection serves new calls where client certificates decide. Then it is told to go, its calls end in their
	// own time, and the client makes a new one with the certificate that it has by now: a certificate that expires under a connection ends
	// its calls. A deployment that renews certificates in the middle of their life, as SPIRE does, needs lives of at least twice this time.
	certifiedTime = 10 * time.Minute
	// connectionAge is how long any other connection serves new calls. So a client that keeps one finds servers that were added since, and
	// leaves those that carry more than the others. gRPC spreads the time by a tenth, so that clients do not all come back at once.
	connectionAge = 30 * time.Minute
	// pingTime and pongTime are after how long of silence a client is asked whether it is there, and how long
	// it has to say so.
	pingTime, pongTime = time.Minute, 20 * time.Second
	// clientPings is how often a client may ask the same.
	clientPings = 10 * time.Second
	// maxCalls is how many calls a connection may have under way. More wait in the client. A call that its client
	// resets counts until its handler has ended, so opening and resetting calls as fast as that goes makes no more of them.
	maxCalls = 500
	// maxHeaders is the size of a call's headers, in bytes: the key, and what proxies add.
	maxHeaders = 32 << 10
	// streamWindow and connWindow are how many bytes of a call, and of a connection, a client may send that nobody
	// has asked for. They do not grow: a message that is being read makes room for itself.
	streamWindow, connWindow = 64 << 10, 1 << 20
)

// limits are the server options that bound a connection.
func (c Config) limits() []grpc.ServerOption {
	alive := keepalive.ServerParameters{
		MaxConnectionIdle: idleTime, Time: pingTime, Timeout: pongTime,
		// Without an end to the calls that are under way then: streams have limits of their own.
		MaxConnectionAge: c.connectionAge(),
	}
	return []grpc.ServerOption{
		grpc.ConnectionTimeout(handshakeTime),
		grpc.KeepaliveParams(alive),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: clientPings, PermitWithoutStream: true}),
		grpc.MaxConcurrentStreams(maxCalls),
		grpc.MaxHeaderListSize(maxHeaders),
		grpc.StaticStreamWindowSize(streamWindow),
		grpc.StaticConnWindowSize(connWindow),
		grpc.ReadBufferSize(8 << 10),
	}
}

// connectionAge is how long a connection serves new calls.
func (c Config) connectionAge() time.Duration {
	age := orDefault(c.MaxConnectionAge, connectionAge)
	if c.asksClients() {
		age = min(age, orDefault(c.certifiedTime, certifiedTime))
	}
	return age
}

// listener bounds the connections that are open at once, so that they leave the descriptors that the store needs.
//
// Taking no more connections at the bound, as netutil.LimitListener does, would let a stranger with as many idle
// connections keep everybody out, an admin who wants to revoke above all. Here the connection of a stranger gives
// way to the next one; those of known callers stay. An eighth of the places is kept for callers who can
// suspend in all tenants: however many connections all others leave open, an admin gets in, unless it is bound to some tenants itself.
//
// It is safe for concurrent use.
type listener struct {
	net.Listener
	max int

	mu        sync.Mutex
	open      map[*conn]struct{}
	strangers crowd
	// services counts the connections that are kept for callers who cannot suspend in all tenants.
	services int
	// draining says that no connection is to be made any more.
	draining bool

	evicted, refused atomic.Uint64
}

// newListener bounds what a listener accepts to a number of connections.
func newListener(inner net.Listener, connections int) *listener {
	return &listener{Listener: inner, max: connections, open: map[*conn]struct{}{}}
}

// conn is an accepted connection.
type conn struct {
	net.Conn
	listener *listener
	guest    guest
	// agreed says that the handshakes are done.
	agreed bool
	// known is the highest standing that was seen on it and that it is kept for.
	known atomic.Uint32
}

// peerAddr is the address of a connection's peer, by which a call finds its connection.
type peerAddr struct {
	net.Addr
	conn *conn
}

// RemoteAddr is net.Conn's.
func (c *conn) RemoteAddr() net.Addr { return peerAddr{c.Conn.RemoteAddr(), c} }

// SetDeadline is net.Conn's. gRPC takes the deadline off once the handshakes are done, and that is how it is
// known here.
func (c *conn) SetDeadline(t time.Time) error {
	if t.IsZero() {
		c.listener.mu.Lock()
		c.agreed = true
		c.listener.mu.Unlock()
	}
	return c.Conn.SetDeadline(t)
}

// Close is net.Conn's.
func (c *conn) Close() error {
	c.listener.mu.Lock()
	c.listener.forgetLocked(c)
	c.listener.mu.Unlock()
	return c.Conn.Close()
}

// Accept is net.Listener's.
func (l *listener) Accept() (net.Conn, error) {
	for {
		raw, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		c := &conn{Conn: raw, listener: l}
		c.guest = guest{of: c, peer: peerOf(raw.RemoteAddr()), leave: func() { _ = raw.Close() }}
		in, out := l.admit(c)
		if out != nil {
			out.leave()
			l.evicted.Add(1)
		}
		if in {
			return c, nil
		}
		l.refused.Add(1)
		_ = raw.Close()
	}
}

// admit finds a place for a connection, and says which one has to go for it.
func (l *listener) admit(c *conn) (in bool, out *guest) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.draining {
		return false, nil
	}
	if len(l.open) >= l.max {
		if out = l.strangers.oldest(); out == nil {
			return false, nil
		}
		delete(l.open, out.of.(*conn)) //nolint:forcetypeassert,errcheck // all guests here are connections
	}
	l.open[c] = struct{}{}
	l.strangers.add(&c.guest)
	return true, out
}

// forgetLocked takes a connection out. It may be out already.
func (l *listener) forgetLocked(c *conn) {
	if _, found := l.open[c]; !found {
		return
	}
	delete(l.open, c)
	if !l.strangers.remove(&c.guest) && standing(c.known.Load()) == aCaller {
		l.services--
	}
}

// standing is how much a connection's place is worth. The zero standing gives way to every other.
type standing uint32

const (
	// aStranger has proven nothing.
	aStranger standing = iota
	// aCaller is a known caller.
	aCaller
	// aResponder is one that can suspend in all tenants; one that is bound to some is aCaller.
	aResponder
)

func standingOf(ctx context.Context) standing {
	switch c := caller.Of(ctx); {
	case !c.Known():
		return aStranger
	case c.Brakes():
		return aResponder
	default:
		return aCaller
	}
}

// keep notes that a caller was seen on a connection: from then on it gives way to nobody, unless callers who cannot suspend in all
// tenants have their share of such connections already.
func (c *conn) keep(as standing) {
	was := standing(c.known.Load())
	if as <= was {
		return
	}
	l := c.listener
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, found := l.open[c]; !found {
		return
	}
	was = standing(c.known.Load())
	if as <= was || as == aCaller && l.services >= l.max-(l.max+7)/8 {
		return
	}
	if was == aCaller {
		l.services--
	}
	if as == aCaller {
		l.services++
	}
	l.strangers.remove(&c.guest)
	c.known.Store(uint32(as))
}

// drain has no more connections made, and ends those that are still being made: nobody has been promised an
// answer on them, and gRPC would wait for each.
func (l *listener) drain() {
	l.closeIf(func(c *conn) bool { return !c.agreed })
}

// cut ends all connections.
func (l *listener) cut() {
	l.closeIf(func(*conn) bool { return true })
}

func (l *listener) closeIf(end func(*conn) bool) {
	l.mu.Lock()
	l.draining = true
	var ending []*conn
	for c := range l.open {
		if end(c) {
			ending = append(ending, c)
		}
	}
	l.mu.Unlock()
	for _, c := range ending {
		_ = c.Close()
	}
}

// keeping are the interceptors that keep the connections of known callers. They stand behind those
// that find out.
func keeping() rpc.Chain {
	keep := func(ctx context.Context) {
		as := standingOf(ctx)
		if as == aStranger {
			return
		}
		if from, found := peer.FromContext(ctx); found {
			if addr, ours := from.Addr.(peerAddr); ours {
				addr.conn.keep(as)
			}
		}
	}
	return rpc.Chain{
		Unary: []grpc.UnaryServerInterceptor{
			func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
				keep(ctx)
				return handler(ctx, req)
			},
		},
		Stream: []grpc.StreamServerInterceptor{
			func(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
				keep(stream.Context())
				return handler(srv, stream)
			},
		},
	}
}

// collectors are the listener's figures, whose names begin with one, and whose help with what connections they are.
func (l *listener) collectors(name, what string) []prometheus.Collector {
	open := func() float64 {
		l.mu.Lock()
		defer l.mu.Unlock()
		return float64(len(l.open))
	}
	return []prometheus.Collector{
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: name, Help: what + " that are open.",
		}, open),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: name + "_limit", Help: "How many " + strings.ToLower(what[:1]) + what[1:] + " may be open at once.",
		}, func() float64 { return float64(l.max) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: name + "_evicted_total", Help: what + " without a key that gave way to the next one, at the limit.",
		}, func() float64 { return float64(l.evicted.Load()) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: name + "_refused_total", Help: what + " that were closed at once, because callers with a key hold all places.",
		}, func() float64 { return float64(l.refused.Load()) }),
	}
}
