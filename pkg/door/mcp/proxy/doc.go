// Package proxy is the guard in front of an MCP server over Streamable HTTP, as an OAuth 2.1 resource server.
//
//	proxy.go     what is served, and the order in which a request is judged
//	access.go    who calls: bearer tokens, and where agents learn whom to ask for one (RFC 9728)
//	headers.go   what headers have to say, and that they agree with the body
//	bounds.go    how much one person, and all of them, may have at once
//	reply.go     the answer to one request, as JSON or as a stream
//	session.go   the wire 2025-11-25, with sessions
//	stateless.go the wire 2026-07-28, without
//	upstream.go  the server, and what is believed of it
//	tools.go     the server's tools, to approve them
//
// What becomes of a message is the guard's (package mcp) to say: it stands between two of its ends in here. A request's way back is in its context
// (see exchange). No header passes through in either direction, and no token: each side gets headers that are made for it. Whose a token is,
// and what the agent may do, is answered by functions that the proxy is given.
package proxy
