package differential

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"

	"github.com/deputyauth/deputy/pkg/authz"
)

// tally counts what was asked and what came of it.
type tally struct {
	mu          sync.Mutex
	worlds      int
	refused     int
	native      int
	bulk        int
	reference   int
	spicedb     int
	server      int
	costly      int
	stalling    int
	outcomes    [authz.NotJudged + 1]int
	classes     [classes]int
	sets        int
	pooled      int
	differences []difference
}

// String is the line that a run prints, and one with more of it.
func (c *tally) String() string {
	return fmt.Sprintf("differential: %d checks (native), %d against SpiceDB, %d against the reference, %d differences, class a: %d, class b: %d, class c: %d\n"+
		"differential: %d also in bulk, %d against SpiceDB's whole server (%d right only when asked again), %d unanswered by SpiceDB; "+
		"not asked of SpiceDB: %d too costly, %d that may hang; %d worlds (and %d schemas refused); %d yes, %d no, %d conditional, %d errors, %d where caveats may be mixed",
		c.native, c.spicedb, c.reference, len(c.differences), c.classes[classA], c.classes[classB], c.sets,
		c.bulk, c.server, c.classes[raced], c.classes[hung], c.costly, c.stalling, c.worlds, c.refused,
		c.outcomes[authz.Yes], c.outcomes[authz.No], c.outcomes[authz.Conditional], c.outcomes[authz.Failed], c.pooled)
}

// limits is how much of a world is asked.
type limits struct {
	// questions is how many are asked at a revision, about so many subjects; spicedb and server are how many
	// of them SpiceDB's dispatcher and its whole server are asked.
	questions, subjects, spicedb, server int
}

// tryWorld asks everybody about the world of a seed.
func (d *desk) tryWorld(seed uint64, limit limits, count *tally) error {
	now := time.Now()
	w := drawWorld(seed, now)
	editions, err := w.editions(d, now)
	if err != nil {
		if strings.Contains(err.Error(), "schema: ") {
			count.refused++
			return nil
		}
		return err
	}
	count.worlds++
	w.subjects = limit.subjects
	w.artist.Shuffle(len(editions), func(i, j int) { editions[i], editions[j] = editions[j], editions[i] })
	for _, e := range editions {
		if err := d.tryEdition(w, e, limit, count); err != nil {
			return err
		}
	}
	return nil
}

// tryEdition asks everybody about a world at one revision.
func (d *desk) tryEdition(w *world, e *edition, limit limits, count *tally) error {
	var questions []question
	var wants []Verdict
	plain := 0
	for _, q := range w.questions(e, 4*limit.questions) {
		want := e.reference.Check(q.resource, q.subject, q.context)
		if isPlain(want) {
			// Most answers are a plain no. A half is enough.
			if plain++; plain > limit.questions/2 {
				continue
			}
		}
		if len(questions) == limit.questions {
			break
		}
		questions, wants = append(questions, q), append(wants, want)
		count.outcomes[want.Outcome]++
		if want.Pooled {
			count.pooled++
		}
	}
	if err := d.tryNative(w, e, questions, wants, count); err != nil {
		return err
	}
	return d.trySpiceDB(w, e, questions, wants, limit, count)
}

// trySpiceDB compares SpiceDB with the reference, in some of the questions.
func (d *desk) trySpiceDB(w *world, e *edition, questions []question, wants []Verdict, limit limits, count *tally) error {
	// A plain no waits.
	var some, rest []int
	for i, want := range wants {
		if isPlain(want) {
			rest = append(rest, i)
		} else {
			some = append(some, i)
		}
	}
	some = some[:min(len(some), limit.spicedb*3/4)]
	some = append(some, rest[:min(len(rest), limit.spicedb-len(some))]...)
	judged := func(who string, i int, c class, got Answer, asked *int) {
		count.add(c, difference{who: who, q: questions[i], want: wants[i], got: got, spicedb: got.String(), edition: e, seed: w.seed}, asked)
	}
	// late are those that SpiceDB had no time for. They are asked again, one by one.
	late := make([]bool, len(questions))
	var group errgroup.Group
	group.SetLimit(4)
	for n, i := range some {
		q, want := questions[i], wants[i]
		if !e.reference.affordable(q, want) {
			count.costly++
			continue
		}
		if want.Stalls {
			count.stalling++
			continue
		}
		group.Go(func() error {
			got := e.ask(d.local, q)
			if got.Code == codes.DeadlineExceeded && want.Trouble == 0 {
				late[i] = true
				return nil
			}
			judged("spicedb", i, d.judge(e, q, want, got), got, &count.spicedb)
			if d.server != nil && n < limit.server {
				c, got := d.judgeServer(e, q, want)
				judged("spicedb's server", i, c, got, &count.server)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	for i, again := range late {
		if again {
			got := e.askFor(10*spicedbPatience, d.local, questions[i])
			judged("spicedb", i, d.judge(e, questions[i], wants[i], got), got, &count.spicedb)
		}
	}
	return nil
}

// isPlain tells whether an answer is no, and nothing was on the way that could have gone wrong.
func isPlain(want Verdict) bool { return want.Outcome == authz.No && want.Trouble == 0 && !want.Pooled }

// add counts an answer.
func (c *tally) add(cl class, diff difference, asked *int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	*asked++
	c.classes[cl]++
	if strings.Contains(diff.got.Missing, ",") {
		c.sets++ // class c
	}
	if cl == differs {
		c.differences = append(c.differences, diff)
	}
}

// worldsPerDesk is after how many worlds a store is thrown away: what lies behind makes it slower.
const worldsPerDesk = 60

// TestDifferential asks the native evaluator, the reference and SpiceDB about random worlds. It draws the
// same ones in every run, or new ones for as long as DEPUTY_DIFFERENTIAL_TIME says.
// DEPUTY_DIFFERENTIAL_SEED is where it begins, and DEPUTY_DIFFERENTIAL_SPICEDB how many questions about a
// revision SpiceDB is asked.
func TestDifferential(t *testing.T) {
	count := &tally{}
	limit := limits{questions: 300, subjects: 14, spicedb: 40, server: 3}
	seed, worlds := uint64(1), uint64(100)
	if raceDetector || testing.Short() {
		worlds = 30
	}
	var deadline time.Time
	if text := os.Getenv("DEPUTY_DIFFERENTIAL_TIME"); text != "" {
		duration, err := time.ParseDuration(text)
		if err != nil {
			t.Fatalf("DEPUTY_DIFFERENTIAL_TIME: %v", err)
		}
		deadline = time.Now().Add(duration)
		seed, worlds = uint64(time.Now().UnixNano()), 1<<62
		limit = limits{questions: 5000, subjects: 40, spicedb: 60, server: 4}
	}
	number(t, "DEPUTY_DIFFERENTIAL_SEED", &seed)
	number(t, "DEPUTY_DIFFERENTIAL_SPICEDB", &limit.spicedb)
	t.Logf("differential: the first seed is %d", seed)
	for done := uint64(0); done < worlds && (deadline.IsZero() || time.Now().Before(deadline)); done += worldsPerDesk {
		d, shut, err := newDesk(true)
		if err != nil {
			t.Fatal(err)
		}
		for i := done; i < min(done+worldsPerDesk, worlds) && (deadline.IsZero() || time.Now().Before(deadline)); i++ {
			if err := d.tryWorld(seed+i, limit, count); err != nil {
				shut()
				t.Fatalf("seed %d: %v", seed+i, err)
			}
			if len(count.differences) > 0 {
				break
			}
		}
		shut()
		if len(count.differences) > 0 {
			break
		}
		if !deadline.IsZero() {
			t.Log(count)
		}
	}
	if deadline.IsZero() {
		t.Log(count)
	}
	report(t, count.differences)
}

// number reads a setting, if there is one.
func number(t *testing.T, name string, into any) {
	t.Helper()
	if text := os.Getenv(name); text != "" {
		if _, err := fmt.Sscan(text, into); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
}

// report minimises some of the differences, and writes them also to the file that DEPUTY_DIFFERENTIAL_REPORT
// names.
func report(t *testing.T, found []difference) {
	for _, diff := range found[:min(3, len(found))] {
		small := minimise(diff)
		t.Error(small)
		name := os.Getenv("DEPUTY_DIFFERENTIAL_REPORT")
		if name == "" {
			continue
		}
		f, err := os.OpenFile(name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		_, err = fmt.Fprintf(f, "\n## %s, %s\n\n```\n%s```\n", time.Now().Format(time.TimeOnly), small.who, small)
		if err := errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
	}
}
