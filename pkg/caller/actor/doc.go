// Package actor verifies the tokens with which agents prove that they act: JSON Web Tokens of configured issuers that name the agent, and mostly the
// principal and the tenant that it acts for (RFC 8693, section 4.1). A token proves who acts, for whom. What the agent may do is for the stored
// delegations to say, never for the token.
//
// Issuers disagree about which claim names whom, so that each has templates (see Template), which make ids of claims. No two tokens that say different
// things get one id: a template can be read back, and no two issuers have templates that could come to one id (see Conflict).
package actor
