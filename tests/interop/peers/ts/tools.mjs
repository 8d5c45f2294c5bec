// The tools of the server contract, once for both TypeScript SDKs. What an SDK does differently comes in as `side`.
// Decides what a tool answers and what the ledger says; knows nothing of sessions or transports.
import fs from 'node:fs';

export const NOTE = 'relatch://note';

export function settings() {
  const seen = { port: 0, ledger: null, variant: 1, json: false, stateless: false };
  const rest = process.argv.slice(2);
  while (rest.length) {
    const flag = rest.shift();
    if (flag === '--port') seen.port = Number(rest.shift());
    else if (flag === '--ledger') seen.ledger = rest.shift();
    else if (flag === '--variant') seen.variant = Number(rest.shift());
    else if (flag === '--json') seen.json = true;
    else if (flag === '--stateless') seen.stateless = true;
    else throw new Error(`unknown flag ${flag}`);
  }
  return seen;
}

export function ledger(file) {
  return (entry) => fs.appendFileSync(file, `${JSON.stringify({ ...entry, pid: process.pid, at: Date.now() })}\n`, { flag: 'a' });
}

const text = (value) => ({ content: [{ type: 'text', text: value }] });
const fields = (properties, required = Object.keys(properties)) => ({ type: 'object', properties, required });
const string = { type: 'string' };
const integer = { type: 'integer' };

const TOOLS = [
  { name: 'echo', description: 'Says the text again', inputSchema: fields({ text: string }) },
  { name: 'count', description: 'Writes one line to the ledger', inputSchema: fields({ key: string }) },
  { name: 'slow', description: 'Writes to the ledger, then takes its time', inputSchema: fields({ key: string, ms: integer, steps: integer }, ['key', 'ms']) },
  { name: 'read', description: 'As count, declared a read', inputSchema: fields({ key: string }), annotations: { readOnlyHint: true } },
  { name: 'sample', description: 'Asks the client for a completion', inputSchema: fields({ prompt: string }) },
  { name: 'elicit', description: 'Asks the client for a name', inputSchema: fields({ message: string }) },
  { name: 'log', description: 'Sends a log message on the stream of the call', inputSchema: fields({ text: string }) },
  { name: 'emit', description: 'Sends a notification on the standing stream', inputSchema: fields({}) },
  { name: 'sleep_cancellable', description: 'Waits until cancelled', inputSchema: fields({ key: string, ms: integer }) },
];
const EXTRA = { name: 'extra', description: 'Only a newer server has it', inputSchema: fields({}) };

export const listed = (variant) => (variant >= 2 ? [...TOOLS, EXTRA] : TOOLS);

const pause = (ms, signal) =>
  new Promise((resolve) => {
    if (signal?.aborted) return resolve(false);
    const stop = () => (clearTimeout(timer), resolve(false));
    const timer = setTimeout(() => (signal?.removeEventListener('abort', stop), resolve(true)), ms);
    signal?.addEventListener('abort', stop, { once: true });
  });

export async function call(name, args, side, write, variant) {
  switch (name) {
    case 'echo':
      return text(args.text);
    case 'count':
    case 'read':
      write({ key: args.key });
      return text(`${args.key} ran in pid ${process.pid}`);
    case 'slow': {
      write({ key: args.key });
      const steps = args.steps ?? 0;
      for (let step = 1; step <= steps; step += 1) {
        await pause(args.ms / (steps + 1));
        await side.progress(step, steps);
      }
      await pause(args.ms / (steps + 1));
      return text(`${args.key} took ${args.ms} ms`);
    }
    case 'sample':
      return text(await side.sample(args.prompt));
    case 'elicit':
      return text(JSON.stringify(await side.elicit(args.message)));
    case 'log':
      await side.log(args.text);
      return text('logged');
    case 'emit':
      await side.emit();
      return text('emitted');
    case 'sleep_cancellable':
      write({ key: args.key });
      if (await pause(args.ms, side.signal)) return text('slept');
      write({ key: args.key, cancelled: true });
      return text('cancelled');
    case 'extra':
      if (variant >= 2) return text('extra');
      break;
    default:
  }
  return { ...text(`Unknown tool: ${name}`), isError: true };
}

export const SAMPLING = (prompt) => ({ messages: [{ role: 'user', content: { type: 'text', text: prompt } }], maxTokens: 50 });
export const FORM = (message) => ({
  message,
  requestedSchema: { type: 'object', properties: { name: { type: 'string' } }, required: ['name'] },
});
export const PROMPTS = [{ name: 'greet', description: 'A greeting', arguments: [{ name: 'who', required: true }] }];
export const greeting = (who) => ({ messages: [{ role: 'user', content: { type: 'text', text: `Greet ${who}` } }] });
export const RESOURCES = [{ uri: NOTE, name: 'note', mimeType: 'text/plain' }];
export const note = (uri) => ({ contents: [{ uri, mimeType: 'text/plain', text: 'a note' }] });
export const CAPABILITIES = {
  tools: { listChanged: true },
  prompts: { listChanged: true },
  resources: { subscribe: true, listChanged: true },
  logging: {},
};
