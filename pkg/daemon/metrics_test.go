package daemon

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"go.uber.org/zap"

	"github.com/deputyauth/deputy/pkg/engine"
)

// TestMetrics: Prometheus finds the store's figures, and of an engine without a store the process's.
func TestMetrics(t *testing.T) {
	for kind, want := range map[string][]string{
		engine.Embedded: {
			"deputy_store_commits_total", "deputy_store_block_cache_hits_total", "deputy_store_compactions_total",
			"deputy_store_wal_sync_seconds_count", `deputy_store_level_bytes{level="6"}`, "deputy_store_failed 0", "go_goroutines",
		},
		engine.Memory: {"go_goroutines", "process_"},
	} {
		t.Run(kind, func(t *testing.T) {
			d, err := Open(t.Context(), Config{
				PresharedKeys: []string{"k"}, MetricsAddr: "127.0.0.1:0", Engine: engine.Config{Kind: kind, Dir: t.TempDir()},
			}, zap.NewNop())
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

// TestMetricsAddr: the figures are for this machine, unless it is said otherwise.
func TestMetricsAddr(t *testing.T) {
	cfg := Config{PresharedKeys: []string{"k"}, MetricsAddr: "0.0.0.0:0", Engine: engine.Config{Kind: engine.Memory}}
	if d, err := Open(t.Context(), cfg, zap.NewNop()); err == nil || !strings.Contains(err.Error(), "0.0.0.0:0 can be reached from other machines") {
		t.Errorf("metrics for everybody: %v, %v", d, err)
	}
}
