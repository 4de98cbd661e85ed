package daemon

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/caller"
	"github.com/deputyauth/deputy/pkg/caller/actor"
	"github.com/deputyauth/deputy/pkg/caller/person"
	"github.com/deputyauth/deputy/pkg/caller/token"
	"github.com/deputyauth/deputy/pkg/engine"
)

// The evaluators.
const (
	EvaluatorNative  = "native"
	EvaluatorSpiceDB = "spicedb"
)

// Evaluators names them all, the default first.
var Evaluators = []string{EvaluatorNative, EvaluatorSpiceDB}

// Config is everything that can be set about a server. The zero value with at least one key is a
// server on a loopback port that the system picks; its engine has to be chosen.
type Config struct {
	// NoListener opens no port: only this process asks the server, with Decide, InProcess and As. It needs no key then, and Addr, keys, callers
	// and TLS have to be left out. MetricsAddr may be set.
	NoListener bool
	// Addr is the host and port to listen on; empty means 127.0.0.1:0. Without TLS anything but a loopback address needs Insecure.
	Addr string
	// Insecure lets other machines reach a server without TLS, and its metrics: anyone who can read the network can then read the keys of callers. It has
	// to be false with TLS.
	Insecure bool
	// PresharedKeys authenticate the services that ask for decisions, start sessions and create
	// delegations. They are never logged. CheckKey says what a key has to be.
	PresharedKeys []string
	// AdminPresharedKeys authenticate the caller "admin", which has every role and no bounds. None of them may be a service's too.
	AdminPresharedKeys []string
	// Callers may call besides those that the preshared keys stand for: for servers that are opened in code. Their names and credentials are
	// theirs alone.
	Callers []*caller.Caller
	// CallersPath is a file with more callers (see pkg/caller/file), which is read again when it changes; empty means none.
	CallersPath string
	// Issuers are those whose tokens prove Callers, likewise.
	Issuers []token.Issuer
	// Actors say how tokens of Issuers name agents, likewise: such tokens prove that an agent acts.
	Actors []actor.Issuer
	// People say how tokens of Issuers name people, likewise, and how people consent by them.
	People []person.Issuer
	// TLSCertPath and TLSKeyPath are PEM files; both or neither. All files of TLS are read again when they change.
	TLSCertPath string
	TLSKeyPath  string
	// TLSMinVersion is the least version of TLS, "1.3" or "1.2"; empty means 1.3.
	TLSMinVersion string
	// TLSClientCAPath is a PEM file with the authorities that client certificates are verified by; empty means that clients are not asked for
	// any, unless the Workload API has authorities.
	TLSClientCAPath string
	// TLSClientAuth is "request", which lets clients in that have no certificate and show a key or a token instead, or "require"; empty means
	// request.
	TLSClientAuth string
	// SPIFFETrustDomains are those whose SPIFFE ids may be callers. Without the Workload API there can be one, whose authorities are those of
	// TLSClientCAPath.
	SPIFFETrustDomains []string
	// SPIFFEWorkloadAPI is the address of the SPIFFE Workload API, such as unix:///run/spire/agent.sock, which gives the server its
	// certificate, and the authorities of SPIFFETrustDomains; empty means that the files do.
	SPIFFEWorkloadAPI string
	// TokenKey seals tokens and cursors and derives ids from idempotency keys: at least 32 bytes,
	// the same on every node. Empty means a random one, and that no token outlives the process; engines that
	// several servers can share need one (see engine.Shared), because nodes with different keys make two of
	// what one idempotency key asks for.
	TokenKey []byte
	// Engine is where the graph is. What the chosen kind does not read has to be left out; see engine.Config.Check.
	Engine engine.Config
	// Evaluator is what answers checks and lookups on the embedded engine: EvaluatorNative, straight from the store, or
	// EvaluatorSpiceDB; empty means native there and over a follower's copy, and SpiceDB's on the other engines, which have no other.
	Evaluator string
	// VerifySample is the share, 0 to 1, of what the native evaluator answers that SpiceDB is asked too,
	// afterwards; see docs/operations.md for what happens where they differ. It has to be 0 without that evaluator.
	VerifySample float64
	// Following is how the server follows the engine's database with a copy of its own, from which it decides.
	Following Following
	// Journal is where what callers ask is recorded.
	Journal Journal
	// MetricsAddr is the host and port where Prometheus finds figures, over HTTP at /metrics; empty means
	// nowhere. Anything but a loopback address needs InsecureMetrics or Insecure.
	MetricsAddr string
	// HTTPAddr is the host and port where calls of deputy.v1 are answered over HTTP, as Connect, gRPC-Web and JSON, and where security events (RFC
	// 8935) are taken at /signals, with the TLS of Addr; empty means nowhere. Without TLS anything but a loopback address needs Insecure.
	HTTPAddr string
	// HTTPOrigins are the origins whose pages may call there from a browser, such as https://console.example.com; empty means none.
	HTTPOrigins []string
	// SignalsDir is the directory where it is kept which signals were received, which is made if it is not there; empty means signals in the data
	// directory of the engine embedded. On the other engines a server without it takes no security events.
	SignalsDir string
	// InsecureMetrics lets other machines read the metrics, which hold no secrets.
	InsecureMetrics bool
	// GlobalTypes lists object types that belong to no tenant, on which decisions skip the object's
	// tenant.
	GlobalTypes []string
	// SnapshotMaxAge is how old an exact snapshot, or a lookup that is continued, may be; 0 means 30 s.
	SnapshotMaxAge time.Duration
	// MaxSessionTTL is the longest a session lasts without renewal; 0 means 24 h.
	MaxSessionTTL time.Duration
	// PurgeAfter is for how long sessions and delegations have to have been over to be purged; 0 means that the server purges none.
	PurgeAfter time.Duration
	// MaxConnections is how many connections may be open at once; 0 means 4096, or fewer where the process may
	// not have that many files open besides those that the store needs.
	MaxConnections int
	// MaxConnectionAge is how long a connection serves new calls before its client is told to make another one; 0 means 30 min. Calls that are
	// under way then end in their own time.
	MaxConnectionAge time.Duration
	// MaxActiveCalls is how many calls with one answer are worked on at once; others wait for their turn, which goes round fairly among
	// callers. 0 means 64 for each processor, 128 at least, on the engine embedded, and 256 on the others.
	MaxActiveCalls int
	// CallerLimits are the limits of callers that do not say otherwise. Without them a caller has no rate, up to 2,500 calls and 500 streams at
	// once.
	CallerLimits caller.Limits
	// MaxStreamTime is how long an import, export or backup may take; 0 means an hour.
	MaxStreamTime time.Duration
	// ShutdownDelay is how long Serve goes on to take calls once it is told to stop, and says that it is not ready, so that load
	// balancers have sent the last call before the listener closes; 0 means not at all.
	ShutdownDelay time.Duration
	// ShutdownGrace is how long Serve waits for calls under way once it takes no new ones; 0 means
	// 10 s. Serve and Close together take 5 s more at most.
	ShutdownGrace time.Duration

	// JudgeOver, where it is set, is given the graph that decisions are made over, and returns the one that they are made over instead: for
	// tests, which slow decisions down. What is written, and what takes access away, goes past it.
	JudgeOver func(graph authz.Graph) authz.Graph

	// certificatesEvery is how often the files of TLS are compared with those in force; 0 means 5 s.
	certificatesEvery time.Duration
	// certifiedTime is how long a connection serves new calls where clients are asked for certificates; 0 means 10 min.
	certifiedTime time.Duration
	// files is where the store's files are; nil means the operating system's. A test has a disk of its own.
	files vfs.FS
	// journalFiles is where the journal's are, likewise, and signalsFiles the signals'.
	journalFiles, signalsFiles vfs.FS
	// journalEvery is how often the journal is asked how it is; 0 means journalEvery.
	journalEvery time.Duration
	// callersEvery is how often the file of callers is read; 0 means callersEvery. A test does not wait.
	callersEvery time.Duration
}

// minKeyBytes is the least length of a preshared key.
const minKeyBytes = 16

// CheckKey refuses a preshared key that could be guessed, because it has fewer than 16 bytes, or that CheckKeyCharacters refuses. The error
// goes on after the words that name the key, and does not show it.
func CheckKey(key string) error {
	if len(key) < minKeyBytes {
		return fmt.Errorf("has %d bytes and needs at least %d; generate one with: openssl rand -hex 32", len(key), minKeyBytes)
	}
	return CheckKeyCharacters(key)
}

// CheckKeyCharacters refuses a preshared key that a caller could not send: a header carries printable ASCII characters only, and the Go client
// sends no blank. The error goes on after the words that name the key, and does not show it.
func CheckKeyCharacters(key string) error {
	for i := range len(key) {
		if c := key[i]; c <= ' ' || c > '~' {
			return fmt.Errorf("has a character that is not allowed (byte %d): use printable ASCII characters without blanks", i+1)
		}
	}
	return nil
}

// checkKeys refuses keys with which nobody could call the server, or callers whom it was not meant for.
func (c Config) checkKeys() error {
	if c.NoListener {
		return nil // nobody connects
	}
	if len(c.PresharedKeys)+len(c.AdminPresharedKeys)+len(c.Callers) == 0 && c.CallersPath == "" {
		return errors.New("no preshared key and no file of callers is set, so nobody could call the server: name the callers with --callers, or set " +
			"--preshared-key-file for services, --admin-preshared-key-file for admins, or both; to try Deputy out, run: deputy serve --dev")
	}
	for _, key := range slices.Concat(c.PresharedKeys, c.AdminPresharedKeys) {
		if err := CheckKey(key); err != nil {
			return fmt.Errorf("a preshared key %w", err)
		}
	}
	if slices.ContainsFunc(c.PresharedKeys, func(key string) bool { return slices.Contains(c.AdminPresharedKeys, key) }) {
		return errors.New("one preshared key is set for services and for admins: every service that has it would be an admin; " +
			"set another one for admins")
	}
	return nil
}

// keyMark is what engine.Config.KeyMark is for a token key: 32 bits of a digest, which tell nothing of a random key.
func keyMark(key []byte) int32 {
	digest := hmac.New(sha256.New, key)
	_, _ = digest.Write([]byte("deputy: which token key"))
	return int32(binary.BigEndian.Uint32(digest.Sum(nil))) //nolint:gosec // all bits are used
}

// checkNoListener refuses settings that only matter to clients that connect, so that nobody relies on them.
func (c Config) checkNoListener() error {
	for _, one := range []struct {
		name string
		set  bool
	}{
		{"Addr", c.Addr != ""}, {"PresharedKeys", len(c.PresharedKeys) > 0}, {"AdminPresharedKeys", len(c.AdminPresharedKeys) > 0},
		{"Callers", len(c.Callers) > 0}, {"CallersPath", c.CallersPath != ""},
		{"TLSCertPath", c.TLSCertPath != ""}, {"TLSKeyPath", c.TLSKeyPath != ""}, {"TLSClientCAPath", c.TLSClientCAPath != ""},
		{"SPIFFEWorkloadAPI", c.SPIFFEWorkloadAPI != ""}, {"Issuers", len(c.Issuers) > 0},
		{"Actors", len(c.Actors) > 0}, {"People", len(c.People) > 0}, {"TLSMinVersion", c.TLSMinVersion != ""},
		{"TLSClientAuth", c.TLSClientAuth != ""}, {"SPIFFETrustDomains", len(c.SPIFFETrustDomains) > 0}, {"Insecure", c.Insecure},
		{"HTTPAddr", c.HTTPAddr != ""},
	} {
		if one.set {
			return fmt.Errorf("%s is set, and nobody can connect to a server with NoListener: leave one of them out", one.name)
		}
	}
	return nil
}
