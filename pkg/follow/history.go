package follow

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/turns"
)

// A database that was failed over to a replica which lagged, or was put back to an earlier state, has the same tables and another history: it gives
// the ids of lost transactions to other ones, so a revision of the lost time would name a state that it never was. Therefore every revision of a
// Graph says which history it is of (authz.InHistory), and is good in that one alone. The authority tells its identity with each
// position, and when it is asked.
//
// What the copy answers is of the history of the copy's position. What the authority's engine answers is of a history if the authority was the same
// before and after it answered: an identity that was left does not come back.

// historyOf returns what the revisions of an authority are marked with.
func historyOf(i Identity) string {
	sum := sha256.Sum256([]byte(i))
	return base64.RawURLEncoding.EncodeToString(sum[:9])
}

// History is authz.Histories'.
func (g *Graph) History(ctx context.Context) (string, error) {
	is, err := g.identity(ctx)
	if err != nil {
		return "", err
	}
	return historyOf(is), nil
}

// HistoryNow is authz.Histories'.
func (g *Graph) HistoryNow(ctx context.Context) (string, error) {
	is, err := g.identityNow(ctx)
	if err != nil {
		return "", err
	}
	return historyOf(is), nil
}

// identified is an authority's identity, and the moment at which it was asked for.
type identified struct {
	identity Identity
	asked    time.Time
}

// identities keeps an authority's identity. The zero value knows none.
type identities struct {
	mu   sync.Mutex
	last identified
	ask  turns.Shared[Identity]
}

// recognize takes in the identity that the authority had at some moment after it was asked. Where it is another one than before, the copy is taken out
// of service. It returns false for an answer to a question that was asked before another one whose answer differs.
func (g *Graph) recognize(is Identity, asked time.Time) bool {
	i := &g.identities
	i.mu.Lock()
	before := i.last
	switch {
	case before.identity == is:
		if asked.After(before.asked) {
			i.last.asked = asked
		}
		i.mu.Unlock()
		return true
	case asked.Before(before.asked):
		i.mu.Unlock()
		return false
	}
	i.last = identified{is, asked}
	i.mu.Unlock()
	if before.identity == "" {
		return true
	}
	g.config.Log.Warn("the primary has another history than before: it was failed over, restored or replaced. Tokens of before are refused",
		zap.String("before", string(before.identity)), zap.String("now", string(is)))
	g.forget(nil)
	if g.config.Renewed != nil {
		g.config.Renewed(before.identity, is)
	}
	return true
}

// identity is the identity that the authority was last known to have, "" if none is known.
func (i *identities) identity() Identity {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.last.identity
}

// identity returns the authority's identity as it was last known, and asks for it where none is known.
func (g *Graph) identity(ctx context.Context) (Identity, error) {
	if is := g.identities.identity(); is != "" {
		return is, nil
	}
	return g.identityNow(ctx)
}

// identityNow asks for the authority's identity. Calls that ask at the same time share the answer.
func (g *Graph) identityNow(ctx context.Context) (Identity, error) {
	is, err := g.identities.ask.Get(ctx, pullTime, func(ctx context.Context) (Identity, error) {
		asked := time.Now()
		head, err := g.config.Follower.head(ctx)
		if err != nil {
			return "", err
		}
		if !g.recognize(head.Authority, asked) {
			return "", errChanged
		}
		return head.Authority, nil
	})
	switch {
	case err == nil:
		return is, nil
	case ctx.Err() != nil:
		return "", endOf(ctx)
	}
	unknown := authz.Errorf(authz.Unavailable, authz.ReasonEngineUnavailable,
		"the primary does not say who it is, so that nothing of it can be told from what another one would say; the server's operator finds more in its log")
	unknown.Err = err
	return "", unknown
}

// errChanged says that the authority became another one during a call.
var errChanged = authz.Errorf(authz.Unavailable, authz.ReasonEngineUnavailable, "the primary was failed over, restored or replaced meanwhile; try again")

// during calls ask, which asks the authority's engine, and returns the history that the authority had before and after it. Errors: errChanged.
func (g *Graph) during(ctx context.Context, ask func(of Identity) error) (history string, err error) {
	before, err := g.identity(ctx)
	if err != nil {
		return "", err
	}
	if err := ask(before); err != nil {
		return "", err
	}
	after, err := g.identityNow(ctx)
	switch {
	case err != nil:
		return "", err
	case after != before:
		return "", errChanged
	}
	return historyOf(before), nil
}

// sameHistory refuses revisions of another history than an authority's. One that names none is taken for one of the authority's.
func sameHistory(is Identity, revisions ...authz.Revision) error {
	for _, r := range revisions {
		if h := r.History(); h != "" && h != historyOf(is) {
			return authz.Errorf(authz.OutOfRange, authz.ReasonRevision,
				"the token or cursor is of another history of the primary than today's: it was failed over, restored or replaced since. Begin without it")
		}
	}
	return nil
}
