// The session map of the SDK's documentation on plain node:http: a request without a session id may only be `initialize`,
// an unknown id is answered 404. Decides which transport gets a request; the transport does the rest.
import http from 'node:http';
import { randomUUID } from 'node:crypto';

const refuse = (res, status, code, message) => {
  res.writeHead(status, { 'content-type': 'application/json' });
  res.end(JSON.stringify({ jsonrpc: '2.0', error: { code, message }, id: null }));
};

const bodyOf = (req) =>
  new Promise((resolve, reject) => {
    const parts = [];
    req.on('data', (part) => parts.push(part));
    req.on('end', () => resolve(Buffer.concat(parts).toString('utf8')));
    req.on('error', reject);
  });

/** `open(options)` makes a transport with a server connected to it; without state, one for each request. */
export function serve(port, open, stateless = false) {
  const live = new Map();
  const answer = async (req, res) => {
    if (new URL(req.url, 'http://127.0.0.1').pathname !== '/mcp') return res.writeHead(404).end();
    let body;
    if (req.method === 'POST') {
      try {
        body = JSON.parse(await bodyOf(req));
      } catch {
        return refuse(res, 400, -32700, 'Parse error');
      }
    }
    if (stateless) {
      if (req.method !== 'POST') return refuse(res, 405, -32000, 'Method not allowed.');
      return (await open({ sessionIdGenerator: undefined })).handleRequest(req, res, body);
    }
    const id = req.headers['mcp-session-id'];
    if (id) {
      const known = live.get(id);
      if (!known) return refuse(res, 404, -32001, 'Session not found');
      return known.handleRequest(req, res, body);
    }
    if (body?.method !== 'initialize') return refuse(res, 400, -32000, 'Bad Request: Session ID required');
    const transport = await open({
      sessionIdGenerator: () => randomUUID(),
      onsessioninitialized: (made) => void live.set(made, transport),
      onsessionclosed: (gone) => void live.delete(gone),
    });
    return transport.handleRequest(req, res, body);
  };
  const server = http.createServer((req, res) => {
    answer(req, res).catch((error) => {
      console.error('request failed', error);
      if (!res.headersSent) refuse(res, 500, -32603, 'Internal error');
    });
  });
  server.listen(port, '127.0.0.1', () => console.error(`listening on ${server.address().port}`));
}
