// A client on the TypeScript SDK v2 (see ../../README.md for the contract).
import { Client, StreamableHTTPClientTransport } from '@modelcontextprotocol/client';
import { StdioClientTransport } from '@modelcontextprotocol/client/stdio';
import { elicited, event, obey, sampled } from '../ts/commands.mjs';

obey(() => {
  const client = new Client({ name: 'interop-ts2', version: '1.0.0' }, { capabilities: { sampling: {}, elicitation: {} } });
  client.setRequestHandler('sampling/createMessage', (request) => sampled(request.params));
  client.setRequestHandler('elicitation/create', (request) => elicited(request.params));
  client.setNotificationHandler('notifications/message', ({ params }) => event('log', params));
  client.setNotificationHandler('notifications/resources/updated', ({ params }) => event('resource_updated', params));
  client.setNotificationHandler('notifications/tools/list_changed', () => event('list_changed', { kind: 'tools' }));
  client.setNotificationHandler('notifications/prompts/list_changed', () => event('list_changed', { kind: 'prompts' }));
  client.setNotificationHandler('notifications/resources/list_changed', () => event('list_changed', { kind: 'resources' }));
  return {
    client,
    stdio: (command, args, env) => new StdioClientTransport({ command, args, env, stderr: 'inherit' }),
    http: (url, headers) => new StreamableHTTPClientTransport(url, { requestInit: { headers } }),
    call: (params, options) => client.callTool(params, options),
  };
});
