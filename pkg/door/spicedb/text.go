package spicedb

import (
	"fmt"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/rpc/wire"
)

// Limits of a schema's text. SpiceDB's parser calls itself for each bracket, and a goroutine whose stack overflows takes the process
// with it: no recovery helps. Half a million parentheses, which any service could have compared with the schema
// (DiffSchema), did that. Long expressions take the compiler the square of their length.
const (
	// maxComparison is the longest text that is compared with the schema, in bytes: any service may have that done. One that an admin
	// writes is as long as its message may be.
	maxComparison = 1 << 20
	// maxNesting is how deep brackets of all kinds may be nested.
	maxNesting = 64
	// maxOperators is how many operators one expression, or the types of one relation, may have.
	maxOperators = 1000
)

// judgeText refuses a schema's text that SpiceDB could not read safely.
func judgeText(request proto.Message) error {
	switch r := request.(type) {
	case *v1.WriteSchemaRequest:
		return schemaText("schema", r.GetSchema(), wire.Large.Bytes)
	case *v1.DiffSchemaRequest:
		return schemaText("comparison_schema", r.GetComparisonSchema(), maxComparison)
	case *v1.ExperimentalDiffSchemaRequest:
		return schemaText("comparison_schema", r.GetComparisonSchema(), maxComparison)
	default:
		return nil
	}
}

// schemaText counts brackets and operators without regard for comments and strings, so that no text can hide them from it and show
// them to the parser. A line of equal signs or dashes is one operator.
func schemaText(field, text string, most int) error {
	refuse := func(format string, args ...any) error {
		return failure(codes.InvalidArgument, authz.ReasonInvalidField, field, fmt.Sprintf(format, args...))
	}
	if len(text) > most {
		return refuse("has %d bytes, more than %d", len(text), most)
	}
	depth, operators, line := 0, 0, 1
	var last byte
	for i := range len(text) {
		c := text[i]
		switch c {
		case '(', '[', '{', '<':
			depth++
		case ')', ']', '}', '>':
			depth = max(depth-1, 0)
		case '\n':
			line++
		}
		switch c {
		case '=', ':', '{', '}':
			operators = 0
		case '+', '-', '&', '|', '.', '*', '/', '%', '?':
			if c != last {
				operators++
			}
		}
		last = c
		if depth > maxNesting {
			return refuse("nests brackets deeper than %d, in line %d", maxNesting, line)
		}
		if operators > maxOperators {
			return refuse("has an expression of more than %d operators, in line %d", maxOperators, line)
		}
	}
	return nil
}
