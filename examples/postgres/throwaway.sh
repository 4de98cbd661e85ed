#!/usr/bin/env bash
# A PostgreSQL that is gone afterwards, for one command:
#
#   examples/postgres/throwaway.sh COMMAND [ARGUMENT…]
#
# The command finds an empty database at $DEPUTY_DATASTORE_CONN_URI, and its exit code is the script's. The server is made of the programs that are installed
# (Debian: apt-get install postgresql); nothing that already runs is touched. It listens on a Unix socket in a new directory, and nothing that it writes is
# synced: it is for looking at, not for keeping.
set -euo pipefail
[ $# -gt 0 ] || { echo "usage: $0 COMMAND [ARGUMENT…]" >&2; exit 2; }

# Debian puts the server's programs where PATH does not lead. The newest version is the one that is used.
bin=
for initdb in $(command -v initdb || true) $(printf '%s\n' /usr/lib/postgresql/*/bin/initdb | sort -V -r); do
	[ -x "$initdb" ] || continue
	folder=$(dirname "$(readlink -f "$initdb")")
	[ -x "$folder/postgres" ] || continue
	bin=$folder
	break
done
if [ -z "$bin" ]; then
	echo "There is no PostgreSQL server on this machine: neither initdb and postgres on PATH nor in /usr/lib/postgresql/*/bin." >&2
	echo "Install one (on Debian and Ubuntu: apt-get install postgresql), and run this again." >&2
	exit 2
fi

dir=$(mktemp -d)
server=
finish() {
	code=$?
	if [ -n "$server" ]; then
		kill -INT "$server" 2>/dev/null || true
		wait "$server" 2>/dev/null || true
	fi
	rm -rf "$dir"
	exit $code
}
trap finish EXIT
trap 'exit 130' INT TERM

# PostgreSQL refuses to run as root. Then it runs as the user that Debian's package made, or as nobody.
as=()
if [ "$(id -u)" = 0 ]; then
	user=postgres
	id "$user" >/dev/null 2>&1 || user=nobody
	chown "$user" "$dir"
	as=(setpriv --reuid="$user" --regid="$(id -g "$user")" --clear-groups --)
fi
cd "$dir"
if ! "${as[@]}" "$bin/initdb" --pgdata="$dir/data" --username=postgres --auth=trust --encoding=UTF8 --locale=C --no-sync --no-instructions \
	>"$dir/log" 2>&1; then
	cat "$dir/log" >&2
	exit 2
fi
"${as[@]}" "$bin/postgres" -D "$dir/data" -k "$dir" -c listen_addresses= -c max_connections=200 -c track_commit_timestamp=on \
	-c fsync=off -c full_page_writes=off >"$dir/log" 2>&1 &
server=$!
until "$bin/pg_isready" --quiet --host="$dir"; do
	if ! kill -0 "$server" 2>/dev/null; then
		cat "$dir/log" >&2
		exit 2
	fi
	sleep 0.1
done
"$bin/createdb" --host="$dir" --username=postgres deputy
export DEPUTY_DATASTORE_CONN_URI="postgres://postgres@/deputy?host=$dir"
cd "$OLDPWD"
"$@"
