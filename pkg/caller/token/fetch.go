package token

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/smallfile"
)

// What a question to an issuer can take at most.
const (
	fetchTime    = 10 * time.Second
	maxRedirects = 3
	maxHeader    = 64 << 10
)

// fetcher returns what gets an issuer's keys as they are published. transport nil means one of its own.
func fetcher(i Issuer, transport http.RoundTripper) func(context.Context) ([]byte, error) {
	if i.JWKSFile != "" {
		return unhurried(func() ([]byte, error) { return smallfile.Read(i.JWKSFile, maxKeySet) })
	}
	if transport == nil {
		own := http.DefaultTransport.(*http.Transport).Clone() //nolint:forcetypeassert,errcheck // it is documented to be one
		own.MaxResponseHeaderBytes = maxHeader
		// One question in minutes: a connection that waits for the next is a descriptor that the server lacks.
		own.DisableKeepAlives = true
		transport = own
	}
	client := &http.Client{Transport: transport, Timeout: fetchTime, CheckRedirect: func(req *http.Request, before []*http.Request) error {
		switch {
		case len(before) > maxRedirects:
			return fmt.Errorf("it redirects more than %d times", maxRedirects)
		case !i.mayAsk(req.URL):
			return errors.New("it redirects to an address without https")
		}
		return nil
	}}
	return func(ctx context.Context) ([]byte, error) {
		url := i.JWKSURL
		if url == "" {
			var err error
			if url, err = i.discover(ctx, client); err != nil {
				return nil, err
			}
		}
		return get(ctx, client, url)
	}
}

// discover asks the issuer where its keys are (OpenID Connect Discovery 1.0, section 4).
func (i Issuer) discover(ctx context.Context, client *http.Client) (string, error) {
	at := strings.TrimSuffix(i.Issuer, "/") + "/.well-known/openid-configuration"
	text, err := get(ctx, client, at)
	if err != nil {
		return "", err
	}
	var said struct {
		Issuer string `json:"issuer"`
		Keys   string `json:"jwks_uri"`
	}
	if err := json.Unmarshal(text, &said); err != nil {
		return "", fmt.Errorf("%s answered what is no configuration of an issuer: %w", at, err)
	}
	if said.Issuer != i.Issuer {
		return "", fmt.Errorf("%s is the configuration of the issuer %.200q, and not of %q", at, said.Issuer, i.Issuer)
	}
	if _, err := i.address(said.Keys); err != nil {
		return "", fmt.Errorf("%s names as jwks_uri what %w", at, err)
	}
	return said.Keys, nil
}

// get returns what an address answers. The error does not show the answer.
func get(ctx context.Context, client *http.Client, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json, application/jwk-set+json")
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }() // nothing is written
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answered with the HTTP status %d", url, resp.StatusCode)
	}
	return limited(resp.Body, url)
}

// unhurried returns what reads a file, but is not held up by one that does not come, as on a file system over a network that is gone. What reads
// it then stays, alone: it is not read a second time meanwhile.
func unhurried(read func() ([]byte, error)) func(context.Context) ([]byte, error) {
	reading := make(chan struct{}, 1)
	return func(ctx context.Context) ([]byte, error) {
		select {
		case reading <- struct{}{}:
		default:
			return nil, errors.New("the file is still being read")
		}
		var (
			text []byte
			err  error
			done = make(chan struct{})
		)
		go func() {
			defer close(done)
			defer func() { <-reading }()
			err = authz.Safely("token.readFile", func() (err error) {
				text, err = read()
				return err
			})
		}()
		ctx, cancel := context.WithTimeout(ctx, fetchTime)
		defer cancel()
		select {
		case <-done:
			return text, err
		case <-ctx.Done():
			return nil, errors.New("the file cannot be read in time")
		}
	}
}

// limited reads up to maxKeySet bytes.
func limited(from io.Reader, name string) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(from, maxKeySet+1))
	if err != nil {
		return nil, fmt.Errorf("%s cannot be read: %w", name, err)
	}
	if len(text) > maxKeySet {
		return nil, fmt.Errorf("%s has more than %d bytes", name, maxKeySet)
	}
	return text, nil
}
