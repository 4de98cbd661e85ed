package file_test

import (
	"strings"
	"testing"

	"github.com/deputyauth/deputy/pkg/caller/file"
)

// acting is a file with actors, agents and callers as given.
func acting(issuers, rest string) string { return "issuers:\n" + issuers + rest + "callers: []\n" }

// idp is an issuer with actors.
func idp(name, actors string) string {
	return "  - {issuer: \"https://" + name + ".example\", algorithms: [ES256], actors: {" + actors + "}}\n"
}

// callerWith is a caller with more fields.
func callerWith(more string) string {
	return "callers: [{name: a, roles: [checker], tenants: all, credentials: [], " + more + "}]\n"
}

// actorsCorpus are the cases of the corpus that are about agents' tokens.
var actorsCorpus = []corpusCase{
	{acting(idp("i", `audiences: [d], agent: "{act.sub}"`), ""), accepted, 0, ""},
	{acting(idp("i", `audiences: [d], agent: "i/{act.sub}", principal: "user:i/{sub}", tenant: "{org_id}", types: [at+jwt], max_depth: 8`), ""), accepted, 0, ""},
	{acting(idp("i", `audiences: [d], agent: "i/{act.sub}", tenant: acme`)+idp("j", `audiences: [d], agent: "j/{sub}", tenant: "z/{tid}"`), ""), accepted, 0, ""},
	{"issuers:\n" + idp("i", `agent: "{act.sub}"`) + callerWith(`actor_audiences: [gateway]`), accepted, 0, ""},
	{"issuers:\n" + idp("i", `audiences: [d], agent: "{act.sub}"`) + callerWith(`actor_token: required`), accepted, 0, ""},
	{acting(idp("i", `audiences: [d], agent: "{sub}"`), "agents: [{id: bot, actor_token: required}, {prefix: i/, actor_token: required}]\n"), accepted, 0, ""},

	{acting(idp("i", `audiences: [d]`), ""), refused, 2, "actors has no agent, which is required"},
	{acting(idp("i", `agent: "{act.sub}"`), ""), refusedHere, 2, "no agent's token would be accepted"},
	{acting(idp("i", `audiences: [d], agent: bot`), ""), refusedHere, 2, "names no claim, so that all tokens of the issuer would be one agent's"},
	{acting(idp("i", `audiences: [d], agent: "{act.email}"`), ""), refusedHere, 2, "which people can change or pass on"},
	{acting(idp("i", `audiences: [d], agent: "{act.sub}", principal: "user:{preferred_username}"`), ""), refusedHere, 2, "which people can change or pass on"},
	{acting(idp("i", `audiences: [d], agent: "{act.act.sub}"`), ""), refusedHere, 2, "which is of an earlier actor"},
	{acting(idp("i", `audiences: [d], agent: "{may_act}"`), ""), refusedHere, 2, "says who may become the actor"},
	{acting(idp("i", `audiences: [d], agent: "{azp}{sub}"`), ""), refusedHere, 2, "nothing separates {azp} from {sub}"},
	{acting(idp("i", `audiences: [d], agent: "{azp}4{sub}"`), ""), refusedHere, 2, "nothing separates {azp} from {sub}"},
	{acting(idp("i", `audiences: [d], agent: "{azp"`), ""), refusedHere, 2, "a { is not closed"},
	{acting(idp("i", `audiences: [d], agent: "agent:{azp}"`), ""), refusedHere, 2, "write it without the type: {azp}"},
	{acting(idp("i", `audiences: [d], agent: "{azp}", principal: "{sub}"`), ""), refused, 2, "does not begin with the type of the principal"},
	{acting(idp("i", `audiences: [d], agent: "{azp}", max_depth: 9`), ""), refused, 2, "max_depth is 9; it can be 1 to 8"},
	{acting(idp("i", `audiences: [d], agent: "{azp}", types: [secevent+jwt]`), ""), refusedHere, 2, "does not prove that an agent acts"},
	{
		acting(idp("i", `audiences: [d], agent: "{azp}"`)+idp("j", `audiences: [d], agent: "j/{sub}"`), ""), refusedHere, 3,
		`the issuers https://i.example and https://j.example could make one id: the agent of the one is "{azp}", and of the other "j/{sub}"`,
	},
	{
		acting(idp("i", `audiences: [d], agent: "i/{azp}", tenant: "acme"`)+idp("j", `audiences: [d], agent: "j/{sub}", tenant: "acme"`), ""), refusedHere, 3,
		"could make one id: the tenant",
	},
	{callerWith(`actor_token: required`), refusedHere, 1, "no issuer has actors"},
	{callerWith(`actor_audiences: [gateway]`), refusedHere, 1, "no issuer has actors"},
	{"issuers:\n" + idp("i", `audiences: [d], agent: "{azp}"`) + callerWith(`actor_token: optional`), refused, 3, `actor_token is "optional"; it can be required`},
	{"agents: [{id: bot, actor_token: required}]\ncallers: []\n", refusedHere, 1, "no issuer has actors"},
	{acting(idp("i", `audiences: [d], agent: "{azp}"`), "agents: [{actor_token: required}]\n"), refused, 3, "write one of id and prefix"},
	{acting(idp("i", `audiences: [d], agent: "{azp}"`), "agents: [{id: bot}]\n"), refused, 3, "has no actor_token, which is required"},
	{
		"issuers:\n" + idp("i", `audiences: [d], agent: "{azp}"`) +
			"callers: [{name: a, roles: [checker], tenants: all, credentials: [{id: k, issuer: \"https://i.example\", subject: s}]}]\n",
		refusedHere, 3, "has no audiences, so that no token of it proves who calls",
	},
}

// TestActors: what a file says of agents and their tokens is what it is read as.
func TestActors(t *testing.T) {
	t.Parallel()
	content, err := file.Decode("callers.yaml", []byte("issuers:\n"+
		idp("i", `audiences: [d], agent: "i/{act.sub}", principal: "user:i/{sub}", max_depth: 2`)+
		"agents: [{id: \"bot@x\", actor_token: required}, {prefix: i/, actor_token: required}]\n"+
		callerWith(`actor_token: required, actor_audiences: [gateway]`)))
	if err != nil {
		t.Fatal(err)
	}
	if len(content.Actors) != 1 {
		t.Fatalf("there are %d issuers of actors; want 1", len(content.Actors))
	}
	i := content.Actors[0]
	if i.Issuer != "https://i.example" || strings.Join(i.Audiences, " ") != "d" || i.Agent.String() != "i/{act.sub}" ||
		i.Principal.String() != "user:i/{sub}" || !i.Tenant.IsZero() || i.MaxDepth != 2 {
		t.Errorf("the issuer is read as %+v", i)
	}
	if !content.Agents.Has("=bot=40x") || content.Agents.Has("bot") || !content.Prefixes.Match("i/bot") || content.Prefixes.Match("bot") {
		t.Errorf("the agents that act with a token are read as %v and %v", content.Agents.List(), content.Prefixes.List())
	}
	if c := content.Callers[0].ActorToken; !c.Required || strings.Join(c.Audiences, " ") != "gateway" {
		t.Errorf("the caller is read as %+v", c)
	}
}
