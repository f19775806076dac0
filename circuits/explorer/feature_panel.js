// Words about nodes of a graph of features: hover cards, and all that is known of the chosen one.

const MOST_LISTED = 10;

function cardOf(page, node) {
  const { data } = page;
  const rows = [["name", node.name], ["at", visible(data.tokens[node.position])]];
  if (node.kind === "logit") rows.push(["probability", percent(node.weight)], ["logit above the mean", digits(node.value)]);
  if (node.kind === "feature") rows.push(["activation", digits(node.value)]);
  if (node.kind === "error") rows.push(["size", digits(node.value)]);
  rows.push(["influence", digits(node.influence)]);
  const example = node.unit === null ? undefined : data.examples[node.unit];
  if (example && example.promoted.length > 0) rows.push(["promotes", example.promoted.slice(0, 5).map(visible).join(" ")]);
  const tie = page.state.chosen === null ? null : tieBetween(page, node.index);
  if (tie !== null) rows.push([tie.of, `${digits(tie.weight)}, ${percent(tie.share, 0)} of what it reads`]);
  return rows;
}

// The edge between the chosen node and another.
function tieBetween(page, index) {
  const { data, state } = page;
  const into = data.into[state.chosen].find((e) => data.edges.source[e] === index);
  const out = data.outOf[state.chosen].find((e) => data.edges.target[e] === index);
  if (into === undefined && out === undefined) return null;
  const e = into ?? out;
  return { of: into === undefined ? "reads from the chosen one" : "writes to the chosen one", weight: data.edges.weight[e], share: shareOf(data, e) };
}

function showChosen(page) {
  const { data, state } = page;
  const panel = find("details");
  markPrompt(page);
  if (state.chosen === null) {
    const best = data.order.filter((index) => page.found.seen[index]).slice(0, 12);
    const rows = best.map((index) => nodeRow(page, index, digits(data.nodes[index].influence)));
    panel.replaceChildren(make("h2", {}, "Most influence"), ...(rows.length > 0 ? rows : [make("p", { class: "soft" }, "none")]));
    return;
  }
  const node = data.nodes[state.chosen];
  panel.replaceChildren(headOf(page, node), ...labelEditor(page, node), ...valuesOf(page, node), ...exampleOf(page, node), ...steeredBy(page, node), ...tiesOf(page, node));
}

function headOf(page, node) {
  const pin = make("button", { id: "pin", "aria-pressed": String(page.state.pinned.includes(node.index)) }, page.state.pinned.includes(node.index) ? "Pinned" : "Pin");
  pin.addEventListener("click", () => togglePin(page, node.index));
  const clear = make("button", { id: "clear" }, "Clear");
  clear.addEventListener("click", () => clearChosen(page));
  const rows = cardOf(page, node).filter(([name]) => name !== "promotes");
  const facts = make("dl", {}, ...rows.flatMap(([name, value]) => [make("dt", {}, name), make("dd", { class: "number" }, value)]));
  return make("div", {}, make("div", { class: "row" }, make("strong", { id: "chosen-title" }, titleOf(page.data, node)), pin, clear), facts);
}

// A node as a line of a list: a click chooses it.
function nodeRow(page, index, value, side = "") {
  const node = page.data.nodes[index];
  const title = titleOf(page.data, node);
  const row = make("button", { class: "edge-row" }, make("span", {}, `${title}${whereOf(page.data, node, title)}`), make("span", { class: `number ${side}` }, value));
  row.addEventListener("pointerenter", (event) => showCard(title, cardOf(page, node), event));
  row.addEventListener("pointerleave", hideCard);
  row.addEventListener("click", () => chooseNode(page, index));
  return row;
}

// The largest edges in and out, with the share of what the target reads.
function tiesOf(page, node) {
  const { data } = page;
  const side = (edges, end, heading) => {
    const best = [...edges].sort((a, b) => Math.abs(data.edges.weight[b]) - Math.abs(data.edges.weight[a]));
    const rows = best.slice(0, MOST_LISTED).map((e) => {
      const weight = data.edges.weight[e];
      return nodeRow(page, data.edges[end][e], `${digits(weight)} \u00b7 ${percent(shareOf(data, e), 0)}`, weight < 0 ? "hurting" : "helping");
    });
    if (best.length > rows.length) rows.push(make("p", { class: "soft" }, `and ${whole(best.length - rows.length)} more`));
    return [make("h3", {}, heading), ...(rows.length > 0 ? rows : [make("p", { class: "soft" }, "none was kept")])];
  };
  const reads = node.kind === "feature" || node.kind === "logit";
  const open = reads ? [make("p", { class: "soft" }, `reads ${digits(node.reads)} in all, of which ${digits(node.constant)} is constant and ${digits(node.rest)} was not kept`)] : [];
  return [...(reads ? side(data.into[node.index], "source", "Reads, and the share of all") : []), ...open, ...(node.kind === "logit" ? [] : side(data.outOf[node.index], "target", "Read by, and the share of what that reads"))];
}

// Values over the prompt.

function promptValues(data, node) {
  if (node.unit === null) return null;
  const told = data.values[node.unit];
  if (told) return told;
  const own = data.nodes.filter((one) => one.unit === node.unit);
  return data.tokens.map((_, position) => own.find((one) => one.position === position)?.value ?? null);
}

function valuesOf(page, node) {
  const values = promptValues(page.data, node);
  if (values === null) return [];
  const largest = Math.max(...values.map((value) => Math.abs(value ?? 0))) || 1;
  const wide = 248 / values.length;
  const bars = values.map((value, position) => {
    const high = value === null ? 1 : Math.max(value === 0 ? 0.6 : 1.5, (40 * Math.abs(value)) / largest);
    const look = value === null || value === 0 ? "none" : value < 0 ? "under" : "";
    return shape("rect", { class: look, x: round(position * wide), y: round(43 - high), width: Math.max(0.8, round(wide - 1)), height: round(high) });
  });
  const chart = shape("svg", { class: "bars", viewBox: "0 0 248 44", preserveAspectRatio: "none", role: "img", "aria-label": "activation over the prompt" }, ...bars);
  chart.addEventListener("pointermove", (event) => {
    const room = chart.getBoundingClientRect();
    const position = Math.min(values.length - 1, Math.max(0, Math.floor(((event.clientX - room.left) / room.width) * values.length)));
    showCard(visible(page.data.tokens[position]), [[`position ${position}`, values[position] === null ? "not in this graph" : digits(values[position])]], event);
  });
  chart.addEventListener("pointerleave", hideCard);
  const some = page.data.values[node.unit] ? [] : [make("p", { class: "soft" }, "only where it is in this graph")];
  return [make("h3", {}, "Activation over the prompt"), chart, ...some];
}

// The prompt above the drawing; the chosen feature's activation colours its tokens.
function writePrompt(page) {
  const tokens = page.data.tokens.map((token, position) => make("span", { class: "token", "data-position": position }, visible(token)));
  find("prompt").replaceChildren(...tokens);
}

function markPrompt(page) {
  const { data, state } = page;
  const node = state.chosen === null ? null : data.nodes[state.chosen];
  const values = node === null ? null : promptValues(data, node);
  const largest = values === null ? 1 : Math.max(...values.map((value) => Math.abs(value ?? 0))) || 1;
  [...find("prompt").children].forEach((token, position) => {
    token.classList.toggle("here", node !== null && node.position === position);
    token.style.background = values === null || !values[position] ? "" : tinted(Math.abs(values[position]) / largest);
  });
}

function tinted(share) {
  return `color-mix(in srgb, var(--accent) ${Math.round(60 * share)}%, var(--panel))`;
}

// What it promotes, and where it was largest in a text.
function exampleOf(page, node) {
  const example = node.unit === null ? undefined : page.data.examples[node.unit];
  if (!example) return [];
  const words = (tokens) => make("p", { class: "words" }, ...tokens.map((token) => make("code", {}, visible(token))));
  const parts = [];
  if (example.promoted.length > 0) parts.push(make("h3", {}, "Promotes"), words(example.promoted), make("h3", {}, "Suppresses"), words(example.suppressed));
  if (example.contexts.length > 0) {
    const about = `active on ${percent(example.frequency)} of tokens of ${page.data.text || "the text"}; at most ${digits(example.largest)}`;
    parts.push(make("h3", {}, "Where it is largest"), make("p", { class: "soft" }, about), ...example.contexts.map((one) => contextOf(one, example.largest)));
  }
  return parts;
}

function contextOf(context, largest) {
  const line = make("p", { class: "context" });
  const between = context.tokens.some((token) => token.includes(" ")) ? "" : " "; // as its tokenizer has it
  context.tokens.forEach((token, i) => {
    const value = context.values[i];
    const word = make("span", { class: i === context.at ? "peak" : "" }, token.replace(/\n/g, "\u21b5"));
    if (value > 0) word.style.background = tinted(value / (largest || 1));
    word.title = digits(value);
    line.append(word, between);
  });
  return line;
}

// Where a node of a list stands: its own name where it is called by another, and its token.
function whereOf(data, node, title) {
  if (node.kind === "embedding" || node.kind === "logit") return ` \u00b7 ${node.position}`;
  const name = node.unit === title ? "" : node.unit === null ? `${node.place} ` : `${node.unit} `;
  return ` \u00b7 ${name}at ${visible(data.tokens[node.position])}`;
}
