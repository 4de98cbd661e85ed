package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	authzed "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// newRelationshipImport builds `deputy relationship import`.
//
// A file is written batch by batch, and a batch is one stream of ImportBulkRelationships, which SpiceDB
// writes in one transaction:
//
//	file      l1 l2 l3 l4 │ l5 l6 l7 l8 │ l9 …
//	          └─ a batch ─┘
//	stream    l1 l2, l3 l4: messages; then the server's count of what it wrote
//
// So a batch is parsed to its end before the first of it is sent, and a failure leaves whole batches
// behind. The whole file in one transaction would be simpler to explain, but a graph of millions does
// not fit into one on every engine. What a half-imported graph may do is the rule's concern, not this
// command's: half an import never opens anything.
func newRelationshipImport(c *connection) *cobra.Command {
	var batchSize int
	var skip uint64
	cmd := &cobra.Command{
		Use:   "import FILE",
		Short: "Write the relationships in a file",
		Long: `Write the relationships in FILE, or on standard input if FILE is "-".

FILE has one relationship a line, as export writes them; blank lines and lines that start with "//" say
nothing. Of a SpiceDB validation file (.yaml, .yml) the block "relationships" is read. A batch is
written as a whole or not at all, and a relationship that exists already fails its batch. Types of
Deputy's own take an admin's key.`,
		Example: `  deputy relationship import graph.txt
  deputy relationship export - | deputy relationship import - --endpoint other:50051`,
		Args: cobra.ExactArgs(1),
	}
	cmd.Flags().IntVar(&batchSize, "batch", 10_000, "how many relationships to write in one transaction")
	cmd.Flags().Uint64Var(&skip, "skip", 0, "pass over this many relationships: what an earlier import had written when it failed")
	cmd.RunE = c.runLong(func(ctx context.Context, s *server, args []string) error {
		if batchSize < 1 {
			return errors.New("--batch must be positive")
		}
		name, in, size, err := openImport(args[0], c.program.In)
		if err != nil {
			return err
		}
		defer func() { _ = in.Close() }()
		bar := newProgress(c.program.Err, "importing", "B", size)
		defer bar.clear()
		reader, err := newRelationshipReader(name, io.TeeReader(in, bar))
		if err != nil {
			return err
		}
		load := &importer{reader: reader, batchSize: batchSize, skip: skip}
		start := time.Now()
		if err := load.run(ctx, s.relationships); err != nil {
			return err
		}
		bar.clear()
		c.adoptHint()
		return c.summarize(c.program.Out, "imported", load.written, time.Since(start))
	})
	return cmd
}

// openImport opens what is to be read, and returns its name for errors and its size, or -1.
func openImport(path string, stdin io.Reader) (string, io.ReadCloser, int64, error) {
	if path == "-" {
		return "standard input", io.NopCloser(stdin), -1, nil
	}
	file, err := os.Open(path) //nolint:gosec // reading it is what was asked for
	if err != nil {
		return "", nil, 0, fmt.Errorf("FILE: %w", err)
	}
	size := int64(-1)
	if info, err := file.Stat(); err == nil && info.Mode().IsRegular() {
		size = info.Size()
	}
	return path, file, size, nil
}

// importer writes relationships batch by batch; each batch is one transaction.
type importer struct {
	reader *relationshipReader
	// batchSize is how many relationships one transaction writes.
	batchSize int
	// skip is how many relationships to pass over first.
	skip uint64
	// written counts the relationships that are written for certain.
	written uint64
}

// run writes everything, or stops at the first batch that fails. Its error says how many
// relationships were written, so that the import can go on from there.
func (i *importer) run(ctx context.Context, client authzed.PermissionsServiceClient) error {
	for n := range i.skip {
		if _, err := i.reader.next(); errors.Is(err, io.EOF) {
			return fmt.Errorf("--skip: %s has only %d relationships", i.reader.name, n)
		} else if err != nil {
			return err
		}
	}
	for {
		first := i.reader.line + 1
		batch, err := i.read()
		if err != nil {
			return fmt.Errorf("%w; of the lines from %d on nothing was written, before them %s", err, first, i.progress())
		}
		if len(batch) == 0 {
			return nil
		}
		if err := load(ctx, client, batch); err != nil {
			where := fmt.Sprintf("%s:%d-%d", i.reader.name, first, i.reader.line)
			if mayBeWritten(err) {
				return fmt.Errorf("%s: %w; whether these lines were written is not known, before them %s", where, err, i.progress())
			}
			return fmt.Errorf("%s: %w; of these lines nothing was written, before them %s", where, err, i.progress())
		}
		i.written += uint64(len(batch))
	}
}

// progress says how far the import got.
func (i *importer) progress() string {
	return fmt.Sprintf("%d relationships were (go on with --skip %d)", i.written, i.skip+i.written)
}

// read returns the next batch; an empty one is the end.
func (i *importer) read() ([]*authzed.Relationship, error) {
	var batch []*authzed.Relationship
	for len(batch) < i.batchSize {
		relationship, err := i.reader.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		batch = append(batch, relationship)
	}
	return batch, nil
}

// load writes one batch in one stream, which is one transaction.
func load(ctx context.Context, client authzed.PermissionsServiceClient, batch []*authzed.Relationship) error {
	// The stream holds resources until its context ends.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := client.ImportBulkRelationships(ctx)
	if err != nil {
		return err
	}
	for sent := 0; sent < len(batch); sent += messageSize {
		message := &authzed.ImportBulkRelationshipsRequest{Relationships: batch[sent:min(sent+messageSize, len(batch))]}
		if err := stream.Send(message); errors.Is(err, io.EOF) {
			break // the server has ended the stream; CloseAndRecv says why
		} else if err != nil {
			return err
		}
	}
	answer, err := stream.CloseAndRecv()
	if err != nil {
		return err
	}
	if answer.GetNumLoaded() != uint64(len(batch)) {
		return fmt.Errorf("the server says that it wrote %d of %d relationships", answer.GetNumLoaded(), len(batch))
	}
	return nil
}

// mayBeWritten reports whether a failure leaves it open what the server did: where the connection broke
// or the time ran out, the transaction may have been committed all the same.
func mayBeWritten(err error) bool {
	switch status.Code(err) {
	case codes.Canceled, codes.DeadlineExceeded, codes.Unavailable, codes.Unknown, codes.Internal:
		return true
	default:
		return false
	}
}
