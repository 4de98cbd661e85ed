package daemon

import (
	"context"
	"strings"
	"time"
	"unicode"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/deputyauth/deputy/pkg/follow"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// copier tells how a follower's copy does, in rpc's words.
type copier struct{ graph *follow.Graph }

// Copy is rpc.Copier's.
func (c copier) Copy() *deputyv1.GetCopyResponse {
	s := c.graph.Status()
	out := &deputyv1.GetCopyResponse{
		Serves: s.Serves, Position: positionOf(s.Position), Relationships: s.Relationships,
		Loads: s.Loads, ByCopy: s.ByCopy, ByDatabase: s.ByAuthority, Refused: s.Refused, Verification: verificationOf(s.Verified),
		Contact: contactOf(s.Contact),
	}
	if out.GetPosition() != nil {
		out.Age = durationpb.New(s.Age)
	}
	if s.Loading != nil {
		out.Load = &deputyv1.CopyLoad{Relationships: s.Loading.Relationships, Position: positionOf(s.Loading.Position)}
	}
	if s.CatchingUp > 0 {
		out.CatchingUp = durationpb.New(s.CatchingUp)
	}
	if s.Sampled != nil {
		out.Sample = &deputyv1.CopySample{
			Relationships: s.Sampled.Relationships, Rounds: s.Sampled.Rounds, Began: momentOf(s.Sampled.Round), Ended: momentOf(s.Sampled.Ended),
		}
		if s.Sampled.Rounds > 0 {
			out.Sample.Took = durationpb.New(s.Sampled.Took)
		}
	}
	if s.Found != nil {
		out.Difference, out.DifferenceTime = differenceOf(s.Found.Difference), momentOf(s.Found.At)
	}
	return out
}

// contactOf says whether what is followed answers.
func contactOf(c follow.Contact) *deputyv1.CopyContact {
	out := &deputyv1.CopyContact{Answers: c.Answers, Failure: readable(c.Failure[:min(len(c.Failure), shownBytes)])}
	if !c.Answered.IsZero() {
		out.Answered = durationpb.New(time.Since(c.Answered))
	}
	return out
}

// VerifyCopy is rpc.Copier's.
func (c copier) VerifyCopy(ctx context.Context, most int, send func(*deputyv1.VerifyCopyResponse) error) error {
	v, err := c.graph.Verify(ctx, most, func(t follow.Compared) error {
		compared := &deputyv1.CopyCompared{Type: readable(t.Type), Database: t.Authority, Copy: t.Copy, Equal: t.Equal}
		return send(&deputyv1.VerifyCopyResponse{Result: &deputyv1.VerifyCopyResponse_Compared{Compared: compared}})
	})
	if err != nil {
		return err
	}
	for _, d := range v.Differences {
		if err := send(&deputyv1.VerifyCopyResponse{Result: &deputyv1.VerifyCopyResponse_Difference{Difference: differenceOf(d)}}); err != nil {
			return err
		}
	}
	return send(&deputyv1.VerifyCopyResponse{Result: &deputyv1.VerifyCopyResponse_End{End: verificationOf(v)}})
}

// shownBytes is how much is shown of what one side of a difference has.
const shownBytes = 1000

func differenceOf(d follow.Difference) *deputyv1.CopyDifference {
	d = d.Cut(shownBytes)
	return &deputyv1.CopyDifference{Kind: d.What, Name: readable(d.Name), Database: readable(d.Authority), Copy: readable(d.Copy)}
}

// readable is a text without what is no UTF-8, which a message cannot carry, and without what would do something to a terminal. A copy that is wrong, or a
// database that was written to by hand, may have both.
func readable(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, text)
}

// positionOf is nil for the zero position.
func positionOf(p follow.Position) *deputyv1.CopyPosition {
	if p.State == "" {
		return nil
	}
	return &deputyv1.CopyPosition{Authority: string(p.Authority), State: p.State, Time: momentOf(p.At)}
}

func verificationOf(v *follow.Verified) *deputyv1.CopyVerification {
	if v == nil {
		return nil
	}
	return &deputyv1.CopyVerification{
		Equal: len(v.Differences) == 0, Position: positionOf(v.Position), Moment: momentOf(v.Moment), Began: momentOf(v.Began), Ended: momentOf(v.Ended),
		Relationships: v.Relationships, Differences: uint32(len(v.Differences)), More: v.More, //nolint:gosec // bounded
	}
}

// momentOf is nil for the zero time.
func momentOf(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}
