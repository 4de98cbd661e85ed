package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/deputyauth/deputy/pkg/daemon"
)

// newServe builds `deputy serve`. The line that says where it listens is printed once the port is open, so a program
// that waits for the line can connect. Nothing else goes to standard output, except where it answers over HTTP, and with --dev the lines to copy.
func newServe(p *program) *cobra.Command { //nolint:gocognit // one step after the other
	settings := &serverSettings{}
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the server",
		Long: `Run the server until SIGINT or SIGTERM, then let calls under way finish. It prints one line with its
address once it listens, and with --http-listen a second one; logs go to standard error. With --callers or TLS, SIGHUP has it read its
files again at once.

With --dev one command starts a server to try Deputy out: it generates an admin key and prints it, writes the
core schema if there is no schema yet, and keeps its data in a temporary directory unless --data-dir names one.

Each setting is a flag, a variable in the environment and a key of the same name in the file that
--config names; the first of these that is there counts.`,
		Example: `  deputy serve --dev
  DEPUTY_PRESHARED_KEY=… DEPUTY_ADMIN_PRESHARED_KEY=… deputy serve --data-dir /var/lib/deputy
  deputy serve --config deputy.yaml --engine postgres --datastore-conn-uri postgres://deputy@db/deputy \
    --token-key-file token.key --journal-dir /var/lib/deputy/journal`,
		GroupID: groupServer,
		Args:    cobra.NoArgs,
	}
	settings.registerServer(cmd.Flags())
	settings.registerEngine(cmd.Flags())
	settings.registerConfig(cmd)
	cmd.Flags().BoolVar(&settings.dev.on, "dev", false, "serve for development: plaintext on this machine, with a new admin key that is printed")
	cmd.RunE = func(cmd *cobra.Command, _ []string) (err error) {
		// Set first, so that it runs last: a store is closed before its directory goes.
		defer func() {
			if closeErr := settings.dev.close(); err == nil && closeErr != nil {
				err = fmt.Errorf("removing the temporary directory: %w", closeErr)
			}
		}()
		if err := settings.readConfig(cmd.Flags()); err != nil {
			return err
		}
		log, err := newLog(p.Err, settings.logLevel, settings.logFormat)
		if err != nil {
			return err
		}
		d, err := daemon.Open(cmd.Context(), settings.config, log)
		if errors.Is(err, syscall.EADDRINUSE) {
			return fmt.Errorf("%w: stop the server that listens there, or name another address; port 0, as in 127.0.0.1:0, takes a free one", err)
		}
		if err != nil {
			return err
		}
		started := time.Now()
		log.Info("deputy starts", settings.summary(cmd.Flags(), d)...)
		defer func() { log.Info("deputy has stopped", zap.Duration("after", time.Since(started))) }()
		// Serve has drained by then; this closes the engine.
		defer func() {
			if closeErr := d.Close(); err == nil && closeErr != nil {
				err = fmt.Errorf("closing: %w", closeErr)
			}
		}()
		if settings.dev.on {
			if err := settings.dev.writeCore(cmd.Context(), d.Engine()); err != nil {
				return err
			}
		}
		if _, err := fmt.Fprintf(p.Out, "deputy listens on %s\n", d.Addr()); err != nil {
			return fmt.Errorf("writing: %w", err)
		}
		if addr := d.HTTPAddr(); addr != nil {
			if _, err := fmt.Fprintf(p.Out, "deputy listens for HTTP on %s\n", addr); err != nil {
				return fmt.Errorf("writing: %w", err)
			}
		}
		if settings.dev.on {
			if err := settings.dev.tell(p.Out, d.Addr(), settings.config.Engine.Dir); err != nil {
				return err
			}
		}
		defer reloadOnSignal(d, settings.config)()
		defer daemon.KeepHeadroom(settings.headroomMiB << 20)()
		return d.Serve(cmd.Context())
	}
	return cmd
}

// reloadOnSignal has SIGHUP reload what can be reloaded, until it is told to stop. A server without that ends at SIGHUP, as a program
// does whose terminal is closed.
func reloadOnSignal(d *daemon.Daemon, cfg daemon.Config) (stop func()) {
	if cfg.CallersPath == "" && cfg.TLSCertPath == "" && cfg.SPIFFEWorkloadAPI == "" {
		return func() {}
	}
	hangups, done := make(chan os.Signal, 1), make(chan struct{})
	signal.Notify(hangups, syscall.SIGHUP)
	go func() {
		for {
			select {
			case <-hangups:
				_ = d.Reload() // it logs what is wrong
			case <-done:
				return
			}
		}
	}()
	return func() {
		signal.Stop(hangups)
		close(done)
	}
}

// newLog returns a logger that writes lines of JSON, or for a person's eyes, to w.
func newLog(w io.Writer, level, format string) (*zap.Logger, error) {
	least, err := zapcore.ParseLevel(level)
	if err != nil {
		return nil, fmt.Errorf("--log-level must be debug, info, warn or error, not %q", level)
	}
	config := zap.NewProductionEncoderConfig()
	config.EncodeTime = zapcore.RFC3339NanoTimeEncoder
	config.TimeKey = "time"
	var encoder zapcore.Encoder
	switch format {
	case "json":
		encoder = zapcore.NewJSONEncoder(config)
	case "console":
		encoder = zapcore.NewConsoleEncoder(config)
	default:
		return nil, fmt.Errorf("--log-format must be json or console, not %q", format)
	}
	return zap.New(zapcore.NewCore(encoder, zapcore.Lock(zapcore.AddSync(w)), least)), nil
}
