// The echo server that the Autobahn suite measures, direct and through the proxy. usage: node autobahn-echo.mjs PORT
import { WebSocketServer } from 'ws';

const server = new WebSocketServer({
  host: '127.0.0.1',
  port: Number(process.argv[2]),
  maxPayload: 64e6,
  // Cases 9.3 and 9.4 cut 4 MiB into frames of 64 bytes.
  maxFragments: 0,
  maxBufferedChunks: 0,
  // The suite judges what the messages hold, not how small they are; at the usual level packing them is most of its time.
  perMessageDeflate: { threshold: 0, zlibDeflateOptions: { level: 1 } },
});
server.on('connection', (socket) => {
  socket.on('error', () => {});
  socket.on('message', (data, binary) => socket.send(data, { binary }));
});
