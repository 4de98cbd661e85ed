package mcp_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	authzed "github.com/authzed/authzed-go/proto/authzed/api/v1"
	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
	"google.golang.org/grpc"

	"github.com/deputyauth/deputy/pkg/client"
	"github.com/deputyauth/deputy/pkg/door/mcp"
	"github.com/deputyauth/deputy/tests/harness"
)

// bulks does something before each bulk check that a client asks for, which may fail it.
type bulks struct {
	mu     sync.Mutex
	n      int
	before func(n int) error
}

func (b *bulks) intercept(ctx context.Context, method string, request, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, options ...grpc.CallOption) error {
	if !strings.HasSuffix(method, "/CheckBulkPermissions") {
		return invoke(ctx, method, request, reply, conn, options...)
	}
	b.mu.Lock()
	b.n++
	err := b.before(b.n)
	b.mu.Unlock()
	if err != nil {
		return err
	}
	return invoke(ctx, method, request, reply, conn, options...)
}

// does has something done before each bulk check from now on, of which the next is number 1.
func (b *bulks) does(before func(n int) error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.n, b.before = 0, before
}

func (b *bulks) count() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.n
}

// TestLongLists: a list whose tools need more questions than Deputy takes at once is decided at one revision all the same, and not at all where one of its
// parts is not.
func TestLongLists(t *testing.T) {
	t.Parallel()
	const many = 600
	var file strings.Builder
	file.WriteString("version: 1\nserver: files\ntool: {type: mcp_tool, permission: call}\ntools:\n")
	server := sdk.NewServer(&sdk.Implementation{Name: "files", Version: "1"}, &sdk.ServerOptions{PageSize: many})
	var grants []string
	for i := range many {
		name := fmt.Sprintf("t%03d", i)
		sdk.AddTool(server, &sdk.Tool{Name: name}, func(context.Context, *sdk.CallToolRequest, struct{}) (*sdk.CallToolResult, any, error) {
			return &sdk.CallToolResult{}, nil, nil
		})
		fmt.Fprintf(&file, "  %s: {checks: [{permission: read, type: file, object: f%d}]}\n", name, i)
		switch i {
		case 0, 1, many - 2, many - 1:
			grants = append(grants, "mcp_tool:files/"+name+"#caller for alice", fmt.Sprintf("file:f%d#reader for alice", i))
		case 2:
			grants = append(grants, "mcp_tool:files/"+name+"#caller for alice")
		case 3:
			grants = append(grants, fmt.Sprintf("file:f%d#reader for alice", i))
		}
	}
	w := open(t, grants...)
	between := &bulks{before: func(int) error { return nil }}
	c, err := client.Dial(w.addr, client.WithInsecure(), client.WithPresharedKey(harness.ServiceKey), client.WithoutRetries(),
		client.WithDialOptions(grpc.WithChainUnaryInterceptor(between.intercept)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	g := through(t, server, mcp.Config{Map: decode(t, file.String()), Pins: pinned(t, server), Ask: mcp.AskerOf(c, w.alice)}, newClient(nil),
		&sdk.ClientSessionOptions{ProtocolVersion: "2025-11-25"})
	lists := func(want string) {
		t.Helper()
		if got := g.tools(t); got != want {
			t.Errorf("the agent sees %.200s, want %s", got, want)
		}
	}
	lists("t000 t001 t598 t599")
	if n := between.count(); n != 2 {
		t.Errorf("%d questions are asked in %d parts", 2*many, n)
	}

	// What is taken away between the parts was there at the revision of the first.
	last := "file:f599#reader@user:alice"
	between.does(func(n int) error {
		if n == 2 {
			w.update(t, authzed.RelationshipUpdate_OPERATION_DELETE, last)
		}
		return nil
	})
	lists("t000 t001 t598 t599")
	between.does(func(int) error { return nil })
	lists("t000 t001 t598")
	// What is given between them was not.
	between.does(func(n int) error {
		if n == 2 {
			w.update(t, authzed.RelationshipUpdate_OPERATION_TOUCH, last)
		}
		return nil
	})
	lists("t000 t001 t598")
	for part := 1; part <= 2; part++ {
		between.does(func(n int) error {
			if n == part {
				return errors.New("lost")
			}
			return nil
		})
		if got := g.tools(t); !strings.HasPrefix(got, "error: ") {
			t.Errorf("without an answer to part %d the agent sees %s", part, got)
		}
	}
	// Of an agent that is stopped between them, what was decided before is seen, and nothing else.
	between.does(func(n int) error {
		if n == 2 {
			_, err := w.admin.SuspendAgent(context.Background(), "bot")
			return err
		}
		return nil
	})
	lists("t000 t001")
	between.does(func(int) error { return nil })
	lists("")
}
