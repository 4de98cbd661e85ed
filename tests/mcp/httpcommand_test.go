package mcp_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/deputyauth/deputy/pkg/caller/token"
	"github.com/deputyauth/deputy/pkg/cli"
	"github.com/deputyauth/deputy/pkg/daemon"
	"github.com/deputyauth/deputy/tests/harness"
)

// provider is a running OpenID provider: see tests/tokens/provider.
type provider string

// startProvider builds the provider and runs it until the test ends.
func startProvider(t *testing.T) provider {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "provider")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", binary, ".")
	build.Dir = "../tokens/provider"
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	run := exec.CommandContext(t.Context(), binary, "-issuer", "https://idp.example")
	stdin, err := run.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := run.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := run.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = stdin.Close() // which ends it
		_ = run.Wait()
	})
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return provider(strings.TrimSpace(line))
}

// keys are what it signs with now.
func (p provider) keys(t *testing.T) []byte {
	t.Helper()
	resp, err := http.Get(string(p) + "/keys")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// ask asks for a token.
func (p provider) ask(t *testing.T, client string, form url.Values) string {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, string(p)+"/oauth/token", strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	request.SetBasicAuth(url.QueryEscape(client), "secret")
	resp, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	text, _ := io.ReadAll(resp.Body)
	var said struct {
		Token string `json:"access_token"`
	}
	if err := json.Unmarshal(text, &said); err != nil || said.Token == "" {
		t.Fatalf("the provider answers with the status %d, %s", resp.StatusCode, text)
	}
	return said.Token
}

// token is one with which bot acts for a person, at an audience (RFC 8693), with scopes.
func (p provider) token(t *testing.T, person, audience string, scopes ...string) string {
	t.Helper()
	own := func(client string) string {
		return p.ask(t, client, url.Values{"grant_type": {"client_credentials"}})
	}
	const access = "urn:ietf:params:oauth:token-type:access_token"
	return p.ask(t, "bot@idp", url.Values{
		"grant_type":    {"urn:ietf:params:oauth:grant-type:token-exchange"},
		"subject_token": {own(person + "@idp")}, "subject_token_type": {access}, "actor_token": {own("bot@idp")}, "actor_token_type": {access},
		"audience": {audience}, "scope": {strings.Join(append(scopes, "org:acme"), " ")},
	})
}

var listensAt = regexp.MustCompile(`"addr": "([^"]+)"`)

// TestHTTPCommands: deputy mcp approve and deputy mcp guard in front of a server over HTTP, with tokens of a real OpenID provider, which Deputy
// verifies too; over gRPC, and in the guard's own process.
func TestHTTPCommands(t *testing.T) {
	t.Parallel()
	idp := startProvider(t)
	folder := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(folder, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	keys := file("keys.json", string(idp.keys(t)))
	config := file("guard.yaml", filesMap)
	issuers := file("issuers.yaml", `
issuers:
  - issuer: https://idp.example
    algorithms: [RS256]
    jwks_file: keys.json
    actors: {audiences: [`+resource+`], types: [JWT], agent: "{act.sub}", principal: "user:{sub}", tenant: "{org_id}"}
callers: []
`)
	dir := filepath.Join(t.TempDir(), "data")
	w := openWith(t, dir, func(c *daemon.Config) {
		c.Issuers = []token.Issuer{{Issuer: "https://idp.example", Algorithms: []string{"RS256"}, JWKSFile: keys, OtherPurposes: true}}
		c.Actors = actors(t, "https://idp.example", token.PlainType)
	}, append(everyone("read"), "file:a.txt#reader for alice", "file:b.txt#reader for bob")...)
	w.direct(t)
	upstream := httptest.NewServer(sdk.NewStreamableHTTPHandler(func(*http.Request) *sdk.Server { return files() }, nil))
	t.Cleanup(func() {
		upstream.CloseClientConnections()
		upstream.Close()
	})
	env := map[string]string{"DEPUTY_ENDPOINT": w.addr, "DEPUTY_KEY": harness.ServiceKey}
	guard := []string{
		"mcp", "guard", "--config", config, "--listen", "127.0.0.1:0", "--upstream", upstream.URL, "--resource", resource, "--issuers", issuers, "--require-scope", "mcp:files",
	}
	without := func(flag string) []string {
		var rest []string
		for i := 0; i < len(guard); i++ {
			if guard[i] == flag {
				i++
				continue
			}
			rest = append(rest, guard[i])
		}
		return rest
	}
	var out bytes.Buffer
	if code, errs := deputy(t.Context(), strings.NewReader(""), &out, env, "mcp", "approve", "--config", config, "--upstream", upstream.URL); code != cli.ExitOK ||
		!strings.Contains(out.String(), "tools are approved") {
		t.Fatalf("approve: exit code %d, %s%s", code, out.String(), errs)
	}
	for want, args := range map[string][]string{
		"--listen is missing":                without("--listen"),
		"--resource is missing":              without("--resource"),
		"--issuers is missing":               without("--issuers"),
		"for an MCP server over HTTP":        without("--upstream"),
		"exclude each other":                 append(guard, "--agent", "bot"),
		"leave out the command":              append(guard, "--", "server"),
		"makes no tokens for this guard":     append(guard, "--resource", "https://other.example.com"),
		"lets other machines in without TLS": append(guard, "--listen", "0.0.0.0:0"),
		"is not secured by TLS":              append(guard, "--upstream", "http://files.internal/mcp"),
		"is no scope":                        append(guard, "--require-scope", "read write"),
	} {
		if code, errs := deputy(t.Context(), strings.NewReader(""), io.Discard, env, args...); code != cli.ExitError || !strings.Contains(errs, want) {
			t.Errorf("exit code %d, %s; want %s", code, errs, want)
		}
	}
	forAlice, forBob := idp.token(t, "alice", resource, "mcp:files"), idp.token(t, "bob", resource, "mcp:files", "mcp:other")
	forOther, unscoped := idp.token(t, "alice", "https://other.example.com", "mcp:files"), idp.token(t, "alice", resource, "mcp:other")
	serves := func(t *testing.T, env map[string]string, args []string) {
		t.Helper()
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		errs, toErrs := io.Pipe()
		ended := make(chan int, 1)
		go func() {
			ended <- cli.Run(ctx, args, cli.Streams{In: strings.NewReader(""), Out: io.Discard, Err: toErrs}, func(name string) (string, bool) {
				value, found := env[name]
				return value, found
			})
			_ = toErrs.Close()
		}()
		lines, said := bufio.NewScanner(errs), ""
		var at []string
		for at == nil && lines.Scan() {
			said += lines.Text() + "\n"
			at = listensAt.FindStringSubmatch(lines.Text())
		}
		if at == nil {
			t.Fatalf("the guard ends: %s", said)
		}
		go func() { _, _ = io.Copy(io.Discard, errs) }()
		connect := func(raw string) (*guarded, error) {
			session, err := newClient(nil).Connect(t.Context(), &sdk.StreamableClientTransport{
				Endpoint: "http://" + at[1] + "/files", HTTPClient: &http.Client{Transport: bearer(raw)}, MaxRetries: -1,
			}, nil)
			return &guarded{session: session}, err
		}
		for raw, want := range map[string][2]string{forAlice: {"read a.txt", notAllowed}, forBob: {notAllowed, "read b.txt"}} {
			g, err := connect(raw)
			if err != nil {
				t.Fatal(err)
			}
			for i, path := range []string{"a.txt", "b.txt"} {
				if got := g.call(t, "read", map[string]any{"path": path}); got != want[i] {
					t.Errorf("%s: %s, want %s", path, got, want[i])
				}
			}
			_ = g.session.Close()
		}
		if _, err := connect(forOther); err == nil || !strings.Contains(err.Error(), "Unauthorized") {
			t.Errorf("a token for something else: %v", err)
		}
		if _, err := connect(unscoped); err == nil || !strings.Contains(err.Error(), "Forbidden") {
			t.Errorf("a token without the scope: %v", err)
		}
		stop()
		if code := <-ended; code != cli.ExitOK {
			t.Errorf("the guard ends with %d", code)
		}
	}
	serves(t, env, guard)
	w.close()
	serves(t, nil, append(guard, "--data-dir", dir))
}
