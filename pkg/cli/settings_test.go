package cli

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/deputyauth/deputy/pkg/daemon"
	"github.com/deputyauth/deputy/pkg/engine"
)

// parseServe reads a serve command line, an environment and, if it is not empty, a configuration file
// whose ending is given before a colon ("yaml:addr: …").
func parseServe(t *testing.T, args []string, env map[string]string, file string) (*serverSettings, error) {
	t.Helper()
	if file != "" {
		ending, text, _ := strings.Cut(file, ":")
		path := filepath.Join(t.TempDir(), "deputy."+ending)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, "--config", path)
	}
	s := &serverSettings{}
	cmd := &cobra.Command{Use: "serve"}
	s.registerServer(cmd.Flags())
	s.registerEngine(cmd.Flags())
	s.registerConfig(cmd)
	if err := cmd.ParseFlags(args); err != nil {
		return nil, err
	}
	err := fillFromEnv(cmd.Flags(), func(name string) (string, bool) { v, ok := env[name]; return v, ok })
	if err == nil {
		err = s.readConfig(cmd.Flags())
	}
	return s, err
}

func TestPrecedence(t *testing.T) {
	const file = "yaml:retention: 3h\n"
	env := map[string]string{"DEPUTY_RETENTION": "2h"}
	for _, test := range []struct {
		name string
		args []string
		env  map[string]string
		file string
		want time.Duration
	}{
		{"default", nil, nil, "", 0},
		{"file beats default", nil, nil, file, 3 * time.Hour},
		{"environment beats file", nil, env, file, 2 * time.Hour},
		{"flag beats environment", []string{"--retention=1h"}, env, file, time.Hour},
		{"an empty variable says nothing", nil, map[string]string{"DEPUTY_RETENTION": ""}, file, 3 * time.Hour},
	} {
		t.Run(test.name, func(t *testing.T) {
			s, err := parseServe(t, test.args, test.env, test.file)
			if err != nil {
				t.Fatal(err)
			}
			if got := s.config.Engine.Retention; got != test.want {
				t.Errorf("retention is %v, want %v", got, test.want)
			}
		})
	}
}

// TestKeyPrecedence: a key and the file that it stands in are one setting.
func TestKeyPrecedence(t *testing.T) {
	const a, b, c, file1, file2 = "key-a-of-16-bytes", "key-b-of-16-bytes", "key-c-of-16-bytes", "key-1-of-the-file", "key-2-of-the-file"
	path := filepath.Join(t.TempDir(), "keys")
	if err := os.WriteFile(path, []byte(file1+"\n\n  "+file2+"  \n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name string
		args []string
		env  map[string]string
		file string
		want []string
	}{
		{"repeated", []string{"--preshared-key=" + a, "--preshared-key=" + b + "," + c}, nil, "", []string{a, b, c}},
		{"environment list", nil, map[string]string{"DEPUTY_PRESHARED_KEY": a + ", " + b}, "", []string{a, b}},
		{"configuration list", nil, nil, "toml:preshared-key = ['" + a + "', '" + b + "']", []string{a, b}},
		{"file", []string{"--preshared-key-file=" + path}, nil, "", []string{file1, file2}},
		{"flag beats the variable of the file", []string{"--preshared-key=" + a}, map[string]string{"DEPUTY_PRESHARED_KEY_FILE": path}, "", []string{a}},
		{"flag of the file beats the variable", []string{"--preshared-key-file=" + path}, map[string]string{"DEPUTY_PRESHARED_KEY": a}, "", []string{file1, file2}},
		{"variable of the file beats the configuration", nil, map[string]string{"DEPUTY_PRESHARED_KEY_FILE": path}, `json:{"preshared-key": "` + a + `"}`, []string{file1, file2}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s, err := parseServe(t, test.args, test.env, test.file)
			if err != nil {
				t.Fatal(err)
			}
			if got := s.config.PresharedKeys; !reflect.DeepEqual(got, test.want) {
				t.Errorf("keys are %q, want %q", got, test.want)
			}
		})
	}
}

// TestEveryFieldHasASetting sets everything in each of the three ways, and looks for fields of
// daemon.Config that are still zero.
func TestEveryFieldHasASetting(t *testing.T) {
	// It is there: for a server that cannot start, as with all these settings together, none is made.
	tokenKey := filepath.Join(t.TempDir(), "token.key")
	if err := os.WriteFile(tokenKey, []byte(strings.Repeat("k", tokenKeyBytes)), 0o600); err != nil {
		t.Fatal(err)
	}
	settings := []struct{ name, value string }{
		{"addr", "127.0.0.1:7"}, {"insecure", "true"}, {"insecure-metrics", "true"}, {"preshared-key", "key-of-the-service"}, {"admin-preshared-key", "key-of-the-admin"},
		{"callers", "callers.yaml"}, {"tls-cert", "c.pem"}, {"tls-key", "k.pem"}, {"tls-min-version", "1.2"}, {"tls-client-ca", "a.pem"}, {"tls-client-auth", "require"},
		{"spiffe-trust-domain", "example.org"}, {"spiffe-workload-api", "unix:///w.sock"}, {"token-key-file", tokenKey}, {"global-types", "holiday"},
		{"snapshot-max-age", "1m"}, {"max-session-ttl", "2m"}, {"purge-after", "720h"}, {"shutdown-grace", "3m"}, {"shutdown-delay", "1m"}, {"max-connections", "5"}, {"max-stream-time", "5m"},
		{"max-connection-age", "6m"}, {"max-active-calls", "9"}, {"caller-rate", "10"}, {"caller-burst", "20"}, {"caller-concurrent", "30"},
		{"caller-streams", "40"}, {"caller-max-message", "64KiB"}, {"engine", "remote"},
		{"datastore-conn-uri", "postgres://x"}, {"remote-endpoint", "h:1"}, {"remote-preshared-key", "r"},
		{"remote-insecure", "true"}, {"remote-trust-schema", "true"}, {"remote-ca", "ca.pem"}, {"retention", "4m"}, {"clock-offset", "1s"},
		{"data-dir", "d"}, {"cache-mib", "1"}, {"evaluator", "spicedb"}, {"verify-sample", "0.5"}, {"metrics-addr", "127.0.0.1:8"},
		{"http-listen", "127.0.0.1:9"}, {"http-origin", "https://a.example"}, {"signals-dir", "s"},
		{"journal", "off"}, {"journal-dir", "j"}, {"journal-key-dir", "k"}, {"journal-sync", "true"}, {"journal-context-fields", "amount"},
		{"journal-answer-unrecorded", "true"}, {"journal-retention", "1h"}, {"journal-quota-mib", "300"}, {"journal-caller-share", "0.1"}, {"journal-witness", "https://w"}, {"journal-witness-key", "w+1+k"},
		{"journal-erasable", "true"}, {"journal-personal-types", "ticket"},
		{"follow", "true"}, {"follow-dir", "f"}, {"follow-wait", "1s"}, {"follow-max-age", "2s"}, {"follow-sample", "7"},
		{"datastore-conn-pool-read-max-open", "5"}, {"datastore-conn-pool-write-max-open", "4"},
	}
	var args []string
	env := map[string]string{}
	var yaml, toml, json []string
	for _, s := range settings {
		args = append(args, "--"+s.name+"="+s.value)
		env[envName(s.name)] = s.value
		yaml = append(yaml, s.name+`: "`+s.value+`"`)
		toml = append(toml, s.name+` = "`+s.value+`"`)
		json = append(json, `"`+s.name+`": "`+s.value+`"`)
	}
	for _, way := range []struct {
		name string
		args []string
		env  map[string]string
		file string
	}{
		{"flags", args, nil, ""},
		{"environment", nil, env, ""},
		{"yaml", nil, nil, "yaml:" + strings.Join(yaml, "\n")},
		{"toml", nil, nil, "toml:" + strings.Join(toml, "\n")},
		{"json", nil, nil, "json:{" + strings.Join(json, ",") + "}"},
	} {
		t.Run(way.name, func(t *testing.T) {
			s, err := parseServe(t, way.args, way.env, way.file)
			if err != nil {
				t.Fatal(err)
			}
			for _, field := range zeroFields(reflect.ValueOf(s.config), "daemon.Config") {
				switch field {
				case "daemon.Config.Journal.InTheClear", // said by the same flag as Erasable
					"daemon.Config.CallerLimits.Weight",                                                                                          // weights are beside others': one for all says nothing
					"daemon.Config.JudgeOver",                                                                                                    // a test's
					"daemon.Config.Callers", "daemon.Config.Issuers", "daemon.Config.Actors", "daemon.Config.People", "daemon.Config.NoListener", // for servers that are opened in code
					"daemon.Config.Engine.Deputy",                                                                                                                                                                                   // the daemon says so where it follows
					"daemon.Config.Engine.KeyMark",                                                                                                                                                                                  // the daemon computes it of the token key
					"daemon.Config.Engine.Log",                                                                                                                                                                                      // the daemon's own
					"daemon.Config.certificatesEvery", "daemon.Config.certifiedTime", "daemon.Config.callersEvery", "daemon.Config.files", "daemon.Config.journalFiles", "daemon.Config.signalsFiles", "daemon.Config.journalEvery": // a test's
					continue
				case "daemon.Config.Insecure": // the variable is the clients'
					if way.name == "environment" {
						continue
					}
				}
				t.Errorf("%s cannot be set by %s: add it to serverSettings", field, way.name)
			}
		})
	}
}

// TestSummaryShowsNoSecret: the line that a server logs at its start shows every setting that differs from its default, and of
// those that can hold a secret nothing but that they are set.
func TestSummaryShowsNoSecret(t *testing.T) {
	d, err := daemon.Open(t.Context(), daemon.Config{
		PresharedKeys: []string{"key-of-the-service"}, Engine: engine.Config{Kind: engine.Memory},
	}, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = d.Close() }()
	s := &serverSettings{}
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	s.registerServer(flags)
	s.registerEngine(flags)
	set, secret := 0, regexp.MustCompile(`(key|uri|password|secret|token)$`)
	flags.VisitAll(func(f *pflag.Flag) {
		if _, gone := f.Value.(*replaced); gone {
			return
		}
		value := map[string]string{"bool": "true", "int": "7", "int64": "7", "float64": "0.7", "duration": "7h"}[f.Value.Type()]
		switch words := strings.Split(f.Value.Type(), "|"); {
		case len(words) > 1:
			value = words[len(words)-1]
		case value == "":
			value = "canary-of-" + f.Name
		}
		if err := flags.Set(f.Name, value); err != nil {
			t.Fatalf("%s: %v", f.Name, err)
		}
		set++
	})
	encoder := zapcore.NewMapObjectEncoder()
	for _, field := range s.summary(flags, d) {
		field.AddTo(encoder)
	}
	settings, _ := encoder.Fields["settings"].(map[string]string)
	if len(settings) != set {
		t.Errorf("of %d settings %d are shown: %v", set, len(settings), settings)
	}
	for name, value := range settings {
		// tls-key is a file's name, and a witness's key verifies only.
		if hidden := secret.MatchString(name) && name != "tls-key" && name != "journal-witness-key"; hidden != (value == "(set)") {
			t.Errorf("%s is shown as %q", name, value)
		}
	}
}

// zeroFields returns the names of all fields of a struct, and of the structs in it, that are zero.
func zeroFields(v reflect.Value, name string) []string {
	if v.Type() != reflect.TypeFor[daemon.Config]() && v.Kind() != reflect.Struct {
		if v.IsZero() {
			return []string{name}
		}
		return nil
	}
	var zero []string
	for i := range v.NumField() {
		zero = append(zero, zeroFields(v.Field(i), name+"."+v.Type().Field(i).Name)...)
	}
	return zero
}

// TestSettingsAreReadAsWritten: what stands in a file is what the flag gets, whatever a parser of the format takes it for.
func TestSettingsAreReadAsWritten(t *testing.T) {
	t.Chdir(t.TempDir()) // data directories are made
	for _, text := range []string{
		"0123", "0o17", "0x7B", "0b11", "1_000", "1e3", "1.10", "+7", ".5", ".inf", "12345678901234567890123456789012",
		"true", "True", "yes", "off", "2024-01-01", "2024-01-01T10:00:00Z", "12:30:45", "24h", "64Mi", "'~'", `"null"`,
	} {
		want := strings.Trim(text, `'"`)
		for name, file := range map[string]string{
			"alone": "yaml:global-types: " + text, "in a list": "yaml:global-types:\n- " + text, "by an alias": "yaml:tls-cert: &a " + text + "\nglobal-types: *a",
			"yml": "yml:global-types: " + text, "after a byte order mark": "yaml:\ufeffglobal-types: " + text,
		} {
			s, err := parseServe(t, nil, nil, file)
			if err != nil {
				t.Errorf("%s %s: %v", text, name, err)
			} else if got := s.config.GlobalTypes; !slices.Equal(got, []string{want}) {
				t.Errorf("%s %s is read as %q", text, name, got)
			}
		}
	}
	for _, file := range []string{
		"yaml:cache-mib: 64\nverify-sample: 0.5\ninsecure: true\nretention: 90m", "toml:cache-mib = 64\nverify-sample = 0.5\ninsecure = true\nretention = '90m'",
		`json:{"cache-mib": 64, "verify-sample": 0.5, "insecure": true, "retention": "90m"}`, "json:\ufeff" + `{"cache-mib": 64, "verify-sample": 5e-1, "insecure": true, "retention": "90m"}`,
	} {
		s, err := parseServe(t, nil, nil, file)
		if err != nil {
			t.Errorf("%s: %v", file, err)
			continue
		}
		if s.cacheMiB != 64 || s.config.VerifySample != 0.5 || !s.config.Insecure || s.config.Engine.Retention != 90*time.Minute {
			t.Errorf("%s: %+v", file, s.config)
		}
	}
	s, err := parseServe(t, nil, nil, `json:{"cache-mib": 300000}`)
	if err != nil || s.cacheMiB != 300000 {
		t.Errorf("a large number: %v, %v", s, err)
	}
}

// TestBadSettings asserts that an error names what is wrong, and never shows a value: it may be a key.
func TestBadSettings(t *testing.T) {
	for _, test := range []struct {
		name string
		args []string
		env  map[string]string
		file string
		want string
	}{
		{"variable", nil, map[string]string{"DEPUTY_RETENTION": "secret"}, "", "DEPUTY_RETENTION must be a duration such as 90s, 30m or 8h"},
		{"unknown setting", nil, nil, "yaml:retentoin: secret", `unknown setting "retentoin"; did you mean "retention"?`},
		{"misspelt setting in TOML", nil, nil, "toml:log_level = 'secret'", `unknown setting "log_level"; did you mean "log-level"?`},
		{"setting in capitals", nil, nil, `json:{"Retention": "secret"}`, `unknown setting "Retention"; did you mean "retention"?`},
		{"no such setting", nil, nil, "yaml:colour: secret", `unknown setting "colour"; settings have the names of the flags`},
		{"nested setting", nil, nil, "yaml:engine:\n  kind: secret", "engine wants a value or a list, not a map"},
		{"setting twice in YAML", nil, nil, "yaml:retention: 1h\nretention: secret", "is not valid yaml (the setting on line 2 is on line 1 too)"},
		{"setting twice in JSON", nil, nil, `json:{"retention": "1h", "retention": "secret"}`, "is not valid json"},
		{"setting twice in TOML", nil, nil, "toml:retention = '1h'\nretention = 'secret'", "is not valid toml"},
		{"second document", nil, nil, "yaml:retention: 1h\n---\npreshared-key: secret", "is not valid yaml"},
		{"tagged value", nil, nil, "yaml:addr: x\npreshared-key: !!binary c2VjcmV0", "is not valid yaml (line 2)"},
		{"number for a text in TOML", nil, nil, "toml:preshared-key = 0x7B", "preshared-key wants a text: put it in quotes"},
		{"date for a text in TOML", nil, nil, "toml:global-types = [2024-01-01]", "global-types wants a text: put it in quotes"},
		{"number for a text in JSON", nil, nil, `json:{"preshared-key": 9007199254740993}`, "preshared-key wants a text: put it in quotes"},
		{"replaced", []string{"--allow-non-loopback"}, nil, "", "needs --insecure"},
		{"replaced, in the environment", nil, map[string]string{"DEPUTY_ALLOW_NON_LOOPBACK": "true"}, "",
			"DEPUTY_ALLOW_NON_LOOPBACK is no setting any more: TLS with --tls-cert needs no flag for it, and a server without TLS needs --insecure"},
		{"replaced, in a file", nil, nil, "yaml:allow-non-loopback: true", "allow-non-loopback is no setting any more"},
		{"null", nil, nil, "yaml:admin-preshared-key: ~", "admin-preshared-key has no value"},
		{"null in a list", nil, nil, "yaml:admin-preshared-key: [secret, null]", "admin-preshared-key has no value"},
		{"config in config", nil, nil, "yaml:config: secret.yaml", `unknown setting "config"`},
		{"two values", nil, nil, "yaml:retention: [1h, 2h]", "retention wants one value"},
		{"no value", nil, nil, "yaml:retention:", "retention has no value"},
		{"bad value", nil, nil, "toml:retention = 'secret'", "retention must be a duration such as 90s"},
		{"no number", nil, nil, "yaml:cache-mib: secret", "cache-mib must be a whole number"},
		{"broken yaml", nil, nil, "yaml:preshared-key: 'secret", "is not valid yaml"},
		{"just a key", nil, nil, "yaml:secret", "is not valid yaml"},
		{"broken toml", nil, nil, "toml:preshared-key = secret", "is not valid toml"},
		{"broken json", nil, nil, `json:{"preshared-key": secret}`, "is not valid json"},
		{"ending", nil, nil, "conf:secret", "has to end in .yaml, .toml or .json"},
		{"absent", []string{"--config", "absent.yaml"}, nil, "", "config absent.yaml: no such file"},
		{"two remote keys", []string{"--remote-preshared-key=secret,secret2"}, nil, "", "--remote-preshared-key and --remote-preshared-key-file: give one key"},
		{"no key file", []string{"--preshared-key-file=absent"}, nil, "", "--preshared-key-file: open absent"},
		{"short key", []string{"--preshared-key=key-of-the-service,secret"}, nil, "", "--preshared-key: key 2 has 6 bytes and needs at least 16"},
		{"short admin key", nil, map[string]string{"DEPUTY_ADMIN_PRESHARED_KEY": "secret"}, "", "--admin-preshared-key: key 1 has 6 bytes"},
		{"short key in a file", nil, nil, "yaml:preshared-key: secret", "--preshared-key: key 1 has 6 bytes"},
		{"umlaut", []string{"--admin-preshared-key=secret-schlüssel"}, nil, "", "key 1 has a character that is not allowed (byte 12)"},
		{"blank", []string{"--preshared-key=secret of sixteen bytes"}, nil, "", "key 1 has a character that is not allowed (byte 7)"},
		{"remote umlaut", nil, map[string]string{"DEPUTY_REMOTE_PRESHARED_KEY": "secrét"}, "", "--remote-preshared-key: key 1 has a character"},
		{"no admin key file", []string{"--admin-preshared-key-file=absent"}, nil, "", "--admin-preshared-key-file: open absent"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := parseServe(t, test.args, test.env, test.file)
			if err == nil {
				t.Fatal("no error")
			}
			if !strings.Contains(err.Error(), test.want) {
				t.Errorf("the error is %q, want %q in it", err, test.want)
			}
			if strings.Contains(err.Error(), "secret") {
				t.Errorf("the error %q shows a value", err)
			}
		})
	}
}

// TestHelpHidesKeys: pflag prints defaults, and a key must not become one.
func TestHelpHidesKeys(t *testing.T) {
	keys := &secrets{values: []string{"secret"}}
	if keys.String() != "" || len(keys.GetSlice()) != 0 {
		t.Errorf("a key shows as %q and %q", keys.String(), keys.GetSlice())
	}
}
