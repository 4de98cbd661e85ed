package wire

import (
	"context"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/deputyauth/deputy/pkg/authz"
)

// What messages may take of a server's memory, all calls together, in bytes.
const (
	// smallBytes is the length up to which a message is read, and decompressed, without asking for room: little more than
	// what gRPC takes of a stream anyway, read or not.
	smallBytes = 32 << 10
	// smallDecoded is what a decoded message may take without asking for room.
	smallDecoded = 128 << 10
	// wireRoom is the room for large messages' encodings, while they come in and until they are decoded.
	wireRoom = 32 << 20
	// decodedRoom is the room for decoded large messages, and for the copies that are made of them on their way (copies), until their
	// call is done with them. A message that takes more than there is waits for all of it, and is alone.
	decodedRoom = 40 << 20
	// copies is how many times a message is there at once: decoded by the door, decoded by SpiceDB or the evaluator behind it, in the
	// answer, where a bulk check repeats its items, and in their records.
	copies = 4
)

// patience is how long a large message waits for room.
const patience = 5 * time.Second

// arrival is how long a message may take to come in: a unary call's from the call's begin, any other from its first byte.
const arrival = time.Minute

// volume is room for something, in bytes. One message takes of both volumes, the wire's first, and never of the first again
// while it waits for the second: so messages cannot wait for each other.
type volume struct {
	room *semaphore.Weighted
	// most is what one message can have.
	most int64
}

func newVolume(bytes int64) *volume { return &volume{semaphore.NewWeighted(bytes), bytes} }

// take waits for room, no longer than patience. The room is given back by the function that it returns, once.
func (v *volume) take(ctx context.Context, bytes int) (giveBack func(), err error) {
	want := min(int64(bytes), v.most)
	if !v.room.TryAcquire(want) {
		waiting, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		if err := v.room.Acquire(waiting, want); err != nil {
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			busy := authz.Errorf(authz.Exhausted, authz.ReasonBusy,
				"too many large messages come in at once; send it again in a while, or send smaller ones")
			busy.RetryAfter = time.Second
			return nil, busy
		}
	}
	return func() { v.room.Release(want) }, nil
}
