package daemon

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/engine"
	"github.com/deputyauth/deputy/pkg/journal/persons"
	"github.com/deputyauth/deputy/schema"
)

// TestJournalHealth: a server whose journal takes no records decides nothing and says so, once in its log, and goes on by itself.
func TestJournalHealth(t *testing.T) {
	for _, test := range []struct {
		name string
		// unrecorded has the server answer nevertheless. Only files whose names end with fails do fail.
		unrecorded bool
		fails      string
	}{
		{"refuses", false, ""},
		{"answers unrecorded", true, ""},
		{"the disk of the keys of persons", false, persons.FileName},
	} {
		t.Run(test.name, func(t *testing.T) {
			unrecorded := test.unrecorded
			var fails atomic.Bool
			broken := errors.New("the disk of this test fails")
			files := errorfs.Wrap(vfs.Default, errorfs.InjectorFunc(func(op errorfs.Op) error {
				if fails.Load() && op.Kind.ReadOrWrite() == errorfs.OpIsWrite && strings.HasSuffix(op.Path, test.fails) {
					return broken
				}
				return nil
			}))
			core, logged := observer.New(zapcore.InfoLevel)
			d, err := Open(t.Context(), Config{
				PresharedKeys: []string{"key-of-the-service"}, MetricsAddr: "127.0.0.1:0",
				Journal:      Journal{AnswerUnrecorded: unrecorded, Erasable: test.fails != ""},
				Engine:       engine.Config{Kind: engine.Embedded, Dir: filepath.Join(t.TempDir(), "data")},
				journalFiles: files, journalEvery: time.Millisecond,
			}, zap.New(core))
			if err != nil {
				t.Fatal(err)
			}
			served := make(chan error, 1)
			go func() { served <- d.Serve(t.Context()) }()
			t.Cleanup(func() {
				if err := errors.Join(d.Close(), <-served); err != nil {
					t.Error(err)
				}
			})
			if _, err := v1.NewSchemaServiceClient(d.Engine()).WriteSchema(t.Context(), &v1.WriteSchemaRequest{Schema: schema.Core}); err != nil {
				t.Fatal(err)
			}
			asked := 0
			decide := func() error { // for another one each time, whose key has to be made where there are keys
				asked++
				_, err := d.Decide(t.Context(), authz.Case{
					Agent: "bot", Principal: authz.Principal{Object: authz.Object{Type: "user", ID: fmt.Sprintf("alice-%d", asked)}}, Tenant: "acme",
					Resource: authz.Object{Type: "tenant", ID: "acme"}, Permission: "access",
				}, authz.Freshness{})
				if said, ok := errors.AsType[*authz.Error](err); ok && said.Reason != authz.ReasonJournalUnavailable {
					return nil // it was decided that there is no answer
				}
				return err
			}
			settled := func(name string, want healthv1.HealthCheckResponse_ServingStatus) {
				t.Helper()
				until(t, fmt.Sprintf("%q is %v", name, want), func() bool {
					got, err := d.health.Check(t.Context(), &healthv1.HealthCheckRequest{Service: name})
					return err == nil && got.GetStatus() == want
				})
			}
			const well, ill = healthv1.HealthCheckResponse_SERVING, healthv1.HealthCheckResponse_NOT_SERVING
			if err := decide(); err != nil {
				t.Fatal(err)
			}
			settled(HealthJournal, well)
			settled("", well)
			if text := figuresOf(t, d); !strings.Contains(text, "\ndeputy_journal_takes_records 1") || !strings.Contains(text, "\ndeputy_journal_records_total ") {
				t.Errorf("the figures are\n%s", text)
			}

			fails.Store(true)
			if err := decide(); (err == nil) != unrecorded || err != nil && authz.KindOf(err) != authz.Unavailable {
				t.Errorf("a decision without a record ends with %v", err)
			}
			settled(HealthJournal, ill)
			if unrecorded {
				settled("", well)
			} else {
				settled("", ill)
				settled("deputy.v1.PermissionsService", ill)
			}
			if text := figuresOf(t, d); !strings.Contains(text, "\ndeputy_journal_takes_records 0") ||
				strings.Contains(text, "\ndeputy_journal_unrecorded_answers_total 1") != unrecorded ||
				strings.Contains(text, "\ndeputy_journal_refused_records_total 0") != unrecorded {
				t.Errorf("the figures are\n%s", text)
			}
			for range 3 {
				_ = decide()
			}

			fails.Store(false)
			settled(HealthJournal, well)
			settled("", well)
			if err := decide(); err != nil {
				t.Errorf("the disk is well, and a decision ends with %v", err)
			}
			for message, want := range map[string]int{"the journal is not well": 1, "the journal is well again": 1} {
				if got := logged.FilterMessage(message).Len(); got != want {
					t.Errorf("%q is logged %d times, want %d", message, got, want)
				}
			}
		})
	}
}

// figuresOf is what Prometheus finds.
func figuresOf(t *testing.T, d *Daemon) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+d.MetricsAddr().String()+"/metrics", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
