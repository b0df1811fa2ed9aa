// The server's OpenAI-compatible routes. Nothing else on this page talks to the network.
// Where the server wants a key, the browser has asked for it before this page came, and sends it along by itself.

/** What the server answered instead of what was asked for; the message is for people. */
export class ApiError extends Error {}

/** The models that are served: [{id, ...}]. */
export async function models() {
  return (await (await call("v1/models")).json()).data;
}

/** The chunks of a streamed chat completion, as the server writes them. */
export async function* complete(request, signal) {
  const body = JSON.stringify({ ...request, stream: true, stream_options: { include_usage: true } });
  const headers = { "Content-Type": "application/json" };
  const response = await call("v1/chat/completions", { method: "POST", headers, body, signal });
  for await (const data of serverSentEvents(response.body)) {
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new ApiError(chunk.error.message);
    yield chunk;
  }
  throw new ApiError("The connection ended in the middle of the reply.");
}

async function call(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The server does not answer. Is `anyglot serve` running?");
  }
  if (!response.ok) throw new ApiError(await reasonOf(response));
  return response;
}

async function reasonOf(response) {
  const text = await response.text();
  try {
    return JSON.parse(text).error.message;
  } catch {
    return `The server answered ${response.status} ${response.statusText}`.trim() + (text && `: ${text.slice(0, 300)}`);
  }
}

/** The `data` of each event of a text/event-stream. Looks at every character once: one picture is one long line. */
async function* serverSentEvents(stream) {
  let pieces = [];
  let data = [];
  for await (const text of textOf(stream)) {
    const [first, ...others] = text.split("\n");
    pieces.push(first);
    for (const next of others) {
      const line = pieces.join("").replace(/\r$/, "");
      pieces = [next];
      if (line.startsWith("data:")) data.push(line.slice(5).replace(/^ /, ""));
      if (line === "" && data.length) {
        yield data.join("\n");
        data = [];
      }
    }
  }
}

async function* textOf(stream) {
  const reader = stream.getReader(); // Safari cannot iterate over a stream itself
  const decoder = new TextDecoder();
  for (;;) {
    let piece;
    try {
      piece = await reader.read();
    } catch (error) {
      if (error.name === "AbortError") throw error;
      return; // cut off: the caller misses [DONE]
    }
    if (piece.done) return;
    yield decoder.decode(piece.value, { stream: true });
  }
}
