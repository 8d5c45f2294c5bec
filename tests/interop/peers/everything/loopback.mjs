// server-everything listens on every address; preloaded, this keeps it on loopback. Nothing else of it is changed.
import net from 'node:net';

const listen = net.Server.prototype.listen;
net.Server.prototype.listen = function loopback(port, ...rest) {
  return listen.call(this, { port: Number(port), host: '127.0.0.1' }, ...rest.filter((value) => typeof value === 'function'));
};
