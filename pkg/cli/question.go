package cli

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	deputy "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/pkg/smallfile"
)

// question holds the flags of the commands that ask for a decision: check, explain and lookup
// resources, which therefore take the same ones. None of them is in the environment, see allowEnv.
type question struct {
	// session or delegation is what the agent acts under; both empty is neither.
	session    string
	delegation string
	// onBehalfOf is the principal as "type:id", or empty where there is no choice.
	onBehalfOf string
	// tenant is the tenant's id, or empty where there is no choice.
	tenant string
	// context is caveat context: a JSON object, or "@file".
	context string
	// consistency is as parseConsistency reads it.
	consistency string
	// sessionToken is the checked_at of an earlier answer, or empty.
	sessionToken string
	// actorTokenFile is a file with the agent's own token, or empty.
	actorTokenFile string
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
	flags.StringVar(&q.actorTokenFile, "actor-token-file", "", actorTokenUsage)
}

// actorTokenUsage is the usage of --actor-token-file.
const actorTokenUsage = "file with the agent's own token (JWT), which proves that it acts, and for whom"

// readToken reads a token from the file that a flag names; none where path is empty. Of whom the token is an error says, and shows nothing of it. A
// token is never an argument, which all users of a machine can see.
func readToken(flag, of, path string) (string, error) {
	if path == "" {
		return "", nil
	}
	text, err := smallfile.Read(path, maxTokenFile)
	if err != nil {
		return "", fmt.Errorf("--%s: %w", flag, err)
	}
	token := strings.TrimSpace(string(text))
	if token == "" {
		return "", fmt.Errorf("--%s: %s is empty; write the %s's token into it", flag, path, of)
	}
	return token, nil
}

// maxTokenFile is how long the file of a token may be, in bytes: the server takes tokens of half that.
const maxTokenFile = 16 << 10

// questionUsage ends the help of the commands that ask for a decision.
const questionUsage = `

Name a --session or a --delegation. With neither, the agent's own delegations that allow acting
directly are looked up; then --on-behalf-of and --tenant are required, unless an --actor-token-file
names them.`

// request builds the request for AGENT RESOURCE PERMISSION. Its errors name the flag or argument. What
// is left out is left out of the request: which of it is required depends on the rest, and the server
// knows how.
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
	r.ActorToken, err = readToken("actor-token-file", "agent", q.actorTokenFile)
	return r, err
}
