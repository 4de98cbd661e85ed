package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	authzed "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"github.com/authzed/spicedb/pkg/tuple"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/deputyauth/deputy/pkg/fixture/world"
	"github.com/deputyauth/deputy/pkg/notation"
	"github.com/deputyauth/deputy/pkg/schema"
	"github.com/deputyauth/deputy/pkg/schema/source"
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
// So a batch is parsed to its end, and held against the schema, before the first of it is sent, and a
// failure leaves whole batches behind. The whole file in one transaction would be simpler to explain, but
// a graph of millions does not fit into one on every engine. What a half-imported graph may do is the
// rule's concern, not this command's: half an import never opens anything.
func newRelationshipImport(c *connection) *cobra.Command {
	load := &importer{}
	cmd := &cobra.Command{
		Use:   "import FILE",
		Short: "Write the relationships in a file",
		Long: `Write the relationships in FILE, or on standard input if FILE is "-".

FILE has one relationship a line, as export writes them; blank lines and lines that start with "//" say
nothing. Of a SpiceDB validation file (.yaml, .yml) the block "relationships" is read. A batch is
written as a whole or not at all. Types of Deputy's own take the role admin.

A relationship that exists already fails its batch. With --skip-existing it stays as it is, and the others
are written. With --touch it is replaced, caveat and expiration included.`,
		Example: `  deputy relationship import graph.txt
  deputy relationship export - | deputy relationship import - --touch --endpoint other:50051`,
		Args: cobra.ExactArgs(1),
	}
	cmd.Flags().IntVar(&load.batchSize, "batch", 10_000, "how many relationships to write in one transaction; with --touch at most 1000")
	cmd.Flags().Uint64Var(&load.skip, "skip", 0, "pass over this many relationships: what an earlier import had written when it failed")
	cmd.Flags().BoolVar(&load.touch, "touch", false, "replace relationships that exist already")
	cmd.Flags().BoolVar(&load.skipExisting, "skip-existing", false, "leave relationships that exist already as they are")
	cmd.MarkFlagsMutuallyExclusive("touch", "skip-existing")
	cmd.RunE = c.runLong(func(ctx context.Context, s *server, args []string) error {
		if load.batchSize < 1 {
			return errors.New("--batch must be positive")
		}
		if load.touch {
			load.batchSize = min(load.batchSize, messageSize)
		}
		name, in, size, err := openImport("FILE", args[0], c.program.In)
		if err != nil {
			return err
		}
		defer func() { _ = in.Close() }()
		bar := newProgress(c.program.Err, "importing", "B", size)
		defer bar.clear()
		if load.reader, err = newRelationshipReader(name, io.TeeReader(in, bar)); err != nil {
			return err
		}
		load.client, load.rules = s.relationships, rulesInForce(ctx, s)
		start := time.Now()
		if err := load.run(ctx); err != nil {
			return err
		}
		bar.clear()
		c.adoptHint()
		return load.summarize(c, time.Since(start))
	})
	return cmd
}

// rulesInForce returns what the server's schema admits, or nil where it cannot be read: then the server
// alone judges, without a line.
func rulesInForce(ctx context.Context, s *server) *world.Rules {
	answer, err := s.schema.ReadSchema(ctx, &authzed.ReadSchemaRequest{})
	if err != nil {
		return nil
	}
	read, err := source.Parse("schema", answer.GetSchemaText(), nil, source.Options{}) //nolint:contextcheck // it is no I/O
	if err != nil {
		return nil
	}
	rules, err := world.NewRules(read.Objects, read.Caveats)
	if err != nil {
		return nil
	}
	return rules
}

// openImport opens what is to be read, which the flag or argument name names, and returns its name for errors and its size, or -1.
func openImport(name, path string, stdin io.Reader) (string, io.ReadCloser, int64, error) {
	if path == "-" {
		return "standard input", io.NopCloser(stdin), -1, nil
	}
	file, err := os.Open(path) //nolint:gosec // reading it is what was asked for
	if err != nil {
		return "", nil, 0, fmt.Errorf("%s: %w", name, err)
	}
	size := int64(-1)
	if info, err := file.Stat(); err == nil && info.Mode().IsRegular() {
		size = info.Size()
	}
	return path, file, size, nil
}

// importer writes relationships batch by batch; each batch is one transaction.
type importer struct {
	client authzed.PermissionsServiceClient
	reader *relationshipReader
	// rules are those of the schema in force; nil if they are not known.
	rules *world.Rules
	// batchSize is how many relationships one transaction writes.
	batchSize int
	// skip is how many relationships to pass over first.
	skip uint64
	// touch replaces what exists already, and skipExisting leaves it as it is.
	touch, skipExisting bool

	// taken counts the relationships that were read, skipped ones included, and done those of them whose
	// batches are behind.
	taken, done uint64
	// written counts the relationships that are written for certain, existing those that were there and
	// stay, and different those of them that have another caveat or expiration. firstDifferent says where.
	written, existing, different uint64
	firstDifferent               string
}

// run writes everything, or stops at the first batch that fails. Its error says how many
// relationships were written, so that the import can go on from there.
func (i *importer) run(ctx context.Context) error {
	for n := range i.skip {
		if _, err := i.reader.next(); errors.Is(err, io.EOF) {
			return fmt.Errorf("--skip: %s has only %d relationships", i.reader.name, n)
		} else if err != nil {
			return err
		}
	}
	i.taken = i.skip
	for {
		i.done = i.taken
		first := i.reader.line + 1
		batch, err := i.read()
		if err != nil {
			return fmt.Errorf("%w; %s", err, i.progress(first))
		}
		if len(batch) == 0 {
			return nil
		}
		written, err := i.write(ctx, batch)
		if err != nil {
			if _, known := errors.AsType[*unwritten](err); known {
				return fmt.Errorf("%w; %s", err, i.progress(first))
			}
			where := fmt.Sprintf("%s:%d-%d", i.reader.name, first, i.reader.line)
			if mayBeWritten(err) {
				return fmt.Errorf("%s: %w; it is not known whether these lines were written; before line %d, %s", where, err, first, i.counts())
			}
			return fmt.Errorf("%s: %w; %s", where, err, i.progress(first))
		}
		i.written += written
	}
}

// progress says how far the import got before a line.
func (i *importer) progress(line int) string {
	return fmt.Sprintf("nothing was written from line %d on; before it, %s", line, i.counts())
}

// counts says what was written, and how to go on behind it.
func (i *importer) counts() string {
	return fmt.Sprintf("%d relationships were written (resume with --skip %d)", i.written, i.done)
}

// unwritten is an error that says itself where it is, and after which nothing of its batch was written.
type unwritten struct{ error }

func (e *unwritten) Unwrap() error { return e.error }

// at is an error about one relationship, from a character of its text on, counted from 1.
func (i *importer) at(r *textRelationship, column int, format string, args ...any) error {
	return &unwritten{i.reader.failure(r, column, fmt.Errorf(format, args...))}
}

// read returns the next batch; an empty one is the end. Unless relationships are touched, each is in a batch once.
func (i *importer) read() ([]*textRelationship, error) {
	var batch []*textRelationship
	seen := map[tuple.RelationshipReference]int{}
	for len(batch) < i.batchSize {
		r, err := i.reader.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			err = i.admit(r)
		}
		if err != nil {
			return nil, err
		}
		i.taken++
		n, repeated := seen[r.RelationshipReference]
		switch {
		case !repeated:
			seen[r.RelationshipReference] = len(batch)
			batch = append(batch, r)
		case i.touch:
			batch[n] = r // the last one counts, as in two batches
		case i.skipExisting:
			i.exists(r, batch[n].Relationship)
		default:
			return nil, i.at(r, 1, "%s is on line %d too", plainText(r.Relationship), batch[n].line)
		}
	}
	return batch, nil
}

// admit says where a relationship is not what the schema in force takes.
func (i *importer) admit(r *textRelationship) error {
	if i.rules == nil {
		return nil
	}
	if err := i.rules.Admits(r.Relationship); err != nil {
		column := 1 + strings.IndexByte(r.text, '@') + 1
		if t := i.rules.Schema.Types[r.Resource.ObjectType]; t == nil {
			column = 1
		} else if m := i.rules.Schema.Member(schema.Name{Type: r.Resource.ObjectType, Member: r.Resource.Relation}); m == nil || m.IsPermission() {
			column = 1 + strings.IndexByte(r.text, '#') + 1
		}
		return i.at(r, column, "%w", err)
	}
	if parameter, err := i.rules.AdmitsContext(r.Relationship); err != nil {
		open := strings.IndexByte(r.text, '[')
		column := utf8.RuneCountInString(r.text[:open+max(0, strings.Index(r.text[open:], strconv.Quote(parameter)))]) + 1
		return i.at(r, column, "%w", err)
	}
	return nil
}

// exists counts a relationship that is there already.
func (i *importer) exists(r *textRelationship, there tuple.Relationship) {
	i.existing++
	wanted, _ := notation.Text(r.Relationship)
	if stored, err := notation.Text(there); err == nil && stored == wanted {
		return
	}
	if i.different++; i.firstDifferent == "" {
		i.firstDifferent = fmt.Sprintf("%s:%d", i.reader.name, r.line)
	}
}

// write writes one batch in one transaction, and returns how many relationships it wrote. Errors about one of them are
// *unwritten.
func (i *importer) write(ctx context.Context, batch []*textRelationship) (uint64, error) {
	switch {
	case i.touch:
		_, err := i.client.WriteRelationships(ctx, &authzed.WriteRelationshipsRequest{
			Updates: updatesOf(authzed.RelationshipUpdate_OPERATION_TOUCH, relationshipsOf(batch)),
		})
		return uint64(len(batch)), err
	case i.skipExisting:
		return i.writeMissing(ctx, batch)
	default:
		return uint64(len(batch)), i.explain(load(ctx, i.client, relationshipsOf(batch)), batch,
			"; --skip-existing leaves such relationships as they are, --touch replaces them")
	}
}

// maxTries is how often a batch is written without what exists, because others write too.
const maxTries = 3

// writeMissing writes those of a batch that do not exist.
func (i *importer) writeMissing(ctx context.Context, batch []*textRelationship) (uint64, error) {
	for try := 1; ; try++ {
		there, err := stored(ctx, i.client, batch)
		if err != nil {
			return 0, &unwritten{fmt.Errorf("%s: which of the relationships exist cannot be read: %w", i.reader.name, err)}
		}
		var missing []*textRelationship
		for n, r := range batch {
			if there[n] == nil {
				missing = append(missing, r)
			}
		}
		if len(missing) > 0 {
			err = load(ctx, i.client, relationshipsOf(missing))
		}
		if status.Code(err) == codes.AlreadyExists && try < maxTries {
			continue
		}
		if err != nil {
			return 0, i.explain(err, missing, " and cannot be read: it has expired, and the engine has not collected it yet; --touch replaces it")
		}
		for n, r := range batch {
			if there[n] != nil {
				i.exists(r, *there[n])
			}
		}
		return uint64(len(missing)), nil
	}
}

// stored returns what is stored of each relationship; nil where nothing is.
func stored(ctx context.Context, client authzed.PermissionsServiceClient, batch []*textRelationship) ([]*tuple.Relationship, error) {
	const atOnce = 16
	found := make([]*tuple.Relationship, len(batch))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(atOnce)
	for n, r := range batch {
		group.Go(func() error {
			_, err := readMatching(ctx, client, filterOf(r.Relationship), 1, "", func(answer *authzed.ReadRelationshipsResponse) error {
				there := tuple.FromV1Relationship(answer.GetRelationship())
				found[n] = &there
				return nil
			})
			return err
		})
	}
	return found, group.Wait()
}

// explain names the line of a batch that a status says exists already, and what to do about it.
func (i *importer) explain(err error, batch []*textRelationship, instead string) error {
	if status.Code(err) != codes.AlreadyExists {
		return err
	}
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			for _, r := range batch {
				if plainText(r.Relationship) == info.GetMetadata()["relationship"] {
					return i.at(r, 1, "ALREADY_EXISTS: %s exists already%s", plainText(r.Relationship), instead)
				}
			}
		}
	}
	return fmt.Errorf("%w%s", err, instead)
}

// summarize says what was written and what was not.
func (i *importer) summarize(c *connection, took time.Duration) error {
	more := map[string]any{}
	text := ""
	if i.skipExisting {
		more["existing"], more["different"] = i.existing, i.different
		text = fmt.Sprintf("; %d existed already", i.existing)
	}
	if i.different > 0 {
		text += fmt.Sprintf(", %d of them with another caveat or expiration (first at %s)", i.different, i.firstDifferent)
	}
	return c.summarize(c.program.Out, "imported", i.written, took, text, more)
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
