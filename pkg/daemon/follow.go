package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"time"

	"go.uber.org/zap"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/engine"
	"github.com/deputyauth/deputy/pkg/evaluate/kept"
	"github.com/deputyauth/deputy/pkg/follow"
	"github.com/deputyauth/deputy/pkg/follow/postgres"
	"github.com/deputyauth/deputy/pkg/store"
)

// Following is how a server follows its engine's database with a copy of its own, from which it decides.
type Following struct {
	// On has it do so. It is for the engine postgres.
	On bool
	// Dir is the copy's directory, which is made if it is not there. It may be deleted whenever no server has it open.
	Dir string
	// Wait is how long a decision waits for the copy to reach the database's head before the database answers; 0 means 250 ms.
	Wait time.Duration
	// MaxAge is how long after the copy was last known to be the head it answers calls that do not ask for the head; 0 means 10 s.
	MaxAge time.Duration
	// Sample is how many relationships a second are compared between the copy and the database; 0 means 500, and -1 none.
	Sample int
}

// complete fills in defaults, and refuses what an engine cannot be followed with.
func (f Following) complete(e engine.Config) (Following, error) {
	if !f.On {
		for _, one := range []struct {
			flag string
			set  bool
		}{{"--follow-dir", f.Dir != ""}, {"--follow-wait", f.Wait != 0}, {"--follow-max-age", f.MaxAge != 0}, {"--follow-sample", f.Sample != 0}} {
			if one.set {
				return f, fmt.Errorf("%s is set, and --follow is not: set it too, or leave %s out", one.flag, one.flag)
			}
		}
		return f, nil
	}
	switch kind := cmp.Or(e.Kind, engine.Embedded); kind {
	case engine.Postgres:
	case engine.Embedded, engine.Memory:
		return f, fmt.Errorf("--follow is for the engine %s: the engine %s has its graph in this process, so that there is nothing to copy; leave --follow out",
			engine.Postgres, kind)
	default:
		return f, fmt.Errorf("--follow is for the engine %s: Deputy cannot follow the engine %s yet; leave --follow out", engine.Postgres, kind)
	}
	switch {
	case f.Dir == "":
		return f, errors.New("--follow needs --follow-dir, the directory that it keeps its copy of the database in")
	case f.Wait < 0 || f.Wait > maxFollowWait:
		return f, fmt.Errorf("--follow-wait is %s: set at most %s, or leave it out for %s", f.Wait, maxFollowWait, follow.DefaultWait)
	case f.MaxAge != 0 && f.MaxAge < minMaxAge:
		return f, fmt.Errorf("--follow-max-age is %s: set at least %s, or leave it out for %s", f.MaxAge, minMaxAge, follow.DefaultMaxAge)
	case f.Sample < -1 || f.Sample > maxFollowSample:
		return f, fmt.Errorf("--follow-sample is %d: set 1 to %d relationships a second, -1 for none, or leave it out for %d",
			f.Sample, maxFollowSample, follow.DefaultSample)
	}
	f.Wait, f.MaxAge = orDefault(f.Wait, follow.DefaultWait), orDefault(f.MaxAge, follow.DefaultMaxAge)
	return f, nil
}

// minMaxAge is the shortest that a copy may be used without its freshness being shown anew: more often than that the database is not asked.
const minMaxAge = time.Second

// maxFollowWait is the longest that a decision waits: beyond that calls that set no deadline have none left.
const maxFollowWait = 5 * time.Second

// maxFollowSample is the most relationships that are compared in a second: beyond that a comparison of the whole does it better.
const maxFollowSample = 50_000

// copyName matches what a follower makes in its directory.
var copyName = regexp.MustCompile(`^copy-[0-9]+(\.gone)?$`)

// makeFollowDir makes the copy's directory if it does not exist. One that holds other files is refused: a mistyped path must not fill a directory
// with ours.
func makeFollowDir(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return os.MkdirAll(dir, 0o700)
	}
	if err != nil {
		return fmt.Errorf("the directory of --follow-dir: %w", err)
	}
	for _, e := range entries {
		if name := e.Name(); !copyName.MatchString(name) && name != "lost+found" && name[0] != '.' {
			return fmt.Errorf("the directory %s of --follow-dir holds other files (%s); name an empty one, or one that does not exist", dir, name)
		}
	}
	return nil
}

// follower is what a server follows with.
type follower struct {
	authority *postgres.Authority
	copies    *follow.Follower
	graph     *follow.Graph
}

// openFollower opens the copy and begins to follow.
func (d *Daemon) openFollower(ctx context.Context, files int) (*follower, error) {
	c := d.cfg
	if err := makeFollowDir(c.Following.Dir); err != nil {
		return nil, err
	}
	uri, err := c.Engine.Connection()
	if err != nil {
		return nil, err
	}
	f := &follower{}
	if f.authority, err = postgres.Open(ctx, postgres.Config{URI: uri, Window: d.engine.Retention()}); err != nil {
		return nil, err
	}
	memory := memory() / 2
	f.copies, err = follow.Open(follow.Config{ //nolint:contextcheck // it outlives the opening
		Dir: c.Following.Dir,
		// While a copy is loaded there are two.
		Store: store.Config{
			Retention: d.engine.Retention(), CacheBytes: cacheFor(memory), KeptBytes: keptFor(memory), PackedBytes: packedFor(memory), ReadAhead: true,
			OpenFiles: files / 2, Log: d.log,
			// What the copy loses the database still has.
			Unsynced: true,
		},
		Log: d.log, Progress: d.logLoad(),
	}, f.authority)
	if err != nil {
		f.authority.Close()
		return nil, err
	}
	f.graph = follow.OpenGraph(follow.GraphConfig{ //nolint:contextcheck // it outlives the opening
		Follower: f.copies, Engine: d.engine, Head: d.engine.Head, Printed: d.engine.Printed, Renewed: d.engine.BeginHistory,
		Open:   func(s *store.Store) (follow.Local, error) { return d.openCopy(s) }, //nolint:contextcheck // likewise
		Served: d.servedBy, Wait: c.Following.Wait, MaxAge: c.Following.MaxAge, Sample: c.Following.Sample, Log: d.log,
	})
	return f, nil
}

// Close ends the following, and closes the copy.
func (f *follower) Close() error {
	err := errors.Join(f.graph.Close(), f.copies.Close())
	f.authority.Close()
	return err
}

// copied is the graph over a copy, with SpiceDB over it for what the evaluator leaves to it.
type copied struct {
	*kept.Graph

	spicedb *engine.Engine
}

// Close is follow.Local's.
func (c copied) Close() error {
	c.Graph.Close()
	return c.spicedb.Close()
}

var _ follow.Local = copied{}

// openCopy opens the graph over a copy's store.
func (d *Daemon) openCopy(s *store.Store) (follow.Local, error) {
	spicedb, err := engine.OverCopy(context.Background(), engine.Config{Retention: d.engine.Retention(), Log: d.log}, keptOpen{s})
	if err != nil {
		return nil, err
	}
	return copied{kept.Open(kept.Config{Engine: spicedb, Store: s, Failure: engine.Failure, Log: d.log}), spicedb}, nil
}

// keptOpen is a store whose owner closes it, and not the engine over it.
type keptOpen struct{ *store.Store }

// Close does nothing.
func (keptOpen) Close() error { return nil }

// closeFollower closes the follower, if there is one.
func (d *Daemon) closeFollower() error {
	if d.follower == nil {
		return nil
	}
	return d.follower.Close()
}

// decides reports whether the server can decide: whether its copy serves or, where it has none, its engine answers.
func (d *Daemon) decides(ctx context.Context) error {
	if d.follower == nil {
		return d.engine.Ready(ctx)
	}
	switch graph := d.follower.graph; {
	case graph.Serves():
		return nil
	case graph.Reloads():
		// One commit can have every server load a new copy at the same time. If none of them was ready then, nobody could act.
		return d.engine.Ready(ctx)
	default:
		return authz.Errorf(authz.Unavailable, authz.ReasonEngineUnavailable, "the copy has not been known to be the database's head for %s",
			d.cfg.Following.MaxAge)
	}
}

// histories says which history the engine's revisions are of, where the server follows a database.
func (d *Daemon) histories() authz.Histories {
	if d.follower == nil {
		return nil
	}
	return d.follower.graph
}

// servedBy is told when the copy serves, and when it does not any more.
func (d *Daemon) servedBy(serves bool) {
	d.log.Info("the copy of the database", zap.Bool("serves", serves))
	d.condition.Lock()
	open := d.condition.open
	d.condition.Unlock()
	if !open {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), healthEvery)
	defer cancel()
	d.tellHealth(d.decides(ctx) == nil)
}

// loadLogged is how often a load that goes on is logged.
const loadLogged = 10 * time.Second

// logLoad returns what logs how far a load is. Loads run one at a time.
func (d *Daemon) logLoad() func(follow.Progress) {
	last := time.Now()
	return func(p follow.Progress) {
		if now := time.Now(); p.Complete || now.Sub(last) >= loadLogged {
			last = now
			d.log.Info("a copy of the database is being loaded", zap.Uint64("relationships", p.Relationships), zap.Bool("complete", p.Complete))
		}
	}
}
