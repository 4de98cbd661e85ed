package client

import (
	"context"
	"errors"
	"fmt"
	"io"

	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// Statistics describes the store of the engine embedded. It takes an admin, as Compact and Backup do.
func (c *Client) Statistics(ctx context.Context) (*deputyv1.GetStatisticsResponse, error) {
	return c.Store.GetStatistics(ctx, &deputyv1.GetStatisticsRequest{})
}

// Compact deletes what cannot be read any more and rewrites the store's files. It returns when that is done, however long it takes.
func (c *Client) Compact(ctx context.Context) (*deputyv1.CompactResponse, error) {
	return c.Store.Compact(ctx, &deputyv1.CompactRequest{})
}

// Backup writes everything at one revision to w, and returns how many bytes. With an error what was written is no backup: throw it away.
// `deputy restore` reads one, and checks every byte.
func (c *Client) Backup(ctx context.Context, w io.Writer) (int64, error) {
	ctx, cancel := context.WithCancel(ctx) // gRPC holds a stream until it ends, and w may fail before
	defer cancel()
	stream, err := c.Store.Backup(ctx, &deputyv1.BackupRequest{})
	if err != nil {
		return 0, err
	}
	var written int64
	for {
		part, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF) && written == 0:
			return 0, errors.New("client: the server sent an empty backup")
		case errors.Is(err, io.EOF):
			return written, nil
		case err != nil:
			return written, fmt.Errorf("the backup is incomplete: %w", err)
		}
		n, err := w.Write(part.GetChunk())
		written += int64(n)
		if err == nil && n < len(part.GetChunk()) {
			err = io.ErrShortWrite
		}
		if err != nil {
			return written, fmt.Errorf("client: the backup cannot be written: %w", err)
		}
	}
}
