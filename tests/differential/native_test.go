package differential

import (
	"context"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/evaluate"
)

// nativePatience is how long the native evaluator may think about one call.
const nativePatience = 10 * time.Second

// slow is the code of an answer that did not come.
const slow = codes.DeadlineExceeded

// asked asks the native evaluator several questions in one call. Where it did not come to an answer in time it
// is asked again: the whole process may have been stopped meanwhile.
func (d *desk) asked(e *edition, questions []question) ([]Answer, error) {
	answers, err := d.askedOnce(e, questions)
	if err == nil && slices.ContainsFunc(answers, func(a Answer) bool { return a.Code == slow }) {
		return d.askedOnce(e, questions)
	}
	return answers, err
}

func (d *desk) askedOnce(e *edition, questions []question) ([]Answer, error) {
	at, err := d.native.At(e.at)
	if err != nil {
		return nil, fmt.Errorf("native: %w", err)
	}
	defer at.Close()
	checks := make([]evaluate.Check, len(questions))
	for i, q := range questions {
		checks[i] = evaluate.Check{Resource: q.resource, Subject: q.subject, Context: q.context}
	}
	ctx, cancel := context.WithTimeout(context.Background(), nativePatience)
	defer cancel()
	done := make(chan []evaluate.Answer, 1)
	go func() { done <- at.Check(ctx, checks) }()
	var given []evaluate.Answer
	for round := 0; given == nil; round++ {
		select {
		case given = <-done:
		case <-time.After(nativePatience):
			if round == 6 {
				first := e.reference.Check(questions[0].resource, questions[0].subject, questions[0].context)
				return nil, fmt.Errorf("native: no answer to %d questions, and no regard to the deadline; the first:\n%s",
					len(questions), difference{who: "native", q: questions[0], want: first, edition: e})
			}
		}
	}
	if len(given) != len(checks) {
		return nil, fmt.Errorf("native: %d answers to %d questions", len(given), len(checks))
	}
	answers := make([]Answer, len(given))
	inMemory := e.memory.Check(ctx, checks)
	for i, a := range given {
		answers[i] = answerOf(a)
		if m := answerOf(inMemory[i]); m != answers[i] && answers[i].Code != slow && m.Code != slow {
			return nil, fmt.Errorf("native: over the store and in memory the answers differ:\n%s",
				difference{who: "native, in memory", q: questions[i], want: Verdict{Answer: answers[i]}, got: m, edition: e})
		}
	}
	return answers, nil
}

func answerOf(a evaluate.Answer) Answer {
	answer := Answer{Outcome: a.Outcome}
	switch a.Outcome {
	case authz.Conditional:
		answer.Missing = joined(a.Missing)
	case authz.Failed:
		answer.Code = status.Code(a.Err)
	}
	if (a.Err != nil) != (a.Outcome == authz.Failed) || (len(a.Missing) > 0) != (a.Outcome == authz.Conditional) {
		answer = Answer{Outcome: authz.NotJudged, Code: codes.Internal, Missing: fmt.Sprintf("inconsistent: %+v", a)}
	}
	return answer
}

// tryNative compares the native evaluator with the reference: each question alone, and many in one call.
func (d *desk) tryNative(w *world, e *edition, questions []question, wants []Verdict, count *tally) error {
	diff := func(who string, i int, got Answer) difference {
		return difference{who: who, q: questions[i], want: wants[i], got: got, edition: e, seed: w.seed}
	}
	singles := make([]Answer, len(questions))
	for i := range questions {
		answers, err := d.asked(e, questions[i:i+1])
		if err != nil {
			return err
		}
		singles[i] = answers[0]
		c := fits(wants[i], singles[i])
		if c == classA {
			c = differs // that is SpiceDB's alone
		}
		count.add(c, diff("native", i, singles[i]), &count.native)
		if singles[i].Code == slow {
			return nil // once is enough
		}
	}
	for from := 0; from < len(questions); {
		to := min(len(questions), from+1+w.artist.IntN(200))
		answers, err := d.asked(e, questions[from:to])
		if err != nil {
			return err
		}
		for i, got := range answers {
			c := same
			// Which of several errors it is may depend on who asks with it.
			if single := singles[from+i]; got != single && (got.Outcome != authz.Failed || fits(wants[from+i], got) != same) {
				c = differs
			}
			count.add(c, diff("native in bulk", from+i, got), &count.bulk)
		}
		from = to
	}
	count.reference += len(questions)
	return nil
}
