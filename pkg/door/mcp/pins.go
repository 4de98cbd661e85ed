package mcp

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/deputyauth/deputy/pkg/door/mcp/jsonrpc"
)

// Definitions are what a server says of itself to an agent's model.
type Definitions struct {
	// Tools are the definitions of its tools, and Instructions how a model is to use them; "" is none.
	Tools        []jsonrpc.Value
	Instructions string
}

// Pins are the definitions of a server that an operator has approved: the names of its tools, and a SHA-256 hash of the whole definition of each, in
// the form of RFC 8785. A server that gives a tool another description, another argument or another name is not what was approved. The zero Pins are
// those of a server without tools.
type Pins struct {
	// Version is 1, and Server the server's name.
	Version int    `json:"version"`
	Server  string `json:"server"`
	// Tools are the hashes by the tools' names: "sha256:" and 64 hex digits.
	Tools map[string]string `json:"tools"`
	// Instructions is the hash of the server's instructions; "" where there are none.
	Instructions string `json:"instructions,omitempty"`
}

// errUnpinned is the error of tools that are not those that were approved.
var errUnpinned = errors.New("the server's tools are not those that were approved")

// PinsOf approves definitions.
func PinsOf(server string, all Definitions) (*Pins, error) {
	p := &Pins{Version: 1, Server: server, Tools: map[string]string{}, Instructions: hashOfText(all.Instructions)}
	folded := map[string]string{}
	for _, one := range all.Tools {
		name, ok := one.At("name").Text()
		if !ok || name == "" {
			return nil, errors.New("a tool has no name")
		}
		if other, found := folded[jsonrpc.Fold(name)]; found {
			return nil, fmt.Errorf("two tools have the names %q and %q, which some programs take for the same", other, name)
		}
		folded[jsonrpc.Fold(name)] = name
		canonical := jsontext.Value(one.Append(nil))
		// Numbers keep their digits: a hash need not be that of other programs, and none is rounded to another.
		if err := canonical.Canonicalize(jsontext.CanonicalizeRawFloats(false), jsontext.CanonicalizeRawInts(false)); err != nil {
			return nil, fmt.Errorf("the definition of the tool %q has no canonical form", name)
		}
		p.Tools[name] = hashOfText(string(canonical))
	}
	return p, nil
}

// hashOfText is the hash of a text as pins have it; "" of no text.
func hashOfText(text string) string {
	if text == "" {
		return ""
	}
	sum := sha256.Sum256([]byte(text))
	return "sha256:" + hex.EncodeToString(sum[:])
}

// Instruct reports whether a server's instructions are those that were approved.
func (p *Pins) Instruct(text string) bool { return text != "" && p.Instructions == hashOfText(text) }

// ParsePins reads the text of a file of pins.
func ParsePins(text []byte, server string) (*Pins, error) {
	rules := jsonrpc.FromClient()
	if _, err := jsonrpc.ParseValue(text, rules); err != nil {
		return nil, fmt.Errorf("is no file of approved tools: %w", err)
	}
	p := &Pins{}
	if err := json.Unmarshal(text, p); err != nil || p.Version != 1 {
		return nil, errors.New("is no file of approved tools of version 1")
	}
	if p.Server != server {
		return nil, fmt.Errorf("has the approved tools of the server %q, not of %q", p.Server, server)
	}
	return p, nil
}

// Append appends the text of a file of pins.
func (p *Pins) Append(b []byte) []byte {
	text, err := json.MarshalIndent(p, "", "  ") // of texts and a number, which cannot fail
	if err != nil {
		return b
	}
	return append(append(b, text...), '\n')
}

// Check returns an error unless the tools are those that were approved, all of them and no other.
func (p *Pins) Check(tools []jsonrpc.Value) error {
	now, err := PinsOf(p.Server, Definitions{Tools: tools})
	if err != nil {
		return err
	}
	if changes := p.toolChanges(now); len(changes) > 0 {
		return errors.New(strings.Join(changes, ", "))
	}
	return nil
}

// Changes returns how other pins differ: "changed read_file", "gone list", "new delete", and at last "new (instructions)", which is no tool's name.
func (p *Pins) Changes(now *Pins) (changes []string) {
	changes = p.toolChanges(now)
	const instructions = " (instructions)"
	switch before, now := p.Instructions, now.Instructions; {
	case before == now:
	case before == "":
		changes = append(changes, "new"+instructions)
	case now == "":
		changes = append(changes, "gone"+instructions)
	default:
		changes = append(changes, "changed"+instructions)
	}
	return changes
}

// toolChanges returns how the tools of other pins differ, sorted.
func (p *Pins) toolChanges(now *Pins) (changes []string) {
	for _, name := range slices.Sorted(maps.Keys(p.Tools)) {
		switch hash, found := now.Tools[name]; {
		case !found:
			changes = append(changes, "gone "+name)
		case hash != p.Tools[name]:
			changes = append(changes, "changed "+name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(now.Tools)) {
		if _, found := p.Tools[name]; !found {
			changes = append(changes, "new "+name)
		}
	}
	return changes
}
