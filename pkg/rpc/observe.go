package rpc

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	grpcprom "github.com/grpc-ecosystem/go-grpc-middleware/providers/prometheus"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/caller"
	"github.com/deputyauth/deputy/pkg/statuses"
)

// Figures counts calls and decisions, for operators. nil counts nothing, at no cost. It is safe for concurrent use.
//
// Its labels are bounded: methods are those that are served, and callers are configured ones, at most maxCallers of them.
type Figures struct {
	methods   *grpcprom.ServerMetrics
	inFlight  prometheus.Gauge
	calls     *prometheus.CounterVec
	refusals  *prometheus.CounterVec
	decisions [authz.ConditionalPermission + 1]prometheus.Counter
	refused   map[authz.Gate]prometheus.Counter
	failed    prometheus.Counter
	answers   *prometheus.CounterVec
	// disagreements counts decisions that are judged again and are not as they were recorded.
	disagreements prometheus.Counter
	// watches are the permits that are watched, and renewals counts how often they were decided again.
	watches  prometheus.Gauge
	renewals prometheus.Counter

	// callers has the counters of the names that have a series of their own. The map is replaced, with mu held, and never changed.
	callers atomic.Pointer[map[string]prometheus.Counter]
	mu      sync.Mutex
}

// maxCallers is how many callers have series of their own; the others share one.
const maxCallers = 200

// latencies are the upper bounds of the buckets for the time of a call, in seconds: a decision takes a tenth of a millisecond.
var latencies = []float64{.00005, .0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10}

// NewFigures returns figures that are all 0. They are registered where they are to be seen, once.
func NewFigures() *Figures {
	f := &Figures{
		methods: grpcprom.NewServerMetrics(grpcprom.WithServerHandlingTimeHistogram(grpcprom.WithHistogramBuckets(latencies))),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "deputy_calls_in_flight", Help: "Calls that are under way.",
		}),
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "deputy_calls_total", Help: "Calls that ended, by caller.",
		}, []string{"caller"}),
		refusals: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "deputy_calls_refused_total", Help: "Calls that their caller was refused, by caller and reason.",
		}, []string{"caller", "reason"}),
		answers: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "deputy_decisions_total", Help: "Decisions, by answer and the first gate that refused.",
		}, []string{"answer", "refused_by"}),
		disagreements: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "deputy_decisions_disagreeing_total",
			Help: "Decisions that, judged again at the revision of their record, came to something else, which nothing known explains.",
		}),
		watches: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "deputy_watched_permissions", Help: "Permissions that are watched.",
		}),
		renewals: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "deputy_watched_decisions_total", Help: "Decisions that were made again for a watch. Only those that end one are recorded.",
		}),
		refused: map[authz.Gate]prometheus.Counter{},
	}
	f.callers.Store(&map[string]prometheus.Counter{
		caller.NobodyName: f.calls.WithLabelValues(caller.NobodyName),
		caller.OtherName:  f.calls.WithLabelValues(caller.OtherName),
	})
	// The series of decisions are few and known, so they begin at 0 and are found without a look-up.
	for p := range f.decisions {
		if p := authz.Permissionship(p); p != authz.NoPermission {
			f.decisions[p] = f.answers.WithLabelValues(strings.ToLower(p.String()), "")
		}
	}
	for _, g := range authz.Gates {
		f.refused[g] = f.answers.WithLabelValues(strings.ToLower(authz.NoPermission.String()), g.String())
	}
	f.failed = f.answers.WithLabelValues("error", "")
	return f
}

// Describe is prometheus.Collector's.
func (f *Figures) Describe(ch chan<- *prometheus.Desc) {
	for _, c := range f.all() {
		c.Describe(ch)
	}
}

// Collect is prometheus.Collector's.
func (f *Figures) Collect(ch chan<- prometheus.Metric) {
	collected := make(chan prometheus.Metric)
	go func() {
		defer close(collected)
		_ = authz.Safely("rpc.Figures", func() error {
			for _, c := range f.all() {
				c.Collect(collected)
			}
			return nil
		})
	}()
	for m := range collected {
		// Messages are received by pkg/rpc/wire and not through the interceptors, so what those count of messages is wrong.
		if !strings.Contains(m.Desc().String(), `"grpc_server_msg_`) {
			ch <- m
		}
	}
}

func (f *Figures) all() []prometheus.Collector {
	return []prometheus.Collector{f.methods, f.inFlight, f.calls, f.refusals, f.answers, f.disagreements, f.watches, f.renewals}
}

// chain times calls. It stands before the gate's own, so that it sees the status that the gate answers with.
func (f *Figures) chain() Chain {
	if f == nil {
		return Chain{}
	}
	unary, stream := f.methods.UnaryServerInterceptor(), f.methods.StreamServerInterceptor()
	return Chain{
		Unary: []grpc.UnaryServerInterceptor{unary},
		Stream: []grpc.StreamServerInterceptor{func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
			if caller.MethodOf(info.FullMethod) == nil {
				return handler(srv, ss) // a caller chooses its name
			}
			if !isUnary(info.FullMethod) {
				return stream(srv, ss, info, handler)
			}
			// One of the door's, which are all registered as streams.
			_, err := unary(ss.Context(), nil, &grpc.UnaryServerInfo{Server: srv, FullMethod: info.FullMethod},
				func(context.Context, any) (any, error) { return nil, handler(srv, ss) })
			return err
		}},
	}
}

// isUnary reports whether a method has one request and one answer, by its contract: the door serves those as streams, too.
func isUnary(method string) bool {
	name := protoreflect.FullName(strings.ReplaceAll(strings.TrimPrefix(method, "/"), "/", "."))
	found, err := protoregistry.GlobalFiles.FindDescriptorByName(name)
	m, ok := found.(protoreflect.MethodDescriptor)
	return err == nil && ok && !m.IsStreamingClient() && !m.IsStreamingServer()
}

// watched counts permits that are watched, or are not any more, and renewed what was decided again for them.
func (f *Figures) watched(more int) {
	if f != nil {
		f.watches.Add(float64(more))
	}
}

func (f *Figures) renewed(decided int) {
	if f != nil {
		f.renewals.Add(float64(decided))
	}
}

// disagreed counts a decision that was judged again and is not as it was recorded.
func (f *Figures) disagreed() {
	if f != nil {
		f.disagreements.Inc()
	}
}

// begin counts a call that is under way, until end.
func (f *Figures) begin() {
	if f != nil {
		f.inFlight.Inc()
	}
}

// end counts a call that ended with an error, or with nil.
func (f *Figures) end(by *caller.Caller, err error) {
	if f == nil {
		return
	}
	f.inFlight.Dec()
	name, calls := f.of(by)
	calls.Inc()
	if err == nil {
		return
	}
	st := status.Convert(err)
	if !slices.Contains(refusals, st.Code()) {
		return
	}
	reason := "other"
	if info := statuses.Info(st); info.GetDomain() == authz.ErrorDomain {
		reason = info.GetReason()
	}
	f.refusals.WithLabelValues(name, reason).Inc()
}

// refusals are the codes of calls that were refused because of who made them, or of how much they take.
var refusals = []codes.Code{codes.Unauthenticated, codes.PermissionDenied, codes.ResourceExhausted}

// of returns a caller's label, and the counter of its calls.
func (f *Figures) of(by *caller.Caller) (string, prometheus.Counter) {
	name := by.Label()
	if counter, known := (*f.callers.Load())[name]; known {
		return name, counter
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	all := *f.callers.Load()
	if _, known := all[name]; !known && len(all) >= maxCallers+2 { // besides nobody and the others
		return caller.OtherName, all[caller.OtherName]
	} else if !known {
		all = maps.Clone(all)
		all[name] = f.calls.WithLabelValues(name)
		f.callers.Store(&all)
	}
	return name, all[name]
}

// decided counts an answer to a question, as it was shown to the caller: a decision, or why there is none.
func (f *Figures) decided(d *authz.Decision, err error) {
	switch {
	case f == nil:
	case err != nil:
		f.failed.Inc()
	case d.Permissionship == authz.NoPermission:
		if counter, known := f.refused[d.Gate]; known {
			counter.Inc()
			return
		}
		f.answers.WithLabelValues(strings.ToLower(d.Permissionship.String()), "").Inc()
	default:
		f.decisions[d.Permissionship].Inc()
	}
}
