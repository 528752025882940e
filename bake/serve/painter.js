/* A mask painted over the picture, as strokes, by mouse, pen or finger; closing it, however, keeps what is painted. */
let strokes = [], stroke = null;
function openPainter() {
  const [{url, width, height}] = pictures.init_images;
  if (!pictures.mask[0]?.isMade) strokes = [];
  Object.assign($("canvas"), {width, height});
  $("under").src = url;
  $("easel").style.setProperty("--ratio", width / height);
  $("erase").checked = false;
  repaint();
  $("painter").showModal();
}
function brushPixels() { return Math.max(1, Number($("brush").value) / 100 * Math.min($("canvas").width, $("canvas").height)); }
function paintFrom({points, width, isErasing, clears}, from) {
  const context = $("canvas").getContext("2d");
  if (clears) context.clearRect(0, 0, $("canvas").width, $("canvas").height);
  Object.assign(context, {lineWidth: width, lineCap: "round", strokeStyle: "#c026d3", fillStyle: "#c026d3", globalCompositeOperation: isErasing ? "destination-out" : "source-over"});
  for (const [number, [x, y]] of points.entries()) {
    if (number < from) continue;
    context.beginPath();
    if (number) { context.moveTo(...points[number - 1]); context.lineTo(x, y); context.stroke(); }
    else { context.arc(x, y, width / 2, 0, 2 * Math.PI); context.fill(); }
  }
}
function repaint() {
  const {width, height} = $("canvas");
  $("canvas").getContext("2d").clearRect(0, 0, width, height);
  for (const each of strokes) paintFrom(each, 0);
  for (const name of ["undo", "clear"]) $(name).setAttribute("aria-disabled", String(!strokes.length));
}
function placeRing(event) {
  const {left, top, width} = $("canvas").getBoundingClientRect(), across = brushPixels() * width / $("canvas").width;
  Object.assign($("ring").style, {width: `${across}px`, height: `${across}px`, left: `${event.clientX - left - across / 2}px`, top: `${event.clientY - top - across / 2}px`});
  $("ring").hidden = event.pointerType === "touch";
}
function paintTo(event) {
  const {left, top, width, height} = $("canvas").getBoundingClientRect(), from = stroke.points.length;
  const all = event.getCoalescedEvents?.() ?? [];
  for (const each of all.length ? all : [event])
    stroke.points.push([(each.clientX - left) * $("canvas").width / width, (each.clientY - top) * $("canvas").height / height]);
  paintFrom(stroke, from);
}
function undo() { strokes.pop(); repaint(); }
/* Black and white, of the picture's size; none where nothing is painted. */
function takeMask() {
  stroke = null;
  const {width, height} = $("canvas"), made = el("canvas", {width, height}), context = made.getContext("2d");
  context.drawImage($("canvas"), 0, 0);
  const painted = context.getImageData(0, 0, width, height), pixels = new Uint32Array(painted.data.buffer);
  let isEmpty = true;
  for (let at = 0; at < pixels.length; at++) {
    const isPainted = painted.data[4 * at + 3] >= 128;
    pixels[at] = isPainted ? 0xffffffff : 0xff000000;
    isEmpty &&= !isPainted;
  }
  if (isEmpty) { if (pictures.mask[0]?.isMade) setPictures("mask", []); return; }
  context.putImageData(painted, 0, 0);
  const url = made.toDataURL("image/png");
  pictures.mask = [];
  setPictures("mask", [new Picture({name: freeName("mask.png"), text: url.split(",")[1], url, width, height, isMade: true})]);
}

for (const [name, act] of [["undo", undo], ["clear", () => { strokes.push({points: [], clears: true}); repaint(); }], ["painted", () => $("painter").close()]]) $(name).addEventListener("click", act);
$("painter").addEventListener("close", () => { takeMask(); $("paint").focus(); });
$("canvas").addEventListener("pointerdown", event => {
  if (event.button || !event.isPrimary) return;
  $("canvas").setPointerCapture(event.pointerId);
  stroke = {points: [], width: brushPixels(), isErasing: $("erase").checked};
  strokes.push(stroke);
  paintTo(event);
  for (const name of ["undo", "clear"]) $(name).setAttribute("aria-disabled", "false");
});
$("canvas").addEventListener("pointermove", event => { placeRing(event); if (stroke && event.isPrimary) paintTo(event); });
for (const name of ["pointerup", "pointercancel"]) $("canvas").addEventListener(name, () => { stroke = null; });
$("canvas").addEventListener("pointerleave", () => { $("ring").hidden = true; });
$("painter").addEventListener("keydown", event => {
  if (event.key.toLowerCase() === "z" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); undo(); }
});
