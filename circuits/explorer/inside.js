// What a node does on the page's prompt: where it looks, what it says, what was measured of it.

function openInsides(data) {
  const { insides } = data;
  if (!insides) return null;
  const n = insides.tokens.length;
  const shares = unpack(insides.patterns, Uint8Array);
  const size = (n * (n + 1)) / 2;
  const share = (layer, head, query, key) =>
    key > query ? 0 : shares[(layer * insides.heads + head) * size + (query * (query + 1)) / 2 + key] / 255;
  return { ...insides, n, share };
}

// The heads whose patterns belong to a node: itself, or those that share a key-value head.
function headsOf(data, node) {
  if (node.kind === "head") return [node];
  if (node.kind !== "group") return [];
  return data.graph.links.filter(([group]) => group === node.index).map(([, head]) => data.graph.nodes[head]);
}

function insideOf(page, node) {
  const { insides, data } = page;
  if (insides === null) return [];
  const effect = insides.effects[node.name];
  const parts = effect === undefined ? [] : [make("p", {}, "exact effect ", make("strong", { class: "number" }, digits(effect)))];
  parts.push(...promotedBy(insides, node));
  for (const head of headsOf(data, node)) parts.push(make("h3", {}, `Attention of ${head.name}`), patternOf(page, head));
  if (headsOf(data, node).length > 0) parts.push(make("p", { class: "soft" }, "queries down, keys across; hover for numbers"), firstSwitch(page));
  return parts;
}

function promotedBy(insides, node) {
  const words = insides.promoted[node.name];
  if (!words) return [];
  const rows = words.map(([token, by]) => make("span", { class: "word" }, make("code", {}, visible(token)), make("span", { class: "soft number" }, ` ${digits(by)}`)));
  return [make("h3", {}, "Promotes, at the last token"), make("p", { class: "words" }, ...rows)];
}

function firstSwitch(page) {
  const box = make("input", { type: "checkbox", id: "skip-first" });
  box.checked = page.state.skipFirst;
  box.addEventListener("change", () => {
    page.state.skipFirst = box.checked;
    relight(page);
    find("skip-first").focus();
  });
  return make("label", { class: "tick" }, box, "leave the first token out");
}

const WIDE = 230; // pixels of a pattern

// A small map of one head; the first token, where much attention rests, can be left out.
function patternOf(page, head) {
  const { insides, state } = page;
  const from = state.skipFirst ? 1 : 0;
  const number = Number(head.name.split(".h")[1]);
  const at = (query, key) => insides.share(head.layer, number, query, key);
  const cell = Math.max(2, Math.min(16, Math.floor(WIDE / Math.max(1, insides.n - from))));
  const side = cell * (insides.n - from);
  const cells = [];
  for (let query = from; query < insides.n; query += 1)
    for (let key = from; key <= query; key += 1)
      if (at(query, key) >= 0.02)
        cells.push(shape("rect", { class: "share", x: (key - from) * cell, y: (query - from) * cell, width: cell, height: cell, opacity: round10(at(query, key)) }));
  const frame = shape("rect", { class: "share-frame", x: 0, y: 0, width: side, height: side });
  const map = shape("svg", { class: "pattern", width: side, height: side, role: "img", "aria-label": `attention of ${head.name}` }, frame, ...cells);
  map.addEventListener("pointermove", (event) => {
    const room = map.getBoundingClientRect();
    const [key, query] = [event.clientX - room.left, event.clientY - room.top].map((place) => from + Math.floor(place / cell));
    if (query >= insides.n || key > query) return hideCard();
    showCard(`${visible(insides.tokens[query])} \u2192 ${visible(insides.tokens[key])}`, [[`${query} to ${key}`, percent(at(query, key))]], event);
  });
  map.addEventListener("pointerleave", hideCard);
  return map;
}

function round10(share) {
  return Math.round((0.08 + 0.92 * share) * 100) / 100;
}

// The prompt, token by token, above the drawing; below it where there are spans.
function showPrompt(page) {
  const { insides } = page;
  find("prompt").hidden = insides === null || page.spans !== null;
  if (insides === null) return;
  const tokens = insides.tokens.map((token) => make("span", { class: "token" }, visible(token)));
  find("prompt").replaceChildren(...tokens);
  find("prompt").title = insides.said;
}
