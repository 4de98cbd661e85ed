package http_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/deputyauth/deputy/tests/harness"
)

// TestRefused: what is no call is refused in words, and nothing of it is done.
func TestRefused(t *testing.T) {
	w := open(t)
	auth := []string{"Authorization", "Bearer " + harness.ServiceKey}
	json := append([]string{"Content-Type", "application/json"}, auth...)
	frame := func(kind byte, length uint32, rest string) string {
		b := []byte{kind, 0, 0, 0, 0}
		binary.BigEndian.PutUint32(b[1:], length)
		return string(b) + rest
	}
	web := append([]string{"Content-Type", "application/grpc-web+proto"}, auth...)
	stream := append([]string{"Content-Type", "application/connect+json"}, auth...)
	lookup := "/deputy.v1.PermissionsService/LookupResources"
	for name, test := range map[string]struct {
		method, path, body string
		headers            []string
		status             int
		says               string
	}{
		"GET":                            {http.MethodGet, checkPath + "?message={}&encoding=json", "", auth, http.StatusMethodNotAllowed, "called with POST"},
		"elsewhere":                      {http.MethodPost, "/v1/permissions/check", "{}", json, http.StatusNotFound, "nothing at this path"},
		"SpiceDB's own API":              {http.MethodPost, "/authzed.api.v1.PermissionsService/CheckPermission", "{}", json, http.StatusNotFound, "nothing at this path"},
		"a form":                         {http.MethodPost, checkPath, "a=b", append([]string{"Content-Type", "application/x-www-form-urlencoded"}, auth...), http.StatusUnsupportedMediaType, "application/json"},
		"plain text":                     {http.MethodPost, checkPath, check, append([]string{"Content-Type", "text/plain"}, auth...), http.StatusUnsupportedMediaType, "application/json"},
		"no type":                        {http.MethodPost, checkPath, check, auth, http.StatusUnsupportedMediaType, "application/json"},
		"another charset":                {http.MethodPost, checkPath, check, append([]string{"Content-Type", "application/json; charset=utf-16"}, auth...), http.StatusUnsupportedMediaType, "application/json"},
		"a stream as if it were none":    {http.MethodPost, lookup, "{}", json, http.StatusUnsupportedMediaType, "application/connect+json"},
		"two types":                      {http.MethodPost, checkPath, check, append([]string{"Content-Type", "application/proto"}, json...), http.StatusBadRequest, "more than one header Content-Type"},
		"two timeouts":                   {http.MethodPost, checkPath, check, append([]string{"Connect-Timeout-Ms", "1", "Connect-Timeout-Ms", "9000"}, json...), http.StatusBadRequest, "more than one header"},
		"two keys":                       {http.MethodPost, checkPath, check, append([]string{"Authorization", "Bearer x"}, json...), http.StatusUnauthorized, "2 authorization values"},
		"another coding":                 {http.MethodPost, checkPath, check, append([]string{"Content-Encoding", "br"}, json...), http.StatusNotImplemented, "br"},
		"frames that are compressed":     {http.MethodPost, checkPath, check, append([]string{"Content-Encoding", "gzip"}, web...), http.StatusUnsupportedMediaType, "leave out Content-Encoding"},
		"gzip that is none":              {http.MethodPost, checkPath, check, append([]string{"Content-Encoding", "gzip"}, json...), http.StatusBadRequest, "cannot be decompressed"},
		"another version of Connect":     {http.MethodPost, checkPath, check, append([]string{"Connect-Protocol-Version", "9"}, json...), http.StatusBadRequest, ""},
		"a wrong timeout":                {http.MethodPost, checkPath, check, append([]string{"Connect-Timeout-Ms", "soon"}, json...), http.StatusBadRequest, ""},
		"protobuf that is none":          {http.MethodPost, checkPath, "\xff\xff\xff", append([]string{"Content-Type", "application/proto"}, auth...), http.StatusBadRequest, "malformed"},
		"an unknown field in protobuf":   {http.MethodPost, checkPath, "\xc8\x3e\x01", append([]string{"Content-Type", "application/proto"}, auth...), http.StatusBadRequest, "no field with the number 1001"},
		"too long":                       {http.MethodPost, checkPath, strings.Repeat(" ", 40<<10) + check, json, http.StatusTooManyRequests, "more than the 32768 bytes"},
		"half a frame":                   {http.MethodPost, checkPath, "\x00\x00", web, http.StatusOK, ""},
		"a frame that is shorter":        {http.MethodPost, checkPath, frame(0, 100, "x"), web, http.StatusOK, ""},
		"a frame of 4 GiB":               {http.MethodPost, checkPath, frame(0, 1<<32-1, "x"), web, http.StatusOK, ""},
		"two frames":                     {http.MethodPost, checkPath, frame(0, 0, "") + frame(0, 0, ""), web, http.StatusOK, ""},
		"a frame of another kind":        {http.MethodPost, checkPath, frame(0x40, 1, "x"), web, http.StatusOK, ""},
		"a compressed frame, not said":   {http.MethodPost, checkPath, frame(1, 1, "x"), web, http.StatusOK, ""},
		"a stream of no frame":           {http.MethodPost, lookup, "", stream, http.StatusOK, `"invalid_argument"`},
		"a stream of a misspelt request": {http.MethodPost, lookup, frame(0, 7, `{"a":1}`), stream, http.StatusOK, `has no field`},
	} {
		got := w.send(test.method, test.path, strings.NewReader(test.body), test.headers...)
		if got.status != test.status || !strings.Contains(got.text, test.says) || strings.Contains(got.text, "HAS_PERMISSION") {
			t.Errorf("%s: %d %v %s; want %d, %q", name, got.status, got.header, got.text, test.status, test.says)
		}
		if test.status != http.StatusOK && got.Message == "" {
			t.Errorf("%s is refused without a word: %d %s", name, got.status, got.text)
		}
		if kind := got.header.Get("Content-Type"); strings.HasPrefix(kind, "application/grpc-web") {
			told := strings.ToLower(got.header.Get("Grpc-Status") + got.text)
			if !strings.Contains(told, "3") && !strings.Contains(told, "8") || strings.Contains(told, "grpc-status: 0") {
				t.Errorf("%s: %v %q", name, got.header, got.text)
			}
		}
	}
	w.stillAnswers()
}

// TestUnread: nothing of a body is waited for of a caller whom nobody knows, or who may not call.
func TestUnread(t *testing.T) {
	w := open(t)
	for key, want := range map[string]string{"": "HTTP/1.1 401", "nobody's": "HTTP/1.1 401", harness.ServiceKey: "HTTP/1.1 403"} {
		conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", w.HTTPAddr().String())
		w.must(err)
		defer func() { _ = conn.Close() }()
		_, err = fmt.Fprintf(conn, "POST /deputy.v1.AgentsService/RegisterAgent HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"+
			"Authorization: Bearer %s\r\nContent-Length: 1000\r\n\r\n", key)
		w.must(err)
		w.must(conn.SetDeadline(time.Now().Add(5 * time.Second)))
		answer := make([]byte, 12)
		if _, err := io.ReadFull(conn, answer); err != nil || string(answer) != want {
			t.Errorf("%q: %q, %v; want %s", key, answer, err, want)
		}
		// And the connection ends, whatever its client still has to send.
		if _, err := io.Copy(io.Discard, conn); isTimeout(err) {
			t.Errorf("%q: the connection goes on", key)
		}
	}
}

func isTimeout(err error) bool {
	var of net.Error
	return errors.As(err, &of) && of.Timeout()
}

// TestBombs: what is small and becomes large takes no more than its method allows, however many come at once.
func TestBombs(t *testing.T) {
	w := open(t)
	pack := func(text string) string {
		var packed bytes.Buffer
		z := gzip.NewWriter(&packed)
		_, err := io.WriteString(z, text)
		w.must(errors.Join(err, z.Close()))
		return packed.String()
	}
	if got := w.json(checkPath, pack(check), "Content-Encoding", "gzip"); got.status != http.StatusOK {
		t.Errorf("a request that is compressed: %d %s", got.status, got.text)
	}
	if got := w.json(checkPath, pack(strings.Repeat(" ", 64<<20)+check), "Content-Encoding", "gzip"); got.status != http.StatusTooManyRequests || got.reason() != "TOO_LARGE" {
		t.Errorf("a bomb: %d %s", got.status, got.text)
	}
	items := `{"items":[` + strings.Repeat("{},", 100_000) + `{}]}`
	for name, body := range map[string]string{"many empty items": items, "a deep context": `{"items":[{"context":` + strings.Repeat(`{"a":`, 100_000) + "1" + strings.Repeat("}", 100_000) + "}]}"} {
		if got := w.json(bulkPath, body); got.status != http.StatusBadRequest && got.status != http.StatusTooManyRequests {
			t.Errorf("%s: %d %.300s", name, got.status, got.text)
		}
	}
	// Each of these needs as much room as one message may have at most.
	large := pack(`{"items":[{"agentId":"` + strings.Repeat("x", 3<<20) + `"}]}`)
	var all sync.WaitGroup
	for range 24 {
		all.Go(func() { // what it comes to does not matter
			r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, w.url+bulkPath, strings.NewReader(large))
			if err == nil {
				r.Header.Set("Content-Type", "application/json")
				r.Header.Set("Content-Encoding", "gzip")
				r.Header.Set("Authorization", "Bearer "+harness.ServiceKey)
				if got, err := http.DefaultClient.Do(r); err == nil {
					_, _ = io.Copy(io.Discard, got.Body)
					_ = got.Body.Close()
				}
			}
		})
	}
	all.Wait()
	w.stillAnswers()
}

// TestSlow: clients that send their headers or bodies byte by byte keep nobody out, and headers that do not end are cut off.
func TestSlow(t *testing.T) {
	w := open(t)
	var slow []net.Conn
	for i := range 400 {
		conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", w.HTTPAddr().String())
		w.must(err)
		defer func() { _ = conn.Close() }()
		switch i % 3 {
		case 0:
			_, _ = fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nX-A: ", checkPath)
		case 1:
			_, _ = fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 900\r\n\r\n{", checkPath)
		}
		slow = append(slow, conn)
	}
	began := time.Now()
	w.stillAnswers()
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("beside slow clients an answer took %s", took)
	}
	last := slow[399-399%3]
	w.must(last.SetReadDeadline(time.Now().Add(30 * time.Second)))
	if _, err := io.ReadAll(last); isTimeout(err) {
		t.Error("a client that never ends its headers is not cut off")
	}
}

// TestLateBody: a caller whose body does not come keeps its call no longer than its own time, and is told.
func TestLateBody(t *testing.T) {
	w := open(t)
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", w.HTTPAddr().String())
	w.must(err)
	defer func() { _ = conn.Close() }()
	w.must(conn.SetDeadline(time.Now().Add(20 * time.Second)))
	_, err = fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nAuthorization: Bearer %s\r\nConnect-Timeout-Ms: 300\r\nContent-Length: 900\r\n\r\n{",
		checkPath, harness.ServiceKey)
	w.must(err)
	got, err := http.ReadResponse(bufio.NewReader(conn), nil)
	w.must(err)
	defer func() { _ = got.Body.Close() }()
	text, err := io.ReadAll(got.Body)
	if err != nil || got.StatusCode != http.StatusGatewayTimeout || !strings.Contains(string(text), "deadline_exceeded") {
		t.Errorf("%d %s, %v", got.StatusCode, text, err)
	}
	w.stillAnswers()
}

// TestHeaders: headers that are too large are refused.
func TestHeaders(t *testing.T) {
	w := open(t)
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, w.url+checkPath, strings.NewReader(check))
	w.must(err)
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Authorization", "Bearer "+harness.ServiceKey)
	r.Header.Set("X-A", strings.Repeat("a", 64<<10))
	if got, err := http.DefaultClient.Do(r); err == nil { // else the connection was ended while they were sent
		defer func() { _ = got.Body.Close() }()
		if got.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
			t.Errorf("64 KiB of headers are answered %d", got.StatusCode)
		}
	}
	w.stillAnswers()
}

// TestResets: requests over one HTTP/2 connection that are reset at once, many and fast, keep nobody out.
func TestResets(t *testing.T) {
	w := open(t)
	transport := &http.Transport{Protocols: &http.Protocols{}}
	transport.Protocols.SetUnencryptedHTTP2(true)
	client := &http.Client{Transport: transport}
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			for range 200 {
				ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
				r, err := http.NewRequestWithContext(ctx, http.MethodPost, w.url+checkPath, strings.NewReader(check))
				if err == nil {
					r.Header.Set("Content-Type", "application/json")
					r.Header.Set("Authorization", "Bearer "+harness.ServiceKey)
					if got, err := client.Do(r); err == nil {
						_ = got.Body.Close()
					}
				}
				cancel()
			}
		})
	}
	all.Wait()
	w.stillAnswers()
}
