package daemon

import (
	"context"
	"crypto/sha256"
	"errors"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/caller"
	"github.com/deputyauth/deputy/pkg/caller/actor"
	"github.com/deputyauth/deputy/pkg/caller/file"
	"github.com/deputyauth/deputy/pkg/caller/person"
	"github.com/deputyauth/deputy/pkg/caller/token"
)

// HealthCallers is the name under which grpc.health.v1 says whether the file of callers is in force as it stands: NOT_SERVING while it is
// wrong, or gone. The server itself goes on, with the callers that were in force before.
const HealthCallers = "deputy.callers"

// callersEvery is how often the file of callers is read. Its content alone says whether it changed: Kubernetes swaps a symbolic link to its
// folder, and copies keep times. A file of the greatest size takes some milliseconds.
const callersEvery = 2 * time.Second

// callers are the callers in force, and the file that some of them stand in. It is safe for concurrent use.
type callers struct {
	caller.Callers

	cfg    Config
	log    *zap.Logger
	health *openHealth

	reloads *prometheus.CounterVec
	// inForce is 1 where the file is in force as it stands, and since when the callers are that are in force.
	inForce, since prometheus.Gauge

	// reloading keeps one reload at a time. It is held for as long as files take, so the end of the server does not wait for it: see life. It
	// guards the issuers in force, and of the file that was tried last its state, and why it is not in force.
	reloading sync.Mutex
	issuers   []token.Issuer
	state     string
	outcome   error
	// life ends with the server.
	life context.Context //nolint:containedctx // its own life, not a call's
	end  context.CancelFunc
	// mu guards what verifies tokens, which only a reload replaces, and is never held for long.
	mu     sync.Mutex
	tokens *token.Verifier
	closed bool
}

// openCallers puts the callers in force that the configuration names. Errors that are about the file are *file.Problem. ctx bounds the opening
// only.
func (c Config) openCallers(ctx context.Context, log *zap.Logger, health *openHealth) (*callers, error) {
	all := &callers{
		cfg: c, log: log, health: health,
		reloads: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "deputy_callers_reloads_total",
			Help: "How often the file of callers was found changed: in force (success), or refused (failure), where the callers before stay in force.",
		}, []string{"result"}),
		inForce: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "deputy_callers_file_in_force", Help: "1 where the file of callers is in force as it stands, 0 where it is wrong or gone.",
		}),
		since: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "deputy_callers_in_force_since_timestamp_seconds", Help: "When the callers that are in force were read from their file.",
		}),
	}
	all.life, all.end = context.WithCancel(context.WithoutCancel(ctx))
	for _, result := range []string{"success", "failure"} {
		all.reloads.WithLabelValues(result)
	}
	told, err := c.readCallers()
	if err == nil {
		err = all.put(ctx, told)
	}
	if err != nil {
		all.end()
		return nil, err
	}
	all.state = told.state
	all.tell(nil)
	all.warn(told)
	return all, nil
}

// told is what the configuration and its file of callers say.
type told struct {
	callers []*caller.Caller
	issuers []token.Issuer
	// actors say how tokens of the issuers name agents; agents act with a token only, and so do those whose ids begin with prefixes.
	actors   []actor.Issuer
	agents   authz.Names
	prefixes authz.Prefixes
	// people say how tokens of the issuers name people, and how people consent by them.
	people []person.Issuer
	// state is the state of the file: a digest of its text, or why there is none.
	state string
}

// readCallers returns what the configuration says. It fails where nobody could call.
func (c Config) readCallers() (told, error) {
	var text []byte
	state := ""
	if c.CallersPath != "" {
		var err error
		if text, state, err = c.readFile(); err != nil {
			return told{}, err
		}
	}
	is, err := c.tell(text, state)
	if err == nil && len(is.callers) == 0 && !c.NoListener {
		err = &file.Problem{File: c.CallersPath, Message: "has no callers, and no preshared key is set, so nobody could call the server; " +
			"add a caller with: deputy caller add"}
	}
	return is, err
}

// tell returns what the configuration says with a text of its file, if it has one.
func (c Config) tell(text []byte, state string) (told, error) {
	is := told{
		callers: slices.Concat(caller.Preshared(c.PresharedKeys, c.AdminPresharedKeys), c.Callers),
		issuers: c.Issuers, actors: c.Actors, people: c.People, state: state,
	}
	if c.CallersPath == "" {
		return is, nil
	}
	content, err := file.Decode(c.CallersPath, text)
	if err != nil {
		return is, err
	}
	own, err := caller.NewBook(is.callers, nil)
	if err != nil {
		return is, err
	}
	if err := content.Conflict(own); err != nil {
		return is, err
	}
	is.callers, is.issuers = slices.Concat(is.callers, content.Callers), slices.Concat(is.issuers, content.Issuers)
	is.people = slices.Concat(is.people, content.People)
	is.actors, is.agents, is.prefixes = slices.Concat(is.actors, content.Actors), content.Agents, content.Prefixes
	return is, nil
}

// readFile returns the text of the file, and its state: a digest of the text, or why there is none.
func (c Config) readFile() (text []byte, state string, err error) {
	if text, err = file.Read(c.CallersPath); err != nil {
		return nil, err.Error(), err
	}
	sum := sha256.Sum256(text)
	return text, string(sum[:]), nil
}

// put puts callers in force. Where the issuers are the same as before, so is what verifies their tokens, with what it knows.
func (c *callers) put(ctx context.Context, is told) error {
	tokens, was := c.tokens, c.tokens
	var err error
	switch {
	case was == nil:
		tokens, err = token.Open(ctx, is.issuers, token.Options{Now: time.Now, Log: c.log})
	case !reflect.DeepEqual(is.issuers, c.issuers):
		tokens, err = was.Reopen(ctx, is.issuers)
	}
	if err != nil {
		return c.aboutFile(err)
	}
	book, err := is.book(tokens)
	if err != nil {
		if tokens != was {
			tokens.Close()
		}
		return c.aboutFile(err)
	}
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		tokens.Close()
		return context.Canceled
	}
	c.tokens, c.issuers = tokens, is.issuers
	c.Replace(book)
	c.mu.Unlock()
	if was != nil && was != tokens {
		was.Close()
	}
	return nil
}

// book returns the book of what the configuration says.
func (is told) book(tokens *token.Verifier) (*caller.Book, error) {
	book, err := caller.NewBook(is.callers, tokens)
	if err != nil {
		return nil, err
	}
	book.Acting = caller.Acting{Agents: is.agents, Prefixes: is.prefixes}
	if len(is.actors) > 0 {
		if book.Acting.Tokens, err = actor.New(tokens, is.actors); err != nil {
			return nil, err
		}
	}
	if len(is.people) > 0 {
		if book.People, err = person.New(tokens, is.issuers, is.people); err != nil {
			return nil, err
		}
	}
	var templates []actor.Mapped
	for _, one := range is.actors {
		templates = append(templates, one.Templates()...)
	}
	for _, one := range is.people {
		templates = append(templates, one.Templates()...)
	}
	if err := actor.Conflict(templates); err != nil {
		return nil, err
	}
	return book, book.CheckPeople()
}

// aboutFile says that an error is about the file, where there is one.
func (c *callers) aboutFile(err error) error {
	if c.cfg.CallersPath == "" {
		return err
	}
	return &file.Problem{File: c.cfg.CallersPath, Message: err.Error()}
}

// close stops what asks issuers for their keys, whatever a reload waits for.
func (c *callers) close() {
	c.end()
	c.mu.Lock()
	c.closed = true
	tokens := c.tokens
	c.mu.Unlock()
	tokens.Close()
}

// watch reads the file again and again until ctx ends.
func (c *callers) watch(ctx context.Context) {
	if c.cfg.CallersPath == "" {
		return
	}
	tick := time.NewTicker(orDefault(c.cfg.callersEvery, callersEvery))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if err := authz.Safely("daemon.callers", func() error { _ = c.reload(false); return nil }); err != nil {
				c.log.Error("the file of callers cannot be looked at", zap.Error(err))
			}
		}
	}
}

// reload puts the file in force if its state is another than before, or if it is asked to in any case. It returns why the file is not in
// force.
func (c *callers) reload(always bool) error {
	if c.cfg.CallersPath == "" {
		return nil
	}
	c.reloading.Lock()
	defer c.reloading.Unlock()
	text, state, err := c.cfg.readFile()
	if state == c.state && !always {
		return c.outcome
	}
	var is told
	if err == nil {
		is, err = c.cfg.tell(text, state)
	}
	if err == nil {
		err = c.put(c.life, is)
	}
	if c.life.Err() != nil {
		return err // the server ends, and the file is not to blame
	}
	c.state, c.outcome = state, err
	if err != nil {
		c.refuse(err)
		return err
	}
	c.tell(nil)
	c.warn(is)
	c.reloads.WithLabelValues("success").Inc()
	c.log.Info("the file of callers was read again", zap.String("file", c.cfg.CallersPath), zap.Int("callers", len(is.callers)))
	return nil
}

// refuse says that the file is not in force.
func (c *callers) refuse(err error) {
	c.tell(err)
	c.reloads.WithLabelValues("failure").Inc()
	fields := []zap.Field{zap.String("file", c.cfg.CallersPath), zap.String("reason", err.Error())}
	if wrong, ok := errors.AsType[*file.Problem](err); ok {
		fields = []zap.Field{zap.String("file", wrong.File)}
		if wrong.Line > 0 { // else it is about all of the file
			fields = append(fields, zap.Int("line", wrong.Line))
		}
		fields = append(fields, zap.String("reason", wrong.Message))
	}
	c.log.Error("the file of callers is refused; the callers before stay in force", fields...)
}

// warn says which credentials prove nothing, because of how the server's TLS is set.
func (c *callers) warn(is told) {
	for _, one := range is.callers {
		for _, credential := range one.Credentials {
			missing := ""
			switch {
			case credential.SPIFFE == "" && credential.DNS == "":
			case !c.cfg.asksClients():
				missing = "the server asks for no client certificates: set --tls-client-ca, or --spiffe-workload-api"
			case credential.SPIFFE != "" && len(c.cfg.SPIFFETrustDomains) == 0:
				missing = "the server trusts no trust domain: set --spiffe-trust-domain"
			}
			if missing != "" {
				c.log.Warn("a caller's credential proves nothing here, and there may be more", zap.String("caller", one.Name),
					zap.String("credential", credential.ID), zap.String("reason", missing))
				return
			}
		}
	}
}

// tell has health and figures say how the file is.
func (c *callers) tell(err error) {
	if c.cfg.CallersPath == "" {
		return
	}
	if err != nil {
		c.inForce.Set(0)
		c.health.SetServingStatus(HealthCallers, healthv1.HealthCheckResponse_NOT_SERVING)
		return
	}
	c.inForce.Set(1)
	c.since.SetToCurrentTime()
	c.health.SetServingStatus(HealthCallers, healthv1.HealthCheckResponse_SERVING)
}

// collectors are the figures about the file, where there is one.
func (c *callers) collectors() []prometheus.Collector {
	if c.cfg.CallersPath == "" {
		return nil
	}
	return []prometheus.Collector{c.reloads, c.inForce, c.since}
}

// Reload reads again what can change while the server runs, without waiting until that is found to have changed: the file of callers, and
// those of TLS. It returns an error where one of them is refused, and what was in force of it before stays in force.
func (d *Daemon) Reload() error {
	return authz.Safely("daemon.Reload", func() error { return errors.Join(d.callers.reload(true), d.ReloadTLS()) })
}
