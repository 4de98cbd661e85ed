package kept

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/authzed/spicedb/pkg/tuple"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/evaluate"
	"github.com/deputyauth/deputy/pkg/store"
)

// Verification: a share of what is answered is asked of SpiceDB's engine too, at the same revision, after the
// answer is out. Answers that differ, but for what is tolerated, are counted and logged, and the permission is
// distrusted from then on: both are asked, before an answer goes out, and the stricter one does. Only a restart
// ends that.
//
// What is tolerated, see the package's comment: SpiceDB answers with an error of depth or of a caveat where
// another branch is definite; and with a condition, where an arrow with .all is on the way, that belongs to
// another object.

const (
	// waiting is how many answers wait to be verified; what comes when they are so many is not.
	waiting = 256
	// again is how often a difference is looked at: SpiceDB's answer may depend on which goroutine is first,
	// and both on the clock.
	again = 3
	// verifyPatience is how long SpiceDB has to answer.
	verifyPatience = 30 * time.Second
)

// answered is a call that was answered.
type answered struct {
	at      store.Revision
	token   authz.Revision
	checks  []evaluate.Check
	answers []evaluate.Answer
	// listing is a list of subjects instead; nil for checks.
	listing *listing
	// absent are checks of objects or subjects that a lookup left out: of each object, one for each holder.
	absent [][]evaluate.Check
	// tree is a tree instead; nil for checks.
	tree *expanded
}

// listing is a list of all subjects of a type that have a permission.
type listing struct {
	resource                authz.Object
	permission, subjectType string
	given                   map[string]any
	found                   []authz.SubjectAnswer
}

// permissionName names a permission of a type.
type permissionName struct{ objectType, permission string }

// verifier asks a second time.
type verifier struct {
	graph *Graph
	share float64
	log   *zap.Logger

	queue chan answered
	stop  context.CancelFunc
	done  chan struct{}

	mu         sync.RWMutex
	distrusted map[permissionName]bool

	verified, tolerated, differences, skipped prometheus.Counter
	distrustedCount                           prometheus.GaugeFunc
}

func newVerifier(g *Graph, share float64, log *zap.Logger) *verifier {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "deputy", Subsystem: "evaluator", Name: name, Help: help})
	}
	v := &verifier{
		graph: g, share: share, log: log, queue: make(chan answered, waiting), done: make(chan struct{}),
		distrusted:  map[permissionName]bool{},
		verified:    counter("verified_total", "Checks that were answered a second time by SpiceDB's engine."),
		tolerated:   counter("tolerated_total", "Of those, the ones that differ in a way that is known and tolerated."),
		differences: counter("differences_total", "Of those, the ones that differ otherwise."),
		skipped:     counter("unverified_total", "Checks that were to be verified, and could not be."),
	}
	v.distrustedCount = prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: "deputy", Subsystem: "evaluator", Name: "distrusted_permissions",
		Help: "Permissions for which the stricter of both answers holds because they differed.",
	}, func() float64 { return float64(v.count()) })
	ctx, stop := context.WithCancel(context.Background())
	v.stop = stop
	go v.run(ctx)
	return v
}

// Collectors are the figures for Prometheus.
func (v *verifier) collectors() []prometheus.Collector {
	return []prometheus.Collector{v.verified, v.tolerated, v.differences, v.skipped, v.distrustedCount}
}

func (v *verifier) count() int {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return len(v.distrusted)
}

// close ends verification; what waits is not verified.
func (v *verifier) close() {
	v.stop()
	<-v.done
}

func (v *verifier) run(ctx context.Context) {
	defer close(v.done)
	for {
		select {
		case <-ctx.Done():
			return
		case a := <-v.queue:
			if err := authz.Safely("evaluate.verify", func() error { v.verify(ctx, a); return nil }); err != nil {
				v.log.Error("the verification of an answer panicked; the answer is not verified", zap.Error(err))
				v.skipped.Add(float64(max(1, len(a.checks)+len(a.absent))))
			}
		}
	}
}

// sample gives a share of what is answered to verification.
func (v *verifier) sample(a answered) {
	if v.draws() {
		v.enqueue(a.own())
	}
}

// sampleList is sample for a list. It takes no memory for one that is not in the sample.
func (v *verifier) sampleList(at store.Revision, token authz.Revision, l listing) {
	if v.draws() {
		drawn := l
		v.enqueue(answered{at: at, token: token, listing: &drawn}.own())
	}
}

// draws reports whether something that was answered is in the sample.
func (v *verifier) draws() bool {
	return v.share > 0 && (v.share >= 1 || rand.Float64() < v.share) //nolint:gosec // a sample, no secret
}

// enqueue gives what was answered to verification, unless too much waits for that.
func (v *verifier) enqueue(a answered) {
	select {
	case v.queue <- a:
	default:
		v.skipped.Add(float64(max(1, len(a.checks)+len(a.absent))))
	}
}

// own returns a copy for later: contexts are the caller's, and answers are returned to it.
func (a answered) own() answered {
	a.checks, a.answers = slices.Clone(a.checks), slices.Clone(a.answers)
	for i := range a.checks {
		a.checks[i].Context = cloneMap(a.checks[i].Context)
		a.answers[i].Missing = slices.Clone(a.answers[i].Missing)
	}
	if a.listing != nil {
		l := *a.listing
		l.given, l.found = cloneMap(l.given), slices.Clone(l.found)
		a.listing = &l
	}
	return a
}

// cloneMap copies a context, whose values are JSON's, all the way down.
func cloneMap(m map[string]any) map[string]any {
	m = maps.Clone(m)
	for key, value := range m {
		m[key] = clone(value)
	}
	return m
}

func clone(value any) any {
	switch value := value.(type) {
	case map[string]any:
		return cloneMap(value)
	case []any:
		list := slices.Clone(value)
		for i := range list {
			list[i] = clone(list[i])
		}
		return list
	default:
		return value
	}
}

// verify compares what was answered with what SpiceDB answers.
func (v *verifier) verify(ctx context.Context, a answered) {
	if l := a.listing; l != nil {
		same, err := v.sameList(ctx, a.token, *l)
		switch {
		case err != nil:
			v.skipped.Inc()
			return
		case !same:
			v.distrust(permissionName{l.resource.Type, l.permission})
			v.differences.Inc()
			v.log.Error("the evaluator and SpiceDB list other subjects; where they differ there is no answer from now on",
				zap.String("resource", l.resource.Type+":"+l.resource.ID), zap.String("permission", l.permission),
				zap.String("subject type", l.subjectType), zap.String("revision", a.at.String()), zap.Int("evaluator", len(l.found)))
		}
		v.verified.Inc()
		return
	}
	if a.tree != nil {
		v.verifyTree(ctx, a)
		return
	}
	for _, checks := range a.absent {
		v.verifyAbsent(ctx, a, checks)
	}
	for i := range a.checks {
		// Where a walk ended for a bound of its own, there is no answer to compare.
		if err := a.answers[i].Err; errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || status.Code(err) == codes.ResourceExhausted {
			continue
		}
		second, verdict := v.compare(ctx, a, i)
		switch verdict {
		case unverified:
			v.skipped.Inc()
			continue
		case differs:
			v.distrustPermission(a, i, second)
			v.differences.Inc()
		case toleratedDifference:
			v.tolerated.Inc()
		case equal:
		}
		v.verified.Inc()
	}
}

// verdict says how two answers compare.
type verdict uint8

const (
	unverified verdict = iota
	equal
	toleratedDifference
	differs
)

// compare asks SpiceDB, and both again where they differ.
func (v *verifier) compare(ctx context.Context, a answered, i int) (second authz.Answer, found verdict) {
	first := a.answers[i]
	for try := range again {
		var err error
		if second, err = v.second(ctx, a.token, a.checks[i]); err != nil {
			return second, unverified
		}
		if found = v.weigh(a.at, a.checks[i], first, second); found != differs || try == again-1 {
			return second, found
		}
		at, err := v.graph.evaluator.At(a.at)
		if err != nil {
			return second, unverified
		}
		first = at.Check(ctx, a.checks[i:i+1])[0]
		at.Close()
		if ctx.Err() != nil {
			return second, unverified
		}
	}
	return second, found
}

// second is SpiceDB's answer. An error means that there is none, for a reason that is not the check's.
func (v *verifier) second(ctx context.Context, token authz.Revision, c evaluate.Check) (authz.Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, verifyPatience)
	defer cancel()
	snap, err := v.graph.Graph.Snapshot(ctx, authz.Freshness{Exactly: token})
	if err != nil {
		return authz.Answer{}, err
	}
	answers, err := snap.Check(ctx, []authz.Query{c.Query()})
	if err != nil {
		return authz.Answer{}, err
	}
	if err := answers[0].Err; err != nil && !isCheckError(err) {
		return authz.Answer{}, err
	}
	return answers[0], nil
}

// weigh compares two answers.
func (v *verifier) weigh(at store.Revision, c evaluate.Check, first evaluate.Answer, second authz.Answer) verdict {
	switch {
	case first.Outcome == second.Outcome && first.Outcome != authz.Conditional:
		return equal
	case first.Outcome == second.Outcome && slices.Equal(first.Missing, second.Missing):
		return equal
	case second.Outcome == authz.Failed && isCheckError(second.Err):
		return toleratedDifference
	case second.Outcome == authz.Conditional && v.graph.evaluator.meetsAll(at, c):
		return toleratedDifference
	default:
		return differs
	}
}

// isCheckError reports whether an error of the engine is one of depth or of a caveat.
func isCheckError(err error) bool {
	switch authz.KindOf(err) {
	case authz.Precondition, authz.Invalid:
		return true
	default:
		return status.Code(err) == codes.FailedPrecondition || status.Code(err) == codes.InvalidArgument
	}
}

// sameList reports whether SpiceDB lists the same subjects.
func (v *verifier) sameList(ctx context.Context, token authz.Revision, l listing) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, verifyPatience)
	defer cancel()
	snap, err := v.graph.Graph.Snapshot(ctx, authz.Freshness{Exactly: token})
	if err != nil {
		return false, err
	}
	second, err := snap.Subjects(ctx, l.resource, l.permission, l.subjectType, l.given, 2*len(l.found)+1)
	if err != nil {
		return false, err
	}
	in := func(found []authz.SubjectAnswer) map[authz.SubjectAnswer]bool {
		set := map[authz.SubjectAnswer]bool{}
		for _, s := range found {
			set[s] = true
		}
		return set
	}
	return maps.Equal(in(l.found), in(second)), nil
}

// agreed asks SpiceDB for the list too where its permission is distrusted. Which of two lists is the stricter one
// depends on what it is for, so that there is no answer where they differ.
func (v *verifier) agreed(ctx context.Context, token authz.Revision, l listing) error {
	if !v.distrusts(permissionName{l.resource.Type, l.permission}) {
		return nil
	}
	same, err := v.sameList(ctx, token, l)
	if err == nil && !same {
		err = &authz.Error{Op: "evaluate.Subjects", Message: "the evaluator and SpiceDB list other subjects"}
	}
	return err
}

// distrusts reports whether a permission is distrusted.
func (v *verifier) distrusts(p permissionName) bool {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.distrusted[p]
}

// doubts reports whether a lookup's permissions are distrusted: then it goes through all objects, whose checks decide.
func (v *verifier) doubts(r authz.Reachable) bool {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return len(v.distrusted) > 0 && slices.ContainsFunc(r.Holders, func(h authz.Holder) bool {
		return v.distrusted[permissionName{r.ResourceType, h.Permission}]
	})
}

// maxAbsent is how many objects that a page left out are verified, and absentScan among how many they are looked for.
const maxAbsent, absentScan = 4, 64

// span is a part of a lookup: ids from a place on, before end unless that is "", and those of them that were found, in order.
type span struct {
	begin, end string
	found      []string
}

// sampleAbsent gives objects that a page of a lookup left out to verification, as sampleLeftOut does.
func (v *verifier) sampleAbsent(
	rows evaluate.IDs, at store.Revision, token authz.Revision, r authz.Reachable, begin string, found []authz.Resource, end string,
) {
	if !v.draws() {
		return
	}
	of := span{begin: evaluate.PlaceOf(begin), end: evaluate.PlaceOf(end), found: make([]string, len(found))}
	for i, f := range found {
		of.found[i] = f.ID
	}
	v.sampleLeftOut(answered{at: at, token: token}, of, func(from string) ([]string, error) {
		ids, _, err := rows.ObjectIDs(r.ResourceType, from, absentScan)
		return ids, err
	}, func(id string) []evaluate.Check {
		checks := make([]evaluate.Check, len(r.Holders))
		for i, h := range r.Holders {
			checks[i] = evaluate.CheckOf(authz.Query{
				Resource: authz.Object{Type: r.ResourceType, ID: id}, Permission: h.Permission, Subject: h.Subject, Context: cloneMap(r.Context),
			})
		}
		return checks
	})
}

// sampleLeftOut gives some of what a lookup left out to verification: SpiceDB has to refuse one of the checks of each. They are looked for
// behind a result, or at the beginning, at random. read returns ids from one on.
func (v *verifier) sampleLeftOut(a answered, of span, read func(from string) ([]string, error), checks func(id string) []evaluate.Check) {
	from := of.begin
	if n := rand.IntN(len(of.found) + 1); n > 0 { //nolint:gosec // a sample, no secret
		from = of.found[n-1]
	}
	ids, err := read(from)
	if err != nil {
		v.skipped.Inc()
		return
	}
	for _, id := range ids {
		if _, in := slices.BinarySearch(of.found, id); in || id == tuple.PublicWildcard || len(a.absent) == maxAbsent || of.end != "" && id >= of.end {
			continue
		}
		a.absent = append(a.absent, checks(id))
	}
	if len(a.absent) > 0 {
		v.enqueue(a)
	}
}

// verifyAbsent asks SpiceDB whether somebody of those who were looked for has not a permission on an object that a lookup left out, or a subject
// that it left out has it not.
func (v *verifier) verifyAbsent(ctx context.Context, a answered, checks []evaluate.Check) {
	for _, c := range checks {
		second, err := v.second(ctx, a.token, c)
		switch {
		case err != nil:
			v.skipped.Inc()
			return
		case second.Outcome == authz.Failed, second.Outcome == authz.Conditional && v.graph.evaluator.meetsAll(a.at, c):
			v.tolerated.Inc()
			v.verified.Inc()
			return
		case second.Outcome == authz.No:
			v.verified.Inc()
			return
		}
	}
	v.verified.Inc()
	v.differences.Inc()
	for _, c := range checks {
		v.distrust(permissionName{c.Resource.ObjectType, c.Resource.Relation})
	}
	v.log.Error("a lookup by the evaluator left out an object or a subject for which SpiceDB answers this check with yes; "+
		"from now on lookups of the permission check all objects and subjects",
		zap.Stringer("check", checks[0]), zap.String("revision", a.at.String()))
}

// distrust makes the stricter answer hold for a permission.
func (v *verifier) distrust(p permissionName) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.distrusted[p] = true
}

// distrustPermission makes the stricter answer hold for a check's permission from now on.
func (v *verifier) distrustPermission(a answered, i int, second authz.Answer) {
	c := a.checks[i]
	v.distrust(permissionName{c.Resource.ObjectType, c.Resource.Relation})
	v.log.Error("the evaluator and SpiceDB answer differently; the stricter answer holds for this permission from now on",
		zap.Stringer("check", c), zap.String("revision", a.at.String()), zap.Strings("context", slices.Sorted(maps.Keys(c.Context))),
		zap.Stringer("evaluator", a.answers[i].Outcome), zap.Stringer("spicedb", second.Outcome),
		zap.Strings("evaluator misses", a.answers[i].Missing), zap.Strings("spicedb misses", second.Missing),
		// What an error says may have a value of the request's context in it.
		zap.Stringer("evaluator code", status.Code(a.answers[i].Err)), zap.String("spicedb reason", reasonOf(second.Err)))
}

// stricter asks SpiceDB too where a permission is distrusted, and replaces answers by stricter ones.
func (v *verifier) stricter(ctx context.Context, token authz.Revision, checks []evaluate.Check, answers []evaluate.Answer) {
	v.mu.RLock()
	var doubtful []int
	if len(v.distrusted) > 0 {
		for i, c := range checks {
			if v.distrusted[permissionName{c.Resource.ObjectType, c.Resource.Relation}] {
				doubtful = append(doubtful, i)
			}
		}
	}
	v.mu.RUnlock()
	for _, i := range doubtful {
		second, err := v.second(ctx, token, checks[i])
		if err != nil {
			answers[i] = evaluate.Answer{Outcome: authz.Failed, Err: err}
			continue
		}
		if answers[i].Outcome.Stricter(second.Outcome) != answers[i].Outcome {
			answers[i] = evaluate.Answer{Outcome: second.Outcome, Missing: second.Missing, Err: second.Err}
		}
	}
}

func reasonOf(err error) string {
	if known, ok := errors.AsType[*authz.Error](err); ok {
		return known.Reason
	}
	return ""
}

// meetsAll reports whether an arrow with .all may be on the way of a check.
func (e *Evaluator) meetsAll(at store.Revision, c evaluate.Check) bool {
	snap, err := e.At(at)
	if err != nil {
		return false
	}
	defer snap.Close()
	return snap.program.MeetsAll(c.Resource.ObjectType, c.Resource.Relation)
}
