// Package signals takes security events on the door over HTTP: push delivery of security event tokens (RFC 8935). It reads requests within limits,
// and answers them. How long a request may take is its server's. New is given the function that identifies the sender of a token, and the sender acts on
// the token: the door knows neither callers nor what an event means.
package signals

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/turns"
)

// Path is where tokens are taken.
const Path = "/signals"

// What a request may take.
const (
	// MaxBody is how many bytes a request's body can have. A token has fewer.
	MaxBody = 64 << 10
	// maxWorking is how many requests of one caller are read, and worked on, at once; there are some more for the others.
	maxWorking = 64
	// workTime is how long a token may be worked on.
	workTime = 14 * time.Second
)

// Sender takes the tokens of one caller. What it returns has a kind, and a reason that says what is wrong with the token.
type Sender func(ctx context.Context, token string) error

// Identify returns the sender whose proof a request brings, with the name of its caller, before its body is read. Errors: Unauthenticated, Denied,
// Unavailable.
type Identify func(r *http.Request) (caller string, takes Sender, err error)

// Door answers requests. It is safe for concurrent use.
type Door struct {
	identify Identify
	working  *turns.Set
}

// New returns the door.
func New(identify Identify) *Door {
	return &Door{identify: identify, working: turns.New("tokens", maxWorking)}
}

// ServeHTTP takes a token, and answers once what becomes of it is durable.
func (d *Door) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	if err := authz.Safely("signals.ServeHTTP", func() error { return d.take(w, r) }); err != nil {
		if r.ProtoMajor == 1 {
			// Else the server would read what is left of the body before it answers.
			w.Header().Set("Connection", "close")
		}
		answer(w, err)
		return
	}
	w.WriteHeader(http.StatusAccepted)
}

// take has the sender take the request's token.
func (d *Door) take(w http.ResponseWriter, r *http.Request) error {
	switch {
	case r.URL.Path != Path:
		return &wrong{http.StatusNotFound, "security events are taken at " + Path}
	case r.Method != http.MethodPost:
		w.Header().Set("Allow", http.MethodPost)
		return &wrong{http.StatusMethodNotAllowed, "a security event token is sent with POST"}
	}
	caller, sender, err := d.identify(r)
	if err != nil {
		return err
	}
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/secevent+jwt" {
		return &wrong{http.StatusUnsupportedMediaType, `the Content-Type has to be "application/secevent+jwt"`}
	}
	if coding := r.Header.Get("Content-Encoding"); coding != "" && !strings.EqualFold(coding, "identity") {
		return &wrong{http.StatusUnsupportedMediaType, "a token is sent as it is, without a Content-Encoding"}
	}
	if r.ContentLength > MaxBody {
		return tooLarge()
	}
	turn, err := d.working.Take(authz.WithCaller(r.Context(), caller), 1, 0)
	if err != nil {
		return authz.Errorf(authz.Unavailable, authz.ReasonBusy, "too many tokens are being taken; send it again")
	}
	defer turn.Give()
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, MaxBody))
	if err != nil {
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			return tooLarge()
		}
		return &wrong{http.StatusBadRequest, "the body broke off, or took too long"}
	}
	// What has begun is done also for a client that goes away: it will send the token again.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), workTime)
	defer cancel()
	return sender(ctx, strings.TrimSpace(string(body)))
}

// wrong is a request that is none for this door.
type wrong struct {
	status int
	says   string
}

// Error says what is wrong with it.
func (e *wrong) Error() string { return e.says }

func tooLarge() error {
	return &wrong{http.StatusRequestEntityTooLarge, "the body has more than " + strconv.Itoa(MaxBody) + " bytes"}
}

// codes are RFC 8935's (section 2.4) for the reasons that a token is refused for.
var codes = map[string]string{
	authz.ReasonSignalKey: "invalid_key", authz.ReasonSignalIssuer: "invalid_issuer", authz.ReasonSignalAudience: "invalid_audience",
}

// answer says why a token is not taken: a status, and RFC 8935's JSON.
func answer(w http.ResponseWriter, err error) {
	status, code, says, after := http.StatusInternalServerError, "", "the server failed; send it again", time.Duration(0)
	request, isWrong := errors.AsType[*wrong](err)
	refused, isError := errors.AsType[*authz.Error](err)
	switch {
	case isWrong:
		status, code, says = request.status, "invalid_request", request.says
	case isError:
		says, after = refused.Message, refused.RetryAfter
		if refused.Field != "" {
			says = refused.Field + " " + says
		}
		switch refused.Kind {
		case authz.Invalid:
			status, code = http.StatusBadRequest, codes[refused.Reason]
			if code == "" {
				code = "invalid_request"
			}
		case authz.Unauthenticated:
			status, code = http.StatusUnauthorized, "authentication_failed"
			w.Header().Set("WWW-Authenticate", "Bearer")
		case authz.Denied:
			status, code = http.StatusForbidden, "access_denied"
		case authz.Exhausted:
			status = http.StatusTooManyRequests
		case authz.Unavailable, authz.Deadline, authz.Aborted, authz.Canceled, authz.Precondition:
			status = http.StatusServiceUnavailable
		default:
			says = "the server failed; send it again"
		}
	}
	if status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", strconv.Itoa(max(1, int((after+time.Second-1)/time.Second))))
	}
	text, err := json.Marshal(struct {
		Err         string `json:"err,omitempty"`
		Description string `json:"description"`
	}{code, says})
	if err != nil {
		text = []byte("{}")
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Language", "en")
	w.WriteHeader(status)
	_, _ = w.Write(text) // a transmitter that is gone does not read it
}
