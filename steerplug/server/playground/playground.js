// The playground: choose presets, ask, and read the bare and the steered reply side by side.

import { compilePreset, getList, hasKey, streamChat } from "./api.js";
import { formatMix, snippets } from "./mix.js";
import { Reply } from "./reply.js";

const MAX_TOKENS = 256;
const LOOK_AGAIN = 2000; // milliseconds, while a preset is being compiled
const $ = (selector, within = document) => within.querySelector(selector);
const stamp = (id) => $(`template#${id}`).content.firstElementChild.cloneNode(true);

let model = "";
let running = null; // the AbortController of the replies that are streaming
let answered = Promise.resolve(); // settles when they have ended
let chats = { bare: [], steered: [] }; // the messages so far, each with its own replies
const chosen = new Map(); // name -> {name, strength, default, tokens_saved}, in order of choice

// --- presets ----------------------------------------------------------------------------------

async function load() {
  const [models, presets] = await Promise.all([getList("v1/models"), getList("steering/presets")]);
  model = models.find(({ id }) => !id.includes("@"))?.id ?? models[0].id;
  $("#model").textContent = model;
  $("#chips").append(...presets.map(makeChip));
}

function makeChip(preset) {
  const chip = document.createElement("label");
  const box = document.createElement("input");
  box.type = "checkbox";
  box.addEventListener("change", () => (box.checked ? choose(preset) : drop(preset)));
  chip.append(box, preset.name);
  chip.title = preset.description;
  chip.dataset.name = preset.name;
  if (preset.carrier === "prompt") chip.append(makeNote(`${preset.prompt_tokens} tokens`));
  if (!preset.carrier) {
    box.disabled = true;
    chip.append(makeNote("not compiled"));
    chip.title = `${preset.description} ${preset.name} is ${preset.reason}.`;
  }
  return chip;
}

function makeNote(text) {
  const note = document.createElement("small");
  note.textContent = ` ${text}`;
  return note;
}

function choose(preset) {
  const { min, max, default: usual } = preset.strength;
  const row = stamp("preset");
  const [label, slider, value, reset, about, carrier] = row.children;
  const choice = { ...preset, default: usual };
  row.dataset.name = preset.name;
  slider.id = `strength-${preset.name}`;
  label.htmlFor = slider.id;
  label.textContent = preset.name;
  slider.setAttribute("aria-describedby", `about-${preset.name}`);
  about.id = `about-${preset.name}`;
  Object.assign(slider, { min, max, value: usual });
  slider.style.setProperty("--default", (usual - min) / (max - min));
  reset.textContent = `default ${usual}`;
  reset.setAttribute("aria-label", `${preset.name}: back to the default strength ${usual}`);
  about.textContent = [preset.description, preset.too_much].filter(Boolean).join(" ");

  const set = (strength) => {
    choice.strength = strength;
    value.textContent = strength.toFixed(2);
    reset.disabled = strength === usual;
    showMix();
  };
  slider.addEventListener("input", () => set(slider.valueAsNumber));
  reset.addEventListener("click", () => { slider.value = usual; slider.focus(); set(usual); });
  if (preset.carrier === "prompt") {
    label.removeAttribute("for"); // a prompt has no strength
    for (const part of [slider, value, reset]) part.hidden = true;
    carrier.hidden = false;
    showCarrier(preset, carrier);
  }
  chosen.set(preset.name, choice);
  $("#strengths").append(row);
  set(usual);
}

const percent = (share) => `${Math.floor(100 * share)} %`;

/** Say about how long compiling still takes. */
function left(job) {
  const seconds = job?.seconds_left;
  if (seconds === null || seconds === undefined) return "";
  return seconds < 90 ? `, ${Math.ceil(seconds)} s left` : `, ${Math.round(seconds / 60)} min left`;
}

/** Say what a prompt costs, and let it be compiled; the row begins anew once it is. */
function showCarrier(preset, line) {
  const [told, button] = line.children;
  const tell = ({ compiling: job, reason }) => {
    const cost = `Carried by its prompt, ${preset.prompt_tokens} tokens in each request: ${reason}.`;
    const now = { waiting: "Waiting to be compiled.", paused: "Compiling waits for replies to end.",
      running: `Compiling: ${percent(job?.share ?? 0)} done, ${job?.what}${left(job)}.`, failed: job?.problem };
    told.textContent = job ? `${cost} ${now[job.state] ?? ""}` : cost;
    button.hidden = job !== null && job.state !== "failed";
  };
  const follow = async () => {
    const now = (await getList("steering/presets")).find(({ name }) => name === preset.name);
    if (now.carrier === "steering") return replace(now);
    tell(now);
    if (now.compiling && !["failed", "done"].includes(now.compiling.state)
      && line.isConnected) setTimeout(follow, LOOK_AGAIN);
  };
  button.addEventListener("click", () => compilePreset(preset.name)
    .then((now) => { tell(now); setTimeout(follow, LOOK_AGAIN); })
    .catch((error) => { told.textContent = error.message; }));
  tell(preset);
  if (preset.compiling) setTimeout(follow, LOOK_AGAIN);
}

/** Put a preset that is compiled now in place of its prompt, chosen as it was. */
function replace(preset) {
  const chip = makeChip(preset);
  $(`[data-name="${CSS.escape(preset.name)}"]`, $("#chips")).replaceWith(chip);
  drop(preset);
  $("input", chip).checked = true;
  choose(preset);
}

function drop(preset) {
  chosen.delete(preset.name);
  [...$("#strengths").children].find((row) => row.dataset.name === preset.name).remove();
  showMix();
}

const mix = () => formatMix([...chosen.values()]);

function showMix() {
  $("#mix").textContent = mix();
  $("#snippet").hidden = true; // it would show the mix as it was
}

/** The prompt tokens of the instructions that the mix stands in for, as far as they are known. */
function tokensSaved() {
  const known = [...chosen.values()].filter(
    ({ strength, carrier }) => strength > 0 && carrier === "steering",
  );
  const tokens = known.reduce((sum, preset) => sum + (preset.tokens_saved ?? 0), 0);
  return { tokens, atLeast: known.some((preset) => preset.tokens_saved === null) };
}

// --- asking -----------------------------------------------------------------------------------

/** Put an end to the replies still streaming, then begin the next. */
function ask(question) {
  stop();
  answered = answered.then(() => answer(question));
}

async function answer(question) {
  const { signal } = running = new AbortController();
  const seed = Math.floor(Math.random() * 2 ** 32); // one for both: they differ by steering alone
  if (!$("#continue").checked) {
    chats = { bare: [], steered: [] };
    $("#turns").replaceChildren();
  }
  const steering = mix();
  const turn = stamp("turn");
  $("h2", turn).textContent = question;
  $("h3 code", turn).textContent = steering;
  if (steering === "none") $(".steered", turn).remove();
  $("#turns").append(turn);
  $("#problem").textContent = "";
  $("#status").textContent = "Answering.";
  $("#stop").hidden = false;

  const replies = [new Reply($(".bare", turn))];
  const work = [stream("bare", { steering: "none", seed }, question, replies[0], signal)];
  if (steering !== "none") {
    replies.push(new Reply($(".steered", turn), tokensSaved()));
    const settings = { steering, seed, steering_trace: true };
    work.push(stream("steered", settings, question, replies[1], signal));
  }
  await Promise.all(work);
  finish(replies);
}

/** Stream one reply into the page and into its own conversation. */
async function stream(side, settings, question, reply, signal) {
  const messages = chats[side];
  messages.push({ role: "user", content: question });
  let problem = "";
  try {
    const body = { model, messages, max_tokens: MAX_TOKENS, ...settings };
    for await (const chunk of streamChat(body, signal)) reply.add(chunk);
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

/** The one moment when replies are read out: both are there, and neither was while streaming. */
function finish(replies) {
  const [bare, steered] = replies.map(({ text }) => text);
  running = null;
  $("#status").textContent = `Bare reply: ${bare}` + (steered ? ` Steered reply: ${steered}` : "");
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
$("#stop").addEventListener("click", stop);
for (const button of document.querySelectorAll("[data-snippet]")) {
  button.addEventListener("click", () => copy(button.dataset.snippet));
}
load().catch((error) => { $("#problem").textContent = error.message; });
