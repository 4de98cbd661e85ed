package http_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/deputyauth/deputy/pkg/daemon"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/tests/harness"
)

// TestRecordsOfUnreadable: a message that cannot be read leaves one record and counts as one call, whichever way it is broken, and the same both ways.
func TestRecordsOfUnreadable(t *testing.T) {
	w := open(t, func(cfg *daemon.Config) { cfg.MetricsAddr = "127.0.0.1:0" })
	counted := func() (n int) {
		got, err := http.Get("http://" + w.MetricsAddr().String() + "/metrics")
		w.must(err)
		defer func() { _ = got.Body.Close() }()
		text, err := io.ReadAll(got.Body)
		w.must(err)
		for line := range strings.Lines(string(text)) {
			var of string
			var calls int
			if _, err := fmt.Sscanf(line, "deputy_calls_total{caller=%q} %d", &of, &calls); err == nil && of != "audits" {
				n += calls
			}
		}
		return n
	}
	audits := harness.Dial(t, w.Addr().String(), auditorKey)
	records := func() (all []string) {
		s, err := deputyv1.NewJournalServiceClient(audits).QueryRecords(t.Context(), &deputyv1.QueryRecordsRequest{})
		w.must(err)
		for {
			m, err := s.Recv()
			if errors.Is(err, io.EOF) {
				return all
			}
			w.must(err)
			if r := m.GetRecord().GetRecord(); r != nil && !strings.HasPrefix(r.GetMethod(), "deputy.v1.JournalService") {
				all = append(all, fmt.Sprint(r.GetKind(), r.GetMethod(), r.GetCaller(), r.GetCode(), r.GetReason()))
			}
		}
	}
	protocols := &http.Protocols{}
	protocols.SetUnencryptedHTTP2(true)
	overGRPC := &http.Client{Transport: &http.Transport{Protocols: protocols}}
	frame := func(flag byte, length int, message string) string {
		return string(binary.BigEndian.AppendUint32([]byte{flag}, uint32(length))) + message
	}
	send := func(url string, client *http.Client, body string, headers ...string) string {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+checkPath, strings.NewReader(body))
		w.must(err)
		r.Header.Set("Authorization", "Bearer "+harness.ServiceKey)
		r.Header.Set("TE", "trailers")
		for i := 0; i < len(headers); i += 2 {
			r.Header.Set(headers[i], headers[i+1])
		}
		got, err := client.Do(r)
		if err != nil {
			return err.Error()
		}
		defer func() { _ = got.Body.Close() }()
		text, _ := io.ReadAll(got.Body)
		return fmt.Sprint(got.Status, got.Header.Get("Grpc-Status"), got.Header.Get("Grpc-Message"), got.Trailer, string(text))
	}
	const json, proto, grpcType = "application/json", "application/proto", "application/grpc+proto"
	big := strings.Repeat("x", 64<<10)
	httpURL, grpcURL := w.url, "http://"+w.Addr().String()
	for _, test := range []struct {
		name       string
		body, grpc string
		headers    []string
		grpcHead   []string
	}{
		{"no message at all", "", "", []string{"Content-Type", proto, "Content-Encoding", "gzip"}, []string{"Content-Type", grpcType}},
		{"bad JSON", "{", frame(0, 1, "{"), []string{"Content-Type", json}, []string{"Content-Type", grpcType}},
		{"no gzip", "garbage", frame(1, 7, "garbage"), []string{"Content-Type", json, "Content-Encoding", "gzip"}, []string{"Content-Type", grpcType, "Grpc-Encoding", "gzip"}},
		{"too large", big, frame(0, len(big), big), []string{"Content-Type", proto}, []string{"Content-Type", grpcType}},
		{"a flag without a compression", frame(1, 3, "abc"), frame(1, 3, "abc"), []string{"Content-Type", "application/grpc-web+proto"}, []string{"Content-Type", grpcType}},
		{"a frame that breaks off", frame(0, 9, "abc"), frame(0, 9, "abc"), []string{"Content-Type", "application/grpc-web+proto"}, []string{"Content-Type", grpcType}},
		{"two frames", frame(0, 0, "") + frame(0, 0, ""), frame(0, 0, "") + frame(0, 0, ""), []string{"Content-Type", "application/grpc-web+proto"}, []string{"Content-Type", grpcType}},
	} {
		var left [2]string
		for i := range 2 {
			before, calls := len(records()), counted()
			var said string
			if i == 0 {
				said = send(httpURL, http.DefaultClient, test.body, test.headers...)
			} else {
				said = send(grpcURL, overGRPC, test.grpc, test.grpcHead...)
			}
			after := records()
			left[i] = fmt.Sprintf("%d calls, %v", counted()-calls, after[before:])
			t.Logf("%s, %d: %s: %.200q", test.name, i, left[i], said)
			if len(after) != before+1 || counted() != calls+1 {
				t.Errorf("%s (%d): %d records and %d calls", test.name, i, len(after)-before, counted()-calls)
			}
		}
	}
}
