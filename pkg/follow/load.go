package follow

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/authzed/spicedb/pkg/tuple"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/store"
)

// What a load relies on.
//
// A copy that is being made is of a position from its first commit on: its mark says which one, and that pages are missing. Each page is read at
// the head, together with what has changed since the copy's position. The changes are written first and the page after them, so that two sentences
// are true after each commit:
//
//   - What the pages so far cover is in the copy as the position shows it.
//   - Nothing is in the copy that the position does not show. A relationship that was written while the load runs may be there before its page. That
//     page has it as it is in the copy, and leaves it.
//
// Changes lead from one position to another one for all relationships alike, so they keep both sentences. A page adds what the position shows, so it
// keeps both and covers more. Once there is no other page the copy is the position. So a load has no more to catch up with at its end than at any
// other time, and it may take longer than the window.
//
// Where more has changed than one commit holds, which one large transaction or a long pause brings about, the changes are written in several commits,
// deletions first. The copy is torn meanwhile: some of it is as the position shows it, and some as a later state did. After an interruption all that has
// changed since the position is read again, from then on. That is exact whatever is in the copy by then, because a relationship that is in the copy and
// is not as the new state shows it was deleted after the position; and deletions are named here whether or not the position shows what was deleted
// (Parted). What is alive in the new state and was written after the position is written after that. What was written before and is alive has not changed.

// Load makes a new copy beside the one that is served, brings it to the head, and has it served, so that what is served never goes back. It goes
// on with a load that was interrupted, unless the authority cannot show that state any more. Errors are those of Authority.ChangesSince.
func (f *Follower) Load(ctx context.Context) error {
	ctx, over := f.turnOf(ctx)
	defer over()
	defer f.progress.Store(nil)
	if _, err := f.served(); err != nil && !errors.Is(err, ErrNoCopy) { //nolint:contextcheck // likewise
		return err
	}
	for {
		resumed := f.half != nil
		err := f.load(ctx)
		if err == nil {
			return nil
		}
		if half := f.half; half != nil && half.store.Failed() != nil {
			err = fmt.Errorf("%w: %w", ErrStopped, err)
		}
		if !needsLoad(err) {
			return err
		}
		if f.half != nil {
			half := f.half
			f.half = nil
			if dropped := f.drop(half); dropped != nil {
				return errors.Join(err, dropped)
			}
		}
		if !resumed {
			return err
		}
	}
}

// load begins a copy, or goes on with one, until it is complete.
func (f *Follower) load(ctx context.Context) error {
	if f.half == nil {
		if err := f.begin(ctx); err != nil {
			return err
		}
	}
	half := f.half
	for half.mark.Loading != nil {
		var err error
		if l := half.mark.Loading; l.Torn {
			err = f.catchUp(ctx, half, math.MaxUint64)
		} else if err = f.pages(ctx, half); errors.Is(err, ErrTooMany) {
			err = f.catchUp(ctx, half, math.MaxUint64)
		}
		if err != nil {
			return err
		}
	}
	for {
		err := f.advance(ctx, half)
		if errors.Is(err, ErrTooMany) {
			if err = f.catchUp(ctx, half, math.MaxUint64); err == nil {
				continue
			}
		}
		if err != nil {
			return err
		}
		break
	}
	f.half = nil
	f.replace(half)
	return nil
}

// pages adds pages to a copy that is not torn until it has all of them, or there is an error.
func (f *Follower) pages(ctx context.Context, half *replica) error {
	// While one is written the next one is read.
	coming := f.read(ctx, half.mark.Position, half.mark.Loading.Next)
	for half.mark.Loading != nil {
		var r readPage
		select {
		case r = <-coming:
		case <-ctx.Done():
			r.err = ctx.Err()
		}
		if r.err != nil {
			return r.err
		}
		l := *half.mark.Loading
		if r.page.Next != "" && (r.page.Next == l.Next || len(r.page.Relationships) == 0) {
			return errors.New("follow: a page of the primary's does not lead on")
		}
		if r.page.Next != "" {
			coming = f.read(ctx, r.changes.To, r.page.Next)
		}
		if !r.changes.Empty() {
			l.Early = l.Early || len(r.changes.Written) > 0
			before := l
			m := mark{Format: markFormat, Position: r.changes.To, Loading: &before}
			if err := half.commit(ctx, m, &r.changes); err != nil {
				return err
			}
		}
		l.Next, l.Relationships = r.page.Next, l.Relationships+uint64(len(r.page.Relationships))
		m := mark{Format: markFormat, Position: r.changes.To, Loading: &l}
		if l.Next == "" {
			m.Loading = nil
		}
		if err := half.fill(ctx, m, r.page.Relationships, l.Early); err != nil {
			return err
		}
		if f.config.Progress != nil {
			f.config.Progress(Progress{Position: m.Position, Relationships: l.Relationships, Complete: m.Loading == nil})
		}
	}
	return nil
}

// readPage is what has changed since the page before was read, and a page as it is after that; or why one of them could not be read.
type readPage struct {
	changes Changes
	page    Page
	err     error
}

// read reads a page in the background, at the head, and what has changed since a position.
func (f *Follower) read(ctx context.Context, from Position, next string) <-chan readPage {
	done := make(chan readPage, 1)
	go func() {
		var r readPage
		r.err = authz.Safely("follow.Load", func() (err error) {
			if r.changes, err = f.changesSince(ctx, from); err != nil {
				return err
			}
			asked := time.Now()
			r.page, err = f.authority.At(r.changes.To).Page(ctx, next, f.config.PageSize)
			f.contact.note(asked, err)
			return err
		})
		done <- r
	}()
	return done
}

// catchUp brings a copy to the head in several commits, where more has changed than one takes. The copy is torn meanwhile, and is to be read at the
// revisions that it had before. It ends with ErrTooMany once about so many relationships were taken as most says.
func (f *Follower) catchUp(ctx context.Context, r *replica, most uint64) error {
	parted, ok := f.authority.(Parted)
	if !ok {
		return ErrTooMany
	}
	from, l := r.at.position, loading{Paged: true}
	if r.mark.Loading != nil {
		l = *r.mark.Loading
	}
	l.Early, l.Torn = true, true
	torn := mark{Format: markFormat, Position: from, Loading: &l}
	// Small parts, so that one that is under way does not hold up Close.
	size, taken := min(f.config.MaxChanges, f.config.PageSize), uint64(0)
	rest, err := f.changesInParts(ctx, parted, from, size, func(deleted, written []tuple.Relationship) error {
		if taken += uint64(len(deleted) + len(written)); taken > most {
			return ErrTooMany
		}
		if len(deleted) > 0 {
			if err := r.commit(ctx, torn, &Changes{Deleted: deleted}); err != nil {
				return err
			}
		}
		if len(written) == 0 {
			return nil
		}
		return r.fill(ctx, torn, written, true)
	})
	if err != nil {
		return err
	}
	m := mark{Format: markFormat, Position: rest.To}
	if !l.Paged {
		whole := l
		whole.Torn = false
		m.Loading = &whole
	}
	return r.commit(ctx, m, &rest)
}

// begin begins a copy: its definitions, and a mark that says that no relationship is there yet.
func (f *Follower) begin(ctx context.Context) error {
	if err := f.left.clear(f.remove); err != nil {
		return err
	}
	at, err := f.head(ctx)
	if err != nil {
		return err
	}
	definitions, err := f.authority.At(at).Definitions(ctx)
	if err != nil {
		return err
	}
	f.newest++
	made, err := f.make(ctx, f.newest, at, &definitions)
	if err != nil {
		return err
	}
	f.half = made
	return nil
}

// make makes a store with definitions and no relationships.
func (f *Follower) make(ctx context.Context, number int, at Position, definitions *Definitions) (*replica, error) {
	dir := f.path(number)
	opened, err := store.Open(dir, f.config.Store) //nolint:contextcheck // what it starts ends with the store
	if err != nil {
		f.left.note(dir, err) // as far as it was made
		return nil, err
	}
	made := &replica{dir: dir, number: number, store: opened}
	err = made.commit(ctx, mark{Format: markFormat, Position: at, Loading: &loading{}}, &Changes{Definitions: *definitions})
	if err != nil {
		return nil, errors.Join(err, f.drop(made))
	}
	return made, nil
}
