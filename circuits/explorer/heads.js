// A head on the page's prompt: a map of queries and keys, and the keys that one query matches. Shares of
// attention, or the scores q\u00b7k before the softmax, less their mean over the keys that a query sees.

const WIDE = 230; // pixels of a map
const KEYS = 6; // keys in the list

// What is set for all heads: shares or scores, the first token, the query whose keys are listed.
function headSwitches(page) {
  const { state, insides } = page;
  const mode = (id, matches, said) => {
    const button = make("button", { id, "aria-pressed": state.matches === matches }, said);
    button.addEventListener("click", () => setInside(page, { matches }, id));
    return button;
  };
  const box = make("input", { type: "checkbox", id: "skip-first" });
  box.checked = state.skipFirst;
  box.addEventListener("change", () => setInside(page, { skipFirst: box.checked }, "skip-first"));
  const list = make("select", { id: "query", "aria-label": "query token" }, ...insides.tokens.map((token, i) => make("option", { value: i }, `${i} ${visible(token)}`)));
  list.value = queryOf(page);
  list.addEventListener("change", () => setInside(page, { query: Number(list.value) }, "query"));
  const said = state.matches
    ? "queries down, keys across: scores before the softmax, less their mean over a query's keys; blue above it"
    : "queries down, keys across; hover for numbers, click a row for its keys";
  return [
    make("div", { class: "row", role: "group", "aria-label": "what maps show" }, mode("as-shares", false, "attention"), mode("as-scores", true, "q\u00b7k")),
    make("p", { class: "soft" }, said),
    make("label", { class: "tick" }, box, "leave the first token out"),
    make("label", { class: "tick" }, "query ", list),
  ];
}

function setInside(page, change, focused) {
  Object.assign(page.state, change);
  relight(page);
  writeAddress(page);
  find(focused).focus();
}

// The last token, where answers are read, until another is chosen.
function queryOf(page) {
  return page.state.query ?? page.insides.n - 1;
}

// A small map of one head; the first token, where much attention rests, can be left out.
function patternOf(page, head) {
  const { insides, state } = page;
  const from = state.skipFirst ? 1 : 0;
  const cell = Math.max(2, Math.min(16, Math.floor(WIDE / Math.max(1, insides.n - from))));
  const side = cell * (insides.n - from);
  const frame = shape("rect", { class: "share-frame", x: 0, y: 0, width: side, height: side });
  const what = state.matches ? "scores before softmax" : "attention";
  const map = shape("svg", { class: "pattern", width: side, height: side, role: "img", "aria-label": `${what} of ${head.name}` }, frame, ...cellsOf(page, head, from, cell));
  if (queryOf(page) >= from) map.append(shape("rect", { class: "share-row", x: 0, y: (queryOf(page) - from) * cell, width: side, height: cell }));
  const placeOf = (event) => {
    const room = map.getBoundingClientRect();
    return [event.clientY - room.top, event.clientX - room.left].map((place) => from + Math.floor(place / cell));
  };
  map.addEventListener("pointermove", (event) => showPair(page, head, placeOf(event), event));
  map.addEventListener("pointerleave", hideCard);
  map.addEventListener("click", (event) => setInside(page, { query: Math.min(insides.n - 1, placeOf(event)[0]) }, "query"));
  return map;
}

function cellsOf(page, head, from, cell) {
  const { insides, state } = page;
  const most = state.matches ? largestOf(page, head, from) : 1;
  const cells = [];
  for (let query = from; query < insides.n; query += 1)
    for (let key = from; key <= query; key += 1) {
      const value = (state.matches ? scoreOf : shareOf)(page, head, query, key);
      if (value === null || Math.abs(value) < 0.02 * most) continue;
      const look = state.matches ? (value > 0 ? "match" : "clash") : "share";
      cells.push(shape("rect", { class: look, x: (key - from) * cell, y: (query - from) * cell, width: cell, height: cell, opacity: round10(Math.abs(value) / most) }));
    }
  return cells;
}

function largestOf(page, head, from) {
  let most = 0;
  for (let query = from; query < page.insides.n; query += 1)
    for (let key = from; key <= query; key += 1) most = Math.max(most, Math.abs(scoreOf(page, head, query, key) ?? 0));
  return most || 1;
}

function shareOf(page, head, query, key) {
  return page.insides.share(head.layer, numberOf(head), query, key);
}

function scoreOf(page, head, query, key) {
  return page.insides.score(head.layer, numberOf(head), query, key);
}

function numberOf(head) {
  return Number(head.name.split(".h")[1]);
}

function showPair(page, head, [query, key], event) {
  const { tokens, n } = page.insides;
  if (query >= n || key > query) return hideCard();
  const rows = [[`${query} to ${key}`, percent(shareOf(page, head, query, key))], ["q\u00b7k", scoreWords(scoreOf(page, head, query, key))]];
  showCard(`${visible(tokens[query])} \u2192 ${visible(tokens[key])}`, rows, event);
}

function scoreWords(score) {
  return score === null ? "\u2013" : `${score > 0 ? "+" : ""}${score.toFixed(2).replace("-", "\u2212")}`;
}

// The keys that the chosen query matches best: token, score, share of its attention.
function keysOf(page, head) {
  const query = queryOf(page);
  const { tokens } = page.insides;
  const keys = Array.from({ length: query + 1 }, (_, key) => ({ key, score: scoreOf(page, head, query, key), share: shareOf(page, head, query, key) }));
  const seen = keys.filter(({ key, score }) => score !== null && !(page.state.skipFirst && key === 0));
  const best = seen.sort((a, b) => b.score - a.score).slice(0, KEYS);
  const cellOf = (name, words, look = "number") => make(name, { class: look }, words);
  const head1 = make("tr", {}, cellOf("th", `${visible(tokens[query])} matches`, ""), cellOf("th", "q\u00b7k"), cellOf("th", "share"));
  const rows = best.map(({ key, score, share }) => make("tr", {}, cellOf("td", `${key} ${visible(tokens[key])}`, "key-token"), cellOf("td", scoreWords(score)), cellOf("td", percent(share, 0))));
  return make("table", { class: "keys" }, head1, ...rows);
}

function round10(share) {
  return Math.round((0.08 + 0.92 * share) * 100) / 100;
}
