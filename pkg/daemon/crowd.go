package daemon

import (
	"container/list"
	"net"
	"net/netip"
)

// crowd is what strangers hold of something scarce, each entry with the peer that it came from. Where there is no
// room for the next one, the peer that holds most gives up its oldest. So a peer that takes all it can get crowds
// out itself and not its neighbours, and where all come from one address, as behind a proxy, the guest
// that was let in last still has the time to show a key.
//
// It is not safe for concurrent use.
type crowd struct {
	peers map[string]*list.List
	size  int
}

// guest is one entry of a crowd.
type guest struct {
	peer string
	// of is whatever the guest stands for.
	of any
	// leave ends what the guest holds. It is called without locks, once at most.
	leave func()
	place *list.Element
}

// add lets a guest in.
func (c *crowd) add(g *guest) {
	if c.peers == nil {
		c.peers = map[string]*list.List{}
	}
	held := c.peers[g.peer]
	if held == nil {
		held = list.New()
		c.peers[g.peer] = held
	}
	g.place = held.PushBack(g)
	c.size++
}

// remove lets a guest go, and reports whether it was there.
func (c *crowd) remove(g *guest) bool {
	held := c.peers[g.peer]
	if g.place == nil || held == nil {
		return false
	}
	held.Remove(g.place)
	g.place = nil
	if held.Len() == 0 {
		delete(c.peers, g.peer)
	}
	c.size--
	return true
}

// oldest takes out the guest that has to give way; nil if there is none.
func (c *crowd) oldest() *guest {
	var most *list.List
	for _, held := range c.peers {
		if most == nil || held.Len() > most.Len() {
			most = held
		}
	}
	if most == nil {
		return nil
	}
	g := most.Front().Value.(*guest) //nolint:forcetypeassert,errcheck // the list has guests only
	c.remove(g)
	return g
}

// peerOf names the peer of an address: its host, or of IPv6 its network of 64 bits, which is what one
// subscriber gets.
func peerOf(addr net.Addr) string {
	if addr == nil {
		return ""
	}
	host, _, err := net.SplitHostPort(addr.String())
	if err != nil {
		return addr.String()
	}
	ip, err := netip.ParseAddr(host)
	if err != nil || ip.Is4() || ip.Is4In6() {
		return host
	}
	network, err := ip.WithZone("").Prefix(64)
	if err != nil {
		return host
	}
	return network.String()
}
