package engine

import (
	"context"
	"runtime"
	"testing"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
)

// What a stream leaves behind until SpiceDB's timer lets go of it is little.
func TestStreamsLeaveLittle(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: much work of one goroutine")
	}
	e := openOver(t, Config{Kind: Memory}, memory(t, nil), usual, "doc:0#editor@person:ann")
	read := func() {
		stream, err := v1.NewPermissionsServiceClient(e.Conn()).ReadRelationships(t.Context(), &v1.ReadRelationshipsRequest{
			Consistency: atHead, RelationshipFilter: &v1.RelationshipFilter{ResourceType: "doc"},
		})
		if err := toTheEnd(stream, err); err != nil {
			t.Fatal(err)
		}
	}
	inUse := func() int64 {
		runtime.GC()
		runtime.GC() // what finalizers and pools held is gone after the second
		var stats runtime.MemStats
		runtime.ReadMemStats(&stats)
		return int64(stats.HeapAlloc)
	}
	for range 200 {
		read()
	}
	const calls = 3000
	before := inUse()
	for range calls {
		read()
	}
	if each := (inUse() - before) / calls; each > 1200 {
		t.Errorf("a call leaves %d bytes behind", each)
	} else {
		t.Logf("a call leaves %d bytes behind", each)
	}
}

// A context that lapsed has ended, tells the data layer, and knows nothing else of the call.
func TestLapsedContext(t *testing.T) {
	type key struct{}
	g := newGate(&usual, nil)
	call, end := context.WithCancel(context.WithValue(t.Context(), key{}, "secret"))
	defer end()
	l := &lapsing{}
	l.current.Store(&stillOpen{call})
	child, cancel := context.WithCancel(l)
	defer cancel()
	if l.Err() != nil || l.Value(key{}) != "secret" || child.Err() != nil {
		t.Fatal("a context that has not lapsed is not the call's")
	}
	l.current.Store(&stillOpen{g.over(call)})
	if l.Err() == nil || l.Value(key{}) != nil {
		t.Error("a lapsed context has not ended, or knows the call")
	}
	end()
	<-child.Done()
}
