package engine

import (
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
	"google.golang.org/grpc/codes"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/statuses"
)

// What keeps a server from starting is told to its operator here, in one place: with the cause, and with the settings of `deputy serve` that it may lie in.
// The status of the engine's answer is not passed on: it is an answer to this server and not to a client of it.

// checkEndpoint refuses an address of Remote that no connection can be made to.
func (c Config) checkEndpoint() error {
	const flag = "--remote-endpoint"
	for _, scheme := range []string{"http://", "https://"} {
		if rest, found := strings.CutPrefix(c.Endpoint, scheme); found {
			return fmt.Errorf("%s is %q: gRPC has no URLs; name a host and a port, such as %s", flag, c.Endpoint, withPort(strings.TrimSuffix(rest, "/")))
		}
	}
	if strings.Contains(c.Endpoint, "/") || strings.HasPrefix(c.Endpoint, "unix:") {
		return nil // one of gRPC's own names, such as dns:///db:50051
	}
	if _, port, err := net.SplitHostPort(c.Endpoint); err != nil || port == "" {
		return fmt.Errorf("%s is %q: name a host and a port, such as %s", flag, c.Endpoint, withPort(strings.TrimSuffix(c.Endpoint, ":")))
	}
	return nil
}

// withPort is an address with a port, SpiceDB's where it has none.
func withPort(address string) string {
	if _, _, err := net.SplitHostPort(address); err == nil {
		return address
	}
	return net.JoinHostPort(strings.Trim(address, "[]"), "50051")
}

// maxCause is how much of what another server says is told, in bytes.
const maxCause = 500

// unreached says why what is behind Remote cannot be used, and which settings to look at.
func (c Config) unreached(err error) error {
	cause := err
	if told, ok := errors.AsType[statusError](err); ok {
		cause = told.cause
	}
	st := statuses.Within(cause)
	if st == nil {
		return fmt.Errorf("engine: %s cannot be used: %w", c.Endpoint, err)
	}
	info := statuses.Info(st)
	says := st.Message()
	if info.GetReason() != "" {
		says = info.GetReason() + ": " + says
	}
	if len(says) > maxCause {
		says = strings.ToValidUTF8(says[:maxCause], "") + "…"
	}
	text := fmt.Sprintf("engine: %s of --remote-endpoint cannot be used: %s", c.Endpoint, says)
	if look := c.lookAt(st.Code(), info.GetReason(), says); look != "" {
		text += ": " + look
	}
	return errors.New(text)
}

// lookAt says which settings a failure of the first call may lie in, or what the server behind Remote has to let its caller do.
func (c Config) lookAt(code codes.Code, reason, says string) string {
	has := func(parts ...string) bool {
		for _, part := range parts {
			if strings.Contains(says, part) {
				return true
			}
		}
		return false
	}
	const open = "that server has to open all methods of authzed.api.v1 to the caller of this key: give it --authzed-api all (deputy caller add)"
	switch {
	case code == codes.Unauthenticated:
		return "check the key in --remote-preshared-key or --remote-preshared-key-file"
	case code == codes.PermissionDenied && reason == authz.ReasonOutOfBounds:
		return open
	case code == codes.PermissionDenied:
		return "check which caller's key is in --remote-preshared-key or --remote-preshared-key-file, and what it may do there"
	case code == codes.Unimplemented:
		return "check --remote-endpoint: what answers there is neither a SpiceDB nor a Deputy"
	case code != codes.Unavailable && code != codes.DeadlineExceeded:
		return ""
	case has("x509:", "tls: failed to verify"):
		return "its certificate is not trusted: name the authority that it is from with --remote-ca, and the host that it is for in --remote-endpoint"
	case has("first record does not look like a TLS handshake"):
		return "it does not speak TLS: check the port in --remote-endpoint, or set --remote-insecure, which sends the key readable"
	case c.Insecure && has("server preface", "EOF", "connection reset", "broken pipe"):
		return "it may speak TLS: leave --remote-insecure out, and name the authority of its certificate with --remote-ca"
	default:
		return "check that it runs and takes calls, and --remote-endpoint; of TLS, --remote-ca and --remote-insecure"
	}
}

// readable is what SpiceDB says of a database, for Deputy's operators: without the connection string,
// which may hold a password, with the command that they have, and with the settings that it may lie in.
func (c Config) readable(err error, uri string) error {
	text := strings.ReplaceAll(err.Error(), `Please run "spicedb datastore migrate"`,
		fmt.Sprintf(`Please run "deputy migrate --engine %s --datastore-conn-uri …", with the connection string of this server`, c.Kind))
	text = strings.ReplaceAll(text, "spicedb datastore migrate", "deputy migrate")
	if uri != "" {
		text = strings.ReplaceAll(text, uri, "[connection string]")
	}
	if see := databaseSettings(err); see != "" {
		text += ": " + see
	}
	return errors.New(text)
}

// databaseSettings says which settings a failure of a database that refuses a connection may lie in; "" of other failures.
func databaseSettings(err error) string {
	state := ""
	if refused, ok := errors.AsType[*pgconn.PgError](err); ok {
		state = refused.Code
	}
	is := func(classes ...string) bool {
		for _, class := range classes {
			if strings.HasPrefix(state, class) || strings.Contains(err.Error(), "(SQLSTATE "+class) {
				return true
			}
		}
		return false
	}
	switch {
	case is("53300"):
		return "lower --datastore-conn-pool-read-max-open and --datastore-conn-pool-write-max-open, or raise max_connections of the database: the " +
			"servers over it have all of its connections"
	case is("28", "3D000"):
		return "check the user, the password and the database in --datastore-conn-uri"
	default:
		return ""
	}
}

// errNoPrimary is for a database of which no server takes writes.
var errNoPrimary = errors.New("no server in the connection string is a primary that takes writes: it is a standby, or " +
	"read-only. Decisions are made on the primary alone; name it, or name all servers of the cluster, so that the " +
	"one that is the primary is found")

// isNoPrimary reports whether a failure to connect is that of a database of which no server takes writes.
func isNoPrimary(err error) bool {
	return errors.Is(err, pgconn.ErrReadOnlyConnection) || errors.Is(err, pgconn.ErrStandbyConnection) ||
		strings.Contains(err.Error(), "ValidateConnect failed")
}
