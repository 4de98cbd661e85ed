package mcp

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"unicode"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/deputyauth/deputy/pkg/client"
	"github.com/deputyauth/deputy/pkg/door/mcp/jsonrpc"
	"github.com/deputyauth/deputy/pkg/door/mcp/mapping"
)

// Call is a call that is judged, as the journal names it.
type Call struct {
	// Server is the server's name in the file of mappings, Method the method of the protocol, and Name the tool or the prompt; empty where the method
	// names neither.
	Server, Method, Name string
	// Arguments are those that are judged. Of a resource that is its URI, as {"uri": …}.
	Arguments jsonrpc.Value
}

// Refusal is why the guard refuses a call by itself.
type Refusal = client.ToolRefusal

// ArgumentsHash returns the digest of the arguments of a call, given as JSON, by which the journal finds calls with the same ones.
func ArgumentsHash(text []byte) (sum [sha256.Size]byte, err error) {
	arguments, err := jsonrpc.ParseValue(text, jsonrpc.FromClient())
	if err == nil && arguments.Kind() != jsonrpc.Object {
		err = errors.New("arguments have to be an object, not " + arguments.Kind().String())
	}
	if err != nil {
		return sum, err
	}
	return hashOf(arguments), nil
}

// hashOf returns the SHA-256 digest of arguments in the form of RFC 8785.
func hashOf(arguments jsonrpc.Value) [sha256.Size]byte {
	canonical := jsontext.Value(arguments.Append(nil))
	if err := canonical.Canonicalize(); err != nil { // what was parsed exactly has a form; anything else has a digest all the same
		canonical = arguments.Append(nil)
	}
	return sha256.Sum256(canonical)
}

// The longest words of a call in the journal, in bytes.
const (
	maxServer = 128
	maxName   = 256
)

// told is the call as the journal gets it. The agent wrote its name: it is shortened, and has no control characters.
func (c Call) told() client.ToolCall {
	sum := hashOf(c.Arguments)
	return client.ToolCall{Server: word(c.Server, maxServer), Method: c.Method, Name: word(c.Name, maxName), Arguments: string(sum[:])}
}

// word makes a word of an agent's fit for the journal.
func word(text string, most int) string {
	text = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return unicode.ReplacementChar
		}
		return r
	}, text)
	if len(text) <= most {
		return text
	}
	const mark = "…"
	return strings.ToValidUTF8(text[:most-len(mark)], "") + mark
}

// Decider is Deputy, as the guard asks it: a *client.Client is one.
type Decider interface {
	// CheckAll decides questions at one revision: as many answers as questions, in their order. With an error none is answered.
	CheckAll(ctx context.Context, questions ...client.Question) ([]client.Answer, error)
	// RecordToolRefusal records that the guard refuses a call by itself.
	RecordToolRefusal(ctx context.Context, q client.Question, why client.ToolRefusal) error
}

// AskerOf returns an Asker that asks Deputy. base says which agent acts, in which session or under which delegation, for whom and where; a
// question adds its object, its permission and the call. Where Deputy fails to judge one of the questions nothing is allowed.
func AskerOf(decider Decider, base client.Question) Asker {
	return asker{decider, base}
}

type asker struct {
	decider Decider
	base    client.Question
}

// Ask implements Asker.
func (a asker) Ask(ctx context.Context, call Call, asks []mapping.Ask) ([]Answer, error) {
	of := call.told()
	questions := make([]client.Question, len(asks))
	for i, one := range asks {
		questions[i] = a.base
		questions[i].Resource, questions[i].Permission, questions[i].ToolCall = client.Object(one.Type, one.ID), one.Permission, of
	}
	found, err := a.decider.CheckAll(ctx, questions...)
	if err != nil {
		return nil, err
	}
	answers := make([]Answer, len(found))
	for i, one := range found {
		if one.Err != nil {
			return nil, fmt.Errorf("question %d of %d: %w", i+1, len(found), one.Err)
		}
		answers[i] = answerOf(one)
	}
	return answers, nil
}

// answerOf is an answer of Deputy's.
func answerOf(one client.Answer) Answer {
	if one.Allowed() {
		return Answer{Allowed: true}
	}
	by := strings.TrimPrefix(one.Response().GetRefusedBy().String(), "REFUSED_BY_")
	if by == "UNSPECIFIED" { // it is conditional, or of a kind that this version does not know
		by = strings.TrimPrefix(one.Response().GetPermissionship().String(), "PERMISSIONSHIP_")
	}
	return Answer{RefusedBy: strings.ToLower(by), Decision: one.Response().GetDecisionId()}
}

// Refused implements Asker.
func (a asker) Refused(ctx context.Context, call Call, why Refusal) error {
	q := a.base
	q.ToolCall = call.told()
	return a.decider.RecordToolRefusal(ctx, q, why)
}
