package engine

import (
	"context"
	"errors"
	"testing"

	"github.com/authzed/spicedb/pkg/datastore"
	"go.uber.org/zap"

	"github.com/deputyauth/deputy/pkg/authz"
)

// noWatch is a datastore that refuses to be watched, and leaves the channel open as SpiceDB's drivers do.
type noWatch struct{ datastore.Datastore }

// Watch refuses.
func (noWatch) Watch(context.Context, datastore.Revision, datastore.WatchOptions) (<-chan datastore.RevisionChanges, <-chan error) {
	failed := make(chan error, 1)
	failed <- datastore.NewWatchDisabledErr("it is off")
	return make(chan datastore.RevisionChanges), failed
}

// silentWatch is a datastore whose watch never says anything.
type silentWatch struct{ datastore.Datastore }

// Watch waits.
func (silentWatch) Watch(context.Context, datastore.Revision, datastore.WatchOptions) (<-chan datastore.RevisionChanges, <-chan error) {
	return make(chan datastore.RevisionChanges), make(chan error)
}

// TestWatchLeavesNothing: what waits for the error of a watch ends with the error, and with its caller.
func TestWatchLeavesNothing(t *testing.T) {
	t.Parallel()
	watching := func(of datastore.Datastore) *bounded {
		return &bounded{Datastore: of, complaints: new(authz.Seldom), log: zap.NewNop()}
	}
	_, told := watching(noWatch{}).Watch(t.Context(), datastore.NoRevision, datastore.WatchOptions{})
	if err := <-told; !errors.As(err, new(datastore.WatchDisabledError)) {
		t.Errorf("the error is %v", err)
	}
	if _, open := <-told; open {
		t.Error("there is another one")
	}
	ctx, leave := context.WithCancel(t.Context())
	_, told = watching(silentWatch{}).Watch(ctx, datastore.NoRevision, datastore.WatchOptions{})
	leave()
	if _, open := <-told; open {
		t.Error("a watch that its caller has left has an error")
	}
}
