package journal_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/pkg/journal"
)

// onDisk writes records into a journal in a directory, which is made if it is not there.
func onDisk(t *testing.T, dir string, records ...*journal.Record) {
	t.Helper()
	keys, err := journal.OpenKeys(dir+".keys", true)
	if err != nil {
		t.Fatal(err)
	}
	j, err := journal.Open(journal.Config{Dir: dir, Keys: keys, Store: "store", ReserveBytes: 1 << 10})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range records {
		if _, err := j.Append(t.Context(), journal.Refuse, r); err != nil {
			t.Fatal(err)
		}
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestEventsAreOCSF: what the class API Activity and its profiles require is in the events of all kinds of records, and the fingerprint is that of
// the event without it.
func TestEventsAreOCSF(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "j")
	allowed, denied := decision(1), decision(2)
	allowed.Answer, allowed.SessionId, allowed.Method = has, "0123456789abcdef", "deputy.v1.PermissionsService/CheckPermission"
	denied.Answer, denied.RefusedBy = no, deputyv1.Gate_GATE_AGENT
	all := []*journal.Record{allowed, denied}
	for kind := range deputyv1.RecordKind_name {
		if kind != 0 {
			all = append(all, &journal.Record{Kind: deputyv1.RecordKind(kind), Time: 1_700_000_000_123_456_789, Code: kind % 2 * 7, Reason: "<&>"})
		}
	}
	onDisk(t, dir, all...)
	file := filepath.Join(t.TempDir(), "events.jsonl")
	if out, code := command(t, "journal", "export", "--as", "ocsf", "--dir", dir, file); code != 0 {
		t.Fatal(out)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	events := map[string]map[string]any{}
	var uids []any
	for line := range strings.Lines(string(text)) {
		decoder := json.NewDecoder(strings.NewReader(line))
		decoder.UseNumber()
		var e map[string]any
		if err := decoder.Decode(&e); err != nil {
			t.Fatal(err)
		}
		at := func(path string) any {
			var v any = e
			for name := range strings.SplitSeq(path, ".") {
				if list, ok := v.([]any); ok && len(list) > 0 {
					v = list[0]
				}
				m, _ := v.(map[string]any)
				v = m[name]
			}
			return v
		}
		sequence := fmt.Sprint(at("metadata.sequence"))
		events[sequence] = e
		for _, required := range []string{
			"activity_id", "category_uid", "class_uid", "type_uid", "severity_id", "time",
			"metadata.version", "metadata.uid", "metadata.product.vendor_name", "metadata.profiles",
			"actor.app_name", "api.operation", "api.service.name", "src_endpoint.name",
			"attestation_list.uid", "attestation_list.authority_uid", "attestation_list.fingerprint.algorithm_id", "attestation_list.fingerprint.value",
		} {
			if v := at(required); v == nil || v == "" {
				t.Errorf("record %s has no %s:\n%s", sequence, required, line)
			}
		}
		if before := at("attestation_list.prev_event.uid"); sequence != "0" && (before == nil || before != uids[len(uids)-1]) {
			t.Errorf("record %s says that %v comes before it, and that is %s", sequence, before, uids)
		}
		uids = append(uids, at("metadata.uid"))
		number := func(path string) int64 {
			n, err := strconv.ParseInt(fmt.Sprint(at(path)), 10, 64)
			if err != nil {
				t.Errorf("record %s: %s is %v", sequence, path, at(path))
			}
			return n
		}
		if number("class_uid") != 6003 || number("category_uid") != 6 || number("type_uid") != 600300+number("activity_id") {
			t.Errorf("record %s is of another class: %s", sequence, line)
		}
		attestation := at("attestation_list").([]any)[0].(map[string]any)
		said := at("attestation_list.fingerprint.value")
		delete(attestation, "fingerprint")
		var canonical bytes.Buffer
		encoder := json.NewEncoder(&canonical)
		encoder.SetEscapeHTML(false)
		if err := encoder.Encode(e); err != nil {
			t.Fatal(err)
		}
		if sum := sha256.Sum256(bytes.TrimSpace(canonical.Bytes())); said != hex.EncodeToString(sum[:]) {
			t.Errorf("record %s has the fingerprint %v", sequence, said)
		}
	}
	if len(events) != len(all) {
		t.Errorf("%d records have %d events", len(all), len(events))
	}
	for sequence, want := range map[string]string{
		"0": `{"instance_uid":"0123456789abcdef","name":"bot-1","type":"Unknown","type_id":0,"uid":"bot-1"} 1 HAS_PERMISSION`,
		"1": `{"name":"bot-2","type":"Unknown","type_id":0,"uid":"bot-2"} 2 NO_PERMISSION`,
	} {
		e := events[sequence]
		agent, err := json.Marshal(e["ai_agent"])
		if err != nil {
			t.Fatal(err)
		}
		authorization := e["actor"].(map[string]any)["authorizations"].([]any)[0].(map[string]any)
		if got := fmt.Sprint(string(agent), " ", e["action_id"], " ", authorization["decision"]); got != want {
			t.Errorf("record %s says\n%s and not\n%s", sequence, got, want)
		}
	}
}

// overHTTP reads tiles as C2SP tlog-tiles says that they are served. It is a tlog.TileReader.
type overHTTP struct {
	t   *testing.T
	url string
}

func (o overHTTP) get(path string) []byte {
	o.t.Helper()
	request, err := http.NewRequestWithContext(o.t.Context(), http.MethodGet, o.url+path, http.NoBody)
	if err != nil {
		o.t.Fatal(err)
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		o.t.Fatal(err)
	}
	defer answer.Body.Close()
	b, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != http.StatusOK {
		o.t.Fatalf("%s: %s, %v", path, answer.Status, err)
	}
	return b
}

func (overHTTP) Height() int { return 8 }

func (o overHTTP) ReadTiles(tiles []tlog.Tile) (data [][]byte, err error) {
	for _, tile := range tiles {
		// golang.org/x/mod has the height in its paths, and tlog-tiles has not.
		data = append(data, o.get("/tile/"+strings.TrimPrefix(tile.Path(), "tile/8/")))
	}
	return data, nil
}

func (overHTTP) SaveTiles([]tlog.Tile, [][]byte) {}

// TestTilesAreALogOfC2SP: the tiles that are exported, behind a plain web server, are a log to a client that knows tlog-tiles and golang.org/x/mod
// only: each record is proven against the checkpoint.
func TestTilesAreALogOfC2SP(t *testing.T) {
	t.Parallel()
	for _, size := range []int{1, 256, 600} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			t.Parallel()
			dir, tiles := filepath.Join(t.TempDir(), "j"), filepath.Join(t.TempDir(), "tiles")
			records := make([]*journal.Record, size)
			for i := range records {
				records[i] = decision(i)
			}
			onDisk(t, dir, records...)
			if out, code := command(t, "journal", "export", "--as", "tiles", "--dir", dir, tiles); code != 0 {
				t.Fatal(out)
			}
			server := httptest.NewServer(http.FileServer(http.Dir(tiles)))
			t.Cleanup(server.Close)
			log := overHTTP{t, server.URL}
			key, err := os.ReadFile(filepath.Join(dir, "verifier.key"))
			if err != nil {
				t.Fatal(err)
			}
			verifier, err := note.NewVerifier(strings.TrimSpace(string(key)))
			if err != nil {
				t.Fatal(err)
			}
			checkpoint, err := note.Open(log.get("/checkpoint"), note.VerifierList(verifier))
			if err != nil {
				t.Fatal(err)
			}
			lines := strings.Split(checkpoint.Text, "\n")
			root, err := tlog.ParseHash(lines[2])
			if err != nil || lines[0] != verifier.Name() || lines[1] != strconv.Itoa(size) {
				t.Fatal(lines, err)
			}
			tree := tlog.Tree{N: int64(size), Hash: root}
			reader := tlog.TileHashReader(tree, log)
			for i := int64(0); i < tree.N; {
				n := i / 256
				path := fmt.Sprintf("/tile/entries/%03d", n)
				if width := tree.N - n*256; width < 256 {
					path += fmt.Sprintf(".p/%d", width)
				}
				for b := log.get(path); len(b) > 0; i++ {
					length := int(binary.BigEndian.Uint16(b))
					entry := b[2 : 2+length]
					b = b[2+length:]
					if i%50 != 0 && i != tree.N-1 {
						continue
					}
					proof, err := tlog.ProveRecord(tree.N, i, reader)
					if err != nil {
						t.Fatal(err)
					}
					if err := tlog.CheckRecord(proof, tree.N, root, i, tlog.RecordHash(entry)); err != nil {
						t.Errorf("record %d: %v", i, err)
					}
				}
			}
		})
	}
}

// TestCollect: the journals of two nodes are brought together, again and again, and read by time. One that was set back is found.
func TestCollect(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	one, two, older, out := filepath.Join(root, "one"), filepath.Join(root, "two"), filepath.Join(root, "older"), filepath.Join(root, "out")
	at := func(n int) *journal.Record {
		r := decision(n)
		r.Time = int64(1_700_000_000+n) * 1e9
		return r
	}
	onDisk(t, one, at(1), at(4), at(5))
	if err := os.CopyFS(older, os.DirFS(one)); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(older+".keys", os.DirFS(one+".keys")); err != nil {
		t.Fatal(err)
	}
	onDisk(t, two, at(2), at(3), at(6))
	collect := []string{"journal", "collect", one, two, "--out", out, "--key", one + "/verifier.key", "--key", two + "/verifier.key"}
	if said, code := command(t, collect...); code != 0 || strings.Count(said, "ok: 3 records in ") != 2 {
		t.Fatal(code, said)
	}
	times := func(want string, flags ...string) {
		t.Helper()
		said, code := command(t, append([]string{"journal", "query", "--dir", out, "-o", "json", "--kind", "decision"}, flags...)...)
		var got []string
		for line := range strings.Lines(said) {
			var found struct {
				Record struct {
					Record struct{ ResourceID string }
				}
			}
			if err := json.Unmarshal([]byte(line), &found); err != nil {
				t.Fatal(said)
			}
			if id := found.Record.Record.ResourceID; id != "" {
				got = append(got, strings.TrimPrefix(id, "plan-"))
			}
		}
		if code != 0 || strings.Join(got, " ") != want {
			t.Errorf("%v: found %v, want %s\n%s", flags, got, want, said)
		}
	}
	times("6 5 4 3 2 1")
	times("1 2 3 4 5 6", "--oldest-first")
	times("1 2 3", "--oldest-first", "--limit", "3")
	times("3", "--principal", "user:user-"+strconv.Itoa(3*31%97))

	// What was written since is collected too.
	onDisk(t, one, at(7), at(8))
	if said, code := command(t, collect...); code != 0 || !strings.Contains(said, "ok: 5 records in ") {
		t.Error(code, said)
	}
	times("8 7 6 5 4 3 2 1")

	// A node that was set back has lost what was collected already, also once it has gone on.
	if err := os.RemoveAll(one); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(older, one); err != nil {
		t.Fatal(err)
	}
	for range 2 { // what was collected before stays, so that it is found again
		if said, code := command(t, collect...); code != 1 || !strings.Contains(said, "NOT ok: "+one+": record 3: ") || !strings.Contains(said, "are missing") {
			t.Error(code, said)
		}
		times("8 7 6 5 4 3 2 1")
	}
}
