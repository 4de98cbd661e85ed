//go:build unix

package signals

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"path/filepath"
	"testing"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"google.golang.org/grpc"

	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/schema"
	"github.com/deputyauth/deputy/tests/harness"
	"github.com/deputyauth/deputy/tests/process"
)

func digest(key string) [sha256.Size]byte { return sha256.Sum256([]byte(key)) }

// serving is a `deputy serve` in a process of its own.
type serving struct {
	*process.Server
	conn *grpc.ClientConn
	url  string
}

// serve starts a server on a directory and waits until it listens.
func serve(t *testing.T, dir, callers string) *serving {
	t.Helper()
	port := free(t)
	server, err := process.Start(process.Config{
		Log: filepath.Join(dir, "serve.log"), Env: map[string]string{"DEPUTY_ADMIN_PRESHARED_KEY": harness.AdminKey},
		Args: []string{"--addr", "127.0.0.1:0", "--data-dir", filepath.Join(dir, "data"), "--callers", callers, "--http-listen", port},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Kill() })
	s := &serving{Server: server, conn: harness.Dial(t, server.Addr, harness.AdminKey), url: "http://" + port + "/signals"}
	if _, err := v1.NewSchemaServiceClient(s.conn).WriteSchema(t.Context(), &v1.WriteSchemaRequest{Schema: schema.Core + domain}); err != nil {
		t.Fatal(err)
	}
	return s
}

// suspended reports whether a user bears the tombstone.
func (s *serving) suspended(t *testing.T, user string) bool {
	t.Helper()
	rows, err := v1.NewPermissionsServiceClient(s.conn).ReadRelationships(context.Background(), &v1.ReadRelationshipsRequest{
		Consistency: &v1.Consistency{Requirement: &v1.Consistency_FullyConsistent{FullyConsistent: true}},
		RelationshipFilter: &v1.RelationshipFilter{
			ResourceType: "user", OptionalResourceId: user, OptionalRelation: "suspended",
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for {
		_, err := rows.Recv()
		if errors.Is(err, io.EOF) {
			return found
		}
		if err != nil {
			t.Fatal(err)
		}
		found = true
	}
}

func (s *serving) resume(t *testing.T, user string) {
	t.Helper()
	_, err := deputyv1.NewPrincipalsServiceClient(s.conn).Resume(t.Context(), &deputyv1.ResumeRequest{Principal: harness.Ref("user:" + user)})
	if err != nil {
		t.Fatal(err)
	}
}
