package chart

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"maps"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestServerTakesTheConfig starts the real server with the ConfigMap's settings and the files that the
// Deployment mounts, in a temporary directory instead of /etc/deputy.
func TestServerTakesTheConfig(t *testing.T) {
	binary := built(t)
	memory := example(t, "memory")
	memory["settings"] = map[string]any{"log-level": "debug", "retention": "12h", "global-types": []any{"region", "currency"}}
	memory["metrics"] = map[string]any{"enabled": true}
	withTLS := example(t, "memory")
	withTLS["insecure"], withTLS["tls"] = false, map[string]any{"existingSecret": "deputy-tls"}
	withTLS["auth"] = map[string]any{"existingSecret": "deputy-keys"}

	mutual := example(t, "memory")
	mutual["insecure"], mutual["auth"] = false, withTLS["auth"]
	mutual["metrics"] = map[string]any{"enabled": true}
	mutual["tls"] = map[string]any{
		"existingSecret": "deputy-tls", "clientAuthorities": "ca.crt", "clientAuth": "require", "spiffeTrustDomain": "example.org",
	}

	for name, values := range map[string]map[string]any{"plaintext": memory, "TLS": withTLS, "client certificates": mutual, "embedded": example(t, "embedded")} {
		t.Run(name, func(t *testing.T) {
			etc := t.TempDir()
			o := install(t, values)
			for _, mount := range o.pod().Containers[0].VolumeMounts {
				if err := os.MkdirAll(filepath.Join(etc, strings.TrimPrefix(mount.MountPath, "/etc/deputy")), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			for _, volume := range o.pod().Volumes {
				if volume.Secret != nil {
					for _, item := range volume.Secret.Items {
						write(t, filepath.Join(etc, volume.Name, item.Path), strings.Repeat(item.Key+"-", 4))
					}
				}
			}
			if strings.Contains(o.config.Data["deputy.yaml"], "tls-cert") {
				certificate(t, filepath.Join(etc, "tls"))
			}
			// Any free port of this machine's, so that tests can run side by side.
			settings := strings.NewReplacer("/etc/deputy", etc, "/var/lib/deputy-keys", t.TempDir(), "/var/lib/deputy-journal", t.TempDir(), "/var/lib/deputy", t.TempDir(), `":50051"`, `":0"`, `":9090"`, `":0"`,
				"shutdown-delay: 5s", "shutdown-delay: 0s").Replace(o.config.Data["deputy.yaml"])
			write(t, filepath.Join(etc, "config", "deputy.yaml"), settings)

			args := o.pod().Containers[0].Args
			for i := range args {
				args[i] = strings.ReplaceAll(args[i], "/etc/deputy", etc)
			}
			serve := exec.CommandContext(t.Context(), binary, args...)
			serve.Env = []string{}
			var log strings.Builder
			serve.Stderr = &log
			out, err := serve.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := serve.Start(); err != nil {
				t.Fatal(err)
			}
			line, readErr := bufio.NewReader(out).ReadString('\n')
			// As Kubernetes ends a pod.
			if err := serve.Process.Signal(syscall.SIGTERM); err != nil {
				t.Error(err)
			}
			waitErr := serve.Wait()
			if readErr != nil || waitErr != nil || !strings.HasPrefix(line, "deputy listens on ") {
				t.Errorf("deputy %q printed %q and ended with %v\n%s\n%s", args, line, waitErr, settings, &log)
			}
		})
	}
}

// built builds the real server.
func built(t *testing.T) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "deputy")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "./cmd/deputy")
	build.Dir = "../.."
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return binary
}

// chartSets are the settings that the chart sets itself, and those whose values belong into Secrets.
var chartSets = []string{
	"addr", "http-listen", "http-origin", "admin-preshared-key", "admin-preshared-key-file", "callers", "config", "data-dir", "datastore-conn-uri", "engine",
	"follow", "follow-dir",
	"insecure-metrics", "journal", "journal-dir", "journal-key-dir", "metrics-addr", "preshared-key", "preshared-key-file", "remote-endpoint", "remote-insecure", "remote-preshared-key",
	"remote-preshared-key-file", "spiffe-trust-domain",
	"signals-dir",         // signals are kept on the volume of embedded
	"spiffe-workload-api", // its socket has to be mounted, which the chart does not do
	"tls-cert", "tls-client-auth", "tls-client-ca", "tls-key", "token-key-file",
}

// TestSchemaKnowsTheSettings: values.schema.json takes exactly the settings that the server has and the chart leaves to the user.
func TestSchemaKnowsTheSettings(t *testing.T) {
	help, err := exec.CommandContext(t.Context(), built(t), "serve", "--help").Output()
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, flag := range regexp.MustCompile(`(?m)^ +--([a-z-]+) .*\[\$DEPUTY_`).FindAllStringSubmatch(string(help), -1) {
		if !slices.Contains(chartSets, flag[1]) {
			want = append(want, flag[1])
		}
	}
	text, err := os.ReadFile(filepath.Join(dir, "values.schema.json"))
	if err != nil {
		t.Fatal(err)
	}
	var schema struct {
		Properties struct {
			Settings struct{ Properties map[string]any }
		}
	}
	if err := json.Unmarshal(text, &schema); err != nil {
		t.Fatal(err)
	}
	got := slices.Sorted(maps.Keys(schema.Properties.Settings.Properties))
	slices.Sort(want)
	if len(want) < 10 || !slices.Equal(got, want) {
		t.Errorf("settings takes\n%s\nwant\n%s", strings.Join(got, " "), strings.Join(want, " "))
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// certificate writes tls.crt and tls.key as a Secret of type kubernetes.io/tls holds them.
func certificate(t *testing.T, dir string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"localhost"}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	signed, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "ca.crt"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: signed})))
	write(t, filepath.Join(dir, "tls.crt"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: signed})))
	write(t, filepath.Join(dir, "tls.key"), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})))
}
