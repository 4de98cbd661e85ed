package harness

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"
)

// Spoken are the protocols of the door over HTTP, as connect-go's client speaks them.
var Spoken = map[string][]connecthttp.Option{
	"Connect":      nil,
	"Connect JSON": {connecthttp.WithProtoJSON()},
	"gRPC-Web":     {connecthttp.WithGRPCWeb()},
	"gRPC":         {connecthttp.WithGRPC()},
}

// HTTPConn calls a server over HTTP, by connect-go's own client, wherever a connection of gRPC does. It is safe for concurrent use.
type HTTPConn struct {
	client *connect.Client
	key    string
}

// DialHTTP returns a connection to the door over HTTP at a host and port, with a key, "" for none. It has TLS where there is a configuration of it.
// Without TLS it speaks HTTP/1.1, but for gRPC.
func DialHTTP(t testing.TB, addr, key, protocol string, secured *tls.Config) *HTTPConn {
	t.Helper()
	options, ok := Spoken[protocol]
	if !ok {
		t.Fatalf("the harness speaks no %s", protocol)
	}
	transport, url := &http.Transport{TLSClientConfig: secured, ForceAttemptHTTP2: secured != nil, MaxIdleConnsPerHost: 256}, "http://"+addr
	if secured != nil {
		url = "https://" + addr
	} else if protocol == "gRPC" {
		transport.Protocols = &http.Protocols{}
		transport.Protocols.SetUnencryptedHTTP2(true)
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &HTTPConn{connect.NewClient(connecthttp.NewTransport(&http.Client{Transport: transport}, url, options...)), key}
}

// WithTLS is a client's configuration of TLS, with the authority of the server and the client's certificates.
func WithTLS(authority *Authority, certificates ...tls.Certificate) *tls.Config {
	return &tls.Config{RootCAs: Pool(authority), Certificates: certificates, MinVersion: tls.VersionTLS12}
}

var _ grpc.ClientConnInterface = (*HTTPConn)(nil)

func (c *HTTPConn) context(ctx context.Context) context.Context {
	ctx, info := connect.NewClientContext(ctx)
	if c.key != "" {
		info.RequestHeader().Set("Authorization", "Bearer "+c.key)
	}
	if md, ok := metadata.FromOutgoingContext(ctx); ok {
		for name, values := range md {
			for _, value := range values {
				info.RequestHeader().Add(name, value)
			}
		}
	}
	return ctx
}

// Invoke is grpc.ClientConnInterface's.
func (c *HTTPConn) Invoke(ctx context.Context, method string, request, answer any, _ ...grpc.CallOption) error {
	return statusOf(c.client.CallUnary(c.context(ctx), connect.Spec{StreamType: connect.StreamTypeUnary, Procedure: method}, request, answer))
}

// NewStream is grpc.ClientConnInterface's, for streams of answers.
func (c *HTTPConn) NewStream(ctx context.Context, _ *grpc.StreamDesc, method string, _ ...grpc.CallOption) (grpc.ClientStream, error) {
	return &httpStream{client: c.client, ctx: c.context(ctx), method: method}, nil
}

// httpStream is a stream of answers, which begins with its one request.
type httpStream struct {
	grpc.ClientStream
	client *connect.Client
	ctx    context.Context //nolint:containedctx // a stream has its context
	method string
	stream connect.ClientStream
}

func (s *httpStream) SendMsg(m any) (err error) {
	s.stream, err = s.client.CallServerStream(s.ctx, connect.Spec{StreamType: connect.StreamTypeServer, Procedure: s.method}, m)
	return statusOf(err)
}

func (s *httpStream) CloseSend() error { return nil }

func (s *httpStream) RecvMsg(m any) error {
	err := s.stream.Receive(m)
	if errors.Is(err, io.EOF) && connect.CodeOf(err) == connect.CodeUnknown {
		return io.EOF
	}
	return statusOf(err)
}

func (s *httpStream) Context() context.Context { return s.ctx }

// statusOf is an error of connect-go as gRPC's client has it.
func statusOf(err error) error {
	if err == nil {
		return nil
	}
	is, ok := errors.AsType[*connect.Error](err)
	if !ok {
		return err
	}
	st := &spb.Status{Code: int32(is.Code()), Message: is.Message()}
	for _, d := range is.Details() {
		st.Details = append(st.Details, &anypb.Any{TypeUrl: "type.googleapis.com/" + d.Type, Value: d.Value})
	}
	return status.ErrorProto(st)
}

// Beside makes the calls of deputy.v1 over HTTP, and all others over gRPC.
type Beside struct {
	HTTP *HTTPConn
	GRPC *grpc.ClientConn
}

func (b Beside) of(method string) grpc.ClientConnInterface {
	if strings.HasPrefix(method, "/deputy.v1.") {
		return b.HTTP
	}
	return b.GRPC
}

// Invoke is grpc.ClientConnInterface's.
func (b Beside) Invoke(ctx context.Context, method string, request, answer any, opts ...grpc.CallOption) error {
	return b.of(method).Invoke(ctx, method, request, answer, opts...)
}

// NewStream is grpc.ClientConnInterface's.
func (b Beside) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	return b.of(method).NewStream(ctx, desc, method, opts...)
}
