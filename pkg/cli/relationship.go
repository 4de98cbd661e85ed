package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	authzed "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"github.com/authzed/spicedb/pkg/tuple"
	"github.com/spf13/cobra"

	"github.com/deputyauth/deputy/pkg/authz"
	deputy "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/pkg/notation"
)

// messageSize is how many relationships travel in one message of a stream, or in one write.
const messageSize = 1000

// newRelationship builds `deputy relationship`.
func newRelationship(p *program) *cobra.Command {
	cmd := group(groupGraph, "relationship", "Write, delete, read, import and export relationships")
	c := client(p, cmd)
	cmd.AddCommand(newRelationshipWrite(c), newRelationshipDelete(c), newRelationshipRead(c), newRelationshipImport(c), newRelationshipExport(c))
	return cmd
}

// relationshipUsage says what the arguments of write and delete are.
const relationshipUsage = `

RELATIONSHIP is TYPE:ID#RELATION@TYPE:ID, SpiceDB's notation, with ids as they are stored. A shell needs it in
quotes:

  'document:plan#viewer@user:alice'
  'document:plan#viewer@group:staff#member'
  'document:plan#viewer@user:alice[office_hours:{"from": 9}][expiration:2027-01-31T18:00:00Z]'`

// newRelationshipWrite builds `deputy relationship write`.
func newRelationshipWrite(c *connection) *cobra.Command {
	var create bool
	cmd := &cobra.Command{
		Use:   "write RELATIONSHIP…",
		Short: "Write relationships in one transaction",
		Long: `Write relationships in one transaction: all of them or none. One that exists already is replaced, caveat and
expiration included; with --create it fails the write. Types of Deputy's own take the role admin, and grants
to agents the role organizer.` + relationshipUsage,
		Example: `  deputy relationship write 'folder:q3#viewer@user:alice' 'folder:q3#tenant@tenant:acme'`,
		Args:    cobra.RangeArgs(1, messageSize),
	}
	cmd.Flags().BoolVar(&create, "create", false, "fail if one of them exists already")
	cmd.RunE = c.run(func(ctx context.Context, s *server, args []string) error {
		relationships, err := parseRelationships(args)
		if err != nil {
			return err
		}
		operation := authzed.RelationshipUpdate_OPERATION_TOUCH
		if create {
			operation = authzed.RelationshipUpdate_OPERATION_CREATE
		}
		answer, err := s.relationships.WriteRelationships(ctx, &authzed.WriteRelationshipsRequest{
			Updates: updatesOf(operation, relationshipsOf(relationships)),
		})
		if err != nil && slices.ContainsFunc(relationships, marksAgent) {
			return fmt.Errorf("%w; to make an agent active, run deputy agent register", err)
		}
		if err != nil {
			return err
		}
		return c.printDone(answer, "Written: "+plural(len(relationships), "relationship"))
	})
	return cmd
}

// newRelationshipDelete builds `deputy relationship delete`.
func newRelationshipDelete(c *connection) *cobra.Command {
	var ignoreMissing bool
	cmd := &cobra.Command{
		Use:   "delete RELATIONSHIP…",
		Short: "Delete relationships in one transaction",
		Long: `Delete relationships in one transaction: all of them or none. If one does not exist, nothing is deleted, unless
--ignore-missing is set. A caveat and an expiration may be left out: they do not tell relationships apart.` + relationshipUsage,
		Example: `  deputy relationship delete 'folder:q3#viewer@user:alice'`,
		Args:    cobra.RangeArgs(1, messageSize),
	}
	cmd.Flags().BoolVar(&ignoreMissing, "ignore-missing", false, "delete those that exist, and do not fail over the others")
	cmd.RunE = c.run(func(ctx context.Context, s *server, args []string) error {
		relationships, err := parseRelationships(args)
		if err != nil {
			return err
		}
		there, err := stored(ctx, s.relationships, relationships)
		if err != nil {
			return err
		}
		var missing []string
		// What was there a moment ago has to be there still: a delete says what it did.
		request := &authzed.WriteRelationshipsRequest{Updates: updatesOf(authzed.RelationshipUpdate_OPERATION_DELETE, relationshipsOf(relationships))}
		for i, r := range relationships {
			if there[i] == nil {
				missing = append(missing, plainText(r.Relationship))
			} else if !ignoreMissing {
				request.OptionalPreconditions = append(request.OptionalPreconditions,
					&authzed.Precondition{Operation: authzed.Precondition_OPERATION_MUST_MATCH, Filter: filterOf(r.Relationship)})
			}
		}
		if len(missing) > 0 && !ignoreMissing {
			return fmt.Errorf("%s: there is no such relationship; nothing was deleted (--ignore-missing deletes the others)",
				notation.Shorten(strings.Join(missing, ", ")))
		}
		answer, err := s.relationships.WriteRelationships(ctx, request)
		if err != nil {
			return err
		}
		sentence := "Deleted: " + plural(len(relationships)-len(missing), "relationship")
		if len(missing) > 0 {
			sentence += "; there is no " + strings.Join(missing, ", ")
		}
		return c.printDone(answer, sentence)
	})
	return cmd
}

// newRelationshipRead builds `deputy relationship read`.
func newRelationshipRead(c *connection) *cobra.Command {
	var page paging
	cmd := &cobra.Command{
		Use:   "read PATTERN",
		Short: "Print the relationships that match",
		Long: `Print the relationships that match PATTERN, one a line, as write and import read them. PATTERN is a relationship of
which parts are left out:

  document                           of all objects of a type
  document:plan                      of one object
  document:plan#viewer               of one relation
  document#viewer@user               of one relation, to subjects of a type
  @user:alice                        to one subject
  @group:staff#member                to one set of subjects

With -o json each line is one message of the stream. Expired relationships are not printed.`,
		Example: `  deputy relationship read document:plan`,
		Args:    cobra.ExactArgs(1),
	}
	page.register(cmd.Flags())
	cmd.RunE = c.runLong(func(ctx context.Context, s *server, args []string) error {
		filter, err := parsePattern(args[0])
		if err != nil {
			return err
		}
		next, err := readMatching(ctx, s.relationships, filter, page.limit, page.from, func(answer *authzed.ReadRelationshipsResponse) error {
			if c.output == "json" {
				return writeJSON(c.program.Out, answer, "")
			}
			text, err := notation.Text(tuple.FromV1Relationship(answer.GetRelationship()))
			if err == nil {
				_, err = io.WriteString(c.program.Out, text+"\n")
			}
			return err
		})
		if err == nil && c.output != "json" {
			more(c.program.Err, next == "", &deputy.Cursor{Token: next})
		}
		return err
	})
	return cmd
}

// readMatching gives all relationships that match to emit, page by page, or the first ones up to a limit that is not 0. It
// returns the cursor of the last one if there are more.
func readMatching(ctx context.Context, client authzed.PermissionsServiceClient, filter *authzed.RelationshipFilter, limit uint32, from string,
	emit func(*authzed.ReadRelationshipsResponse) error,
) (next string, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for count := uint32(0); ; {
		request := &authzed.ReadRelationshipsRequest{
			Consistency:        &authzed.Consistency{Requirement: &authzed.Consistency_FullyConsistent{FullyConsistent: true}},
			RelationshipFilter: filter, OptionalLimit: messageSize,
		}
		if from != "" {
			request.OptionalCursor = &authzed.Cursor{Token: from}
		}
		stream, err := client.ReadRelationships(ctx, request)
		if err != nil {
			return "", err
		}
		n := 0
		for ; ; n++ {
			answer, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return "", err
			}
			if limit != 0 && count == limit {
				return from, nil // there is one more
			}
			if err := emit(answer); err != nil {
				return "", err
			}
			count++
			from = answer.GetAfterResultCursor().GetToken()
		}
		if n < messageSize {
			return "", nil
		}
	}
}

// parsePattern reads a relationship of which parts are left out, as a filter.
func parsePattern(text string) (*authzed.RelationshipFilter, error) {
	fail := func() error {
		return fmt.Errorf("PATTERN must be a relationship of which parts are left out, such as document:plan#viewer or @user:alice, not %q", text)
	}
	resource, subject, hasSubject := strings.Cut(text, "@")
	objectType, id, relation := parts(resource)
	f := &authzed.RelationshipFilter{ResourceType: objectType, OptionalResourceId: id, OptionalRelation: relation}
	if resource != "" && objectType == "" || id == "*" {
		return nil, fail()
	}
	if !hasSubject {
		if resource == "" {
			return nil, fail()
		}
		return f, nil
	}
	subjectType, subjectID, subjectRelation := parts(subject)
	if subjectType == "" {
		return nil, fail()
	}
	f.OptionalSubjectFilter = &authzed.SubjectFilter{SubjectType: subjectType, OptionalSubjectId: subjectID}
	if subjectRelation == tuple.Ellipsis {
		subjectRelation = ""
	}
	if strings.Contains(subject, "#") {
		f.OptionalSubjectFilter.OptionalRelation = &authzed.SubjectFilter_RelationFilter{Relation: subjectRelation}
	}
	return f, nil
}

// marksAgent reports whether a relationship is the mark of a registered agent.
func marksAgent(r *textRelationship) bool {
	return r.Resource.ObjectType == authz.TypeAgent && r.Resource.Relation == "active"
}

// parts takes "type:id#relation" apart, of which the last two may be left out.
func parts(text string) (objectType, id, relation string) {
	text, relation, _ = strings.Cut(text, "#")
	objectType, id, _ = strings.Cut(text, ":")
	return objectType, id, relation
}

// parseRelationships reads arguments, each one relationship, none twice.
func parseRelationships(args []string) ([]*textRelationship, error) {
	relationships := make([]*textRelationship, len(args))
	seen := map[tuple.RelationshipReference]bool{}
	for i, text := range args {
		r, err := notation.Parse(text)
		if err != nil {
			return nil, fmt.Errorf("RELATIONSHIP %q: character %d: %w", notation.Shorten(text), notation.ColumnOf(err), err)
		}
		if seen[r.RelationshipReference] {
			return nil, fmt.Errorf("RELATIONSHIP %s is there twice", plainText(r))
		}
		seen[r.RelationshipReference] = true
		relationships[i] = &textRelationship{Relationship: r, text: text}
	}
	return relationships, nil
}

// plainText is what tells a relationship apart: its text without caveat and expiration.
func plainText(r tuple.Relationship) string { return tuple.StringWithoutCaveatOrExpiration(r) }

// relationshipsOf returns relationships as SpiceDB's API has them.
func relationshipsOf(batch []*textRelationship) []*authzed.Relationship {
	out := make([]*authzed.Relationship, len(batch))
	for i, r := range batch {
		out[i] = tuple.ToV1Relationship(r.Relationship)
	}
	return out
}

// updatesOf does the same with each relationship.
func updatesOf(operation authzed.RelationshipUpdate_Operation, relationships []*authzed.Relationship) []*authzed.RelationshipUpdate {
	updates := make([]*authzed.RelationshipUpdate, len(relationships))
	for i, r := range relationships {
		updates[i] = &authzed.RelationshipUpdate{Operation: operation, Relationship: r}
	}
	return updates
}

// filterOf is the filter that matches one relationship, whatever its caveat and expiration are.
func filterOf(r tuple.Relationship) *authzed.RelationshipFilter {
	relation := r.Subject.Relation
	if relation == tuple.Ellipsis {
		relation = ""
	}
	return &authzed.RelationshipFilter{
		ResourceType: r.Resource.ObjectType, OptionalResourceId: r.Resource.ObjectID, OptionalRelation: r.Resource.Relation,
		OptionalSubjectFilter: &authzed.SubjectFilter{
			SubjectType: r.Subject.ObjectType, OptionalSubjectId: r.Subject.ObjectID,
			OptionalRelation: &authzed.SubjectFilter_RelationFilter{Relation: relation},
		},
	}
}

// plural counts things: "1 relationship", "2 relationships".
func plural[N int | uint64](n N, thing string) string {
	if n != 1 {
		thing += "s"
	}
	return fmt.Sprintf("%d %s", n, thing)
}

// summarize writes the last line of an import or an export: with text behind it for people, or with more fields for programs.
func (c *connection) summarize(w io.Writer, verb string, count uint64, took time.Duration, text string, more map[string]any) error {
	text = verb + " " + rate(count, took) + text
	if c.output == "json" {
		fields := map[string]any{"relationships": count, "seconds": took.Seconds()}
		maps.Copy(fields, more)
		line, err := json.Marshal(fields)
		if err != nil {
			return fmt.Errorf("encoding the answer: %w", err)
		}
		text = string(line)
	}
	if _, err := fmt.Fprintln(w, text); err != nil {
		return fmt.Errorf("writing: %w", err)
	}
	return nil
}
