// Package client asks a Deputy server from Go: may this agent, acting for this principal, in this
// tenant, do this to this object, now?
//
//	c, err := client.Dial("deputy.internal:50051", client.WithPresharedKey(key))
//	…
//	session, err := c.StartSession(ctx, &deputyv1.StartSessionRequest{
//		AgentId: "triage-bot",
//		Targets: []*deputyv1.SessionTarget{{DelegationId: delegation}},
//	})
//	…
//	err = client.Guard(session.Check(ctx, client.User("alice"), "acme", client.Object("document", "plan"), "view"))
//	if err != nil {
//		return err // Refused, or nobody could tell: do not act.
//	}
//
// Everything here fails closed. The zero Decision refuses, an answer of a later protocol version that
// this package does not know refuses, and with an error comes no permission.
//
// A Session carries its id and its token by itself, so that the revisions that it is answered at do not
// go back and it reads its own writes. What has no short form here is reached through the generated
// clients in Client.
package client

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// maxAnswer is the largest answer that is taken, in bytes: that of a bulk check of 1,000 questions, which
// are repeated in it, is larger than gRPC's own 4 MiB where their ids and contexts are long.
const maxAnswer = 32 << 20

// Client is a connection to a Deputy server with a generated client for each of its services. It is safe
// for concurrent use.
type Client struct {
	// Permissions decides, explains and looks up.
	Permissions deputyv1.PermissionsServiceClient
	// Sessions starts, renews and ends sessions.
	Sessions deputyv1.SessionsServiceClient
	// Delegations entrusts agents, and revokes.
	Delegations deputyv1.DelegationsServiceClient
	// Agents registers agents, suspends and resumes them.
	Agents deputyv1.AgentsServiceClient
	// Principals suspends and resumes users, services and tenants.
	Principals deputyv1.PrincipalsServiceClient
	// Adoption reviews what a graph names without being active, and makes it active.
	Adoption deputyv1.AdoptionServiceClient

	conn *grpc.ClientConn
}

// Dial prepares a connection to the server at endpoint ("host:port"). The first call opens it; a server
// that is not there is that call's error. Without options the connection is TLS with the system's
// certificate authorities. Close releases it.
func Dial(endpoint string, opts ...Option) (*Client, error) {
	if endpoint == "" {
		return nil, errors.New("client: no endpoint")
	}
	var s settings
	for _, opt := range opts {
		opt(&s)
	}
	dial, err := s.dialOptions()
	if err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	conn, err := grpc.NewClient(endpoint, dial...)
	if err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	return &Client{
		Permissions: deputyv1.NewPermissionsServiceClient(conn),
		Sessions:    deputyv1.NewSessionsServiceClient(conn),
		Delegations: deputyv1.NewDelegationsServiceClient(conn),
		Agents:      deputyv1.NewAgentsServiceClient(conn),
		Principals:  deputyv1.NewPrincipalsServiceClient(conn),
		Adoption:    deputyv1.NewAdoptionServiceClient(conn),
		conn:        conn,
	}, nil
}

// Conn is the connection itself, for other clients of the same server: those of authzed.api.v1, health
// and reflection. It is the Client's to close.
func (c *Client) Conn() grpc.ClientConnInterface { return c.conn }

// Close ends the calls under way and releases the connection.
func (c *Client) Close() error { return c.conn.Close() }

// Check decides one case without a session: by a delegation that was created with allow_direct, or, when
// actor names none, by those that the agent has. Where actor names a delegation that leaves no choice,
// principal and tenant may be zero. Caveat context of several maps is merged, later ones first.
//
// An error means that there is no answer, and the Decision beside it refuses.
func (c *Client) Check(
	ctx context.Context, actor Actor, principal Principal, tenant string, resource Resource, permission string, caveats ...Context,
) (Decision, error) {
	item, err := Question{principal, tenant, resource, permission, merge(caveats)}.item()
	if err != nil {
		return Decision{}, err
	}
	item.AgentId = actor.Agent
	if actor.Delegation != "" {
		item.Via = &deputyv1.CheckBulkPermissionsRequestItem_DelegationId{DelegationId: actor.Delegation}
	}
	return c.check(ctx, item, nil, nil)
}

// Option sets up a connection.
type Option func(*settings)

// settings is what the options say.
type settings struct {
	key       string
	keyed     bool
	plaintext bool
	tls       *tls.Config
	more      []grpc.DialOption
}

// WithPresharedKey sends the key with every call. It never leaves over a connection without TLS, unless
// WithInsecure says so.
func WithPresharedKey(key string) Option {
	return func(s *settings) { s.key, s.keyed = key, true }
}

// WithTLS connects with this TLS configuration: certificate authorities of one's own, or a client
// certificate.
func WithTLS(config *tls.Config) Option {
	return func(s *settings) { s.tls = config }
}

// WithInsecure connects without TLS and sends the key in the clear. It is for a server on this machine,
// and for a network that encrypts by itself.
func WithInsecure() Option {
	return func(s *settings) { s.plaintext = true }
}

// WithDialOptions passes options on to gRPC: interceptors, keepalive, a service config.
func WithDialOptions(opts ...grpc.DialOption) Option {
	return func(s *settings) { s.more = append(s.more, opts...) }
}

// dialOptions turns the settings into gRPC's.
func (s *settings) dialOptions() ([]grpc.DialOption, error) {
	if s.plaintext && s.tls != nil {
		return nil, errors.New("WithInsecure and WithTLS exclude each other")
	}
	transport := credentials.NewTLS(s.tls)
	if s.plaintext {
		transport = insecure.NewCredentials()
	}
	opts := []grpc.DialOption{
		grpc.WithTransportCredentials(transport),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer)),
	}
	if s.keyed {
		for i := range len(s.key) {
			// What HTTP/2 would refuse call by call, without saying which header.
			if c := s.key[i]; c <= ' ' || c > '~' {
				return nil, errors.New("the preshared key holds a character that a header cannot carry")
			}
		}
		if s.key == "" {
			return nil, errors.New("the preshared key is empty")
		}
		opts = append(opts, grpc.WithPerRPCCredentials(presharedKey{s.key, s.plaintext}))
	}
	return append(opts, s.more...), nil
}

// presharedKey is the credentials of every call.
type presharedKey struct {
	key       string
	plaintext bool
}

// GetRequestMetadata implements credentials.PerRPCCredentials.
func (p presharedKey) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + p.key}, nil
}

// RequireTransportSecurity implements credentials.PerRPCCredentials: gRPC itself keeps the key from a
// connection without TLS.
func (p presharedKey) RequireTransportSecurity() bool { return !p.plaintext }
