package cli

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"

	authzed "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"github.com/spf13/pflag"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/deputyauth/deputy/pkg/engine"
	"github.com/deputyauth/deputy/schema"
)

// devServer is what `deputy serve --dev` adds to a server, so that one command is enough to try Deputy out.
type devServer struct {
	// on is the flag. Neither the environment nor a configuration file can set it: a server prints a key only where
	// somebody asked for that on its command line.
	on bool
	// temporary is the directory that was made for the data, and goes with the server; empty if one was named.
	temporary string
	// key is the admin key that was made, and is printed; empty if an admin key was set.
	key string
}

// prepare fills in the data directory and the admin key that are not set. It refuses settings that make a server
// reachable from other machines, because the key is printed and the connections are plaintext.
func (d *devServer) prepare(s *serverSettings, flags *pflag.FlagSet) error {
	host, _, err := net.SplitHostPort(s.config.Addr)
	overHTTP, _, httpErr := net.SplitHostPort(s.config.HTTPAddr)
	switch {
	case s.config.Insecure:
		return fmt.Errorf("--dev listens on this machine only: leave out %s, or --dev", origin(flags, "insecure"))
	case err == nil && !isLoopback(host):
		return fmt.Errorf("--dev listens on this machine only: give %s a loopback address such as %s, not %q", origin(flags, "addr"), defaultAddr, s.config.Addr)
	case s.config.HTTPAddr != "" && httpErr == nil && !isLoopback(overHTTP):
		return fmt.Errorf("--dev listens on this machine only: give %s a loopback address such as %s, not %q",
			origin(flags, "http-listen"), defaultHTTPAddr, s.config.HTTPAddr)
	case s.config.TLSCertPath != "" || s.config.TLSKeyPath != "" || s.config.SPIFFEWorkloadAPI != "":
		var given []string
		for _, name := range []string{"tls-cert", "tls-key", "spiffe-workload-api"} {
			if f := flags.Lookup(name); f != nil && f.Changed {
				given = append(given, origin(flags, name))
			}
		}
		return fmt.Errorf("--dev serves without TLS: leave out %s, or --dev", every(given))
	case s.config.Engine.Kind != engine.Embedded:
		return fmt.Errorf("--dev uses the engine %s: leave out %s, or --dev", engine.Embedded, origin(flags, "engine"))
	}
	if len(s.adminKeys.values) == 0 && s.adminKeyFile == "" {
		d.key = rand.Text()
		s.adminKeys.values = []string{d.key}
	}
	if f := flags.Lookup("log-format"); f != nil && !f.Changed {
		s.logFormat = "console" // people read it
	}
	if s.config.Engine.Dir == "" {
		if d.temporary, err = os.MkdirTemp("", "deputy-dev-"); err != nil {
			return fmt.Errorf("--dev: %w", err)
		}
		s.config.Engine.Dir = filepath.Join(d.temporary, "data") // the journal's keys are beside it
	}
	return nil
}

// writeCore writes the core schema, unless there is a schema already.
func (d *devServer) writeCore(ctx context.Context, conn grpc.ClientConnInterface) error {
	client := authzed.NewSchemaServiceClient(conn)
	_, err := client.ReadSchema(ctx, &authzed.ReadSchemaRequest{})
	if status.Code(err) == codes.NotFound {
		_, err = client.WriteSchema(ctx, &authzed.WriteSchemaRequest{Schema: schema.Core})
	}
	if err != nil {
		return fmt.Errorf("writing the core schema: %w", err)
	}
	return nil
}

// tell prints the lines that connect another terminal to the server.
func (d *devServer) tell(out io.Writer, addr net.Addr, dir string) error {
	data := fmt.Sprintf("The data stay in %s.", dir)
	if d.temporary != "" {
		data = fmt.Sprintf("The data are in %s, which is removed when the server stops.", d.temporary)
	}
	key := "# DEPUTY_KEY is the admin key that you have set"
	if d.key != "" {
		key = "export DEPUTY_KEY=" + d.key
	}
	if _, err := fmt.Fprintf(out, `
This server is for development: it serves without TLS, on this machine only. %s
To use it, copy these lines into another terminal:

export DEPUTY_ENDPOINT=%s
%s
deputy schema read
`, data, addr, key); err != nil {
		return fmt.Errorf("writing: %w", err)
	}
	return nil
}

// close removes the temporary directory.
func (d *devServer) close() error {
	if d.temporary == "" {
		return nil
	}
	return os.RemoveAll(d.temporary)
}
