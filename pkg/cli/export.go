package cli

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	authzed "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"github.com/authzed/spicedb/pkg/tuple"
	"github.com/spf13/cobra"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/notation"
)

// newRelationshipExport builds `deputy relationship export`. A person who has its file has the whole graph,
// so the file is its owner's alone.
func newRelationshipExport(c *connection) *cobra.Command {
	return &cobra.Command{
		Use:   "export [FILE]",
		Short: "Read all relationships into a file",
		Long: `Read all relationships at the head revision, one a line, into FILE or to standard output.

FILE appears only once it is complete, readable by its owner alone; until then, and after a failure,
whatever was there before is still there.`,
		Example: `  deputy relationship export graph.txt`,
		Args:    cobra.MaximumNArgs(1),
		RunE: c.runLong(func(ctx context.Context, s *server, args []string) error {
			toStdout := len(args) == 0 || args[0] == "-"
			if toStdout && c.output == "json" {
				return errors.New("--output json needs a FILE: standard output is the relationships, as text")
			}
			bar := newProgress(c.program.Err, "exporting", "relationships", -1)
			defer bar.clear()
			start := time.Now()
			var count uint64
			export := func(w io.Writer) (err error) {
				count, err = exportTo(ctx, s.relationships, w, bar)
				return err
			}
			if toStdout {
				if err := export(c.program.Out); err != nil {
					return err
				}
				bar.clear()
				return c.summarize(c.program.Err, "exported", count, time.Since(start), "", nil)
			}
			if err := writeWhole("FILE", args[0], 0o600, export); err != nil {
				return err
			}
			bar.clear()
			return c.summarize(c.program.Out, "exported", count, time.Since(start), "", nil)
		}),
	}
}

// indexed is the relation of a delegation in which a server notes what of this graph it has listed. That says nothing of the graph that an export
// is imported into, whose server finds it out by itself.
const indexed = "indexed"

// exportTo writes all relationships but those in indexed at the head revision in the order in which the server sends them,
// and returns how many there were. The stream is of one revision, however long it takes. What was
// written by the time of an error is not to be used.
func exportTo(ctx context.Context, client authzed.PermissionsServiceClient, out io.Writer, bar *progress) (uint64, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := client.ExportBulkRelationships(ctx, &authzed.ExportBulkRelationshipsRequest{
		Consistency:   &authzed.Consistency{Requirement: &authzed.Consistency_FullyConsistent{FullyConsistent: true}},
		OptionalLimit: messageSize,
	})
	if err != nil {
		return 0, err
	}
	var count uint64
	w := bufio.NewWriter(out)
	for {
		message, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return 0, fmt.Errorf("after %d relationships: %w", count, err)
		}
		for _, relationship := range message.GetRelationships() {
			if relationship.GetResource().GetObjectType() == authz.TypeDelegation && relationship.GetRelation() == indexed {
				continue
			}
			text, err := notation.Text(tuple.FromV1Relationship(relationship))
			if err != nil {
				return 0, err
			}
			if _, err := w.WriteString(text + "\n"); err != nil {
				return 0, fmt.Errorf("writing: %w", err)
			}
			count++
		}
		bar.add(int64(len(message.GetRelationships())))
	}
	if err := w.Flush(); err != nil {
		return 0, fmt.Errorf("writing: %w", err)
	}
	return count, nil
}

// writeWhole writes a file that is there complete or not at all: into a temporary file beside it,
// synced and then renamed. What is not a regular file is refused, because a rename would replace it.
// what names it in errors, and mode is what its owner and others may do with it, less the umask.
func writeWhole(what, path string, mode fs.FileMode, fill func(io.Writer) error) (err error) {
	if info, statErr := os.Stat(path); statErr == nil && !info.Mode().IsRegular() {
		return fmt.Errorf(`%s: %s is not a regular file; "-" is standard output`, what, path)
	}
	beside := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+"."+rand.Text())
	temporary, err := os.OpenFile(beside, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode) //nolint:gosec // the file is the user's to name
	if err != nil {
		return fmt.Errorf("%s: %w", what, notMade(path, err))
	}
	defer func() {
		if err != nil {
			_ = temporary.Close()
			_ = os.Remove(temporary.Name())
		}
	}()
	if err := fill(temporary); err != nil {
		return err
	}
	if err := temporary.Sync(); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if err := temporary.Close(); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if err := os.Rename(temporary.Name(), path); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// notMade says why a file cannot be made: of the directory that is to hold it, and not of the temporary file that the user has not named.
func notMade(path string, err error) error {
	dir := filepath.Dir(path)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("the directory %s does not exist: make it, or name a file in another one", dir)
	}
	if of, ok := errors.AsType[*fs.PathError](err); ok {
		err = of.Err
	}
	return fmt.Errorf("no file can be made in the directory %s: %w", dir, err)
}
