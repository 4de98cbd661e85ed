//go:build linux

package border

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// input draws the next thing that a client does.
func (d *draw) input(all []method, roles []string) (*input, method) {
	if d.oneIn(40) {
		return d.rawInput(), method{}
	}
	m := pick(d, all)
	in := &input{role: pick(d, roles), method: m.path}
	messages := 1
	if m.IsStreamingClient() {
		messages = d.IntN(4)
	}
	for range messages {
		b := d.request(m)
		for range pick(d, []int{0, 0, 0, 1, 1, 2, 3}) {
			var how string
			b, how = d.spoil(m.Input(), b)
			in.about += how + "\n"
		}
		p := part{kind: "message", chunks: plain(b)}
		if d.oneIn(6) {
			p.kind = "gzip"
		}
		if d.oneIn(60) {
			most := 300_000
			if p.kind == "gzip" {
				most = 4_000_000
			}
			if items, ok := d.emptyItems(m.Input(), most); ok {
				p.chunks = append(p.chunks, items)
				in.about += "empty items\n"
			}
		}
		in.parts = append(in.parts, p)
	}
	switch n := d.IntN(100); {
	case n < 15:
		d.oddBody(in)
	case n < 30:
		d.oddHeaders(in)
	case n < 33:
		in.end, in.alone = "hold", true
	case n < 36:
		in.end = "reset"
	case n < 37:
		in.times, in.alone = 1+d.IntN(100), true
		if d.oneIn(3) {
			in.end = "hold"
		}
	}
	return in, m
}

// oddBody changes how messages lie in the stream.
func (d *draw) oddBody(in *input) {
	in.alone = true
	content := []byte{}
	if len(in.parts) > 0 && size(in.parts[0].chunks) < 1<<20 && in.parts[0].chunks[0].value == "" {
		content = in.parts[0].chunks[0].bytes
	}
	frame := func(flag byte, length uint32) []byte {
		return append(binary.BigEndian.AppendUint32([]byte{flag}, length), content...)
	}
	data := func(how string, b []byte) {
		in.about += how + "\n"
		in.parts = []part{{kind: "data", chunks: plain(b)}}
	}
	length := uint32(len(content))
	switch d.IntN(12) {
	case 0:
		data("compressed by the flag only", frame(1, length))
	case 1:
		data("a flag that is none", frame(byte(2+d.IntN(254)), length))
	case 2:
		b := frame(0, length)
		data("a frame that is cut", b[:d.IntN(len(b)+1)])
	case 3:
		data("a frame that is longer than it says", frame(0, length/2))
	case 4:
		data("a frame that says it is huge", frame(byte(d.IntN(2)), pick(d, []uint32{1 << 20, 16 << 20, 1<<31 - 1, 1<<32 - 1})))
	case 5:
		data("several messages", bytes.Repeat(frame(0, length), 2+d.IntN(20)))
	case 6:
		data("empty messages", bytes.Repeat(make([]byte, 5), 1+d.IntN(2000)))
	case 7:
		data("no gzip", frame(1, length))
		in.headers = append(in.headers, header{"grpc-encoding", pick(d, []string{"gzip", "identity", "deflate", "snappy", "zstd", ""})})
	case 8:
		in.about += "small frames\n"
		if in.split = 1 + d.IntN(7); len(content) > 2000 {
			in.split = 100
		}
	case 9:
		in.about += "half-closed early\n"
		in.end = "early"
	case 10:
		b := frame(0, length)
		data("reset within a frame", b[:d.IntN(len(b)+1)])
		in.end = "reset"
	case 11:
		b := frame(0, length)
		data("left within a frame", b[:d.IntN(len(b)+1)])
		in.end = "hold"
	}
}

// oddHeaders changes headers.
func (d *draw) oddHeaders(in *input) {
	in.alone = true
	add := func(name string, values ...string) {
		in.about += "header " + name + "\n"
		in.headers = append(in.headers, header{name, pick(d, values)})
	}
	switch d.IntN(18) {
	case 0:
		add("grpc-timeout", "1n", "0S", "1S", "1m", "99999999H", "100000000S", "-1S", "S", "", "1", "1x", "999999999999999999999H", "10u")
	case 1:
		add("content-type", "application/grpc+proto", "application/grpc+json", "application/grpc;x", "application/json", "", "text/html", "application/grpc-web")
	case 2:
		add(":method", "GET", "PUT", "", "post", "OPTIONS", "CONNECT")
	case 3:
		add(":path", "", "/", "//", "*", "/x", in.method+"/", strings.ToUpper(in.method), in.method+"?a=b", strings.TrimPrefix(in.method, "/"),
			"/"+strings.Repeat("a", 5000), "/deputy.v1.PermissionsService/", "/deputy.v1.PermissionsService/Nothing", "/\x00/\xff", "http://x"+in.method)
	case 4:
		add(":scheme", "https", "", "file")
	case 5:
		add(":authority", "", "a b", strings.Repeat("a", 3000), "[::1", "localhost:99999")
	case 6:
		in.about += "without a header\n"
		in.without = append(in.without, pick(d, []string{":method", ":scheme", ":path", ":authority", "content-type", "te"}))
	case 7:
		key := *keyOf(in.role)
		add("authorization", "", "Bearer", "Bearer ", "bearer "+key, "Basic "+key, "Bearer "+key, key, "Bearer "+key+" ", "Bearer\t"+key, strings.Repeat("x", 7000))
	case 8:
		add("x-bin", "", "AAAA", "=", "!!!", "a", strings.Repeat("A", 6000), "AAAA,BBBB")
	case 9:
		add("io.spicedb."+pick(d, []string{"requestdebuginfo", "requestoverlapkey", "requestschemahash", "respmeta.dispatchedoperationscount"}), "true", "1", "", "x", "-1")
	case 10:
		add("x-request-id", strings.Repeat("r", 1<<d.IntN(13)), "é", "\x00", "a\r\nb")
	case 11:
		for i := range 1 + d.IntN(300) {
			in.headers = append(in.headers, header{fmt.Sprintf("x-%d", i), strings.Repeat("v", d.IntN(60))})
		}
		in.about += "many headers\n"
	case 12:
		in.headers = append(in.headers, header{"x-large", strings.Repeat("v", 1<<(10+d.IntN(11)))})
		in.about += "a large header\n"
	case 13:
		add(pick(d, []string{"X-Upper", "connection", "transfer-encoding", "upgrade", "host", "te", "", " ", ":unknown", ":status", "a b", "grpc-status"}), "close", "200", "chunked", "x")
	case 14:
		add("grpc-accept-encoding", "gzip", "identity", "", "nothing,gzip", strings.Repeat("gzip,", 1000))
	case 15:
		add("grpc-encoding", "gzip", "identity", "", "nothing", "GZIP")
	case 16:
		add("grpc-"+pick(d, []string{"trace-bin", "tags-bin", "previous-rpc-attempts", "retry-pushback-ms", "status-details-bin", "message"}), "AAAA", "-1", "x", "!!")
	case 17:
		add("content-length", "0", "-1", "5", "999999999999999999999", "x")
	}
}

// rawInput draws bytes on a connection.
func (d *draw) rawInput() *input {
	in := &input{role: "nobody", raw: true, alone: true}
	var b bytes.Buffer
	f := http2.NewFramer(&b, nil)
	f.AllowIllegalWrites = true
	hello := func() {
		b.WriteString(http2.ClientPreface)
		_ = f.WriteSettings()
	}
	open := func(id uint32, end bool) {
		_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: headerBlock(d.anyPath()), EndHeaders: true, EndStream: end})
	}
	many := 1 << d.IntN(13)
	kinds := []struct {
		name string
		do   func()
	}{
		{"HTTP/1.1", func() { b.WriteString("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n") }},
		{"TLS", func() { b.Write([]byte{22, 3, 1, 0, 200, 1, 0, 0, 196, 3, 3}) }},
		{"nothing that is known", func() {
			for range d.IntN(200) {
				b.WriteByte(byte(d.Uint32()))
			}
		}},
		{"half a preface", func() { b.WriteString(http2.ClientPreface[:d.IntN(len(http2.ClientPreface))]) }},
		{"settings", func() {
			hello()
			for range min(many, 200) {
				_ = f.WriteSettings(http2.Setting{
					ID:  http2.SettingID(d.IntN(8)),
					Val: pick(d, []uint32{0, 1, 100, 65535, 1 << 24, 1<<31 - 1, 1 << 31, 1<<32 - 1}),
				})
			}
			open(1, false)
		}},
		{"pings", func() {
			hello()
			for range many {
				_ = f.WritePing(d.oneIn(10), [8]byte{1})
			}
		}},
		{"rapid resets", func() {
			hello()
			for i := range min(many, 2000) {
				open(uint32(2*i+1), false)
				_ = f.WriteRSTStream(uint32(2*i+1), http2.ErrCodeCancel)
			}
		}},
		{"windows", func() {
			hello()
			open(1, false)
			_ = f.WriteWindowUpdate(uint32(d.IntN(4)), pick(d, []uint32{0, 1, 1<<31 - 1}))
			_ = f.WriteWindowUpdate(uint32(d.IntN(2)), 1<<31-1)
		}},
		{"continuations", func() {
			hello()
			_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: headerBlock("/x"), EndHeaders: false})
			for range min(many, 500) {
				_ = f.WriteContinuation(1, false, make([]byte, d.IntN(100)))
			}
		}},
		{"a frame within headers", func() {
			hello()
			_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: headerBlock("/x"), EndHeaders: false})
			_ = f.WritePing(false, [8]byte{})
		}},
		{"headers that do not unpack", func() {
			hello()
			_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0xff, 0xff, 0xff, 0xff, 0x7f, 0x3f}, EndHeaders: true})
		}},
		{"a frame of a kind", func() {
			hello()
			for range 1 + d.IntN(20) {
				_ = f.WriteRawFrame(http2.FrameType(d.IntN(14)), http2.Flags(d.Uint32()), uint32(d.IntN(6)), make([]byte, d.IntN(40)))
			}
		}},
		{"a frame that is too large", func() {
			hello()
			_ = f.WriteRawFrame(http2.FrameData, 0, 1, make([]byte, 1<<17))
		}},
		{"data on streams that are none", func() {
			hello()
			_ = f.WriteData(uint32(d.IntN(4)), d.oneIn(2), make([]byte, 100))
		}},
		{"a stream twice", func() {
			hello()
			id := pick(d, []uint32{0, 1, 2, 3, 1<<31 - 1})
			open(id, true)
			open(id, d.oneIn(2))
			open(1, true)
		}},
		{"a push", func() {
			hello()
			_ = f.WritePushPromise(http2.PushPromiseParam{StreamID: 1, PromiseID: 2, BlockFragment: headerBlock("/x"), EndHeaders: true})
		}},
		{"a farewell", func() {
			hello()
			_ = f.WriteGoAway(uint32(d.IntN(3)), http2.ErrCode(d.IntN(14)), make([]byte, d.IntN(500)))
			open(1, false)
		}},
		{"priorities", func() {
			hello()
			for range min(many, 1000) {
				_ = f.WritePriority(uint32(1+d.IntN(9)), http2.PriorityParam{StreamDep: uint32(d.IntN(9)), Exclusive: d.oneIn(2), Weight: 1})
			}
		}},
		{"streams without end", func() {
			hello()
			for i := range min(many, 1000) {
				open(uint32(2*i+1), false)
			}
		}},
		{"padded data", func() {
			hello()
			open(1, false)
			for range min(many, 1000) {
				_ = f.WriteDataPadded(1, false, nil, make([]byte, 200))
			}
		}},
		{"a frame that is cut", func() {
			hello()
			open(1, false)
			_ = f.WriteData(1, true, make([]byte, 1000))
			b.Truncate(b.Len() - 1 - d.IntN(1000))
		}},
	}
	kind := pick(d, kinds)
	kind.do()
	in.about = kind.name
	in.parts = []part{{kind: "data", chunks: plain(slices.Clone(b.Bytes()))}}
	if d.oneIn(3) {
		in.end = "hold"
	}
	return in
}

// anyPath is a method's path.
func (d *draw) anyPath() string { return pick(d, methods()).path }

// headerBlock is the packed headers of a call without a key.
func headerBlock(path string) []byte {
	var b bytes.Buffer
	e := hpack.NewEncoder(&b)
	for _, h := range headersOf(&input{role: "nobody", method: path}) {
		_ = e.WriteField(hpack.HeaderField{Name: h.name, Value: h.value})
	}
	return b.Bytes()
}
