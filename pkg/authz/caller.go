package authz

import "context"

// CallerKey is the key of a context's value that is the name of the caller for whom something is done, a string.
type CallerKey struct{}

// WithCaller returns a context of work that is done for a caller.
func WithCaller(ctx context.Context, name string) context.Context {
	return context.WithValue(ctx, CallerKey{}, name)
}

// CallerOf returns the name of the caller for whom something is done; "" where it is the server's own work. It says who is to share with whom, and
// nothing about rights.
func CallerOf(ctx context.Context) string {
	name, _ := ctx.Value(CallerKey{}).(string)
	return name
}
