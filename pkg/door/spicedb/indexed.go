package spicedb

import (
	"context"
	"slices"
	"sync"
	"time"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"google.golang.org/protobuf/proto"

	"github.com/deputyauth/deputy/pkg/facts"
)

// indexNote is when it was last noted that facts are written past the services.
type indexNote struct {
	mu     sync.Mutex
	minute int64
}

// noting has it noted that a message which the guard lets pass may make sessions or delegations live that are not listed.
func noting(judge guard) guard {
	return func(ctx context.Context, c *call, n int, request proto.Message) error {
		if err := judge(ctx, c, n, request); err != nil || c.cfg.NotIndexed == nil || c.rights.Lists || !makesLive(request) {
			return err
		}
		if err := c.noted.write(ctx, c.cfg.NotIndexed); err != nil {
			return schemaFailure(ctx, err)
		}
		return nil
	}
}

// write writes the note, unless it was written in this minute.
func (n *indexNote) write(ctx context.Context, write func(context.Context) error) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	minute := time.Now().Unix() / 60
	if n.minute == minute {
		return nil
	}
	if err := write(ctx); err != nil {
		return err
	}
	n.minute = minute
	return nil
}

// makesLive reports whether a message writes marks of life of sessions or delegations.
func makesLive(request proto.Message) bool {
	marks := func(r *v1.Relationship) bool {
		return facts.MakesLive(r.GetResource().GetObjectType(), r.GetRelation())
	}
	switch r := request.(type) {
	case *v1.WriteRelationshipsRequest:
		return slices.ContainsFunc(r.GetUpdates(), func(u *v1.RelationshipUpdate) bool {
			return u.GetOperation() != v1.RelationshipUpdate_OPERATION_DELETE && marks(u.GetRelationship())
		})
	case *v1.ImportBulkRelationshipsRequest:
		return slices.ContainsFunc(r.GetRelationships(), marks)
	case *v1.BulkImportRelationshipsRequest:
		return slices.ContainsFunc(r.GetRelationships(), marks)
	default:
		return false
	}
}
