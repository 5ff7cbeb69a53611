// Asks the server for its model and the chunk sizes of the model.

import { Problem, tokenNeeded, unreachable } from "./problems.js";

/**
 * Ask the server of this page for its model.
 * @returns {Promise<Server>} rejects with a Problem.
 */
export async function findServer() {
  const token = new URLSearchParams(location.search).get("token");    // browsers send no headers with WebSockets
  const response = await fetch(address("info", token)).catch(() => {
    throw unreachable();
  });
  if (response.status === 401) throw tokenNeeded();
  if (!response.ok) {
    throw new Problem("The server does not describe its model", `It answered ${response.status}. Try again in a moment.`);
  }
  return new Server(await response.json(), token);
}

class Server {
  constructor(info, token) {
    this.token = token;
    this.sampleRate = info.sample_rate;
    this.chunks = info.chunks
      .map(({ chunk, seconds }) => ({ size: chunk, seconds, isDefault: chunk === info.default.chunk }))
      .filter(({ size }, index, all) => all.findIndex((other) => other.size === size) === index)
      .sort((one, other) => one.size - other.size);
    this.example = info.example;
    this.description = `${info.model}, ${info.sample_rate / 1000} kHz`;
  }

  get socketUrl() {
    const url = address("ws", this.token);
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    return url;
  }

  get uploadUrl() {
    const url = address("transcribe", this.token);
    url.searchParams.set("stream", "true");
    return url;
  }
}

function address(name, token) {
  const url = new URL(name, new URL(".", location.href));
  if (token) url.searchParams.set("token", token);
  return url;
}
