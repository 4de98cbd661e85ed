package rpc

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/deputyauth/deputy/pkg/caller"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/pkg/journal"
)

// summaryEvery is how long a record of kind SUMMARY counts calls of nobody known: so nobody without a credential chooses how much is written.
const summaryEvery = time.Minute

// uncounted are calls of nobody known that no record counts yet. The zero value has counted none. It is safe for concurrent use.
type uncounted struct {
	mu sync.Mutex
	// from is when the first of them came; zero without any.
	from                        time.Time
	without, invalid, strangers uint64
}

// counts notes a call that is refused because nobody is known whose it is; err says why.
func (g *Gate) counts(c *call, err error) {
	if c.recording != nil {
		return // it began as a caller's, and is recorded
	}
	g.uncounted.mu.Lock()
	defer g.uncounted.mu.Unlock()
	if g.uncounted.from.IsZero() {
		g.uncounted.from = time.Now()
	}
	proof := caller.ProofOf(c)
	switch _, nobodys := errors.AsType[*caller.Nobodys](err); {
	case nobodys:
		g.uncounted.strangers++
	case proof.Bearers == 0 && proof.Certificate == nil:
		g.uncounted.without++
	default:
		g.uncounted.invalid++
	}
}

// Summarize records how many calls of nobody known there were since that was recorded last, if there were any, and refused calls that were only
// counted so far. Where the journal does not take
// the record they are counted in the next one. Errors: those of the journal.
func (g *Gate) Summarize(ctx context.Context) error {
	for _, shed := range g.admission.Unrecorded() {
		g.recordShed(ctx, shed)
	}
	u := &g.uncounted
	u.mu.Lock()
	from, until := u.from, time.Now()
	was := &deputyv1.Summary{WithoutCredential: u.without, InvalidCredential: u.invalid, UnknownCredential: u.strangers}
	u.from, u.without, u.invalid, u.strangers = time.Time{}, 0, 0, 0
	u.mu.Unlock()
	if g.journal == nil || from.IsZero() {
		return nil
	}
	sum, _ := proto.Clone(was).(*deputyv1.Summary)
	sum.From, sum.Until = timestamppb.New(from), timestamppb.New(until)
	_, err := g.journal.Append(ctx, journal.Refuse, &journal.Record{
		Time: from.UnixNano(), Kind: deputyv1.RecordKind_RECORD_KIND_SUMMARY, Stage: deputyv1.RecordStage_RECORD_STAGE_WHOLE, Summary: sum,
	})
	if err == nil {
		return nil
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.from = from
	u.without += was.GetWithoutCredential()
	u.invalid += was.GetInvalidCredential()
	u.strangers += was.GetUnknownCredential()
	return err
}

// SummarizeStrangers records calls of nobody known once a minute until ctx ends. It is called once, for as long as the server serves.
func (g *Gate) SummarizeStrangers(ctx context.Context) {
	tick := time.NewTicker(summaryEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if err := g.Summarize(ctx); err != nil {
				g.log.Warn("calls without a valid credential are counted, and cannot be recorded yet", zap.Error(err))
			}
		}
	}
}
