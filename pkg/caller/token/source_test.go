package token

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/deputyauth/deputy/pkg/authz"
)

// opened opens a verifier within a bubble. The test closes it; the bubble fails if anything of it runs afterwards.
func opened(t *testing.T, p *provider, issuers ...Issuer) *Verifier {
	t.Helper()
	v, err := Open(t.Context(), issuers, Options{transport: p})
	if err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
	return v
}

// pass has time pass within a bubble, whose clock is not the machine's.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// lasting is a token that does not end during a test.
func lasting(s signer) string {
	return s.token(nil, with(claimsAt(time.Now()), "exp", time.Now().Add(100*time.Hour).Unix()))
}

// A key that the issuer publishes is used at once, though not sooner than the issuer may be asked again, and one that it takes away is not used
// any more from the next question on, whatever is kept.
func TestRotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &provider{text: jwks(es256)}
		v := opened(t, p, login)
		defer v.Close()
		before, after := lasting(es256), lasting(rs256)
		accepted(t, v, before)
		p.publish(jwks(rs256))
		refused(t, v, after, authz.Unauthenticated, `the key "rs", which is none of`)
		pass(cooldown)
		accepted(t, v, after)
		refused(t, v, before, authz.Unauthenticated, `the key "es", which is none of`)

		p.publish(jwks(es256, rs256))
		pass(cooldown)
		accepted(t, v, before)
		accepted(t, v, after)
		p.publish(jwks(rs256))
		accepted(t, v, before)
		pass(refreshEvery)
		refused(t, v, before, authz.Unauthenticated, `the key "es", which is none of`)
		accepted(t, v, after)

		// The same key for another algorithm, and another key under the same id, end what was signed before.
		p.publish(keySetOf(with(rs256.jwk(), "alg", "PS256")))
		pass(refreshEvery)
		refused(t, v, after, authz.Unauthenticated, `the algorithm "RS256", which the issuer's key "rs" is not for`)
		p.publish(jwks(rs256))
		pass(refreshEvery)
		accepted(t, v, after)
		p.publish(jwks(signer{"rs", "RS256", ps256.key}))
		pass(refreshEvery)
		refused(t, v, after, authz.Unauthenticated, `is not signed with the key "rs"`)
	})
}

// What is read of a token for another purpose is kept no longer than its key is its issuer's, and is read of the types and issuers of that purpose alone.
func TestReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &provider{text: jwks(es256)}
		v := opened(t, p, login)
		defer v.Close()
		reader := func(types map[string][]string) *Reader[string] {
			return NewReader(v, types, func(c *Claims) (string, error) { return c.Text("sub") })
		}
		r := reader(map[string][]string{login.Issuer: {DefaultType}})
		raw := lasting(es256)
		reads := func(r *Reader[string], want string) {
			t.Helper()
			is, err := r.Read(t.Context(), raw)
			switch {
			case want == "" && (err != nil || is != claimsAt(time.Now())["sub"]):
				t.Errorf("it reads %q, %v", is, err)
			case want != "" && (is != "" || authz.KindOf(err) != authz.Unauthenticated || !strings.Contains(err.Error(), want)):
				t.Errorf("it reads %q, %v; want it refused: %s", is, err, want)
			}
		}
		reads(r, "")
		reads(r, "")
		p.publish(jwks(rs256))
		pass(refreshEvery)
		reads(r, `the key "es", which is none of`)
		p.publish(jwks(es256))
		pass(refreshEvery)
		reads(r, "")
		reads(reader(map[string][]string{login.Issuer: {"txntoken+jwt"}}), "is of the type")
		reads(reader(map[string][]string{"https://another.example.com": {DefaultType}}), "none of this server's issuers")
		reads(reader(nil), "none of this server's issuers")
	})
}

// Tokens that name keys that nobody knows have the issuer asked at most once in a while, however many there are, and leave nothing behind.
func TestUnknownKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &provider{text: jwks(es256)}
		v := opened(t, p, login)
		defer v.Close()
		flood := func() {
			for i := range 1000 {
				refused(t, v, signer{fmt.Sprint("unknown-", i), "ES256", es256.key}.token(nil, claimsAt(time.Now())), authz.Unauthenticated, "which is none of")
			}
		}
		for n := range 5 {
			flood()
			if got := p.questions(); got != n+1 {
				t.Fatalf("the issuer was asked %d times after %d floods; want once each", got, n)
			}
			pass(cooldown)
		}
		if n := len(v.before.young) + len(v.before.old); n != 0 {
			t.Errorf("%d tokens are kept", n)
		}
	})
}

// One question is under way at a time. It goes on when the call that asked it ends, and serves all that wait for it; so many may wait.
func TestOneQuestionAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hold := make(chan struct{})
		p := &provider{text: jwks(es256), hold: hold}
		v := opened(t, p, login)
		defer v.Close()
		raw := lasting(es256)

		hasty, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		_, err := v.Verify(hasty, raw)
		e, ok := errors.AsType[*authz.Error](err)
		if !ok || e.Kind != authz.Unavailable || e.Reason != authz.ReasonIssuerUnavailable || time.Since(began) != time.Second {
			t.Errorf("a call that has one second: %v after %v; want Unavailable after that second", err, time.Since(began))
		}
		var wait sync.WaitGroup
		for range maxWaiting {
			wait.Go(func() { accepted(t, v, raw) })
		}
		synctest.Wait()
		refused(t, v, raw, authz.Unavailable, "the keys of the issuer https://login.example.com cannot be had now")
		if n := p.questions(); n != 1 {
			t.Errorf("the issuer was asked %d times; want once", n)
		}
		close(hold)
		wait.Wait()
		accepted(t, v, raw)
	})
}

// An issuer that does not answer is waited for so long, then tokens are neither accepted nor refused; it is asked again in the background.
func TestIssuerHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hold := make(chan struct{})
		p := &provider{text: jwks(es256), hold: hold}
		v := opened(t, p, login)
		defer v.Close()
		began := time.Now()
		refused(t, v, lasting(es256), authz.Unavailable, "cannot be had now")
		if took := time.Since(began); took != fetchTime {
			t.Errorf("it took %v; want %v", took, fetchTime)
		}
		refused(t, v, lasting(es256), authz.Unavailable, "cannot be had now")
		if took := time.Since(began); took != fetchTime || p.questions() != 1 {
			t.Errorf("the next call took until %v, after %d questions; want none of either", took, p.questions())
		}
		p.mu.Lock()
		p.hold = nil
		p.mu.Unlock()
		pass(cooldown)
		if n := p.questions(); n != 2 {
			t.Errorf("%d questions; want the second in the background", n)
		}
		accepted(t, v, lasting(es256))
	})
}

// When it is time to ask in the background, and a question is under way already, that one will do. Close ends it.
func TestQuestionUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &provider{text: jwks(es256)}
		v := opened(t, p, login)
		pass(refreshEvery - time.Second)
		p.mu.Lock()
		p.hold = make(chan struct{})
		p.mu.Unlock()
		var wait sync.WaitGroup
		wait.Go(func() { refused(t, v, lasting(rs256), authz.Unavailable, "cannot be had now") })
		pass(2 * time.Second)
		if n := p.questions(); n != 2 {
			t.Errorf("%d questions; want the first and the one for the unknown key", n)
		}
		began := time.Now()
		v.Close()
		wait.Wait()
		if took := time.Since(began); took != 0 {
			t.Errorf("closing took %v", took)
		}
		accepted(t, v, lasting(es256))
	})
}

// While an issuer is down its last keys are used for so long, and no longer; then tokens are neither accepted nor refused.
func TestIssuerDown(t *testing.T) {
	for _, stale := range []time.Duration{0, 10 * time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			core, logs := observer.New(zapcore.DebugLevel)
			p := &provider{text: jwks(es256)}
			issuer := login
			issuer.Stale = stale
			v, err := Open(t.Context(), []Issuer{issuer}, Options{transport: p, Log: zap.New(core)})
			if err != nil {
				t.Fatal(err)
			}
			defer v.Close()
			synctest.Wait()
			had := time.Now()
			raw := lasting(es256)
			accepted(t, v, raw)
			p.publish(nil)
			for time.Since(had) < issuer.complete().Stale {
				accepted(t, v, raw)
				accepted(t, v, lasting(es256))
				pass(cooldown)
			}
			refused(t, v, raw, authz.Unavailable, "cannot be had now") // though it was accepted before
			refused(t, v, lasting(es256), authz.Unavailable, "cannot be had now")
			asked := p.questions()
			for range 100 {
				refused(t, v, lasting(rs256), authz.Unavailable, "cannot be had now")
			}
			if p.questions() != asked {
				t.Errorf("%d questions were asked of an issuer that has just failed", p.questions()-asked)
			}
			p.publish(jwks(es256))
			pass(cooldown)
			accepted(t, v, raw)

			var said []string
			for _, entry := range logs.All() {
				said = append(said, entry.Message)
			}
			if got := strings.Join(said, "; "); got != "the issuer's keys cannot be had; the last ones are used for a while; the issuer's keys can be had again" {
				t.Errorf("the log says: %s", got)
			}
		})
	}
}

// An issuer that is down from the start has no last keys, and the log does not speak of them.
func TestIssuerDownAtStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		core, logs := observer.New(zapcore.DebugLevel)
		v, err := Open(t.Context(), []Issuer{login}, Options{transport: &provider{}, Log: zap.New(core)})
		if err != nil {
			t.Fatal(err)
		}
		defer v.Close()
		synctest.Wait()
		if all := logs.All(); len(all) != 1 || !strings.Contains(all[0].Message, "there are none yet") {
			t.Errorf("the log says %v", all)
		}
	})
}

// A file that does not come, as on a file system that is gone, holds up neither what waits for it nor the end, and is read by one goroutine only.
func TestFileHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		comes := make(chan struct{})
		var reads atomic.Int32
		fetch := unhurried(func() ([]byte, error) {
			reads.Add(1)
			<-comes
			return []byte("here"), nil
		})
		start := time.Now()
		if text, err := fetch(t.Context()); err == nil || text != nil || time.Since(start) != fetchTime {
			t.Errorf("after %s: %q, %v", time.Since(start), text, err)
		}
		if _, err := fetch(t.Context()); err == nil || time.Since(start) != fetchTime || reads.Load() != 1 {
			t.Errorf("after %s and %d reads: %v", time.Since(start), reads.Load(), err)
		}
		close(comes)
		synctest.Wait()
		if text, err := fetch(t.Context()); err != nil || string(text) != "here" {
			t.Errorf("once it comes: %q, %v", text, err)
		}
	})
	ended, end := context.WithCancel(t.Context())
	end()
	v := &source{fetch: func(ctx context.Context) ([]byte, error) { <-ctx.Done(); return nil, ctx.Err() }, now: time.Now, ctx: t.Context(), log: zap.NewNop()}
	if err := v.load(ended); !errors.Is(err, context.Canceled) {
		t.Errorf("told to end, a load says %v", err)
	}
}

// While an issuer is down, a token that names a key that is not known cannot be judged; one with a known key is.
func TestUnknownKeyWhileDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &provider{text: jwks(es256)}
		v := opened(t, p, login)
		defer v.Close()
		p.publish(nil)
		pass(cooldown)
		refused(t, v, lasting(rs256), authz.Unavailable, "cannot be had now")
		accepted(t, v, lasting(es256))
		// What is published is broken: as if it were down.
		p.publish([]byte(`{"keys":[]}`))
		pass(refreshEvery)
		accepted(t, v, lasting(es256))
	})
}

// TestReopen: an issuer that stays the same is not asked anew, and goes on when the verifier before is closed; one that changed has nothing of
// what it was.
func TestReopen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &provider{text: jwks(es256)}
		second := login
		second.Issuer = "https://second.example.com"
		first := opened(t, p, login, second)
		raw := lasting(es256)
		ofSecond := es256.token(nil, with(claimsAt(time.Now()), "iss", second.Issuer))
		accepted(t, first, raw)
		asked := p.questions()

		p.publish(nil) // nothing may be asked of it now
		changed := second
		changed.Audiences = []string{"files"}
		next, err := first.Reopen(t.Context(), []Issuer{login, changed})
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		accepted(t, next, raw)
		if n := p.questions() - asked; n != 1 {
			t.Errorf("%d questions were asked anew; want that of the issuer that changed", n)
		}
		refused(t, next, ofSecond, authz.Unavailable, "cannot be had now")
		if _, err := first.Verify(t.Context(), ofSecond); err != nil {
			t.Errorf("the verifier before: %v", err)
		}
		first.Close()
		first.Close()
		// A call that began with the verifier before goes on.
		accepted(t, first, raw)
		if _, err := first.Verify(t.Context(), ofSecond); err != nil {
			t.Errorf("the verifier before, closed: %v", err)
		}
		p.publish(jwks(es256))
		pass(2 * time.Hour)
		accepted(t, next, raw)
		refused(t, first, ofSecond, authz.Unavailable, "cannot be had now") // it has ended, and its keys are not asked for any more
		refused(t, next, ofSecond, authz.Unauthenticated, "is not for this server")

		// What is wrong leaves the one in force as it is.
		if _, err := next.Reopen(t.Context(), []Issuer{login, {}}); err == nil {
			t.Error("an issuer without a name is taken")
		}
		pass(2 * time.Hour)
		accepted(t, next, raw)
		next.Close()
		// From a closed one everything begins anew.
		last, err := next.Reopen(t.Context(), []Issuer{login})
		if err != nil {
			t.Fatal(err)
		}
		defer last.Close()
		accepted(t, last, raw)
		pass(2 * time.Hour)
		accepted(t, last, raw)
	})
}

// A file with keys is read again when it changes. A file that is wrong is refused at the start, and later leaves the last keys in force.
func TestFile(t *testing.T) {
	issuer := fromFile(t, login, jwks(es256))
	write := func(text []byte) {
		if err := os.WriteFile(issuer.JWKSFile, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		v := opened(t, nil, issuer)
		defer v.Close()
		raw := lasting(es256)
		accepted(t, v, raw)
		write(jwks(rs256))
		pass(fileEvery)
		refused(t, v, raw, authz.Unauthenticated, "which is none of")
		accepted(t, v, lasting(rs256))
		write([]byte("{"))
		pass(DefaultStale - fileEvery)
		accepted(t, v, lasting(rs256))
		pass(fileEvery)
		refused(t, v, lasting(rs256), authz.Unavailable, "cannot be had now")
		write(jwks(es256))
		pass(fileEvery)
		accepted(t, v, raw)
	})
	for name, text := range map[string][]byte{"wrong": []byte("{}"), "large": []byte(strings.Repeat(" ", maxKeySet+1))} {
		write(text)
		if _, err := Open(t.Context(), []Issuer{issuer}, Options{}); err == nil || !strings.Contains(err.Error(), "jwks_file cannot be used") {
			t.Errorf("a file that is %s: %v", name, err)
		}
	}
	issuer.JWKSFile += ".pipe"
	if err := syscall.Mkfifo(issuer.JWKSFile, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), []Issuer{issuer}, Options{}); err == nil || !strings.Contains(err.Error(), "is no regular file") {
		t.Errorf("a named pipe: %v", err)
	}
	issuer.JWKSFile += ".gone"
	if _, err := Open(t.Context(), []Issuer{issuer}, Options{}); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("a file that is gone: %v", err)
	}
}

// TestFetch: how an issuer is asked, over HTTP: what it may answer, where it may send the question on, and where discovery leads.
func TestFetch(t *testing.T) {
	mux := http.NewServeMux()
	server := httptest.NewServer(mux)
	defer server.Close()
	secure := httptest.NewTLSServer(mux)
	defer secure.Close()
	mux.HandleFunc("/keys", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(jwks(es256)) })
	mux.HandleFunc("/large", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(`{"keys":[],"x":"` + strings.Repeat("x", maxKeySet) + `"}`))
	})
	mux.HandleFunc("/down", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) })
	mux.HandleFunc("/headers", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X", strings.Repeat("x", 2*maxHeader))
		_, _ = w.Write(jwks(es256))
	})
	mux.HandleFunc("/moved/{n}", func(w http.ResponseWriter, r *http.Request) {
		to := "/keys"
		if n := r.PathValue("n"); n != "1" {
			to = "/moved/" + n[1:]
		}
		http.Redirect(w, r, to, http.StatusFound)
	})
	mux.HandleFunc("/away", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://example.com/keys", http.StatusFound)
	})
	for _, name := range []string{"good", "slash/", "other", "plain", "none"} {
		mux.HandleFunc("/"+strings.TrimSuffix(name, "/")+"/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
			issuer, keys := server.URL+"/"+name, server.URL+"/keys"
			switch name {
			case "other":
				issuer = server.URL + "/good"
			case "plain":
				keys = "http://example.com/keys"
			case "none":
				_, _ = w.Write([]byte("<html>"))
			}
			_, _ = fmt.Fprintf(w, `{"issuer":%q,"jwks_uri":%q}`, issuer, keys)
		})
	}
	for name, test := range map[string]struct{ issuer, url, want string }{
		"keys":                     {"", "/keys", ""},
		"redirected":               {"", "/moved/321", ""},
		"redirected too often":     {"", "/moved/4321", "it redirects more than 3 times"},
		"redirected to plain HTTP": {"", "/away", "it redirects to an address without https"},
		"too large":                {"", "/large", "has more than 1048576 bytes"},
		"large headers":            {"", "/headers", "exceeded"},
		"down":                     {"", "/down", "answered with the HTTP status 503"},
		"not there":                {"", "/nowhere", "answered with the HTTP status 404"},
		"an unknown authority":     {"", secure.URL + "/keys", "certificate signed by unknown authority"},
		"discovery":                {"/good", "", ""},
		"discovery with a slash":   {"/slash/", "", ""},
		"another's configuration":  {"/other", "", `is the configuration of the issuer "` + server.URL + `/good", and not of`},
		"keys over plain HTTP":     {"/plain", "", "names as jwks_uri what is"},
		"no configuration":         {"/none", "", "answered what is no configuration of an issuer"},
	} {
		t.Run(name, func(t *testing.T) {
			issuer := login
			issuer.LoopbackHTTP, issuer.JWKSURL = true, ""
			if test.issuer != "" {
				issuer.Issuer = server.URL + test.issuer
			} else if issuer.JWKSURL = test.url; strings.HasPrefix(test.url, "/") {
				issuer.JWKSURL = server.URL + test.url
			}
			v := open(t, Options{}, issuer)
			_, err := v.Verify(t.Context(), es256.token(nil, with(claimsAt(time.Now()), "iss", issuer.Issuer)))
			e, _ := errors.AsType[*authz.Error](err)
			switch {
			case test.want == "" && err == nil:
			case test.want == "" || e == nil || e.Kind != authz.Unavailable || e.Err == nil || !strings.Contains(e.Err.Error(), test.want):
				t.Errorf("%v; want Unavailable because of %q", err, test.want)
			case strings.Contains(e.Message, test.want):
				t.Errorf("the caller is told the cause: %s", e.Message)
			}
		})
	}
}

// The tokens that are kept are bounded, and the one that is used stays.
func TestCacheIsBounded(t *testing.T) {
	var c cache[verified]
	digest := func(i uint64) (d [sha256.Size]byte) {
		binary.BigEndian.PutUint64(d[:], i)
		return d
	}
	used := &verified{}
	c.put(digest(0), used)
	for i := range uint64(10 * cacheHalf) {
		c.put(digest(i+1), &verified{})
		if i%100 == 0 && c.get(digest(0)) != used {
			t.Fatalf("after %d others the token that is used is forgotten", i)
		}
		if n := len(c.young) + len(c.old); n > 2*cacheHalf {
			t.Fatalf("%d tokens are kept; want at most %d", n, 2*cacheHalf)
		}
	}
	if c.get(digest(1)) != nil {
		t.Error("a token that was not used is still known")
	}
}

// Signatures take turns, so many wait, and a call's end ends its waiting.
func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := newTurns()
		done := make(chan struct{})
		var wait sync.WaitGroup
		for range cap(turns.busy) + maxTurns {
			wait.Go(func() {
				if err := turns.do(t.Context(), func() error { <-done; return nil }); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		if err := turns.do(t.Context(), func() error { return nil }); authz.KindOf(err) != authz.Exhausted {
			t.Errorf("one more than may wait: %v; want Exhausted", err)
		}
		close(done)
		wait.Wait()
		// A turn that panics is given back.
		for range 2 * cap(turns.busy) {
			if err := authz.Safely("test", func() error { return turns.do(t.Context(), func() error { panic("x") }) }); err == nil {
				t.Error("a panic is no error")
			}
		}
		hold := make(chan struct{})
		for range cap(turns.busy) {
			wait.Go(func() { _ = turns.do(t.Context(), func() error { <-hold; return nil }) })
		}
		synctest.Wait()
		ended, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := turns.do(ended, func() error { return nil }); authz.KindOf(err) != authz.Exhausted {
			t.Errorf("a call that ended meanwhile: %v", err)
		}
		close(hold)
		wait.Wait()
	})
}
