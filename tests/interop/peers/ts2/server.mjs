// A server on the TypeScript SDK v2, with sessions (see ../../README.md for the contract).
import { Server } from '@modelcontextprotocol/server';
import { NodeStreamableHTTPServerTransport } from '@modelcontextprotocol/node';
import * as tools from '../ts/tools.mjs';
import { serve } from '../ts/sessions.mjs';

const asked = tools.settings();
const write = tools.ledger(asked.ledger);

function build() {
  const server = new Server({ name: 'ts2', version: `${asked.variant}.0.0` }, { capabilities: tools.CAPABILITIES });
  server.setRequestHandler('tools/list', () => ({ tools: tools.listed(asked.variant) }));
  server.setRequestHandler('tools/call', (request, ctx) => {
    const token = ctx.mcpReq._meta?.progressToken;
    const side = {
      signal: ctx.mcpReq.signal,
      progress: async (progress, total) => {
        if (token === undefined) return;
        await ctx.mcpReq.notify({ method: 'notifications/progress', params: { progressToken: token, progress, total } });
      },
      log: (data) => ctx.mcpReq.notify({ method: 'notifications/message', params: { level: 'warning', logger: 'ts2', data } }),
      sample: async (prompt) => (await ctx.mcpReq.requestSampling(tools.SAMPLING(prompt))).content.text,
      elicit: (message) => ctx.mcpReq.elicitInput({ mode: 'form', ...tools.FORM(message) }),
      emit: () => server.sendResourceUpdated({ uri: tools.NOTE }),
    };
    return tools.call(request.params.name, request.params.arguments ?? {}, side, write, asked.variant);
  });
  server.setRequestHandler('prompts/list', () => ({ prompts: tools.PROMPTS }));
  server.setRequestHandler('prompts/get', (request) => tools.greeting(request.params.arguments?.who));
  server.setRequestHandler('resources/list', () => ({ resources: tools.RESOURCES }));
  server.setRequestHandler('resources/templates/list', () => ({ resourceTemplates: [] }));
  server.setRequestHandler('resources/read', (request) => tools.note(request.params.uri));
  server.setRequestHandler('logging/setLevel', (request) => (write({ event: 'set_level', level: request.params.level }), {}));
  server.setRequestHandler('resources/subscribe', (request) => (write({ event: 'subscribe', uri: request.params.uri }), {}));
  server.setRequestHandler('resources/unsubscribe', (request) => (write({ event: 'unsubscribe', uri: request.params.uri }), {}));
  return server;
}

serve(asked.port, async (options) => {
  const transport = new NodeStreamableHTTPServerTransport({ ...options, enableJsonResponse: asked.json });
  await build().connect(transport);
  return transport;
}, asked.stateless);
