package cli

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/deputyauth/deputy/pkg/engine"
)

// newVersion builds `deputy version`.
func newVersion(p *program) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:     "version",
		Short:   "Print the version",
		GroupID: groupServer,
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return say(p.Out, output, readVersions(), versionText())
		},
	}
	outputVar(cmd.Flags(), &output, "json")
	return cmd
}

// versions are what a program was built from.
type versions struct {
	// Version is the module's version, or the commit of a checkout.
	Version string `json:"version"`
	SpiceDB string `json:"spicedb"`
	Go      string `json:"go"`
	// Platform is operating system and processor: linux/amd64.
	Platform string `json:"platform"`
}

// readVersions reads what the Go toolchain recorded.
func readVersions() versions {
	v := versions{"unknown", engine.SpiceDBVersion, runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH}
	if info, ok := debug.ReadBuildInfo(); ok {
		v.Version = info.Main.Version
	}
	return v
}

// versionText returns the versions as one line.
func versionText() string {
	v := readVersions()
	return fmt.Sprintf("deputy %s (SpiceDB %s, %s %s)", v.Version, v.SpiceDB, v.Go, v.Platform)
}
