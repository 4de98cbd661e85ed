package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/deputyauth/deputy/pkg/schema/source"

	"github.com/deputyauth/deputy/pkg/notation"
)

// newSchemaFmt builds `deputy schema fmt`.
func newSchemaFmt(p *program) *cobra.Command {
	var check bool
	cmd := &cobra.Command{
		Use:   "fmt FILE...",
		Short: "Lay schema files out in the one canonical way",
		Long: `Lay schema files out in the one canonical way, in place; "-" is standard input, which is written to
standard output. Comments stay where they are, and so do parentheses and the order of everything. A file
with an error is named, and then no file is changed. Imports are not followed: name each file.

With --check nothing is written: the files that would change are listed, and the exit code is 1 if there
are any.`,
		Example: `  deputy schema fmt --check schema/*.zed`,
		Args:    cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			return p.formatFiles(args, check)
		},
	}
	cmd.Flags().BoolVar(&check, "check", false, "list the files that would change, and change none")
	return cmd
}

// formatFiles formats all files before it writes the first.
func (p *program) formatFiles(paths []string, check bool) error {
	formatted := make([]string, len(paths))
	changed := make([]bool, len(paths))
	var broken []string
	for i, path := range paths {
		text, err := readSchemaText(path, p.In)
		if err == nil {
			formatted[i], err = source.Format(schemaName(path), text)
			changed[i] = formatted[i] != text
		}
		if err != nil {
			broken = append(broken, err.Error())
		}
	}
	if len(broken) > 0 {
		return errors.New(strings.Join(broken, "; "))
	}
	different := false
	for i, path := range paths {
		different = different || changed[i]
		var err error
		switch {
		case check && changed[i]:
			_, err = fmt.Fprintln(p.Out, notation.Line(schemaName(path)))
		case check:
		case path == "-":
			_, err = io.WriteString(p.Out, formatted[i])
		case changed[i]:
			err = replaceFile(path, formatted[i])
		}
		if err != nil {
			return fmt.Errorf("writing %s: %w", schemaName(path), err)
		}
	}
	if check && different {
		return errDenied
	}
	return nil
}

// schemaName is what a schema file is called in messages.
func schemaName(path string) string {
	if path == "-" {
		return "standard input"
	}
	return filepath.ToSlash(path)
}

// replaceFile gives a file a new text in one step, so that nobody ever reads half of it. The file keeps
// its mode, and a link to it stays a link.
func replaceFile(path, text string) error {
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	next, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	_, err = next.WriteString(text)
	err = errors.Join(err, next.Chmod(info.Mode().Perm()), next.Sync(), next.Close())
	if err == nil {
		err = os.Rename(next.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(next.Name()))
	}
	return nil
}
