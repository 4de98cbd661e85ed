package judge

import (
	"context"
	"fmt"
	"testing"

	"github.com/deputyauth/deputy/pkg/authz"
)

// Which errors are the engine's: they end a whole call, where a case's own error is an answer about that case. A revision
// that was collected is one of them, or what cannot be read any more would read as nothing that is there.
func TestFatal(t *testing.T) {
	for kind, want := range map[authz.Kind]bool{
		authz.Internal: true, authz.Unavailable: true, authz.Canceled: true, authz.Deadline: true, authz.Exhausted: true, authz.OutOfRange: true,
		authz.Invalid: false, authz.NotFound: false, authz.Precondition: false, authz.Denied: false,
	} {
		err := fmt.Errorf("wrapped: %w", &authz.Error{Kind: kind, Message: "x"})
		if got := fatal(err); (got != nil) != want {
			t.Errorf("kind %d: %v, want that it is fatal: %v", kind, got, want)
		}
	}
	if fatal(nil) != nil {
		t.Error("no error is fatal")
	}
	if fatal(fmt.Errorf("reading: %w", context.DeadlineExceeded)) == nil {
		t.Error("the end of the context is not fatal")
	}
}
