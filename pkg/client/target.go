package client

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"google.golang.org/grpc/resolver"
)

// checkTarget refuses what is no address of a server, and reports whether it can only be this machine.
func checkTarget(target string) (local bool, err error) {
	if target == "" {
		return false, errors.New("the target is empty: name the server as host:port, such as deputy.internal:50051")
	}
	scheme, rest, named := strings.Cut(target, ":")
	if named && (strings.EqualFold(scheme, "unix") || strings.EqualFold(scheme, "unix-abstract")) {
		if strings.Trim(rest, "/") == "" {
			return false, errors.New("the target names no Unix socket: write unix:/path/to/socket")
		}
		return true, nil
	}
	address := target
	if strings.Contains(target, "://") {
		// gRPC's own notation, such as "dns:///host:port", names a resolver. Every other URL is one of another protocol, whose path and
		// whose "s" gRPC would silently take for parts of a host's name.
		if resolver.Get(strings.ToLower(scheme)) == nil {
			return false, notURL(target)
		}
		address = target[strings.LastIndexByte(target, '/')+1:]
		if !strings.EqualFold(scheme, "dns") && !strings.EqualFold(scheme, "passthrough") {
			return false, nil // a resolver that the program registered, whose names have a form of their own
		}
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return false, fmt.Errorf("the target %q is not host:port: write the server's port behind its name, such as deputy.internal:50051, "+
			"and an IPv6 address in brackets", target)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return false, fmt.Errorf("the target ends in the port %q, which is none: write a number from 1 to 65535", port)
	}
	if host == "" {
		return false, fmt.Errorf("the target %q names no host: write localhost:%s for a server on this machine", target, port)
	}
	return isLoopback(host), nil
}

// notURL says what to write instead of a URL. It does not repeat what may hold a password.
func notURL(target string) error {
	instead := "deputy.internal:50051"
	if u, err := url.Parse(target); err == nil && u.Hostname() != "" {
		port := u.Port()
		if port == "" {
			port = "50051"
		}
		instead = net.JoinHostPort(u.Hostname(), port)
	}
	return fmt.Errorf("the target is a URL: write %s, and say with an option how the connection is secured; it is TLS unless it stays on "+
		"this machine", instead)
}

// isLoopback reports whether a host can only be this machine. "localhost" counts: RFC 6761 reserves it.
func isLoopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.Unmap().IsLoopback()
}
