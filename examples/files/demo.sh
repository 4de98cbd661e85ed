#!/usr/bin/env bash
# A real MCP file server behind the guard: Alice's agent reads her file, and is refused Bob's. Then the journal's records of that.
#
#   examples/files/demo.sh SERVER [ARGUMENT…]
#
# SERVER is the command of an MCP file server, to which the folder with the files is added. deputy and agent are on the PATH.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
dir=$(mktemp -d)
server=
finish() {
	code=$?
	[ -z "$server" ] || kill "$server" 2>/dev/null || true
	[ $code = 0 ] || cat "$dir"/*.log >&2
	rm -rf "$dir"
}
trap finish EXIT

# The files. A link in Alice's folder leads to Bob's.
mkdir -p "$dir/files/alice" "$dir/files/bob"
echo "Alice's plan: hire two people." >"$dir/files/alice/plan.txt"
echo "Bob's plan: ask for Alice's job." >"$dir/files/bob/plan.txt"
ln -s ../bob/plan.txt "$dir/files/alice/link.txt"
root=$(cd "$dir/files" && pwd -P)
sed "s|/srv/files|$root|g" "$here/guard.yaml" >"$dir/guard.yaml"

# Deputy, with the example's schema and relationships. Alice has let the bot act for her.
: >"$dir/serve.txt" # it is read before the server has begun
deputy serve --dev --addr 127.0.0.1:0 --data-dir "$dir/data" >"$dir/serve.txt" 2>"$dir/serve.log" &
server=$!
until grep -q '^deputy schema read' "$dir/serve.txt"; do
	kill -0 "$server"
	sleep 0.1
done
eval "$(grep '^export ' "$dir/serve.txt")"
(
	deputy schema write "$here/files.zed"
	deputy agent register files-bot --owner carol
	deputy relationship import "$here/relationships.txt"
	deputy principal resume tenant:acme
	deputy principal resume user:alice
	deputy delegation create --agent files-bot --principal user:alice --tenant acme --unscoped --allow-direct --ttl 1h
) >"$dir/setup.log" 2>&1

# The server's tools are approved, and the agent begins.
deputy mcp approve --config "$dir/guard.yaml" -- "$@" "$root" 2>"$dir/approve.log" | tail -n 1 | sed "s| in .*|.|"
agent -calls "$here/calls.txt" -- deputy mcp guard --config "$dir/guard.yaml" --agent files-bot --on-behalf-of user:alice --tenant acme \
	-- "$@" "$root" 2>"$dir/guard.log"

# The journal outlives the server.
kill "$server"
wait "$server" || true
server=
echo
echo "# The records of the journal about the folders, and about the tool that the agent does not see. The newest is the first."
deputy journal query --dir "$dir/data/journal" --key-dir "$dir/data.keys" --agent files-bot | grep -e '^TIME' -e ' folder:' -e /write_file
