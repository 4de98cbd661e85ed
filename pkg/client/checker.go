package client

import (
	"context"

	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// Checker answers questions. *Client, *Session and *Snapshot are Checkers, and so is what a program's own tests put in their place. A program
// that takes a Checker, and neither of those, needs no server in its tests.
//
// A fake refuses by default: it returns the zero Decision, which refuses, for every question that the test did not mean to allow, and with
// an error always the zero Decision. It gives as many Answers as there were Questions, in their order. A test of code that acts has a case in
// which the fake refuses, and one in which it fails, and in neither is anything done. CheckerFunc does all but the last.
//
// A Checker is safe for concurrent use.
type Checker interface {
	// Check decides one question. With an error the Decision refuses.
	Check(ctx context.Context, q Question) (Decision, error)
	// CheckBulk decides several at one revision: as many answers as questions, in their order.
	CheckBulk(ctx context.Context, questions ...Question) ([]Answer, error)
}

var _ = []Checker{(*Client)(nil), (*Session)(nil), (*Snapshot)(nil), CheckerFunc(nil)}

// CheckerFunc is a Checker that answers each question with a function, for tests. The nil CheckerFunc refuses everything.
type CheckerFunc func(ctx context.Context, q Question) (Decision, error)

// Check implements Checker. Where the function returns an error, the Decision is the zero one, whatever it returned.
func (f CheckerFunc) Check(ctx context.Context, q Question) (Decision, error) {
	if f == nil {
		return Decision{}, nil
	}
	d, err := f(ctx, q)
	if err != nil {
		return Decision{}, err
	}
	return d, nil
}

// CheckBulk implements Checker. A function's error is that question's alone.
func (f CheckerFunc) CheckBulk(ctx context.Context, questions ...Question) ([]Answer, error) {
	answers := make([]Answer, len(questions))
	for i, q := range questions {
		answers[i].Decision, answers[i].Err = f.Check(ctx, q)
	}
	return answers, nil
}

// DecisionOf returns an answer of a server as a Decision: for fakes, and for answers that came by the generated clients. nil is the zero
// Decision.
func DecisionOf(response *deputyv1.CheckPermissionResponse) Decision { return Decision{response} }

// Allow is the answer of a fake that allows.
func Allow() Decision {
	return Decision{&deputyv1.CheckPermissionResponse{Permissionship: deputyv1.Permissionship_PERMISSIONSHIP_HAS_PERMISSION}}
}
