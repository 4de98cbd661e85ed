package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	deputy "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// newFollow builds `deputy follow`.
func newFollow(p *program) *cobra.Command {
	cmd := group(groupServer, "follow", "Look at the copy that a server with --follow decides from, and verify it (admins)")
	c := client(p, cmd)
	cmd.AddCommand(newFollowStatus(c), newFollowVerify(c))
	return cmd
}

// newFollowStatus builds `deputy follow status`.
func newFollowStatus(c *connection) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Say which state of the primary the copy has, whether it serves, and whether the primary answers",
		Long: `Say which state of the primary a server's copy has, how long ago it was known to be the newest one, and whether the
copy serves; whether the primary answers, and if not why; how far a load is, or that a large change is brought in; and what comparing the copy
with the primary came to. The primary is what the server follows: a database, or another Deputy. The exit code is 0 if the copy serves, and 1
if not: then calls are passed on to the primary. A server whose copy does not serve is not ready, unless a copy has served since it started,
it is catching up or another one is to be loaded, and the primary answers.`,
		Args: cobra.NoArgs,
		RunE: c.run(func(ctx context.Context, s *server, _ []string) error {
			answer, err := s.copies.GetCopy(ctx, &deputy.GetCopyRequest{})
			if err != nil {
				return err
			}
			if err := c.print(answer, func(w io.Writer) { writeCopy(w, answer) }); err != nil {
				return err
			}
			if !answer.GetServes() {
				return errDenied
			}
			return nil
		}),
	}
}

// writeCopy prints how a copy does for people.
func writeCopy(w io.Writer, a *deputy.GetCopyResponse) {
	field(w, "SERVES", serving(a))
	if position := a.GetPosition(); position != nil {
		field(w, "FOLLOWS", position.GetAuthority())
		field(w, "STATE", fmt.Sprintf("%s, read at %s", position.GetState(), moment(position.GetTime())))
		field(w, "KNOWN TO BE THE HEAD", a.GetAge().AsDuration().Round(time.Millisecond).String()+" ago")
		field(w, "RELATIONSHIPS", "about "+strconv.FormatUint(a.GetRelationships(), 10))
	} else {
		field(w, "FOLLOWS", "there is no copy to decide from")
	}
	if contact := a.GetContact(); contact != nil {
		field(w, "PRIMARY ANSWERS", answering(contact))
	}
	if load := a.GetLoad(); load != nil {
		field(w, "LOADING", plural(load.GetRelationships(), "relationship")+" so far")
	}
	if since := a.GetCatchingUp(); since != nil {
		field(w, "CATCHES UP", fmt.Sprintf("for %s: much has changed at once, and the primary answers calls that ask for its head",
			since.AsDuration().Round(time.Millisecond)))
	}
	field(w, "LOADS", strconv.FormatUint(a.GetLoads(), 10))
	field(w, "ANSWERED", fmt.Sprintf("%d by the copy, %d by the primary, %d refused", a.GetByCopy(), a.GetByDatabase(), a.GetRefused()))
	switch v := a.GetVerification(); {
	case v == nil:
		field(w, "VERIFIED", "not since the server started: deputy follow verify does it")
	case v.GetEqual():
		field(w, "VERIFIED", fmt.Sprintf("at %s: %s, equal", moment(v.GetEnded()), plural(v.GetRelationships(), "relationship")))
	default:
		field(w, "VERIFIED", fmt.Sprintf("at %s: %s or more", moment(v.GetEnded()), plural(uint64(v.GetDifferences()), "difference")))
	}
	switch s := a.GetSample(); {
	case s == nil:
		field(w, "SAMPLED", "nothing: --follow-sample is -1")
	case s.GetRounds() == 0:
		field(w, "SAMPLED", plural(s.GetRelationships(), "relationship")+", not all of them yet")
	default:
		field(w, "SAMPLED", fmt.Sprintf("%s; all of them %s, the last time until %s, in %s", plural(s.GetRelationships(), "relationship"),
			plural(s.GetRounds(), "time"), moment(s.GetEnded()), s.GetTook().AsDuration().Round(time.Second)))
	}
	if d := a.GetDifference(); d != nil {
		field(w, "LAST DIFFERENCE", fmt.Sprintf("%s: %s", moment(a.GetDifferenceTime()), differenceText(d)))
	}
}

// answering says whether what is followed answers.
func answering(c *deputy.CopyContact) string {
	last := "since the server started"
	if c.GetAnswered() != nil {
		last = "for " + c.GetAnswered().AsDuration().Round(time.Millisecond).String()
	}
	switch {
	case c.GetAnswers():
		return "yes, " + c.GetAnswered().AsDuration().Round(time.Millisecond).String() + " ago"
	case c.GetFailure() == "":
		return "no: it has given no answer " + last
	default:
		return fmt.Sprintf("no: it has given no answer %s (%s)", last, c.GetFailure())
	}
}

// serving says whether a copy serves. Of one that does not it says no more than is known: calls are passed on to the primary, and a server that does not
// say whether the primary answers may be of an older version.
func serving(a *deputy.GetCopyResponse) string {
	switch age := a.GetAge().AsDuration().Round(time.Millisecond); {
	case a.GetServes():
		return "yes"
	case a.GetPosition() == nil:
		return "no: calls are passed on to the primary until there is a copy"
	default:
		text := fmt.Sprintf("no: for %s the copy has not been known to be the primary's newest state; ", age)
		switch contact := a.GetContact(); {
		case contact == nil:
			return text + "calls are passed on to the primary, which may not answer either: the server's log says why"
		case contact.GetAnswers():
			return text + "calls are passed on to the primary"
		default:
			return text + "calls are UNAVAILABLE until the primary answers"
		}
	}
}

// differenceText says a difference in a line.
func differenceText(d *deputy.CopyDifference) string {
	say := func(s string) string {
		if s == "" {
			return "none"
		}
		return s
	}
	return fmt.Sprintf("%s %s: the primary has %s, the copy has %s", d.GetKind(), d.GetName(), say(d.GetDatabase()), say(d.GetCopy()))
}

// newFollowVerify builds `deputy follow verify`.
func newFollowVerify(c *connection) *cobra.Command {
	var limit uint32
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Compare the whole copy with the primary",
		Long: `Compare the whole copy with the primary, the database or the other Deputy that the server follows, at one state of the primary
and as of one moment: schema, caveats, counters and every relationship. The server goes on meanwhile; the primary reads its relationships once,
all of them. The exit code is 0 if the copy has what the primary has, and 1 if not. A copy that differs is out of service from then on: the primary
answers until the server has loaded another one.`,
		Example: `  deputy follow verify
  deputy follow verify --limit 100 -o json`,
		Args: cobra.NoArgs,
		RunE: c.runLong(func(ctx context.Context, s *server, _ []string) error {
			bar := newProgress(c.program.Err, "comparing", "relationships", -1)
			defer bar.clear()
			found, err := receiveVerification(ctx, s.copies, limit, bar)
			if err != nil {
				return err
			}
			bar.clear()
			if c.output == formatJSON {
				err = say(c.program.Out, c.output, found, "")
			} else {
				err = writeTable(c.program.Out, found.write)
			}
			if err == nil && !found.Equal {
				return errDenied
			}
			return err
		}),
	}
	cmd.Flags().Uint32Var(&limit, "limit", 0, "how many differences are named at most, up to 1000; 0 means 10")
	return cmd
}

// copyVerified is what a comparison came to, for programs.
type copyVerified struct {
	Equal bool `json:"equal"`
	// Authority and State are the primary and its state, Moment is as of when both were compared.
	Authority     string           `json:"authority"`
	State         string           `json:"state"`
	Moment        time.Time        `json:"moment"`
	Began         time.Time        `json:"began"`
	Ended         time.Time        `json:"ended"`
	Relationships uint64           `json:"relationships"`
	Types         []copyCompared   `json:"types"`
	Differences   []copyDifference `json:"differences"`
	// More says that there may be others.
	More bool `json:"more"`
}

// copyCompared is how many relationships of a type there are.
type copyCompared struct {
	Type     string `json:"type"`
	Database uint64 `json:"database"`
	Copy     uint64 `json:"copy"`
	Equal    bool   `json:"equal"`
}

// copyDifference is something that both do not have alike.
type copyDifference struct {
	Kind     string `json:"kind"`
	Name     string `json:"name"`
	Database string `json:"database"`
	Copy     string `json:"copy"`
}

// receiveVerification has a server compare its copy, and takes what it says.
func receiveVerification(ctx context.Context, copies deputy.CopyServiceClient, limit uint32, bar *progress) (*copyVerified, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := copies.VerifyCopy(ctx, &deputy.VerifyCopyRequest{Limit: limit})
	if err != nil {
		return nil, err
	}
	found := &copyVerified{Types: []copyCompared{}, Differences: []copyDifference{}}
	whole := false
	for {
		message, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			if !whole {
				return nil, errors.New("the server's answer was cut off: nothing is known of the copy")
			}
			return found, nil
		}
		if err != nil {
			return nil, err
		}
		switch r := message.GetResult().(type) {
		case *deputy.VerifyCopyResponse_Compared:
			t := copyCompared{Type: r.Compared.GetType(), Database: r.Compared.GetDatabase(), Copy: r.Compared.GetCopy(), Equal: r.Compared.GetEqual()}
			bar.add(int64(t.Copy)) //nolint:gosec // far below 2^63
			// The comparison may have begun again.
			found.Types = append(slices.DeleteFunc(found.Types, func(before copyCompared) bool { return before.Type == t.Type }), t)
		case *deputy.VerifyCopyResponse_Difference:
			d := r.Difference
			found.Differences = append(found.Differences, copyDifference{d.GetKind(), d.GetName(), d.GetDatabase(), d.GetCopy()})
		case *deputy.VerifyCopyResponse_End:
			whole = true
			e := r.End
			found.Equal, found.Relationships, found.More = e.GetEqual(), e.GetRelationships(), e.GetMore()
			found.Authority, found.State = e.GetPosition().GetAuthority(), e.GetPosition().GetState()
			found.Moment, found.Began, found.Ended = e.GetMoment().AsTime(), e.GetBegan().AsTime(), e.GetEnded().AsTime()
		}
	}
}

// write prints what was found for people.
func (v *copyVerified) write(w io.Writer) {
	if v.Equal {
		row(w, fmt.Sprintf("ok: the copy has what the primary has: its schema and %s", plural(v.Relationships, "relationship")))
	} else {
		row(w, "NOT ok: the copy is not what the primary has. It is out of service, and the server loads another one")
	}
	row(w)
	for _, d := range v.Differences {
		row(w, "DIFFERENCE", differenceText(&deputy.CopyDifference{Kind: d.Kind, Name: d.Name, Database: d.Database, Copy: d.Copy}))
	}
	if v.More {
		row(w, "MORE", "there may be others: the comparison has ended with these")
	}
	for _, t := range v.Types {
		count := plural(t.Copy, "relationship")
		if !t.Equal {
			count = fmt.Sprintf("NOT equal: the primary has %d, the copy has %d", t.Database, t.Copy)
		}
		row(w, "TYPE "+t.Type, count)
	}
	field(w, "FOLLOWS", v.Authority)
	field(w, "STATE", v.State)
	field(w, "AS OF", v.Moment.UTC().Format(time.RFC3339))
	field(w, "TOOK", v.Ended.Sub(v.Began).Round(time.Millisecond).String())
}
