package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// tokens gives what is sent to prove who calls. It is safe for concurrent use.
type tokens interface {
	// token returns what to send with a call. refused is what the server did not take a moment ago, or "".
	token(ctx context.Context, refused string) (string, error)
	// took says that the server took a token.
	took(token string)
}

// fixedKey is a preshared key that stays.
type fixedKey string

func (k fixedKey) token(context.Context, string) (string, error) { return string(k), nil }

func (k fixedKey) took(string) {}

// keyFile is a preshared key in a file. The file can be replaced before the server knows the new key: then the key that worked last is sent
// until the new one works, so that no call fails in between.
type keyFile struct {
	file *fromFiles[string]

	mu sync.Mutex
	// worked is the key that the server took last.
	worked string
	// early is the file's key that the server refused, and refusedAt when: for lookEvery from then on, calls are made with worked at once.
	early     string
	refusedAt time.Time
}

func (k *keyFile) token(_ context.Context, refused string) (string, error) {
	key, err := k.file.get(refused != "")
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case refused == "" && key == k.early && time.Since(k.refusedAt) < lookEvery:
		return k.worked, nil
	case refused == "":
		return key, nil
	case refused == key && k.worked != "" && k.worked != key:
		k.early, k.refusedAt = key, time.Now()
		return k.worked, nil
	case err != nil:
		return key, fmt.Errorf("the key file cannot be read again: %w", err)
	}
	return key, nil
}

func (k *keyFile) took(key string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.worked = key
	if key == k.early {
		k.early = ""
	}
}

// tokenSource is the program's own.
type tokenSource func(context.Context) (string, error)

func (s tokenSource) token(ctx context.Context, _ string) (string, error) {
	token, err := s(ctx)
	if err == nil {
		err = checkKey(token)
	}
	if err != nil {
		return "", fmt.Errorf("the token %w", err)
	}
	return token, nil
}

func (s tokenSource) took(string) {}

// readKey reads a file with a key alone in it.
func readKey(contents [][]byte) (string, error) {
	key := string(bytes.TrimSpace(bytes.TrimPrefix(contents[0], []byte("\ufeff"))))
	return key, checkKey(key)
}

// checkKey refuses what HTTP/2 would refuse call by call, without saying which header. The error goes on after the words that name the key.
func checkKey(key string) error {
	if key == "" {
		return errors.New("is empty")
	}
	for i := range len(key) {
		if c := key[i]; c <= ' ' || c > '~' {
			return fmt.Errorf("holds a character that a header cannot carry (byte %d)", i+1)
		}
	}
	return nil
}

// bearer sends a token with every call, and asks for another one where the server does not take it.
//
// An interceptor gets the token, so that it knows which one a call was made with. gRPC's own credentials send it, because
// they are what keeps it off a connection without TLS.
type bearer struct {
	source tokens
	// plain permits to send it without TLS.
	plain bool
}

// sent is the key of the context's value that holds the token of a call.
type sent struct{}

// GetRequestMetadata implements credentials.PerRPCCredentials.
func (b bearer) GetRequestMetadata(ctx context.Context, uri ...string) (map[string]string, error) {
	token, ok := ctx.Value(sent{}).(string)
	if !ok {
		if len(uri) == 0 || !strings.HasSuffix(uri[0], "/grpc.health.v1.Health") {
			return nil, errors.New("client: the call has no token")
		}
		// gRPC itself asks for a server's health, where it balances: see WithBalancing.
		var err error
		if token, err = b.source.token(ctx, ""); err != nil {
			return nil, fmt.Errorf("client: %w", err)
		}
	}
	return map[string]string{"authorization": "Bearer " + token}, nil
}

// RequireTransportSecurity implements credentials.PerRPCCredentials: gRPC itself keeps the token from a
// connection without TLS.
func (b bearer) RequireTransportSecurity() bool { return !b.plain }

// first returns the context with which a call is made first.
func (b bearer) first(ctx context.Context) (context.Context, error) {
	token, err := b.source.token(ctx, "")
	if err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	return context.WithValue(ctx, sent{}, token), nil
}

// second returns the context with which a call is made again that failed, or nil where it is not. The failure is returned with what is
// wrong with the credential. Nothing of a call was done that is not authenticated, so that any may be made again.
func (b bearer) second(ctx context.Context, failed error) (context.Context, error) {
	if status.Code(failed) != codes.Unauthenticated {
		return nil, failed
	}
	refused, _ := ctx.Value(sent{}).(string)
	token, err := b.source.token(ctx, refused)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w (%w)", failed, err)
	case token == refused:
		return nil, failed
	}
	return context.WithValue(ctx, sent{}, token), nil
}

// took tells the source that the server took the token of a call.
func (b bearer) took(ctx context.Context) {
	if token, ok := ctx.Value(sent{}).(string); ok {
		b.source.took(token)
	}
}

// unary is a grpc.UnaryClientInterceptor.
func (b bearer) unary(
	ctx context.Context, method string, request, answer any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption,
) error {
	ctx, err := b.first(ctx)
	if err != nil {
		return err
	}
	err = invoke(ctx, method, request, answer, conn, opts...)
	if err != nil {
		again, failed := b.second(ctx, err)
		if again == nil {
			return failed
		}
		ctx, err = again, invoke(again, method, request, answer, conn, opts...)
	}
	if err == nil {
		b.took(ctx)
	}
	return err
}

// stream is a grpc.StreamClientInterceptor. A stream that takes more than one message is not made again.
func (b bearer) stream(
	ctx context.Context, desc *grpc.StreamDesc, conn *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption,
) (grpc.ClientStream, error) {
	ctx, err := b.first(ctx)
	if err != nil {
		return nil, err
	}
	stream, err := open(ctx, desc, conn, method, opts...)
	if err != nil || desc.ClientStreams {
		return stream, err
	}
	return &answered{ClientStream: stream, bearer: b, ctx: ctx, open: func(ctx context.Context) (grpc.ClientStream, error) {
		return open(ctx, desc, conn, method, opts...)
	}}, nil
}

// answered is a stream of answers to one message.
type answered struct {
	grpc.ClientStream
	bearer  bearer
	ctx     context.Context //nolint:containedctx // a stream has its context
	open    func(context.Context) (grpc.ClientStream, error)
	request any
	// begun says that the server has taken the token, or that another one was tried.
	begun bool
}

// SendMsg is grpc.ClientStream's.
func (a *answered) SendMsg(m any) error {
	a.request = m
	return a.ClientStream.SendMsg(m)
}

// RecvMsg is grpc.ClientStream's. That the server does not take the token comes in place of the first answer.
func (a *answered) RecvMsg(m any) error {
	err := a.ClientStream.RecvMsg(m)
	if a.begun {
		return err
	}
	a.begun = true
	if err == nil {
		a.bearer.took(a.ctx)
		return nil
	}
	again, err := a.bearer.second(a.ctx, err)
	if again == nil {
		return err
	}
	stream, err := a.open(again)
	if err != nil {
		return err
	}
	a.ClientStream = stream
	// io.EOF: the call has ended already, and RecvMsg says how.
	if err := stream.SendMsg(a.request); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	if err := stream.RecvMsg(m); err != nil {
		return err
	}
	a.bearer.took(again)
	return nil
}

// timed gives a unary call of deputy.v1 a deadline that has none.
func timed(timeout time.Duration) grpc.UnaryClientInterceptor {
	return func(
		ctx context.Context, method string, request, answer any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption,
	) error {
		_, set := ctx.Deadline()
		if !set && strings.HasPrefix(method, "/deputy.v1.") && method != "/deputy.v1.StoreService/Compact" {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, timeout)
			defer cancel()
		}
		return invoke(ctx, method, request, answer, conn, opts...)
	}
}

// serviceConfig is gRPC's service config: what is made again where the server is not there, its engine does not answer, or it has too much to
// do. In the last case the server says when, by gRPC's pushback, or that the call is not to be made again at all. Each method here can be
// made twice without harm: it only reads, or it only takes access away, and what was taken away is so the second time. Resuming is none,
// because between the first time and the second somebody may have suspended again. Where many calls fail, few are made again
// (retryThrottling), so that retries do not keep a server down: none once 500 more have failed than a tenth of those that succeeded. So many may
// be under way at a server that dies, and are to be answered by another one.
func serviceConfig(balanced bool) string {
	balancing := ""
	if balanced {
		balancing = balancingConfig
	}
	return "{" + balancing + retries
}

// balancingConfig spreads calls over the servers that say that they take calls.
const balancingConfig = `
	"loadBalancingConfig": [{"round_robin": {}}],
	"healthCheckConfig": {"serviceName": "deputy.calls"},`

const retries = `
	"methodConfig": [{
		"name": [
			{"service": "deputy.v1.PermissionsService"},
			{"service": "deputy.v1.SessionsService", "method": "GetSession"},
			{"service": "deputy.v1.SessionsService", "method": "ListSessions"},
			{"service": "deputy.v1.SessionsService", "method": "EndSession"},
			{"service": "deputy.v1.DelegationsService", "method": "GetDelegation"},
			{"service": "deputy.v1.DelegationsService", "method": "ListDelegations"},
			{"service": "deputy.v1.DelegationsService", "method": "RevokeDelegation"},
			{"service": "deputy.v1.AgentsService", "method": "GetAgent"},
			{"service": "deputy.v1.AgentsService", "method": "ListAgents"},
			{"service": "deputy.v1.AgentsService", "method": "SuspendAgent"},
			{"service": "deputy.v1.PrincipalsService", "method": "Suspend"},
			{"service": "deputy.v1.BrakeService"},
			{"service": "deputy.v1.SignalsService", "method": "ReceiveSignal"},
			{"service": "deputy.v1.SignalsService", "method": "ListSignals"},
			{"service": "deputy.v1.AdoptionService", "method": "ReviewAdoption"},
			{"service": "deputy.v1.StoreService", "method": "GetStatistics"},
			{"service": "deputy.v1.CopyService", "method": "GetCopy"},
			{"service": "deputy.v1.JournalService"}
		],
		"retryPolicy": {
			"maxAttempts": 3, "initialBackoff": "0.05s", "maxBackoff": "1s", "backoffMultiplier": 4,
			"retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"]
		}
	}],
	"retryThrottling": {"maxTokens": 1000, "tokenRatio": 0.1}
}`
