package mcp

import (
	"fmt"
	"strings"
)

// Side is who sends a message.
type Side uint8

// The two sides.
const (
	Client Side = iota + 1
	Server
)

// String returns "agent" or "server".
func (s Side) String() string {
	if s == Client {
		return "agent"
	}
	return "server"
}

// Treatment is what the guard does with a message. The zero Treatment refuses.
type Treatment uint8

// The treatments.
const (
	// Refuses: the message goes no further.
	Refuses Treatment = iota
	// Passes: the message is sent on, within the bounds of its row.
	Passes
	// Decides: the message is sent on where Deputy allows what it is about.
	Decides
	// Filters: of the answer only what Deputy allows is sent on.
	Filters
)

// String returns "refuses".
func (t Treatment) String() string {
	return [...]string{"refuses", "passes", "decides", "filters"}[t]
}

// Method is a row of the table.
type Method struct {
	// Name is the method, and From who sends it.
	Name string
	From Side
	// Notification says that no answer is expected.
	Notification bool
	// Old and New say in which of the two wires it is: 2025-11-25 and those before it, and 2026-07-28.
	Old, New bool
	// Does is what the guard does with it.
	Does Treatment
	// Feature is what the file of mappings has to allow for it, or "".
	Feature string
	// Params are the members that the params of an agent's message may have, beside _meta.
	Params []string
	// How says more, in a sentence.
	How string
}

// again are the params with which a call is made again after the server asked for input.
var again = []string{"inputResponses", "requestState"}

// Methods is the table. What is not in it is refused.
var Methods = []Method{
	{Name: "initialize", From: Client, Old: true, Does: Passes, Params: []string{"protocolVersion", "capabilities", "clientInfo"},
		How: "Of both sides' capabilities those are left out that the guard does not relay, and instructions that were not approved."},
	{Name: "server/discover", From: Client, New: true, Does: Passes, How: "As for initialize."},
	{Name: "ping", From: Client, Old: true, Does: Passes},
	{Name: "tools/list", From: Client, Old: true, New: true, Does: Filters, Params: []string{"cursor"},
		How: "A tool is shown where its checks that need no argument allow. All pages come as one."},
	{Name: "tools/call", From: Client, Old: true, New: true, Does: Decides, Params: append([]string{"name", "arguments"}, again...),
		How: "The tool and every object in the arguments. A tool with results has its answer filtered."},
	{Name: "resources/list", From: Client, Old: true, New: true, Does: Filters, Params: []string{"cursor"},
		How: "A resource is shown where reading it is allowed."},
	{Name: "resources/templates/list", From: Client, Old: true, New: true, Does: Filters, Params: []string{"cursor"},
		How: "Those under templates in the file of mappings."},
	{Name: "resources/read", From: Client, Old: true, New: true, Does: Decides, Params: append([]string{"uri"}, again...),
		How: "The URI, and each URI in the answer."},
	{Name: "resources/subscribe", From: Client, Old: true, Does: Decides, Params: []string{"uri"}, How: "As for reading."},
	{Name: "resources/unsubscribe", From: Client, Old: true, Does: Decides, Params: []string{"uri"}, How: "As for reading."},
	{Name: "prompts/list", From: Client, Old: true, New: true, Does: Filters, Params: []string{"cursor"}, How: "As for tools, page by page."},
	{Name: "prompts/get", From: Client, Old: true, New: true, Does: Decides, Params: append([]string{"name", "arguments"}, again...),
		How: "The prompt and every object in the arguments."},
	{Name: "completion/complete", From: Client, Old: true, New: true, Does: Decides, Feature: "completion",
		Params: []string{"ref", "argument", "context"},
		How:    "The prompt, for arguments under ignore alone. What is proposed is not filtered. Those of resource templates are refused."},
	{Name: "logging/setLevel", From: Client, Old: true, Does: Passes, Feature: "logging", Params: []string{"level"}},
	{Name: "subscriptions/listen", From: Client, New: true, Does: Decides, Params: []string{"notifications"},
		How: "Each URI in resourceSubscriptions, at the start and again with each notification."},
	{Name: "tasks/get", From: Client, Old: true, New: true, How: "A task outlives the decision by which it began."},
	{Name: "tasks/result", From: Client, Old: true, How: "As for tasks/get."},
	{Name: "tasks/list", From: Client, Old: true, How: "As for tasks/get."},
	{Name: "tasks/update", From: Client, New: true, How: "As for tasks/get."},
	{Name: "tasks/cancel", From: Client, Old: true, New: true, How: "As for tasks/get."},

	{Name: "notifications/initialized", From: Client, Notification: true, Old: true, Does: Passes},
	{Name: "notifications/cancelled", From: Client, Notification: true, Old: true, New: true, Does: Passes, Params: []string{"requestId", "reason"},
		How: "For a request of the agent's own that is in flight."},
	{Name: "notifications/progress", From: Client, Notification: true, Old: true, Does: Passes,
		Params: []string{"progressToken", "progress", "total", "message"}, How: "While a request of the server's is in flight."},
	{Name: "notifications/roots/list_changed", From: Client, Notification: true, Old: true, Does: Passes, Feature: "roots"},
	{Name: "notifications/tasks/status", From: Client, Notification: true, Old: true, How: "As for tasks/get."},

	{Name: "ping", From: Server, Old: true, Does: Passes},
	{Name: "sampling/createMessage", From: Server, Old: true, New: true, Does: Passes, Feature: "sampling",
		How: "Also where it comes in a result that asks for input."},
	{Name: "elicitation/create", From: Server, Old: true, New: true, Does: Passes, Feature: "elicitation",
		How: "Also where it comes in a result that asks for input."},
	{Name: "roots/list", From: Server, Old: true, New: true, Does: Passes, Feature: "roots",
		How: "Also where it comes in a result that asks for input. Some servers take the roots for the folders that they may open."},
	{Name: "tasks/get", From: Server, Old: true, How: "As for the agent's."},
	{Name: "tasks/result", From: Server, Old: true, How: "As for the agent's."},
	{Name: "tasks/list", From: Server, Old: true, How: "As for the agent's."},
	{Name: "tasks/cancel", From: Server, Old: true, How: "As for the agent's."},

	{Name: "notifications/cancelled", From: Server, Notification: true, Old: true, New: true, Does: Passes},
	{Name: "notifications/progress", From: Server, Notification: true, Old: true, New: true, Does: Passes,
		How: "For a request of the agent's that is in flight and has the token. Where the answer is filtered, figures alone."},
	{Name: "notifications/message", From: Server, Notification: true, Old: true, New: true, Does: Passes, Feature: "logging",
		How: "Its data is not filtered."},
	{Name: "notifications/resources/updated", From: Server, Notification: true, Old: true, New: true, Does: Decides,
		How: "As for reading, where the agent is subscribed to the resource."},
	{Name: "notifications/resources/list_changed", From: Server, Notification: true, Old: true, New: true, Does: Passes},
	{Name: "notifications/tools/list_changed", From: Server, Notification: true, Old: true, New: true, Does: Passes,
		How: "The tools are compared anew with those that were approved."},
	{Name: "notifications/prompts/list_changed", From: Server, Notification: true, Old: true, New: true, Does: Passes},
	{Name: "notifications/elicitation/complete", From: Server, Notification: true, Old: true, Does: Passes, Feature: "elicitation"},
	{Name: "notifications/subscriptions/acknowledged", From: Server, Notification: true, New: true, Does: Passes},
	{Name: "notifications/tasks/status", From: Server, Notification: true, Old: true, How: "As for tasks/get."},
	{Name: "notifications/tasks", From: Server, Notification: true, New: true, How: "As for tasks/get."},
}

// lookUp finds the row of a message. The zero row, which refuses, is that of a method that is not there.
func lookUp(from Side, name string, notification bool) Method {
	for _, m := range Methods {
		if m.From == from && m.Name == name && m.Notification == notification {
			return m
		}
	}
	return Method{}
}

// Table returns the table as a page shows it, in Markdown.
func Table() string {
	var b strings.Builder
	b.WriteString("| method | from | 2025-11-25 | 2026-07-28 | the guard | |\n| --- | --- | --- | --- | --- | --- |\n")
	in := func(is bool) string {
		if is {
			return "✓"
		}
		return ""
	}
	for _, m := range Methods {
		does, how := m.Does.String(), m.How
		if m.Feature != "" {
			does += " with `allow: [" + m.Feature + "]`"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s | %s |\n", m.Name, m.From, in(m.Old), in(m.New), does, how)
	}
	return b.String()
}
