/* Pictures that go in: chosen, dropped, pasted, or taken from a result. An address is the worker's to fetch, and shows nothing here. */
class Picture {
  constructor(about_it) { Object.assign(this, about_it); }
  get bytes() { return Math.floor(this.text.length * 3 / 4); }
  toJSON() { return this.text; }
}
const PICKERS = {
  init_images: {title: "Draw over", add: "Draw over a picture", more: "Another picture"},
  image: {title: "Make larger", add: "Make a picture larger", more: "Another picture"},
  mask: {title: "Mask", add: "Choose a mask", more: "Choose a mask"},
};
const pictures = {init_images: [], image: [], mask: []};

const size = bytes => bytes < 1e6 ? `${Math.max(1, Math.round(bytes / 1e3))} kB` : `${(bytes / 1e6).toFixed(1)} MB`;
/* What the request is, by the same rule as the worker's; a picture to make larger goes before those to draw over, which wait. */
function task() { return pictures.image.length ? "extra-single-image" : pictures.init_images.length ? "img2img" : "txt2img"; }

function makePicker(name) {
  const id = `f-${name}`, {title, add} = PICKERS[name];
  const input = el("input", {id, type: "file", name, accept: "image/png,image/jpeg,image/webp", multiple: name === "init_images", hidden: true});
  const error = el("p", {className: "error", id: `${id}-error`}), rows = el("div", {className: "rows"});
  const button = el("button", {type: "button", className: "small", id: `add-${name}`, textContent: add, "aria-describedby": error.id});
  const box = el("div", {className: "picker", role: "group", "aria-label": title, "data-picture": name},
    el("p", {className: "label", textContent: title}), rows, el("div", {className: "row"}, button), input, error);
  button.addEventListener("click", () => input.click());
  input.addEventListener("change", async () => { const files = [...input.files]; input.value = ""; await take(name, files, true); });
  fields.set(name, {input, kind: "picture", error, box, rows, button});
  return box;
}
function makePictures() {
  const box = el("fieldset", {id: "pictures"}, el("legend", {textContent: "Pictures that go in"}), makePicker("init_images"), makePicker("image"), makePicker("mask"),
    el("div", {id: "over"}), el("p", {className: "hint", id: "drop", textContent: "Or drop or paste one, or its https address, anywhere."}));
  const paint = el("button", {type: "button", className: "small", id: "paint", textContent: "Paint a mask"});
  paint.addEventListener("click", openPainter);
  fields.get("mask").button.before(paint);
  return box;
}
function arrangePictures() {
  const now = task();
  for (const [name, {title, add, more}] of Object.entries(PICKERS)) {
    const {box, button} = fields.get(name), count = pictures[name].length;
    box.classList.toggle("empty", !count && name !== "mask");
    button.textContent = count ? more : add;
    button.hidden = count > 0 && name !== "init_images";
  }
  $("paint").hidden = !pictures.init_images[0]?.width;
  $("paint").textContent = pictures.mask[0]?.isMade ? "Go on painting" : "Paint a mask";
  $("pictures").classList.toggle("idle", now === "txt2img");
  $("drop").hidden = now !== "txt2img";
}

async function readPicture(blob, name, isMade) {
  const limit = about.max_body_bytes;
  if (blob.size * 4 / 3 > limit) throw new Error(`${name} has ${size(blob.size)}, a third more in base64; a request has at most ${limit / 1e6} MB`);
  const url = URL.createObjectURL(blob), image = new Image();
  image.src = url;
  try { await image.decode(); } catch { URL.revokeObjectURL(url); throw new Error(`${name} is no picture that this browser knows`); }
  const reader = new FileReader();
  const read = new Promise((resolve, reject) => { reader.onload = () => resolve(reader.result); reader.onerror = () => reject(new Error(`${name} cannot be read`)); });
  reader.readAsDataURL(blob);
  const text = (await read).split(",")[1];
  return new Picture({name: freeName(name), text, url, width: image.naturalWidth, height: image.naturalHeight, isMade});
}
/* A name that no other picture has, since what is copied reads files by their names. */
function freeName(name) {
  const names = new Set(Object.values(pictures).flat().map(each => each.name)), [, stem, end] = /^(.*?)(\.[^.]*)?$/s.exec(name);
  for (let number = 1; ; number++) {
    const made = number === 1 ? name : `${stem}-${number}${end ?? ""}`;
    if (!names.has(made)) return made;
  }
}
function clearErrors(name) {
  clearProblems(fields.get(name).box);
  fields.get(name).box.classList.remove("wrong");
}
async function take(name, files, isMore, isMade = false) {
  clearErrors(name);
  const taken = [];
  for (const file of files) {
    try { taken.push(await readPicture(file, file.name || "picture.png", isMade)); } catch (error) { problemAt(name, error.message); }
  }
  if (taken.length) setPictures(name, name === "init_images" ? [...(isMore ? pictures[name] : []), ...taken] : taken.slice(-1));
}
function setPictures(name, list) {
  for (const each of pictures[name]) if (!list.includes(each)) URL.revokeObjectURL(each.url);
  pictures[name] = list;
  if (name === "init_images") { suggestSize(list[0]); dropMask(list[0]); }
  if (name === "image" && !fields.get("upscaler_1").input.value) fields.get("upscaler_1").input.value = about.upscalers[0] ?? "";
  fields.get(name).rows.replaceChildren(...list.map(each => makeRow(name, each)));
  show();
  const last = list.at(-1);
  $("said").textContent = last ? `${last.name}, ${told(last)}` : "Removed";
}
const told = each => each.address ? "the worker fetches it" : `${each.width} × ${each.height}, ${size(each.bytes)}`;
function makeRow(name, picture) {
  const error = el("p", {className: "error", id: `picture-${Math.random().toString(36).slice(2)}`});
  const remove = el("button", {type: "button", className: "remove", textContent: "✕", "aria-label": `Remove ${picture.name}`, "aria-describedby": error.id});
  remove.addEventListener("click", () => {
    setPictures(name, pictures[name].filter(each => each !== picture));
    const button = fields.get(name).button;
    (name === "mask" && !$("paint").hidden ? $("paint") : button).focus();
  });
  const about_it = el("div", {}, el("p", {textContent: picture.name}), el("p", {className: "hint", textContent: told(picture)}));
  const save = picture.isMade ? [el("a", {className: "button", href: picture.url, download: picture.name, textContent: "Save", "aria-label": `Save ${picture.name}`})] : [];
  return el("div", {className: "chosen"}, picture.address ? el("i", {className: "far", textContent: "↗"}) : el("img", {src: picture.url, alt: ""}), about_it, ...save, remove, error);
}
/* The webui stretches to 512 × 512 where nothing else is asked for. */
function suggestSize(picture) {
  const inputs = ["width", "height"].map(each => fields.get(each).input);
  if (inputs.some(each => each.value && each.value !== each.dataset.suggested)) return;
  const isKnown = Boolean(picture?.width), factor = isKnown ? Math.min(1, 1024 / Math.max(picture.width, picture.height)) : 0;
  [picture?.width, picture?.height].forEach((side, number) => {
    inputs[number].value = inputs[number].dataset.suggested = isKnown ? Math.max(64, Math.round(side * factor / 8) * 8) : "";
  });
}
/* A painted mask stays as long as it fits: over the next picture of the same size, the same part is drawn again. */
function dropMask(picture) {
  const [mask] = pictures.mask;
  if (mask?.isMade && picture && (mask.width !== picture.width || mask.height !== picture.height)) { strokes = []; setPictures("mask", []); }
}

/* Files before an address, which browsers add to a picture that is dragged from a page. */
function takeFrom(data, onto) {
  const files = [...data.files], text = data.getData("text/plain").trim(), name = onto ?? (task() === "extra-single-image" ? "image" : "init_images");
  if (files.length) take(name, files, false);
  else if (/^https?:\/\/\S+$/i.test(text)) { clearErrors(name); setPictures(name, [new Picture({name: text, address: text})]); }
}
/* Whether it is text for a field, or the painter's: not ours. */
const isElsewhere = (event, has) => $("painter").open || event.target.closest?.("input, textarea") && has;
document.addEventListener("paste", event => {
  if (isElsewhere(event, event.clipboardData.types.includes("text/plain"))) return;
  event.preventDefault();
  takeFrom(event.clipboardData);
});
/* A file that nobody takes would be opened by the browser in place of the page. */
for (const name of ["dragover", "drop", "dragleave"]) document.addEventListener(name, event => {
  const hasFiles = event.dataTransfer.types.includes("Files"), isOurs = !isElsewhere(event, !hasFiles);
  if (hasFiles || isOurs) event.preventDefault();
  $("pictures").classList.toggle("awaits", name === "dragover" && isOurs);
  if (name === "drop" && isOurs) takeFrom(event.dataTransfer, event.target.closest?.("[data-picture]")?.dataset.picture);
});
