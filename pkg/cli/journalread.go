package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	deputy "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/pkg/journal"
	"github.com/deputyauth/deputy/pkg/journal/persons"
)

// journalFrom is where a command reads a journal: from a server, or in a directory.
type journalFrom struct {
	c           *connection
	dir, keyDir string
}

// register adds the flags.
func (j *journalFrom) register(p *program, cmd *cobra.Command) {
	j.c = client(p, cmd)
	cmd.Flags().StringVar(&j.dir, "dir", "",
		"read the journal in this directory or data directory, or all those that deputy journal collect put there, and ask no server")
	cmd.Flags().StringVar(&j.keyDir, "key-dir", "",
		"with --dir, the journal's directory of keys, which finds decisions by their ids and opens the data that are sealed for persons")
}

// run returns a cobra RunE that opens the journal and calls do. With long, only a timeout that was asked for counts.
func (j *journalFrom) run(long bool, do func(ctx context.Context, from journalSource, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		if j.dir == "" && j.keyDir != "" {
			return errors.New("--key-dir is for --dir: a server has its keys")
		}
		if j.dir != "" {
			from, err := openJournals(j.dir, j.keyDir)
			if err != nil {
				return err
			}
			return do(cmd.Context(), from, args)
		}
		ask := func(ctx context.Context, s *server, args []string) error {
			return do(ctx, &servedJournal{client: s.client.Journal}, args)
		}
		if long {
			return j.c.runLong(ask)(cmd, args)
		}
		return j.c.run(ask)(cmd, args)
	}
}

// journalSource is a journal that is read, wherever it is.
type journalSource interface {
	// query calls found with each record that matches. The end is nil if the stream has none: with follow.
	query(ctx context.Context, q *deputy.QueryRecordsRequest, began func(), found func(*deputy.FoundRecord) error) (*deputy.QueryEnd, error)
	// get returns the record of a decision, and what of it is the leaf of the tree.
	get(ctx context.Context, decision string) (*deputy.FoundRecord, error)
	// checkpoint returns the newest checkpoint of the journal that has a record, or of the only journal if of is nil.
	checkpoint(ctx context.Context, of *deputy.FoundRecord) (*deputy.GetCheckpointResponse, error)
	// origin is the name of the journal that has a record.
	origin(ctx context.Context, of *deputy.FoundRecord) (string, error)
	// prove proves that the record of a decision stands in the journal.
	prove(ctx context.Context, decision string) (*deputy.ProveRecordResponse, error)
}

// servedJournal is a server's journal.
type servedJournal struct {
	client deputy.JournalServiceClient
	// name is the journal's, once it was asked for.
	name string
}

func (s *servedJournal) query(
	ctx context.Context, q *deputy.QueryRecordsRequest, began func(), found func(*deputy.FoundRecord) error,
) (*deputy.QueryEnd, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := s.client.QueryRecords(ctx, q)
	if err != nil {
		return nil, err
	}
	if began != nil {
		if _, err := stream.Header(); err != nil {
			return nil, err
		}
		began()
	}
	for {
		message, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return nil, errors.New("the server cut the query off")
		case err != nil:
			return nil, err
		case message.GetEnd() != nil:
			return message.GetEnd(), nil
		case message.GetRecord() != nil:
			if err := found(message.GetRecord()); err != nil {
				return nil, err
			}
		}
	}
}

func (s *servedJournal) get(ctx context.Context, decision string) (*deputy.FoundRecord, error) {
	answer, err := s.client.GetRecord(ctx, &deputy.GetRecordRequest{DecisionId: decision})
	return answer.GetRecord(), err
}

func (s *servedJournal) checkpoint(ctx context.Context, _ *deputy.FoundRecord) (*deputy.GetCheckpointResponse, error) {
	return s.client.GetCheckpoint(ctx, &deputy.GetCheckpointRequest{})
}

func (s *servedJournal) origin(ctx context.Context, _ *deputy.FoundRecord) (string, error) {
	if s.name == "" {
		c, err := s.client.GetCheckpoint(ctx, &deputy.GetCheckpointRequest{})
		if err != nil {
			return "", err
		}
		s.name, _, _ = strings.Cut(c.GetCheckpoint(), "\n")
	}
	return s.name, nil
}

func (s *servedJournal) prove(ctx context.Context, decision string) (*deputy.ProveRecordResponse, error) {
	return s.client.ProveRecord(ctx, &deputy.ProveRecordRequest{DecisionId: decision})
}

// keptJournals are journals in directories: of one node, or of several, whose records come in the order of their times.
type keptJournals []*journal.Reader

// openJournals opens the journal in a directory, or those in the directories below.
func openJournals(dir, keyDir string) (keptJournals, error) {
	var secret []byte
	var opens journal.Persons
	if keyDir != "" {
		keys, err := journal.OpenKeys(keyDir, false)
		if err != nil {
			return nil, fmt.Errorf("--key-dir: %w", err)
		}
		secret = keys.Secret()
		// The command ends soon, and its file with it.
		people, err := persons.Open(persons.Config{Dir: keyDir, Secret: secret, ReadOnly: true})
		if err != nil {
			return nil, fmt.Errorf("--key-dir: %w", err)
		}
		if _, err := os.Stat(filepath.Join(keyDir, persons.FileName)); err == nil { // else nothing says that a key is gone
			opens = journal.NewPersonal(people, nil)
		}
	}
	var all keptJournals
	dirs, _, err := journalsIn("--dir", dir)
	if err != nil {
		return nil, err
	}
	for _, one := range dirs {
		reader, err := journal.OpenReader(journal.ReaderConfig{Dir: one, Secret: secret, Persons: opens})
		if err != nil {
			return nil, fmt.Errorf("--dir: %w", err)
		}
		all = append(all, reader)
	}
	return all, nil
}

// keptQuery is a request as a reader takes it.
func keptQuery(q *deputy.QueryRecordsRequest) *journal.Query {
	out := &journal.Query{
		Agent: q.GetAgentId(), Tenant: q.GetTenantId(), Permission: q.GetPermission(), Caller: q.GetCaller(), Session: q.GetSessionId(),
		Delegation: q.GetDelegationId(), Answer: q.GetAnswer(), RefusedBy: q.GetRefusedBy(), Kinds: q.GetKinds(), Newest: q.GetNewestFirst(),
		PrincipalType: q.GetPrincipal().GetObjectType(), PrincipalID: q.GetPrincipal().GetObjectId(),
		ResourceType: q.GetResource().GetObjectType(), ResourceID: q.GetResource().GetObjectId(),
	}
	out.Tool = q.GetToolCall()
	if q.GetFrom() != nil {
		out.From = q.GetFrom().AsTime()
	}
	if q.GetUntil() != nil {
		out.Until = q.GetUntil().AsTime()
	}
	return out
}

func (k keptJournals) query(
	ctx context.Context, q *deputy.QueryRecordsRequest, began func(), found func(*deputy.FoundRecord) error,
) (*deputy.QueryEnd, error) {
	if q.GetCursor().GetToken() != "" {
		return nil, errors.New("--cursor is a server's: with --dir narrow the time with --from and --until")
	}
	if q.GetFollow() {
		return nil, k.follow(ctx, q, began, found)
	}
	left := q.GetLimit()
	for f, err := range k.merged(ctx, keptQuery(q)) {
		if err != nil {
			return nil, err
		}
		if err := found(f); err != nil {
			return nil, err
		}
		if left--; left == 0 {
			return &deputy.QueryEnd{}, nil
		}
	}
	return &deputy.QueryEnd{Complete: true}, nil
}

// follow passes on what is written from now on, of one journal.
func (k keptJournals) follow(ctx context.Context, q *deputy.QueryRecordsRequest, began func(), found func(*deputy.FoundRecord) error) error {
	if len(k) > 1 {
		return fmt.Errorf("--dir has %d journals, and one can be followed: name its directory", len(k))
	}
	at, err := k[0].End()
	if err != nil {
		return err
	}
	if began != nil {
		began()
	}
	_, err = k[0].Follow(ctx, keptQuery(q), &at, func(f journal.Found) (bool, error) { return true, found(foundIn(k[0], f)) })
	return err
}

// merged iterates over the records of all journals, by their times.
func (k keptJournals) merged(ctx context.Context, q *journal.Query) iter.Seq2[*deputy.FoundRecord, error] {
	if len(k) == 1 {
		return records(ctx, k[0], q)
	}
	return func(yield func(*deputy.FoundRecord, error) bool) {
		var heads []*head
		for _, reader := range k {
			next, stop := iter.Pull2(records(ctx, reader, q))
			defer stop()
			heads = append(heads, &head{next: next})
		}
		for {
			var first *head
			for _, h := range heads {
				if err := h.fill(); err != nil {
					yield(nil, err)
					return
				}
				if h.found != nil && (first == nil || h.before(first, q.Newest)) {
					first = h
				}
			}
			if first == nil || !yield(first.found, nil) {
				return
			}
			first.found = nil
		}
	}
}

// head is the next record of one of several journals, nil where none is left.
type head struct {
	found *deputy.FoundRecord
	next  func() (*deputy.FoundRecord, error, bool)
}

// fill reads the next record once the last one was taken.
func (h *head) fill() error {
	if h.found != nil || h.next == nil {
		return nil
	}
	found, err, more := h.next()
	if h.found = found; !more {
		h.next = nil
	}
	return err
}

// before reports whether the record of one journal comes before that of another: the older one, or the newer one.
func (h *head) before(other *head, newest bool) bool {
	at, others := h.found.GetRecord().GetTime(), other.found.GetRecord().GetTime()
	if newest {
		return at > others
	}
	return at < others
}

// records iterates over the records of one journal. An error is the last thing that it yields.
func records(ctx context.Context, reader *journal.Reader, q *journal.Query) iter.Seq2[*deputy.FoundRecord, error] {
	return func(yield func(*deputy.FoundRecord, error) bool) {
		_, err := reader.Query(ctx, q, nil, func(f journal.Found) (bool, error) { return yield(foundIn(reader, f), nil), nil })
		if err != nil {
			yield(nil, err)
		}
	}
}

// foundIn is a record as a server shows it.
func foundIn(reader *journal.Reader, f journal.Found) *deputy.FoundRecord {
	return &deputy.FoundRecord{Record: proto.CloneOf(f.Record), DecisionId: reader.ID(f.Record.GetSequence()), Erased: f.Erased}
}

// whole reports, of journals in directories, records that a checkpoint is over and that cannot be read any more.
func whole(s journalSource) error {
	kept, _ := s.(keptJournals)
	var missing error
	for _, reader := range kept {
		c, err := reader.Checkpoint()
		if errors.Is(err, journal.ErrNoCheckpoint) {
			continue
		}
		if err != nil {
			return err
		}
		end, err := reader.End()
		if err != nil {
			return err
		}
		if end < c.Size {
			missing = errors.Join(missing, fmt.Errorf("%s is damaged: its checkpoint is over %s, and only %d can be read; run deputy journal verify on its directory",
				reader.Origin(), plural(c.Size, "record"), end))
		}
	}
	return missing
}

// find returns the journal that has a decision, and the sequence of its record.
func (k keptJournals) find(decision string) (*journal.Reader, uint64, error) {
	if !journal.IsID(decision) {
		return nil, 0, fmt.Errorf("DECISION is not the id of a decision: such an id is 32 hexadecimal digits, not %q", decision)
	}
	for _, reader := range k {
		if sequence, found := reader.Find(decision); found {
			return reader, sequence, nil
		}
	}
	if k[0].ID(0) == "" {
		return nil, 0, errors.New("--key-dir is missing: the ids of decisions are encrypted, and the journal's keys find them")
	}
	origins := make([]string, len(k))
	for i, reader := range k {
		origins[i] = reader.Origin()
	}
	return nil, 0, fmt.Errorf("%s is no decision of these journals: %s", decision, strings.Join(origins, " "))
}

func (k keptJournals) get(_ context.Context, decision string) (*deputy.FoundRecord, error) {
	reader, sequence, err := k.find(decision)
	if err != nil {
		return nil, err
	}
	f, _, err := reader.Get(sequence)
	if errors.Is(err, journal.ErrNoRecord) {
		if err := whole(keptJournals{reader}); err != nil {
			return nil, err
		}
		return nil, fmt.Errorf("%s is a decision of %s, and its record is not there: it may be older than the retention", decision, reader.Origin())
	}
	if err != nil {
		return nil, err
	}
	return foundIn(reader, f), nil
}

// of returns the journal that has a record, or the only one where of is nil.
func (k keptJournals) of(record *deputy.FoundRecord) (*journal.Reader, error) {
	if record == nil && len(k) > 1 {
		return nil, fmt.Errorf("--dir has %d journals, and each has checkpoints of its own: name the directory of one", len(k))
	}
	if len(k) == 1 {
		return k[0], nil
	}
	reader, _, err := k.find(record.GetDecisionId())
	return reader, err
}

func (k keptJournals) checkpoint(_ context.Context, of *deputy.FoundRecord) (*deputy.GetCheckpointResponse, error) {
	reader, err := k.of(of)
	if err != nil {
		return nil, err
	}
	c, err := reader.Checkpoint()
	if errors.Is(err, journal.ErrNoCheckpoint) {
		return nil, status.Errorf(codes.FailedPrecondition, "--dir: the journal %s has no checkpoint: a server signs one every second while records "+
			"come, and when it stops", reader.Origin())
	}
	if err != nil {
		return nil, err
	}
	end, err := reader.End()
	if err != nil {
		return nil, err
	}
	return &deputy.GetCheckpointResponse{Checkpoint: string(c.Text), VerifierKey: c.Verifier, Records: end}, nil
}

func (k keptJournals) origin(_ context.Context, of *deputy.FoundRecord) (string, error) {
	reader, err := k.of(of)
	if err != nil {
		return "", err
	}
	return reader.Origin(), nil
}

func (k keptJournals) prove(ctx context.Context, decision string) (*deputy.ProveRecordResponse, error) {
	reader, sequence, err := k.find(decision)
	if err != nil {
		return nil, err
	}
	_, leaf, err := reader.Get(sequence)
	if err != nil {
		return nil, err
	}
	proof, err := reader.Prove(ctx, sequence)
	if err != nil {
		return nil, err
	}
	return &deputy.ProveRecordResponse{Proof: string(proof), Leaf: leaf}, nil
}

// parseMoment reads a time, or how long ago it was; nil if it is empty.
func parseMoment(name, text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if ago, err := time.ParseDuration(text); err == nil && ago >= 0 {
		return now.Add(-ago), nil
	}
	at, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		return time.Time{}, fmt.Errorf("%s must be a time such as 2026-03-01T12:00:00Z, or how long ago it was, such as 90m, not %q", name, text)
	}
	return at, nil
}
