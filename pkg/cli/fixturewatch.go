package cli

import (
	"context"
	"fmt"
	"path"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
)

// watch sees files change. Folders are watched, not files: editors replace files.
type watch struct {
	events *fsnotify.Watcher
	// folders are those that are watched.
	folders map[string]bool
}

// settle is how long nothing may change any more before a change is acted on: an editor writes a file in several
// steps, and a checkout many files.
const settle = 100 * time.Millisecond

// newWatch returns a watch that has to be closed.
func newWatch() (*watch, error) {
	events, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("watching files: %w", err)
	}
	return &watch{events, map[string]bool{}}, nil
}

// Close ends it.
func (w *watch) Close() error { return w.events.Close() }

// add watches folders too. Of one that is not there yet the folder that it would be in is watched.
func (w *watch) add(folders []string) {
	for _, folder := range folders {
		for !w.folders[folder] {
			if err := w.events.Add(filepath.FromSlash(orHere(folder))); err == nil {
				w.folders[folder] = true
				break
			}
			above := path.Dir(folder)
			if above == folder {
				break
			}
			folder = above
		}
	}
}

// next returns once something has changed that concerns the caller, and then nothing any more for a moment.
// Errors are those of ctx, and of the system's watching.
func (w *watch) next(ctx context.Context, concerns func(name string) bool) error {
	var quiet <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-quiet:
			return nil
		case err := <-w.events.Errors:
			return fmt.Errorf("watching files: %w", err)
		case event := <-w.events.Events:
			name := path.Clean(filepath.ToSlash(event.Name))
			if event.Has(fsnotify.Remove) || event.Has(fsnotify.Rename) {
				delete(w.folders, name) // the system does not watch it any more
			}
			if event.Op != fsnotify.Chmod && concerns(name) {
				quiet = time.After(settle)
			}
		}
	}
}
