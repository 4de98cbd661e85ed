package lint

import (
	"fmt"
	"strings"

	"github.com/deputyauth/deputy/pkg/schema"
	"github.com/deputyauth/deputy/pkg/schema/source"
)

// directive starts a comment that suppresses findings.
const directive = "lint:ignore"

// ignore is such a comment.
type ignore struct {
	position     source.Position
	rule, reason string
	used         bool
}

// suppress marks the findings that a comment above them suppresses, and adds findings about comments
// that suppress nothing, or give no reason.
func (c *checker) suppress() {
	var comments []source.Comment
	for _, f := range c.schema.Files {
		if strings.Contains(f.Text, directive) {
			comments = c.schema.Comments()
			break
		}
	}
	var all []*ignore
	at := map[source.Position]*ignore{}
	for _, comment := range comments {
		rest, ok := strings.CutPrefix(comment.Text, directive)
		if !ok {
			continue
		}
		i := &ignore{position: comment.Position}
		i.rule, i.reason, _ = strings.Cut(strings.TrimSpace(rest), " ")
		i.reason = strings.TrimSpace(i.reason)
		all = append(all, i)
		at[i.position] = i
	}
	if len(all) == 0 {
		return
	}
	for n := range c.found {
		f := &c.found[n]
		for _, about := range []schema.Name{f.about, {Type: f.about.Type}} {
			place, _ := c.place(about)
			for _, comment := range place.Comments {
				if i := at[comment.Position]; i != nil && i.rule == f.Rule && i.reason != "" {
					i.used = true
					f.Suppressed = i.reason
				}
			}
		}
	}
	for _, i := range all {
		severity := Error
		var message string
		switch {
		case severities[i.rule] == "" || i.rule == suppression:
			message = fmt.Sprintf("%s names no rule that can be suppressed: %q", directive, i.rule)
		case i.reason == "":
			message = fmt.Sprintf("%s %s gives no reason, and suppresses nothing", directive, i.rule)
		case !i.used:
			severity, message = Warning, fmt.Sprintf("%s %s suppresses nothing: there is no such finding right below", directive, i.rule)
		default:
			continue
		}
		c.found = append(c.found, finding{Finding: Finding{
			Rule: suppression, Severity: severity, Position: i.position, Message: message,
			Suggestion: fmt.Sprintf("write `// %s RULE reason` right above the definition, relation or permission, or remove it", directive),
		}})
	}
}
