package cli

import (
	"context"
	"strings"
	"time"

	authzed "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"github.com/spf13/cobra"
)

// completeTime bounds how long a shell waits for a server.
const completeTime = 2 * time.Second

// completes lets the shell complete the types and permissions of a command's arguments with those of the server's schema. at is
// the position of the object or, if bareType, of its type; the permission is behind it. A server that does not answer completes nothing.
func (c *connection) completes(cmd *cobra.Command, at int, bareType bool) {
	cmd.ValidArgsFunction = func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		const none = cobra.ShellCompDirectiveNoFileComp
		if len(args) < at || len(args) > at+1 {
			return nil, none
		}
		definitions, err := c.definitions(cmd)
		if err != nil {
			return nil, none
		}
		var words []string
		for _, d := range definitions {
			switch {
			case len(args) == at && bareType:
				words = append(words, d.GetName())
			case len(args) == at:
				words = append(words, d.GetName()+":")
			case d.GetName() == strings.SplitN(args[at], ":", 2)[0]:
				for _, permission := range d.GetPermissions() {
					words = append(words, permission.GetName())
				}
			}
		}
		if len(args) == at && !bareType {
			return words, none | cobra.ShellCompDirectiveNoSpace
		}
		return words, none
	}
}

// definitions returns the types of the server's schema.
func (c *connection) definitions(cmd *cobra.Command) (definitions []*authzed.ReflectionDefinition, err error) {
	// cobra fills flags in from the environment for commands that it runs, not for those that it completes.
	if err := fillFromEnv(cmd.Flags(), c.program.env); err != nil {
		return nil, err
	}
	err = c.run(func(ctx context.Context, s *server, _ []string) error {
		ctx, cancel := context.WithTimeout(ctx, completeTime)
		defer cancel()
		answer, err := s.schema.ReflectSchema(ctx, &authzed.ReflectSchemaRequest{})
		definitions = answer.GetDefinitions()
		return err
	})(cmd, nil)
	return definitions, err
}
