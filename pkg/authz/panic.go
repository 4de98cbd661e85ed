package authz

import (
	"fmt"
	"runtime/debug"
)

// Safely does something and returns its error, or, if it panics, an *Error of kind Internal whose cause names the
// panic and holds the stack, for the log.
//
// Go ends the process at a panic that reaches the top of a goroutine, whichever call the goroutine works for. So
// each goroutine that works for a call runs its work through Safely: then the call fails, and no other one does.
func Safely(op string, do func() error) (err error) {
	defer Recover(op, &err)
	return do()
}

// Recover is Safely for a function that already has a named error: deferred, it turns a panic into that error and
// leaves any other outcome alone. It must be deferred directly.
func Recover(op string, err *error) {
	if p := recover(); p != nil {
		*err = Panicked(op, p)
	}
}

// Panicked returns the error of a panic that was recovered: of kind Internal, with the stack of the goroutine that
// calls it.
func Panicked(op string, panicked any) *Error {
	return &Error{Op: op, Kind: Internal, Message: "it panicked", Err: fmt.Errorf("%v\n%s", panicked, debug.Stack())}
}
