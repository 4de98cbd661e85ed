package journal

import (
	"crypto/hmac"
	"crypto/sha256"
	"errors"

	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// ArgumentsDigest is the length, in bytes, of the digest of a tool's arguments in a record.
const ArgumentsDigest = 16

// ToolCall is what a record holds of the call of a tool that a request names; nil for none. Of the arguments the request has a plain digest, by
// which they could be guessed: the record has a digest of that one under a key of the journal's.
func (j *Journal) ToolCall(c *deputyv1.ToolCall) *deputyv1.ToolCall {
	if c == nil {
		return nil
	}
	return &deputyv1.ToolCall{
		Server: c.GetServer(), Method: c.GetMethod(), Name: c.GetName(), ArgumentsHash: argumentsDigest(j.arguments, c.GetArgumentsHash()),
	}
}

// argumentsKey derives the key of the digests of tools' arguments.
func argumentsKey(secret []byte) ([]byte, error) {
	return derive(secret, "the digests of tool arguments")
}

// argumentsDigest is what a record holds of a digest of arguments.
func argumentsDigest(key, plain []byte) []byte {
	if len(plain) == 0 {
		return nil
	}
	h := hmac.New(sha256.New, key)
	_, _ = h.Write(plain)
	return h.Sum(nil)[:ArgumentsDigest]
}

// purposeArguments is what digests of arguments are for, under the key of a person.
const purposeArguments = "arguments"

// sealArguments replaces the digest of a tool's arguments by one under the key of the person whose record it is, or takes it out with nil.
func sealArguments(r *Record, under func(purpose string, digest []byte) []byte) {
	if len(r.GetToolCall().GetArgumentsHash()) == 0 {
		return
	}
	var digest []byte
	if under != nil {
		digest = under(purposeArguments, r.GetToolCall().GetArgumentsHash())
	}
	c := r.GetToolCall() // a record shares it with no other
	c.ArgumentsHash = digest
}

// errNoArgumentsKey is why a journal cannot be asked for arguments.
var errNoArgumentsKey = errors.New("journal: arguments of tools are found with the journal's secret only")

// asksTool prepares the part of a query that is about the call of a tool.
func (q *query) asksTool() error {
	asked := q.Tool.GetArgumentsHash()
	if len(asked) != sha256.Size {
		return nil
	}
	if q.arguments == nil {
		return errNoArgumentsKey
	}
	q.digest = argumentsDigest(q.arguments, asked)
	return nil
}

// matchesTool reports whether a record is of the call of a tool that is looked for.
func (q *query) matchesTool(r *Record) bool {
	asked, has := q.Tool, r.GetToolCall()
	if asked == nil {
		return true
	}
	is := func(asked, has string) bool { return asked == "" || asked == has }
	if !is(asked.GetServer(), has.GetServer()) || !is(asked.GetMethod(), has.GetMethod()) || !is(asked.GetName(), has.GetName()) {
		return false
	}
	digest := q.digest
	switch {
	case len(asked.GetArgumentsHash()) == 0:
		return has != nil
	case digest == nil:
		return hmac.Equal(asked.GetArgumentsHash(), has.GetArgumentsHash())
	case len(r.GetPersonalKey()) > 0:
		if q.persons == nil {
			return false
		}
		digest = q.persons.Under(r.GetPersonalKey(), purposeArguments, digest)
	}
	return len(digest) > 0 && hmac.Equal(digest, has.GetArgumentsHash())
}
