package http_test

import (
	"bytes"
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

// TestRecordsOfWhatIsNoCall: a request whose headers make no call leaves no record over HTTP, and none at gRPC's own port. One whose message cannot be read
// is a call of its caller, and leaves the same record both ways.
func TestRecordsOfWhatIsNoCall(t *testing.T) {
	w := open(t, func(cfg *daemon.Config) { cfg.MetricsAddr = "127.0.0.1:0" })
	// counted is how many calls of others than the auditor are counted.
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
	frame := func(message string) string {
		return string(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message)))) + message
	}
	// send sends a request over HTTP, or to gRPC's port.
	send := func(grpc bool, body string, headers map[string]string) (status int, header http.Header) {
		url, client := w.url, http.DefaultClient
		if grpc {
			url, client = "http://"+w.Addr().String(), overGRPC
		}
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+checkPath, bytes.NewBufferString(body))
		w.must(err)
		r.Header.Set("Authorization", "Bearer "+harness.ServiceKey)
		r.Header.Set("TE", "trailers")
		for name, value := range headers {
			r.Header.Set(name, value)
		}
		got, err := client.Do(r)
		w.must(err)
		defer func() { _ = got.Body.Close() }()
		_, _ = io.Copy(io.Discard, got.Body)
		if len(got.Trailer) > 0 {
			return got.StatusCode, got.Trailer
		}
		return got.StatusCode, got.Header
	}
	const json, grpcType = "application/json", "application/grpc+proto"
	for name, test := range map[string]struct {
		http, grpc map[string]string
	}{
		"a type of another kind":    {map[string]string{"Content-Type": "text/plain"}, map[string]string{"Content-Type": "text/plain"}},
		"a time that is none":       {map[string]string{"Content-Type": json, "Connect-Timeout-Ms": "soon"}, map[string]string{"Content-Type": grpcType, "Grpc-Timeout": "soon"}},
		"a compression of nobody's": {map[string]string{"Content-Type": json, "Content-Encoding": "br"}, map[string]string{"Content-Type": grpcType, "Grpc-Encoding": "br"}},
		"another version":           {map[string]string{"Content-Type": json, "Connect-Protocol-Version": "9"}, nil},
	} {
		before, calls := records(), counted()
		if status, header := send(false, check, test.http); status == http.StatusOK {
			t.Errorf("%s is answered over HTTP: %v", name, header)
		}
		if test.grpc != nil {
			if status, header := send(true, frame(""), test.grpc); status == http.StatusOK && header.Get("Grpc-Status") == "0" {
				t.Errorf("%s is answered over gRPC: %v", name, header)
			}
		}
		if after := records(); len(after) != len(before) || counted() != calls {
			t.Errorf("%s leaves the records %v, and counts as %d calls", name, after[len(before):], counted()-calls)
		}
	}
	var left [2]string
	for i, body := range []string{"\xff\xff\xff", frame("\xff\xff\xff")} {
		before, calls := len(records()), counted()
		send(i == 1, body, map[string]string{"Content-Type": []string{"application/proto", grpcType}[i]})
		after := records()
		if len(after) != before+1 || counted() != calls+1 {
			t.Fatalf("a message that cannot be read leaves %d records, and counts as %d calls", len(after)-before, counted()-calls)
		}
		left[i] = after[before]
	}
	if left[0] != left[1] || !strings.Contains(left[0], "INVALID_FIELD") {
		t.Errorf("a message that cannot be read leaves over HTTP the record %s, and over gRPC %s", left[0], left[1])
	}
}
