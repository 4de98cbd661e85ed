package cli

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"

	"google.golang.org/grpc"

	deputy "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// piece is a stream of messages, which ends where they do.
type piece struct {
	grpc.ServerStreamingClient[deputy.LookupAgentsResponse]
	messages []*deputy.LookupAgentsResponse
}

func (p *piece) Recv() (*deputy.LookupAgentsResponse, error) {
	if len(p.messages) == 0 {
		return nil, io.EOF
	}
	m := p.messages[0]
	p.messages = p.messages[1:]
	return m, nil
}

func agentFound(id string) *deputy.LookupAgentsResponse {
	return &deputy.LookupAgentsResponse{Result: &deputy.LookupAgentsResponse_Agent{Agent: &deputy.ReachingAgent{AgentId: id}}}
}

func agentFailed(id string) *deputy.LookupAgentsResponse {
	return &deputy.LookupAgentsResponse{Result: &deputy.LookupAgentsResponse_Failed{Failed: &deputy.FailedAgent{
		AgentId: id, Error: &deputy.ErrorStatus{Message: "a caveat is broken"},
	}}}
}

func lookupEnd(next string) *deputy.LookupAgentsResponse {
	end := &deputy.LookupEnd{Complete: next == ""}
	if next != "" {
		end.Next = &deputy.Cursor{Token: next}
	}
	return &deputy.LookupAgentsResponse{Result: &deputy.LookupAgentsResponse_End{End: end}}
}

// TestALookupInPieces: pieces become one list, of at most as many as were asked for; what cannot be decided is named beside it, and a stream
// that was cut off is an error.
func TestALookupInPieces(t *testing.T) {
	t.Parallel()
	type asked struct {
		piece  uint32
		cursor string
	}
	look := func(output string, limit uint32, pieces ...[]*deputy.LookupAgentsResponse) (out, errs string, all []asked, err error) {
		var written, said bytes.Buffer
		c := &connection{program: &program{Streams: Streams{Out: &written, Err: &said}}, output: output}
		err = lookUp(c, limit, "start", []string{"AGENT"}, func(n uint32, at *deputy.Cursor) (grpc.ServerStreamingClient[deputy.LookupAgentsResponse], error) {
			all = append(all, asked{n, at.GetToken()})
			if len(pieces) == 0 {
				t.Fatal("there are no pieces any more")
			}
			p := &piece{messages: pieces[0]}
			pieces = pieces[1:]
			return p, nil
		}, func(r *deputy.LookupAgentsResponse) []string { return []string{r.GetAgent().GetAgentId()} },
			func(r *deputy.LookupAgentsResponse) (string, *deputy.ErrorStatus) {
				return "agent:" + r.GetFailed().GetAgentId(), r.GetFailed().GetError()
			})
		return written.String(), said.String(), all, err
	}
	type piecesOf = []*deputy.LookupAgentsResponse
	first, second := piecesOf{agentFound("a"), agentFailed("b"), lookupEnd("on")}, piecesOf{agentFound("c"), lookupEnd("further")}

	out, errs, all, err := look("text", 3, first, second)
	if err != nil || out != "AGENT\na\nc\n" || errs != "agent:b cannot be decided, and is not listed: a caveat is broken\nThere is more: --cursor further\n" {
		t.Errorf("got %q and %q, %v", out, errs, err)
	}
	if want := []asked{{3, "start"}, {1, "on"}}; fmt.Sprint(all) != fmt.Sprint(want) {
		t.Errorf("asked %v, want %v", all, want)
	}
	out, errs, all, err = look("text", 0, first, piecesOf{lookupEnd("")})
	if err != nil || out != "AGENT\na\n" || strings.Contains(errs, "more") || all[0].piece != maxLookup || all[1].piece != maxLookup {
		t.Errorf("without a limit: got %q and %q, asked %v, %v", out, errs, all, err)
	}
	out, errs, _, err = look("json", 0, first, piecesOf{lookupEnd("")})
	if lines := strings.Split(strings.TrimSpace(out), "\n"); err != nil || errs != "" || len(lines) != 3 || !strings.Contains(lines[1], "a caveat is broken") ||
		!strings.Contains(strings.ReplaceAll(lines[2], " ", ""), `"results":"1"`) || !strings.Contains(strings.ReplaceAll(lines[2], " ", ""), `"failed":"1"`) {
		t.Errorf("as JSON: got %s and %q, %v", out, errs, err)
	}
	if out, _, _, err = look("text", 0, piecesOf{agentFound("a")}); err == nil || out != "" {
		t.Errorf("a stream that was cut off: got %q, %v", out, err)
	}
}

// TestReadIDs reads as many ids as are filtered at once, whatever the lines end with, and no more.
func TestReadIDs(t *testing.T) {
	t.Parallel()
	if ids, err := readIDs(strings.NewReader("a\r\n\r\nb c\n\nd")); err != nil || fmt.Sprintf("%q", ids) != `["a" "b c" "d"]` {
		t.Errorf("got %q, %v", ids, err)
	}
	if ids, err := readIDs(strings.NewReader(strings.Repeat("a\n", maxFiltered))); err != nil || len(ids) != maxFiltered {
		t.Errorf("%d ids, %v", len(ids), err)
	}
	for name, in := range map[string]string{
		"one more":      strings.Repeat("a\n", maxFiltered+1),
		"none":          "\n\r\n",
		"an endless id": "a\n" + strings.Repeat("x", 1<<20),
	} {
		if ids, err := readIDs(strings.NewReader(in)); err == nil {
			t.Errorf("%s: %d ids", name, len(ids))
		}
	}
}
