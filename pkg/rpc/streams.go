package rpc

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/deputyauth/deputy/pkg/statuses"
)

// How long streams may take.
const (
	// DefaultBulkTime is how long an export or backup may take unless it is set.
	DefaultBulkTime = time.Hour
	// importTime is how long an import may take. Until it ends, the engine keeps all of it in memory, and on disk all that
	// was overwritten or deleted since it began.
	importTime = 2 * time.Minute
	// lookupTime is how long any other stream may take that ends by itself: a lookup, or a read.
	lookupTime = 10 * time.Minute
	// watchTime is how long a stream may take that does not end by itself. Its client goes on from the last
	// token, as after any other break.
	watchTime = 24 * time.Hour
	// stallTime is how long a client may leave the server waiting: for the next message of an import, or until
	// it takes the next message of an answer.
	stallTime = time.Minute
)

// imports are the methods whose call is one transaction for as long as its caller takes.
var imports = map[string]bool{
	"/authzed.api.v1.PermissionsService/ImportBulkRelationships":  true,
	"/authzed.api.v1.ExperimentalService/BulkImportRelationships": true,
}

// bulk are the methods that read all there is, and take as long as that takes.
var bulk = map[string]bool{
	"/authzed.api.v1.PermissionsService/ExportBulkRelationships":  true,
	"/authzed.api.v1.ExperimentalService/BulkExportRelationships": true,
	"/deputy.v1.StoreService/Backup":                              true,
	"/deputy.v1.CopyService/VerifyCopy":                           true,
}

// endless are the methods that do not end by themselves, and whether a server that stops ends them here: health
// has something to say first.
var endless = map[string]bool{
	"/authzed.api.v1.WatchService/Watch":     true,
	"/grpc.health.v1.Health/Watch":           false,
	"/deputy.v1.JournalService/QueryRecords": true, // with follow; without, it bounds itself
	watchPermission:                          true,
}

// StreamLimits bounds the time of streams. How long one message may take to come is pkg/rpc/wire's.
type StreamLimits struct {
	// Bulk is how long an export or backup may take; 0 means DefaultBulkTime. An import may take as long, but two
	// minutes at most.
	Bulk time.Duration
	// Stall is how long a client may leave the server waiting; 0 means a minute.
	Stall time.Duration
	// Stopping ends the streams that do not end by themselves when it is closed: a server that drains would
	// wait for them.
	Stopping <-chan struct{}

	// lookup and watch stand in for lookupTime and watchTime, for tests.
	lookup, watch time.Duration

	workers workers
}

// Options returns the server options that keep streams to their limits, for a server without a Gate.
func (l StreamLimits) Options() []grpc.ServerOption {
	return []grpc.ServerOption{grpc.ChainStreamInterceptor(l.chain().Stream...)}
}

// chain keeps streams to their limits. It has to stand behind the gate's own.
func (l StreamLimits) chain() Chain {
	for _, one := range []struct {
		limit     *time.Duration
		otherwise time.Duration
	}{{&l.Bulk, DefaultBulkTime}, {&l.lookup, lookupTime}, {&l.watch, watchTime}, {&l.Stall, stallTime}} {
		if *one.limit == 0 {
			*one.limit = one.otherwise
		}
	}
	l.workers = make(workers)
	return Chain{Stream: []grpc.StreamServerInterceptor{l.intercept}}
}

// workers are goroutines that have run a handler and wait for the next one: a decision walks deep, and the stack
// that it grew is used again.
type workers chan func()

// workerTime is how long a worker waits.
const workerTime = 10 * time.Second

// run runs a function in a worker, which is new if none waits.
func (w workers) run(f func()) {
	select {
	case w <- f:
	default:
		go w.work(f)
	}
}

// work runs one function after another until there is none for a while.
func (w workers) work(f func()) {
	idle := time.NewTimer(workerTime)
	defer idle.Stop()
	for {
		f()
		idle.Reset(workerTime)
		select {
		case f = <-w:
		case <-idle.C:
			return
		}
	}
}

// outcome is how a stream's handler ended.
type outcome struct {
	err      error
	panicked string
}

// end is how the call ends: with what the handler returned, or with its panic.
func (o outcome) end() error {
	if o.panicked != "" {
		panic(o.panicked)
	}
	return o.err
}

// of is how long a method's streams may take.
func (l StreamLimits) of(method string) time.Duration {
	_, isEndless := endless[method]
	switch {
	case imports[method]:
		return min(l.Bulk, importTime)
	case bulk[method]:
		return l.Bulk
	case isEndless:
		return l.watch
	default:
		return l.lookup
	}
}

// after is what a client does whose stream was ended, although it does not end by itself.
func (StreamLimits) after(method string) string {
	if method == watchPermission {
		return "ask anew whether the permission holds"
	}
	return "go on from the last token"
}

// intercept runs the handler beside itself: one that waits for its client has to be left for the call to end, and
// the call's end is what then ends the handler.
func (l StreamLimits) intercept(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	limit, stopping := l.of(info.FullMethod), (<-chan struct{})(nil)
	endsHere, isEndless := endless[info.FullMethod]
	if endsHere {
		stopping = l.Stopping
	}
	var barred <-chan error
	if known, ok := stream.(*identified); ok {
		barred = known.barred
	}
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	watched := &watchedStream{ServerStream: stream, ctx: ctx, began: time.Now(), waits: !isEndless}
	done := make(chan outcome, 1)
	l.workers.run(func() {
		var how outcome
		defer func() {
			if p := recover(); p != nil {
				how.panicked = fmt.Sprintf("%v\n%s", p, debug.Stack())
			}
			done <- how
		}()
		how.err = handler(srv, watched)
	})
	over := time.NewTimer(limit)
	defer over.Stop()
	look := time.NewTicker(max(l.Stall/4, time.Millisecond))
	defer look.Stop()
	for {
		select {
		case how := <-done:
			return how.end()
		case err := <-barred:
			return err
		case <-ctx.Done():
			// The handler has the time to say how far it came. One that takes no notice keeps the call's place until the limit:
			// it still takes what the places are there to bound.
			select {
			case how := <-done:
				return how.end()
			case <-over.C:
				return status.FromContextError(ctx.Err()).Err()
			}
		case <-stopping:
			return streamEnd(codes.Unavailable, "STOPPING", "the server stops; "+l.after(info.FullMethod))
		case <-over.C:
			if isEndless {
				return streamEnd(codes.Unavailable, "STREAM_TIME",
					fmt.Sprintf("this stream has lasted %s, the longest that it may; %s", limit, l.after(info.FullMethod)))
			}
			return streamEnd(codes.DeadlineExceeded, "STREAM_TIME", fmt.Sprintf("this call has lasted %s, the longest that it may", limit))
		case <-look.C:
			if since := watched.waiting.Load(); since != 0 && watched.age()-since > int64(l.Stall) {
				return streamEnd(codes.DeadlineExceeded, "STREAM_STALLED",
					fmt.Sprintf("the client has sent nothing, or taken nothing, for %s, the longest that the server waits", l.Stall))
			}
		}
	}
}

// streamEnd is the status of a stream that came to a limit.
func streamEnd(code codes.Code, reason, text string) error {
	return statuses.New(code, reason, "", text).Err()
}

// watchedStream knows since when its handler waits for the client. A handler receives and sends from one
// goroutine each; where both wait, the one that began last counts.
type watchedStream struct {
	grpc.ServerStream
	ctx   context.Context //nolint:containedctx // a stream has its context
	began time.Time
	// waiting is the stream's age, in nanoseconds, when the waiting began; 0 while the handler does not wait.
	waiting atomic.Int64
	// waits says that it goes no faster than its caller's rate. What a stream tells that does not end by itself is not to come late.
	waits bool
}

// Context is grpc.ServerStream's.
func (w *watchedStream) Context() context.Context { return w.ctx }

// RecvMsg is grpc.ServerStream's.
func (w *watchedStream) RecvMsg(m any) error {
	defer w.Await()()
	return w.ServerStream.RecvMsg(m)
}

// Await is called by a handler that receives by itself (the door's) before it waits for its client, and what it returns
// once the message has come.
func (w *watchedStream) Await() (came func()) {
	since := w.age()
	w.waiting.Store(since)
	return func() { w.waiting.CompareAndSwap(since, 0) }
}

// SendMsg is grpc.ServerStream's.
func (w *watchedStream) SendMsg(m any) error {
	objects := objectsIn(m) // before it is gone
	since := w.age()
	w.waiting.Store(since)
	err := w.ServerStream.SendMsg(m)
	w.waiting.CompareAndSwap(since, 0)
	if err != nil {
		return err
	}
	return delivered(w.ctx, objects, w.waits)
}

// objectBytes is how many bytes of an answer whose objects are not counted are one object.
const objectBytes = 128

// objectsIn is how many objects a message of a stream is charged as. Those of this server's own services have one. Of the door's, which may have
// thousands of relationships, only the length is known.
func objectsIn(m any) int {
	if passed, ok := m.(interface{ Len() int }); ok {
		return 1 + passed.Len()/objectBytes
	}
	return 1
}

// age is how long the stream lasts, in nanoseconds and more than 0.
func (w *watchedStream) age() int64 { return int64(time.Since(w.began)) + 1 }
