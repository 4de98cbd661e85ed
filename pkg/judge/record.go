package judge

import (
	"context"
	"crypto/sha256"
	"sync/atomic"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/journal"
)

// record records the answers of a call, and gives the decisions the ids of their records.
func (c *call) record(ctx context.Context, account *journal.Account, asked []Question, results []Result) error {
	ids, err := account.Record(ctx, journal.Refuse, c.records(ctx, asked, results)...)
	if err != nil {
		return err
	}
	for i := range results {
		if results[i].Err == nil {
			results[i].Decision.ID = ids[i]
		}
	}
	return nil
}

// records are the records of the answers of a call.
func (c *call) records(ctx context.Context, asked []Question, results []Result) []*journal.Record {
	records := make([]*journal.Record, len(results))
	schema, revision, head := c.digests.of(c.schema), c.source.snap.Revision().Token, ""
	if c.head != nil {
		head = c.head.snap.Revision().Token
	}
	bounded := !c.within.Everything()
	for i := range results {
		r := c.journal.Answered(ctx, &asked[i].Case, &results[i].Decision, results[i].Err, c.explain)
		r.Schema, r.Revision, r.Head, r.Bounded = schema, revision, head, bounded
		records[i] = r
	}
	return records
}

// digests keeps the digest of the schema that was met last: it changes seldom, and most decisions meet the same one. It is safe for concurrent
// use.
type digests struct{ last atomic.Pointer[digest] }

type digest struct {
	schema *authz.Schema
	sum    []byte
}

// of returns the first bytes of the digest of a schema's text; nil where the engine did not have to read the text.
func (d *digests) of(schema *authz.Schema) []byte {
	if last := d.last.Load(); last != nil && last.schema == schema {
		return last.sum
	}
	made := &digest{schema: schema}
	if schema.Text != "" {
		sum := sha256.Sum256([]byte(schema.Text))
		made.sum = sum[:8]
	}
	d.last.Store(made)
	return made.sum
}
