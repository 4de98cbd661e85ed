// Package http is the door over HTTP. It serves deputy.v1 as Connect, gRPC-Web and JSON, its OpenAPI document, the server's health, and takes security
// events (pkg/door/signals).
//
// # One way in
//
// Framing is connect-go's. Everything that matters is not: the door decides nothing, authenticates nobody and records nothing. It hands a call to
// rpc.Carried before a byte of its body is read, and that calls the handler that gRPC's server calls, through the interceptors that gRPC's server
// has (rpc.Chain), with the message received by pkg/rpc/wire as gRPC's is: so the caller is known, admitted and judged before anything is read,
// decompressed or decoded. A call gets here what it gets over gRPC, and leaves the same record. What connect-go
// or the door refuses for its headers alone is no call, and leaves none, as with gRPC's server.
//
// Two other ways were weighed. A connection in this process to the gRPC server, as gateways have it, would decode and encode each message once more,
// and would have to vouch for who calls. Handlers registered straight at connect-go would need each interceptor a second time, written for
// connect-go, and a contributor who adds one to gRPC's would have to remember this door.
//
// # What is this door's own
//
//   - JSON is protobuf's mapping. Unlike connect-go by itself, the door refuses a field that the message's type does not have: a misspelt condition would
//     else be none.
//   - There is no GET for calls, because addresses are logged, and would hold ids. CORS is closed: a page of another origin calls only if that origin is
//     named, and never with credentials that the browser adds by itself.
//   - The bounds of HTTP: headers, their time, streams of a connection, buffers. Messages, time, streams and callers have the bounds of gRPC.
//   - /openapi.json and /healthz take no credential. The document is in the public sources, and its bytes are ready.
package http
