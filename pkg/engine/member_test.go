package engine

import (
	"fmt"
	"testing"
	"time"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"github.com/jackc/pgx/v5"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/facts"
	"github.com/deputyauth/deputy/tests/pgtest"
)

// TestOneMemberOfMany: over PostgreSQL, whether one principal is in a tenant's set of 50,000, and whether the tenant may act, is read from an index, as
// PostgreSQL itself counts the blocks that it looks at.
func TestOneMemberOfMany(t *testing.T) {
	t.Parallel()
	cfg := Config{Kind: Postgres, URI: pgtest.NewCluster(t).Create(t, "deputy")}
	if err := Migrate(t.Context(), cfg, "head"); err != nil {
		t.Fatal(err)
	}
	e, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	if _, err := v1.NewSchemaServiceClient(e.Conn()).WriteSchema(t.Context(), &v1.WriteSchemaRequest{Schema: `definition user {}
		definition tenant {
			relation active: tenant
			relation member: user
		}
		definition document {
			relation tenant: tenant
		}`}); err != nil {
		t.Fatal(err)
	}
	tenant := authz.TenantID("acme").Object()
	member := func(i int) authz.Relationship {
		return authz.Relationship{
			Resource: tenant, Relation: facts.RelationMember,
			Subject: authz.Subject{Object: authz.Object{Type: authz.TypeUser, ID: fmt.Sprintf("u%05d", i)}},
		}
	}
	const members, batch = 50_000, 500
	for from := 0; from < members; from += batch {
		var updates []authz.Update
		for i := range batch {
			updates = append(updates, authz.Update{Operation: authz.Touch, Relationship: member(from + i)}, authz.Update{
				Operation: authz.Touch, Relationship: authz.Relationship{
					Resource: authz.Object{Type: "document", ID: fmt.Sprint(from + i)}, Relation: authz.TenantMember, Subject: authz.Subject{Object: tenant},
				},
			})
		}
		if _, err := e.Write(t.Context(), updates, nil); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := e.Write(t.Context(), []authz.Update{{Operation: authz.Touch, Relationship: authz.Relationship{
		Resource: tenant, Relation: "active", Subject: authz.Subject{Object: tenant},
	}}}, nil); err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.Connect(t.Context(), cfg.URI)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	snap, err := e.Snapshot(t.Context(), authz.Freshness{})
	if err != nil {
		t.Fatal(err)
	}
	for _, analysed := range []bool{false, true} {
		if analysed {
			if _, err := conn.Exec(t.Context(), "ANALYZE"); err != nil {
				t.Fatal(err)
			}
		}
		for name, f := range map[string]authz.Filter{
			"a member":     facts.Member(authz.Subject{Object: tenant, Relation: facts.RelationMember}, authz.Principal{Object: member(25_000).Subject.Object}),
			"no member":    facts.Member(authz.Subject{Object: tenant, Relation: facts.RelationMember}, authz.Principal{Object: authz.Object{Type: authz.TypeUser, ID: "x"}}),
			"the standing": facts.StandingFilter(tenant),
		} {
			// A backend tells what it has read once a second. The first time it may tell of what came before.
			scans, blocks := reads(t, conn)
			for told, end := 0, time.Now().Add(time.Minute); ; {
				if _, err := snap.Read(t.Context(), f); err != nil {
					t.Fatal(err)
				}
				if more, read := reads(t, conn); more > scans {
					if told++; told == 1 {
						scans, blocks = more, read
						continue
					}
					t.Logf("%s, analysed %t: %d scans looked at %d blocks", name, analysed, more-scans, read-blocks)
					if each := (read - blocks) / (more - scans); each > 20 {
						t.Errorf("%s, analysed %t: a scan looks at %d blocks", name, analysed, each)
					}
					break
				}
				if time.Now().After(end) {
					t.Fatal("PostgreSQL tells of no scan within a minute")
				}
			}
		}
	}
}

// reads is how many scans of the table of relationships PostgreSQL tells of, and how many blocks of it and of its indexes they looked at.
func reads(t *testing.T, conn *pgx.Conn) (scans, blocks int64) {
	t.Helper()
	if err := conn.QueryRow(t.Context(), `SELECT t.seq_scan + coalesce(t.idx_scan, 0),
		b.heap_blks_read + b.heap_blks_hit + coalesce(b.idx_blks_read, 0) + coalesce(b.idx_blks_hit, 0)
		FROM pg_stat_user_tables t JOIN pg_statio_user_tables b USING (relid) WHERE t.relname = 'relation_tuple'`).Scan(&scans, &blocks); err != nil {
		t.Fatal(err)
	}
	return scans, blocks
}
