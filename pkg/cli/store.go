package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/deputyauth/deputy/pkg/daemon"
	deputy "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// newStore builds `deputy store`.
func newStore(p *program) *cobra.Command {
	cmd := group(groupServer, "store", "Look after the durable store of a server (admins)")
	c := client(p, cmd)
	cmd.AddCommand(newStoreStatistics(c), newStoreCompact(c))
	return cmd
}

// newStoreStatistics builds `deputy store statistics`.
func newStoreStatistics(c *connection) *cobra.Command {
	return &cobra.Command{
		Use:   "statistics",
		Short: "Say how large the store is and how it does",
		Args:  cobra.NoArgs,
		RunE: c.run(func(ctx context.Context, s *server, _ []string) error {
			answer, err := s.store.GetStatistics(ctx, &deputy.GetStatisticsRequest{})
			if err != nil {
				return err
			}
			return c.print(answer, func(w io.Writer) {
				field(w, "STORE", answer.GetStoreId())
				field(w, "TAKES WRITES", map[bool]string{true: "yes", false: "no, until it is opened again"}[answer.GetWritable()])
				field(w, "RELATIONSHIPS", "about "+strconv.FormatUint(answer.GetRelationships(), 10))
				field(w, "HEAD", moment(answer.GetHead()))
				field(w, "READABLE FROM", moment(answer.GetHorizon()))
				field(w, "RETENTION", answer.GetRetention().AsDuration().String())
				field(w, "ON DISK", size(answer.GetDiskBytes()))
				field(w, "WRITE-AHEAD LOG", size(answer.GetLogBytes()))
				field(w, "MEMTABLES", size(answer.GetMemtableBytes()))
				field(w, "CACHE", size(answer.GetCacheBytes()))
				field(w, "TO COMPACT", size(answer.GetCompactionDebtBytes()))
				field(w, "READ AMPLIFICATION", strconv.FormatUint(uint64(answer.GetReadAmplification()), 10))
				for _, l := range answer.GetLevels() {
					field(w, fmt.Sprintf("LEVEL %d", l.GetNumber()), fmt.Sprintf("%s in %d files", size(l.GetBytes()), l.GetFiles()))
				}
			})
		}),
	}
}

// newStoreCompact builds `deputy store compact`.
func newStoreCompact(c *connection) *cobra.Command {
	return &cobra.Command{
		Use:   "compact",
		Short: "Delete what cannot be read any more and rewrite the store's files",
		Long: `Delete what cannot be read any more and rewrite the store's files, so that they take as little room as
they can. The server goes on meanwhile, slower. It does so by itself, bit by bit: this is for after a
great deletion.`,
		Args: cobra.NoArgs,
		RunE: c.runLong(func(ctx context.Context, s *server, _ []string) error {
			answer, err := s.store.Compact(ctx, &deputy.CompactRequest{})
			if err != nil {
				return err
			}
			return c.printDone(answer, fmt.Sprintf("The store took %s and takes %s", size(answer.GetDiskBytesBefore()), size(answer.GetDiskBytesAfter())))
		}),
	}
}

// newBackup builds `deputy backup`. A person who has its file has the whole graph, so the file is its owner's alone.
func newBackup(p *program) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "backup FILE",
		Short: "Write everything that a server's durable store holds into a file (admins)",
		Long: `Write everything that a server's durable store holds at its head revision into FILE, or to standard
output if FILE is "-", while the server goes on. FILE appears only once it is complete, readable by its
owner alone. History, the keys and the settings are not part of it.`,
		Example: `  deputy backup deputy.backup
  deputy restore deputy.backup --data-dir /var/lib/deputy`,
		GroupID: groupServer,
		Args:    cobra.ExactArgs(1),
	}
	c := client(p, cmd)
	cmd.RunE = c.runLong(func(ctx context.Context, s *server, args []string) error {
		bar := newProgress(p.Err, "backing up", "B", -1)
		defer bar.clear()
		if args[0] == "-" && c.output == "json" {
			return errors.New("--output json needs a FILE: standard output is the backup")
		}
		start := time.Now()
		var received uint64
		fill := func(w io.Writer) (err error) {
			received, err = receiveBackup(ctx, s.store, io.MultiWriter(w, bar))
			return err
		}
		if args[0] == "-" {
			return fill(p.Out)
		}
		if err := writeWhole("FILE", args[0], 0o600, fill); err != nil {
			return err
		}
		bar.clear()
		seconds := time.Since(start).Seconds()
		return say(p.Out, c.output, map[string]any{"bytes": received, "seconds": seconds},
			fmt.Sprintf("backed up %s in %.1f s", size(received), seconds))
	})
	return cmd
}

// receiveBackup writes a backup as it comes. What was written by the time of an error is none.
func receiveBackup(ctx context.Context, client deputy.StoreServiceClient, w io.Writer) (received uint64, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := client.Backup(ctx, &deputy.BackupRequest{})
	if err != nil {
		return 0, err
	}
	for {
		message, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return received, nil
		}
		if err != nil {
			return received, err
		}
		if _, err := w.Write(message.GetChunk()); err != nil {
			return received, fmt.Errorf("writing: %w", err)
		}
		received += uint64(len(message.GetChunk()))
	}
}

// newRestore builds `deputy restore`. It needs no server, and none may run on the directory.
func newRestore(p *program) *cobra.Command {
	var dataDir, output string
	cmd := &cobra.Command{
		Use:   "restore FILE",
		Short: "Make the durable store of a data directory from a backup",
		Long: `Make the durable store in --data-dir from the backup in FILE, or on standard input if FILE is "-". All of
the backup is checked; if anything in it is not as it was written, no store is made. The directory must
have none yet.

The store gets an id of its own: session tokens, cursors and frozen sessions from before do not work with
it. Delegations and other sessions do.`,
		Example: `  deputy restore deputy.backup --data-dir /var/lib/deputy`,
		GroupID: groupServer,
		Args:    cobra.ExactArgs(1),
	}
	cmd.Flags().StringVar(&dataDir, "data-dir", "", "data directory to make the store in")
	outputVar(cmd.Flags(), &output, "json")
	allowEnv(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if dataDir == "" {
			return errors.New("--data-dir is missing")
		}
		_, in, length, err := openImport("FILE", args[0], p.In)
		if err != nil {
			return err
		}
		defer func() { _ = in.Close() }()
		bar := newProgress(p.Err, "restoring", "B", length)
		defer bar.clear()
		start := time.Now()
		entries, of, err := daemon.Restore(cmd.Context(), io.TeeReader(in, bar), dataDir, zap.NewNop())
		if err != nil {
			return err
		}
		bar.clear()
		seconds := time.Since(start).Seconds()
		return say(p.Out, output, map[string]any{"entries": entries, "of": of, "seconds": seconds},
			fmt.Sprintf("restored %d relationships and definitions as of %s in %.1f s", entries, of.Format(time.RFC3339), seconds))
	}
	return cmd
}

// size returns a number of bytes for a person.
func size(bytes uint64) string {
	const unit = 1024
	value, units := float64(bytes), []string{"B", "KiB", "MiB", "GiB", "TiB"}
	i := 0
	for ; value >= unit && i < len(units)-1; i++ {
		value /= unit
	}
	if i == 0 {
		return strconv.FormatUint(bytes, 10) + " B"
	}
	return fmt.Sprintf("%.1f %s", value, units[i])
}
