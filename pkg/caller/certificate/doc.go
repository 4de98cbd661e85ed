// Package certificate knows which client certificates a server believes: by which authorities, which can be replaced while connections are
// open, and what a certificate then says of its holder.
//
// Certificates with a SPIFFE id are verified by go-spiffe (x509svid.Verify) against the bundle of the id's own trust domain, and all
// others, which are known by their DNS names, by crypto/x509 against the authorities for names. Either way a certificate has to be one for
// TLS clients.
package certificate
