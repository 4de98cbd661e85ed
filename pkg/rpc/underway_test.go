package rpc

import (
	"context"
	"testing"

	"github.com/deputyauth/deputy/pkg/authz"
)

// Calls of services stop short of those that take access away, and those stop short of admins': whatever checks are under
// way, a session can be ended, and whatever services do, an admin can suspend.
func TestCallsUnderWay(t *testing.T) {
	const (
		check = "/deputy.v1.PermissionsService/CheckPermission"
		end   = "/deputy.v1.SessionsService/EndSession"
		probe = "/grpc.health.v1.Health/Check"
	)
	u := &underWay{most: 80}
	as := func(role Role) context.Context { return context.WithValue(t.Context(), roleKey{}, role) }
	fill := func(role Role, method string) (ends []func()) {
		t.Helper()
		for {
			end, err := u.begin(as(role), method)
			if err != nil {
				if authz.KindOf(err) != authz.Exhausted {
					t.Fatal(err)
				}
				return ends
			}
			if ends = append(ends, end); len(ends) > 1000 {
				t.Fatal("calls have no bound")
			}
		}
	}
	checks, narrowing, admins := fill(Service, check), fill(Service, end), fill(Admin, check)
	if len(checks) != 60 || len(narrowing) != 10 || len(admins) != 10 {
		t.Errorf("%d checks, %d calls that take access away, %d of admins; want 60, 10, 10", len(checks), len(narrowing), len(admins))
	}
	if _, err := u.begin(as(Nobody), probe); err != nil {
		t.Errorf("health: %v", err)
	}
	for _, done := range checks {
		done()
	}
	if again := fill(Service, check); len(again) != 40 {
		t.Errorf("%d checks beside 20 others, want 40", len(again))
	}
}
