package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/deputyauth/deputy/pkg/daemon"
	"github.com/deputyauth/deputy/pkg/engine"
	deputy "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// copyPatience is how long the copy of an empty database may take.
const copyPatience = time.Minute

// startTwo makes the tables in a database, starts two servers that follow it, waits until their copies serve, and returns where they listen.
func (r *demoRun) startTwo(ctx context.Context, cfg daemon.Config, dir string) (first, second string, err error) {
	if err := engine.Migrate(ctx, cfg.Engine, "head"); err != nil {
		return "", "", err
	}
	addrs := map[string]string{}
	for _, name := range []string{"a", "b"} {
		r.dir = filepath.Join(dir, name)
		if err := os.Mkdir(r.dir, 0o700); err != nil {
			return "", "", err
		}
		cfg.Following = daemon.Following{On: true, Dir: filepath.Join(r.dir, "copy")}
		cfg.Journal.Dir = daemon.JournalDir(r.dir)
		if addrs[name], err = r.start(ctx, cfg); err != nil {
			return "", "", err
		}
		if err := r.untilServing(ctx, addrs[name]); err != nil {
			return "", "", err
		}
	}
	return addrs["a"], addrs["b"], nil
}

// untilServing waits until a server says that it serves, which one that follows says of its copy.
func (r *demoRun) untilServing(ctx context.Context, addr string) error {
	ctx, cancel := context.WithTimeout(ctx, copyPatience)
	defer cancel()
	s, err := r.dial(addr, "") //nolint:contextcheck // Dial takes no context
	if err != nil {
		return err
	}
	states, err := healthv1.NewHealthClient(s.conn).Watch(ctx, &healthv1.HealthCheckRequest{})
	if err != nil {
		return err
	}
	for {
		state, err := states.Recv()
		if err != nil {
			return fmt.Errorf("waiting for the copy of the primary: %w", err)
		}
		if state.GetStatus() == healthv1.HealthCheckResponse_SERVING {
			return nil
		}
	}
}

// askBoth asks both servers what they allow, has the first one revoke the delegation behind it, and asks the second one next.
func (r *demoRun) askBoth(ctx context.Context, o *outsider) error {
	q, answer, err := o.allowed(ctx, r.first)
	if err != nil {
		return err
	}
	if answer.GetDelegationId() == "" {
		return errors.New("the example leaves nothing that could be revoked: its last part should leave one decision allowed")
	}
	section := demoSection{Title: "Two servers follow one database: what is revoked through A, B's very next check refuses."}
	tell := func(server, want string, answer *deputy.CheckPermissionResponse) {
		row := answered(q, q.Resource, answer, want)
		row.Server = server
		section.Rows = append(section.Rows, row)
	}
	tell("A", "allowed", answer)
	if answer, err = ask(ctx, r.service, q, q.Resource); err != nil {
		return err
	}
	tell("B", "allowed", answer)
	if _, err := r.admin.delegations.RevokeDelegation(ctx, &deputy.RevokeDelegationRequest{DelegationId: answer.GetDelegationId()}); err != nil {
		return err
	}
	if answer, err = ask(ctx, r.service, q, q.Resource); err != nil {
		return err
	}
	tell("B", "refused", answer)
	r.sections = append(r.sections, section)
	return nil
}
