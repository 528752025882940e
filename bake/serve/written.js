/* The request as JSON, curl and Python. A picture is shown by its name: JSON has it whole when it is copied, the others read the file. */
const python = (value, indent = "    ") => {
  if (value === null) return "None";
  if (value === true) return "True";
  if (value === false) return "False";
  if (value instanceof Picture) return `read(${JSON.stringify(value.name)})`;
  if (Array.isArray(value)) return value.length ? `[${value.map(each => python(each, indent)).join(", ")}]` : "[]";
  if (typeof value === "object") {
    const rows = Object.entries(value).map(([key, each]) => `${indent}    ${JSON.stringify(key)}: ${python(each, indent + "    ")},\n`);
    return rows.length ? `{\n${rows.join("")}${indent}}` : "{}";
  }
  return JSON.stringify(value);
};
/* JSON with something else in place of each picture. */
function jsonWith(value, replace) {
  return JSON.stringify(value, function (key, each) { return this[key] instanceof Picture ? replace(this[key]) : each; }, 2);
}
function written(request) {
  const url = `${location.origin}/txt2img`, kind = request.image_format ?? "png", used = [request.init_images ?? [], request.mask ?? [], request.image ?? []].flat().filter(each => each instanceof Picture);
  const one = Number(request.batch_size ?? 1) * Number(request.n_iter ?? 1) === 1 && (request.delivery ?? "base64") === "base64";
  const accept = one ? `image/${kind}` : "application/json";
  let file = one ? `picture.${kind}` : "answer.json";
  while (used.some(each => each.name === file)) file = `new-${file}`;
  return {
    json: jsonWith({input: request}, each => `<${each.name}, ${size(each.bytes)}, in base64>`),
    curl: `curl --fail-with-body ${url} \\\n  --header 'Content-Type: application/json' \\\n  --header 'Accept: ${accept}' \\\n  --output ${file} \\\n  ${used.length ? curlFromFiles(request, used) : `--data '${JSON.stringify(request, null, 2).replaceAll("'", "'\\''")}'`}`,
    python: `${used.length ? "import base64\n" : ""}from pathlib import Path\n\nimport requests\n\n${used.length ? PYTHON_READ : ""}answer = requests.post(\n    ${JSON.stringify(url)},\n    json=${python(request)},\n    headers={"Accept": "${accept}"},\n    timeout=600,\n)\nanswer.raise_for_status()\nPath("${file}").write_bytes(answer.content)`,
  };
}
const PYTHON_READ = "\ndef read(file):\n    return base64.b64encode(Path(file).read_bytes()).decode()\n\n\n";
/* By a here-document: an argument may have 128 KiB, and only what stands in one can be read from files. */
function curlFromFiles(request, used) {
  const body = jsonWith(request, each => `\ue000${used.indexOf(each)}\ue001`).replace(/[\\$`]/g, "\\$&");
  const read = number => `$(base64 < '${used[number].name.replaceAll("'", "'\\''")}' | tr -d '\\n')`;
  return `--data-binary @- <<EOF\n${body.replace(/\ue000(\d+)\ue001/g, (_, number) => read(number))}\nEOF`;
}
