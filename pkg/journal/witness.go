package journal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/journal/tree"
)

// WitnessConfig is a witness, which signs that it saw a checkpoint, and refuses one that does not go on from what it saw: C2SP tlog-witness.
type WitnessConfig struct {
	// URL is where it answers; add-checkpoint is appended.
	URL string
	// Key verifies its signatures, in the notation of C2SP signed-note: an Ed25519 cosignature key.
	Key string
}

// Check refuses a witness that cannot be asked. It asks nothing.
func (c WitnessConfig) Check() error {
	if _, err := tree.ParseWitnessKey(c.Key); err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	if !strings.HasPrefix(c.URL, "http://") && !strings.HasPrefix(c.URL, "https://") {
		return fmt.Errorf("journal: the URL of the witness, %q, begins with neither https:// nor http://", c.URL)
	}
	return nil
}

// Witnessing says how far a witness is.
type Witnessing struct {
	// Records is how many records the newest checkpoint is over that it signed, and At when it did, by its clock.
	Records uint64
	At      time.Time
	// Err is why it did not sign the one that it was sent last; nil if it did.
	Err error
	// Contradicts says that it knows a log of the journal's name that the journal does not go on from: records were removed or changed.
	Contradicts bool
}

const (
	// witnessTimeout bounds one call of a witness.
	witnessTimeout = 10 * time.Second
	// lastWitness bounds the call when the journal is closed.
	lastWitness = 3 * time.Second
	// maxWitnessPause bounds how long it is left alone after it failed.
	maxWitnessPause = time.Minute
	// maxWitnessAnswer bounds what is read of an answer, in bytes.
	maxWitnessAnswer = 1 << 14
)

// errContradicts says that a witness saw another log than this one.
var errContradicts = errors.New("the witness saw a log of this name that this journal does not go on from: records were removed or changed since")

// witness sends a sealer's checkpoints to a witness, one at a time, the newest.
type witness struct {
	sealer *sealer
	url    string
	key    string
	client *http.Client

	woken, done chan struct{}
	// ctx ends when the witness is closed.
	ctx    context.Context //nolint:containedctx // of its goroutine
	cancel context.CancelFunc

	mu    sync.Mutex
	state Witnessing
}

// openWitness returns the witness of a configuration. Errors: the configuration is wrong.
func openWitness(s *sealer, cfg WitnessConfig) (*witness, error) {
	if err := cfg.Check(); err != nil {
		return nil, err
	}
	w := &witness{
		sealer: s, url: strings.TrimSuffix(cfg.URL, "/") + "/add-checkpoint", key: cfg.Key,
		client: &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
		woken:  make(chan struct{}, 1), done: make(chan struct{}),
	}
	w.ctx, w.cancel = context.WithCancel(context.Background())
	// A file that is another witness's, or wrong, is not read on: the witness says by itself what it saw.
	if text, err := tree.ReadFile(s.fs, s.fs.PathJoin(s.dir, witnessedFile), tree.MaxCheckpoint); err == nil {
		w.resume(text)
	}
	return w, nil
}

// resume goes on from what the witness signed before.
func (w *witness) resume(text []byte) {
	_, lines, _ := strings.Cut(string(text), "\n\n")
	_, signed, err := tree.VerifyCosignature(text, lines, w.key)
	if err != nil {
		return
	}
	if size, err := strconv.ParseUint(strings.Split(string(text), "\n")[1], 10, 64); err == nil {
		w.state = Witnessing{Records: size, At: time.Unix(int64(signed), 0)} //nolint:gosec // seconds
	}
}

// wake has the newest checkpoint sent.
func (w *witness) wake() {
	select {
	case w.woken <- struct{}{}:
	default:
	}
}

// run sends checkpoints until the witness is closed.
func (w *witness) run() {
	defer close(w.done)
	pause := time.Duration(0)
	for {
		select {
		case <-w.ctx.Done():
			return
		case <-w.woken:
		}
		for w.send(w.ctx, witnessTimeout) != nil {
			pause = min(max(2*pause, time.Second), maxWitnessPause)
			timer := time.NewTimer(pause)
			select {
			case <-w.ctx.Done():
				timer.Stop()
				return
			case <-timer.C:
			}
		}
		pause = 0
	}
}

// close sends the last checkpoint, and stops.
func (w *witness) close() {
	w.cancel()
	<-w.done
	if w.sealer.sealing().Records > w.witnessing().Records {
		_ = w.send(context.Background(), lastWitness) // it is logged, and the next start sends it again
	}
}

// witnessing is how far it is.
func (w *witness) witnessing() Witnessing {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.state
}

// send sends the newest checkpoint, and keeps it with the witness's signature.
func (w *witness) send(ctx context.Context, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	checkpoint, size := w.sealer.newest()
	var signed uint64
	err := authz.Safely("journal.witness", func() (err error) {
		var line string
		if line, signed, err = w.cosign(ctx, checkpoint, size); err != nil {
			return err
		}
		return w.sealer.write(witnessedFile, append(bytes.Clone(checkpoint), line...))
	})
	w.mu.Lock()
	before := w.state
	if w.state.Err = err; err == nil {
		w.state = Witnessing{Records: size, At: time.Unix(int64(signed), 0)}
	}
	if errors.Is(err, errContradicts) {
		w.state.Contradicts = true
	}
	contradicts := w.state.Contradicts
	w.mu.Unlock()
	switch {
	case contradicts && !before.Contradicts:
		w.sealer.log.Error("the journal's witness contradicts it", zap.String("origin", w.sealer.origin), zap.Uint64("size", size), zap.Error(err))
	case err != nil && before.Err == nil:
		w.sealer.log.Warn("the journal's witness did not sign", zap.Uint64("size", size), zap.Error(err))
	case err == nil && before.Err != nil:
		w.sealer.log.Info("the journal's witness signs again", zap.Uint64("size", size))
	}
	return err
}

// newest is the newest checkpoint, and how many records it is over.
func (s *sealer) newest() (checkpoint []byte, size uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state.Checkpoint, s.state.Records
}

// cosign has the witness sign a checkpoint, and verifies its signature. Errors: errContradicts, and those of the call.
func (w *witness) cosign(ctx context.Context, checkpoint []byte, size uint64) (line string, signed uint64, err error) {
	older := w.witnessing().Records
	for range 2 {
		proof, err := w.sealer.tree.ProveConsistency(size, older)
		if err != nil {
			return "", 0, fmt.Errorf("cannot prove that the journal goes on from the %d records that the witness saw: %w", older, err)
		}
		body := fmt.Appendf(nil, "old %d\n", older)
		for _, h := range proof {
			body = append(body, h.String()+"\n"...)
		}
		code, answer, err := w.post(ctx, append(append(body, '\n'), checkpoint...))
		switch {
		case err != nil:
			return "", 0, err
		case code == http.StatusOK:
			return tree.VerifyCosignature(checkpoint, answer, w.key) //nolint:wrapcheck // it says what is wrong with the signature
		case code == http.StatusUnprocessableEntity:
			return "", 0, errContradicts
		case code != http.StatusConflict:
			return "", 0, fmt.Errorf("the witness answered %d %s", code, http.StatusText(code))
		}
		saw, err := strconv.ParseUint(strings.TrimSuffix(answer, "\n"), 10, 63)
		if err != nil {
			return "", 0, errors.New("the witness answered 409 and not what it saw last")
		}
		if saw > size {
			return "", 0, fmt.Errorf("%w: it saw %d records, and the journal has %d", errContradicts, saw, size)
		}
		older = saw
	}
	return "", 0, errors.New("the witness says that it saw another checkpoint each time it is asked")
}

// post sends a request to the witness.
func (w *witness) post(ctx context.Context, body []byte) (code int, answer string, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, w.url, bytes.NewReader(body))
	if err != nil {
		return 0, "", fmt.Errorf("cannot ask the witness: %w", err)
	}
	response, err := w.client.Do(request)
	if err != nil {
		return 0, "", fmt.Errorf("cannot ask the witness: %w", err)
	}
	b, err := io.ReadAll(io.LimitReader(response.Body, maxWitnessAnswer))
	if err = errors.Join(err, response.Body.Close()); err != nil {
		return 0, "", fmt.Errorf("cannot read the witness's answer: %w", err)
	}
	return response.StatusCode, string(b), nil
}
