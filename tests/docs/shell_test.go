//go:build unix

package docs

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// shell is the one in which a page's commands run.
type shell struct {
	in io.WriteCloser

	mu      sync.Mutex
	printed bytes.Buffer
	// more has a value when something was printed.
	more chan struct{}
}

// patience is how long a command may take. The longest builds the program.
const patience = 5 * time.Minute

// waits is how bash complains that a command has not ended.
var waits = regexp.MustCompile(`unexpected (EOF|end of file)`)

// unfinished reports whether a shell waits for more of a command.
func unfinished(command string) bool {
	if strings.HasSuffix(command, "\\\n") {
		return true
	}
	out, err := exec.Command("bash", "-n", "-c", command).CombinedOutput()
	return err != nil && waits.Match(out) || bytes.Contains(out, []byte("delimited by end-of-file"))
}

// start starts a shell in a folder. It ends with the test, with all that it has started.
func start(t *testing.T, folder string) *shell {
	t.Helper()
	programs := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	links := map[string]string{"deputy": self}
	if found, _ := filepath.Glob("../../.bin/grpcurl-*"); len(found) > 0 {
		if links["grpcurl"], err = filepath.Abs(found[0]); err != nil {
			t.Fatal(err)
		}
	}
	for name, to := range links {
		if err := os.Symlink(to, filepath.Join(programs, name)); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("bash", "--norc", "--noprofile")
	cmd.Dir = folder
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	for _, variable := range os.Environ() {
		if !strings.HasPrefix(variable, "DEPUTY_") && !strings.HasPrefix(variable, "MAKE") && !strings.HasPrefix(variable, "MFLAGS") {
			cmd.Env = append(cmd.Env, variable)
		}
	}
	// A server listens on a port that the system picks, and not on the page's.
	cmd.Env = append(cmd.Env, "PATH="+programs+":"+os.Getenv("PATH"), "DEPUTY_ADDR=127.0.0.1:0")
	out, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = w, w
	s := &shell{more: make(chan struct{}, 1)}
	if s.in, err = cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = w.Close()
	read := make(chan struct{})
	go func() {
		defer close(read)
		_, _ = io.Copy(s, out)
	}()
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
		_ = out.Close()
		<-read
	})
	return s
}

// Write takes what is printed.
func (s *shell) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case s.more <- struct{}{}:
	default:
	}
	return s.printed.Write(b)
}

// until waits until something that matches was printed, takes all that was printed up to its end, and returns it with the match.
func (s *shell) until(wanted *regexp.Regexp) (before string, match []string, err error) {
	end := time.NewTimer(patience)
	defer end.Stop()
	for {
		s.mu.Lock()
		if at := wanted.FindSubmatchIndex(s.printed.Bytes()); at != nil {
			all := string(s.printed.Next(at[1]))
			s.mu.Unlock()
			return all[:at[0]], wanted.FindStringSubmatch(all[at[0]:]), nil
		}
		s.mu.Unlock()
		select {
		case <-s.more:
		case <-end.C:
			s.mu.Lock()
			defer s.mu.Unlock()
			return "", nil, fmt.Errorf("it has not ended after %s, and printed:\n%s", patience, &s.printed)
		}
	}
}

var (
	ended  = regexp.MustCompile(`\x1e(\d+)\x1e`)
	serves = regexp.MustCompile(`^deputy serve\b`)
	// logged are lines of a server's log, which pages leave out.
	logged = regexp.MustCompile(`(?m)^(?:\{"level".*|\d{4}-\S+Z\t(?:debug|info|warn|error)\t.*|\[\d+\] \d+)\n`)
)

// run runs a command, and returns its exit code and what it printed. A server goes on in the background, and its command ends once it
// listens and has printed as many lines as the page shows.
func (s *shell) run(command string, lines int) (code int, printed string, err error) {
	command = strings.TrimSuffix(command, "\n")
	server := serves.MatchString(command)
	if server {
		command = strings.TrimSuffix(strings.TrimSpace(command), "&") + " &"
	}
	// The next command may ask for $? too.
	if _, err := fmt.Fprintf(s.in, "{ %s\n} </dev/null; code=$?; printf '\\036%%d\\036' $code; (exit $code)\n", command); err != nil {
		return 0, "", err
	}
	before, match, err := s.until(ended)
	if err != nil {
		return 0, "", err
	}
	if server {
		more, line, err := s.until(regexp.MustCompile(fmt.Sprintf(`deputy listens on (\S+)\n(?:[^\n]*\n){%d}`, max(0, lines-1))))
		if err != nil {
			return 0, "", err
		}
		before += more + line[0]
		if _, _, err := s.run("export DEPUTY_ENDPOINT="+line[1], 0); err != nil {
			return 0, "", err
		}
	}
	code, err = strconv.Atoi(match[1])
	return code, logged.ReplaceAllString(before, ""), err
}

// TestUnfinished: a command goes on while the shell wants more of it.
func TestUnfinished(t *testing.T) {
	for command, want := range map[string]bool{
		"a\n": false, "a \\\n": true, "a '{\n": true, "a '{\n  }'\n": false, "cat > x <<'E'\n": true, "cat > x <<'E'\nb\nE\n": false,
		"if a\n": true,
	} {
		if got := unfinished(command); got != want {
			t.Errorf("%q: %t", command, got)
		}
	}
}
