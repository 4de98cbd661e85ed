package store

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/authzed/spicedb/pkg/datastore"
	"github.com/authzed/spicedb/pkg/tuple"
)

// registers is how many rows the histories are about, each a register whose value is its caveat.
const registers = 3

// values are what the registers hold.
type values [registers]int

// operation is what a client asks for.
type operation struct {
	// kind is "read", which reads all registers at the head; "write", which writes one; or "swap", which
	// writes one if another one has the expected value.
	kind           string
	at, other      int
	value, expects int
}

// outcome is what it got: the registers, or whether it swapped.
type outcome struct {
	read    values
	swapped bool
}

// registersModel is what linearizable registers do.
var registersModel = porcupine.Model{
	Init: func() any { return values{} },
	Step: func(state, input, output any) (bool, any) {
		now, op, out := state.(values), input.(operation), output.(outcome)
		switch op.kind {
		case "read":
			return out.read == now, now
		case "swap":
			if now[op.other] != op.expects {
				return !out.swapped, now
			}
			now[op.at] = op.value
			return out.swapped, now
		default:
			now[op.at] = op.value
			return true, now
		}
	},
	DescribeOperation: func(input, output any) string { return fmt.Sprintf("%+v -> %+v", input, output) },
}

// register is the row of a register with a value.
func register(at, value int) tuple.RelationshipUpdate {
	return touch(fmt.Sprintf("register:%d#value@user:x[value%d]", at, value))
}

// valuesOf reads the registers.
func valuesOf(ctx context.Context, r datastore.Reader) (values, error) {
	var read values
	it, err := r.QueryRelationships(ctx, datastore.RelationshipsFilter{OptionalResourceType: "register"})
	if err != nil {
		return read, err
	}
	for rel, err := range it {
		if err != nil {
			return read, err
		}
		at, err := strconv.Atoi(rel.Resource.ObjectID)
		if err != nil {
			return read, err
		}
		value, err := strconv.Atoi(strings.TrimPrefix(rel.OptionalCaveat.GetCaveatName(), "value"))
		if err != nil {
			return read, err
		}
		read[at] = value
	}
	return read, nil
}

// perform does what a client asks for.
func perform(ctx context.Context, s *Store, op operation) (out outcome, at Revision, err error) {
	if op.kind == "read" {
		head, err := s.HeadRevision(ctx)
		if err != nil {
			return out, 0, err
		}
		out.read, err = valuesOf(ctx, s.SnapshotReader(head.Revision))
		return out, head.Revision.(Revision), err
	}
	r, err := s.ReadWriteTx(ctx, func(ctx context.Context, tx datastore.ReadWriteTransaction) error {
		out.swapped = false
		if op.kind == "swap" {
			now, err := valuesOf(ctx, tx)
			if err != nil || now[op.other] != op.expects {
				return err
			}
			out.swapped = true
		}
		return tx.WriteRelationships(ctx, []tuple.RelationshipUpdate{register(op.at, op.value)})
	})
	if err != nil {
		return out, 0, err
	}
	return out, r.(Revision), nil
}

// TestLinearizable: what clients see that read, write and swap at the same time could have happened one
// after the other, each between its call and its answer. A read at the head is no exception.
func TestLinearizable(t *testing.T) {
	for round := range 10 {
		s := opened(t, Config{})
		var (
			mu      sync.Mutex
			history []porcupine.Operation
			clients sync.WaitGroup
			acked   atomic.Uint64
			began   = time.Now()
		)
		for client := range 5 {
			clients.Go(func() {
				random := rand.New(rand.NewPCG(uint64(round), uint64(client)))
				for range 40 {
					op := operation{
						kind: []string{"read", "write", "swap", "swap"}[random.IntN(4)],
						at:   random.IntN(registers), other: random.IntN(registers), value: 1 + random.IntN(4), expects: random.IntN(5),
					}
					floor := Revision(acked.Load())
					call := time.Since(began)
					out, at, err := perform(context.Background(), s, op)
					back := time.Since(began)
					if errors.Is(err, ErrConflict) {
						continue // it did not take place
					}
					if err != nil {
						t.Error(err)
						return
					}
					if op.kind == "read" && at < floor {
						t.Errorf("the head was %v after %v was acknowledged", at, floor)
					}
					for now := acked.Load(); uint64(at) > now && !acked.CompareAndSwap(now, uint64(at)); now = acked.Load() {
					}
					mu.Lock()
					history = append(history, porcupine.Operation{ClientId: client, Input: op, Call: int64(call), Output: out, Return: int64(back)})
					mu.Unlock()
				}
			})
		}
		clients.Wait()
		if len(history) < 100 {
			t.Fatalf("a history of %d operations", len(history))
		}
		if got := porcupine.CheckOperationsTimeout(registersModel, history, patience); got != porcupine.Ok {
			t.Fatalf("round %d: the history of %d operations is %v", round, len(history), got)
		}
	}
}

// TestHeadAfterAcknowledgement: a caller that asks for the head after a write was acknowledged, to any caller,
// gets that write's revision or a later one, and reads the write there.
func TestHeadAfterAcknowledgement(t *testing.T) {
	s := opened(t, Config{})
	var (
		acked   atomic.Pointer[tuple.Relationship]
		at      atomic.Uint64
		mu      sync.Mutex
		clients sync.WaitGroup
	)
	stop := make(chan struct{})
	for w := range 3 {
		clients.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				update := touch(fmt.Sprintf("document:%d-%d#reader@user:alice", w, i))
				r, err := s.ReadWriteTx(context.Background(), writing(update))
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				if uint64(r.(Revision)) > at.Load() {
					at.Store(uint64(r.(Revision)))
				}
				acked.Store(&update.Relationship)
				mu.Unlock()
			}
		})
	}
	var last *tuple.Relationship
	for acks := 0; acks < 500 && !t.Failed(); runtime.Gosched() {
		mu.Lock()
		rel, floor := acked.Load(), Revision(at.Load())
		mu.Unlock()
		head := headOf(t, s)
		if head < floor {
			t.Errorf("the head is %v after %v was acknowledged", head, floor)
		}
		if rel == last {
			continue
		}
		acks, last = acks+1, rel
		found := queried(t, s.SnapshotReader(head), datastore.RelationshipsFilter{OptionalResourceType: "document", OptionalResourceIds: []string{rel.Resource.ObjectID}})
		if len(found) != 1 {
			t.Errorf("%s was acknowledged and is not at the head %v", tuple.MustString(*rel), head)
		}
	}
	close(stop)
	clients.Wait()
}
