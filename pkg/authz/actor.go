package authz

import "crypto/sha256"

// ActorToken is what is kept of the verified token of an agent: evidence of who acted, which gives no rights.
type ActorToken struct {
	// Issuer is the token's "iss".
	Issuer string
	// Digest is of the token.
	Digest [sha256.Size]byte
	// ID and Transaction are its "jti" and "txn", empty where it has none.
	ID, Transaction string
	// Prior are the actors before the one that acts, the last one first.
	Prior []PriorActor
}

// PriorActor is an actor in whose name another one acts, as the token names it. Its issuer is empty where the token does not say it.
type PriorActor struct{ Issuer, Subject string }
