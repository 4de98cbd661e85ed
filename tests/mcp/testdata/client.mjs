// A client of MCP's TypeScript SDK. It reads from its standard input what to do, as JSON, and prints what comes of it, as one line of JSON:
//
//   sdk      the folder of the SDK: @modelcontextprotocol/sdk (version 1) or @modelcontextprotocol/client (version 2)
//   wire     the version of the protocol that it has to speak
//   url      the server, with headers; or command, to start it
//   calls    tools to call, with name and arguments
import { readFileSync } from 'node:fs';
import { pathToFileURL } from 'node:url';

const todo = JSON.parse(readFileSync(0, 'utf8'));
const load = path => import(pathToFileURL(`${todo.sdk}/${path}`));
const second = todo.sdk.endsWith('/client');
const { Client } = await load(second ? 'dist/index.mjs' : 'dist/esm/client/index.js');
const info = { name: 'typescript', version: '1' };
const options = second && todo.wire === '2026-07-28' ? { versionNegotiation: { mode: { pin: todo.wire } } } : {};
const client = new Client(info, options);
let transport;
if (todo.url) {
	const { StreamableHTTPClientTransport } = await load(second ? 'dist/index.mjs' : 'dist/esm/client/streamableHttp.js');
	transport = new StreamableHTTPClientTransport(new URL(todo.url), { requestInit: { headers: todo.headers } });
} else {
	const { StdioClientTransport } = await load(second ? 'dist/stdio.mjs' : 'dist/esm/client/stdio.js');
	transport = new StdioClientTransport({ command: todo.command[0], args: todo.command.slice(1) });
}

const said = { tools: [], calls: [] };
if (!second) { // which keeps the version to itself
	const tell = transport.setProtocolVersion?.bind(transport);
	transport.setProtocolVersion = version => {
		said.wire = version;
		tell?.(version);
	};
}
try {
	await client.connect(transport);
	if (second) {
		said.wire = client.getNegotiatedProtocolVersion();
	}
	said.tools = (await client.listTools()).tools.map(tool => tool.name);
	for (const call of todo.calls) {
		try {
			const result = await client.callTool(call);
			said.calls.push((result.isError ? 'isError: ' : '') + result.content.map(block => block.text).join('\n'));
		} catch (error) {
			said.calls.push(`error: ${error.message}`);
		}
	}
	await client.close();
} catch (error) {
	said.error = `${error.name}: ${error.message}`;
}
console.log(JSON.stringify(said));
process.exit(0);
