// Package person knows people by tokens of their own: which person a token is of, and what the person consents to by it.
//
// A token of a person's own has no actor ("act"): one in which somebody acts for the person is that somebody's. Nor is it one that an issuer
// made for a client itself. Whether it is otherwise valid is verified by pkg/caller/token, and which person it is of says a template of
// pkg/caller/actor.
//
// A token consents to a delegation if it is made for this server as audience, and says, in one of two forms, which agent may act in which
// tenant, and how far:
//
//	authorization_details (RFC 9396): [{"type": "deputy_delegation", "agent": "triage-bot", "tenant": "acme",
//	                                    "scope": ["document:plan#reader"], "unscoped": false, "allow_direct": true, "ttl": 3600}]
//	scope: deputy:delegate:triage-bot:acme:on=document%3Aplan%23reader:direct:ttl=3600
//
// It is read strictly: a member that is not known could be what restricts it.
package person
