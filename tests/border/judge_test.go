//go:build linux

package border

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/net/http2"
	"google.golang.org/grpc/codes"
)

// forbidden are the statuses that no input may lead to.
var forbidden = []codes.Code{codes.Internal, codes.Unknown, codes.DataLoss}

// excuse is a forbidden status that is let pass: gRPC's transport gives it to a stream that breaks its rules before any code
// of a server runs, and offers no way to change that.
type excuse struct {
	message *regexp.Regexp
	why     string
}

var excuses = []excuse{
	{
		regexp.MustCompile(`^(malformed grpc-timeout|malformed binary metadata|no host or :authority header|Received a HEADERS frame with :method)`),
		"headers that break HTTP/2 or gRPC: google.golang.org/grpc/internal/transport ends the stream in operateHeaders",
	},
}

// telling matches what no caller should read.
var telling = regexp.MustCompile(`goroutine \d|\.go:\d|runtime error|nil pointer|0xc0[0-9a-f]{8}|/[a-z]+/pkg/mod/|github\.com/[a-z]+/[a-z]+\.|` +
	`(?i:pebble)|panic:|SIGSEGV|protoimpl|/tmp/`)

// finding is something wrong.
type finding struct {
	// class is what went wrong: death, memory, status, no answer, leak, key, telling, log, afterwards.
	class, method, detail string
	// in is what led to it, nil where it is not known.
	in *input
}

// kind is the same for findings that are one thing, whatever the method, and whatever an error repeats of its input.
func (f finding) kind() string {
	detail := repeated.ReplaceAllString(f.detail, "N")
	if at := quoted.FindStringIndex(detail); at != nil {
		detail = detail[:at[0]]
	}
	return fmt.Sprintf("%s %.75s", f.class, detail)
}

var (
	// repeated is what of a message depends on the input: numbers, tokens, names of fields and messages.
	repeated = regexp.MustCompile(`[0-9]+|[A-Za-z0-9+/=_-]{30,}|field [A-Z][A-Za-z]*|proto: [A-Z][A-Za-z_]*:|[a-z_]+:(false|true)`)
	// quoted is where one begins to repeat it whole.
	quoted = regexp.MustCompile("[`{%]|case in |store: |[^\\x20-\\x7e]")
)

// judge says what is wrong with an answer; excused is why a forbidden status passes.
func judge(in *input, m method, r reply) (wrong []finding, excused string) {
	add := func(class, format string, args ...any) {
		wrong = append(wrong, finding{class, in.method, fmt.Sprintf(format, args...), in})
	}
	code, status := codeOf(r)
	switch {
	case r.cut && (in.end == "hold" || in.end == "reset" || m.IsStreamingServer() || m.IsStreamingClient()):
		// The client left a stream that may take as long as it likes.
	case r.cut && r.got <= maxData:
		add("no answer", "no answer within %s", patience)
	case r.reset != nil && *r.reset == http2.ErrCodeInternal:
		add("status", "the stream was reset with %v", *r.reset)
	case r.broken != nil && !r.goaway && !in.alone:
		add("no answer", "the connection broke: %v", r.broken)
	case r.reset != nil || r.broken != nil:
	case strings.HasPrefix(r.http, "4"):
	case r.http != "200":
		add("status", "HTTP status %q", r.http)
	case !status:
		add("status", "grpc-status is %q", r.code)
	}
	if status && slices.Contains(forbidden, code) {
		for _, e := range excuses {
			if e.message.MatchString(r.message) {
				excused = e.why
			}
		}
		if excused == "" && !strings.HasPrefix(r.http, "4") {
			add("status", "%v: %s", code, r.message)
		} else if excused == "" {
			excused = excuses[0].why
		}
	}
	if mayNothing(in) && !m.open && m.MethodDescriptor != nil && (r.got > 0 || status && code == codes.OK) {
		add("key", "without a valid key %v and %d bytes", code, r.got)
	}
	for _, h := range r.headers {
		if found := telling.FindString(h.value); found != "" && !strings.Contains(sent(in), found) {
			add("telling", "header %s tells %q", h.name, found)
		}
	}
	if found := telling.FindString(r.message); found != "" && !strings.Contains(sent(in), found) {
		add("telling", "the message tells %q: %v: %s", found, code, r.message)
	}
	if found := telling.Find(r.data); found != nil && !m.open && !strings.Contains(sent(in), string(found)) {
		add("telling", "the data tell %q", found)
	}
	return wrong, excused
}

// mayNothing reports whether the input has no valid key, with its headers too.
func mayNothing(in *input) bool {
	return (in.role == "nobody" || in.role == "wrong") && !slices.ContainsFunc(in.headers, func(h header) bool { return h.name == ":path" })
}

// sent is what the input itself has of text: an answer may repeat it.
func sent(in *input) string {
	var b strings.Builder
	for _, h := range in.headers {
		b.WriteString(h.value)
	}
	for _, p := range in.parts {
		for _, c := range p.chunks {
			b.Write(c.bytes)
		}
	}
	return b.String()
}

// codeOf returns the gRPC status, if there is a valid one.
func codeOf(r reply) (codes.Code, bool) {
	n, err := strconv.ParseUint(r.code, 10, 32)
	return codes.Code(n), err == nil && n <= uint64(codes.Unauthenticated)
}

// outcome names an answer in the table.
func outcome(r reply) string {
	if code, ok := codeOf(r); ok {
		return code.String()
	}
	switch {
	case r.cut:
		return "(left)"
	case r.reset != nil:
		return "(reset)"
	case r.broken != nil:
		return "(hung up)"
	default:
		return "(HTTP " + r.http + ")"
	}
}
