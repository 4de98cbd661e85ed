package mcp

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"strings"

	"github.com/deputyauth/deputy/pkg/door/mcp/jsonrpc"
)

// NewStateKey returns a random key for Config.StateKey.
func NewStateKey() []byte {
	key := make([]byte, sha256.Size)
	_, _ = rand.Read(key) // it never fails
	return key
}

// A server that asks for input may have the agent keep a state, and bring it when it makes the call again. The server goes on with what is in the state,
// which nobody judges. So it is worth nothing but for the call that was judged: the guard puts a code before it (HMAC-SHA256) of the state, the agent and
// whom it acts for, the method, the tool or prompt, and the arguments.

// sealed is a server's state as the agent keeps it.
func (g *Guard) sealed(f *flight, state string) jsonrpc.Value {
	return jsonrpc.Text(g.stateCode(f, state) + "." + state)
}

// opened returns the server's state that an agent brings; false where it was not given for the same call.
func (g *Guard) opened(f *flight, kept jsonrpc.Value) (jsonrpc.Value, bool) {
	text, _ := kept.Text()
	code, state, found := strings.Cut(text, ".")
	if !found || !hmac.Equal([]byte(code), []byte(g.stateCode(f, state))) {
		return jsonrpc.Value{}, false
	}
	return jsonrpc.Text(state), true
}

// stateCode is the code of a state that is kept for a call.
func (g *Guard) stateCode(f *flight, state string) string {
	code := hmac.New(sha256.New, g.cfg.StateKey)
	arguments := hashOf(f.call.Arguments)
	for _, part := range []string{"mcp requestState", g.cfg.Holder, f.call.Server, f.call.Method, f.call.Name, string(arguments[:]), state} {
		_, _ = code.Write(binary.AppendUvarint(nil, uint64(len(part)))) // a hash takes everything
		_, _ = code.Write([]byte(part))
	}
	return base64.RawURLEncoding.EncodeToString(code.Sum(nil))
}
