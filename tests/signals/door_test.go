//go:build unix

package signals

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/deputyauth/deputy/pkg/caller"
	"github.com/deputyauth/deputy/pkg/daemon"
	door "github.com/deputyauth/deputy/pkg/door/signals"
	"github.com/deputyauth/deputy/tests/harness"
	"github.com/deputyauth/deputy/tests/signals/events"
)

// free is a loopback address that nobody listens on.
func free(t *testing.T) string {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

// stalled is a body that goes on with nothing until the answer is there. A client that was still writing when the server closed the connection would
// be told of the reset, and not of the answer.
type stalled struct{ answered chan struct{} }

// Read is io.Reader's.
func (s stalled) Read([]byte) (int, error) {
	<-s.answered
	return 0, io.EOF
}

// TestDoor: what is no push is refused, with the body unread of whom nobody knows.
func TestDoor(t *testing.T) {
	w := open(t, overMemory(t))
	url := "http://" + w.HTTPAddr().String()
	good := w.sign(event("account-disabled", user("alice"), nil))
	packed := &bytes.Buffer{}
	z := gzip.NewWriter(packed)
	_, err := io.WriteString(z, good)
	w.must(errors.Join(err, z.Close()))
	rest := stalled{make(chan struct{})}
	for name, test := range map[string]struct {
		method, path, kind, coding string
		body                       io.Reader
		status                     int
	}{
		"GET":          {http.MethodGet, "/signals", "application/secevent+jwt", "", nil, http.StatusMethodNotAllowed},
		"elsewhere":    {http.MethodPost, "/", "application/secevent+jwt", "", strings.NewReader(good), http.StatusNotFound},
		"another type": {http.MethodPost, "/signals", "application/json", "", strings.NewReader(good), http.StatusUnsupportedMediaType},
		"no type":      {http.MethodPost, "/signals", "", "", strings.NewReader(good), http.StatusUnsupportedMediaType},
		"gzip":         {http.MethodPost, "/signals", "application/secevent+jwt", "gzip", packed, http.StatusUnsupportedMediaType},
		"a long body":  {http.MethodPost, "/signals", "application/secevent+jwt", "", rest, http.StatusRequestEntityTooLarge},
		"a long body in chunks": {
			http.MethodPost, "/signals", "application/secevent+jwt", "", io.MultiReader(strings.NewReader(strings.Repeat("x", door.MaxBody+1)), rest),
			http.StatusRequestEntityTooLarge,
		},
	} {
		r, err := http.NewRequestWithContext(t.Context(), test.method, url+test.path, test.body)
		w.must(err)
		r.Header.Set("Content-Type", test.kind)
		if name == "a long body" {
			r.ContentLength = 1 << 20
		}
		if test.coding != "" {
			r.Header.Set("Content-Encoding", test.coding)
		}
		r.Header.Set("Authorization", "Bearer "+wideKey)
		if got, err := events.Send(&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}, r); err != nil || got.Status != test.status {
			t.Errorf("%s: %+v, %v; want %d", name, got, err, test.status)
		}
	}
	close(rest.answered)
	if got := w.stands(); !slices.Equal(got, everything) {
		t.Errorf("what was refused changed something: %q", got)
	}
	t.Run("a stranger is answered without a body", func(t *testing.T) {
		conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", w.HTTPAddr().String())
		w.must(err)
		defer func() { _ = conn.Close() }()
		_, err = fmt.Fprintf(conn, "POST /signals HTTP/1.1\r\nHost: x\r\nContent-Type: application/secevent+jwt\r\nContent-Length: 1000\r\n\r\n")
		w.must(err)
		w.must(conn.SetDeadline(time.Now().Add(5 * time.Second)))
		answer := make([]byte, 12)
		if _, err := io.ReadFull(conn, answer); err != nil || string(answer) != "HTTP/1.1 401" {
			t.Errorf("%q, %v", answer, err)
		}
	})
}

// TestSlow: clients that send nothing, or one byte after the other, keep nobody out, and are cut off.
func TestSlow(t *testing.T) {
	w := open(t, overMemory(t))
	var slow []net.Conn
	for i := range 300 { // more than there are places
		conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", w.HTTPAddr().String())
		w.must(err)
		defer func() { _ = conn.Close() }()
		if i%2 == 0 {
			_, _ = fmt.Fprintf(conn, "POST /signals HTTP/1.1\r\nHost: x\r\nX-A: ")
		}
		slow = append(slow, conn)
	}
	began := time.Now()
	w.send(wideKey, event("account-disabled", user("alice"), nil))
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("beside 300 slow clients a push took %s", took)
	}
	if got, want := w.stands(), without("alice"); !slices.Equal(got, want) {
		t.Errorf("allowed afterwards:\n%q\nwant\n%q", got, want)
	}
	last := slow[len(slow)-2]
	w.must(last.SetReadDeadline(time.Now().Add(20 * time.Second)))
	if _, err := io.ReadAll(last); errors.Is(err, context.DeadlineExceeded) || isTimeout(err) {
		t.Errorf("a client that never ends its headers is not cut off: %v", err)
	}
}

func isTimeout(err error) bool {
	var of net.Error
	return errors.As(err, &of) && of.Timeout()
}

// TestResets: requests over HTTP/2 with TLS that are reset at once, many and fast, keep nobody out.
func TestResets(t *testing.T) {
	ca := harness.NewAuthority(t, "servers")
	w := open(t, func(cfg *daemon.Config) {
		overMemory(t)(cfg)
		*cfg = harness.TLS(t, t.TempDir(), ca, true, *cfg)
		cfg.TLSClientAuth = ""
		cfg.Callers[0].Credentials = append(cfg.Callers[0].Credentials, caller.Credential{ID: "certificate", DNS: "idp.internal"})
	})
	config := &tls.Config{RootCAs: harness.Pool(ca)}
	client := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: config}}
	url := "https://" + w.HTTPAddr().String() + "/signals"
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 100 {
				ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
				r, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader("x"))
				if err == nil {
					r.Header.Set("Content-Type", "application/secevent+jwt")
					r.Header.Set("Authorization", "Bearer "+wideKey)
					if got, err := client.Do(r); err == nil {
						_ = got.Body.Close()
					}
				}
				cancel()
			}
		})
	}
	all.Wait()
	certified := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{
		ForceAttemptHTTP2: true,
		TLSClientConfig:   &tls.Config{RootCAs: harness.Pool(ca), Certificates: []tls.Certificate{ca.Issue(t, harness.ForName("idp.internal"))}},
	}}
	if got, err := events.Push(client, url, "", w.sign(event("account-disabled", user("alice"), nil))); err != nil || got.Status != http.StatusUnauthorized {
		t.Errorf("without a proof: %+v, %v", got, err)
	}
	got, err := events.Push(certified, url, "", w.sign(event("account-disabled", user("alice"), nil)))
	if err != nil || got.Status != http.StatusAccepted {
		t.Errorf("%+v, %v", got, err)
	}
	if got, want := w.stands(), without("alice"); !slices.Equal(got, want) {
		t.Errorf("allowed afterwards:\n%q\nwant\n%q", got, want)
	}
}
