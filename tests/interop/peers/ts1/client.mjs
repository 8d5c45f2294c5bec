// A client on the TypeScript SDK v1 (see ../../README.md for the contract).
import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { StdioClientTransport } from '@modelcontextprotocol/sdk/client/stdio.js';
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';
import * as t from '@modelcontextprotocol/sdk/types.js';
import { elicited, event, obey, sampled } from '../ts/commands.mjs';

obey(() => {
  const client = new Client({ name: 'interop-ts1', version: '1.0.0' }, { capabilities: { sampling: {}, elicitation: {} } });
  client.setRequestHandler(t.CreateMessageRequestSchema, (request) => sampled(request.params));
  client.setRequestHandler(t.ElicitRequestSchema, (request) => elicited(request.params));
  client.setNotificationHandler(t.LoggingMessageNotificationSchema, ({ params }) => event('log', params));
  client.setNotificationHandler(t.ResourceUpdatedNotificationSchema, ({ params }) => event('resource_updated', params));
  client.setNotificationHandler(t.ToolListChangedNotificationSchema, () => event('list_changed', { kind: 'tools' }));
  client.setNotificationHandler(t.PromptListChangedNotificationSchema, () => event('list_changed', { kind: 'prompts' }));
  client.setNotificationHandler(t.ResourceListChangedNotificationSchema, () => event('list_changed', { kind: 'resources' }));
  return {
    client,
    stdio: (command, args, env) => new StdioClientTransport({ command, args, env, stderr: 'inherit' }),
    http: (url, headers) => new StreamableHTTPClientTransport(url, { requestInit: { headers } }),
    call: (params, options) => client.callTool(params, undefined, options),
  };
});
