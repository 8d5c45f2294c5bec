// The client contract: JSON lines on stdin, answers and events on stdout. Decides how a command is answered; the SDK's own
// client, made by `make`, does what the command says.
import readline from 'node:readline';

const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);
export const event = (name, details) => say({ event: name, ...details });

const failure = (error) => ({
  message: String(error?.message ?? error),
  code: error?.code,
  data: error?.data,
  kind: error?.name,
});

/** The answers that every client gives to a server's own requests. */
export const sampled = (params) => {
  const content = [params.messages.at(-1).content].flat()[0];
  event('sampling', { prompt: content.text });
  return { model: 'fixed', role: 'assistant', stopReason: 'endTurn', content: { type: 'text', text: `sampled: ${content.text}` } };
};
export const elicited = (params) => {
  event('elicitation', { message: params.message });
  return { action: 'accept', content: { name: 'relatch' } };
};

/** `make()` gives { client, stdio(command, args, env), http(url, headers), call(params, options) }. */
export function obey(make) {
  const side = make();
  const { client } = side;
  const running = new Map();
  client.onerror = (error) => event('stream_error', failure(error));
  client.onclose = () => event('closed', {});

  const ops = {
    async connect({ url, command, env, headers }) {
      const transport = command ? side.stdio(command[0], command.slice(1), { ...process.env, ...env }) : side.http(new URL(url), headers ?? {});
      await client.connect(transport);
      return { server: client.getServerVersion(), session: transport.sessionId };
    },
    async call({ n, tool, args, progress, timeout_ms: timeout }, signal) {
      const options = { signal };
      if (timeout) options.timeout = timeout;
      if (progress) options.onprogress = (step) => event('progress', { n, progress: step.progress, total: step.total, message: step.message });
      return side.call({ name: tool, arguments: args ?? {} }, options);
    },
    list_tools: async () => client.listTools(),
    list_prompts: async () => client.listPrompts(),
    get_prompt: async ({ name, args }) => client.getPrompt({ name, arguments: args }),
    list_resources: async () => client.listResources(),
    read_resource: async ({ uri }) => client.readResource({ uri }),
    ping: async () => client.ping(),
    set_level: async ({ level }) => client.setLoggingLevel(level ?? 'debug'),
    subscribe: async ({ uri }) => client.subscribeResource({ uri }),
    async cancel({ of }) {
      running.get(of)?.abort('asked to');
      return {};
    },
    async close() {
      await client.close();
      return {};
    },
  };

  const answer = async (command) => {
    const stop = new AbortController();
    running.set(command.n, stop);
    try {
      if (!Object.hasOwn(ops, command.op)) throw new Error(`unknown op ${command.op}`);
      say({ n: command.n, ok: true, result: (await ops[command.op](command, stop.signal)) ?? {} });
    } catch (error) {
      say({ n: command.n, ok: false, error: failure(error) });
    } finally {
      running.delete(command.n);
    }
  };
  readline
    .createInterface({ input: process.stdin })
    .on('line', (line) => line.trim() && answer(JSON.parse(line)))
    .on('close', () => process.exit(0));
}
