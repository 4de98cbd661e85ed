// Package mcp is the guard in front of an MCP server: it relays the messages of an agent and of the server behind it, and has every call that
// is about objects decided first.
//
//	table.go     every method of both wires, and what becomes of it: a method that is not in it is refused
//	guard.go     one agent, one server: what comes from each side, and the requests in flight
//	requests.go  what the agent asks, and what becomes of the server's answers
//	lists.go     lists, which show what may be called
//	known.go     lists that the server gave before, and that need not be read again
//	server.go    what the server asks and tells
//	pins.go      the tools that were approved
//	lines.go     messages as lines, bounded
//	process.go   a server that is a process of its own
//
// Messages are read and written by jsonrpc. What a call is about is mapping's. Who the agent is, for whom it acts and what it may do is
// answered through Asker, of which the guard knows no more.
package mcp
