package engine

import (
	"context"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"github.com/authzed/spicedb/pkg/datalayer"
	"github.com/authzed/spicedb/pkg/datastore"
	"github.com/authzed/spicedb/pkg/zedtoken"

	"github.com/deputyauth/deputy/pkg/authz"
)

// OverCopy opens an engine in this process over a copy of the data of another engine, for decisions that have to be those of that engine: what
// it refuses, such as types with a shape that SpiceDB evaluates wrongly, is refused here too. Of the configuration only Retention and Log
// count. The engine closes the datastore, also if it cannot be opened.
func OverCopy(ctx context.Context, cfg Config, ds datastore.Datastore) (*Engine, error) {
	e, err := Over(ctx, Config{Kind: Embedded, Retention: cfg.Retention, Log: cfg.Log}, ds)
	if err != nil {
		return nil, err
	}
	e.readsWhole = false
	return e, nil
}

// Head returns the head that take takes past the engine, as SpiceDB prints it. As with a Snapshot, the error is Unavailable where the database is not
// one to decide by, or the head lies behind what this server had acknowledged or read before.
func (e *Engine) Head(ctx context.Context, take func() (printed string, err error)) (authz.Revision, error) {
	if e.followed != nil {
		return e.followedHead(ctx, take)
	}
	var revision datastore.Revision
	var failed error
	taken := func() (datastore.Revision, error) {
		var printed string
		if printed, failed = take(); failed != nil {
			return nil, failed
		}
		var err error
		revision, err = e.ds.RevisionFromString(printed)
		return revision, err
	}
	var err error
	if guarded := datastore.UnwrapAs[*primary](e.ds); guarded != nil {
		err = guarded.head(taken)
	} else {
		_, err = taken()
	}
	if failed != nil {
		return authz.Revision{}, failed
	}
	if err != nil {
		return authz.Revision{}, Failure("engine.Head", err)
	}
	token, err := zedtoken.NewFromRevision(ctx, revision, datalayer.NoSchemaHashInLegacyMode, e.ds)
	if err != nil {
		return authz.Revision{}, Failure("engine.Head", err)
	}
	return authz.Revision{Token: token.GetToken()}, nil
}

// BeginHistory has the engine forget which heads it has read and acknowledged, because the database's history is known to be another one since, in
// which they compare with nothing. Until it is told so, it refuses heads that lie behind them. On Postgres it also makes its connections anew, because
// those that there are may lead to a server that was replaced; calls wait until it has them.
func (e *Engine) BeginHistory() {
	if guarded := datastore.UnwrapAs[*primary](e.ds); guarded != nil {
		guarded.begin()
	}
}

// Printed returns a revision of this engine as SpiceDB prints it. Errors: OutOfRange for one of another engine.
func (e *Engine) Printed(r authz.Revision) (string, error) {
	if e.followed != nil {
		return e.followed.printed(r)
	}
	decoded, err := zedtoken.DecodeRevision(&v1.ZedToken{Token: r.ZedToken()}, e.ds)
	if err == nil && decoded.Status != zedtoken.StatusValid {
		err = datastore.NewInvalidRevisionErr(datastore.NoRevision, datastore.CouldNotDetermineRevision)
	}
	if err != nil {
		return "", Failure("engine.Printed", err)
	}
	return decoded.Revision.String(), nil
}
