//go:build unix

package pgtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// patience bounds every wait for a server to start or to stop. It is for broken machines; a cluster
// takes about a second.
const patience = 90 * time.Second

// errNoServer says that the machine has no PostgreSQL server to run.
var errNoServer = errors.New("no PostgreSQL server (initdb and postgres) on PATH or in " +
	"/usr/lib/postgresql/*/bin; on Debian: apt-get install postgresql")

// Database returns the connection string of a new, empty PostgreSQL database that exists until the
// test ends. It skips the test where the machine has no PostgreSQL server, and fails it where there is
// one that does not start. It is safe for parallel tests.
//
// The cluster runs with track_commit_timestamp, which SpiceDB's Watch needs, and without fsync. It
// listens on a Unix socket in a directory that only this user and the server's can enter.
func Database(t testing.TB) string {
	t.Helper()
	return database(t, nil)
}

// Prepared is a database that is filled before others are copied from it.
type Prepared struct {
	// Fill fills it, once for each cluster.
	Fill func(uri string) error
	// Differs is a statement that each copy runs: it gives the copy what no other may have.
	Differs string

	// of is the cluster that has the database.
	of *cluster
}

// PreparedDatabase is Database with a copy of a prepared database, which takes a fraction of the time that filling one does.
func PreparedDatabase(t testing.TB, as *Prepared) string {
	t.Helper()
	return database(t, as)
}

func database(t testing.TB, as *Prepared) string {
	t.Helper()
	uri, err := shared.database(t, as)
	switch {
	case errors.Is(err, errNoServer):
		Skip(t, err.Error())
	case err != nil:
		t.Fatalf("PostgreSQL: %v", err)
	}
	return uri
}

// shared is the one cluster of this test binary.
var shared holder

// holder starts a cluster when the first test asks for a database. It stops it when the last test that
// asked has ended, or, between keep and stop, not before stop: so without Main the cluster may be
// started more than once, and is still never left behind.
type holder struct {
	mu      sync.Mutex
	users   int
	kept    bool
	number  int
	running *cluster
	failed  error
}

func (h *holder) keep() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.kept = true
}

func (h *holder) stop() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.kept = false
	return h.stopLocked()
}

func (h *holder) stopLocked() error {
	if h.running == nil {
		return nil
	}
	c := h.running
	h.running = nil
	return c.stop()
}

// template is the name of the prepared database of a cluster.
const template = "prepared"

// create creates a database, as a copy of a prepared one unless as is nil.
func (c *cluster) create(ctx context.Context, name string, as *Prepared) error {
	create := "CREATE DATABASE " + pgx.Identifier{name}.Sanitize()
	if as == nil {
		return c.exec(ctx, create)
	}
	if as.of != c {
		if err := c.exec(ctx, "CREATE DATABASE "+template); err != nil {
			return err
		}
		if err := as.Fill(c.uri(template)); err != nil {
			return err
		}
		as.of = c
	}
	if err := c.exec(ctx, create+" TEMPLATE "+template); err != nil {
		return err
	}
	return c.execIn(ctx, name, as.Differs)
}

// database creates a database for the test and drops it when the test ends.
func (h *holder) database(t testing.TB, as *Prepared) (string, error) {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.failed != nil {
		return "", h.failed
	}
	if h.running == nil {
		if h.running, h.failed = startCluster(); h.failed != nil {
			return "", h.failed
		}
	}
	c := h.running
	h.number++
	name := databaseName(t.Name(), h.number)
	if err := c.create(t.Context(), name, as); err != nil {
		return "", err
	}
	h.users++
	t.Cleanup(func() {
		// Not t.Context(), which has ended by now. FORCE closes what the test left open.
		if err := c.exec(context.Background(), "DROP DATABASE "+pgx.Identifier{name}.Sanitize()+" WITH (FORCE)"); err != nil {
			t.Errorf("PostgreSQL: %v", err)
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.users--; h.users == 0 && !h.kept {
			if err := h.stopLocked(); err != nil {
				t.Errorf("PostgreSQL: %v", err)
			}
		}
	})
	return c.uri(name), nil
}

// databaseName makes a name that says which test it is for. PostgreSQL cuts names at 63 bytes.
func databaseName(test string, number int) string {
	clean := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '_'
	}, strings.ToLower(test))
	return fmt.Sprintf("d%d_%.40s", number, clean)
}

// cluster is one running PostgreSQL server with a data directory of its own.
type cluster struct {
	bin    string              // where PostgreSQL's programs are
	as     *syscall.Credential // who they run as; nil for ourselves
	dir    string
	data   string
	socket string // the directory of the socket that the server listens on
	cmd    *exec.Cmd
	log    *serverLog
	exited chan struct{} // closed once the server is gone
	err    error         // how it went; read it after exited is closed
}

// startCluster makes a cluster in a temporary directory, starts it and waits until it takes
// connections.
func startCluster() (_ *cluster, err error) {
	c, err := newDirectory()
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(c.dir))
		}
	}()
	if err := c.program("initdb", "--pgdata="+c.data, "--username=postgres",
		"--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions"); err != nil {
		return nil, err
	}
	return c, c.launch(c.dir)
}

// newDirectory makes the directory of a cluster that has neither data nor a server yet.
func newDirectory() (*cluster, error) {
	bin, err := serverBinaries(os.Getenv("PATH"), "/usr/lib/postgresql/*/bin")
	if err != nil {
		return nil, err
	}
	as, err := unprivileged()
	if err != nil {
		return nil, err
	}
	// Not t.TempDir(): its name can be longer than a Unix socket's path may be, and the cluster
	// outlives the test that starts it.
	dir, err := os.MkdirTemp("", "pgtest")
	if err != nil {
		return nil, err
	}
	if as != nil {
		if err := os.Chown(dir, int(as.Uid), int(as.Gid)); err != nil {
			return nil, errors.Join(err, os.RemoveAll(dir))
		}
	}
	return &cluster{bin: bin, as: as, dir: dir, data: filepath.Join(dir, "data")}, nil
}

// program runs one of PostgreSQL's programs to its end.
func (c *cluster) program(name string, args ...string) error {
	cmd := command(c.dir, c.as, filepath.Join(c.bin, name), args...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", cmd, err, out)
	}
	return nil
}

// launch starts the server, with its socket in a directory, and waits until it takes connections. More
// settings come as "name=value".
func (c *cluster) launch(socket string, settings ...string) error {
	args := []string{
		"-D", c.data, "-k", socket,
		"-c", "listen_addresses=",
		"-c", "max_connections=400",
		"-c", "track_commit_timestamp=on",
		"-c", "fsync=off",
		"-c", "full_page_writes=off",
		"-c", "log_checkpoints=off",
		"-c", "timezone=UTC",
	}
	for _, s := range settings {
		args = append(args, "-c", s)
	}
	c.socket, c.log, c.exited = socket, newServerLog(), make(chan struct{})
	c.cmd = command(c.dir, c.as, filepath.Join(c.bin, "postgres"), args...)
	c.cmd.Stderr = c.log
	c.cmd.WaitDelay = 5 * time.Second
	if err := c.start(); err != nil {
		return err
	}
	select {
	case <-c.log.ready:
		return nil
	case <-c.exited:
		return fmt.Errorf("%s: %w\n%s", c.cmd.Path, c.err, c.log)
	case <-time.After(patience):
		return errors.Join(fmt.Errorf("%s: not ready after %v\n%s", c.cmd.Path, patience, c.log), c.end(syscall.SIGINT))
	}
}

// start starts the server from a thread that lives as long as the server does; see attributes.
func (c *cluster) start() error {
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := c.cmd.Start()
		started <- err
		if err == nil {
			c.err = c.cmd.Wait()
			close(c.exited)
		}
	}()
	return <-started
}

// end ends the server, whatever is connected, by a signal: SIGINT has it write what it holds, SIGQUIT is
// as a crash.
func (c *cluster) end(signal syscall.Signal) error {
	var errs []error
	if err := c.cmd.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		errs = append(errs, err)
	}
	select {
	case <-c.exited:
	case <-time.After(patience):
		errs = append(errs, fmt.Errorf("%s: still there %v after it was told to stop", c.cmd.Path, patience),
			c.cmd.Process.Kill())
		<-c.exited
	}
	return errors.Join(errs...)
}

// stop ends the server and removes its directory.
func (c *cluster) stop() error {
	return errors.Join(c.end(syscall.SIGINT), os.RemoveAll(c.dir))
}

// uri is the connection string of a database.
func (c *cluster) uri(database string) string {
	u := url.URL{
		Scheme: "postgres", User: url.User("postgres"), Path: "/" + database,
		RawQuery: url.Values{"host": {c.socket}}.Encode(),
	}
	return u.String()
}

// exec runs one statement outside of any test's database.
func (c *cluster) exec(ctx context.Context, statement string) error {
	return c.execIn(ctx, "postgres", statement)
}

// execIn runs one statement in a database.
func (c *cluster) execIn(ctx context.Context, database, statement string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	conn, err := pgx.Connect(ctx, c.uri(database))
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, statement)
	return errors.Join(err, conn.Close(ctx))
}

// serverBinaries returns the directory that holds both initdb and postgres: the first on a search path,
// else the highest version among the directories that match pattern. Debian keeps them off PATH.
func serverBinaries(path, pattern string) (string, error) {
	debian, err := filepath.Glob(pattern)
	if err != nil {
		return "", err
	}
	version := func(dir string) int {
		n, _ := strconv.Atoi(filepath.Base(filepath.Dir(dir))) // 0 for what is no version
		return n
	}
	best := ""
	for _, dir := range debian {
		if hasServer(dir) && (best == "" || version(dir) > version(best)) {
			best = dir
		}
	}
	for _, dir := range filepath.SplitList(path) {
		// A link to initdb alone leads to the directory where postgres is too.
		if initdb, err := filepath.EvalSymlinks(filepath.Join(dir, "initdb")); err == nil && hasServer(filepath.Dir(initdb)) {
			return filepath.Dir(initdb), nil
		}
	}
	if best == "" {
		return "", errNoServer
	}
	return best, nil
}

// hasServer reports whether a directory holds both programs.
func hasServer(dir string) bool {
	for _, name := range []string{"initdb", "postgres"} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || !info.Mode().IsRegular() || info.Mode()&0o111 == 0 {
			return false
		}
	}
	return true
}

// unprivileged returns whom to run the server as: nil for ourselves, and for root, whom PostgreSQL
// refuses, the user that Debian's package made, or else nobody.
func unprivileged() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil //nolint:nilnil // No credential is an answer: stay who we are.
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err := strconv.ParseUint(u.Uid, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("user %s: %w", name, err)
		}
		gid, err := strconv.ParseUint(u.Gid, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("user %s: %w", name, err)
		}
		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
	}
	return nil, errors.New("we are root, whom PostgreSQL refuses, and there is neither a user postgres nor nobody")
}

// command prepares a program of PostgreSQL's with an environment of its own: no PG* variable of the
// caller's reaches it, and its messages are in the language that serverLog reads.
func command(dir string, as *syscall.Credential, name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C", "HOME=" + dir}
	cmd.SysProcAttr = attributes(as)
	return cmd
}

// serverLog takes the server's log, and closes ready when the log says that the server is.
type serverLog struct {
	ready chan struct{}

	mu   sync.Mutex
	text bytes.Buffer
	told bool
}

// readyLine is what a server logs once it takes connections; a standby says that they may only read.
var readyLine = regexp.MustCompile(`database system is ready to accept (read[- ]only )?connections`)

func newServerLog() *serverLog { return &serverLog{ready: make(chan struct{})} }

// Write implements io.Writer. What comes after 64 KiB is dropped: it is the start that matters.
func (l *serverLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.text.Len() < 1<<16 {
		l.text.Write(p)
	}
	if !l.told && readyLine.Match(l.text.Bytes()) {
		l.told = true
		close(l.ready)
	}
	return len(p), nil
}

// String returns the log so far.
func (l *serverLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}
