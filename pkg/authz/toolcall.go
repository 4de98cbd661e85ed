package authz

// ToolCall is a call of a tool for which a decision is asked, as the caller tells it. Nothing here is known to be true.
type ToolCall struct {
	// Server is the tool's server, Method the method that was called, and Name the tool's; empty where the method names none.
	Server, Method, Name string
	// Arguments is a digest of the call's arguments; empty where it has none.
	Arguments []byte
}
