// Package http tests the door over HTTP from outside, with net/http, connect-go's client and hand-made frames: what is asked there is answered,
// refused and recorded as over gRPC, and what is hostile takes nothing. That the table of callers is the same is tests/callers'.
package http
