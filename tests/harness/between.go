package harness

import (
	"net"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/deputyauth/deputy/pkg/engine"
)

// Wire is a TCP wire to an engine that a test can hold up or cut.
type Wire struct {
	listener net.Listener
	target   string

	mu    sync.Mutex
	moves *sync.Cond
	held  bool
	cut   bool
	conns []net.Conn
}

// Between puts a wire between Deputy and the engine that cfg names: a SpiceDB or a PostgreSQL of the harness's, which
// listen on a Unix socket.
func Between(t testing.TB, cfg *engine.Config) *Wire {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &Wire{listener: listener, target: strings.TrimPrefix(cfg.Endpoint, "unix:")}
	w.moves = sync.NewCond(&w.mu)
	cfg.Endpoint = listener.Addr().String()
	if cfg.URI != "" {
		at, err := url.Parse(cfg.URI)
		if err != nil {
			t.Fatal(err)
		}
		w.target = filepath.Join(at.Query().Get("host"), ".s.PGSQL.5432")
		at.Host, at.RawQuery = listener.Addr().String(), url.Values{"sslmode": {"disable"}}.Encode()
		cfg.URI, cfg.Endpoint = at.String(), ""
	}
	go w.accept()
	t.Cleanup(w.Cut)
	return w
}

// Hold stops all bytes in both directions; connections stay open.
func (w *Wire) Hold() { w.set(func() { w.held = true }) }

// Release lets them go on.
func (w *Wire) Release() { w.set(func() { w.held = false }) }

// Cut closes all connections and takes no more. It is safe to call twice.
func (w *Wire) Cut() {
	_ = w.listener.Close()
	w.set(func() {
		w.cut, w.held = true, false
		for _, c := range w.conns {
			_ = c.Close()
		}
	})
}

func (w *Wire) set(change func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change()
	w.moves.Broadcast()
}

func (w *Wire) accept() {
	for {
		down, err := w.listener.Accept()
		if err != nil {
			return
		}
		up, err := net.Dial("unix", w.target)
		if err != nil {
			_ = down.Close()
			continue
		}
		w.set(func() { w.conns = append(w.conns, down, up) })
		go w.copy(up, down)
		go w.copy(down, up)
	}
}

// copy moves bytes one way, unless held.
func (w *Wire) copy(to, from net.Conn) {
	defer func() { _ = to.Close() }()
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		if err != nil {
			return
		}
		w.mu.Lock()
		for w.held {
			w.moves.Wait()
		}
		w.mu.Unlock()
		if _, err := to.Write(buffer[:n]); err != nil {
			return
		}
	}
}
