//go:build unix

package cli

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"go.uber.org/zap"

	"github.com/deputyauth/deputy/pkg/cli"
	"github.com/deputyauth/deputy/pkg/daemon"
	"github.com/deputyauth/deputy/pkg/engine"
	"github.com/deputyauth/deputy/tests/process"
)

// startServer is `server`.
func startServer(ts *testscript.TestScript, _ bool, _ []string) {
	key, adminKey := "service-"+rand.Text(), "admin-"+rand.Text()
	dir := ts.MkAbs("deputy-data-" + rand.Text())
	d, err := daemon.Open(context.Background(), daemon.Config{
		PresharedKeys:      []string{key},
		AdminPresharedKeys: []string{adminKey},
		TokenKey:           []byte(rand.Text() + rand.Text()),
		Engine:             engine.Config{Kind: engine.Embedded, Dir: dir, CacheBytes: 8 << 20},
	}, zap.NewNop())
	ts.Check(err)
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- d.Serve(ctx) }()
	ts.Defer(func() {
		stop()
		if err := <-served; err != nil {
			ts.Logf("the server: %v", err)
		}
		if err := d.Close(); err != nil {
			ts.Logf("closing the server: %v", err)
		}
	})
	ts.Setenv("DEPUTY_ENDPOINT", d.Addr().String())
	ts.Setenv("DEPUTY_KEY", key)
	ts.Setenv("ADMIN_KEY", adminKey)
}

// loadDesk is `desk`.
func loadDesk(ts *testscript.TestScript, _ bool, _ []string) {
	desk := ts.Getenv("DESK")
	runAdmin(ts, false, []string{"schema", "write", filepath.Join(desk, "supportdesk.zed")})
	runAdmin(ts, false, []string{"relationship", "import", filepath.Join(desk, "relationships.txt")})
}

// capture is `capture`.
func capture(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: capture NAME PATH")
	}
	var value any
	ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &value))
	for part := range strings.SplitSeq(args[1], ".") {
		switch v := value.(type) {
		case map[string]any:
			value = v[part]
		case []any:
			i, err := strconv.Atoi(part)
			if err != nil || i >= len(v) {
				ts.Fatalf("%s: there is no element %s of %d", args[1], part, len(v))
			}
			value = v[i]
		default:
			ts.Fatalf("%s: there is nothing below %v", args[1], value)
		}
	}
	text, ok := value.(string)
	if !ok || text == "" {
		ts.Fatalf("%s is no text: %v", args[1], value)
	}
	ts.Setenv(args[0], text)
}

// serving is a script's `deputy serve`, a process of its own. It is empty while there is none.
type serving struct{ server *process.Server }

// servingKey finds it among a script's values.
type servingKey struct{}

// serveVariables are the variables of a script that its `deputy serve` sees.
var serveVariables = []string{
	"PATH", "DEPUTY_PRESHARED_KEY", "DEPUTY_ADMIN_PRESHARED_KEY", "DEPUTY_ADDR", "DEPUTY_ENGINE",
	"DEPUTY_DATASTORE_CONN_URI", "DEPUTY_TOKEN_KEY_FILE", "DEPUTY_LOG_LEVEL", "DEPUTY_CALLERS", "DEPUTY_JOURNAL_DIR",
}

// startServe is `serve`.
func startServe(ts *testscript.TestScript, neg bool, args []string) {
	if neg {
		before := files(ts)
		deputy(ts, cli.ExitError, append([]string{"serve"}, args...))
		var made []string
		for _, name := range files(ts) {
			if !slices.Contains(before, name) && !slices.Contains(strings.Fields(ts.Getenv("LEAVES")), name) {
				made = append(made, name)
			}
		}
		if len(made) > 0 {
			ts.Fatalf("a server that does not start has made %s: what a start can be refused for is to be checked in daemon.Config.Check, before anything is "+
				"made; what takes the database to find out may leave the files that the script names in $LEAVES", strings.Join(made, ", "))
		}
		return
	}
	running := ts.Value(servingKey{}).(*serving)
	if running.server != nil {
		ts.Fatalf("one serve is running")
	}
	env := map[string]string{}
	for _, name := range serveVariables {
		env[name] = ts.Getenv(name)
	}
	server, err := process.Start(process.Config{Dir: ts.MkAbs("."), Log: ts.MkAbs("serve.log"), Env: env, Args: args})
	ts.Check(err)
	running.server = server
	ts.Defer(func() { _ = server.Kill() })
	ts.Setenv("DEPUTY_ENDPOINT", server.Addr)
}

// files returns what is in the script's directory, by its path from there.
func files(ts *testscript.TestScript) []string {
	root := ts.MkAbs(".")
	var found []string
	ts.Check(filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, path)
		found = append(found, name)
		return err
	}))
	return found
}

// shutDown is `shutdown`.
func shutDown(ts *testscript.TestScript, _ bool, _ []string) {
	running := ts.Value(servingKey{}).(*serving)
	if running.server == nil {
		ts.Fatalf("no serve is running")
	}
	server := running.server
	running.server = nil
	ts.Check(server.Signal(syscall.SIGTERM))
	err := server.Wait()
	log := server.Log()
	ts.Logf("[serve.log]\n%s", log)
	ts.Check(err)
	noKey(ts, "serve's log", log)
}

// hangUp is `hangup`.
func hangUp(ts *testscript.TestScript, _ bool, _ []string) {
	server := ts.Value(servingKey{}).(*serving).server
	if server == nil {
		ts.Fatalf("no serve is running")
	}
	const says = `"msg":"the file of callers `
	before := strings.Count(server.Log(), says)
	ts.Check(server.Signal(syscall.SIGHUP))
	look, over := time.NewTicker(10*time.Millisecond), time.NewTimer(30*time.Second)
	defer look.Stop()
	defer over.Stop()
	for strings.Count(server.Log(), says) == before {
		select {
		case <-look.C:
		case <-server.Ended():
			ts.Fatalf("serve has ended:\n%s", server.Log())
		case <-over.C:
			ts.Fatalf("serve read no file:\n%s", server.Log())
		}
	}
}

// writeCertificate is `certificate`.
func writeCertificate(ts *testscript.TestScript, _ bool, args []string) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ts.Check(err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA:         true, BasicConstraintsValid: true,
	}
	cert, key := "cert.pem", "key.pem"
	if len(args) > 0 {
		cert, key = args[0]+".pem", args[0]+"-key.pem"
		template.DNSNames = []string{args[0] + ".internal"}
	}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	ts.Check(err)
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(cert), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate}), 0o600))
	ts.Check(os.WriteFile(ts.MkAbs(key), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}), 0o600))
}

// checkMode is `mode`.
func checkMode(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: mode PERM FILE")
	}
	info, err := os.Stat(ts.MkAbs(args[1]))
	ts.Check(err)
	if got := fmt.Sprintf("%04o", info.Mode().Perm()); got != args[0] {
		ts.Fatalf("%s has the permissions %s, want %s", args[1], got, args[0])
	}
}
