package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	deputy "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// defaultPurgeAge is 30 days.
const defaultPurgeAge = 720 * time.Hour

// newPurge builds `deputy purge`, RetentionService.
func newPurge(p *program) *cobra.Command {
	var age time.Duration
	var dry bool
	cmd := &cobra.Command{
		Use:   "purge",
		Short: "Delete sessions and delegations that have been over for long (admins)",
		Long: `Delete the relationships of sessions and delegations that have been over for longer than --older-than, with
their leaves and their scopes. A tombstone of each stays, so that its id is not used again.

A session counts from the time at which it was last due to expire, even if it was ended before. A delegation
counts from its expiration, or from the first purge that saw that it, or a delegation or session behind it, was revoked or ended.

The server can do this by itself: see --purge-after of deputy serve. A purge that is interrupted is begun again.`,
		Example: `  deputy purge --dry-run
  deputy purge --older-than 2160h`,
		GroupID: groupServer,
		Args:    cobra.NoArgs,
	}
	flags := cmd.Flags()
	flags.DurationVar(&age, "older-than", defaultPurgeAge,
		"for how long a session or delegation has to be over before it is deleted; 0 deletes all that are over")
	flags.BoolVar(&dry, "dry-run", false, "say what would be deleted, and delete nothing")
	c := client(p, cmd)
	cmd.RunE = c.runLong(func(ctx context.Context, s *server, _ []string) error {
		if age < 0 {
			return errors.New("--older-than must not be negative")
		}
		bar := newProgress(p.Err, "purging", "", -1)
		defer bar.clear()
		request := &deputy.PurgeRequest{OlderThan: durationpb.New(age), DryRun: dry}
		total := &deputy.PurgeResponse{}
		for {
			did, err := s.retention.Purge(ctx, request)
			if err != nil {
				return err
			}
			total.Sessions += did.GetSessions()
			total.Delegations += did.GetDelegations()
			total.Relationships += did.GetRelationships()
			total.Noted += did.GetNoted()
			total.ReadAt, total.Complete = did.GetReadAt(), did.GetComplete()
			if did.GetNext() == nil {
				break
			}
			request.Cursor = did.GetNext()
		}
		bar.clear()
		return c.print(total, func(w io.Writer) { describePurge(w, total, age, dry) })
	})
	return cmd
}

// describePurge says what was purged, or would be.
func describePurge(w io.Writer, r *deputy.PurgeResponse, age time.Duration, dry bool) {
	did, begins := "Deleted", "counts from now on"
	if dry {
		did, begins = "Would delete", "would count from now on"
	}
	row(w, fmt.Sprintf("%s %d sessions and %d delegations: %d relationships",
		did, r.GetSessions(), r.GetDelegations(), r.GetRelationships()))
	if r.GetNoted() > 0 {
		row(w, fmt.Sprintf("%d more are over, and nothing says since when: the age of %s %s", r.GetNoted(), age, begins))
	}
}
