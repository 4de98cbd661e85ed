// Package mapping says which objects a call of an MCP server is about.
//
// A file of mappings names, for each tool, prompt and resource, the permissions that a call takes, and where in its arguments the ids of the
// objects stand. It is closed: a tool that it does not name is not there, an argument that it neither uses nor ignores refuses the call, and
// so does a value that is missing or of another kind. What it makes of a call are questions (Ask), which Deputy answers elsewhere.
//
// Nothing in here asks or does anything. Only paths are looked up, on a file system that the file says is shared with the server.
package mapping
