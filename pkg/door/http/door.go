package http

import (
	"context"
	"encoding/json"
	"fmt"
	"mime"
	"net"
	nethttp "net/http"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connectgzip"
	"connectrpc.com/connect/v2/connecthttp"
	"connectrpc.com/connect/v2/connectproto"
	"github.com/rs/cors"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/door/signals"
	"github.com/deputyauth/deputy/pkg/rpc"
)

// What a connection and a request may take. Messages, and the time of calls, have the bounds of gRPC.
const (
	// maxHeaders is the size of a request's headers, in bytes.
	maxHeaders = 32 << 10
	// maxStreams is how many requests an HTTP/2 connection may have under way. One that its client resets counts until its handler has ended.
	maxStreams = 250
	// headTime is how long headers may take, and idleTime how long a connection may carry no request.
	headTime, idleTime = 5 * time.Second, 5 * time.Minute
	// takeTime is how long a client may take to take what is sent to it.
	takeTime = 30 * time.Second
	// signalTime is how long the body of a security event may take.
	signalTime = 10 * time.Second
	// compressFrom is from how many bytes on an answer is compressed, for a client that takes that.
	compressFrom = 4 << 10
)

// The paths of what is no call.
const (
	// OpenAPIPath answers with the OpenAPI document.
	OpenAPIPath = "/openapi.json"
	// AlivePath answers 200 while the server runs.
	AlivePath = "/healthz"
	// ReadyPath answers 200 while calls are to be sent to the server, and else 503.
	ReadyPath = "/readyz"
)

// Calls answers the calls that come in: rpc.Carried.
type Calls interface {
	// Serve has a call answered, with its trailers and its end.
	Serve(ctx context.Context, method string, by rpc.Carrier) (metadata.MD, error)
	// Limit is how many bytes a message of a method may have.
	Limit(method string) int
}

// Config is what the door stands on. All of it is needed but Signals and Origins.
type Config struct {
	Calls Calls
	// Services are those that are served, whose methods Calls has.
	Services []protoreflect.ServiceDescriptor
	// Peer is what is known of the connection that a request came over, as gRPC's server would say it.
	Peer func(r *nethttp.Request) *peer.Peer
	// Old reports whether a connection is to serve no more requests after this one.
	Old func(r *nethttp.Request) bool
	// Ready reports whether calls are to be sent here.
	Ready func(ctx context.Context) bool
	// OpenAPI is the document about the services.
	OpenAPI []byte
	// Signals takes security events; nil takes none.
	Signals nethttp.Handler
	// Origins are those whose pages may call, such as https://console.example.com. CheckOrigin says what one has to be.
	Origins []string
}

// CheckOrigin refuses what is no origin of a page.
func CheckOrigin(origin string) error {
	if err := nethttp.NewCrossOriginProtection().AddTrustedOrigin(origin); err != nil || strings.Contains(origin, "*") {
		return fmt.Errorf("%.200q is no origin, such as https://console.example.com: a scheme, a host, and a port where that is not the scheme's", origin)
	}
	return nil
}

// Door answers requests. It is safe for concurrent use.
type Door struct {
	cfg Config
	// calls has the methods, and streams whether each of them streams.
	calls   *nethttp.ServeMux
	streams map[string]bool
	// services are the paths under which calls are.
	services []string
	document document
	// origins answers browsers that ask whether a page may call; nil where none may. foreign refuses what pages of other origins send.
	origins *cors.Cors
	foreign *nethttp.CrossOriginProtection
}

// New returns the door.
func New(cfg Config) (*Door, error) {
	d := &Door{
		cfg: cfg, calls: nethttp.NewServeMux(), streams: map[string]bool{}, document: newDocument(cfg.OpenAPI),
		foreign: nethttp.NewCrossOriginProtection(),
	}
	for _, one := range cfg.Origins {
		if err := d.foreign.AddTrustedOrigin(one); err != nil {
			return nil, fmt.Errorf("http: the origin %q: %w", one, err)
		}
	}
	if len(cfg.Origins) > 0 {
		d.origins = cors.New(corsOptions(cfg.Origins))
	}
	server := connect.NewServer()
	// The handler of connect-go's own for methods that it does not know answers some protocols past the door, so that those calls would leave no trace.
	server.Register(
		connect.Method{Spec: connect.Spec{StreamType: connect.StreamTypeUnary, Procedure: unknownCall}, Handler: d.call},
		connect.Method{Spec: connect.Spec{StreamType: connect.StreamTypeServer, Procedure: unknownStream}, Handler: d.call},
	)
	for _, service := range cfg.Services {
		path := "/" + string(service.FullName()) + "/"
		d.services = append(d.services, path)
		for i := range service.Methods().Len() {
			m := service.Methods().Get(i)
			spec := connect.Spec{StreamType: connect.StreamTypeUnary, Procedure: path + string(m.Name()), Schema: m}
			if m.IsStreamingClient() {
				return nil, fmt.Errorf("http: the method %s takes a stream, which this door does not", m.FullName())
			}
			if m.IsStreamingServer() {
				spec.StreamType = connect.StreamTypeServer
			}
			d.streams[spec.Procedure] = m.IsStreamingServer()
			server.Register(connect.Method{Spec: spec, Handler: d.call})
		}
	}
	connecthttp.Mount(d.calls, server,
		connecthttp.WithCodecs(protobuf{connectproto.NewBinaryCodec()}, jsonText{connectproto.NewJSONCodec()}),
		connecthttp.WithCompressors(connectgzip.New()), connecthttp.WithCompressMinBytes(compressFrom),
		connecthttp.WithConditionalOptions(func(spec connect.Spec) []connecthttp.Option {
			return []connecthttp.Option{connecthttp.WithReadMaxBytes(cfg.Calls.Limit(spec.Procedure))}
		}),
	)
	return d, nil
}

// Server returns an HTTP server of the door, within its limits. It serves HTTP/1.1, and HTTP/2: with TLS as clients agree to it, without TLS by prior
// knowledge.
func (d *Door) Server(secured bool) *nethttp.Server {
	protocols := &nethttp.Protocols{}
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(secured)
	protocols.SetUnencryptedHTTP2(!secured)
	return &nethttp.Server{
		Handler: d, Protocols: protocols, MaxHeaderBytes: maxHeaders, ReadHeaderTimeout: headTime, IdleTimeout: idleTime,
		HTTP2: &nethttp.HTTP2Config{
			MaxConcurrentStreams: maxStreams, MaxReadFrameSize: 16 << 10,
			MaxReceiveBufferPerConnection: 1 << 20, MaxReceiveBufferPerStream: 64 << 10, SendPingTimeout: time.Minute, PingTimeout: 20 * time.Second,
			WriteByteTimeout: takeTime,
		},
		BaseContext: func(net.Listener) context.Context { return context.Background() },
	}
}

// ServeHTTP answers a request.
func (d *Door) ServeHTTP(w nethttp.ResponseWriter, r *nethttp.Request) {
	out := newAnswer(w, r, d.cfg.Old(r))
	defer out.end()
	out.Header().Set("Cache-Control", "no-store")
	out.Header().Set("X-Content-Type-Options", "nosniff")
	if err := authz.Safely("http.ServeHTTP", func() error { d.route(out, r); return nil }); err != nil {
		refuse(out, nethttp.StatusInternalServerError, connect.CodeInternal, "internal error")
	}
}

// route finds out what a request is about.
func (d *Door) route(w *answer, r *nethttp.Request) {
	if d.origins != nil {
		d.origins.HandlerFunc(w, r)
		if r.Method == nethttp.MethodOptions && r.Header.Get("Access-Control-Request-Method") != "" {
			return
		}
	}
	if d.foreign.Check(r) != nil {
		refuse(w, nethttp.StatusForbidden, connect.CodePermissionDenied,
			"the request comes from a page of another origin, which may not call this server: its operator can name that origin with --http-origin")
		return
	}
	switch path := r.URL.Path; {
	case path == signals.Path && d.cfg.Signals != nil:
		w.readWithin(signalTime)
		r, whole := w.track(r)
		whole.openAll()
		d.cfg.Signals.ServeHTTP(w, r)
	case path == OpenAPIPath && d.reads(w, r):
		d.document.serve(w, r)
	case path == AlivePath && d.reads(w, r):
		tell(w, nethttp.StatusOK, map[string]string{"status": "SERVING"})
	case path == ReadyPath && d.reads(w, r):
		if d.cfg.Ready(r.Context()) {
			tell(w, nethttp.StatusOK, map[string]string{"status": "SERVING"})
			return
		}
		tell(w, nethttp.StatusServiceUnavailable, map[string]string{"status": "NOT_SERVING"})
	case slices.Contains([]string{OpenAPIPath, AlivePath, ReadyPath}, path): // reads has answered
	case slices.ContainsFunc(d.services, func(service string) bool { return strings.HasPrefix(path, service) }):
		if d.isCall(w, r) {
			r, _ = w.track(r)
			d.calls.ServeHTTP(w, d.known(r))
		}
	default:
		refuse(w, nethttp.StatusNotFound, connect.CodeNotFound,
			"there is nothing at this path; a method is called with POST at /deputy.v1.SERVICE/METHOD, and "+OpenAPIPath+" describes all of them")
	}
}

// The procedures as which connect-go has calls of methods that there are not.
const unknownCall, unknownStream = "/unknown/call", "/unknown/stream"

// known returns a request that connect-go finds a procedure for. What method it is of, the door remembers.
func (d *Door) known(r *nethttp.Request) *nethttp.Request {
	if _, known := d.streams[r.URL.Path]; known {
		return r
	}
	at := *r.URL
	if at.Path, at.RawPath = unknownCall, ""; strings.HasPrefix(r.Header.Get("Content-Type"), "application/connect+") {
		at.Path = unknownStream
	}
	r = r.WithContext(r.Context())
	r.URL = &at
	return r
}

// reads reports whether a request only reads, and refuses it if not.
func (*Door) reads(w *answer, r *nethttp.Request) bool {
	if r.Method == nethttp.MethodGet || r.Method == nethttp.MethodHead {
		return true
	}
	w.Header().Set("Allow", "GET, HEAD")
	refuse(w, nethttp.StatusMethodNotAllowed, connect.CodeUnimplemented, "this is read with GET")
	return false
}

// single are the headers that say how a call is to be read: of two values, the code that reads the header would choose one.
var single = []string{
	"Content-Type", "Content-Encoding", "Connect-Content-Encoding", "Grpc-Encoding", "Connect-Timeout-Ms", "Grpc-Timeout", "Connect-Protocol-Version",
}

// isCall refuses requests that are no call of a method, in words that connect-go does not have for them.
func (d *Door) isCall(w *answer, r *nethttp.Request) bool {
	if r.Method != nethttp.MethodPost {
		w.Header().Set("Allow", nethttp.MethodPost)
		refuse(w, nethttp.StatusMethodNotAllowed, connect.CodeUnimplemented, "a method is called with POST")
		return false
	}
	for _, name := range single {
		if len(r.Header[name]) > 1 {
			refuse(w, nethttp.StatusBadRequest, connect.CodeInvalidArgument, "the request has more than one header "+name+": send one")
			return false
		}
	}
	kind, parameters, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	charset, has := parameters["charset"]
	if err == nil && len(parameters) > 0 && (!has || len(parameters) > 1 || !strings.EqualFold(charset, "utf-8")) {
		err = fmt.Errorf("the parameters of %s", kind)
	}
	streams, known := d.streams[r.URL.Path]
	takes := []string{"application/json", "application/proto"}
	switch {
	case known && streams:
		takes = []string{"application/connect+json", "application/connect+proto"}
	case !known:
		takes = append(takes, "application/connect+json", "application/connect+proto")
	}
	if err == nil && slices.Contains(takes, kind) || slices.Contains(framed, kind) {
		if kind != "application/json" && kind != "application/proto" && r.Header.Get("Content-Encoding") != "" {
			refuse(w, nethttp.StatusUnsupportedMediaType, connect.CodeInvalidArgument,
				"a call in frames is not compressed as a whole: leave out Content-Encoding")
			return false
		}
		return true
	}
	w.Header().Set("Accept-Post", strings.Join(takes, ", "))
	refuse(w, nethttp.StatusUnsupportedMediaType, connect.CodeInvalidArgument,
		fmt.Sprintf("the Content-Type is %.80q; this method takes %s, or those of gRPC-Web", r.Header.Get("Content-Type"), strings.Join(takes, " and ")))
	return false
}

// framed are the types of requests of gRPC-Web and gRPC.
var framed = []string{
	"application/grpc-web", "application/grpc-web+proto", "application/grpc-web+json", "application/grpc", "application/grpc+proto", "application/grpc+json",
}

// corsOptions says what a browser is told about pages of some origins. Credentials that the browser adds by itself are never among it.
func corsOptions(origins []string) cors.Options {
	return cors.Options{
		AllowedOrigins: origins,
		AllowedMethods: []string{nethttp.MethodPost, nethttp.MethodGet},
		AllowedHeaders: []string{
			"Authorization", "Content-Type", "Content-Encoding", "Connect-Protocol-Version", "Connect-Timeout-Ms", "Connect-Content-Encoding",
			"Connect-Accept-Encoding", "Grpc-Timeout", "Grpc-Encoding", "Grpc-Accept-Encoding", "X-Grpc-Web", "X-User-Agent",
		},
		ExposedHeaders: []string{
			"Grpc-Status", "Grpc-Message", "Grpc-Status-Details-Bin", "Grpc-Encoding", "Connect-Content-Encoding", "Retry-After", "Www-Authenticate",
		},
		MaxAge: 7200,
	}
}

// refuse answers a request that is no call, as Connect answers calls with one answer.
func refuse(w *answer, status int, code connect.Code, says string) {
	tell(w, status, map[string]string{"code": code.String(), "message": says})
}

// tell answers with JSON.
func tell(w *answer, status int, says map[string]string) {
	text, err := json.Marshal(says)
	if err != nil {
		text = []byte("{}") // no text is none
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(text) // a client that is gone does not read it
}
