package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"go.uber.org/zap"
)

// hardEnd is how much longer than its grace a server takes to stop, whatever its clients and its engine do. A
// store that is not closed by then is found as after a crash, which it is made for.
const hardEnd = 5 * time.Second

// cutTime is how much of hardEnd calls have to end that were cut off, and again once they are closed for good. The
// rest is for closing the engine.
const cutTime = time.Second

// stopping is how far a server has come with its end.
type stopping struct {
	deadline sync.Once
	by       time.Time
	closing  sync.Once
	closed   error
}

// stopBy returns until when all has to be over: the grace and hardEnd from the first call of it on.
func (d *Daemon) stopBy() time.Time {
	d.stopping.deadline.Do(func() { d.stopping.by = time.Now().Add(d.cfg.ShutdownGrace + hardEnd) })
	return d.stopping.by
}

// drain stops the server: gracefully, by force once the grace is over, and by leaving it alone when that does
// not help.
func (d *Daemon) drain() {
	by := d.stopBy()
	// gRPC waits for connections that are being made before it tells the others that it stops.
	d.listener.drain()
	drained := make(chan struct{})
	go func() {
		until, cancel := context.WithTimeout(context.Background(), d.cfg.ShutdownGrace)
		defer cancel()
		stopped := make(chan struct{})
		go func() {
			defer close(stopped)
			d.http.drain(until)
		}()
		d.server.GracefulStop()
		<-stopped
		close(drained)
	}()
	if ended(drained, d.cfg.ShutdownGrace) {
		return
	}
	d.log.Warn("calls under way were cut off", zap.Duration("grace", d.cfg.ShutdownGrace))
	// gRPC closes one connection after another, and waits for what each still has to write.
	d.listener.cut()
	go d.server.Stop()
	if !ended(drained, min(cutTime, time.Until(by))) {
		d.log.Error("calls that were cut off do not end; the server stops without them")
	}
}

// Close releases all that Open took. It is safe to call twice, and ends Serve if that still runs. What cannot be
// closed within ShutdownGrace and 5 s, since Serve takes no new calls or else from now on, is an error, and is left
// as it is.
func (d *Daemon) Close() error {
	d.stopping.closing.Do(func() { d.stopping.closed = d.close() })
	return d.stopping.closed
}

func (d *Daemon) close() error {
	d.health.Shutdown()
	return closeBy(d.stopBy(), d.log, []closing{
		// Calls that do not end do so, mostly, once there is no engine to wait for.
		{"calls under way over HTTP", cutTime, d.http.close},
		{"calls under way", cutTime, func() error {
			d.listener.cut()
			d.server.Stop()
			return d.listener.Close()
		}},
		{"the issuers' keys", cutTime, closer(d.callers.close).Close},
		{"the metrics", cutTime, d.metrics.close},
		{"the Workload API", cutTime, d.transport.close},
		{"the evaluator", hardEnd, func() error {
			if d.evaluator != nil {
				d.evaluator.Close()
			}
			return nil
		}},
		{"the signals", cutTime, func() error {
			if d.ledger != nil {
				return d.ledger.Close()
			}
			return nil
		}},
		{"the copy of the primary", hardEnd, d.closeFollower},
		{"the engine", d.cfg.ShutdownGrace + hardEnd, d.engine.Close},
		// What ends once there is no engine is recorded too.
		{"the journal", hardEnd, d.closeJournal},
	})
}

// closing is something to be closed, and how long that may take.
type closing struct {
	what   string
	within time.Duration
	close  func() error
}

// closeBy closes one thing after another until a time. What has not ended by then, or within its own, is left as it is.
func closeBy(by time.Time, log *zap.Logger, all []closing) error {
	var failed error
	for _, one := range all {
		var err error
		done := make(chan struct{})
		go func() {
			defer close(done)
			err = one.close()
		}()
		// What ends at once may do so after the time too.
		if !ended(done, min(one.within, max(time.Until(by), 100*time.Millisecond))) {
			log.Error("something does not end in time, and is left as it is", zap.String("what", one.what))
			failed = errors.Join(failed, fmt.Errorf("daemon: %s did not end in time and had to be left as after a crash", one.what))
			continue
		}
		if !errors.Is(err, net.ErrClosed) {
			failed = errors.Join(failed, err)
		}
	}
	return failed
}

// ended waits for the end of something, up to a time, and reports whether it has come.
func ended(done <-chan struct{}, within time.Duration) bool {
	timer := time.NewTimer(max(within, 0))
	defer timer.Stop()
	select {
	case <-done:
		return true
	case <-timer.C:
		return false
	}
}
