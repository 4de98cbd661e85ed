package daemon

import (
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/deputyauth/deputy/pkg/engine"
)

// serving opens a server, with a key, and has it serve until the test ends.
func serving(t *testing.T, cfg Config) *Daemon {
	t.Helper()
	cfg.PresharedKeys = []string{"key-of-the-service"}
	d, err := Open(t.Context(), cfg, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- d.Serve(t.Context()) }()
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
		<-served
	})
	return d
}

// TestMetrics: Prometheus finds the store's figures, and of an engine without a store the process's.
func TestMetrics(t *testing.T) {
	for kind, want := range map[string][]string{
		engine.Embedded: {
			"deputy_store_block_cache_limit_bytes " + strconv.FormatFloat(float64(cacheFor(memory())), 'g', -1, 64) + "\n",
			"deputy_store_commits_total", "deputy_store_block_cache_hits_total", "deputy_store_compactions_total",
			"deputy_store_wal_sync_seconds_count", `deputy_store_level_bytes{level="6"}`, "deputy_store_failed 0", "go_goroutines",
			"deputy_evaluator_verified_total", "deputy_evaluator_tolerated_total", "deputy_evaluator_differences_total",
			"deputy_evaluator_unverified_total", "deputy_evaluator_distrusted_permissions 0",
		},
		engine.Memory: {"go_goroutines", "process_"},
	} {
		t.Run(kind, func(t *testing.T) {
			cfg := engine.Config{Kind: kind}
			if kind == engine.Embedded {
				cfg.Dir = t.TempDir()
			}
			d := serving(t, Config{MetricsAddr: "127.0.0.1:0", Engine: cfg})
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+d.MetricsAddr().String()+"/metrics", http.NoBody)
			if err != nil {
				t.Fatal(err)
			}
			answer, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer answer.Body.Close()
			text, err := io.ReadAll(answer.Body)
			if err != nil {
				t.Fatal(err)
			}
			for _, name := range want {
				if !strings.Contains(string(text), "\n"+name) {
					t.Errorf("there is no %s", name)
				}
			}
			if kind == engine.Memory && strings.Contains(string(text), "deputy_store") {
				t.Error("an engine without a store has figures of one")
			}
		})
	}
}

// TestMetricsConnections: connections that ask for nothing give way to one that does.
func TestMetricsConnections(t *testing.T) {
	d := serving(t, Config{MetricsAddr: "127.0.0.1:0", Engine: engine.Config{Kind: engine.Memory}})
	ended := make(chan struct{}, 100)
	for range 100 {
		conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", d.MetricsAddr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		go func() {
			_, _ = conn.Read(make([]byte, 1))
			ended <- struct{}{}
		}()
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+d.MetricsAddr().String()+"/metrics", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	if answer.StatusCode != http.StatusOK {
		t.Errorf("the metrics are %s", answer.Status)
	}
	// Sooner than the server would end them because they ask for nothing.
	late := time.After(4 * time.Second)
	for n := range 100 + 1 - maxScrapers {
		select {
		case <-ended:
		case <-late:
			t.Fatalf("of 100 idle connections %d were ended, want all but %d", n, maxScrapers-1)
		}
	}
}

// TestMetricsAddr: the figures are for this machine, unless it is said otherwise.
func TestMetricsAddr(t *testing.T) {
	cfg := Config{PresharedKeys: []string{"key-of-the-service"}, MetricsAddr: "0.0.0.0:0", Engine: engine.Config{Kind: engine.Memory}}
	if d, err := Open(t.Context(), cfg, zap.NewNop()); err == nil || !strings.Contains(err.Error(), "0.0.0.0:0 can be reached from other machines") {
		t.Errorf("metrics for everybody: %v, %v", d, err)
	}
}

// TestEvaluatorHealth: what answers checks has a name of its own in the health service, as long as it is the
// native evaluator.
func TestEvaluatorHealth(t *testing.T) {
	for evaluator, want := range map[string]codes.Code{EvaluatorNative: codes.OK, EvaluatorSpiceDB: codes.NotFound} {
		t.Run(evaluator, func(t *testing.T) {
			d := serving(t, Config{Engine: engine.Config{Kind: engine.Embedded, Dir: t.TempDir()}, Evaluator: evaluator})
			conn, err := grpc.NewClient(d.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close() }()
			health := healthv1.NewHealthClient(conn)
			// The server says how it is once it has asked its engine.
			var state *healthv1.HealthCheckResponse
			for state.GetStatus() != healthv1.HealthCheckResponse_SERVING {
				if state, err = health.Check(t.Context(), &healthv1.HealthCheckRequest{Service: "deputy.v1.PermissionsService"}, grpc.WaitForReady(true)); err != nil && status.Code(err) != codes.NotFound {
					t.Fatal(err)
				}
			}
			state, err = health.Check(t.Context(), &healthv1.HealthCheckRequest{Service: HealthEvaluator})
			if status.Code(err) != want || err == nil && state.GetStatus() != healthv1.HealthCheckResponse_SERVING {
				t.Errorf("got %v, %v", state, err)
			}
		})
	}
}
