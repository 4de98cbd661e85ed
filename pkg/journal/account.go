package journal

import (
	"context"
	"sync"
	"time"

	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// Account is one call, as the journal sees it: everything that is recorded of it goes through its account, which notes whether that has been
// done. nil records nothing. It is safe for concurrent use.
type Account struct {
	journal *Journal
	caller  string
	method  string
	began   time.Time

	mu sync.Mutex
	// whole says that the call has a record of how it was answered, and begun that it has the one of its beginning, with first.
	whole, begun bool
	first        uint64
}

// Account opens the account of a call that begins. j may be nil.
func (j *Journal) Account(caller, method string) *Account {
	if j == nil {
		return nil
	}
	return &Account{journal: j, caller: caller, method: method, began: j.cfg.Now()}
}

// Recorded reports whether there is a record of how the call was answered.
func (a *Account) Recorded() bool {
	if a == nil {
		return true
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.whole
}

// Record writes records of how the call, or the items of it, are answered: before the answer leaves. It fills in who called what and when, and
// returns the ids of the records. Errors: those of Append, with which nothing may be answered.
func (a *Account) Record(ctx context.Context, duty Duty, records ...*Record) (ids []string, err error) {
	if a == nil || len(records) == 0 {
		return nil, nil
	}
	stage := deputyv1.RecordStage_RECORD_STAGE_WHOLE
	a.mu.Lock()
	if a.begun {
		stage = deputyv1.RecordStage_RECORD_STAGE_ENDED
	}
	begun := a.first
	a.mu.Unlock()
	for _, r := range records {
		a.fill(r)
		r.Stage, r.Begun = stage, begun
	}
	first, err := a.journal.Append(ctx, duty, records...)
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	a.whole = true
	a.mu.Unlock()
	ids = make([]string, len(records))
	for i := range ids {
		ids[i] = a.journal.ID(first + uint64(i)) //nolint:gosec // not negative
	}
	return ids, nil
}

// Begin writes the record of a call that is about to write, or to stream its first result. The next ones are then those of its end. It does
// nothing where that has been done. Errors: those of Append, with which nothing may be written and nothing answered.
func (a *Account) Begin(ctx context.Context, duty Duty, r *Record) error {
	if a == nil {
		return nil
	}
	a.mu.Lock()
	begun := a.begun
	a.mu.Unlock()
	if begun {
		return nil
	}
	a.fill(r)
	r.Stage = deputyv1.RecordStage_RECORD_STAGE_BEGUN
	first, err := a.journal.Append(ctx, duty, r)
	if err != nil {
		return err
	}
	a.mu.Lock()
	a.begun, a.first = true, first
	a.mu.Unlock()
	return nil
}

// fill says who called what, when, and how long ago that was.
func (a *Account) fill(r *Record) {
	r.Caller, r.Method, r.Time = a.caller, a.method, a.began.UnixNano()
	r.Latency = int64(a.journal.cfg.Now().Sub(a.began))
}
