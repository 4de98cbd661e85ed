package daemon

import (
	"net"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/caller"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// TestCrowd: the peer that holds most gives way, its oldest first.
func TestCrowd(t *testing.T) {
	t.Parallel()
	var c crowd
	guests := map[string]*guest{}
	add := func(name, peer string) {
		guests[name] = &guest{of: name, peer: peer}
		c.add(guests[name])
	}
	oldest := func() string {
		if g := c.oldest(); g != nil {
			name, _ := g.of.(string)
			return name
		}
		return ""
	}
	add("a1", "a")
	add("b1", "b")
	add("b2", "b")
	add("b3", "b")
	add("a2", "a")
	if !c.remove(guests["b2"]) || c.remove(guests["b2"]) {
		t.Error("a guest leaves once")
	}
	add("b4", "b")
	if first := oldest(); first != "b1" {
		t.Errorf("the first to give way is %s, want b1", first)
	}
	at := map[string]int{}
	for name := oldest(); name != ""; name = oldest() {
		at[name] = len(at)
	}
	// Once both hold as many, either may be asked.
	if len(at) != 4 || at["a1"] > at["a2"] || at["b3"] > at["b4"] {
		t.Errorf("the others give way in the order %v, want the older ones of each peer first", at)
	}
	if c.size != 0 || len(c.peers) != 0 {
		t.Errorf("an empty crowd holds %d guests of %d peers", c.size, len(c.peers))
	}
}

// TestPeerOf: ports do not make peers, nor do the addresses of one IPv6 network.
func TestPeerOf(t *testing.T) {
	t.Parallel()
	for addr, want := range map[string]string{
		"192.0.2.1:1": "192.0.2.1", "192.0.2.1:2": "192.0.2.1", "192.0.2.2:1": "192.0.2.2",
		"[2001:db8:1:2:3::4]:1": "2001:db8:1:2::/64", "[2001:db8:1:2:5::6]:7": "2001:db8:1:2::/64", "[2001:db8:1:3::]:1": "2001:db8:1:3::/64",
		"[::ffff:192.0.2.1]:1": "::ffff:192.0.2.1",
	} {
		tcp, err := net.ResolveTCPAddr("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		if got := peerOf(tcp); got != want && !strings.Contains(want, got) {
			t.Errorf("%s is %s, want %s", addr, got, want)
		}
	}
	if peerOf(nil) != "" {
		t.Error("no address is a peer")
	}
}

// TestDescriptors: connections and the store's files leave a quarter of what may be open, and what does not fit
// is refused.
func TestDescriptors(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		limit              uint64
		asked              int
		connections, files int
		err                string
	}{
		{0, 0, 4096, 4096, ""},
		{0, 10, 10, 4096, ""},
		{1 << 20, 0, 4096, 4096, ""},
		{1 << 63, 100_000, 100_000, 4096, ""},
		{1024, 0, 512, 256, ""},
		{1024, 512, 512, 256, ""},
		{1024, 513, 0, 0, "of the 1024 files that this process may have open 512 are left for connections, not 513"},
		{256, 0, 128, 64, ""},
		{255, 0, 0, 0, "may have only 255 files open"},
	} {
		connections, files, err := descriptors(test.limit, test.asked)
		if connections != test.connections || files != test.files || (err == nil) != (test.err == "") || err != nil && !strings.Contains(err.Error(), test.err) {
			t.Errorf("of %d with %d asked for: %d, %d, %v", test.limit, test.asked, connections, files, err)
		}
	}
}

// TestKeep: connections with a key stay, services have their share, and what leaves gives back what it held.
func TestKeep(t *testing.T) {
	t.Parallel()
	tcp, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tcp.Close() }()
	const places = 8
	l := newListener(tcp, places)
	connect := func() *conn {
		t.Helper()
		client, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", tcp.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = client.Close() })
		accepted, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		return accepted.(*conn)
	}
	open := func(c *conn) bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		_, found := l.open[c]
		return found
	}
	var services []*conn
	for range places {
		c := connect()
		c.keep(aCaller)
		c.keep(aCaller)
		services = append(services, c)
	}
	if l.services != places-1 {
		t.Fatalf("services keep %d of %d places, want all but one", l.services, places)
	}
	admin := connect()
	if open(services[places-1]) || !open(services[0]) {
		t.Error("the connection that a service may not keep has to give way to an admin's")
	}
	admin.keep(aResponder)
	if l.refused.Load() != 0 || l.evicted.Load() != 1 {
		t.Errorf("%d connections were refused and %d evicted, want 0 and 1", l.refused.Load(), l.evicted.Load())
	}
	// All places are kept now: the next one is closed, and the one after it gets the place that is given back.
	rejected, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", tcp.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rejected.Close() }()
	next := make(chan *conn)
	go func() {
		accepted, err := l.Accept() // it returns with the one that there is a place for
		if err != nil {
			close(next)
			return
		}
		next <- accepted.(*conn)
	}()
	if err := rejected.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if n, err := rejected.Read(make([]byte, 1)); n != 0 || err == nil || strings.Contains(err.Error(), "timeout") {
		t.Fatalf("a connection without a place is not closed: %d, %v", n, err)
	}
	// A service's that becomes an admin's gives back the service's share, and so does one that is closed.
	services[0].keep(aResponder)
	if err := services[1].Close(); err != nil {
		t.Fatal(err)
	}
	if l.services != places-3 {
		t.Errorf("services keep %d places, want %d", l.services, places-3)
	}
	client, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", tcp.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = client.Close() }()
	last := <-next
	if last == nil || !open(last) {
		t.Fatal("the place that was given back is not taken")
	}
	// Draining ends what is not agreed on, and takes nothing more.
	if err := admin.SetDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	l.drain()
	if open(last) || !open(admin) {
		t.Error("draining ends the connections that are being made, and no others")
	}
	l.cut()
	if len(l.open) != 0 || l.services != 0 || l.strangers.size != 0 {
		t.Errorf("at the end there are %d connections, %d of services, %d of strangers", len(l.open), l.services, l.strangers.size)
	}
}

// TestStanding: the share of connections that is kept for those who suspend is for those who do so in all tenants, whatever else they may do.
func TestStanding(t *testing.T) {
	t.Parallel()
	confined := authz.Unbounded()
	confined.Tenants = authz.NamesOf("acme")
	for _, test := range []struct {
		role   caller.Role
		bounds *authz.Bounds
		want   standing
	}{
		{deputyv1.Role_ROLE_CHECKER, authz.Unbounded(), aCaller},
		{deputyv1.Role_ROLE_RESPONDER, authz.Unbounded(), aResponder},
		{deputyv1.Role_ROLE_RESPONDER, confined, aCaller},
		{deputyv1.Role_ROLE_RESPONDER, nil, aCaller},
	} {
		is := &caller.Caller{Name: "x", Roles: caller.RolesOf(test.role), Bounds: test.bounds}
		if got := standingOf(caller.With(t.Context(), is)); got != test.want {
			t.Errorf("%s with %v: %d, want %d", test.role, test.bounds, got, test.want)
		}
	}
	if got := standingOf(caller.With(t.Context(), caller.InProcess())); got != aResponder {
		t.Errorf("an unbounded admin: %d, want %d", got, aResponder)
	}
	if got := standingOf(t.Context()); got != aStranger {
		t.Errorf("nobody: %d, want %d", got, aStranger)
	}
}

// TestCloseHasAHardEnd: what does not end when it is closed is left, in time, and named; what comes after it is
// closed all the same.
func TestCloseHasAHardEnd(t *testing.T) {
	t.Parallel()
	hang := make(chan struct{})
	defer close(hang)
	closed := false
	began := time.Now()
	err := closeBy(began.Add(200*time.Millisecond), zap.NewNop(), []closing{
		{"the calls", 50 * time.Millisecond, func() error { <-hang; return nil }},
		{"the engine", time.Hour, func() error { closed = true; return net.ErrClosed }},
		{"the store", time.Hour, func() error { <-hang; return nil }},
	})
	if took := time.Since(began); took > 5*time.Second || !closed {
		t.Errorf("it took %s, and the engine was closed: %v", took, closed)
	}
	if err == nil || !strings.Contains(err.Error(), "the calls did not end in time") || !strings.Contains(err.Error(), "the store did not") || strings.Contains(err.Error(), "the engine") {
		t.Errorf("got %v", err)
	}
}
