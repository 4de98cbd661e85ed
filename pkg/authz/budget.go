package authz

import (
	"context"
	"time"
)

// Until is when a call that can stop with a place to go on from has taken long enough: after the given time, or after
// half of what is left until the context's deadline, so that the caller hears of the place before it gives up.
func Until(ctx context.Context, most time.Duration) time.Time {
	now := time.Now()
	if deadline, ok := ctx.Deadline(); ok {
		most = min(most, deadline.Sub(now)/2)
	}
	return now.Add(most)
}
