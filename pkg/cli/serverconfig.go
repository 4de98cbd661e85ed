package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.uber.org/zap"

	"github.com/deputyauth/deputy/pkg/caller/file"
	"github.com/deputyauth/deputy/pkg/daemon"
	"github.com/deputyauth/deputy/pkg/engine"
)

// defaultAddr is where serve listens: SpiceDB's port, on this machine only.
const defaultAddr = "127.0.0.1:50051"

// defaultHTTPAddr is where it could listen for HTTP, as an example in messages.
const defaultHTTPAddr = "127.0.0.1:50061"

// serverSettings is everything that can be set about a server, as flags. daemon.Config says what each
// means; a test asserts that no field of it is forgotten here.
//
// Most flags write into config directly. The ones below are those whose value is a file to be read, a
// key to be hidden, or no concern of the daemon's; readConfig brings the first two into config.
type serverSettings struct {
	config daemon.Config
	// configPath is the configuration file, or empty.
	configPath string
	// keys and keyFile are the services' keys; all of both count.
	keys    secrets
	keyFile string
	// adminKeys and adminKeyFile are the admins'.
	adminKeys    secrets
	adminKeyFile string
	// tokenKeyFile holds config.TokenKey. There is no flag for the key itself: it is never typed.
	tokenKeyFile string
	// remoteKey or remoteKeyFile is the key of the SpiceDB behind the engine remote.
	remoteKey     secrets
	remoteKeyFile string
	// journal is on or off, which is config.Journal.Off.
	journal string
	// quotaMiB is config.Journal.QuotaBytes in MiB.
	quotaMiB int64
	// cacheMiB is config.Engine.CacheBytes in a unit that is typed.
	cacheMiB int64
	// headroomMiB is what daemon.KeepHeadroom takes, in MiB.
	headroomMiB int64
	// callerMessage is config.CallerLimits.Message with its unit.
	callerMessage string
	// logLevel and logFormat are as newLog takes them.
	logLevel  string
	logFormat string
	// dev is what --dev adds; see servedev.go.
	dev devServer
}

// registerServer adds the flags about the server itself. Durations have the default 0, which the daemon
// takes for its own default; the help says which that is.
func (s *serverSettings) registerServer(flags *pflag.FlagSet) {
	flags.StringVar(&s.config.Addr, "addr", defaultAddr, "host and port to listen on; port 0 picks one")
	flags.BoolVar(&s.config.Insecure, "insecure", false,
		"let other machines reach a server without TLS, and its metrics: anyone who can read the network can then read the keys of callers")
	flags.Var(&replaced{by: "TLS with --tls-cert needs no flag for it, and a server without TLS needs --insecure"}, "allow-non-loopback", "")
	flags.Lookup("allow-non-loopback").NoOptDefVal = "true"
	flags.Lookup("allow-non-loopback").Hidden = true
	flags.Var(&s.keys, "preshared-key", "key of the services that ask; may be repeated, or a list with commas")
	flags.StringVar(&s.keyFile, "preshared-key-file", "", "file with such keys, one a line")
	flags.Var(&s.adminKeys, "admin-preshared-key", "key of the admins; may be repeated, or a list with commas")
	flags.StringVar(&s.adminKeyFile, "admin-preshared-key-file", "", "file with such keys, one a line")
	flags.StringVar(&s.config.CallersPath, "callers", "",
		"YAML file with callers that have names, roles and bounds, which deputy caller edits; read again when it changes")
	flags.StringVar(&s.config.TLSCertPath, "tls-cert", "",
		"PEM file with the server's certificate; read again when it changes, as are all files of TLS")
	flags.StringVar(&s.config.TLSKeyPath, "tls-key", "", "PEM file with its key")
	choiceVar(flags, &s.config.TLSMinVersion, "tls-min-version", "", daemon.TLSVersions[0],
		"least version of TLS: "+strings.Join(daemon.TLSVersions, " or "), daemon.TLSVersions...)
	flags.StringVar(&s.config.TLSClientCAPath, "tls-client-ca", "", "PEM file with the authorities that client certificates are verified by; "+
		"if left out, clients are not asked for certificates")
	choiceVar(flags, &s.config.TLSClientAuth, "tls-client-auth", "", daemon.TLSClientAuths[0],
		"request (clients may show a key or a token instead of a certificate) or require", daemon.TLSClientAuths...)
	flags.StringSliceVar(&s.config.SPIFFETrustDomains, "spiffe-trust-domain", nil,
		"trust domain whose SPIFFE ids may be callers; may be repeated with --spiffe-workload-api")
	flags.StringVar(&s.config.SPIFFEWorkloadAPI, "spiffe-workload-api", "",
		"address of the SPIFFE Workload API, such as unix:///run/spire/agent.sock, which gives the server its certificate, "+
			"and the trust domains' authorities")
	flags.StringVar(&s.tokenKeyFile, "token-key-file", "",
		"file with the key that seals tokens, the same on every node; made if it is not there; "+
			"token.key in --data-dir if left out; engines that several servers can share need it")
	j := &s.config.Journal
	choiceVar(flags, &s.journal, "journal", "", "on", "record every call (on), or none (off)", "on", "off")
	flags.StringVar(&j.Dir, "journal-dir", "",
		"directory of the journal; made if it is not there; journal in --data-dir if left out; engines without a data directory need it")
	flags.StringVar(&j.KeyDir, "journal-key-dir", "",
		"directory of the journal's keys, outside of --data-dir and --journal-dir; made if it is not there; "+
			"if left out, a directory beside --data-dir, or else beside --journal-dir, whose name has .keys added")
	flags.BoolVar(&j.Sync, "journal-sync", false, "have each record survive a power cut before its answer leaves, and not just the death of the process")
	flags.StringSliceVar(&j.OpenFields, "journal-context-fields", nil,
		"fields of caveat contexts that records hold as they are; of all others they hold a keyed digest")
	flags.DurationVar(&j.Retention, "journal-retention", 0, "how long records are kept at least; 0 means 2160h, 90 days")
	flags.Int64Var(&s.quotaMiB, "journal-quota-mib", 0,
		"how much the journal's directory may have, in MiB, 256 or more: a full journal refuses decisions, and removes nothing that the retention keeps; "+
			"0 means no quota")
	flags.Float64Var(&j.CallerShare, "journal-caller-share", 0, "how much of the quota the records of one caller may have, up to 1; 0 means 0.5")
	flags.BoolVar(&j.AnswerUnrecorded, "journal-answer-unrecorded", false,
		"answer without a record while the journal takes none, because its disk is full or fails; how often is recorded afterwards")
	flags.BoolVar(&j.Erasable, "journal-erasable", false, "seal ids of users, reasons and relationships in the journal with a key for each user and "+
		"tenant, in --journal-key-dir, which deputy journal erase destroys; on a journal that has such keys it must be said, or =false")
	flags.StringSliceVar(&j.PersonalTypes, "journal-personal-types", nil,
		"object types whose ids are sealed too, with --journal-erasable (repeatable)")
	flags.StringVar(&j.Witness, "journal-witness", "", "URL of a witness (C2SP tlog-witness) that cosigns the journal's checkpoints; none if left out")
	flags.StringVar(&j.WitnessKey, "journal-witness-key", "", "the key that verifies its signatures, in the notation of C2SP signed-note")
	flags.StringVar(&s.config.MetricsAddr, "metrics-addr", "", "host and port where Prometheus finds figures, at /metrics; nowhere if left out")
	flags.StringVar(&s.config.HTTPAddr, "http-listen", "",
		"host and port where calls are answered over HTTP, as Connect, gRPC-Web and JSON, and security events (Shared Signals, RFC 8935) taken, at /signals, "+
			"with the TLS of --addr; nowhere if left out")
	flags.StringSliceVar(&s.config.HTTPOrigins, "http-origin", nil,
		"origin whose pages may call there from a browser, such as https://console.example.com (repeatable); none if left out")
	flags.StringVar(&s.config.SignalsDir, "signals-dir", "",
		"directory that keeps which security events were received; made if it is not there; signals in --data-dir if left out; "+
			"engines without a data directory take no security events without it")
	flags.BoolVar(&s.config.InsecureMetrics, "insecure-metrics", false, "let other machines read the metrics, which hold no secrets")
	flags.StringSliceVar(&s.config.GlobalTypes, "global-types", nil, "object types that belong to no tenant")
	flags.DurationVar(&s.config.SnapshotMaxAge, "snapshot-max-age", 0, "how old an exact snapshot, or a lookup that is continued, may be; 0 means 30s")
	flags.DurationVar(&s.config.MaxSessionTTL, "max-session-ttl", 0, "the longest that a session lasts without renewal; 0 means 24h")
	flags.DurationVar(&s.config.PurgeAfter, "purge-after", 0,
		"purge sessions and delegations that have been over for so long, such as 720h; 0 means that the server purges none: deputy purge does")
	flags.IntVar(&s.config.MaxConnections, "max-connections", 0,
		"how many connections may be open at once; 0 means 4096, or fewer where the process may not have that many files open besides the store's")
	flags.DurationVar(&s.config.MaxConnectionAge, "max-connection-age", 0,
		"how long a connection serves new calls before its client is told to make another one; 0 means 30m, or 10m where clients are asked for certificates")
	flags.IntVar(&s.config.MaxActiveCalls, "max-active-calls", 0,
		"how many calls are worked on at once, streams apart; the others wait for their turn, which goes round fairly among callers; "+
			"0 means 64 for each processor on the engine embedded, and 128 at least, and 256 on the others")
	l := &s.config.CallerLimits
	flags.IntVar(&l.Rate, "caller-rate", 0,
		"calls, and items of calls that have more than one, that a caller may make in a second whose limits do not say otherwise; 0 means no such limit")
	flags.IntVar(&l.Burst, "caller-burst", 0, "how many of them at once; 0 means as many as --caller-rate")
	flags.IntVar(&l.Concurrent, "caller-concurrent", 0, "calls that such a caller may have under way at once; 0 means 2500")
	flags.IntVar(&l.Streams, "caller-streams", 0, "streams that such a caller may have open at once; 0 means 500")
	flags.StringVar(&s.callerMessage, "caller-max-message", "",
		"the longest message that such a caller may send, 1KiB to 4MiB, where its method takes longer ones; as the method says if left out")
	flags.DurationVar(&s.config.MaxStreamTime, "max-stream-time", 0, "how long an export or backup may take, and an import at most 2m; 0 means 1h")
	flags.DurationVar(&s.config.ShutdownDelay, "shutdown-delay", 0,
		"how long the server still takes calls once it is told to stop and says that it is not ready; with a load balancer, the time until it notices")
	flags.DurationVar(&s.config.ShutdownGrace, "shutdown-grace", 0,
		"how long calls under way may take after --shutdown-delay; 0 means 10s; the server ends 5s later whatever happens")
	flags.Int64Var(&s.headroomMiB, "gc-headroom-mib", 0,
		fmt.Sprintf("how much the heap may grow between two garbage collections, in MiB, though to no more than five times what is in use; "+
			"0 means %d; without effect where GOGC is set", daemon.DefaultHeadroom>>20))
	choiceVar(flags, &s.logLevel, "log-level", "", "info", "debug (a line for each request), info, warn or error", "debug", "info", "warn", "error")
	choiceVar(flags, &s.logFormat, "log-format", "", "json", "json or console", "json", "console")
}

// registerEngine adds the flags about the engine.
func (s *serverSettings) registerEngine(flags *pflag.FlagSet) {
	e := &s.config.Engine
	choiceVar(flags, &e.Kind, "engine", "", engine.Kinds[0], "where the graph is: "+strings.Join(engine.Kinds, ", "), engine.Kinds...)
	flags.StringVar(&e.Dir, "data-dir", "", "directory that the engine embedded keeps everything in; made if it is not there")
	flags.Int64Var(&s.cacheMiB, "cache-mib", 0,
		"size of its cache of blocks, in MiB, which grows as files are read; 0 means an eighth of the memory that the server may have, and at least 128")
	flags.StringVar(&s.config.Evaluator, "evaluator", "",
		"what answers checks and lookups: native, straight from the store, which is the default on the engine embedded, or spicedb, which the others have")
	flags.Float64Var(&s.config.VerifySample, "verify-sample", 0,
		"share, 0 to 1, of the evaluator native's answers that SpiceDB checks afterwards")
	flags.Var((*hiddenText)(&e.URI), "datastore-conn-uri",
		"the database's connection string; of PostgreSQL it may name several servers, of which the primary is taken")
	f := &s.config.Following
	flags.BoolVar(&f.On, "follow", false,
		"keep a copy of the primary, in --follow-dir, up to date with it, and decide from the copy; the primary is the database, on the engine postgres, "+
			"or another Deputy, on remote")
	flags.StringVar(&f.Dir, "follow-dir", "", "directory of that copy; made if it is not there; may be deleted while no server runs over it")
	flags.DurationVar(&f.Wait, "follow-wait", 0,
		"how long a decision waits until the copy has reached the primary's head, before the primary itself is asked; 0 means 250ms")
	flags.DurationVar(&f.MaxAge, "follow-max-age", 0,
		"how long after the copy was last known to be the head it answers calls that do not ask for the head; 0 means 10s")
	flags.IntVar(&f.Sample, "follow-sample", 0,
		"how many relationships a second are compared between the copy and the primary, all the time; 0 means 500, and -1 none")
	flags.IntVar(&e.ReadConns, "datastore-conn-pool-read-max-open", 0,
		fmt.Sprintf("how many connections to PostgreSQL, CockroachDB or MySQL are kept for reads; 0 means %d", engine.DefaultReadConns))
	flags.IntVar(&e.WriteConns, "datastore-conn-pool-write-max-open", 0,
		fmt.Sprintf("how many are kept for writes; 0 means %d", engine.DefaultWriteConns))
	flags.StringVar(&e.Endpoint, "remote-endpoint", "", "host and port of the SpiceDB behind the engine remote, or of the Deputy to follow")
	flags.Var(&s.remoteKey, "remote-preshared-key", "its preshared key")
	flags.StringVar(&s.remoteKeyFile, "remote-preshared-key-file", "", "file with its preshared key")
	flags.BoolVar(&e.Insecure, "remote-insecure", false, "connect to it without TLS")
	flags.BoolVar(&e.TrustSchema, "remote-trust-schema", false,
		"vouch that none of its relations dropped an expiration while expired relationships were there; else they are counted at first")
	flags.StringVar(&e.CAPath, "remote-ca", "", "PEM file with the authorities that it is trusted by; the system's if left out")
	flags.DurationVar(&e.ClockOffset, "clock-offset", 0,
		"the most by which the clocks of a CockroachDB cluster differ; 0 means 500ms on cockroachdb; remote may stand over one, too")
	flags.DurationVar(&e.Retention, "retention", 0, "how far back revisions stay readable; 0 means 24h")
}

// registerConfig adds --config, and lets the environment set all flags that there are so far.
func (s *serverSettings) registerConfig(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&s.configPath, "config", "", "file with settings, each under its flag's name: .yaml, .toml or .json")
	// A variable of this name is the clients', who connect without TLS where it is set: it must not open a server.
	neverEnv(flags.Lookup("insecure"))
	allowEnv(flags)
}

// readConfig fills in what the configuration file says and reads the files with keys. Afterwards the
// config is complete.
func (s *serverSettings) readConfig(flags *pflag.FlagSet) error {
	if s.configPath != "" {
		// Settings of another subcommand are none of this one's business, but still have to exist.
		if err := fillFromFile(flags, s.configPath, serverFlagNames()); err != nil {
			return err
		}
	}
	if s.dev.on {
		if err := s.dev.prepare(s, flags); err != nil {
			return err
		}
	}
	var err error
	if s.config.PresharedKeys, err = allKeys("preshared-key", &s.keys, s.keyFile, daemon.CheckKey); err != nil {
		return err
	}
	if s.config.AdminPresharedKeys, err = allKeys("admin-preshared-key", &s.adminKeys, s.adminKeyFile, daemon.CheckKey); err != nil {
		return err
	}
	if s.config.Engine.PresharedKey, err = oneKey("remote-preshared-key", &s.remoteKey, s.remoteKeyFile); err != nil {
		return err
	}
	if s.cacheMiB < 0 || s.cacheMiB > 1<<20 {
		return fmt.Errorf("--cache-mib must be 0 to %d", 1<<20)
	}
	s.config.Engine.CacheBytes = s.cacheMiB << 20
	if s.callerMessage != "" {
		if s.config.CallerLimits.Message, err = file.ParseSize(s.callerMessage); err != nil {
			return fmt.Errorf("--caller-max-message %w", err)
		}
	}
	if s.headroomMiB < 0 || s.headroomMiB > 1<<20 {
		return fmt.Errorf("--gc-headroom-mib must be 0 to %d", 1<<20)
	}
	e := s.config.Engine
	if err := s.readJournal(flags); err != nil {
		return err
	}
	inDataDir := flags.Lookup("token-key-file") != nil && s.tokenKeyFile == "" && e.Kind == engine.Embedded && e.Dir != ""
	if inDataDir {
		s.tokenKeyFile = daemon.TokenKeyFile(e.Dir)
	}
	if _, err := os.Stat(s.tokenKeyFile); s.tokenKeyFile != "" && errors.Is(err, fs.ErrNotExist) {
		if err := s.config.Check(); err != nil { // nothing is made for a server that cannot start
			return err
		}
	}
	if inDataDir {
		if err := daemon.MakeDataDir(e.Dir); err != nil {
			return err
		}
	}
	if s.config.TokenKey, err = tokenKey(s.tokenKeyFile); err != nil {
		return err
	}
	return nil
}

// readJournal fills in whether there is a journal. An engine without a data directory has no place for one: there it is off only in so many words.
func (s *serverSettings) readJournal(flags *pflag.FlagSet) error {
	if flags.Lookup("journal") == nil {
		return nil
	}
	j := &s.config.Journal
	j.Off = s.journal == "off"
	if s.quotaMiB < 0 || s.quotaMiB > 1<<30 {
		return fmt.Errorf("--journal-quota-mib must be 0 to %d", 1<<30)
	}
	j.QuotaBytes = s.quotaMiB << 20
	j.InTheClear = !j.Off && !j.Erasable && flags.Changed("journal-erasable")
	if e := s.config.Engine; e.Kind != engine.Embedded && j.Dir == "" && !j.Off {
		return fmt.Errorf("the engine %s has no data directory that the journal could be in: name a directory for it with --journal-dir, "+
			"or set --journal=off, which records no call", e.Kind)
	}
	return nil
}

// summary describes a server that has been opened, for its log: what it is, where it listens, and which settings differ from
// their defaults, wherever they were set. Of a setting whose value is hidden it says only that it is set.
func (s *serverSettings) summary(flags *pflag.FlagSet, d *daemon.Daemon) []zap.Field {
	fields := []zap.Field{zap.String("version", versionText()), zap.String("engine", s.config.Engine.Kind), zap.Stringer("addr", d.Addr())}
	if addr := d.MetricsAddr(); addr != nil {
		fields = append(fields, zap.Stringer("metrics_addr", addr))
	}
	if addr := d.HTTPAddr(); addr != nil {
		fields = append(fields, zap.Stringer("http_addr", addr))
	}
	differ := map[string]string{}
	flags.VisitAll(func(f *pflag.Flag) {
		if !f.Changed {
			return
		}
		switch value := f.Value.(type) {
		case *secrets, *hiddenText:
			differ[f.Name] = "(set)"
		default:
			if value.String() != f.DefValue {
				differ[f.Name] = value.String()
			}
		}
	})
	return append(fields, zap.Any("settings", differ))
}

// serverFlagNames returns the names of all settings that a configuration file may hold.
func serverFlagNames() []string {
	var all serverSettings
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	all.registerServer(flags)
	all.registerEngine(flags)
	var names []string
	flags.VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
	return names // also those that were replaced: an error says by what
}
