package engine

import (
	"context"
	"time"

	"github.com/authzed/spicedb/pkg/datastore"
	"github.com/authzed/spicedb/pkg/tuple"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/turns"
)

// batchRows is how many rows a read is at most ahead of its reader.
const batchRows = 256

// patience bounds what is asked of a database, by time and by number.
//
// SpiceDB's drivers take deadlines and cancellation away from reads, so that no connection has to be closed because a
// caller left. A read of a database that has stopped therefore waits until the database goes on or the connection
// breaks, which may be never. So each read runs in a goroutine of its own, and is left to itself there once its time
// is over or its caller has left. What was left to itself still counts: where bounds.questions are under way, the next
// one waits for its turn, and gives up in time too.
type patience struct {
	limit time.Duration
	turns *turns.Set
}

func newPatience(limit time.Duration, questions int) *patience {
	return &patience{limit: limit, turns: turns.New("questions to the database", int64(questions))}
}

// errSilent is the status of a call to which the database did not answer.
func errSilent() error { return unavailable().Err() }

// whyEnded returns why the wait for the database ended: its caller's context, or its own time.
func whyEnded(caller context.Context) error {
	if err := caller.Err(); err != nil {
		return err
	}
	return errSilent()
}

// outcome is what an answer came to.
type outcome[T any] struct {
	value T
	err   error
}

// wait asks the database for one thing. What is asked must turn its panics into errors, and its answer must not depend
// on the context that it was asked with.
func wait[T any](caller context.Context, p *patience, do func(context.Context) (T, error)) (T, error) {
	var none T
	ctx, cancel := context.WithTimeout(caller, p.limit)
	defer cancel()
	turn, err := p.turns.Take(ctx, 1, p.limit)
	if err != nil {
		return none, whyEnded(caller)
	}
	answer := make(chan outcome[T], 1)
	go func() {
		defer turn.Give()
		var out outcome[T]
		defer func() { answer <- out }()
		defer authz.Recover("engine.wait", &out.err)
		out.value, out.err = do(ctx)
	}()
	select {
	case out := <-answer:
		if out.err != nil && ctx.Err() != nil {
			return none, whyEnded(caller)
		}
		return out.value, out.err
	case <-ctx.Done():
		return none, whyEnded(caller)
	}
}

// step is one row of a read.
type step = outcome[tuple.Relationship]

// steps is an iterator that is opened, and reads ahead, in a goroutine of its own. Its panics must have become errors.
func (p *patience) steps(
	caller context.Context, open func(context.Context) (datastore.RelationshipIterator, error),
) datastore.RelationshipIterator {
	return func(yield func(tuple.Relationship, error) bool) {
		ctx, cancel := context.WithCancel(caller)
		defer cancel()
		limit := time.NewTimer(p.limit)
		defer limit.Stop()
		turn, err := p.turns.Take(ctx, 1, p.limit)
		if err != nil {
			yield(tuple.Relationship{}, whyEnded(caller))
			return
		}
		batches := make(chan []step)
		go func() {
			defer turn.Give()
			defer close(batches)
			if err := authz.Safely("engine.steps", func() error { return readAhead(ctx, open, batches) }); err != nil {
				select {
				case batches <- []step{{err: err}}:
				case <-ctx.Done():
				}
			}
		}()
		for {
			select {
			case batch, more := <-batches:
				if !more {
					cutShort(ctx, caller, yield)
					return
				}
				for _, s := range batch {
					if !yield(s.value, s.err) {
						return
					}
				}
				limit.Reset(p.limit)
			case <-ctx.Done():
				yield(tuple.Relationship{}, whyEnded(caller))
				return
			case <-limit.C:
				yield(tuple.Relationship{}, errSilent())
				return
			}
		}
	}
}

// cutShort says so where a read has come to its end because its call did: reading ahead stops without a word then, and what came so
// far is not all there is.
func cutShort(ctx, caller context.Context, yield func(tuple.Relationship, error) bool) {
	if ctx.Err() != nil {
		yield(tuple.Relationship{}, whyEnded(caller))
	}
}

// readAhead sends the rows in batches: each as soon as the reader is free, or when it is full. Its error is that of the
// opening.
func readAhead(
	ctx context.Context, open func(context.Context) (datastore.RelationshipIterator, error), batches chan<- []step,
) error {
	found, err := open(ctx)
	if err != nil {
		return err
	}
	var batch []step
	// send waits for the reader, unless the call has ended.
	send := func() {
		select {
		case batches <- batch:
			batch = nil
		case <-ctx.Done():
		}
	}
	for rel, err := range found {
		batch = append(batch, step{rel, err})
		if ctx.Err() != nil {
			return nil
		}
		if len(batch) >= batchRows {
			send()
			continue
		}
		select {
		case batches <- batch:
			batch = nil
		default:
		}
	}
	if len(batch) > 0 {
		send()
	}
	return nil
}
