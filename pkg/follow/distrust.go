package follow

import (
	"context"

	"go.uber.org/zap"

	"github.com/deputyauth/deputy/pkg/store"
)

// distrustedFormat is the format of the mark of a copy that was found to differ from its authority: no version opens such a copy.
const distrustedFormat = -1

// Distrust takes a copy out of service, because it is damaged or differs from the authority: from the moment that Distrust returns there is no copy
// any more, until another one is loaded. It waits for nothing. A copy that is not served any more is left alone, and the result is false.
func (f *Follower) Distrust(copied *store.Store) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.serving == nil || f.serving.store != copied || f.serving.distrusted {
		return false
	}
	f.serving.distrusted = true
	return true
}

// serves reports whether a copy is the one that is served, and has not been taken out of service.
func (f *Follower) serves(copied *store.Store) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.serving != nil && f.serving.store == copied && !f.serving.distrusted
}

// expel removes a copy that is not to be trusted any more. Somebody may go on to read it for a while, so it says itself, on the disk, that it is
// not to be opened again. The turn is held.
func (f *Follower) expel() {
	f.mu.Lock()
	r := f.serving
	distrusted := r != nil && r.distrusted
	f.mu.Unlock()
	if !distrusted {
		return
	}
	// It is written also while the follower ends, and is on the disk before anybody goes on.
	err := r.commit(context.Background(), mark{Format: distrustedFormat, Position: r.mark.Position}, &Changes{})
	if err == nil {
		err = r.store.Sync()
	}
	if err != nil {
		f.config.Log.Warn("a copy that differs from the primary could not be marked as such: if this server ends before it is removed, delete it",
			zap.String("directory", r.dir), zap.Error(err))
	}
	f.replace(nil)
}

// noteProgress keeps the progress of the load that is under way.
func (f *Follower) noteProgress() {
	told := f.config.Progress
	f.config.Progress = func(p Progress) {
		if f.progress.Store(&p); p.Complete {
			f.progress.Store(nil)
		}
		if told != nil {
			told(p)
		}
	}
}

// Loading is how far the load is that is under way; false if none is, or none of its relationships are there yet.
func (f *Follower) Loading() (Progress, bool) {
	if p := f.progress.Load(); p != nil {
		return *p, true
	}
	return Progress{}, false
}
