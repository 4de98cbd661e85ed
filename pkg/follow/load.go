package follow

import (
	"context"
	"errors"
	"fmt"

	"github.com/authzed/spicedb/pkg/datastore"
	"github.com/authzed/spicedb/pkg/tuple"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/store"
)

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
	// While a page is written the next one is read.
	read := func(next string) <-chan readPage { return f.read(ctx, half.at.position, next) }
	var coming <-chan readPage
	if half.mark.Loading != nil {
		coming = read(half.mark.Loading.Next)
	}
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
		m := half.mark
		if r.page.Next != "" && (r.page.Next == m.Loading.Next || len(r.page.Relationships) == 0) {
			return errors.New("follow: a page of the authority's does not lead on")
		}
		loaded := m.Loading.Relationships + uint64(len(r.page.Relationships))
		m.Loading = &loading{Next: r.page.Next, Relationships: loaded}
		if r.page.Next == "" {
			m.Loading = nil
		} else {
			coming = read(r.page.Next)
		}
		if err := half.commit(ctx, m, func(ctx context.Context, tx datastore.ReadWriteTransaction) error {
			_, err := tx.BulkLoad(ctx, &source{rest: r.page.Relationships})
			return err
		}); err != nil {
			return err
		}
		if f.config.Progress != nil {
			f.config.Progress(Progress{Position: m.Position, Relationships: loaded, Complete: m.Loading == nil})
		}
	}
	if err := f.advance(ctx, half); err != nil {
		return err
	}
	f.half = nil
	f.replace(half)
	return nil
}

// readPage is a page, or why it could not be read.
type readPage struct {
	page Page
	err  error
}

// read reads a page in the background.
func (f *Follower) read(ctx context.Context, at Position, next string) <-chan readPage {
	done := make(chan readPage, 1)
	go func() {
		var r readPage
		r.err = authz.Safely("follow.Load", func() (err error) {
			r.page, err = f.authority.At(at).Page(ctx, next, f.config.PageSize)
			return err
		})
		done <- r
	}()
	return done
}

// begin begins a copy: its definitions, and a mark that says that no relationship is there yet.
func (f *Follower) begin(ctx context.Context) error {
	at, err := f.authority.Head(ctx)
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
		return nil, err
	}
	made := &replica{dir: dir, number: number, store: opened}
	err = made.commit(ctx, mark{Format: markFormat, Position: at, Loading: &loading{}},
		func(ctx context.Context, tx datastore.ReadWriteTransaction) error {
			return write(ctx, tx, &Changes{Definitions: *definitions})
		})
	if err != nil {
		return nil, errors.Join(err, f.drop(made))
	}
	return made, nil
}

// source hands relationships to a bulk load.
type source struct{ rest []tuple.Relationship }

// Next is datastore.BulkWriteRelationshipSource's.
func (s *source) Next(context.Context) (*tuple.Relationship, error) {
	if len(s.rest) == 0 {
		return nil, nil //nolint:nilnil // the end
	}
	next := &s.rest[0]
	s.rest = s.rest[1:]
	return next, nil
}
