package wire

import (
	"context"
	"time"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/turns"
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
	// call is done with them. A message that takes more than one caller can have waits for all of that, and is its caller's only one.
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
// while it waits for the second: so messages cannot wait for each other. A fifth of it is for messages of callers that have none there.
type volume struct{ room *turns.Set }

func newVolume(bytes int64) *volume { return &volume{turns.New("large messages", bytes/5*4)} }

// take waits for room, no longer than patience. The room is given back by the function that it returns, once.
func (v *volume) take(ctx context.Context, bytes int) (giveBack func(), err error) {
	turn, err := v.room.Take(ctx, int64(bytes), patience)
	if err == nil {
		return turn.Give, nil
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	busy := authz.Errorf(authz.Exhausted, authz.ReasonBusy, "too many large messages come in at once; send it again in a while, or send smaller ones")
	busy.RetryAfter = time.Second
	return nil, busy
}
