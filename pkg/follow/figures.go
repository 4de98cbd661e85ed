package follow

import (
	"math"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// figures counts what a Graph does, for Prometheus.
type figures struct {
	byCopy, byAuthority, exactly, refused, loads prometheus.Counter
	sampled, rounds, differences                 prometheus.Counter
	waits                                        prometheus.Histogram
	all                                          []prometheus.Collector
}

func newFigures(g *Graph) *figures {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "deputy", Subsystem: "follow", Name: name, Help: help})
	}
	snapshots := prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: "deputy", Subsystem: "follow", Name: "snapshots_total",
		Help: "States that decisions, lists and lookups were answered at, by who answered: the copy or the authority.",
	}, []string{"by"})
	f := &figures{
		byCopy: snapshots.WithLabelValues("copy"), byAuthority: snapshots.WithLabelValues("authority"),
		refused: counter("refused_total", "Questions to the authority that were refused, because as many as may be were under way."),
		exactly: counter("exact_snapshots_total", "States that a call named, such as a frozen session's baseline, at which the copy has stood and answered."),
		loads:   counter("loads_total", "Loads of a whole copy that were begun, or gone on with."),
		sampled: counter("sampled_total", "Relationships that were compared between the copy and the authority, a few at a time."),
		rounds:  counter("sample_rounds_total", "Times that all relationships of the copy and of the authority were compared so."),
		differences: counter("differences_total",
			"Differences that were found between the copy and the authority. Each takes the copy out of service."),
		waits: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "deputy", Subsystem: "follow", Name: "wait_seconds",
			Help:    "How long a call waited until the copy had reached the authority's head, or until it stopped waiting.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5},
		}),
	}
	age := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: "deputy", Subsystem: "follow", Name: "age_seconds",
		Help: "How long ago the copy was last known to be the authority's head; +Inf where there is no copy.",
	}, func() float64 {
		if s := g.now.Load(); s != nil {
			return time.Since(s.proven).Seconds()
		}
		return math.Inf(1)
	})
	serves := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: "deputy", Subsystem: "follow", Name: "serves", Help: "1 while the copy serves, else 0.",
	}, func() float64 {
		if g.Serves() {
			return 1
		}
		return 0
	})
	f.all = []prometheus.Collector{snapshots, f.exactly, f.refused, f.loads, f.sampled, f.rounds, f.differences, f.waits, age, serves}
	return f
}

// Collectors are the figures for Prometheus.
func (g *Graph) Collectors() []prometheus.Collector { return g.figures.all }
