package mcp

import (
	"fmt"
	"strings"
	"sync"

	"github.com/deputyauth/deputy/pkg/door/mcp/jsonrpc"
)

// maxSubscribed is how many resources an agent can be subscribed to.
const maxSubscribed = 1000

// subscribed are the resources that an agent is subscribed to, each with how often. What a server tells of others comes to no decision, because it would
// be the server that decides how many there are. The zero value has none. It is safe for concurrent use.
type subscribed struct {
	mu sync.Mutex
	// uris are those of resources/subscribe and of subscriptions/listen, of which the last can be there several times.
	uris map[string]int
	// once are those of resources/subscribe.
	once map[string]bool
}

// begin is add for one resource, whose subscription is there once, however often it is begun. fresh says that it was not there.
func (s *subscribed) begin(uri string) (fresh bool, err error) {
	s.mu.Lock()
	there := s.once[uri]
	s.mu.Unlock()
	if there {
		return false, nil
	}
	if err := s.add(uri); err != nil {
		return false, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.once == nil {
		s.once = map[string]bool{}
	}
	s.once[uri] = true
	return true, nil
}

// end ends what begin began, if it did.
func (s *subscribed) end(uri string) {
	s.mu.Lock()
	there := s.once[uri]
	delete(s.once, uri)
	s.mu.Unlock()
	if there {
		s.remove(uri)
	}
}

// add notes subscriptions: all of them, or with an error none.
func (s *subscribed) add(uris ...string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	fresh := map[string]bool{}
	for _, uri := range uris {
		if s.uris[uri] == 0 {
			fresh[uri] = true
		}
	}
	if len(s.uris)+len(fresh) > maxSubscribed {
		return &failure{jsonrpc.CodeInvalidRequest, fmt.Sprintf("An agent can be subscribed to %d resources. End a subscription first.", maxSubscribed)}
	}
	if s.uris == nil {
		s.uris = map[string]int{}
	}
	for _, uri := range uris {
		s.uris[uri]++
	}
	return nil
}

// remove notes that subscriptions have ended.
func (s *subscribed) remove(uris ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, uri := range uris {
		if s.uris[uri] > 1 {
			s.uris[uri]--
		} else {
			delete(s.uris, uri)
		}
	}
}

// has reports whether the agent is subscribed to a resource, or to one that it is a part of: a server may tell of parts, too.
func (s *subscribed) has(uri string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.uris[uri] > 0 {
		return true
	}
	for of := range s.uris {
		if strings.HasPrefix(uri, strings.TrimSuffix(of, "/")+"/") {
			return true
		}
	}
	return false
}
