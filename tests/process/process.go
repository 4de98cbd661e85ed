//go:build unix

package process

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/deputyauth/deputy/pkg/cli"
)

// Program is the name under which a test binary is the command line.
const Program = "deputy"

// Main runs the command line and exits, if the binary was called by Program's name. Else it runs the tests with run and
// exits. It is the whole of a TestMain.
func Main(run func() int) {
	if filepath.Base(os.Args[0]) == Program {
		// As in cmd/deputy.
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		context.AfterFunc(ctx, stop)
		if folder := os.Getenv(profileVariable); folder != "" {
			go profileOnSignal(folder)
		}
		os.Exit(cli.Run(ctx, os.Args[1:], cli.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}, os.LookupEnv))
	}
	os.Exit(run())
}

// profileVariable names, in a server's environment, the folder that its heap profiles go to. A server of this package has no
// other way to say what its memory is held by: the product serves no profiles.
const profileVariable = "DEPUTY_TEST_HEAP_PROFILES"

// profileOnSignal writes heap-1.pprof, heap-2.pprof and so on into a folder, one for each SIGUSR1, without what a collection
// would free. It never returns.
func profileOnSignal(folder string) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGUSR1)
	for n := 1; ; n++ {
		<-signals
		runtime.GC()
		if err := writeProfile(filepath.Join(folder, fmt.Sprintf("heap-%d.pprof", n))); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}
}

func writeProfile(path string) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(pprof.WriteHeapProfile(file), file.Close())
}

// Config says how to run a server.
type Config struct {
	// Dir is its working directory; "" means the test's.
	Dir string
	// Log is the file that its standard error goes to. It is made anew.
	Log string
	// Env is its whole environment.
	Env map[string]string
	// Args follow the word "serve". They should make it listen on port 0.
	Args []string
	// Profiles is the folder that Profile writes to; "" means that Profile must not be called.
	Profiles string
	// Files is how many files it may have open; 0 means as many as this process. It needs bash.
	Files int
}

// Server is a running `deputy serve`. It is safe for concurrent use.
type Server struct {
	// Addr is where it listens, host and port.
	Addr string

	process *exec.Cmd
	log     string
	ended   chan struct{}
	// err is how it ended; it may be read once ended is closed.
	err error
}

// Start starts a server and waits until it listens. The caller ends it. An error holds what the server logged.
func Start(cfg Config) (*Server, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	s := &Server{process: exec.Command(self, append([]string{"serve"}, cfg.Args...)...), log: cfg.Log, ended: make(chan struct{})}
	s.process.Args[0] = Program
	if cfg.Files != 0 {
		// A shell of its own sets the limit, and becomes the server: its number is the server's.
		limited := append([]string{"-c", `ulimit -n "$1" && exec -a "$2" "${@:3}"`, "start", strconv.Itoa(cfg.Files), Program, self, "serve"}, cfg.Args...)
		s.process = exec.Command("bash", limited...)
	}
	s.process.Dir = cfg.Dir
	s.process.Env = []string{}
	for _, name := range slices.Sorted(maps.Keys(cfg.Env)) {
		s.process.Env = append(s.process.Env, name+"="+cfg.Env[name])
	}
	if cfg.Profiles != "" {
		s.process.Env = append(s.process.Env, profileVariable+"="+cfg.Profiles)
	}
	stdout, err := s.process.StdoutPipe()
	if err != nil {
		return nil, err
	}
	file, err := os.Create(cfg.Log)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	s.process.Stderr = file
	if err := s.process.Start(); err != nil {
		return nil, err
	}
	line, readErr := bufio.NewReader(stdout).ReadString('\n')
	// Nothing else is printed, so Wait may close the pipe from here on.
	go func() {
		s.err = s.process.Wait()
		close(s.ended)
	}()
	addr, found := strings.CutPrefix(strings.TrimSpace(line), "deputy listens on ")
	if readErr != nil || !found {
		_ = s.Kill()
		return nil, fmt.Errorf("serve printed %q: %w\n%s", line, errors.Join(readErr, s.err), s.Log())
	}
	s.Addr = addr
	return s, nil
}

// PID is the process's number.
func (s *Server) PID() int { return s.process.Process.Pid }

// Signal sends the process a signal.
func (s *Server) Signal(sig os.Signal) error { return s.process.Process.Signal(sig) }

// Profile asks the server for a heap profile, which it writes into Config.Profiles soon afterwards: heap-1.pprof for the first
// call, heap-2.pprof for the second.
func (s *Server) Profile() error { return s.Signal(syscall.SIGUSR1) }

// Ended is closed once the process has ended, however that came.
func (s *Server) Ended() <-chan struct{} { return s.ended }

// Wait waits for the process's end. The error is nil for exit code 0.
func (s *Server) Wait() error {
	<-s.ended
	return s.err
}

// Kill ends the process as a power cut would, but for the system's own cache, and waits until it is gone. It may be called
// of a process that has ended.
func (s *Server) Kill() error {
	if err := s.process.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-s.ended
	return nil
}

// Stop sends SIGTERM and waits for the end. A process that takes longer than patience is killed, which is an error.
func (s *Server) Stop(patience time.Duration) error {
	if err := s.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	late := time.NewTimer(patience)
	defer late.Stop()
	select {
	case <-s.ended:
		return s.err
	case <-late.C:
		return errors.Join(fmt.Errorf("the server still ran %s after SIGTERM", patience), s.Kill())
	}
}

// Log returns what the server has logged so far.
func (s *Server) Log() string {
	text, err := os.ReadFile(s.log)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// metricsLine is how the log says where Prometheus finds figures.
var metricsLine = regexp.MustCompile(`"deputy starts".*"metrics_addr":"([^"]+)"`)

// Figures are what the server tells Prometheus: one number for each name without labels, and for each name with them under
// `name{label="value"}`. The server has to run with --metrics-addr, and to log as JSON at level info.
func (s *Server) Figures(ctx context.Context) (map[string]float64, error) {
	found := metricsLine.FindStringSubmatch(s.Log())
	if found == nil {
		return nil, errors.New("the log does not say where metrics are served")
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+found[1]+"/metrics", http.NoBody)
	if err != nil {
		return nil, err
	}
	// A connection that stayed open would be one of the descriptors that are counted.
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	figures := map[string]float64{}
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		name, value, ok := strings.Cut(lines.Text(), " ")
		if n, err := strconv.ParseFloat(value, 64); ok && err == nil && !strings.HasPrefix(name, "#") {
			figures[name] = n
		}
	}
	return figures, lines.Err()
}
