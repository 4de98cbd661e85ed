package cli

import (
	"cmp"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/deputyauth/deputy/pkg/authz"
	deputy "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/pkg/notation"
)

// parseObject reads "type:id". The id is everything behind the first colon, so a URL needs no
// quoting: document:https://example.com/plan. What an id may hold is the server's to say.
func parseObject(name, text string) (*deputy.ObjectReference, error) {
	objectType, id, found := strings.Cut(text, ":")
	if !found || objectType == "" || id == "" {
		return nil, fmt.Errorf("%s must be TYPE:ID, such as %s, not %q", name, cmp.Or(objectExamples[name], "document:plan"), text)
	}
	if err := checkID(name, objectType, text); err != nil {
		return nil, err
	}
	return &deputy.ObjectReference{ObjectType: objectType, ObjectId: id}, nil
}

// objectExamples are what stands in an error as an example of a flag or an argument that names no object of the domain.
var objectExamples = map[string]string{
	"PRINCIPAL": "user:alice", "--principal": "user:alice", "--on-behalf-of": "user:alice", "--granted-by": "user:dana", "--for": "user:alice",
	"NAME": "user:alice", "PERSON": "user:alice",
}

// parsePrincipal reads "type:id" or, for a tenant, "tenant:id#relation". Which of the two a text is depends on its type alone: an id
// from outside may hold a "#" like a URL's, and must not become a set because of it.
func parsePrincipal(text string) (*deputy.SubjectReference, error) {
	o, err := parseObject("--principal", text)
	if err != nil || o.GetObjectType() != "tenant" {
		return &deputy.SubjectReference{Object: o}, err
	}
	// The relation is behind the last "#": an id from outside may hold one itself.
	id := o.GetObjectId()
	cut := strings.LastIndex(id, "#")
	if cut <= 0 || cut == len(id)-1 {
		return nil, fmt.Errorf("--principal must be tenant:ID#RELATION, such as tenant:acme#member, not %q", text)
	}
	return &deputy.SubjectReference{
		Object: &deputy.ObjectReference{ObjectType: "tenant", ObjectId: id[:cut]}, OptionalRelation: id[cut+1:],
	}, nil
}

// parseScope reads grants "type:id#relation". The relation is behind the last "#", because relations
// hold none.
func parseScope(texts []string) ([]*deputy.ScopeGrant, error) {
	grants := make([]*deputy.ScopeGrant, 0, len(texts))
	for _, text := range texts {
		cut := strings.LastIndex(text, "#")
		if cut < 0 || cut == len(text)-1 {
			return nil, fmt.Errorf("--scope must be TYPE:ID#RELATION, such as folder:q3#reader, not %q", text)
		}
		o, err := parseObject("--scope", text[:cut])
		if err != nil {
			return nil, err
		}
		grants = append(grants, &deputy.ScopeGrant{Resource: o, Relation: text[cut+1:]})
	}
	return grants, nil
}

// readNamed reads a file that the user named; name is the flag or argument that did.
func readNamed(name, path string) ([]byte, error) {
	text, err := os.ReadFile(path) //nolint:gosec // reading it is what was asked for
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return text, nil
}

// bareID drops a type from an id whose type is clear, so that agent:bot works as bot does.
func bareID(objectType, text string) string { return strings.TrimPrefix(text, objectType+":") }

// idTypes are the types of what the flags and arguments name that take an id whose type is clear.
var idTypes = map[string]string{
	"owner": "user", "agent": "agent", "tenant": "tenant", "session": "session", "delegation": "delegation", "parent": "delegation",
}

// checkIDs refuses ids, among a command's flags and arguments, that name another type than theirs: bareID would make of
// "agent:scribe", as an owner, a user of that name.
func checkIDs(cmd *cobra.Command, args []string) error {
	for i, name := range argumentNames(cmd) {
		if objectType := idTypes[strings.ToLower(name)]; objectType != "" && i < len(args) {
			if err := checkID(name, objectType, args[i]); err != nil {
				return err
			}
		}
	}
	var err error
	cmd.Flags().Visit(func(f *pflag.Flag) {
		values := []string{f.Value.String()}
		if list, ok := f.Value.(pflag.SliceValue); ok {
			values = list.GetSlice()
		}
		for _, value := range values {
			if objectType := idTypes[f.Name]; err == nil && objectType != "" {
				err = checkID("--"+f.Name, objectType, value)
			}
		}
	})
	return err
}

// checkID refuses an id that begins with another of Deputy's types than its own, or with its own twice.
func checkID(name, objectType, text string) error {
	given, id, found := strings.Cut(text, ":")
	switch {
	case !found || !authz.IsCore(given):
		return nil
	case given != objectType:
		return fmt.Errorf("%s must be %s:ID, or the ID alone, not %q", name, objectType, text)
	case strings.HasPrefix(id, given+":"):
		return fmt.Errorf("%s must be %s:ID, not %q, which names the type twice", name, objectType, text)
	default:
		return nil
	}
}

// parseContext reads caveat context: a JSON object as notation.Context reads it, or "@file" with one.
func parseContext(text string) (*structpb.Struct, error) {
	if text == "" {
		return nil, nil //nolint:nilnil // nil leaves the field out
	}
	data := []byte(text)
	if path, isFile := strings.CutPrefix(text, "@"); isFile {
		var err error
		if data, err = readNamed("--context", path); err != nil {
			return nil, err
		}
	}
	context, err := notation.Context(string(data))
	if err != nil {
		return nil, fmt.Errorf(`--context must be one JSON object, such as {"hour": 9}: %w`, err)
	}
	if err := authz.ExactNumbers(context.AsMap()); err != nil {
		return nil, fmt.Errorf("--context: %w", err)
	}
	return context, nil
}

// parseConsistency reads the name of a requirement as in the API, with its token behind "=".
func parseConsistency(text string) (*deputy.Consistency, error) {
	name, token, hasToken := strings.Cut(text, "=")
	zedToken := &deputy.ZedToken{Token: token}
	switch {
	case text == "":
		return nil, nil //nolint:nilnil // nil leaves the field out
	case name == "fully_consistent" && !hasToken:
		return &deputy.Consistency{Requirement: &deputy.Consistency_FullyConsistent{FullyConsistent: true}}, nil
	case name == "minimize_latency" && !hasToken:
		return &deputy.Consistency{Requirement: &deputy.Consistency_MinimizeLatency{MinimizeLatency: true}}, nil
	case name == "at_least_as_fresh" && token != "":
		return &deputy.Consistency{Requirement: &deputy.Consistency_AtLeastAsFresh{AtLeastAsFresh: zedToken}}, nil
	case name == "at_exact_snapshot" && token != "":
		return &deputy.Consistency{Requirement: &deputy.Consistency_AtExactSnapshot{AtExactSnapshot: zedToken}}, nil
	default:
		return nil, fmt.Errorf("--consistency must be %s, not %q", consistencies, text)
	}
}

// consistencies is what --consistency takes; the first is what the server does without it.
const consistencies = "fully_consistent, minimize_latency, at_least_as_fresh=TOKEN or at_exact_snapshot=TOKEN"

// token wraps a token, or returns nil where there is none.
func token(text string) *deputy.ZedToken {
	if text == "" {
		return nil
	}
	return &deputy.ZedToken{Token: text}
}

// cursor wraps a cursor, or returns nil where there is none.
func cursor(text string) *deputy.Cursor {
	if text == "" {
		return nil
	}
	return &deputy.Cursor{Token: text}
}

// ttl wraps a duration, or returns nil for zero: the server's default.
func ttl(d time.Duration) *durationpb.Duration {
	if d == 0 {
		return nil
	}
	return durationpb.New(d)
}
