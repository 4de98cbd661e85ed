package main

import (
	"context"
	"fmt"
	"sync"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// ticket is one request of a customer.
type ticket struct {
	ID      int      `json:"id"`
	Queue   string   `json:"queue"`
	Title   string   `json:"title"`
	Closed  bool     `json:"closed"`
	Replies []string `json:"replies"`
}

// desk has the tickets, in memory.
type desk struct {
	mu      sync.Mutex
	tickets []*ticket
}

// newServer returns the server, with a few tickets.
func newServer() *mcp.Server {
	d := &desk{tickets: []*ticket{
		{ID: 1041, Queue: "billing", Title: "Charged twice", Replies: []string{}},
		{ID: 1042, Queue: "billing", Title: "Invoice without VAT", Replies: []string{}},
		{ID: 2001, Queue: "legal", Title: "Claim of a former employee", Replies: []string{}},
	}}
	server := mcp.NewServer(&mcp.Implementation{Name: "tickets", Version: "1"}, nil)
	mcp.AddTool(server, &mcp.Tool{Name: "get_ticket", Description: "Read one ticket"}, d.get)
	mcp.AddTool(server, &mcp.Tool{Name: "list_tickets", Description: "List tickets, of all queues or of one"}, d.list)
	mcp.AddTool(server, &mcp.Tool{Name: "reply_ticket", Description: "Answer a ticket"}, d.reply)
	mcp.AddTool(server, &mcp.Tool{Name: "close_tickets", Description: "Close several tickets at once"}, d.closeAll)
	mcp.AddTool(server, &mcp.Tool{Name: "delete_ticket", Description: "Delete a ticket for good"}, d.remove)
	return server
}

type idArgument struct {
	ID int `json:"id"`
}

type idsArgument struct {
	IDs []int `json:"ids"`
}

type replyArgument struct {
	ID   int    `json:"id"`
	Text string `json:"text"`
}

type queueArgument struct {
	Queue string `json:"queue,omitempty"`
}

type ticketList struct {
	Tickets []ticket `json:"tickets"`
}

// find returns a ticket, with the lock held.
func (d *desk) find(id int) (*ticket, error) {
	for _, t := range d.tickets {
		if t.ID == id {
			return t, nil
		}
	}
	return nil, fmt.Errorf("there is no ticket %d", id)
}

func (d *desk) get(_ context.Context, _ *mcp.CallToolRequest, a idArgument) (*mcp.CallToolResult, ticket, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	t, err := d.find(a.ID)
	if err != nil {
		return nil, ticket{}, err
	}
	return nil, *t, nil
}

func (d *desk) list(_ context.Context, _ *mcp.CallToolRequest, a queueArgument) (*mcp.CallToolResult, ticketList, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := ticketList{Tickets: []ticket{}}
	for _, t := range d.tickets {
		if a.Queue == "" || a.Queue == t.Queue {
			all.Tickets = append(all.Tickets, *t)
		}
	}
	return nil, all, nil
}

func (d *desk) reply(_ context.Context, _ *mcp.CallToolRequest, a replyArgument) (*mcp.CallToolResult, ticket, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	t, err := d.find(a.ID)
	if err != nil {
		return nil, ticket{}, err
	}
	t.Replies = append(t.Replies, a.Text)
	return nil, *t, nil
}

func (d *desk) closeAll(_ context.Context, _ *mcp.CallToolRequest, a idsArgument) (*mcp.CallToolResult, ticketList, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	closed := ticketList{Tickets: []ticket{}}
	for _, id := range a.IDs {
		t, err := d.find(id)
		if err != nil {
			return nil, ticketList{}, err
		}
		t.Closed = true
		closed.Tickets = append(closed.Tickets, *t)
	}
	return nil, closed, nil
}

func (d *desk) remove(_ context.Context, _ *mcp.CallToolRequest, a idArgument) (*mcp.CallToolResult, ticketList, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	left := ticketList{Tickets: []ticket{}}
	kept := d.tickets[:0:0]
	for _, t := range d.tickets {
		if t.ID != a.ID {
			kept = append(kept, t)
			left.Tickets = append(left.Tickets, *t)
		}
	}
	d.tickets = kept
	return nil, left, nil
}
