// Package file reads and edits the file in which a server's callers stand, callers.yaml:
//
//	issuers:                                     # whose tokens prove who calls; left out: nobody's
//	  - issuer: https://login.example.com        # the tokens' iss
//	    audiences: [deputy]                      # one of which is in their aud
//	    algorithms: [RS256]
//	    types: [at+jwt]                          # their typ; left out: at+jwt
//	    jwks_url: https://login.example.com/keys # or jwks_file: PATH, from the file's own folder on; left out: asked of the issuer
//	    actors:                                  # how its tokens name agents; left out: they name none (see pkg/caller/actor)
//	      audiences: [deputy]                    # one of which is in their aud, or one of the caller's actor_audiences
//	      types: [at+jwt]                        # their typ; left out: at+jwt
//	      agent: "idp/{act.sub}"                 # how an agent's id is made of claims
//	      principal: "user:idp/{sub}"            # the same for the principal, with its type; may be left out
//	      tenant: "{org_id}"                     # the same for the tenant; may be left out
//	      max_depth: 4                           # how many actors a token may name; left out: 4
//	    leeway: 30s                              # by how much clocks may differ; left out: 30s
//	    stale: 1h                                # how long the last keys are used while the issuer gives none; left out: 1h
//	    people:                                  # how its tokens name people, by tokens of their own; left out: they do not
//	      principal: "user:idp/{sub}"            # a template of claims, which makes a user
//	      tenant: "idp/{org_id}"                 # in which alone a person can consent; left out: in any
//	      consent:                               # how people consent to delegations; left out: not by tokens
//	        audiences: [deputy]                  # as above
//	        types: [at+jwt]                      # as above
//	        scope: deputy:delegate               # what a scope begins with by which a token consents; this, details, or both
//	        details: deputy_delegation           # the type of authorization_details by which a token consents
//	        clients: [consent-app]               # the clients that people consent with; left out: any
//	agents:                                      # those that act with a token of theirs only; left out: none has to
//	  - id: triage-bot                           # or prefix: idp/
//	    actor_token: required
//	callers:
//	  - name: billing                            # letters, digits, ".", "_" and "-"; unique; not "service" and not "admin"
//	    roles: [checker]                         # one or more
//	    tenants: [acme]                          # a list, or the word all; never left out
//	    agents: [triage-bot]                     # a list, or all; left out: all
//	    principals: [user]                       # the types of the principals that agents act for; as agents
//	    objects: [ticket, document]              # types of objects; as agents
//	    id_prefixes: [acme-]                     # how the ids of objects begin; as agents
//	    authzed_api: [CheckPermission]           # methods of authzed.api.v1; a list, or all; left out: none
//	    vouch: false                             # whether it creates delegations in a person's name on its word alone; left out: false
//	    actor_token: required                    # whether it names agents only with their tokens; left out: it may name them without
//	    actor_audiences: [gateway]               # names of its own, in the aud of tokens that were made for it; left out: none
//	    signals:                                 # with the role transmitter, which security events it may send; left out: none
//	      issuer: https://login.example.com      # whose they are: one of the issuers above
//	      audiences: [deputy-signals]            # one of which is in their aud
//	      subjects: {user: "user:{id}"}          # what the members of a subject name
//	      kinds: [account-disabled]              # those that take effect at once; left out: all
//	      max_subjects: 100                      # how much one about a whole tenant may stop; left out: 100
//	    credentials:                             # each proves by itself that a call is this caller's
//	      - id: key-1                            # unique in the caller
//	        key: sha256:8c7dd922ad47494f…        # the SHA-256 digest of a preshared key, in 64 hex digits
//	        created: 2026-11-28T15:00:00Z        # RFC 3339; may be left out
//	        expires: 2027-11-28T15:00:00Z        # RFC 3339; left out: never
//	      - id: certificate
//	        spiffe: spiffe://example.org/billing # or dns: billing.internal, of a client certificate
//	      - id: token
//	        issuer: https://login.example.com    # one of the issuers above
//	        subject: billing-service             # the tokens' sub; or people: all, with the role self, for all people of the issuer
//
// Ids of tenants and agents, and the beginnings of ids, are as people write them, and not as they are stored. callers.schema.json says the
// same to editors. The file holds no secret, but anyone who can write it can let anybody in.
//
// Reading is strict: a name that is misspelt, left out or there twice is an error that names file and line, because it might be what was to
// restrict somebody. Lists are not empty, with two exceptions, which only take away: a file without callers, and a caller without
// credentials.
package file
