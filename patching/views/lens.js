// The table of a lens: a row per layer, the last at the top, a column per position.

function start() {
  const data = readData();
  const page = { data, chosen: unpack(data.chosen, Uint32Array), shares: unpack(data.probabilities, Float32Array), marked: null };
  find("title").textContent = data.title;
  find("known").replaceChildren(...data.vocabulary.map((token) => make("option", { value: token })));
  page.cells = data.layers.map((_, layer) => data.tokens.map((_, at) => cellFor(page, layer, at)));
  find("table").replaceChildren(tableOf(page));
  listen(page);
  followTheme(find("theme"));
  showMarks(page);
}

// The likeliest tokens of a cell as [token, probability].
function likeliest(page, layer, at) {
  const { top, tokens, vocabulary } = page.data;
  const from = (layer * tokens.length + at) * top;
  return Array.from({ length: top }, (_, i) => [vocabulary[page.chosen[from + i]], page.shares[from + i]]);
}

function tableOf(page) {
  const { tokens, layers } = page.data;
  const heads = (words) => make("tr", {}, make("th"), ...words.map((word) => make("th", { scope: "col", title: word }, word)));
  const rows = layers.map((name, layer) => make("tr", {}, make("th", { scope: "row" }, name), ...page.cells[layer]));
  return make("table", {},
    make("thead", {}, heads(tokens.map((_, at) => String(at)))),
    make("tbody", {}, ...rows.reverse()),
    make("tfoot", {}, heads(tokens.map(visible))),
  );
}

function cellFor(page, layer, at) {
  const [token, share] = likeliest(page, layer, at)[0];
  const label = `layer ${page.data.layers[layer]}, position ${at}: ${token}, ${percent(share)}`;
  const cell = make("td", { class: `cell${share > 0.72 ? " sure" : ""}`, tabindex: 0, "aria-label": label },
    make("span", { class: "tint", style: `opacity:${Math.round(share * 92) / 100}` }), visible(token));
  for (const event of ["pointerenter", "focus"]) cell.addEventListener(event, (e) => showCell(page, layer, at, e));
  for (const event of ["pointerleave", "blur"]) cell.addEventListener(event, hideCard);
  cell.addEventListener("click", () => choose(page, token));
  cell.addEventListener("keydown", (event) => cellKey(page, layer, at, event));
  return cell;
}

function showCell(page, layer, at, event) {
  const { layers, tokens } = page.data;
  const rows = likeliest(page, layer, at).map(([token, share]) => [visible(token), bar(share)]);
  showCard(`layer ${layers[layer]}, after ${at} ${visible(tokens[at])}`, rows, event);
}

function bar(share) {
  const length = Math.max(1, Math.round(90 * share));
  return make("span", {}, make("span", { class: "bar-of", style: `width:${length}px` }), percent(share));
}

// Arrows go from cell to cell; Enter marks the cell's token everywhere.
function cellKey(page, layer, at, event) {
  const step = { ArrowUp: [1, 0], ArrowDown: [-1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
  if (event.key === "Enter") choose(page, likeliest(page, layer, at)[0][0]);
  else if (step) page.cells[layer + step[0]]?.[at + step[1]]?.focus();
  else return;
  event.preventDefault();
}

function choose(page, token) {
  page.marked = page.marked === token ? null : token;
  find("search").value = page.marked ?? "";
  showMarks(page);
}

// Where the marked token is the likeliest (first) or among the likeliest.
function showMarks(page) {
  find("table").classList.toggle("marking", page.marked !== null);
  let [first, among] = [0, 0];
  page.cells.forEach((row, layer) => row.forEach((cell, at) => {
    const rank = likeliest(page, layer, at).findIndex(([token]) => token === page.marked);
    cell.classList.toggle("first", rank === 0);
    cell.classList.toggle("marked", rank >= 0);
    first += rank === 0;
    among += rank >= 0;
  }));
  find("said").textContent = page.marked === null
    ? "The likeliest next token after every layer; darker is surer. Hover for more, click to mark a token everywhere, Esc to clear."
    : `${visible(page.marked)}: likeliest in ${first} cells, among the ${page.data.top} likeliest in ${among}`;
}

function listen(page) {
  find("search").addEventListener("input", (event) => {
    const text = event.target.value;
    const known = page.data.vocabulary;
    page.marked = text === "" ? null : known.find((token) => token === text) ?? known.find((token) => token.trim() === text.trim()) ?? text;
    showMarks(page);
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    page.marked = null;
    find("search").value = "";
    hideCard();
    showMarks(page);
  });
}

start();
