// Presets on the page: what there is, what is chosen, how strong, and what carries each.

import { compilePreset, listPresets } from "./api.js";
import { $, stamp } from "./dom.js";
import { formatMix } from "./mix.js";

const FIRST = "pirate"; // chosen at the start, if it is there
const LOOK_AGAIN = 2000; // milliseconds, while a preset is being compiled
const chosen = new Map(); // name -> {name, strength, default, tokens_saved}, in order of choice
let model = null; // whose presets they are, where there are several models

/** Show all presets, and choose one, so that the first question is answered more than one way. */
export function showPresets(presets, ofModel) {
  model = ofModel;
  chosen.clear();
  $("#strengths").replaceChildren();
  $("#chips").replaceChildren(...presets.map(makeChip));
  $("#described dl").replaceChildren(...presets.flatMap(describe));
  $("#described").hidden = presets.length === 0;
  const first = presets.find(({ name, carrier }) => name === FIRST && carrier)
    ?? presets.find(({ carrier }) => carrier);
  if (first) $("input", chipOf(first.name)).click();
}

const chipOf = (name) => $(`[data-name="${CSS.escape(name)}"]`, $("#chips"));

/** A name and a description that need no pointer to rest on a chip. */
function describe({ name, description }) {
  return [["dt", name], ["dd", description]].map(([tag, text]) => {
    const line = document.createElement(tag);
    line.textContent = text;
    return line;
  });
}

function makeChip(preset) {
  const chip = document.createElement("label");
  const box = document.createElement("input");
  box.type = "checkbox";
  box.addEventListener("change", () => (box.checked ? choose(preset) : drop(preset)));
  chip.append(box, preset.name);
  chip.title = preset.description;
  chip.dataset.name = preset.name;
  if (preset.carrier === "prompt") chip.append(makeNote("by prompt"));
  if (!preset.carrier) chip.append(makeNote("not compiled"));
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
  if (preset.carrier !== "steering") {
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

/** Say what it costs that a preset is not compiled, and let it be; the row begins anew then. */
function showCarrier(preset, line) {
  const [[told, button], ofModel] = [line.children, model];
  const tell = ({ compiling: job, reason }) => {
    const cost = preset.carrier
      ? `Carried by its prompt, ${preset.prompt_tokens} tokens in each request: ${reason}.`
      : `Not in the answers yet: ${reason}.`;
    const now = { waiting: "Waiting to be compiled.", paused: "Compiling waits for replies to end.",
      running: `Compiling: ${[`${percent(job?.share ?? 0)} done`, job?.what].filter(Boolean).join(", ")}${left(job)}.`,
      failed: job?.problem };
    told.textContent = job ? `${cost} ${now[job.state] ?? ""}` : cost;
    button.hidden = job !== null && job.state !== "failed";
  };
  const follow = async () => {
    const now = (await listPresets(ofModel)).find(({ name }) => name === preset.name);
    if (!line.isConnected) return;
    if (now.carrier === "steering") return replace(now);
    tell(now);
    const isAsBefore = now.reason === preset.reason; // what is done is noticed a moment later
    if (now.compiling && now.compiling.state !== "failed" && isAsBefore) setTimeout(follow, LOOK_AGAIN);
  };
  button.addEventListener("click", () => compilePreset(preset.name, ofModel)
    .then((now) => { tell(now); setTimeout(follow, LOOK_AGAIN); })
    .catch((error) => { told.textContent = error.message; }));
  tell(preset);
  if (preset.compiling) setTimeout(follow, LOOK_AGAIN);
}

/** Put a preset that is compiled now in place of its prompt, chosen as it was. */
function replace(preset) {
  const chip = makeChip(preset);
  chipOf(preset.name).replaceWith(chip);
  drop(preset);
  $("input", chip).checked = true;
  choose(preset);
}

function drop(preset) {
  chosen.delete(preset.name);
  [...$("#strengths").children].find((row) => row.dataset.name === preset.name).remove();
  showMix();
}

/** The mix that is chosen, in words, without what nothing can carry yet. */
export const mix = () => formatMix([...chosen.values()].filter(({ carrier }) => carrier));

/** The same by its prompts, which have no strength; "none" where none of the presets has one. */
export const promptedMix = () => formatMix(
  [...chosen.values()]
    .filter(({ strength, prompt_tokens: tokens }) => strength > 0 && tokens !== null)
    .map((choice) => ({ ...choice, strength: choice.default })),
);

/** Whether anything that is chosen steers, rather than comes in by its prompt. */
export const isSteered = () => [...chosen.values()].some(({ carrier }) => carrier === "steering");

const showMix = () => document.dispatchEvent(new Event("mix"));

/** The prompt tokens of the instructions that the mix stands in for, as far as they are known. */
export function tokensSaved() {
  const known = [...chosen.values()].filter(
    ({ strength, carrier }) => strength > 0 && carrier === "steering",
  );
  const tokens = known.reduce((sum, preset) => sum + (preset.tokens_saved ?? 0), 0);
  return { tokens, atLeast: known.some((preset) => preset.tokens_saved === null) };
}
