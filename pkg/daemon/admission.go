package daemon

import (
	"runtime"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/deputyauth/deputy/pkg/engine"
	"github.com/deputyauth/deputy/pkg/rpc/admission"
)

// turnsPerProcessor and leastTurns are how many calls are worked on at once where decisions keep the processors busy. They are many more than
// processors, because the decisions that come together share a write to the journal; a decision that waits for its turn waits about as long as
// one that shares the processors with all others. Elsewhere decisions wait for a database, and there is admission's default.
const turnsPerProcessor, leastTurns = 64, 128

// turns is how many calls are worked on at once.
func (c Config) turns() int {
	if c.MaxActiveCalls == 0 && (c.Engine.Kind == engine.Embedded || c.Engine.Kind == "") {
		return max(turnsPerProcessor*runtime.GOMAXPROCS(0), leastTurns)
	}
	return c.MaxActiveCalls
}

// admissionFigures are the figures about calls that are admitted. Those that are not are counted by their reason.
func admissionFigures(of *admission.Admission) []prometheus.Collector {
	return []prometheus.Collector{
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "deputy_calls_waiting", Help: "Calls that wait for their turn to be worked on.",
		}, func() float64 { return float64(of.Waiting()) }),
	}
}
