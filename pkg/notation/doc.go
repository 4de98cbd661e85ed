// Package notation reads and writes relationships as text, in SpiceDB's notation:
//
//	document:plan#viewer@user:alice
//	document:plan#viewer@group:staff#member[during:{"from":9}][expiration:2027-01-01T00:00:00Z]
//
// SpiceDB's own functions do two things less: they cannot read every relationship that SpiceDB stores (the name of a caveat
// may be shorter there, and hold other characters), and they round large numbers. Here, what Text writes, Parse reads as the
// same relationship. Everything is safe for concurrent use.
package notation
