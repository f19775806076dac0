// Labels of features: edited here, kept in a file that the library reads too (`load_labels`). A page
// cannot write by itself: the user saves the file, and is asked before leaving without.

const LABELS = "feature labels 1";
const LONGEST = 2000;

function labelEditor(page, node) {
  if (node.kind !== "feature") return [];
  const input = make("input", { id: "label", type: "text", maxlength: LONGEST, placeholder: "what it stands for", "aria-label": `label of ${node.unit}` });
  input.value = labelOf(page.data, node);
  input.addEventListener("change", () => setLabel(page, node, input.value.trim()));
  return [make("h3", {}, "Label"), input];
}

function setLabel(page, node, text) {
  const key = `${node.place} ${node.number}`;
  if ((page.data.labels.get(key) ?? "") === text) return;
  if (text === "") page.data.labels.delete(key);
  else page.data.labels.set(key, text);
  page.unsaved += 1;
  relabel(page);
}

function relabel(page) {
  for (const [index, mark] of page.drawing.nodes) mark.setAttribute("aria-label", `${titleOf(page.data, page.data.nodes[index])}, ${page.data.nodes[index].name}`);
  showLabels(page);
  refresh(page);
}

function showLabels(page) {
  const units = new Set(page.data.nodes.filter((node) => labelOf(page.data, node) !== "").map((node) => node.unit));
  const changed = page.unsaved > 0 ? `; ${page.unsaved} change${page.unsaved === 1 ? "" : "s"} not yet in a file` : "";
  find("labels-about").textContent = `${units.size} feature${units.size === 1 ? "" : "s"} of this graph ${units.size === 1 ? "has" : "have"} one${changed}`;
}

function exportLabels(page) {
  const places = Object.create(null);
  for (const [key, text] of [...page.data.labels].sort(([a], [b]) => (a < b ? -1 : 1))) {
    const [, place, number] = key.match(/^(.*) (\d+)$/s);
    places[place] = { ...places[place], [number]: text };
  }
  offer(`${JSON.stringify({ format: LABELS, labels: places }, null, 1)}\n`, "application/json", "labels.json");
  page.unsaved = 0;
  showLabels(page);
}

async function importLabels(page, file) {
  const said = find("labels-said");
  try {
    const read = readLabels(JSON.parse(await file.text()));
    for (const [key, text] of read) page.data.labels.set(key, text);
    said.textContent = `${read.length} label${read.length === 1 ? "" : "s"} read from ${file.name}`;
    relabel(page);
  } catch (error) {
    said.textContent = `${file.name} holds no labels: ${error.message}`;
  }
}

// Labels of a file as [key, text]; throws in words where it is something else.
function readLabels(content) {
  if (content === null || typeof content !== "object" || content.format !== LABELS || content.labels === null || typeof content.labels !== "object")
    throw new Error(`the format \u201c${LABELS}\u201d is needed`);
  return Object.entries(content.labels).flatMap(([place, texts]) =>
    Object.entries(texts ?? {}).map(([number, text]) => {
      if (!/^\d{1,11}$/.test(number)) throw new Error(`${place} ${number} is no feature; a number from 0 on is needed`);
      if (typeof text !== "string" || text.length > LONGEST) throw new Error(`the label of ${place} ${number} is no text of at most ${LONGEST} letters`);
      return [`${place} ${number}`, text];
    }).filter(([, text]) => text !== ""),
  );
}
