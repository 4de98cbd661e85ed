package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/rs/cors"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/door/mcp"
	"github.com/deputyauth/deputy/pkg/door/mcp/jsonrpc"
	"github.com/deputyauth/deputy/pkg/door/mcp/mapping"
)

// Caller is who acts, as a verified token says.
type Caller struct {
	// Issuer is whose token it is, Agent the agent that acts, Principal for whom ("user:alice"), and Tenant where. The last two can be empty.
	Issuer, Agent, Principal, Tenant string
	// Scopes are the token's.
	Scopes []string
	// Ends is when the token ends.
	Ends time.Time
	// Token is the token itself. It is shown to Deputy, and to nobody else.
	Token string
}

// person is an agent that acts for a person: nothing of one person's, such as a session, is another one's.
type person struct{ issuer, agent, principal, tenant string }

func (c Caller) person() person { return person{c.Issuer, c.Agent, c.Principal, c.Tenant} }

// String returns a text that no other person has.
func (p person) String() string {
	return fmt.Sprintf("%q %q %q %q", p.issuer, p.agent, p.principal, p.tenant)
}

// exchange is a request that is being answered. It is in the context of all that is done for it.
type exchange struct {
	caller Caller
	// reply is its answer; nil where it is answered with a status alone.
	reply *reply
	// use is what it counts as.
	use *use
}

type exchangeKey struct{}

func (e *exchange) in(ctx context.Context) context.Context {
	return context.WithValue(ctx, exchangeKey{}, e)
}

func exchangeOf(ctx context.Context) (*exchange, bool) {
	e, ok := ctx.Value(exchangeKey{}).(*exchange)
	return e, ok
}

// askFor decides for the sender of the request in whose course a question comes up.
type askFor func(Caller) mcp.Asker

// of returns the Asker of the request that a context is of.
func (f askFor) of(ctx context.Context) (mcp.Asker, error) {
	e, ok := exchangeOf(ctx)
	if !ok {
		return nil, errors.New("the caller of this request is not known, so that nothing can be decided for it")
	}
	return f(e.caller), nil
}

// Ask implements mcp.Asker.
func (f askFor) Ask(ctx context.Context, call mcp.Call, asks []mapping.Ask) ([]mcp.Answer, error) {
	asker, err := f.of(ctx)
	if err != nil {
		return nil, err
	}
	return asker.Ask(ctx, call, asks)
}

// Refused implements mcp.Asker.
func (f askFor) Refused(ctx context.Context, call mcp.Call, why mcp.Refusal) error {
	asker, err := f.of(ctx)
	if err != nil {
		return err
	}
	return asker.Refused(ctx, call, why)
}

// agent is the end of a guard at which the agent is.
type agent struct {
	// asks says whether the server can ask the agent for something.
	asks bool
}

// Send is mcp.End's.
func (a agent) Send(ctx context.Context, m *jsonrpc.Message) error {
	e, ok := exchangeOf(ctx)
	if !ok || e.reply == nil || m.IsRequest() && !a.asks {
		return mcp.ErrNobody
	}
	return e.reply.send(m)
}

// Dropped is mcp.Dropper's.
func (a agent) Dropped(ctx context.Context) {
	if e, ok := exchangeOf(ctx); ok && e.reply != nil {
		e.reply.drop()
	}
}

// fromHere refuses requests that a web page had a browser send without being allowed to, also where the page's own name leads here (DNS rebinding).
func (p *Proxy) fromHere(r *http.Request) error {
	if !p.hosts[strings.ToLower(r.Host)] {
		return bad(http.StatusForbidden, "The Host of the request is not %s.", p.cfg.Resource.Host)
	}
	for _, origin := range r.Header.Values("Origin") {
		if !p.origins[origin] {
			return bad(http.StatusForbidden, "The Origin of the request may not send any. Allow it with --allow-origin.")
		}
	}
	return nil
}

// pagesOf says what a browser is told about pages of some origins. Credentials that the browser adds by itself are never among it.
func pagesOf(origins []string) cors.Options {
	return cors.Options{
		AllowedOrigins: origins,
		AllowedMethods: []string{http.MethodPost, http.MethodGet, http.MethodDelete},
		AllowedHeaders: []string{"*"}, // a tool can have arguments that headers mirror, of any name
		ExposedHeaders: []string{sessionHeader, "Retry-After", "WWW-Authenticate"},
		MaxAge:         7200,
	}
}

// wellKnown is where a resource says whose tokens it takes (RFC 9728, section 3).
const wellKnown = "/.well-known/oauth-protected-resource"

// isMetadata reports whether the metadata are at a path: the one that belongs to the resource's, and the one without it, which some agents ask.
func (p *Proxy) isMetadata(path string) bool {
	return path == wellKnown || path == wellKnown+strings.TrimSuffix(p.cfg.Resource.Path, "/")
}

// metadata answers where agents get tokens for the resource.
func (p *Proxy) metadata(w http.ResponseWriter, r *http.Request) error {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		return bad(http.StatusMethodNotAllowed, "The metadata are read with GET.")
	}
	about := map[string]any{
		"resource": p.cfg.Resource.String(), "authorization_servers": p.cfg.AuthorizationServers, "bearer_methods_supported": []string{"header"},
	}
	if len(p.cfg.Scopes) > 0 {
		about["scopes_supported"] = p.cfg.Scopes
	}
	text, err := json.Marshal(about)
	if err != nil {
		return err
	}
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(writeTime))
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(text) // a client that is gone does not read it
	return nil
}

// CheckScope refuses what is no scope (RFC 6749, section 3.3).
func CheckScope(scope string) error {
	if scope == "" || strings.ContainsFunc(scope, func(r rune) bool { return r <= ' ' || r > '~' || r == '"' || r == '\\' }) {
		return fmt.Errorf("%q is no scope: write one of ASCII characters, without blanks, quotation marks and backslashes, such as mcp:tools", scope)
	}
	return nil
}

// lacks reports whether a token lacks one of the scopes that it has to have.
func (p *Proxy) lacks(scopes []string) bool {
	return slices.ContainsFunc(p.cfg.Scopes, func(needed string) bool { return !slices.Contains(scopes, needed) })
}

// caller returns who sends a request. An agent without a token that proves it is told where it gets one, and with which scopes.
func (p *Proxy) caller(w http.ResponseWriter, r *http.Request) (Caller, error) {
	of := p.cfg.Resource
	where := `Bearer resource_metadata="` + of.Scheme + "://" + of.Host + wellKnown + strings.TrimSuffix(of.EscapedPath(), "/") + `"`
	if len(p.cfg.Scopes) > 0 {
		where += `, scope="` + strings.Join(p.cfg.Scopes, " ") + `"`
	}
	values := r.Header.Values("Authorization")
	scheme, raw := "", ""
	if len(values) == 1 {
		scheme, raw, _ = strings.Cut(values[0], " ")
	}
	if !strings.EqualFold(scheme, "Bearer") || raw == "" {
		w.Header().Set("WWW-Authenticate", where)
		return Caller{}, bad(http.StatusUnauthorized, "A request needs one header Authorization: Bearer, with a token for %s.", p.cfg.Resource)
	}
	caller, err := p.cfg.Verify(r.Context(), raw)
	e, ok := errors.AsType[*authz.Error](err)
	switch {
	case err == nil && time.Now().Before(caller.Ends) && p.lacks(caller.Scopes):
		w.Header().Set("WWW-Authenticate", where+`, error="insufficient_scope", error_description="the token lacks a scope"`)
		p.log(caller).Info("refused a token that lacks a scope")
		return Caller{}, bad(http.StatusForbidden, "The token lacks a scope. It needs %s.", strings.Join(p.cfg.Scopes, " "))
	case err == nil && time.Now().Before(caller.Ends):
		caller.Token = raw
		return caller, nil
	case ok && (e.Kind == authz.Unavailable || e.Kind == authz.Exhausted):
		return Caller{}, &wrong{status: http.StatusServiceUnavailable, code: jsonrpc.CodeInternal, says: "The token cannot be verified now: " + e.Message + "."}
	case err == nil || ok && (e.Kind == authz.Denied || e.Kind == authz.Unauthenticated):
		why := "has ended"
		if err != nil {
			why = e.Message
		}
		w.Header().Set("WWW-Authenticate", where+`, error="invalid_token", error_description="the token is not accepted"`)
		return Caller{}, bad(http.StatusUnauthorized, "The token is not accepted: it %s.", strings.TrimSuffix(why, "."))
	default:
		return Caller{}, err
	}
}
