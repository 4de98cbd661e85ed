// Package jsonrpc reads and writes the JSON-RPC messages that the guard relays.
//
// A guard that reads a message differently from the server behind it guards nothing: Go's encoding/json takes "Name" for "name", most parsers let
// the last of two equal names win, and JavaScript rounds whole numbers beyond 2^53. So Parse refuses whatever parsers are known to read in
// different ways, and what the guard sends on is Append of the values that it judged, never the bytes that came.
//
// The grammar is checked by jsontext, the parser that becomes Go's own. What is added here are the rules above, the bounds, and the envelope.
package jsonrpc
