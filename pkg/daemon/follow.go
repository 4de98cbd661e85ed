package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"regexp"
	"time"

	"go.uber.org/zap"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/engine"
	"github.com/deputyauth/deputy/pkg/evaluate/kept"
	"github.com/deputyauth/deputy/pkg/follow"
	"github.com/deputyauth/deputy/pkg/follow/deputy"
	"github.com/deputyauth/deputy/pkg/follow/postgres"
	"github.com/deputyauth/deputy/pkg/store"
)

// Following is how a server follows its engine's database, or the store of another Deputy, with a copy of its own, from which it decides.
type Following struct {
	// On has it do so. It is for the engine postgres, and for remote where that is another Deputy on the engine embedded.
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
	case engine.Postgres, engine.Remote:
	case engine.Embedded, engine.Memory:
		return f, fmt.Errorf("--follow is for the engines %s and %s: the engine %s has its graph in this process, so that there is nothing to copy; "+
			"leave --follow out", engine.Postgres, engine.Remote, kind)
	default:
		return f, fmt.Errorf("--follow is for the engines %s and %s: Deputy cannot follow the engine %s yet; leave --follow out",
			engine.Postgres, engine.Remote, kind)
	}
	switch {
	case f.Dir == "":
		return f, errors.New("--follow needs --follow-dir, the directory that it keeps its copy of the primary in")
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
	there, err := checkFollowDir(dir)
	if err != nil || there {
		return err
	}
	return os.MkdirAll(dir, 0o700)
}

// checkFollowDir refuses a directory that holds other files than copies, and reports whether it is there.
func checkFollowDir(dir string) (there bool, err error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("the directory of --follow-dir: %w", err)
	}
	for _, e := range entries {
		if name := e.Name(); !copyName.MatchString(name) && name != "lost+found" && name[0] != '.' {
			return false, fmt.Errorf("the directory %s of --follow-dir holds other files (%s); name an empty one, or one that does not exist", dir, name)
		}
	}
	return true, nil
}

// authority is what a server follows, with what it holds open.
type authority interface {
	follow.Authority
	io.Closer
}

// followedDatabase is a database that is followed.
type followedDatabase struct{ *postgres.Authority }

// Close is io.Closer's.
func (d followedDatabase) Close() error {
	d.Authority.Close()
	return nil
}

// followedDeputy is another Deputy server that is followed, over the engine's connection.
type followedDeputy struct{ *deputy.Authority }

// Close is io.Closer's. The connection is the engine's.
func (followedDeputy) Close() error { return nil }

// openAuthority opens what is followed, if anything is. The engine learns where it is another Deputy.
func (d *Daemon) openAuthority(ctx context.Context) error {
	switch {
	case !d.cfg.Following.On:
		return nil
	case d.engine.InProcess():
		uri, err := d.cfg.Engine.Connection()
		if err != nil {
			return err
		}
		opened, err := postgres.Open(ctx, postgres.Config{URI: uri, Window: d.engine.Retention()})
		if err != nil {
			return err
		}
		d.authority = followedDatabase{opened}
		return nil
	}
	opened, err := deputy.Open(ctx, d.engine.Conn())
	if err == nil {
		err = opened.SameKey(ctx, d.cfg.Engine.KeyMark)
	}
	if err != nil {
		return err
	}
	d.authority = followedDeputy{opened}
	return d.engine.Follows(ctx, func(ctx context.Context) (string, error) {
		head, err := opened.Head(ctx)
		if err != nil {
			return "", err
		}
		return opened.Revision(head)
	})
}

// follower is what a server follows with.
type follower struct {
	copies *follow.Follower
	graph  *follow.Graph
}

// openFollower opens the copy and begins to follow.
func (d *Daemon) openFollower(files int) (*follower, error) {
	c := d.cfg
	if err := makeFollowDir(c.Following.Dir); err != nil {
		return nil, err
	}
	f := &follower{}
	var err error
	memory := memory() / 2
	f.copies, err = follow.Open(follow.Config{
		Dir: c.Following.Dir,
		// While a copy is loaded there are two.
		Store: store.Config{
			Retention: d.engine.Retention(), CacheBytes: cacheFor(memory), KeptBytes: keptFor(memory), PackedBytes: packedFor(memory), ReadAhead: true,
			OpenFiles: files / 2, Log: d.log,
			// What the copy loses the database still has.
			Unsynced: true,
		},
		Log: d.log, Progress: d.logLoad(),
	}, d.authority)
	if err != nil {
		return nil, fmt.Errorf("the copy in --follow-dir %s: %w", c.Following.Dir, err)
	}
	f.graph = follow.OpenGraph(follow.GraphConfig{
		Follower: f.copies, Engine: d.engine, Head: d.engine.Head, Printed: d.engine.Printed,
		Renewed: func(before, now follow.Identity) {
			d.engine.BeginHistory()
			d.noteHistory(before, now)
		},
		Open:   func(s *store.Store) (follow.Local, error) { return d.openCopy(s) },
		Served: d.servedBy, Wait: c.Following.Wait, MaxAge: c.Following.MaxAge, Sample: c.Following.Sample, Log: d.log,
	})
	return f, nil
}

// Close ends the following, and closes the copy.
func (f *follower) Close() error { return errors.Join(f.graph.Close(), f.copies.Close()) }

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
	over := engine.OverCopy
	if !d.engine.InProcess() {
		over = engine.Over // another Deputy refuses no more than this server would over a store of its own
	}
	spicedb, err := over(context.Background(), engine.Config{Retention: d.engine.Retention(), Log: d.log}, keptOpen{s})
	if err != nil {
		return nil, err
	}
	return copied{kept.Open(kept.Config{Engine: spicedb, Store: s, Failure: engine.Failure, Log: d.log}), spicedb}, nil
}

// keptOpen is a store whose owner closes it, and not the engine over it.
type keptOpen struct{ *store.Store }

// Close does nothing.
func (keptOpen) Close() error { return nil }

// closeFollower closes the follower and what it follows, if there is one.
func (d *Daemon) closeFollower() error {
	if d.follower == nil {
		return nil
	}
	return errors.Join(d.follower.Close(), d.authority.Close())
}

// decides reports whether the server can decide: whether its copy serves or, where it has none, its engine answers.
func (d *Daemon) decides(ctx context.Context) error {
	if d.follower == nil {
		return d.engine.Ready(ctx)
	}
	switch serves, reloads := d.follower.graph.Stands(); {
	case serves:
		return nil
	case reloads:
		// One commit can have every server catch up, or load a new copy, at the same time. If none of them was ready then, nobody could act.
		return d.engine.Ready(ctx)
	default:
		return authz.Errorf(authz.Unavailable, authz.ReasonEngineUnavailable, "the copy has not been known to be the primary's head for %s",
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
	if serves {
		d.log.Info("the copy of the primary serves")
	} else {
		d.log.Warn("the copy of the primary does not serve")
	}
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
			d.log.Info("a copy of the primary is being loaded", zap.Uint64("relationships", p.Relationships), zap.Bool("complete", p.Complete))
		}
	}
}
