package cli

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// newVersion builds `deputy version`.
func newVersion(p *program) *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print the version",
		GroupID: groupServer,
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if _, err := fmt.Fprintln(p.Out, versionText()); err != nil {
				return fmt.Errorf("writing: %w", err)
			}
			return nil
		},
	}
}

// versionText reads what the Go toolchain recorded: the module's version (or the commit of a checkout)
// and SpiceDB's.
func versionText() string {
	version, spicedb := "unknown", "unknown"
	if info, ok := debug.ReadBuildInfo(); ok {
		version = info.Main.Version
		for _, dependency := range info.Deps {
			if dependency.Path == "github.com/authzed/spicedb" {
				spicedb = dependency.Version
			}
		}
	}
	return fmt.Sprintf("deputy %s (SpiceDB %s, %s %s/%s)", version, spicedb, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}
