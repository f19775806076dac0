// The attention view: lines between tokens for one head, small maps for all.

const ROW = 22; // pixels of a token
const SIDE = 190; // of a column of tokens
const BETWEEN = 260;
const FULL = 65535;
const MAP = 64;

function start() {
  const data = readData();
  const page = { data, at: reader(data), layer: data.layer, head: data.head, held: null, marks: [] };
  find("title").textContent = data.title;
  for (const [id, n] of [["layer", data.layers], ["head", data.heads]])
    find(id).replaceChildren(...Array.from({ length: n }, (_, i) => make("option", { value: i }, i)));
  find("skip-first").disabled = data.tokens.length < 2;
  listen(page);
  followTheme(find("theme"), () => drawMaps(page));
  drawHead(page);
}

// The weight of a head from a query to a key; a causal pattern travels without its empty half.
function reader(data) {
  const weights = unpack(data.weights, Uint16Array);
  const n = data.tokens.length;
  const size = data.causal ? (n * (n + 1)) / 2 : n * n;
  return (layer, head, query, key) => {
    if (data.causal && key > query) return 0;
    const within = data.causal ? (query * (query + 1)) / 2 + key : query * n + key;
    return weights[(layer * data.heads + head) * size + within] / FULL;
  };
}

function weight(page, query, key) {
  const skipped = key === 0 && find("skip-first").checked;
  return skipped ? 0 : page.at(page.layer, page.head, query, key);
}

// One head.

function drawHead(page) {
  const { data } = page;
  find("layer").value = page.layer;
  find("head").value = page.head;
  find("least-said").textContent = `${find("least").value} %`;
  const [width, height] = [2 * SIDE + BETWEEN, ROW * data.tokens.length + 30];
  const svg = shape("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": `attention of layer ${page.layer}, head ${page.head}`, xmlns: SVG });
  page.lines = shape("g");
  page.sides = ["query", "key"].map((side) => data.tokens.map((token, i) => tokenBox(page, side, token, i)));
  svg.append(
    shape("text", { class: "heading", x: SIDE - 8, y: 12, "text-anchor": "end" }, "query"),
    shape("text", { class: "heading", x: SIDE + BETWEEN + 8, y: 12 }, "key"),
    page.lines, ...page.sides.flat(),
  );
  page.svg = svg;
  find("lines").replaceChildren(svg);
  showFocus(page, page.held);
}

function tokenBox(page, side, token, i) {
  const left = side === "query";
  const [x, y] = [left ? 0 : SIDE + BETWEEN, 20 + i * ROW];
  const box = shape("g", { class: "token", tabindex: 0, "data-side": side, "data-at": i, "aria-label": `${side} ${i}: ${token}` },
    shape("rect", { x: x + 1, y: y + 1, width: SIDE - 2, height: ROW - 2, rx: 4 }),
    shape("text", { x: left ? SIDE - 8 : x + 8, y: y + ROW / 2, "text-anchor": left ? "end" : "start" }, shortened(visible(token))),
    shape("text", { class: "weight", x: left ? 8 : x + SIDE - 8, y: y + ROW / 2, "text-anchor": left ? "start" : "end" }),
  );
  const here = { side, i };
  for (const event of ["pointerenter", "focus"]) box.addEventListener(event, () => showFocus(page, here));
  for (const event of ["pointerleave", "blur"]) box.addEventListener(event, () => showFocus(page, page.held));
  box.addEventListener("click", () => hold(page, here));
  box.addEventListener("keydown", (event) => { if (event.key === "Enter") hold(page, here); });
  return box;
}

function shortened(text) {
  return text.length > 17 ? `${text.slice(0, 16)}\u2026` : text;
}

function hold(page, here) {
  const same = page.held && page.held.side === here.side && page.held.i === here.i;
  page.held = same ? null : here;
  showFocus(page, page.held);
}

// All lines, or those of one token with their weights as numbers and shading.
function showFocus(page, here) {
  const n = page.data.tokens.length;
  const least = Number(find("least").value) / 100;
  const lines = [];
  for (let query = 0; query < n; query += 1)
    for (let key = 0; key < n; key += 1) {
      const wanted = here === null || (here.side === "query" ? query : key) === here.i;
      const share = wanted ? weight(page, query, key) : 0;
      if (share > 0 && (here !== null || share >= least)) lines.push(line(query, key, share, here !== null));
    }
  page.lines.replaceChildren(...lines);
  page.sides.flat().forEach((box) => shade(page, box, here));
}

function line(query, key, share, alone) {
  const [y1, y2] = [query, key].map((i) => 20 + i * ROW + ROW / 2);
  const middle = SIDE + BETWEEN / 2;
  const opacity = alone ? 0.1 + 0.9 * Math.sqrt(share) : Math.min(1, 0.06 + share);
  const d = `M${SIDE} ${y1}C${middle} ${y1} ${middle} ${y2} ${SIDE + BETWEEN} ${y2}`;
  return shape("path", { class: "line", d, "stroke-width": 0.5 + 2.5 * share, opacity });
}

function shade(page, box, here) {
  const [side, i] = [box.dataset.side, Number(box.dataset.at)];
  const other = here !== null && here.side !== side;
  const share = !other ? 0 : side === "key" ? weight(page, here.i, i) : weight(page, i, here.i);
  box.querySelector("rect").style.fillOpacity = other ? 0.55 * share : 0;
  box.querySelector(".weight").textContent = other && share >= 0.0005 ? percent(share) : "";
  const held = page.held !== null && page.held.side === side && page.held.i === i;
  box.classList.toggle("held", held);
}

// All heads.

function drawMaps(page) {
  const { data } = page;
  const maps = find("maps");
  maps.style.gridTemplateColumns = `auto repeat(${data.heads}, ${MAP + 2}px)`;
  const heads = Array.from({ length: data.heads }, (_, head) => make("div", { class: "soft number top" }, head));
  const rows = [make("div", { class: "soft number" }, "head"), ...heads];
  for (let layer = data.layers - 1; layer >= 0; layer -= 1) {
    rows.push(make("div", { class: "soft number" }, `layer ${layer}`));
    for (let head = 0; head < data.heads; head += 1) rows.push(mapButton(page, layer, head));
  }
  maps.replaceChildren(...rows);
}

function mapButton(page, layer, head) {
  const chosen = layer === page.layer && head === page.head ? " chosen" : "";
  const button = make("button", { class: `map${chosen}`, "aria-label": `layer ${layer}, head ${head}` }, mapOf(page, layer, head));
  button.addEventListener("pointerenter", (event) => showCard(`layer ${layer}, head ${head}`, habits(page, layer, head), event));
  button.addEventListener("focus", (event) => showCard(`layer ${layer}, head ${head}`, habits(page, layer, head), event));
  for (const event of ["pointerleave", "blur"]) button.addEventListener(event, hideCard);
  button.addEventListener("click", () => {
    go(page, layer, head);
    show(page, "head");
  });
  return button;
}

// How much attention goes, on average over queries, to the first, the last and the same token.
function habits(page, layer, head) {
  const n = page.data.tokens.length;
  const mean = (keyOf, from) => {
    let sum = 0;
    for (let query = from; query < n; query += 1) sum += page.at(layer, head, query, keyOf(query));
    return n > from ? percent(sum / (n - from), 0) : "\u2013";
  };
  return [["to the first token", mean(() => 0, 0)], ["to the token before", mean((query) => query - 1, 1)], ["to itself", mean((query) => query, 0)]];
}

function mapOf(page, layer, head) {
  const n = page.data.tokens.length;
  const canvas = make("canvas", { width: n, height: n, style: `width:${MAP}px;height:${MAP}px` });
  const context = canvas.getContext("2d");
  const colour = window.getComputedStyle(document.documentElement).getPropertyValue("--accent").trim();
  context.fillStyle = colour;
  for (let query = 0; query < n; query += 1)
    for (let key = 0; key < n; key += 1) {
      context.globalAlpha = page.at(layer, head, query, key);
      context.fillRect(key, query, 1, 1);
    }
  return canvas;
}

// Controls.

function go(page, layer, head) {
  page.layer = layer;
  page.head = head;
  drawHead(page);
}

function step(page, by) {
  const { layers, heads } = page.data;
  const next = (page.layer * heads + page.head + by + layers * heads) % (layers * heads);
  go(page, Math.floor(next / heads), next % heads);
}

function show(page, view) {
  hideCard();
  for (const name of ["head", "model"]) {
    find(`${name}-view`).hidden = name !== view;
    find(`show-${name}`).setAttribute("aria-pressed", name === view);
  }
  find("save").hidden = view === "model";
  if (view === "model") drawMaps(page);
}

function listen(page) {
  find("layer").addEventListener("change", (event) => go(page, Number(event.target.value), page.head));
  find("head").addEventListener("change", (event) => go(page, page.layer, Number(event.target.value)));
  find("before").addEventListener("click", () => step(page, -1));
  find("after").addEventListener("click", () => step(page, 1));
  for (const id of ["least", "skip-first"]) find(id).addEventListener("input", () => drawHead(page));
  find("show-head").addEventListener("click", () => show(page, "head"));
  find("show-model").addEventListener("click", () => show(page, "model"));
  find("save").addEventListener("click", () => download(page.svg, `attention-${page.layer}-${page.head}.svg`));
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    page.held = null;
    hideCard();
    showFocus(page, null);
  });
}

start();
