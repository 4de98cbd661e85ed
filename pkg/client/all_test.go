package client

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// TestCheckAll: questions go out in calls of 1,000, in their order, all but the first at the revision of the first; and where a call fails, or does not say
// its revision although more are to come, nothing is answered.
func TestCheckAll(t *testing.T) {
	var calls []*deputyv1.CheckBulkPermissionsRequest
	var answer func(call int, response *deputyv1.CheckBulkPermissionsResponse) error
	c := serve(t, &answers{bulk: func(_ context.Context, r *deputyv1.CheckBulkPermissionsRequest) (*deputyv1.CheckBulkPermissionsResponse, error) {
		calls = append(calls, r)
		response := &deputyv1.CheckBulkPermissionsResponse{CheckedAt: token("first")}
		for _, item := range r.GetItems() {
			p := deputyv1.Permissionship_PERMISSIONSHIP_NO_PERMISSION
			if item.GetResource().GetObjectId() >= "d1500" {
				p = deputyv1.Permissionship_PERMISSIONSHIP_HAS_PERMISSION
			}
			response.Pairs = append(response.Pairs, &deputyv1.CheckBulkPermissionsPair{
				Request: item, Response: &deputyv1.CheckBulkPermissionsPair_Item{Item: says(p)},
			})
		}
		return response, answer(len(calls), response)
	}}, WithoutRetries())
	asked := func(n int) (all []Question) {
		for i := range n {
			all = append(all, Question{Agent: "bot", Session: "s1", Resource: Object("document", fmt.Sprintf("d%04d", i)), Permission: "view"})
		}
		return all
	}
	well := func(int, *deputyv1.CheckBulkPermissionsResponse) error { return nil }

	for n, want := range map[int][]int{0: nil, 1: {1}, 1000: {1000}, 1001: {1000, 1}, 2500: {1000, 1000, 500}} {
		calls, answer = nil, well
		found, err := c.CheckAll(t.Context(), asked(n)...)
		if err != nil || len(found) != n {
			t.Fatalf("%d questions: %d answers, %v", n, len(found), err)
		}
		var sizes []int
		for i, r := range calls {
			sizes = append(sizes, len(r.GetItems()))
			if at := r.GetConsistency().GetAtExactSnapshot().GetToken(); i == 0 && r.GetConsistency() != nil || i > 0 && at != "first" {
				t.Errorf("%d questions: call %d is asked at %v", n, i, r.GetConsistency())
			}
		}
		if !slices.Equal(sizes, want) {
			t.Errorf("%d questions are asked in calls of %d, want %d", n, sizes, want)
		}
		for i, one := range found {
			if one.Err != nil || one.Allowed() != (i >= 1500) {
				t.Fatalf("%d questions: the answer to number %d is %+v", n, i, one)
			}
		}
	}
	for name, test := range map[string]struct {
		answer func(call int, response *deputyv1.CheckBulkPermissionsResponse) error
		code   codes.Code
		calls  int
	}{
		"the second call fails": {func(call int, _ *deputyv1.CheckBulkPermissionsResponse) error {
			if call == 2 {
				return status.Error(codes.OutOfRange, "the revision is gone")
			}
			return nil
		}, codes.OutOfRange, 2},
		"the second call has an answer too few": {func(call int, response *deputyv1.CheckBulkPermissionsResponse) error {
			if call == 2 {
				response.Pairs = response.Pairs[1:]
			}
			return nil
		}, codes.Unknown, 2},
		"the first call does not say its revision": {func(_ int, response *deputyv1.CheckBulkPermissionsResponse) error {
			response.CheckedAt = nil
			return nil
		}, codes.Unknown, 1},
	} {
		calls, answer = nil, test.answer
		found, err := c.CheckAll(t.Context(), asked(2500)...)
		if found != nil || status.Code(err) != test.code || len(calls) != test.calls {
			t.Errorf("%s: %d answers after %d calls, %v", name, len(found), len(calls), err)
		}
	}
}
