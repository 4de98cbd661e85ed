package journal

import (
	"context"
	"sync"
	"time"

	"github.com/deputyauth/deputy/pkg/authz"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// Account is one call, as the journal sees it: everything that is recorded of it goes through its account, which knows what that was. nil
// records nothing. It is safe for concurrent use.
type Account struct {
	journal *Journal
	method  string
	began   time.Time

	mu     sync.Mutex
	caller string
	// whole says that the call has a record of how it was answered, with code.
	whole bool
	code  int32
	// tried says that its beginning was recorded, or answered without a record. begun says that it has a record, with the sequence first; nil
	// where that is written later, and not known yet.
	tried, begun bool
	first        *uint64
	closed       bool
}

// Account opens the account of a call that begins. j may be nil.
func (j *Journal) Account(caller, method string) *Account {
	if j == nil {
		return nil
	}
	return &Account{journal: j, caller: caller, method: method, began: j.cfg.Now()}
}

// Again opens the account of another decision of the same call, which begins now.
func (a *Account) Again() *Account {
	if a == nil {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.journal.Account(a.caller, a.method)
}

// By says whose call it is found to be later on. What is recorded already stays as it is.
func (a *Account) By(caller string) {
	if a == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.caller = caller
}

// Says reports whether it is recorded that the call was answered with a google.rpc.Code. 0 is an answer, whose items may have codes of their own.
func (a *Account) Says(code int32) bool {
	if a == nil {
		return true
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.whole && (code == 0 || a.code == code)
}

// Begun reports whether the beginning of the call has a record of its own.
func (a *Account) Begun() bool {
	if a == nil {
		return false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.begun
}

// OverShare is Journal.OverShare of the call's caller.
func (a *Account) OverShare() bool {
	if a == nil {
		return false
	}
	a.mu.Lock()
	caller := a.caller
	a.mu.Unlock()
	return a.journal.OverShare(caller)
}

// Record writes records of how the call, or the items of it, are answered: before the answer leaves. It fills in who called what and when, and
// returns the ids of the records. Errors: those of Append, with which nothing may be answered, and Canceled once the account is closed.
func (a *Account) Record(ctx context.Context, duty Duty, records ...*Record) (ids []string, err error) {
	if a == nil || len(records) == 0 {
		return nil, nil
	}
	stage := deputyv1.RecordStage_RECORD_STAGE_WHOLE
	a.mu.Lock()
	closed, begun := a.closed, a.first
	if a.begun {
		stage = deputyv1.RecordStage_RECORD_STAGE_ENDED
	}
	a.mu.Unlock()
	if closed {
		return nil, authz.Errorf(authz.Canceled, "", "the call is answered already")
	}
	first, err := a.append(ctx, duty, stage, begun, records)
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	a.whole, a.code = true, 0
	if len(records) == 1 {
		a.code = records[0].GetCode()
	}
	a.mu.Unlock()
	ids = make([]string, len(records))
	for i := range ids {
		if ids[i] = a.journal.ID(first); first != Unrecorded {
			first++
		}
	}
	return ids, nil
}

// Failed records that a decision that was asked for in the process has failed as a whole, and returns why: err, or that the journal does not take the
// record.
func (a *Account) Failed(ctx context.Context, r *Record, err error) error {
	r.Kind = deputyv1.RecordKind_RECORD_KIND_DECISION
	return a.ended(ctx, r, err)
}

// Refused is Failed for a caller that may not ask. nil, nobody's, records nothing.
func (a *Account) Refused(ctx context.Context, err error) error {
	return a.ended(ctx, &Record{Kind: deputyv1.RecordKind_RECORD_KIND_REFUSED}, err)
}

func (a *Account) ended(ctx context.Context, r *Record, err error) error {
	r.Code, r.Reason = Failure(ctx, err)
	if a.Says(r.GetCode()) {
		return err
	}
	if _, unrecorded := a.Record(context.WithoutCancel(ctx), Refuse, r); unrecorded != nil {
		return unrecorded
	}
	return err
}

// Begin writes the record of a call that is about to write, or to stream its first result. The next ones are then those of its end. It does
// nothing where that has been done. Errors: those of Append, with which nothing may be written and nothing answered, and Canceled once the
// account is closed.
func (a *Account) Begin(ctx context.Context, duty Duty, r *Record) error {
	if a == nil {
		return nil
	}
	a.mu.Lock()
	tried, closed := a.tried, a.closed
	a.mu.Unlock()
	switch {
	case closed:
		return authz.Errorf(authz.Canceled, "", "the call is answered already")
	case tried:
		return nil
	}
	first, err := a.append(ctx, duty, deputyv1.RecordStage_RECORD_STAGE_BEGUN, nil, []*Record{r})
	if err != nil {
		return err
	}
	a.mu.Lock()
	a.tried = true
	if first != Unrecorded {
		a.begun, a.first = true, &first
	} else {
		a.begun = duty == Keep // it is written later; one of another duty never is
	}
	a.mu.Unlock()
	return nil
}

// Close has the account take no more records: the call is answered.
func (a *Account) Close() {
	if a == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.closed = true
}

// append appends records of the call, and says in each who called what, when, and how long ago that was.
func (a *Account) append(ctx context.Context, duty Duty, stage deputyv1.RecordStage, begun *uint64, records []*Record) (first uint64, err error) {
	a.mu.Lock()
	caller := a.caller
	a.mu.Unlock()
	latency := int64(a.journal.cfg.Now().Sub(a.began))
	for _, r := range records {
		r.Caller, r.Method, r.Time, r.Latency = caller, a.method, a.began.UnixNano(), latency
		r.Stage, r.Begun = stage, begun
	}
	return a.journal.Append(ctx, duty, records...)
}
