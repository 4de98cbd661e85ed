package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.uber.org/zap"
)

// maxScrapers and maxScrapes are how many connections Prometheus may have, and how many figures it is given at once.
const maxScrapers, maxScrapes = 16, 4

// metricsServer answers Prometheus.
type metricsServer struct {
	listener net.Listener
	server   *http.Server
	log      *zap.Logger
}

// listenMetrics opens the listener for Prometheus; what it is told of is registered nowhere else. Without
// an address there is none.
func (c Config) listenMetrics(ctx context.Context, log *zap.Logger, sources ...prometheus.Collector) (*metricsServer, error) {
	if c.MetricsAddr == "" {
		return nil, nil //nolint:nilnil // a server without figures
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", c.MetricsAddr)
	if err != nil {
		return nil, fmt.Errorf("cannot listen for metrics: %w", err)
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	registry.MustRegister(sources...)
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{MaxRequestsInFlight: maxScrapes}))
	errorLog, err := zap.NewStdLogAt(log.Named("metrics"), zap.WarnLevel)
	if err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	return &metricsServer{
		listener: newListener(listener, maxScrapers),
		server: &http.Server{
			Handler: mux, MaxHeaderBytes: 16 << 10, ErrorLog: errorLog,
			ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute,
		},
		log: log,
	}, nil
}

// serve answers until close.
func (m *metricsServer) serve() {
	if m == nil {
		return
	}
	if err := m.server.Serve(m.listener); err != nil && !errors.Is(err, http.ErrServerClosed) {
		m.log.Error("metrics are not served any more", zap.Error(err))
	}
}

// close ends it. It is safe to call twice.
func (m *metricsServer) close() error {
	if m == nil {
		return nil
	}
	return m.server.Close()
}

// MetricsAddr is where Prometheus finds figures; nil means nowhere.
func (d *Daemon) MetricsAddr() net.Addr {
	if d.metrics == nil {
		return nil
	}
	return d.metrics.listener.Addr()
}
