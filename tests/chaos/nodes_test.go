//go:build unix

package chaos

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/deputyauth/deputy/pkg/client"
	"github.com/deputyauth/deputy/tests/harness"
	"github.com/deputyauth/deputy/tests/process"
)

const (
	byCopy     = `deputy_follow_snapshots_total{by="copy"}`
	byDatabase = `deputy_follow_snapshots_total{by="authority"}`
	loads      = "deputy_follow_loads_total"
)

// node is one of the servers. It has one address and one directory, and a process after the other.
type node struct {
	name, dir string
	uri       string
	addr      string
	starts    int
	*process.Server
	// direct is connected to this server alone, and makes each call once.
	direct *client.Client

	mu sync.Mutex
	// figures are the newest of the process, and ended those of processes before it, added up.
	figures, ended map[string]float64
}

// start starts the server's process, at the address of the one before, and waits until it is ready.
func (n *node) start(t *testing.T) {
	t.Helper()
	addr := n.addr
	if addr == "" {
		addr = "127.0.0.1:0"
	}
	n.starts++
	server, err := process.Start(process.Config{
		Dir: n.dir, Log: filepath.Join(n.dir, fmt.Sprintf("serve-%d.log", n.starts)),
		Env: map[string]string{
			"DEPUTY_PRESHARED_KEY": harness.ServiceKey, "DEPUTY_ADMIN_PRESHARED_KEY": harness.AdminKey, "DEPUTY_DATASTORE_CONN_URI": n.uri,
		},
		Args: []string{
			"--addr", addr, "--metrics-addr", "127.0.0.1:0", "--engine", "postgres", "--journal", "off", "--token-key-file", filepath.Join(n.dir, "..", "token.key"),
			"--follow", "--follow-dir", filepath.Join(n.dir, "copy"), "--shutdown-delay", "500ms",
		},
	})
	if err != nil {
		t.Fatalf("server %s: %v", n.name, err)
	}
	t.Cleanup(func() { _ = server.Kill() })
	n.mu.Lock()
	n.Server, n.addr = server, server.Addr
	n.mu.Unlock()
	conn, err := harness.Connect(n.addr, "")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	harness.Ready(t, conn)
}

// look reads the server's figures, unless it does not answer.
func (n *node) look(ctx context.Context) {
	n.mu.Lock()
	server := n.Server
	n.mu.Unlock()
	if server == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	figures, err := server.Figures(ctx)
	n.mu.Lock()
	defer n.mu.Unlock()
	if err == nil && server == n.Server {
		n.figures = figures
	}
}

// gone notes that the process has ended: what it counted stays.
func (n *node) gone() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for name, value := range n.figures {
		n.ended[name] += value
	}
	n.Server, n.figures = nil, nil
}

// counted is what all processes of the server counted.
func (n *node) counted(name string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return int(n.ended[name] + n.figures[name])
}

// kill ends the process without a word.
func (n *node) kill(t *testing.T) {
	t.Helper()
	n.look(t.Context())
	if err := n.Kill(); err != nil {
		t.Fatalf("server %s: %v", n.name, err)
	}
	n.gone()
}

// stop ends the process as an operator does.
func (n *node) stop(t *testing.T) {
	t.Helper()
	n.look(t.Context())
	if err := n.Stop(time.Minute); err != nil {
		t.Errorf("server %s ended with %v", n.name, err)
	}
	n.gone()
}
