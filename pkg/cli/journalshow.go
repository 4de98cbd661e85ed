package cli

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"

	goclient "github.com/deputyauth/deputy/pkg/client"
	deputy "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// newJournalShow builds `deputy journal show`.
func newJournalShow(p *program) *cobra.Command {
	var from journalFrom
	cmd := &cobra.Command{
		Use:   "show DECISION",
		Short: "Show the record of a decision, with every field that is set (auditors)",
		Long: `Show the record that the id of a decision stands for, with every field that is set, and whether a signed
checkpoint is over it. Every record has such an id, not only those of decisions: query lists them.`,
		Example: `  deputy journal show 5f0c3a…`,
		Args:    cobra.ExactArgs(1),
	}
	from.register(p, cmd)
	cmd.RunE = from.run(false, func(ctx context.Context, s journalSource, args []string) error {
		found, err := s.get(ctx, args[0])
		if err != nil {
			return err
		}
		if from.c.output == formatJSON {
			return writeJSON(p.Out, found, "  ")
		}
		checkpoint, err := s.checkpoint(ctx, found)
		state := checkpointState(found.GetRecord().GetSequence(), checkpoint)
		switch {
		case goclient.ReasonOf(err) == goclient.ReasonOutOfBounds:
			state = "not shown: it counts the records of all tenants, and this auditor is bound to some; ask one that is not"
		case err != nil && status.Code(err) != codes.FailedPrecondition:
			return err
		}
		return writeTable(p.Out, func(w io.Writer) { recordFields(w, found, state) })
	})
	return cmd
}

// recordFields writes every field of a record that is set, and whether a checkpoint is over it.
func recordFields(w io.Writer, f *deputy.FoundRecord, checkpoint string) {
	r := f.GetRecord()
	number := func(n uint64) string {
		if n == 0 {
			return ""
		}
		return strconv.FormatUint(n, 10)
	}
	field(w, "decision", f.GetDecisionId())
	field(w, "record", strconv.FormatUint(r.GetSequence(), 10))
	field(w, "checkpoint", checkpoint)
	field(w, "time", time.Unix(0, r.GetTime()).UTC().Format(time.RFC3339Nano))
	field(w, "took", time.Duration(r.GetLatency()).String())
	field(w, "kind", short(r.GetKind().String(), "RECORD_KIND_"))
	field(w, "stage", short(r.GetStage().String(), "RECORD_STAGE_"))
	if r.Begun != nil {
		field(w, "began with", "record "+strconv.FormatUint(r.GetBegun(), 10))
	}
	field(w, "dry run", yes(r.GetDryRun()))
	field(w, "caller", r.GetCaller())
	field(w, "method", r.GetMethod())
	field(w, "agent", r.GetAgentId())
	field(w, "agents", agentChain(r.GetAgentChain()))
	field(w, "principal", recordObject(f, r.GetPrincipalType(), r.GetPrincipalId()))
	field(w, "tenant", r.GetTenantId())
	field(w, "session", r.GetSessionId())
	field(w, "delegation", r.GetDelegationId())
	field(w, "resource", recordObject(f, r.GetResourceType(), r.GetResourceId()))
	field(w, "permission", r.GetPermission())
	field(w, "subject", r.GetSubject())
	if r.GetAnswer() != 0 {
		field(w, "answer", permissionship(r.GetAnswer()))
	}
	if r.GetRefusedBy() != 0 {
		field(w, "refused by", gateName(r.GetRefusedBy()))
	}
	field(w, "server", r.GetToolCall().GetServer())
	field(w, "called", r.GetToolCall().GetMethod())
	field(w, "tool", r.GetToolCall().GetName())
	field(w, "arguments digest", hex.EncodeToString(r.GetToolCall().GetArgumentsHash()))
	if r.GetToolRefusal() != 0 {
		field(w, "not asked", toolRefusal(r))
	}
	field(w, "missing context", strings.Join(r.GetMissingContext(), ", "))
	if r.GetCode() != 0 {
		field(w, "code", codeName(codes.Code(r.GetCode()))) //nolint:gosec // as gRPC has codes
	}
	field(w, "reason", r.GetReason())
	field(w, "results", number(r.GetResults()))
	field(w, "failed", number(r.GetFailed()))
	field(w, "reason given", r.GetGivenReason())
	for _, relationship := range r.GetRelationships() {
		field(w, "wrote", relationship)
	}
	field(w, "revision", r.GetRevision())
	field(w, "schema", hex.EncodeToString(r.GetSchema()))
	if r.GetEvaluator() != 0 {
		field(w, "evaluator", short(r.GetEvaluator().String(), "EVALUATOR_"))
	}
	field(w, "context digest", hex.EncodeToString(r.GetContextHash()))
	if r.GetContext() != nil {
		if text, err := protojson.Marshal(r.GetContext()); err == nil {
			field(w, "context", string(text))
		}
	}
	field(w, "request digest", hex.EncodeToString(r.GetRequestHash()))
	field(w, "late", yes(r.GetLate()))
	if s := r.GetSummary(); s != nil {
		field(w, "from", moment(s.GetFrom()))
		field(w, "until", moment(s.GetUntil()))
		field(w, "without credential", number(s.GetWithoutCredential()))
		field(w, "invalid credential", number(s.GetInvalidCredential()))
		field(w, "unknown credential", number(s.GetUnknownCredential()))
	}
	field(w, "note", r.GetNote())
	field(w, "about decision", r.GetAboutDecision())
	switch {
	case f.GetErased():
		field(w, "sealed", "some of it was sealed for a person, and the key is gone: it was erased")
	case len(r.GetPersonal()) > 0:
		field(w, "sealed", "some of it is sealed for a person: --key-dir opens it, unless it was erased")
	}
}

// checkpointState says whether a checkpoint is over a record.
func checkpointState(sequence uint64, checkpoint *deputy.GetCheckpointResponse) string {
	size, err := checkpointSize(checkpoint.GetCheckpoint())
	switch {
	case err != nil:
		return "none is over it yet"
	case sequence < size:
		return fmt.Sprintf("in the checkpoint of size %d", size)
	default:
		return fmt.Sprintf("none is over it yet: the newest has size %d", size)
	}
}

// checkpointSize is the size that a checkpoint says.
func checkpointSize(text string) (uint64, error) {
	lines := strings.SplitN(text, "\n", 3)
	if len(lines) < 3 {
		return 0, errors.New("it is no checkpoint")
	}
	return strconv.ParseUint(lines[1], 10, 64)
}

// newJournalCheckpoint builds `deputy journal checkpoint`.
func newJournalCheckpoint(p *program) *cobra.Command {
	var from journalFrom
	cmd := &cobra.Command{
		Use:   "checkpoint",
		Short: "Print the newest signed checkpoint, to keep elsewhere (auditors)",
		Long: `Print the newest checkpoint that the server, or the journal in --dir, has signed: a C2SP tlog-checkpoint. Keep it where
the server's machine cannot reach it. deputy journal verify --checkpoint FILE compares the journal with it later on, and so finds
out whether the journal was set back meanwhile. It takes an auditor who is not bound to tenants.

With -o json the answer has the key that verifies it, too, and how many records there are, signed or not.`,
		Example: `  deputy journal checkpoint > checkpoint.friday
  deputy journal checkpoint --dir /var/lib/deputy/journal > checkpoint.friday`,
		Args: cobra.NoArgs,
	}
	from.register(p, cmd)
	cmd.RunE = from.run(false, func(ctx context.Context, s journalSource, _ []string) error {
		answer, err := s.checkpoint(ctx, nil)
		if err != nil {
			return err
		}
		if from.c.output == formatJSON {
			return writeJSON(p.Out, answer, "  ")
		}
		return writeText(p.Out, answer.GetCheckpoint())
	})
	return cmd
}

// newJournalProve builds `deputy journal prove`.
func newJournalProve(p *program) *cobra.Command {
	var from journalFrom
	var leaf string
	cmd := &cobra.Command{
		Use:   "prove DECISION",
		Short: "Prove that the record of a decision stands in the journal (auditors)",
		Long: `Print a proof that the record of a decision stands in the journal that the newest checkpoint names: a C2SP
tlog-proof. Anybody can check it with the key that verifies checkpoints, and the leaf that it proves: the record as it was
first written, which --leaf writes into a file.

With -o json the leaf is in the answer.`,
		Example: `  deputy journal prove 5f0c3a… --leaf record.bin > record.proof`,
		Args:    cobra.ExactArgs(1),
	}
	from.register(p, cmd)
	cmd.Flags().StringVar(&leaf, "leaf", "", "file to write the record into, as it is hashed")
	cmd.RunE = from.run(false, func(ctx context.Context, s journalSource, args []string) error {
		answer, err := s.prove(ctx, args[0])
		if err != nil {
			return err
		}
		if leaf != "" {
			err := writeWhole("--leaf", leaf, 0o600, func(w io.Writer) error {
				_, err := w.Write(answer.GetLeaf())
				return err //nolint:wrapcheck // writeWhole says which file
			})
			if err != nil {
				return err
			}
		}
		if from.c.output == formatJSON {
			return writeJSON(p.Out, answer, "  ")
		}
		return writeText(p.Out, answer.GetProof())
	})
	return cmd
}
