// Preloaded into servers that would listen on every interface: whatever they ask for, they get loopback.
import net from 'node:net';

const listen = net.Server.prototype.listen;
net.Server.prototype.listen = function (...args) {
  const callback = args.findLast((a) => typeof a === 'function');
  const wanted = args[0];
  if (typeof wanted === 'object' && wanted !== null) {
    if (wanted.path || wanted.fd !== undefined) return listen.apply(this, args);
    return listen.call(this, { ...wanted, host: '127.0.0.1' }, callback);
  }
  if (typeof wanted === 'string' && Number.isNaN(Number(wanted))) return listen.apply(this, args);
  return listen.call(this, { port: Number(wanted) || 0, host: '127.0.0.1' }, callback);
};
