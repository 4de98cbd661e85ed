package store

import (
	"fmt"
	"runtime/debug"

	"go.uber.org/zap"
)

// A panic in the store must not end the process with all that goes on beside it: it is a defect of ours, or of Pebble's, and
// it is the error of the call that met it. The store's own goroutines have nobody to tell: what they did is logged, and
// tried again. The committer is different: what of a group is written is not known then, so the store fails. What
// Pebble's own goroutines do cannot be caught here.

// panicError is what a call gets that met a panic. What it was is for the log: it may hold data.
type panicError struct{ doing string }

func (e *panicError) Error() string {
	return "store: " + e.doing + " met a defect; the server's log has the details"
}

// shield makes a panic the error of what defers it.
func (s *Store) shield(doing string, err *error) {
	if met := recover(); met != nil {
		*err = s.panicked(doing, met)
	}
}

// panicked logs a panic, and returns the error for it.
func (s *Store) panicked(doing string, met any) error {
	s.config.Log.Error("a defect: a panic was met", zap.String("while", doing), zap.String("directory", s.dir),
		zap.String("panic", fmt.Sprint(met)), zap.ByteString("stack", debug.Stack()))
	return &panicError{doing}
}

// shielded calls what the store does by itself.
func (s *Store) shielded(doing string, fn func()) {
	var err error // it is logged
	defer s.shield(doing, &err)
	fn()
}
