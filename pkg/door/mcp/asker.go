package mcp

import (
	"context"
	"fmt"

	"github.com/deputyauth/deputy/pkg/client"
	"github.com/deputyauth/deputy/pkg/door/mcp/mapping"
)

// AskerOf returns an Asker that asks Deputy. base says which agent acts, in which session or under which delegation, for whom and where; a
// question adds its object and its permission. Where Deputy fails to judge one of the questions nothing is allowed.
func AskerOf(checker client.Checker, base client.Question) Asker {
	return func(ctx context.Context, asks []mapping.Ask) ([]bool, error) {
		questions := make([]client.Question, len(asks))
		for i, a := range asks {
			questions[i] = base
			questions[i].Resource, questions[i].Permission = client.Object(a.Type, a.ID), a.Permission
		}
		answers, err := checker.CheckBulk(ctx, questions...)
		if err != nil {
			return nil, err
		}
		allowed := make([]bool, len(answers))
		for i, answer := range answers {
			if answer.Err != nil {
				return nil, fmt.Errorf("%s: %w", asks[i], answer.Err)
			}
			allowed[i] = answer.Allowed()
		}
		return allowed, nil
	}
}
