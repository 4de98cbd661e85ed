// Package client asks a Deputy server from Go: may this agent, acting for this principal, in this
// tenant, do this to this object, now?
//
//	c, err := client.Dial("deputy.internal:50051", client.WithKeyFile("/run/secrets/deputy"))
//	…
//	session, err := c.StartSession(ctx, client.SessionSpec{
//		Agent:   "triage-bot",
//		Targets: []client.Target{{Delegation: delegation}},
//	})
//	…
//	err = client.Guard(session.Check(ctx, client.Question{
//		Principal: client.User("alice"), Tenant: "acme",
//		Resource: client.Object("document", "plan"), Permission: "view",
//	}))
//	if err != nil {
//		return err // Refused, or there is no answer: do not act.
//	}
//
// Everything here fails closed. The zero Decision refuses, an answer of a later protocol version that
// this package does not know refuses, and with an error comes no permission. A list that a server did not
// end is an error, never a shorter list.
//
// A Session carries its id and its token by itself, so that the revisions that it is answered at do not
// go back and it reads its own writes. What has no short form here is reached through the generated
// clients in Client, and authzed.api.v1 through Conn.
//
// A program tests its own code with a fake: see Checker.
//
// # Time and retries
//
// A call of deputy.v1 whose context has no deadline waits 10 s (WithTimeout), and each page of a lookup or of ReviewAdoption 30 s. What takes
// as long as it takes does not: StoreService's Compact and Backup.
//
// A call that fails with UNAVAILABLE is made again, three times in all, where making it twice does no harm: questions, reads, and what only
// takes access away (Brake, RevokeDelegation, EndSession, SuspendAgent, Suspend). The same holds for a call that is refused with
// RESOURCE_EXHAUSTED because the server has too much to do, or this caller asks too much: it is made again once as much time has passed as the
// server says, unless its own time is over by then. Other refusals with that code are final, and the server says so. RetryAfter tells what the
// server says. While many calls fail, few are made again. A call that creates, resumes or renews is made once. A program that wants to make
// it again sets an idempotency key. WithoutRetries makes every call once.
//
// While a call is under way and its connection has been silent for 30 s, the client asks whether the server is there, and fails the call if
// the server does not say so within 20 s. WithDialOptions takes other keepalive parameters. The server ends connections that are old, without
// a call being lost.
package client

import (
	"errors"
	"fmt"
	"slices"

	"google.golang.org/grpc"

	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/pkg/reconnect"
)

// Client is a connection to a Deputy server with a generated client for each of its services. It is safe
// for concurrent use.
type Client struct {
	// Permissions decides, explains and looks up.
	Permissions deputyv1.PermissionsServiceClient
	// Sessions starts, renews and ends sessions.
	Sessions deputyv1.SessionsServiceClient
	// Delegations creates delegations, and revokes them.
	Delegations deputyv1.DelegationsServiceClient
	// Agents registers agents, suspends and resumes them.
	Agents deputyv1.AgentsServiceClient
	// Principals suspends and resumes users, services and tenants.
	Principals deputyv1.PrincipalsServiceClient
	// Brakes stops what goes wrong, in one call.
	Brakes deputyv1.BrakeServiceClient
	// Signals lists the security events that wait for a person, applies and drops them.
	Signals deputyv1.SignalsServiceClient
	// Adoption reviews what a graph names without being active, and makes it active.
	Adoption deputyv1.AdoptionServiceClient
	// Store looks after the store of the engine embedded.
	Store deputyv1.StoreServiceClient
	// Copies says how the copy of the database does that a server with --follow decides from, and verifies it.
	Copies deputyv1.CopyServiceClient
	// Journal reads the record of every decision. It takes an auditor.
	Journal deputyv1.JournalServiceClient
	// Retention purges what is over.
	Retention deputyv1.RetentionServiceClient
	// Reach reads what an agent, a delegation or a session can touch. It takes an auditor.
	Reach deputyv1.ReachServiceClient

	conn grpc.ClientConnInterface
	// closers release what Dial opened, the last first.
	closers []func() error
}

// Dial prepares a connection to the server at target: "host:port", or "unix:PATH" for a Unix socket. The first call opens it; a
// server that is not there is that call's error. Close releases it.
//
// Without options, the connection to a loopback address or a Unix socket is in the clear, as `deputy serve` listens there, and every other
// is TLS with the system's certificate authorities. Nothing is sent in the clear to another machine without WithInsecure.
func Dial(target string, opts ...Option) (*Client, error) {
	c, err := dial(target, opts)
	if err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	return c, nil
}

func dial(target string, opts []Option) (*Client, error) {
	local, err := checkTarget(target)
	if err != nil {
		return nil, err
	}
	s := settings{timeout: defaultTimeout}
	for _, opt := range opts {
		opt(&s)
	}
	dial, err := s.dialOptions(local)
	if err != nil {
		return nil, errors.Join(err, s.close())
	}
	conn, err := grpc.NewClient(target, slices.Insert(dial, 0, reconnect.Option())...) // an option of the caller's overrides it
	if err != nil {
		return nil, errors.Join(err, s.close())
	}
	c := New(conn)
	s.closers = append(s.closers, conn.Close)
	c.closers = s.closers
	return c, nil
}

// New returns a client over a connection that somebody else made, and keeps: Close does not close it. Deadlines, retries and credentials
// are what that connection does.
func New(conn grpc.ClientConnInterface) *Client {
	return &Client{
		Permissions: deputyv1.NewPermissionsServiceClient(conn),
		Sessions:    deputyv1.NewSessionsServiceClient(conn),
		Delegations: deputyv1.NewDelegationsServiceClient(conn),
		Agents:      deputyv1.NewAgentsServiceClient(conn),
		Principals:  deputyv1.NewPrincipalsServiceClient(conn),
		Brakes:      deputyv1.NewBrakeServiceClient(conn),
		Signals:     deputyv1.NewSignalsServiceClient(conn),
		Adoption:    deputyv1.NewAdoptionServiceClient(conn),
		Store:       deputyv1.NewStoreServiceClient(conn),
		Copies:      deputyv1.NewCopyServiceClient(conn),
		Journal:     deputyv1.NewJournalServiceClient(conn),
		Retention:   deputyv1.NewRetentionServiceClient(conn),
		Reach:       deputyv1.NewReachServiceClient(conn),
		conn:        conn,
	}
}

// Conn is the connection itself, for other clients of the same server: those of authzed.api.v1, health
// and reflection. It is the Client's to close.
func (c *Client) Conn() grpc.ClientConnInterface { return c.conn }

// Close ends the calls under way and releases what Dial opened.
func (c *Client) Close() error { return closeAll(c.closers) }
