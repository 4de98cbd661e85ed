package daemon

import (
	"context"
	"net"
	"sync"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/caller"
	"github.com/deputyauth/deputy/pkg/client"
	"github.com/deputyauth/deputy/pkg/journal"
	"github.com/deputyauth/deputy/pkg/judge"
)

// InProcess is a server as one caller has it in the same process: with the caller's roles and bounds, and without a key, a port or a
// transport. It is safe for concurrent use, before Serve and beside it, until the server's Close.
type InProcess struct {
	daemon *Daemon
	caller *caller.Caller
	client *client.Client
	// denied is why the caller may not ask for decisions; nil if it may.
	denied error
}

// InProcess returns the server as the program has it that holds it: as an unbounded admin.
func (d *Daemon) InProcess() *InProcess { return d.program }

// As returns the server as a caller has it, whose credentials do not count. nil is nobody, who may do nothing. A program that asks for others
// asks as a caller that may do only what they may.
func (d *Daemon) As(c *caller.Caller) *InProcess {
	return &InProcess{
		daemon: d, caller: c, client: client.New(d.local.As(c)),
		denied: c.May(caller.MethodOf("/deputy.v1.PermissionsService/CheckPermission")),
	}
}

// Client is the Go client of the server, whose calls stay in the process: sessions, delegations, agents and look-ups, with everything that the
// services check, and authzed.api.v1 through its Conn. Ids are those from outside, which the services encode. Its context's deadline is a
// call's, or 10 s; a stream lasts as long as its context. Close does nothing.
func (p *InProcess) Client() *client.Client { return p.client }

// Decide makes one decision; see Daemon.Decide. Errors: Denied where the caller may not ask.
func (p *InProcess) Decide(ctx context.Context, c authz.Case, f authz.Freshness) (_ authz.Decision, err error) {
	defer authz.Recover("daemon.Decide", &err)
	by := p.by()
	if p.denied != nil {
		return authz.Decision{}, by.Account.Refused(ctx, p.denied)
	}
	results, _, err := p.daemon.judge.Decide(ctx, by, judge.Questions(c), f, false)
	if err != nil {
		return authz.Decision{}, by.Account.Failed(ctx, journal.About(&c), err)
	}
	return results[0].Decision, results[0].Err
}

// by is a call of the program's.
func (p *InProcess) by() judge.By {
	if !p.caller.Known() {
		return judge.By{} // nobody may decide
	}
	return judge.By{Within: p.caller.Bounds, Account: p.daemon.journal.Account(p.caller.Name, caller.InProcessName)}
}

// DecideAll is Decide for many cases at one revision; see Daemon.DecideAll.
func (p *InProcess) DecideAll(ctx context.Context, cases []authz.Case, f authz.Freshness) (_ []Result, _ authz.Revision, err error) {
	defer authz.Recover("daemon.DecideAll", &err)
	by := p.by()
	if p.denied != nil {
		return nil, authz.Revision{}, by.Account.Refused(ctx, p.denied)
	}
	results, at, err := p.daemon.judge.Decide(ctx, by, judge.Questions(cases...), f, false)
	if err != nil {
		return nil, authz.Revision{}, by.Account.Failed(ctx, &journal.Record{}, err)
	}
	out := make([]Result, len(results))
	for i, r := range results {
		out[i] = Result{r.Decision, r.Err}
	}
	return out, at, nil
}

// listen opens the port, or what stands in for one.
func (c Config) listen(ctx context.Context) (net.Listener, error) {
	if c.NoListener {
		return &noPort{closed: make(chan struct{})}, nil
	}
	return (&net.ListenConfig{}).Listen(ctx, "tcp", c.Addr)
}

// noPort is a listener to which nobody connects: the server serves, and stops, as with one.
type noPort struct {
	once   sync.Once
	closed chan struct{}
}

// Accept is net.Listener's.
func (n *noPort) Accept() (net.Conn, error) {
	<-n.closed
	return nil, net.ErrClosed
}

// Close is net.Listener's.
func (n *noPort) Close() error {
	n.once.Do(func() { close(n.closed) })
	return nil
}

// Addr is net.Listener's.
func (*noPort) Addr() net.Addr { return &net.UnixAddr{Name: "in process"} }
