//go:build linux

package border

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// input is what one client does: a call on one stream, or bytes on a connection. As text it is a line for each word:
//
//	# a comment
//	as service                 whose key: nobody, wrong, service or admin
//	call /PACKAGE.SERVICE/METHOD
//	raw                        instead of call: the parts are bytes on a connection of their own
//	header "NAME" "VALUE"      a header; one with a name that is there anyway takes its place
//	without "NAME"             leaves out a header
//	message CHUNKS             a message in a gRPC frame
//	gzip CHUNKS                a message, compressed, in a gRPC frame that says so
//	data CHUNKS                bytes of the body
//	split 1                    the most bytes in one DATA frame
//	reset                      how it ends: the stream is reset; or hold: it stays open and is not read; or end, the default:
//	                           half-closed after the last part; or early: half-closed with the headers
//	times 100                  so many at once, on one connection
//
// CHUNKS are one after the other: 0a00 is bytes, 8000000*0a00 repeats them, "text" is quoted as in Go, $session0 is a value of
// the world.
type input struct {
	role, method string
	raw          bool
	headers      []header
	without      []string
	parts        []part
	split        int
	end          string
	times        int
	// alone keeps the input off connections that others use: it may spoil them.
	alone bool
	// about says what was done to it.
	about string
}

type header struct{ name, value string }

type part struct {
	kind   string // message, gzip or data
	chunks []chunk
}

// chunk is bytes, so many times, or a value's name.
type chunk struct {
	bytes  []byte
	repeat int
	value  string
}

// plain is one chunk.
func plain(b []byte) []chunk { return []chunk{{bytes: b, repeat: 1}} }

// size is how many bytes chunks are, about.
func size(chunks []chunk) (n int) {
	for _, c := range chunks {
		n += len(c.bytes)*c.repeat + len(c.value)
	}
	return n
}

// spell returns the bytes of chunks.
func (w *world) spell(chunks []chunk) []byte {
	out := make([]byte, 0, size(chunks))
	for _, c := range chunks {
		if c.value != "" {
			out = append(out, w.value(c.value)...)
			continue
		}
		if c.repeat == 1 {
			out = append(out, c.bytes...)
		} else {
			out = append(out, bytes.Repeat(c.bytes, c.repeat)...)
		}
	}
	return out
}

// body returns what a part puts on the stream.
func (w *world) body(p part) []byte {
	content := w.spell(p.chunks)
	flag := byte(0)
	switch p.kind {
	case "data":
		return content
	case "gzip":
		var packed bytes.Buffer
		z, _ := gzip.NewWriterLevel(&packed, gzip.BestSpeed)
		_, _ = z.Write(content)
		_ = z.Close()
		content, flag = packed.Bytes(), 1
	}
	frame := binary.BigEndian.AppendUint32([]byte{flag}, uint32(len(content)))
	return append(frame, content...)
}

// text is the input's text. Values that the server minted stand there by their names, so that it means the same later.
func (in *input) text(w *world) string {
	var b strings.Builder
	for line := range strings.SplitSeq(in.about, "\n") {
		if line = strings.TrimSpace(line); line != "" {
			fmt.Fprintf(&b, "# %s\n", line)
		}
	}
	fmt.Fprintf(&b, "as %s\n", in.role)
	if in.raw {
		b.WriteString("raw\n")
	} else {
		fmt.Fprintf(&b, "call %s\n", in.method)
	}
	for _, h := range in.headers {
		fmt.Fprintf(&b, "header %q %q\n", h.name, h.value)
	}
	for _, name := range in.without {
		fmt.Fprintf(&b, "without %q\n", name)
	}
	for _, p := range in.parts {
		fmt.Fprintf(&b, "%s%s\n", p.kind, chunksText(p.chunks, w))
	}
	if in.split > 0 {
		fmt.Fprintf(&b, "split %d\n", in.split)
	}
	if in.end != "" {
		b.WriteString(in.end + "\n")
	}
	if in.times > 1 {
		fmt.Fprintf(&b, "times %d\n", in.times)
	}
	return b.String()
}

func chunksText(chunks []chunk, w *world) string {
	var b strings.Builder
	for _, c := range chunks {
		switch {
		case c.value != "":
			b.WriteString(" $" + c.value)
		case c.repeat != 1:
			fmt.Fprintf(&b, " %d*%x", c.repeat, c.bytes)
		default:
			rest := c.bytes
			for len(rest) > 0 {
				at, name, length := w.findMinted(rest)
				if at > 0 {
					fmt.Fprintf(&b, " %x", rest[:at])
				}
				if name != "" {
					b.WriteString(" $" + name)
				}
				rest = rest[at+length:]
			}
		}
	}
	return b.String()
}

// parseInput reads an input's text.
func parseInput(text string) (*input, error) {
	in := &input{alone: true}
	for n, line := range slices.Collect(strings.SplitSeq(text, "\n")) {
		word, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		var err error
		switch word {
		case "", "#":
			if word == "#" {
				in.about += rest + "\n"
			}
		case "as":
			if in.role = rest; keyOf(rest) == nil {
				err = fmt.Errorf("%q is no role", rest)
			}
		case "call":
			in.method = rest
		case "raw":
			in.raw = true
		case "header", "without":
			var name, value string
			if name, rest, err = unquote(rest); err != nil {
				break
			}
			if word == "without" {
				in.without = append(in.without, name)
				break
			}
			value, _, err = unquote(strings.TrimSpace(rest))
			in.headers = append(in.headers, header{name, value})
		case "message", "gzip", "data":
			p := part{kind: word}
			p.chunks, err = parseChunks(rest)
			in.parts = append(in.parts, p)
		case "split":
			in.split, err = strconv.Atoi(rest)
		case "times":
			in.times, err = strconv.Atoi(rest)
		case "end", "early", "reset", "hold":
			in.end = word
		default:
			err = fmt.Errorf("%q is no word of an input", word)
		}
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n+1, err)
		}
	}
	if in.role == "" || (in.method == "") != in.raw {
		return nil, errors.New("an input has a line `as` and either `call` or `raw`")
	}
	return in, nil
}

func unquote(text string) (value, rest string, err error) {
	quoted, err := strconv.QuotedPrefix(text)
	if err != nil {
		return "", "", fmt.Errorf("%q is not quoted", text)
	}
	value, err = strconv.Unquote(quoted)
	return value, text[len(quoted):], err
}

func parseChunks(text string) (chunks []chunk, err error) {
	for text = strings.TrimSpace(text); text != ""; text = strings.TrimSpace(text) {
		c := chunk{repeat: 1}
		if count, rest, found := strings.Cut(text, "*"); found && !strings.ContainsAny(count, " \"$") {
			if c.repeat, err = strconv.Atoi(count); err != nil {
				return nil, err
			}
			text = rest
		}
		var word string
		if text[0] == '"' {
			if word, text, err = unquote(text); err != nil {
				return nil, err
			}
			c.bytes = []byte(word)
		} else {
			word, text, _ = strings.Cut(text, " ")
			if name, is := strings.CutPrefix(word, "$"); is {
				c.value = name
			} else if c.bytes, err = hex.DecodeString(word); err != nil {
				return nil, fmt.Errorf("%.40q: %w", word, err)
			}
		}
		chunks = append(chunks, c)
	}
	return chunks, nil
}
