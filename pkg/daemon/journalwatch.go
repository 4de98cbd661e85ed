package daemon

import (
	"context"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/deputyauth/deputy/pkg/journal"
)

// HealthJournal is the name under which grpc.health.v1 says how the journal is: NOT_SERVING while it takes no records, is not sealed, or its
// witness knows another one. A server that answers nothing without a record is NOT_SERVING too, under every name, while the journal takes none.
const HealthJournal = "deputy.journal"

// journalEvery is how often the journal is asked how it is.
const journalEvery = time.Second

// journalHealth is how the journal is. The zero value is well.
type journalHealth struct {
	// wrong says what is wrong with it; empty where nothing is.
	wrong string
	// refuses says that decisions are refused because of that.
	refuses bool
}

// healthOf asks a journal how it is.
func (c Config) healthOf(j *journal.Journal) journalHealth {
	if err := j.Err(); err != nil {
		return journalHealth{wrong: fmt.Sprintf("it takes no records: %v", err), refuses: !c.Journal.AnswerUnrecorded}
	}
	switch s := j.Sealing(); {
	case s.Witness.Contradicts:
		return journalHealth{wrong: s.Witness.Err.Error()}
	case s.Err != nil:
		return journalHealth{wrong: fmt.Sprintf("it is not sealed: %v", s.Err)}
	}
	return journalHealth{}
}

// watchJournal keeps the health service truthful about the journal until ctx ends.
func (d *Daemon) watchJournal(ctx context.Context) {
	if d.journal == nil {
		return
	}
	tick := time.NewTicker(orDefault(d.cfg.journalEvery, journalEvery))
	defer tick.Stop()
	for {
		d.tellJournal()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// tellJournal has the health service say how the journal is, and the log where that has changed.
func (d *Daemon) tellJournal() {
	now := d.cfg.healthOf(d.journal)
	d.condition.Lock()
	defer d.condition.Unlock()
	was := d.condition.journal
	if now == was {
		return
	}
	d.condition.journal = now
	d.tellLocked()
	switch {
	case now.wrong == "":
		d.log.Info("the journal is well again")
	case was.wrong == "" || was.refuses != now.refuses: // an error may have other words each time
		d.log.Error("the journal is not well", zap.String("reason", now.wrong), zap.Bool("refuses_decisions", now.refuses))
	}
}

// journalFigures are the figures of a journal, for Prometheus.
type journalFigures struct {
	*journal.Journal

	quota int64
}

// The figures of a journal.
var (
	journalRecords    = journalFigure("records_total", "Records that the journal has, those that were removed included.")
	journalBytes      = journalFigure("written_bytes_total", "Bytes of records that were written since the server started.")
	journalBatches    = journalFigure("batches_total", "How many times records were written since the server started: one batch has those of many calls.")
	journalFailures   = journalFigure("failures_total", "How many times the journal began to fail.")
	journalRefused    = journalFigure("refused_records_total", "Records that the journal did not take, so that what they are about was refused.")
	journalOverShare  = journalFigure("over_share_records_total", "Records that were refused to callers that had used up their share of the quota.")
	journalUsed       = journalFigure("disk_bytes", "Bytes that the journal's directory has, with a quota.")
	journalQuota      = journalFigure("quota_bytes", "Bytes that it may have; 0 without a quota.")
	journalLate       = journalFigure("late_records_total", "Records of calls that narrow that had to wait in memory until the journal could be written.")
	journalLost       = journalFigure("lost_records_total", "Records of calls that narrow for which there was no room in memory either.")
	journalUnrecorded = journalFigure("unrecorded_answers_total", "Answers that left without a record, because of --journal-answer-unrecorded.")
	journalUnsealed   = journalFigure("unsealed_records", "Records that no checkpoint is over yet.")
	journalCheckpoint = journalFigure("checkpoint_records", "How many records the newest checkpoint is over.")
	journalSigned     = journalFigure("checkpoint_timestamp_seconds", "When the newest checkpoint was signed, in seconds since 1970.")
	journalWitnessed  = journalFigure("witnessed_records", "How many records the newest checkpoint is over that the witness signed.")
	journalTakes      = journalFigure("takes_records", "1 while the journal takes records, else 0.")
	journalAgrees     = journalFigure("witness_agrees", "0 while the witness knows a journal that this one does not go on from, else 1.")
)

func journalFigure(name, help string) *prometheus.Desc {
	return prometheus.NewDesc("deputy_journal_"+name, help, nil, nil)
}

// Describe is prometheus.Collector's.
func (j journalFigures) Describe(to chan<- *prometheus.Desc) { prometheus.DescribeByCollect(j, to) }

// Collect is prometheus.Collector's.
func (j journalFigures) Collect(to chan<- prometheus.Metric) {
	f, sealing := j.Stats(), j.Sealing()
	counter := func(d *prometheus.Desc, value uint64) {
		to <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(value))
	}
	gauge := func(d *prometheus.Desc, value float64) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value)
	}
	counter(journalRecords, f.Records)
	counter(journalBytes, f.Bytes)
	counter(journalBatches, f.Batches)
	counter(journalFailures, f.Failures)
	counter(journalRefused, f.Refused)
	counter(journalOverShare, f.OverShare)
	counter(journalLate, f.Late)
	counter(journalLost, f.Lost)
	counter(journalUnrecorded, f.Unrecorded)
	sealed := sealing.Records
	gauge(journalUsed, float64(f.Used))
	gauge(journalQuota, float64(j.quota))
	gauge(journalUnsealed, float64(max(f.Records, sealed)-sealed))
	gauge(journalCheckpoint, float64(sealed))
	if at := sealing.At; !at.IsZero() {
		gauge(journalSigned, float64(at.UnixNano())/1e9)
	}
	gauge(journalWitnessed, float64(sealing.Witness.Records))
	gauge(journalTakes, oneIf(j.Err() == nil))
	gauge(journalAgrees, oneIf(!sealing.Witness.Contradicts))
}

func oneIf(is bool) float64 {
	if is {
		return 1
	}
	return 0
}
