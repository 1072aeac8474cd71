// The playground: ask, and read the bare, the prompted and the steered reply side by side.

import { getList, hasKey, listPresets, streamChat } from "./api.js";
import { $, stamp } from "./dom.js";
import { modelName, snippets } from "./mix.js";
import { isSteered, mix, promptedMix, showPresets, tokensSaved } from "./presets.js";
import { Reply } from "./reply.js";

const SIDES = { bare: "Bare", prompted: "Prompted", steered: "Steered" };

let model = "";
let running = null; // the AbortController of the replies that are streaming
let answered = Promise.resolve(); // settles when they have ended
let chats = {}; // by side: the messages so far, each with its own replies

async function load() {
  const ids = (await getList("v1/models")).map(({ id }) => id);
  const bare = ids.filter((id) => !id.includes("@"));
  $("#address").textContent = `${location.origin}/v1`;
  $("#which").append(...bare.map((id) => new Option(id)));
  $("#models").hidden = bare.length < 2;
  await choose(bare[0] ?? ids[0]);
}

/** Ask this model from now on; its presets are its own, and so is what was said. */
async function choose(id) {
  model = id;
  chats = {};
  $("#model").textContent = model;
  const ofModel = $("#models").hidden ? null : model;
  const presets = await listPresets(ofModel);
  if (model !== id) return; // another was chosen meanwhile
  showPresets(presets, ofModel);
  showMix();
}

function showMix() {
  $("#mix").textContent = mix();
  $("#model-name").textContent = modelName(model, mix());
  $("#snippet").hidden = true; // it would show the mix as it was
}

// --- asking -----------------------------------------------------------------------------------

/** Put an end to the replies still streaming, then begin the next. */
function ask(question) {
  stop();
  answered = answered.then(() => answer(question));
}

/** What each answer that is wanted is asked with; a mix that only has prompts is not steered. */
function wanted() {
  const asked = {
    bare: { steering: "none" },
    prompted: { steering: promptedMix(), carrier: "prompt" },
    steered: { steering: mix(), steering_trace: true },
  };
  const sides = new Set(Object.keys(SIDES).filter((side) => $(`#want-${side}`).checked));
  if (sides.delete("steered")) sides.add(isSteered() ? "steered" : "prompted");
  if (asked.steered.steering === "none") sides.delete("steered");
  if (asked.prompted.steering === "none") sides.delete("prompted");
  if (!sides.size) sides.add("bare");
  return Object.entries(asked).filter(([side]) => sides.has(side));
}

/** The settings that the reader has filled in; the server has its own for the others. */
function settings() {
  const filled = { max_tokens: $("#length"), temperature: $("#temperature") };
  return Object.fromEntries(Object.entries(filled)
    .filter(([, field]) => field.value !== "")
    .map(([name, field]) => [name, field.valueAsNumber]));
}

async function answer(question) {
  const { signal } = running = new AbortController();
  const seed = Math.floor(Math.random() * 2 ** 32); // one for all: they differ by what is compared
  if (!$("#continue").checked) {
    chats = {};
    $("#turns").replaceChildren();
  }
  const turn = stamp("turn");
  $("h2", turn).textContent = question;
  $("#turns").append(turn);
  $("#problem").textContent = "";
  $("#status").textContent = "Answering.";
  $("#stop").hidden = false;

  const asked = wanted().map(([side, body]) => {
    const section = stamp("reply");
    section.classList.add(side);
    $("h3", section).prepend(`${SIDES[side]} `);
    $("h3 code", section).textContent = side === "bare" ? "" : body.steering;
    $(".answers", turn).append(section);
    const reply = new Reply(section, side === "steered" ? tokensSaved() : null);
    return { side, reply, body: { ...settings(), ...body, seed } };
  });
  await Promise.all(asked.map((one) => stream(one, question, signal)));
  finish(asked);
}

/** Stream one reply into the page and into its own conversation. */
async function stream({ side, reply, body }, question, signal) {
  const messages = chats[side] ??= [];
  const system = $("#system").value.trim();
  messages.push({ role: "user", content: question });
  let problem = "";
  try {
    const all = system ? [{ role: "system", content: system }, ...messages] : messages;
    for await (const chunk of streamChat({ model, messages: all, ...body }, signal)) {
      reply.add(chunk);
    }
  } catch (error) {
    problem = signal.aborted ? "Stopped." : error.message;
  }
  if (reply.text) messages.push({ role: "assistant", content: reply.text });
  else messages.pop();
  reply.close(problem);
}

function stop() {
  running?.abort();
}

/** The one moment when replies are read out: all are there, and none was while streaming. */
function finish(asked) {
  running = null;
  $("#status").textContent = asked
    .map(({ side, reply }) => `${SIDES[side]} reply: ${reply.text}`).join(" ");
  if (document.activeElement === $("#stop")) $("#question").focus();
  $("#stop").hidden = true;
  $("#follow").hidden = false;
}

// --- taking it elsewhere ----------------------------------------------------------------------

async function copy(kind) {
  const question = $("#question").value;
  const text = snippets[kind]({
    origin: location.origin, model, steering: mix(), question, key: hasKey(),
  });
  $("#snippet pre").textContent = text;
  $("#snippet").hidden = false;
  try {
    await navigator.clipboard.writeText(text);
    $("#copied").textContent = "Copied.";
  } catch { // no clipboard: plain http from another machine, or the reader said no
    $("#copied").textContent = "Your browser keeps the clipboard closed here; copy it yourself:";
  }
}

// --- wiring -----------------------------------------------------------------------------------

$("#ask").addEventListener("submit", (event) => {
  event.preventDefault();
  if ($("#question").value.trim()) ask($("#question").value.trim());
});
$("#question").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  $("#ask").requestSubmit();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !$("#key").open) stop();
});
document.addEventListener("mix", showMix);
$("#which").addEventListener("change", ({ target }) => choose(target.value)
  .catch((error) => { $("#problem").textContent = error.message; }));
$("#stop").addEventListener("click", stop);
for (const button of document.querySelectorAll("[data-snippet]")) {
  button.addEventListener("click", () => copy(button.dataset.snippet));
}
load().catch((error) => { $("#problem").textContent = error.message; });
