// Parses recorded connections with node's own HTTP parser, a byte at a time, so that the byte where each request ends is known.
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { HTTPParser, methods } from '_http_common';

const result = JSON.parse(readFileSync(process.argv[2], 'utf8')).map((text) => {
  const data = Buffer.from(text, 'latin1');
  const found = [];
  let current;
  let at = 0;
  const parser = new HTTPParser();
  parser.initialize(HTTPParser.REQUEST, {});
  let spilled = '';
  parser[HTTPParser.kOnHeaders] = (_headers, url) => { spilled += url; };
  parser[HTTPParser.kOnHeadersComplete] = (_major, _minor, _headers, method, url) => {
    current = { method: methods[method] ?? `method ${method}`, target: Buffer.from(url ?? spilled, 'latin1').toString('latin1'), hash: createHash('sha256') };
    spilled = '';
    return 0;
  };
  parser[HTTPParser.kOnBody] = (piece) => { current.hash.update(piece); };
  parser[HTTPParser.kOnMessageComplete] = () => {
    // Trailers come the same way and bring the target once more.
    spilled = '';
    found.push({ method: current.method, target: current.target, end: at + 1, body: current.hash.digest('hex').slice(0, 16) });
  };
  for (; at < data.length; at += 1) {
    const outcome = parser.execute(data.subarray(at, at + 1));
    if (outcome instanceof Error) {
      found.push({ error: `${outcome.code} ${outcome.reason}` });
      break;
    }
  }
  return found;
});
process.stdout.write(JSON.stringify(result));
