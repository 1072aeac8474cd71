// What the page says to the server: JSON, streamed replies, and the API key if one is needed.

const KEY = "steerplug-api-key";
let asking = null; // the open question for a key; requests refused meanwhile share it

/** True where this server has asked for a key. */
export const hasKey = () => sessionStorage.getItem(KEY) !== null;

/** Fetch `path`; a refusal becomes an Error that holds the server's own sentence. */
async function request(path, options = {}) {
  for (;;) {
    const key = sessionStorage.getItem(KEY);
    const headers = { ...options.headers, ...(key && { Authorization: `Bearer ${key}` }) };
    const response = await fetch(path, { ...options, headers });
    if (response.ok) return response;
    const sentence = await readProblem(response);
    if (response.status !== 401) throw new Error(sentence);
    if (key === sessionStorage.getItem(KEY)) {
      asking ??= askForKey(sentence).finally(() => { asking = null; });
      if (!(await asking)) throw new Error(sentence);
    }
  }
}

async function readProblem(response) {
  const body = await response.json().catch(() => null);
  return body?.error?.message ?? `The server answered ${response.status} ${response.statusText}.`;
}

/** Ask the reader for a key and keep it in this tab; false if they would rather not. */
async function askForKey(sentence) {
  const dialog = document.querySelector("#key");
  const input = dialog.querySelector("input");
  dialog.querySelector("p").textContent = sentence;
  input.value = "";
  dialog.returnValue = "cancel";
  dialog.showModal();
  input.focus();
  await new Promise((closed) => dialog.addEventListener("close", closed, { once: true }));
  if (dialog.returnValue !== "use") return false;
  sessionStorage.setItem(KEY, input.value.trim());
  return true;
}

/** Return the `data` of a list such as /v1/models. */
export async function getList(path) {
  return (await (await request(path)).json()).data;
}

/** Return all presets, as they are on a model; it need not be said where there is but one. */
export const listPresets = (model) => getList(
  `steering/presets${model ? `?model=${encodeURIComponent(model)}` : ""}`,
);

/** Have a preset compiled while no reply is made, and return what the server says of it. */
export async function compilePreset(name, model) {
  return (await request("steering/compile", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ name, ...(model && { model }) }),
  })).json();
}

/** Ask for a reply and yield its chunks as they arrive, until the server says it is complete. */
export async function* streamChat(body, signal) {
  const response = await request("v1/chat/completions", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true } }),
    signal,
  });
  for await (const line of readLines(response.body)) {
    if (!line.startsWith("data:")) continue; // a heartbeat, an event's name, or its end
    const data = line.slice("data:".length).trim();
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new Error(chunk.error.message);
    yield chunk;
  }
  throw new Error("The connection ended before the reply was complete.");
}

async function* readLines(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    yield* lines;
  }
}
