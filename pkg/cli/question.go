package cli

import (
	"errors"

	"github.com/spf13/cobra"

	deputy "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// question holds the flags of the commands that ask for a decision.
type question struct {
	session      string
	delegation   string
	onBehalfOf   string
	tenant       string
	context      string
	consistency  string
	sessionToken string
}

// register adds the flags.
func (q *question) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&q.session, "session", "", "the session that the agent acts in")
	flags.StringVar(&q.delegation, "delegation", "", "the delegation that the agent acts under, created with --allow-direct")
	flags.StringVar(&q.onBehalfOf, "on-behalf-of", "", "the principal, such as user:alice or service:nightly")
	flags.StringVar(&q.tenant, "tenant", "", "the tenant")
	flags.StringVar(&q.context, "context", "", "caveat context: a JSON object, or @FILE with one")
	flags.StringVar(&q.consistency, "consistency", "", consistencies)
	flags.StringVar(&q.sessionToken, "session-token", "", "the token of an earlier answer: nothing older is asked")
}

// questionUsage ends the help of the commands that ask for a decision.
const questionUsage = `

Name a --session or a --delegation. With neither, the agent's own delegations that allow acting
directly are looked up; then --on-behalf-of and --tenant are required.`

// request builds the request for AGENT RESOURCE PERMISSION.
func (q *question) request(args []string) (*deputy.CheckPermissionRequest, error) {
	resource, err := parseObject("RESOURCE", args[1])
	if err != nil {
		return nil, err
	}
	r := &deputy.CheckPermissionRequest{
		AgentId:      bareID("agent", args[0]),
		TenantId:     bareID("tenant", q.tenant),
		Resource:     resource,
		Permission:   args[2],
		SessionToken: token(q.sessionToken),
	}
	switch {
	case q.session != "" && q.delegation != "":
		return nil, errors.New("--session and --delegation exclude each other")
	case q.session != "":
		r.Via = &deputy.CheckPermissionRequest_SessionId{SessionId: bareID("session", q.session)}
	case q.delegation != "":
		r.Via = &deputy.CheckPermissionRequest_DelegationId{DelegationId: bareID("delegation", q.delegation)}
	}
	if q.onBehalfOf != "" {
		if r.OnBehalfOf, err = parseObject("--on-behalf-of", q.onBehalfOf); err != nil {
			return nil, err
		}
	}
	if r.Context, err = parseContext(q.context); err != nil {
		return nil, err
	}
	if r.Consistency, err = parseConsistency(q.consistency); err != nil {
		return nil, err
	}
	return r, nil
}
