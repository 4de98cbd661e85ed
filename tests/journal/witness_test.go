package journal_test

import (
	"bufio"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/deputyauth/deputy/pkg/journal"
	"github.com/deputyauth/deputy/pkg/journal/tree"
)

// litewitness is a running witness: torchwood's, see the folder witness.
type litewitness struct{ url, key string }

// startWitness builds a litewitness that knows one log, and runs it until the test ends.
func startWitness(t *testing.T, origin, logKey string) litewitness {
	t.Helper()
	dir := t.TempDir()
	build := exec.CommandContext(t.Context(), "go", "build", "-o", dir+string(filepath.Separator), ".", "filippo.io/torchwood/cmd/litewitness")
	build.Dir = "witness"
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	database := filepath.Join(dir, "witness.db")
	if out, err := exec.CommandContext(t.Context(), filepath.Join(dir, "witness"), database, origin, logKey).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	socket, fingerprint := startAgent(t)
	// It says where it listens before it does, and cannot choose a port by itself.
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.Addr().String()
	_ = free.Close()
	run := exec.CommandContext(t.Context(), filepath.Join(dir, "litewitness"), "-name", "witness.example", "-db", database,
		"-ssh-agent", socket, "-key", fingerprint, "-listen", address)
	stderr, err := run.StderrPipe()
	if err == nil {
		err = run.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = run.Process.Kill()
		_ = run.Wait()
	})
	var said strings.Builder
	lines := bufio.NewReader(stderr)
	for {
		line, err := lines.ReadString('\n')
		said.WriteString(line)
		if found := regexp.MustCompile(`vkey=(\S+)`).FindStringSubmatch(line); found != nil {
			go func() { _, _ = io.Copy(io.Discard, lines) }()
			return litewitness{"http://" + address, found[1]}
		}
		if err != nil {
			t.Fatalf("the witness says no key: %s", said.String())
		}
	}
}

// startAgent runs an ssh-agent with one key, which litewitness signs with.
func startAgent(t *testing.T) (socket, fingerprint string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "agent") //nolint:usetesting // t.TempDir is too long for the path of a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	keys := agent.NewKeyring()
	if err := keys.Add(agent.AddedKey{PrivateKey: private}); err != nil {
		t.Fatal(err)
	}
	public, err := ssh.NewPublicKey(private.Public())
	if err != nil {
		t.Fatal(err)
	}
	socket = filepath.Join(dir, "s")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() { _ = errors.Join(agent.ServeAgent(keys, conn), conn.Close()) }()
		}
	}()
	return socket, ssh.FingerprintSHA256(public)
}

// await waits until a journal's witness is as it should be.
func await(t *testing.T, j *journal.Journal, ready func(journal.Witnessing) bool) journal.Witnessing {
	t.Helper()
	deadline := time.NewTimer(30 * time.Second)
	defer deadline.Stop()
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for {
		w := j.Sealing().Witness
		if ready(w) {
			return w
		}
		select {
		case <-ticker.C:
		case <-deadline.C:
			t.Fatalf("the witness is at %+v", w)
		}
	}
}

// TestWitness: a real witness cosigns the journal's checkpoints, and goes on with it after a restart. When the journal is set back, with its last
// checkpoint, the directory is in order by itself, and the witness contradicts it.
func TestWitness(t *testing.T) {
	t.Parallel()
	k := begin(t)
	k.more(t, 0, 10)
	e := k.read(t)
	origin := strings.TrimSpace(string(e.files["origin"]))
	w := startWitness(t, origin, e.key)
	config := func(fs vfs.FS) journal.Config {
		return journal.Config{
			Dir: "j", FS: fs, Keys: k.keys, Store: "store", CheckpointInterval: 50 * time.Millisecond,
			Witness: &journal.WitnessConfig{URL: w.url, Key: w.key},
		}
	}
	run := func(from, to int) {
		t.Helper()
		j, err := journal.Open(config(k.fs))
		if err != nil {
			t.Fatal(err)
		}
		for i := from; i < to; i++ {
			if _, err := j.Append(t.Context(), journal.Refuse, decision(i)); err != nil {
				t.Fatal(err)
			}
		}
		at := await(t, j, func(w journal.Witnessing) bool { return w.Records == uint64(to) })
		if at.Err != nil || at.Contradicts || time.Since(at.At) > time.Hour {
			t.Fatalf("the witness is at %+v", at)
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
	}
	run(10, 300)
	older := k.read(t)
	run(300, 600)
	e = k.read(t)
	e.sound(t)
	witnessed := e.files["checkpoint.witnessed"]
	if _, lines, _ := strings.Cut(string(witnessed), "\n\n"); strings.Count(lines, "\n") != 2 || !strings.Contains(lines, "— witness.example ") {
		t.Fatalf("the checkpoint with the witness's signature is %q", witnessed)
	}
	if _, _, err := tree.VerifyCosignature(witnessed, string(witnessed), w.key); err != nil {
		t.Fatal(err)
	}

	older.sound(t)
	j, err := journal.Open(config(older.disk(t)))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = j.Close() }()
	if at := await(t, j, func(w journal.Witnessing) bool { return w.Contradicts }); at.Err == nil {
		t.Fatalf("the witness is at %+v", at)
	}
	// It goes on, past what the witness saw: another log of the same name.
	for i := range 700 {
		if _, err := j.Append(t.Context(), journal.Refuse, decision(5000+i)); err != nil {
			t.Fatal(err)
		}
	}
	if at := await(t, j, func(w journal.Witnessing) bool {
		return w.Err != nil && strings.Contains(w.Err.Error(), "does not go on from")
	}); !at.Contradicts {
		t.Fatalf("the witness is at %+v", at)
	}
}
