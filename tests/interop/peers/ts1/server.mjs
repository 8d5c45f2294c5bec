// A server on the TypeScript SDK v1 (see ../../README.md for the contract).
import { Server } from '@modelcontextprotocol/sdk/server/index.js';
import http from 'node:http';
import { SSEServerTransport } from '@modelcontextprotocol/sdk/server/sse.js';
import { StdioServerTransport } from '@modelcontextprotocol/sdk/server/stdio.js';
import { StreamableHTTPServerTransport } from '@modelcontextprotocol/sdk/server/streamableHttp.js';
import * as t from '@modelcontextprotocol/sdk/types.js';
import * as tools from '../ts/tools.mjs';
import { serve } from '../ts/sessions.mjs';

const asked = tools.settings();
const write = tools.ledger(asked.ledger);

function build() {
  const server = new Server({ name: 'ts1', version: `${asked.variant}.0.0` }, { capabilities: tools.CAPABILITIES });
  server.setRequestHandler(t.ListToolsRequestSchema, () => ({ tools: tools.listed(asked.variant) }));
  server.setRequestHandler(t.CallToolRequestSchema, (request, extra) => {
    const token = extra._meta?.progressToken;
    const side = {
      signal: extra.signal,
      progress: async (progress, total) => {
        if (token === undefined) return;
        await extra.sendNotification({ method: 'notifications/progress', params: { progressToken: token, progress, total } });
      },
      log: (data) => extra.sendNotification({ method: 'notifications/message', params: { level: 'warning', logger: 'ts1', data } }),
      sample: async (prompt) => {
        const reply = await extra.sendRequest({ method: 'sampling/createMessage', params: tools.SAMPLING(prompt) }, t.CreateMessageResultSchema);
        return reply.content.text;
      },
      elicit: (message) => extra.sendRequest({ method: 'elicitation/create', params: { mode: 'form', ...tools.FORM(message) } }, t.ElicitResultSchema),
      emit: () => server.sendResourceUpdated({ uri: tools.NOTE }),
    };
    return tools.call(request.params.name, request.params.arguments ?? {}, side, write, asked.variant);
  });
  server.setRequestHandler(t.ListPromptsRequestSchema, () => ({ prompts: tools.PROMPTS }));
  server.setRequestHandler(t.GetPromptRequestSchema, (request) => tools.greeting(request.params.arguments?.who));
  server.setRequestHandler(t.ListResourcesRequestSchema, () => ({ resources: tools.RESOURCES }));
  server.setRequestHandler(t.ListResourceTemplatesRequestSchema, () => ({ resourceTemplates: [] }));
  server.setRequestHandler(t.ReadResourceRequestSchema, (request) => tools.note(request.params.uri));
  server.setRequestHandler(t.SetLevelRequestSchema, (request) => (write({ event: 'set_level', level: request.params.level }), {}));
  server.setRequestHandler(t.SubscribeRequestSchema, (request) => (write({ event: 'subscribe', uri: request.params.uri }), {}));
  server.setRequestHandler(t.UnsubscribeRequestSchema, (request) => (write({ event: 'unsubscribe', uri: request.params.uri }), {}));
  return server;
}

// By the old transport, as the SDK's own examples have it: a stream for each session.
function serveOld(port) {
  const live = new Map();
  const answer = async (req, res) => {
    const { pathname, searchParams } = new URL(req.url, 'http://127.0.0.1');
    if (req.method === 'GET' && pathname === '/sse') {
      const transport = new SSEServerTransport('/messages', res);
      live.set(transport.sessionId, transport);
      res.on('close', () => live.delete(transport.sessionId));
      return build().connect(transport);
    }
    if (req.method !== 'POST' || pathname !== '/messages') return res.writeHead(404).end();
    const transport = live.get(searchParams.get('sessionId'));
    if (!transport) return res.writeHead(400).end('No transport found for sessionId');
    return transport.handlePostMessage(req, res);
  };
  http.createServer((req, res) => void answer(req, res)).listen(port, '127.0.0.1');
}

// As a command that speaks on its own stdin and stdout: a process for each session.
if (process.env.PEER_STDIO) await build().connect(new StdioServerTransport());
else if (process.env.PEER_SSE) serveOld(asked.port);
else serve(asked.port, async (options) => {
  const transport = new StreamableHTTPServerTransport({ ...options, enableJsonResponse: asked.json });
  await build().connect(transport);
  return transport;
}, asked.stateless);
