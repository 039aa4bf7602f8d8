/** A `fetch` whose requests all go through the proxy: give it to an MCP client, its OAuth provider included, as `fetch`. */
export function proxyFetch(proxy: string | URL, token: string, send: typeof fetch = globalThis.fetch): typeof fetch {
  const endpoint = new URL("/forward", proxy).href;
  return async (input, init) => {
    const request = new Request(input, init); // resolves relative URLs and merges both arguments
    const headers = new Headers(request.headers);
    headers.set("X-Target-Url", request.url.split("#")[0]);
    headers.set("X-Proxy-Token", token);
    const body = ["GET", "HEAD"].includes(request.method) ? undefined : await request.arrayBuffer();
    // A redirect would take the token elsewhere. A cache would take all targets for one URL.
    const { method, signal } = request;
    const response = await send(endpoint, { method, headers, body, signal, redirect: "error", credentials: "omit", cache: "no-store" });
    return Object.defineProperty(response, "url", { value: request.url }); // what the caller asked for
  };
}
