package daemon

import (
	"errors"
	"fmt"

	"go.uber.org/zap"

	"github.com/deputyauth/deputy/pkg/follow"
	"github.com/deputyauth/deputy/pkg/follow/deputy"
	"github.com/deputyauth/deputy/pkg/store"
)

// Promote makes the copy that a stopped server has followed another Deputy with the store of a data directory for the engine embedded, which must have
// none yet; see follow.Promote. log is told what goes wrong on the way.
func Promote(followDir, dataDir string, log *zap.Logger) (follow.Promoted, error) {
	if err := MakeDataDir(dataDir); err != nil {
		return follow.Promoted{}, err
	}
	promoted, err := follow.Promote(followDir, StoreDir(dataDir), store.Config{Log: log}, func(at follow.Position) error {
		if !deputy.Is(at) {
			return fmt.Errorf("it is a copy of %s: only the copy of another Deputy can be promoted; a database has standbys of its own", at.Authority)
		}
		return nil
	})
	switch {
	case errors.Is(err, follow.ErrOccupied):
		err = fmt.Errorf("the data directory %s has a store already: name another one with --data-dir (%w)", dataDir, err)
	case errors.Is(err, follow.ErrElsewhere):
		err = fmt.Errorf("the data directory %s is on another file system than the copy: name one on the same with --data-dir (%w)", dataDir, err)
	case errors.Is(err, follow.ErrNoCopy):
		err = fmt.Errorf("%s has no complete copy: name the directory of --follow-dir, and keep what is in it; a copy that was still being loaded "+
			"cannot be promoted", followDir)
	}
	return promoted, err
}
