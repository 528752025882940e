"use strict";
const $ = id => document.getElementById(id);
const el = (tag, set = {}, ...children) => {
  const made = document.createElement(tag);
  for (const [key, value] of Object.entries(set))
    if (key.includes("-") || key === "for" || key === "list" || key === "role") made.setAttribute(key, value); else made[key] = value;
  made.append(...children);
  return made;
};
const FIRST = [["prompt"], ["negative_prompt"], "pictures", ["upscaler_1", "upscaling_resize"], ["width", "height"], ["steps", "cfg_scale"], ["sampler_name", "scheduler"], ["seed", "batch_size"], "loras"];
const WORDS = {prompt: "Prompt", negative_prompt: "Not in the picture", width: "Width", height: "Height", steps: "Steps", cfg_scale: "Guidance",
  sampler_name: "Sampler", scheduler: "Scheduler", seed: "Seed", batch_size: "Pictures", n_iter: "Batches", checkpoint: "Checkpoint",
  upscaler_1: "Upscaler", upscaling_resize: "Times as large", previews: "Show it meanwhile", alwayson_scripts: "Scripts of extensions"};
const SECTIONS = [["picture", "More of the picture"], ["sampling", "Sampling"], ["hires", "Hires fix"], ["init", "Drawing over a picture"], ["upscaling", "Making a picture larger"],
  ["model", "Models"], ["output", "Output"]];
/* Fields that stand elsewhere in one kind of request. */
const MOVED = {denoising_strength: ["img2img", "over"], resize_mode: ["extra-single-image", "section-upscaling"]};
const KNOWN = {
  sampler_name: ["DPM++ 2M", "DPM++ SDE", "DPM++ 2M SDE", "DPM++ 2M SDE Heun", "DPM++ 2S a", "DPM++ 3M SDE", "Euler a", "Euler", "LMS", "Heun", "DPM2", "DPM2 a", "DPM fast", "DPM adaptive", "Restart", "DDIM", "PLMS", "UniPC"],
  scheduler: ["Automatic", "Uniform", "Karras", "Exponential", "Polyexponential", "SGM Uniform"],
  hr_upscaler: ["Latent", "Latent (antialiased)", "Latent (bicubic)", "Latent (bicubic antialiased)", "Latent (nearest)", "Latent (nearest-exact)"],
};
/* Numbers that stand for words; of an upscaling others. */
const CHOICES = {resize_mode: ["Stretch to width and height", "Cut to their shape", "Fill up", "Stretch as a latent picture"],
  inpainting_fill: ["The colours around it", "The picture", "Noise", "Nothing"]};
const CHOICES_LARGER = {resize_mode: ["By a factor", "To a width and height"]};
const fields = new Map(), lists = [], homes = new Map();
let about, drawing = null, form = "json", state = "starting", urls = [], result = null;

function word(name) {
  if (WORDS[name]) return WORDS[name];
  const words = name.replace(/^hr_/, "hires_").replace(/_hr$/, "_hires_fix").replaceAll("_", " ");
  return words[0].toUpperCase() + words.slice(1);
}
function kindOf(property) { return [property.type].flat().filter(each => each !== "null")[0]; }

function makeField(name, property, isFirst) {
  const kind = kindOf(property), id = `f-${name}`, isList = Boolean(property.items?.anyOf), long = kind === "object" || isList || /prompt$/.test(name);
  let input;
  if (CHOICES[name]) input = el("select", {id}, ...CHOICES[name].map((textContent, value) => el("option", {value, textContent})));
  else if (property.enum) {
    input = el("select", {id});
    for (const each of property.enum) input.append(el("option", {value: each, textContent: each}));
    input.value = property.default ?? "";
  } else if (kind === "boolean") input = el("input", {id, type: "checkbox", checked: property.default === true});
  else if (long) input = el("textarea", {id, rows: name === "prompt" ? 4 : 2, spellcheck: kind === "string", placeholder: isList ? '[{"name": "…", "url": "https://…"}]' : kind === "object" ? "{}" : ""});
  else {
    input = el("input", {id, type: "text", spellcheck: false});
    if (kind === "integer" || kind === "number") input.inputMode = property.minimum >= 0 ? (kind === "integer" ? "numeric" : "decimal") : "text";
    const known = name.endsWith("checkpoint") || name === "hr_checkpoint_name" ? about.checkpoints : /upscaler_?[12]?$/.test(name) ? [...(KNOWN[name] ?? []), ...about.upscalers] : KNOWN[name.replace(/^hr_/, "")];
    if (known?.length) {
      input.setAttribute("list", `${id}-known`);
      lists.push(el("datalist", {id: `${id}-known`}, ...known.map(each => el("option", {value: each}))));
    }
    if (property.default !== undefined) input.placeholder = String(property.default);
  }
  input.name = name;
  const hint = el("p", {className: "hint", id: `${id}-hint`, textContent: property.description.replaceAll("`", "") + bounds(property)});
  const error = el("p", {className: "error", id: `${id}-error`});
  input.setAttribute("aria-describedby", isFirst ? `${id}-error` : `${id}-hint ${id}-error`);
  const box = kind === "boolean" && !property.enum
    ? el("div", {className: "field"}, el("label", {className: "check", for: id}, input, word(name)), hint, error)
    : el("div", {className: "field"}, el("label", {for: id, textContent: word(name)}), input, hint, error);
  if (isFirst || CHOICES[name]) { hint.hidden = true; input.title = property.description + bounds(property); }
  fields.set(name, {input, property, kind, error, box});
  return box;
}
function bounds({minimum, maximum, multipleOf}) {
  const small = each => each !== undefined && Math.abs(each) < 1e6;
  const parts = [small(minimum) && small(maximum) ? `${minimum} to ${maximum}` : small(maximum) ? `at most ${maximum}` : "", multipleOf ? `a multiple of ${multipleOf}` : ""].filter(Boolean);
  return parts.length ? ` (${parts.join(", ")})` : "";
}
function addLora() {
  const number = $("loras").children.length, id = `lora-${Date.now()}-${number}`;
  const where = el("input", {id, type: "text", className: "where", spellcheck: false, list: "known-loras", placeholder: "https://…"});
  const scale = el("input", {id: `${id}-scale`, type: "text", className: "scale", inputMode: "decimal", placeholder: "1"});
  const error = el("p", {className: "error", id: `${id}-error`});
  where.setAttribute("aria-describedby", error.id);
  const remove = el("button", {type: "button", className: "remove", textContent: "✕"});
  remove.setAttribute("aria-label", "Remove this LoRA");
  const row = el("div", {className: "lora"}, el("div", {}, el("label", {for: id, textContent: "Name, address or CivitAI version"}), where), el("div", {}, el("label", {for: scale.id, textContent: "Strength"}), scale), remove, error);
  remove.addEventListener("click", () => { row.remove(); $("add-lora").focus(); show(); });
  $("loras").append(row);
  where.focus();
}
function makeLoras() {
  const add = el("button", {id: "add-lora", className: "small", type: "button", textContent: "Add a LoRA"});
  add.addEventListener("click", addLora);
  return el("fieldset", {}, el("legend", {textContent: "LoRAs"}), el("div", {id: "loras"}), add, el("p", {className: "error", id: "f-loras-error"}),
    el("datalist", {id: "known-loras"}, ...about.loras.map(each => el("option", {value: each}))));
}
function build() {
  const properties = about.schema.properties, used = new Set([...FIRST.flat(), "init_images", "image", "mask", "previews"]);
  for (const names of FIRST) {
    if (names === "pictures") { $("first").append(makePictures()); continue; }
    if (names === "loras") { $("first").append(makeLoras()); continue; }
    const boxes = names.filter(name => properties[name]).map(name => makeField(name, properties[name], true));
    $("first").append(boxes.length > 1 ? el("div", {className: "pair"}, ...boxes) : boxes[0]);
  }
  const known = SECTIONS.map(([section]) => section), others = [...new Set(Object.values(about.sections))].filter(each => each !== "neutral" && !known.includes(each));
  for (const [section, title] of [...SECTIONS, ...others.map(each => [each, word(each)])]) {
    const names = Object.keys(about.sections).filter(name => about.sections[name] === section && !used.has(name) && name !== "loras");
    if (names.length) $("rest").append(el("details", {}, el("summary", {textContent: title}), el("div", {id: `section-${section}`}, ...names.map(name => makeField(name, properties[name], false)))));
  }
  $("form").append(...lists);
  $("draw").parentElement.append(makeField("previews", properties.previews, true));
  for (const name of Object.keys(MOVED)) { const {box} = fields.get(name); homes.set(name, [box.parentElement, box.nextElementSibling]); }
  if (about.scripts.length) fields.get("alwayson_scripts").input.placeholder = JSON.stringify(Object.fromEntries(about.scripts.map(each => [each, {args: []}])));
  if (about.in_prompts.length) Object.assign($("f-prompt-hint"), {hidden: false, textContent: `Baked, by name: ${about.in_prompts.join(", ")}`});
  fields.get("sampler_name").input.placeholder = properties.sampler_index?.default ?? "";
  fields.get("scheduler").input.placeholder = "Automatic";
  fields.get("prompt").input.placeholder = "A red circle on a white background";
  $("name").textContent = about.name;
  document.title = `${about.name} · bake serve`;
  $("about").textContent = `${about.checkpoints[0] ?? ""} · ${about.family} · webui ${about.webui}`;
  $("image-name").replaceChildren(about.image ? "Image " : "", el("code", {textContent: about.image}));
}

/* Other words for the same numbers; what was chosen of the former ones is kept for them. */
function chooseOf(input, words) {
  if (input.options[0].textContent === words[0]) return;
  [...input.options].forEach((each, number) => { each.textContent = words[number] ?? ""; each.hidden = each.disabled = !words[number]; });
  [input.value, input.dataset.other] = [input.dataset.other ?? "0", input.value];
}
/* What has no use in such a request is neither shown nor sent. */
function arrange() {
  const now = task(), isOn = now === "txt2img" ? fields.get("enable_hr").input.checked && "enable_hr" : now === "img2img" && pictures.mask.length && "mask";
  const unused = new Set(about.unused[isOn ? `${now} ${isOn}` : now]);
  for (const [name, field] of fields) field.box.hidden = field.isUnused = unused.has(name);
  for (const [name, [when, where]] of Object.entries(MOVED)) {
    const {box} = fields.get(name), [parent, next] = homes.get(name);
    if (now === when) $(where).append(box); else if (box.parentElement !== parent) parent.insertBefore(box, next);
  }
  for (const name of Object.keys(CHOICES_LARGER)) chooseOf(fields.get(name).input, now === "extra-single-image" ? CHOICES_LARGER[name] : CHOICES[name]);
  $("loras").parentElement.hidden = unused.has("loras");
  for (const each of document.querySelectorAll(".pair")) each.hidden = [...each.children].every(child => child.hidden);
  for (const each of document.querySelectorAll("details")) each.hidden = [...each.lastElementChild.children].every(child => child.hidden);
  fields.get("denoising_strength").input.placeholder = now === "img2img" ? "0.75" : "";
  arrangePictures();
  $("draw").textContent = now === "extra-single-image" ? "Make larger" : "Draw";
}

function problemAt(name, message) {
  const number = /^(loras|init_images)\[(\d+)\]/.exec(name);
  const row = number ? (number[1] === "loras" ? $("loras") : fields.get("init_images").rows).children[Number(number[2])] : null;
  const field = fields.get(name.split(/[.[]/)[0]);
  const box = row ?? field?.box ?? (name.startsWith("loras") ? $("loras").parentElement : null);
  if (!box || box.hidden || field?.box.hidden) return false;
  const error = row ? row.querySelector(".error") : field ? field.error : $("f-loras-error");
  const inner = name.includes(".") && !/\.(name|url|civitai)$/.test(name) ? `${name.split(".").slice(1).join(".")}: ` : "";
  error.textContent = (error.textContent ? `${error.textContent}. ` : "") + inner + message;
  box.classList.add("wrong");
  for (const input of box.querySelectorAll("input, select, textarea")) input.setAttribute("aria-invalid", "true");
  const closed = box.closest("details");
  if (closed) closed.open = true;
  return true;
}
function clearProblems(within = document) {
  for (const each of within.querySelectorAll(".error")) each.textContent = "";
  for (const each of within.querySelectorAll(".wrong")) each.classList.remove("wrong");
  for (const each of within.querySelectorAll("[aria-invalid]")) each.removeAttribute("aria-invalid");
}
function readNumber(text) {
  const number = Number(text);
  return !Number.isFinite(number) || (Number.isInteger(number) && !Number.isSafeInteger(number)) ? text : number;
}
/* The request as it stands in the form: what differs from the defaults. What is no number or no JSON goes as a text, and the worker says so. */
function readRequest() {
  const request = {}, wrong = [];
  for (const [name, {input, property, kind, isUnused}] of fields) {
    if (isUnused) continue;
    let value;
    if (kind === "picture") {
      const all = pictures[name].map(each => each.address ?? each);
      if (!all.length) continue;
      value = name === "init_images" ? all : all[0];
    } else if (kind === "boolean") { value = input.checked; if (value === (property.default ?? false)) continue; }
    else {
      const text = input.value.trim();
      if (name === "prompt") value = input.value;
      else if (!text || (input.tagName === "SELECT" && text === String(property.default))) continue;
      else if (kind === "integer" || kind === "number") value = readNumber(text);
      else if (kind === "object" || text.startsWith("[") && kind === "array") { try { value = JSON.parse(text); } catch { wrong.push([name, "is no JSON"]); continue; } }
      else if (kind === "array") value = text.split(",").map(each => each.trim()).filter(Boolean);
      else value = input.value;
    }
    request[name] = value;
  }
  const loras = [...$("loras").children].map(row => {
    const where = row.querySelector(".where").value.trim(), scale = row.querySelector(".scale").value.trim();
    const lora = /^\d+$|civitai:/.test(where) ? {name: `civitai-${where.replace(/[^0-9A-Za-z]+/g, "-")}`, civitai: where}
      : where.includes("://") ? {name: stem(where), url: where} : {name: where};
    if (scale) lora.scale = readNumber(scale);
    return lora;
  });
  if (loras.length && !$("loras").parentElement.hidden) request.loras = loras;
  return {request, wrong};
}
function stem(url) {
  const last = url.split(/[?#]/)[0].split("/").pop().replace(/\.[a-z]+$/i, "");
  return last.replace(/[^0-9A-Za-z_-]+/g, "-").replace(/^-+|-+$/g, "").slice(0, 60) || "lora";
}

function show() { arrange(); $("code").textContent = written(readRequest().request)[form]; }
function choose(tab, isFocused) {
  for (const each of document.querySelectorAll("[role=tab]")) { each.setAttribute("aria-selected", each === tab); each.tabIndex = each === tab ? 0 : -1; }
  form = tab.dataset.form;
  $("code").setAttribute("aria-labelledby", tab.id);
  if (isFocused) tab.focus();
  show();
}
/* What is shown, its pictures in full. */
function whole() { return form === "json" ? JSON.stringify({input: readRequest().request}, null, 2) : $("code").textContent; }
async function copy(button, text) {
  const before = button.dataset.label ??= button.textContent;
  try { await navigator.clipboard.writeText(text); button.textContent = "Copied"; $("said").textContent = "Copied"; }
  catch { getSelection().selectAllChildren($("code")); button.textContent = "Press Ctrl C"; }
  setTimeout(() => { button.textContent = before; $("said").textContent = ""; }, 1800);
}

function setState(now, text) { state = now; $("state").dataset.state = now; if ($("state").textContent !== text) $("state").textContent = text; }
function report(text, isBad = false) { $("report").textContent = text; $("report").classList.toggle("bad", isBad); }
function setProgress(share) { $("fill").style.transform = `scaleX(${share})`; $("bar").setAttribute("aria-valuenow", Math.round(share * 100)); }
const began = Date.now();
async function watch() {
  let status = 0;
  try { status = (await fetch("/ping", {cache: "no-store"})).status; } catch { /* the page's own server has ended */ }
  if (status === 204) setState("starting", `Loading the model, ${Math.round((Date.now() - began) / 1000)} s`);
  else if (status === 200) { if (!drawing) setState("ready", "Ready"); }
  else setState("ended", status ? "The worker has ended; the terminal says why" : "bake serve has ended");
  $("draw").setAttribute("aria-disabled", String(status !== 200 || drawing !== null));
  setTimeout(watch, status === 204 ? 500 : 3000);
}

async function* readEvents(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const {value, done} = await reader.read();
    if (done) return;
    text += value;
    for (let end; (end = text.indexOf("\n\n")) >= 0; text = text.slice(end + 2)) {
      const lines = text.slice(0, end).split("\n");
      yield [lines[0].replace(/^event: /, ""), JSON.parse(lines[1].replace(/^data: /, ""))];
    }
  }
}
async function draw() {
  if (drawing) return;
  clearProblems();
  const {request, wrong} = readRequest();
  if (wrong.length) return fail({detail: "A field is no JSON.", fields: wrong.map(([field, message]) => ({field, message}))});
  const body = JSON.stringify({input: request}), bytes = new Blob([body]).size;
  if (bytes > about.max_body_bytes) return fail(tooLarge(request, bytes));
  if (state !== "ready") return report(state === "starting" ? "The model is still being loaded." : "The worker has ended.", state === "ended");
  drawing = new AbortController();
  setBusy(true);
  report(request.image ? "Waiting for the upscaler" : "Waiting for the first step");
  if (matchMedia("(max-width: 52rem)").matches) $("stage").scrollIntoView({block: "center", behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth"});
  const from = performance.now();
  try {
    const answer = await fetch("/txt2img", {method: "POST", signal: drawing.signal, body,
      headers: {"Content-Type": "application/json", "Accept": "text/event-stream"}});
    if (!(answer.headers.get("Content-Type") ?? "").startsWith("text/event-stream")) { fail(await answer.json()); return; }
    let isDone = false;
    for await (const [name, data] of readEvents(answer)) {
      if (name === "progress") {
        setProgress(data.progress);
        if (data.preview) showPreview(data.preview);
        const eta = data.eta_s > 0.5 ? `, ${Math.round(data.eta_s)} s left` : "";
        if (data.steps) report(`Step ${data.step} of ${data.steps}${eta}`);
      } else { isDone = true; if (name === "result") await accept(data, request, (performance.now() - from) / 1000); else fail(data); }
    }
    if (!isDone) fail({detail: "The worker ended while it drew; the terminal says why."});
  } catch (error) {
    if (error.name === "AbortError") report("Stopped."); else fail({detail: "The worker’s answer did not come."});
  } finally { drawing = null; setBusy(false); }
}
function tooLarge(request, bytes) {
  const [name, largest] = [...(request.init_images ?? []).map((each, number) => [`init_images[${number}]`, each]), ["mask", request.mask], ["image", request.image]]
    .filter(([, each]) => each instanceof Picture).sort(([, one], [, other]) => other.bytes - one.bytes)[0] ?? [];
  const fields = largest ? [{field: name, message: `has ${size(largest.bytes)}, a third more in base64; save it smaller, as JPEG for example`}] : [];
  return {detail: `the request has ${size(bytes)}, at most ${size(about.max_body_bytes)} are taken`, fields};
}
function showPreview(text) {
  $("preview").src = `data:image/jpeg;base64,${text}`;
  $("preview").hidden = false;
}
function setBusy(isBusy) {
  $("stage").classList.toggle("busy", isBusy);
  $("stage").setAttribute("aria-busy", String(isBusy));
  if (!isBusy && document.activeElement === $("stop")) $("draw").focus();
  $("stop").hidden = !isBusy;
  $("draw").setAttribute("aria-disabled", String(isBusy));
  setProgress(0);
  $("preview").hidden = true;
  if (isBusy) setState("drawing", "Drawing"); else if (state === "drawing") setState("ready", "Ready");
}
function fail(problem) {
  const left = (problem.fields ?? []).filter(each => !problemAt(each.field, each.message));
  const text = (problem.detail ?? problem.message ?? "The worker gives no reason.").replace(/^[a-z_0-9]+(?=:)/, word);
  report([text[0].toUpperCase() + text.slice(1), ...left.map(each => `${each.field}: ${each.message}`)].join(". "), true);
  const first = document.querySelector(".wrong :is(input:not([hidden]), select, textarea, button:not([hidden]))");
  if (first) first.focus();
}
async function accept(output, request, seconds) {
  const info = JSON.parse(output.info || "{}"), made = output.bakery.output, images = output.images ?? [output.image];
  for (const each of urls) URL.revokeObjectURL(each);
  urls = [];
  if (made.delivery === "s3") return report(`In the bucket: ${images.join(", ")}`);
  const files = images.map(text => new Blob([Uint8Array.from(atob(text), each => each.charCodeAt(0))], {type: `image/${made.format}`}));
  urls = files.map(each => URL.createObjectURL(each));
  result = {files, output, info, request, seconds, format: made.format};
  $("strip").replaceChildren(...urls.map((url, number) => {
    const button = el("button", {type: "button"}, el("img", {src: url, alt: `Picture ${number + 1}`}));
    button.addEventListener("click", () => look(number));
    return button;
  }));
  $("strip").hidden = urls.length < 2;
  await look(0);
  report(`${request.image ? "Made larger" : "Drawn"} in ${seconds.toFixed(1)} s.`);
}
async function look(number) {
  const {files, output, info, request, seconds, format} = result, image = $("image"), about_it = output.bakery;
  [...$("strip").children].forEach((each, at) => each.setAttribute("aria-pressed", String(at === number)));
  image.src = urls[number];
  image.alt = request.prompt || "The picture";
  await image.decode().catch(() => {});
  image.hidden = false;
  $("empty").hidden = true;
  const seed = about_it.seeds[number] ?? info.seed, sampler = info.sampler_name ?? "";
  const rows = [["Seed", seed], ["Size", `${image.naturalWidth} × ${image.naturalHeight}`], ["Sampler", sampler && `${sampler}, ${info.steps} steps, guidance ${info.cfg_scale}`],
    ["Upscaler", request.image && request.upscaler_1],
    ["Model", about_it.model?.name], ["Time", `${seconds.toFixed(1)} s, of which ${request.image ? "upscaling" : "drawing"} ${(about_it.timings.generate_s ?? 0).toFixed(1)} s`],
    ["LoRAs", (about_it.loras ?? []).map(each => `${each.name} ${each.scale ?? ""}`.trim()).join(", ")], ["Notes", about_it.notes.join("; ")]];
  $("facts").replaceChildren(...rows.filter(([, value]) => value !== "" && value !== undefined).flatMap(([name, value]) => [el("dt", {textContent: name}), el("dd", {textContent: value})]));
  $("save").href = urls[number];
  const name = $("save").download = `${about.name}-${seed ?? "larger"}.${format}`;
  $("keep-seed").onclick = () => { fields.get("seed").input.value = seed; show(); $("said").textContent = `Seed ${seed}`; };
  $("keep-seed").hidden = seed === undefined;
  $("copy-parameters").hidden = !info.infotexts;
  for (const [id, where, next] of [["use-over", "init_images", "denoising_strength"], ["use-larger", "image", "upscaling_resize"]]) $(id).onclick = async () => {
    if (where === "init_images" && pictures.image.length) setPictures("image", []);
    await take(where, [new File([files[number]], name)], false, true);
    fields.get(next).input.focus();
  };
  $("copy-parameters").onclick = event => copy(event.currentTarget, info.infotexts?.[number] ?? "");
  $("caption").classList.remove("none");
}

$("form").addEventListener("submit", event => { event.preventDefault(); draw(); });
$("form").addEventListener("input", show);
$("stop").addEventListener("click", () => drawing?.abort());
$("copy").addEventListener("click", event => copy(event.currentTarget, whole()));
$("code").addEventListener("copy", event => {
  if (getSelection().toString().trim() !== $("code").textContent.trim()) return;
  event.preventDefault();
  event.clipboardData.setData("text/plain", whole());
});
document.addEventListener("keydown", event => {
  if ($("painter").open) return;
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); draw(); }
  if (event.key === "Escape" && drawing) drawing.abort();
});
for (const tab of document.querySelectorAll("[role=tab]")) {
  tab.addEventListener("click", () => choose(tab, false));
  tab.addEventListener("keydown", event => {
    const tabs = [...document.querySelectorAll("[role=tab]")], at = tabs.indexOf(tab);
    const to = {ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: tabs.length - 1}[event.key];
    if (to !== undefined) { event.preventDefault(); choose(tabs[(to + tabs.length) % tabs.length], true); }
  });
}
(async () => {
  about = await (await fetch("/about")).json();
  build();
  show();
  fields.get("prompt").input.focus({preventScroll: true});
  watch();
})();
