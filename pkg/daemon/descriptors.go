package daemon

import "fmt"

// defaultConnections is how many connections may be open at once where the descriptors suffice.
const defaultConnections = 4096

// defaultFiles is how many files the store keeps open where the descriptors suffice.
const defaultFiles = 4096

// minDescriptors is the least with which a server starts.
const minDescriptors = 256

// checkDescriptors refuses more connections than this process may have files open for.
func (c Config) checkDescriptors() error {
	_, _, err := descriptors(maxDescriptors(), c.MaxConnections)
	return err
}

// descriptors says how many of the files that this process may have open (0: no limit is known) are for
// connections and how many the store may keep open. The rest, a quarter up to 512, is for everything else: the store's
// logs and what it is writing, a database's connections, Prometheus. A number of connections that was asked for
// and does not fit is an error; 0 is as many as fit, up to defaultConnections.
func descriptors(limit uint64, asked int) (connections, files int, err error) {
	connections, files = defaultConnections, defaultFiles
	if limit == 0 {
		if asked != 0 {
			connections = asked
		}
		return connections, files, nil
	}
	if limit < minDescriptors {
		return 0, 0, fmt.Errorf("this process may have only %d files open, and needs %d; raise that limit (ulimit -n, LimitNOFILE)", limit, minDescriptors)
	}
	bounded := int(min(limit, 1<<30))
	files = min(files, bounded/4)
	room := bounded - files - min(512, bounded/4)
	if asked > room {
		return 0, 0, fmt.Errorf("of the %d files that this process may have open %d are left for connections, not %d; raise that limit (ulimit -n, "+
			"LimitNOFILE) or lower --max-connections", limit, room, asked)
	}
	if asked != 0 {
		return asked, files, nil
	}
	return min(connections, room), files, nil
}
