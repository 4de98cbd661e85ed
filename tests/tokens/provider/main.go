// Command provider is an OpenID provider for tests: the example server of github.com/zitadel/oidc, with clients that get JSON Web Tokens for
// themselves (OAuth 2.0 client credentials). It is a module of its own, and runs as a process of its own, because Deputy has no use for
// what it brings along.
//
// It prints its address in a line, which is its issuer too, unless it is told another one with -issuer. It ends when its standard input does. The id of
// a client is what it is, "billing@deputy" being a client whose tokens have the subject "billing" and the audience "deputy"; every secret is "secret".
// POST /rotate has it sign with a new key, and publish that one alone.
//
// A client exchanges tokens (RFC 8693): the subject's token for one of the subject's in which the actor acts. The scope "org:acme" has it say in which
// organization ("org_id"). The actor in the subject's token before is an earlier actor in the new one.
package main

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/zitadel/oidc/v3/example/server/exampleop"
	"github.com/zitadel/oidc/v3/example/server/storage"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

func main() {
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	if err := serve(); err != nil {
		log.Fatal(err)
	}
}

func serve() error {
	listener, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	address := "http://" + listener.Addr().String()
	named := flag.String("issuer", address, "the issuer that its tokens name")
	flag.Parse()
	issuer := *named
	clients := &clients{Storage: storage.NewStorage(storage.NewUserStore(issuer))}
	if err := clients.rotate(); err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle("/", exampleop.SetupServer(issuer, clients, slog.New(slog.DiscardHandler), false))
	mux.HandleFunc("POST /rotate", func(w http.ResponseWriter, _ *http.Request) {
		if err := clients.rotate(); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	})
	fmt.Println(address) //nolint:forbidigo // what it is asked for
	return (&http.Server{Handler: mux, ReadHeaderTimeout: time.Minute}).Serve(listener)
}

// clients is the example's storage with clients, and a key, of the tests'.
type clients struct {
	*storage.Storage

	mu  sync.Mutex
	key key
}

func (c *clients) rotate() error {
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.key = key{id: rand.Text(), private: private}
	return err
}

// SigningKey is op.Storage's.
func (c *clients) SigningKey(context.Context) (op.SigningKey, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return signing{c.key}, nil
}

// KeySet is op.Storage's.
func (c *clients) KeySet(context.Context) ([]op.Key, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return []op.Key{public{c.key}}, nil
}

// ClientCredentials is op.ClientCredentialsStorage's.
func (c *clients) ClientCredentials(ctx context.Context, id, secret string) (op.Client, error) {
	if secret != "secret" {
		return nil, errors.New("a wrong secret")
	}
	one, err := c.Storage.ClientCredentials(ctx, "sid1", "verysecret") // the example's
	return client{one, id}, err
}

// ClientCredentialsTokenRequest is op.ClientCredentialsStorage's.
func (c *clients) ClientCredentialsTokenRequest(_ context.Context, id string, scopes []string) (op.TokenRequest, error) { //nolint:unparam // the signature is an interface's
	subject, audience, _ := strings.Cut(id, "@")
	return &oidc.JWTTokenRequest{Subject: subject, Audience: []string{audience}, Scopes: scopes}, nil
}

// AuthorizeClientIDSecret is op.Storage's.
func (*clients) AuthorizeClientIDSecret(_ context.Context, _, secret string) error {
	if secret != "secret" {
		return errors.New("a wrong secret")
	}
	return nil
}

// GetClientByClientID is op.Storage's.
func (c *clients) GetClientByClientID(ctx context.Context, id string) (op.Client, error) {
	one, err := c.Storage.ClientCredentials(ctx, "sid1", "verysecret") // the example's
	return client{one, id}, err
}

// ValidateTokenExchangeRequest is op.TokenExchangeStorage's: everybody may act for everybody here.
func (*clients) ValidateTokenExchangeRequest(_ context.Context, request op.TokenExchangeRequest) error {
	if request.GetExchangeActor() == "" {
		return errors.New("no actor")
	}
	request.SetRequestedTokenType(oidc.AccessTokenType)
	request.SetCurrentScopes(request.GetScopes())
	return nil
}

// GetPrivateClaimsFromTokenExchangeRequest is op.TokenExchangeStorage's.
//
//nolint:unparam // its interface has the error
func (*clients) GetPrivateClaimsFromTokenExchangeRequest(_ context.Context, request op.TokenExchangeRequest) (map[string]any, error) {
	act := map[string]any{"sub": request.GetExchangeActor()}
	if prior, has := request.GetExchangeSubjectTokenClaims()["act"]; has {
		act["act"] = prior
	}
	claims := map[string]any{"act": act, "scope": strings.Join(request.GetScopes(), " ")}
	for _, scope := range request.GetScopes() {
		if org, found := strings.CutPrefix(scope, "org:"); found {
			claims["org_id"] = org
		}
	}
	return claims, nil
}

// client gets JSON Web Tokens.
type client struct {
	op.Client

	id string
}

// GetID is op.Client's.
func (c client) GetID() string { return c.id }

// AccessTokenType is op.Client's.
func (client) AccessTokenType() op.AccessTokenType { return op.AccessTokenTypeJWT }

// key is a key with its id.
type key struct {
	id      string
	private *rsa.PrivateKey
}

// ID is op.Key's.
func (k key) ID() string { return k.id }

type signing struct{ key }

// SignatureAlgorithm is op.SigningKey's.
func (signing) SignatureAlgorithm() jose.SignatureAlgorithm { return jose.RS256 }

// Key is op.SigningKey's.
func (s signing) Key() any { return s.private }

type public struct{ key }

// Algorithm is op.Key's.
func (public) Algorithm() jose.SignatureAlgorithm { return jose.RS256 }

// Use is op.Key's.
func (public) Use() string { return "sig" }

// Key is op.Key's.
func (p public) Key() any { return p.private.Public() }
