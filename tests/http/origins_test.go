package http_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/deputyauth/deputy/pkg/daemon"
	"github.com/deputyauth/deputy/tests/harness"
)

// TestOrigins: pages of other origins are refused, unless their origin is named; programs, which send none, are not asked.
func TestOrigins(t *testing.T) {
	const named, other = "https://console.example.com", "https://evil.example.com"
	preflight := func(w *world, origin string) answered {
		return w.send(http.MethodOptions, checkPath, nil, "Origin", origin, "Access-Control-Request-Method", "POST",
			"Access-Control-Request-Headers", "authorization,connect-protocol-version,content-type")
	}
	call := func(w *world, origin string, more ...string) answered {
		return w.json(checkPath, check, append([]string{"Origin", origin}, more...)...)
	}
	closed := open(t)
	for _, origin := range []string{named, other, "null"} {
		if got := preflight(closed, origin); got.status == http.StatusOK || got.status == http.StatusNoContent || got.header.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("a server without origins tells %s: %d %v", origin, got.status, got.header)
		}
		if got := call(closed, origin); got.status != http.StatusForbidden || got.Code != "permission_denied" {
			t.Errorf("a page of %s is answered %d %s", origin, got.status, got.text)
		}
	}
	if got := call(closed, other, "Sec-Fetch-Site", "cross-site"); got.status != http.StatusForbidden {
		t.Errorf("a page of another site is answered %d %s", got.status, got.text)
	}
	closed.stillAnswers()

	opened := open(t, func(cfg *daemon.Config) { cfg.HTTPOrigins = []string{named} })
	got := preflight(opened, named)
	if got.header.Get("Access-Control-Allow-Origin") != named || !strings.Contains(got.header.Get("Access-Control-Allow-Headers"), "authorization") ||
		got.header.Get("Access-Control-Allow-Credentials") != "" {
		t.Errorf("the page is told %d %v", got.status, got.header)
	}
	if got := call(opened, named, "Sec-Fetch-Site", "cross-site"); got.status != http.StatusOK || got.header.Get("Access-Control-Allow-Origin") != named {
		t.Errorf("the page is answered %d %v %s", got.status, got.header, got.text)
	}
	if got := preflight(opened, other); got.header.Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("another page is told %v", got.header)
	}
	if got := call(opened, other); got.status != http.StatusForbidden || got.header.Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("another page is answered %d %v", got.status, got.header)
	}
	for _, wrong := range []string{"*", "console.example.com", "https://console.example.com/", "https://*.example.com", ""} {
		cfg := daemon.Config{HTTPAddr: "127.0.0.1:0", HTTPOrigins: []string{wrong}, PresharedKeys: []string{harness.ServiceKey}, Engine: harness.Embedded(t)}
		if err := cfg.Check(); err == nil || !strings.Contains(err.Error(), "--http-origin") {
			t.Errorf("the origin %q: %v", wrong, err)
		}
	}
}
