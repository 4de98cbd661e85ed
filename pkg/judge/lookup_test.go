package judge

import (
	"fmt"
	"testing"
	"time"

	"github.com/deputyauth/deputy/pkg/authz"
)

// BenchmarkLookup looks up 2,000 documents, of which the agent reaches half for alice.
func BenchmarkLookup(b *testing.B) {
	graph, _ := largeCrowd(b)
	j := New(graph.Graph, nil, time.Now)
	const documents = 2000
	var rels []authz.Relationship
	for i := range documents {
		document := fmt.Sprintf("document:d%05d", i)
		rels = append(rels, rel(document, "tenant", "tenant:acme"), rel(document, "reader", "user:alice"))
		if i%2 == 0 {
			rels = append(rels, rel(document, "reader", "agent:bot"))
		}
	}
	touch(b, graph, rels...)
	c := authz.Case{
		Agent: "bot", Principal: authz.Principal{Object: authz.Object{Type: authz.TypeUser, ID: "alice"}}, Tenant: "acme",
		Resource: authz.Object{Type: "document"}, Permission: "view",
	}
	b.ReportAllocs()
	for b.Loop() {
		found := 0
		end, err := j.Resources(b.Context(), authz.Unbounded(), c, authz.Freshness{}, Place{}, documents, func(r Reached) error {
			found++
			return r.Err
		})
		if err != nil || end.Next != nil || found != documents/2+1 {
			b.Fatalf("found %d, goes on at %v, %v", found, end.Next, err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/(documents/2+1), "ns/object")
}
