package mcp

import (
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/deputyauth/deputy/pkg/door/mcp/jsonrpc"
)

// MirrorPrefix begins the names of the headers that mirror arguments.
const MirrorPrefix = "Mcp-Param-"

// Mirror is an argument of a tool that is written into a header, too, on the wire 2026-07-28 over HTTP, so that a proxy need not read the body. The
// server's definition of the tool says so ("x-mcp-header"). The guard decides by the body, refuses a call whose headers say something else, and writes
// the headers anew for the server.
type Mirror struct {
	// Name is the header's name without MirrorPrefix.
	Name string
	// Path is where the argument is.
	Path []string
}

const (
	// maxMirrors is how many arguments of a tool may be mirrored, and maxMirrorDepth how deep they may lie.
	maxMirrors, maxMirrorDepth = 64, 16
	// base64Prefix and base64Suffix are around a value that no header could hold as it is.
	base64Prefix, base64Suffix = "=?base64?", "?="
)

// CodeHeaderMismatch is the code of the error of a request whose headers say something else than its body.
const CodeHeaderMismatch = -32020

// mirrorsOf returns the arguments that a tool's definition has mirrored; none where the definition breaks the rules for it, so that agents leave
// the tool alone.
func mirrorsOf(tool jsonrpc.Value) []Mirror {
	all, err := appendMirrors(nil, tool.At("inputSchema", "properties"), nil)
	if err != nil {
		return nil
	}
	return all
}

func appendMirrors(all []Mirror, properties jsonrpc.Value, under []string) ([]Mirror, error) {
	if len(under) == maxMirrorDepth {
		return all, nil
	}
	for _, one := range properties.Members() {
		path := slices.Concat(under, []string{one.Name})
		if marked, found := one.Value.Get("x-mcp-header"); found {
			name, ok := marked.Text()
			if !ok || !isToken(name) || len(all) == maxMirrors {
				return nil, errors.New("an argument is mirrored wrongly")
			}
			for _, other := range all {
				if strings.EqualFold(other.Name, name) {
					return nil, errors.New("two arguments have one header")
				}
			}
			all = append(all, Mirror{name, path})
		}
		var err error
		if all, err = appendMirrors(all, one.Value.At("properties"), path); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// isToken reports whether a text can be part of the name of a header.
func isToken(name string) bool {
	const letters = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ!#$%&'*+-.^_`|~"
	return name != "" && len(name) <= 64 && strings.Trim(name, letters) == ""
}

// Value returns what the header has for the arguments of a call; false where it has to be left out.
func (m Mirror) Value(arguments jsonrpc.Value) (string, bool) {
	text, ok := m.text(arguments)
	return HeaderValue(text), ok
}

// text is the argument as a text; false where there is none that is mirrored.
func (m Mirror) text(arguments jsonrpc.Value) (string, bool) {
	value := arguments.At(m.Path...)
	if text, ok := value.Text(); ok {
		return text, true
	}
	if truth, ok := value.Truth(); ok {
		return strconv.FormatBool(truth), true
	}
	digits, ok := value.Digits()
	if !ok {
		return "", false
	}
	n, err := strconv.ParseFloat(digits, 64)
	if err != nil || n != math.Trunc(n) || math.Abs(n) > 1<<53-1 {
		return "", false
	}
	return strconv.FormatInt(int64(n), 10), true
}

// agrees returns an error unless the header says what the argument is.
func (m Mirror) agrees(values []string, arguments jsonrpc.Value) error {
	want, has := m.text(arguments)
	header := MirrorPrefix + m.Name
	switch {
	case len(values) > 1:
		return fmt.Errorf("the header %s is there %d times", header, len(values))
	case !has && len(values) == 0:
		return nil
	case !has:
		return fmt.Errorf("the header %s is there, and the argument %s is not, or is none that a header has", header, strings.Join(m.Path, "."))
	case len(values) == 0:
		return fmt.Errorf("the header %s is missing, and the argument %s is there", header, strings.Join(m.Path, "."))
	}
	got, err := ReadHeaderValue(values[0])
	if err != nil {
		return fmt.Errorf("the header %s %w", header, err)
	}
	if _, isNumber := arguments.At(m.Path...).Digits(); isNumber { // "42.0" is 42, too
		n, err := strconv.ParseFloat(got, 64)
		if err == nil && n == math.Trunc(n) && math.Abs(n) <= 1<<53-1 {
			got = strconv.FormatInt(int64(n), 10)
		}
	}
	if got != want {
		return fmt.Errorf("the header %s is not what the argument %s is", header, strings.Join(m.Path, "."))
	}
	return nil
}

// HeaderValue returns a text as the headers of the wire 2026-07-28 have it.
func HeaderValue(text string) string {
	odd := strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r > '~' }) || strings.TrimSpace(text) != text
	if encoded := strings.HasPrefix(text, base64Prefix) && strings.HasSuffix(text, base64Suffix); !odd && !encoded {
		return text
	}
	return base64Prefix + base64.StdEncoding.EncodeToString([]byte(text)) + base64Suffix
}

// ReadHeaderValue is the inverse of HeaderValue. The error goes on after the words that name the header.
func ReadHeaderValue(value string) (string, error) {
	inner, begins := strings.CutPrefix(value, base64Prefix)
	inner, ends := strings.CutSuffix(inner, base64Suffix)
	if !begins || !ends {
		return value, nil
	}
	text, err := base64.StdEncoding.Strict().DecodeString(inner)
	if err != nil {
		return "", errors.New("is not valid Base64 between =?base64? and ?=")
	}
	return string(text), nil
}

// agrees returns an error unless the headers that mirror arguments of a tool say what the arguments are.
func (g *Guard) agrees(tool string, arguments jsonrpc.Value) error {
	if g.cfg.Mirrored == nil {
		return nil
	}
	for _, one := range g.tools.Mirrors(tool) {
		if err := one.agrees(g.cfg.Mirrored(one.Name), arguments); err != nil {
			return &failure{CodeHeaderMismatch, "The headers and the body disagree: " + err.Error() + "."}
		}
	}
	return nil
}
