package token

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/deputyauth/deputy/pkg/authz"
)

// When keys are asked for.
const (
	// refreshEvery is how often an issuer is asked for its keys, and fileEvery how often a file with keys is read: so long a key that was taken
	// away is still accepted.
	refreshEvery = 5 * time.Minute
	fileEvery    = 5 * time.Second
	// cooldown is how long an issuer is left alone after it was asked, whatever the tokens that name keys that nobody knows, and whether it
	// answered or not.
	cooldown = 30 * time.Second
	// maxWaiting is how many calls of one issuer wait for its keys.
	maxWaiting = 256
)

// source has the keys of one issuer, and asks for them: in the background, and when a token names a key that is not among them. One question
// is under way at a time, which no call's end ends. A failure takes away nothing: the last keys are used for Issuer.Stale.
//
// It is safe for concurrent use. Verifiers share it while their issuer stays the same.
type source struct {
	issuer Issuer
	now    func() time.Time
	log    *zap.Logger
	fetch  func(context.Context) ([]byte, error)

	// set is what the issuer answered last, nil before.
	set atomic.Pointer[keySet]

	// mu guards all below.
	mu sync.Mutex
	// users are the verifiers that share it. Without one it is stopped: it asks no more.
	users int
	stop  context.CancelFunc
	ctx   context.Context //nolint:containedctx // its own life, not a call's
	ended chan struct{}
	// attempt is closed when the question under way is answered, nil where none is. tried is when the last one was begun, zero before, and
	// failed why it got no keys.
	attempt chan struct{}
	tried   time.Time
	failed  error
	waiting int
}

// newSource returns a source with one user that does not ask yet.
func newSource(issuer Issuer, o Options) *source {
	s := &source{issuer: issuer, now: o.Now, log: o.Log.With(zap.String("issuer", issuer.Issuer)), users: 1, ended: make(chan struct{})}
	s.fetch = fetcher(issuer, o.transport)
	s.ctx, s.stop = context.WithCancel(context.Background())
	return s
}

// load asks once and waits for the answer, until ctx ends.
func (s *source) load(ctx context.Context) error {
	s.mu.Lock()
	attempt := s.begin()
	s.mu.Unlock()
	select {
	case <-attempt:
	case <-ctx.Done():
		return ctx.Err()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failed
}

// share adds a user, unless the source is stopped.
func (s *source) share() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.users == 0 {
		return false
	}
	s.users++
	return true
}

// release takes a user away. The last one stops the source, and waits until nothing of it runs.
func (s *source) release() {
	s.mu.Lock()
	s.users--
	last := s.users == 0
	s.mu.Unlock()
	if last {
		s.stop()
		<-s.ended
	}
}

// refresh asks for the keys until the source is stopped.
func (s *source) refresh() {
	defer close(s.ended)
	every := refreshEvery
	if s.issuer.JWKSFile != "" {
		every = fileEvery
	}
	for {
		s.mu.Lock()
		attempt := s.begin()
		s.mu.Unlock()
		if attempt == nil {
			return
		}
		<-attempt
		pause := every
		s.mu.Lock()
		if s.failed != nil {
			pause = min(every, cooldown)
		}
		s.mu.Unlock()
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-s.ctx.Done():
			timer.Stop()
		}
	}
}

// begin returns the question under way, and asks it where none is; nil where the source is stopped and none is. mu is held.
func (s *source) begin() chan struct{} {
	if s.attempt != nil || s.ctx.Err() != nil {
		return s.attempt
	}
	attempt := make(chan struct{})
	s.attempt, s.tried = attempt, s.now()
	go func() {
		defer close(attempt)
		var keys map[string]*key
		err := authz.Safely("token.fetch", func() error {
			text, err := s.fetch(s.ctx)
			if err == nil {
				keys, err = readKeys(text)
			}
			return err
		})
		s.answered(keys, err)
	}()
	return attempt
}

// answered notes what the question under way came to.
func (s *source) answered(keys map[string]*key, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case err == nil:
		if s.failed != nil {
			s.log.Info("the issuer's keys can be had again")
		}
		s.set.Store(&keySet{keys: keys, at: s.tried})
	case s.ctx.Err() == nil && (s.failed == nil || s.failed.Error() != err.Error()):
		if s.set.Load() == nil {
			s.log.Warn("the issuer's keys cannot be had, and there are none yet: its tokens are refused until there are", zap.Error(err))
		} else {
			s.log.Warn("the issuer's keys cannot be had; the last ones are used for a while", zap.Duration("stale", s.issuer.Stale), zap.Error(err))
		}
	}
	s.attempt, s.failed = nil, err
}

// current returns the keys that can be used, none where they are too old.
func (s *source) current(now time.Time) keySet {
	if set := s.set.Load(); set != nil && now.Sub(set.at) < s.issuer.Stale {
		return *set
	}
	return keySet{}
}

// key returns the key with an id, and asks the issuer for it where it is not known, at most once in cooldown. Errors: Unauthenticated where the
// issuer has no such key, Unavailable where that cannot be told.
func (s *source) key(ctx context.Context, id string) (*key, error) {
	if k := s.current(s.now()).keys[id]; k != nil {
		return k, nil
	}
	if err := s.ask(ctx); err != nil {
		return nil, err
	}
	set := s.current(s.now())
	if k := set.keys[id]; k != nil {
		return k, nil
	}
	s.mu.Lock()
	failed := s.failed
	s.mu.Unlock()
	if failed != nil || set.keys == nil {
		return nil, s.unavailable(failed)
	}
	return nil, refuse("is signed with the key %.100q, which is none of %s's", id, s.issuer.Issuer)
}

// ask waits until the issuer has been asked, unless it has been just now. Errors: Unavailable.
func (s *source) ask(ctx context.Context) error {
	s.mu.Lock()
	attempt := s.attempt
	if attempt == nil && s.now().Sub(s.tried) >= cooldown {
		attempt = s.begin()
	}
	if attempt == nil {
		s.mu.Unlock()
		return nil
	}
	if s.waiting == maxWaiting {
		s.mu.Unlock()
		return s.unavailable(errors.New("too many calls wait for them"))
	}
	s.waiting++
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.waiting--
		s.mu.Unlock()
	}()
	select {
	case <-attempt:
		return nil
	case <-ctx.Done():
		return s.unavailable(ctx.Err())
	}
}

// unavailable returns what a caller is told whose token cannot be judged.
func (s *source) unavailable(cause error) *authz.Error {
	err := authz.Errorf(authz.Unavailable, authz.ReasonIssuerUnavailable,
		"the keys of the issuer %s cannot be had now, so its token cannot be verified; try again", s.issuer.Issuer)
	err.Err = cause
	return err
}
