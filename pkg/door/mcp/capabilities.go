package mcp

import (
	"slices"

	"github.com/deputyauth/deputy/pkg/door/mcp/jsonrpc"
)

// versions are the versions of the protocol whose methods the table has.
var versions = []string{"2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25", withoutSessions}

// withoutSessions is the version that knows no initialize.
const withoutSessions = "2026-07-28"

// clientCapabilities is where each request of the wire 2026-07-28 says what the agent can do.
const clientCapabilities = "io.modelcontextprotocol/clientCapabilities"

// metaMembers are the members of _meta that an agent's message may bring to the server: what the two wires define, and the context of a trace. Others are
// left out, because nobody judges them, and a server could take one for an argument.
var metaMembers = []string{
	progressToken, "io.modelcontextprotocol/protocolVersion", clientInfo, clientCapabilities, "io.modelcontextprotocol/logLevel", "traceparent", "tracestate",
}

const (
	// progressToken is where a request says by which token its progress is known, and clientInfo where each request of the wire 2026-07-28 says which
	// program sends it.
	progressToken = "progressToken"
	clientInfo    = "io.modelcontextprotocol/clientInfo"
)

// knownMeta returns the members of _meta that the guard knows, as far as they have the form that the protocol gives them.
func knownMeta(meta jsonrpc.Value) jsonrpc.Value {
	var kept []jsonrpc.Member
	for _, member := range only(meta, metaMembers...).Members() {
		_, isText := member.Value.Text()
		switch member.Name {
		case progressToken:
			if _, ok := jsonrpc.IDOf(member.Value); !ok {
				continue
			}
		case clientInfo:
			member.Value = aboutProgram(member.Value)
		case clientCapabilities:
		default:
			if !isText {
				continue
			}
		}
		kept = append(kept, member)
	}
	return jsonrpc.ObjectOf(kept...)
}

// aboutProgram is what one side's program says of itself, without what nobody judges.
func aboutProgram(about jsonrpc.Value) jsonrpc.Value {
	var kept []jsonrpc.Member
	for _, member := range only(about, "name", "title", "version").Members() {
		if _, isText := member.Value.Text(); isText {
			kept = append(kept, member)
		}
	}
	return jsonrpc.ObjectOf(kept...)
}

// narrowed returns the params of a request as they are sent on: without what the agent can do and the server may not ask it for, and without members of
// _meta that the guard does not know.
func (g *Guard) narrowed(m *jsonrpc.Message) jsonrpc.Value {
	params := m.Params
	if m.Method == "initialize" {
		if can, found := params.Get("capabilities"); found {
			params = params.With("capabilities", g.clientCan(can))
		}
		if about, found := params.Get("clientInfo"); found {
			params = params.With("clientInfo", aboutProgram(about))
		}
	}
	if meta, found := params.Get("_meta"); found {
		meta = knownMeta(meta)
		if can, found := meta.Get(clientCapabilities); found {
			meta = meta.With(clientCapabilities, g.clientCan(can))
		}
		params = params.With("_meta", meta)
	}
	return params
}

func (g *Guard) clientCan(can jsonrpc.Value) jsonrpc.Value {
	return g.allowed(can, "elicitation", "roots", "sampling")
}

// allowed keeps the capabilities that are named and that the file of mappings allows.
func (g *Guard) allowed(can jsonrpc.Value, names ...string) jsonrpc.Value {
	kept := []jsonrpc.Member{}
	for _, member := range can.Members() {
		if slices.Contains(names, member.Name) && g.cfg.Map.Allows(member.Name) {
			kept = append(kept, member)
		}
	}
	return jsonrpc.ObjectOf(kept...)
}

// serverCan returns what a server can do, as the agent is told.
func (g *Guard) serverCan(can jsonrpc.Value) jsonrpc.Value {
	kept := []jsonrpc.Member{}
	for _, member := range can.Members() {
		switch name := member.Name; {
		case slices.Contains([]string{"tools", "resources", "prompts"}, name),
			name == "logging" && g.cfg.Map.Allows("logging"),
			name == "completions" && g.cfg.Map.Allows("completion"):
			kept = append(kept, member)
		}
	}
	return jsonrpc.ObjectOf(kept...)
}

// initialized judges the server's answer to initialize.
func (g *Guard) initialized(result jsonrpc.Value) (jsonrpc.Value, error) {
	version, _ := result.At("protocolVersion").Text()
	if !slices.Contains(versions, version) || version == withoutSessions {
		return jsonrpc.Value{}, &failure{jsonrpc.CodeInternal, "The server speaks a version of the protocol that the guard does not know."}
	}
	result = only(result, "protocolVersion", "capabilities", "serverInfo", "instructions")
	return g.presented(result.With("capabilities", g.serverCan(result.At("capabilities")))), nil
}

// presented is what a server says of itself without what its operator did not approve: agents give the instructions to their models.
func (g *Guard) presented(result jsonrpc.Value) jsonrpc.Value {
	if about, found := result.Get("serverInfo"); found {
		result = result.With("serverInfo", aboutProgram(about))
	}
	text, found := result.Get("instructions")
	switch instructions, isText := text.Text(); {
	case found && isText && instructions == "":
		return result.Without("instructions")
	case found && !g.cfg.Pins.Instruct(instructions):
		g.cfg.Log.Warn("left out the server's instructions, because they are not those that were approved: run deputy mcp approve")
		return result.Without("instructions")
	}
	return result
}

// discovered judges the server's answer to server/discover.
func (g *Guard) discovered(result jsonrpc.Value) (jsonrpc.Value, error) {
	known := []jsonrpc.Value{}
	for _, one := range result.At("supportedVersions").Elements() {
		if version, ok := one.Text(); ok && slices.Contains(versions, version) {
			known = append(known, one)
		}
	}
	result = only(result, "resultType", "supportedVersions", "capabilities", "serverInfo", "instructions", "cacheScope", "ttlMs")
	result = result.With("supportedVersions", jsonrpc.List(known)).With("capabilities", g.serverCan(result.At("capabilities")))
	return private(g.presented(result)), nil
}

// private keeps an answer that was made for one agent from being kept for another, and from being kept when it is no longer allowed.
func private(result jsonrpc.Value) jsonrpc.Value {
	if _, found := result.Get("cacheScope"); found {
		result = result.With("cacheScope", jsonrpc.Text("private"))
	}
	if _, found := result.Get("ttlMs"); found {
		result = result.With("ttlMs", jsonrpc.Whole(0))
	}
	return result
}
