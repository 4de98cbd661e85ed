// Package token verifies the tokens with which callers prove who they are: JSON Web Tokens (RFC 7519) of configured issuers, signed with keys
// that the issuers publish (RFC 7517). It follows RFC 8725 (best current practices) and RFC 9068 (access tokens).
//
// Nothing of a token is believed before its signature has been verified: until then only its header and its "iss" are read, to find the
// issuer and the key.
package token
