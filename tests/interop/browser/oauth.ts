// The wrapper as node loads it, for the comparison of OAuth flows.
export { proxyFetch } from '../../../examples/browser/proxy-fetch.ts';
