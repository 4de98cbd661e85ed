// Package mcp tests the guard with real clients and servers of MCP, over a Deputy in this process.
package mcp
