package file_test

import "strings"

// persons returns a file with an issuer that names people, and a caller, whose lines begin at the third.
func persons(people, caller string) string {
	return "issuers:\n  - {issuer: \"https://i.example\", audiences: [a], algorithms: [ES256], " + people + "}\n" + caller
}

// oneself returns a caller for people, of which one line is another, or more lines are added.
func oneself(line string) string {
	text := one(line)
	if !strings.HasPrefix(line, "roles") {
		text = strings.Replace(text, "roles: [checker]", "roles: [self]", 1)
	}
	if !strings.HasPrefix(line, "credentials") {
		text = strings.Replace(text, "credentials: []", `credentials: [{id: p, issuer: "https://i.example", people: all}]`, 1)
	}
	return text
}

const (
	sub     = `people: {principal: "user:{sub}"}`
	consent = `people: {principal: "user:{sub}", consent: {audiences: [c], scope: "deputy:delegate"`
	nobody  = "callers: []\n"
)

// peopleCorpus is the corpus of how people call and consent.
var peopleCorpus = []corpusCase{
	{text: persons(sub, oneself("tenants: all"))},
	{text: persons(sub, oneself("tenants: [acme]"))},
	{text: persons(sub, oneself("credentials: []"))},
	{text: persons(sub, oneself(`credentials: [{id: p, issuer: "https://i.example", subject: alice}]`))},
	{text: persons(`people: {principal: "user:i/{sub}", tenant: "i/{org_id}"}`, oneself("agents: [bot]"))},
	{text: persons(consent+"}}", nobody)},
	{text: persons(consent+", types: [consent+jwt], clients: [app], details: deputy_delegation}}", nobody)},
	{text: persons(`people: {principal: "user:{sub}", consent: {audiences: [c], details: deputy_delegation}}`, nobody)},
	{text: persons(consent+", clients: [app]}}, actors: {agent: \"{sub}\", audiences: [a]}", nobody)},
	{text: persons(consent+"}}, actors: {agent: \"{act.sub}\", audiences: [a]}", nobody)},
	{text: "issuers:\n  - {issuer: \"https://i.example\", algorithms: [ES256], " + consent + "}}}\ncallers: []\n"},

	{persons("people: {}", nobody), refused, 2, "people has no principal"},
	{persons(`people: {principal: "user:{sub}", agent: "{sub}"}`, nobody), refused, 2, `people has no "agent"`},
	{persons(`people: {principal: "service:{sub}"}`, nobody), refused, 2, "a person is a user: write user:…"},
	{persons(`people: {principal: "user:{email}"}`, nobody), refusedHere, 2, "names the claim email"},
	{persons(`people: {principal: "user:{act.sub}"}`, nobody), refusedHere, 2, "a token of a person's own has no actor"},
	{persons(`people: {principal: "user:{sub}", tenant: "{act.org}"}`, nobody), refusedHere, 2, "a token of a person's own has no actor"},
	{persons(`people: {principal: "user:{sub}", consent: {scope: s}}`, nobody), refused, 2, "consent has no audiences"},
	{persons(`people: {principal: "user:{sub}", consent: {audiences: [c]}}`, nobody), refused, 2, "scope is missing, and so is details"},
	{persons(`people: {principal: "user:{sub}", consent: {audiences: [], scope: s}}`, nobody), refused, 2, "audiences is an empty list"},
	{persons(`people: {principal: "user:{sub}", consent: {audiences: [c], scope: "a b"}}`, nobody), refused, 2, `scope is "a b"; write what a scope begins with`},
	{persons(`people: {principal: "user:{sub}", consent: {audiences: [c], scope: "a:"}}`, nobody), refused, 2, "without the colon after it"},
	{persons(consent+", types: [application/TxnToken+JWT]}}", nobody), refusedHere, 2, "is for one transaction within the issuer's domain, and nobody consents by it"},
	{persons(consent+", types: [oauth-id-jag+jwt]}}", nobody), refusedHere, 2, "is for an authorization server"},
	{persons(consent+"}}, actors: {agent: \"{sub}\", audiences: [a]}", nobody), refusedHere, 2, "an agent's own token could consent: write clients"},
	{
		"issuers:\n  - {issuer: \"https://i.example\", audiences: [a], algorithms: [ES256], " + sub + "}\n" +
			"  - {issuer: \"https://j.example\", audiences: [a], algorithms: [ES256], actors: {agent: \"{act.sub}\", audiences: [a], principal: \"user:j/{sub}\"}}\n" + nobody,
		refusedHere, 3, "could make one id",
	},

	{persons(sub, oneself("roles: [self, delegator]")), refusedHere, 5, "the role self stands alone"},
	{persons(sub, oneself("vouch: false")), refusedHere, 8, "vouch is nothing for the role self"},
	{persons(sub, oneself("authzed_api: all")), refusedHere, 8, "authzed_api is nothing for the role self"},
	{persons(sub, oneself("principals: [service]")), refusedHere, 8, "a person is a user, and no user exists for a"},
	{persons(sub, oneself("credentials: [{id: k, dns: a}]")), refusedHere, 7, "the credential k is no token's; the role self is for people"},
	{persons("types: [JWT]", oneself("tenants: all")), refusedHere, 7, "does not say which person a token is of; write people at the issuer"},
	{persons(sub, one(`credentials: [{id: p, issuer: "https://i.example", people: all}]`)), refusedHere, 7, "takes the role self; a has checker"},
	{persons(sub, oneself(`credentials: [{id: p, issuer: "https://i.example", people: some}]`)), refused, 7, `people is "some"; it can be all`},
	{persons(sub, oneself(`credentials: [{id: p, people: all}]`)), refused, 7, "exactly one of"},
	{persons(sub, oneself(`credentials: [{id: p, issuer: "https://i.example", people: all, subject: alice}]`)), refused, 7, "exactly one of"},
	{
		persons(sub, oneself("tenants: all")) + strings.Replace(strings.TrimPrefix(oneself("tenants: all"), "callers:\n"), "name: a", "name: b", 1),
		refusedHere, 11, "already proves that a call is from a",
	},
}
