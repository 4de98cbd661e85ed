package mcp

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"

	"github.com/deputyauth/deputy/pkg/door/mcp/jsonrpc"
)

// NewStateKey returns a random key for Config.StateKey.
func NewStateKey() []byte {
	key := make([]byte, sha256.Size)
	_, _ = rand.Read(key) // it never fails
	return key
}

// A server that asks for input may have the agent keep a state, and bring it when it makes the call again, with the answers. The server goes on with
// what is in the state, which nobody judges. So the state is worth nothing but for the call that was judged: the agent keeps it sealed (AES-256-GCM),
// bound to the agent and whom it acts for, the method, the tool or prompt, and the arguments, together with the names of what the server asked.
// An agent answers nothing else.

// sealed is a server's state as the agent keeps it, of a result that asks for input. There is one also where the server has none.
func (g *Guard) sealed(f *flight, asked jsonrpc.Value) jsonrpc.Value {
	kept := asked.Without("inputRequests").Without("resultType")
	var names []jsonrpc.Value
	for _, request := range asked.At("inputRequests").Members() {
		names = append(names, jsonrpc.Text(request.Name))
	}
	kept = kept.With("asked", jsonrpc.List(names))
	seal := g.seal()
	nonce := make([]byte, seal.NonceSize())
	_, _ = rand.Read(nonce) // it never fails
	return jsonrpc.Text(base64.RawURLEncoding.EncodeToString(seal.Seal(nonce, nonce, kept.Append(nil), g.boundTo(f))))
}

// asAsked returns the params of a call as the server gets them, with the server's own state in the place of the sealed one. An error says that the call does
// not answer what the server asked in its course.
func (g *Guard) asAsked(f *flight, params jsonrpc.Value) (jsonrpc.Value, error) {
	sealed, hasState := params.Get("requestState")
	responses, answers := params.Get("inputResponses")
	if !hasState && !answers {
		return params, nil
	}
	wrong := &failure{jsonrpc.CodeInvalidParams, "requestState is not the one that was given for this call. Make the call without it, and without inputResponses."}
	kept, ok := g.opened(f, sealed)
	if !ok || answers && responses.Kind() != jsonrpc.Object {
		return jsonrpc.Value{}, wrong
	}
	asked := map[string]bool{}
	for _, name := range kept.At("asked").Elements() {
		text, _ := name.Text()
		asked[text] = true
	}
	for _, response := range responses.Members() {
		if !asked[response.Name] {
			return jsonrpc.Value{}, &failure{jsonrpc.CodeInvalidParams, "inputResponses has an answer to what the server did not ask."}
		}
	}
	params = params.Without("requestState")
	if state, found := kept.Get("requestState"); found {
		params = params.With("requestState", state)
	}
	return params, nil
}

// opened returns what was sealed; false where it was not given for the same call.
func (g *Guard) opened(f *flight, sealed jsonrpc.Value) (jsonrpc.Value, bool) {
	text, _ := sealed.Text()
	bytes, err := base64.RawURLEncoding.DecodeString(text)
	seal := g.seal()
	if err != nil || len(bytes) < seal.NonceSize() {
		return jsonrpc.Value{}, false
	}
	plain, err := seal.Open(nil, bytes[:seal.NonceSize()], bytes[seal.NonceSize():], g.boundTo(f))
	if err != nil {
		return jsonrpc.Value{}, false
	}
	kept, err := jsonrpc.ParseValue(plain, jsonrpc.FromServer())
	return kept, err == nil
}

// seal is what seals states.
func (g *Guard) seal() cipher.AEAD {
	key := sha256.Sum256(append([]byte("deputy mcp requestState\n"), g.cfg.StateKey...))
	block, err := aes.NewCipher(key[:])
	if err != nil {
		panic(err) // a key of this length is always taken
	}
	seal, err := cipher.NewGCM(block)
	if err != nil {
		panic(err) // so is this cipher
	}
	return seal
}

// boundTo is what a state is bound to.
func (g *Guard) boundTo(f *flight) (all []byte) {
	arguments := hashOf(f.call.Arguments)
	for _, part := range []string{g.cfg.Holder, f.call.Server, f.call.Method, f.call.Name, string(arguments[:])} {
		all = append(binary.AppendUvarint(all, uint64(len(part))), part...)
	}
	return all
}
