package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"time"

	"google.golang.org/grpc"

	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// Page is which part of a list to fetch. The zero Page is all of it.
type Page struct {
	// Limit is how many results to stop after; 0 is none.
	Limit int
	// Cursor is where an earlier List stopped, as its Next says; nil is the beginning.
	Cursor *deputyv1.Cursor
}

// ErrCutOff is the error of a list that ended without the server's word that it has: there may be more results, which are not known.
var ErrCutOff = errors.New("client: the server did not end the list: it was cut off, and there may be more results")

// List is the results of a list or a lookup, fetched page by page while it is iterated. It is not safe for concurrent use.
type List[T any] struct {
	Page
	fetch func(ctx context.Context, limit uint32, from *deputyv1.Cursor) (page[T], error)
	end   end
}

// page is what one call brought.
type page[T any] struct {
	results []result[T]
	end     end
}

// result is one result, or why there is none in its place.
type result[T any] struct {
	value T
	err   error
}

// end is how a page ended.
type end struct {
	complete bool
	next     *deputyv1.Cursor
	at       *deputyv1.ZedToken
}

const (
	// maxPage is the most results that one call of a list, and so much the more of a lookup, may ask for.
	maxPage = 1000
	// pageTime is how long one page may take whose context has no deadline. A server stops a page itself after some 5 s of work.
	pageTime = 30 * time.Second
)

// All iterates over the results, from the beginning each time. An error is the last thing that it yields, but for an *UnjudgedError, which is
// about one result: where the loop goes on after one, so does the list.
//
// Where the loop ends without an error, everything was yielded, or as many as Limit; Complete says which. A page is yielded only once all of it
// has come, so that how long the loop takes with a result is its own affair.
func (l *List[T]) All(ctx context.Context) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var none T
		l.end = end{next: l.Cursor}
		if l.Limit < 0 {
			yield(none, fmt.Errorf("client: the limit of a list is %d, and cannot be negative", l.Limit))
			return
		}
		for left := l.Limit; ; {
			limit := uint32(0)
			if l.Limit > 0 {
				limit = uint32(min(left, maxPage))
			}
			got, err := l.fetch(ctx, limit, l.end.next)
			if err == nil && !got.end.complete && (got.end.next.GetToken() == "" || got.end.next.GetToken() == l.end.next.GetToken()) {
				err = ErrCutOff // there is more, and no way to it
			}
			if err != nil {
				yield(none, err)
				return
			}
			for _, r := range got.results {
				if !yield(r.value, r.err) {
					return
				}
			}
			l.end = got.end
			left -= len(got.results)
			if l.end.complete || l.Limit > 0 && left <= 0 {
				return
			}
		}
	}
}

// Collect returns all results, or as many as Limit. With an error, also that of a single result, there are none.
func (l *List[T]) Collect(ctx context.Context) ([]T, error) {
	var all []T
	for one, err := range l.All(ctx) {
		if err != nil {
			return nil, err
		}
		all = append(all, one)
	}
	return all, nil
}

// Complete reports whether the last iteration came to the end of the list.
func (l *List[T]) Complete() bool { return l.end.complete }

// Next is where another List goes on: after the last page that was yielded whole. It is nil once the list is complete.
func (l *List[T]) Next() *deputyv1.Cursor { return l.end.next }

// At is the revision of the last page that was yielded whole.
func (l *List[T]) At() *deputyv1.ZedToken { return l.end.at }

// listOf returns a list whose pages are the answers of a method. results takes them out of an answer.
func listOf[T any, A ended](
	of Page, call func(ctx context.Context, limit uint32, from *deputyv1.Cursor) (A, error), results func(A) []T,
) *List[T] {
	return &List[T]{Page: of, fetch: func(ctx context.Context, limit uint32, from *deputyv1.Cursor) (page[T], error) {
		answer, err := call(ctx, limit, from)
		if err != nil {
			return page[T]{}, err
		}
		got := page[T]{end: end{answer.GetComplete(), answer.GetNext(), answer.GetReadAt()}}
		for _, r := range results(answer) {
			got.results = append(got.results, result[T]{value: r})
		}
		return got, nil
	}}
}

// ended is what the answers of all lists have in common.
type ended interface {
	GetComplete() bool
	GetNext() *deputyv1.Cursor
	GetReadAt() *deputyv1.ZedToken
}

// streamOf returns a list whose pages are streams. read says what a message is: a result, that which ends the stream, or neither.
func streamOf[T any, M any](
	of Page, open func(ctx context.Context, limit uint32, from *deputyv1.Cursor) (grpc.ServerStreamingClient[M], error),
	read func(*M) (r *result[T], e *end),
) *List[T] {
	return &List[T]{Page: of, fetch: func(ctx context.Context, limit uint32, from *deputyv1.Cursor) (page[T], error) {
		// Ended in any case, because gRPC holds a stream until then.
		ctx, cancel := pageContext(ctx)
		defer cancel()
		stream, err := open(ctx, limit, from)
		if err != nil {
			return page[T]{}, err
		}
		var got page[T]
		for last := false; ; {
			message, err := stream.Recv()
			switch {
			case errors.Is(err, io.EOF) && last:
				return got, nil
			case errors.Is(err, io.EOF):
				return page[T]{}, ErrCutOff
			case err != nil:
				return page[T]{}, err
			case last:
				return page[T]{}, errors.New("client: the server went on after the end of the list")
			}
			r, e := read(message)
			if r != nil {
				got.results = append(got.results, *r)
			}
			if e != nil {
				got.end, last = *e, true
			}
		}
	}}
}

// pageContext bounds a page whose context has no deadline.
func pageContext(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, set := ctx.Deadline(); set {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, pageTime)
}

// UnjudgedError says that of one result of a lookup it is not known whether it is reached, because a check of it alone is an error. It is not
// to be acted on.
type UnjudgedError struct {
	// Agent is the agent, Resource the object that was looked for, of a lookup of agents and of one of resources.
	Agent    string
	Resource Resource
	// Principal, Tenant and Delegation are for whom it was asked, where, and by what.
	Principal          Principal
	Tenant, Delegation string
	// Err is what a check answers, as a gRPC status.
	Err error
}

// Error says what could not be judged, and why.
func (e *UnjudgedError) Error() string {
	of := "agent:" + e.Agent
	if e.Resource != (Resource{}) {
		of = e.Resource.String()
	}
	return fmt.Sprintf("client: it is not known whether %s is reached for %s: %v", of, e.Principal, e.Err)
}

// Unwrap returns what a check answers.
func (e *UnjudgedError) Unwrap() error { return e.Err }

// failed is a list that is an error.
func failed[T any](err error) *List[T] {
	return &List[T]{fetch: func(context.Context, uint32, *deputyv1.Cursor) (page[T], error) { return page[T]{}, err }}
}
