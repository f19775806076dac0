// Words about edges and nodes: hover cards, the list beside the drawing, the legend.

const KINDS = { embed: "token embedding", head: "attention head", group: "shared key-value head", mlp: "MLP", logits: "logits" };
const PARTS = { "only-a": "only in A", "only-b": "only in B", both: "in both" };
const INPUTS = { q: "query input", k: "key input", v: "value input", "": "input" };
const LISTED = 10;

function edgeRows(data, edge) {
  const rows = data.lists.flatMap((list, which) => {
    const i = edge.ranks[which];
    const of = data.lists.length > 1 ? ` in ${list.name}` : "";
    if (i === undefined) return [[`score${of}`, "\u2013"]];
    return [...scoreRows(list, i, of), [`rank${of}`, `${whole(i + 1)} of ${whole(list.total)}`]];
  });
  return [...rows, ["reads", `${INPUTS[edge.reader.letter]} of ${data.graph.nodes[edge.dest].name}`]];
}

function scoreRows(list, i, of) {
  if (list.score === null) return [];
  const rows = [[`score${of}`, `${digits(list.score[i])}${list.score[i] > 0 ? ", helps" : list.score[i] < 0 ? ", hurts" : ""}`]];
  if (list.error) {
    const [score, error] = [list.score[i], list.error[i]];
    rows.push(["standard error", digits(error)]);
    rows.push(["95 % interval", `${digits(score - 1.96 * error)} to ${digits(score + 1.96 * error)}`]);
  }
  if (list.stability) rows.push(["same sign in", `${percent(list.stability[i], 0)} of resamples`]);
  if (list.inclusion) rows.push(["among the best in", `${percent(list.inclusion[i], 0)} of resamples`]);
  return rows;
}

function nodeRows(data, edges, index) {
  const node = data.graph.nodes[index];
  const into = edges.filter((edge) => edge.dest === index);
  const out = edges.filter((edge) => edge.source === index);
  const rows = [["kind", KINDS[node.kind]]];
  if (["head", "group", "mlp"].includes(node.kind)) rows.push(["layer", node.layer]);
  rows.push(["edges shown", `${into.length} in, ${out.length} out`]);
  if (data.lists[0].score && out.length > 0) rows.push(["sum of scores out", digits(sumOf(out))]);
  return rows;
}

function sumOf(edges) {
  return edges.reduce((sum, edge) => sum + (edge.scores[0] ?? 0), 0);
}

// The list of edges: around the chosen node, or the strongest of all.

function showDetails(data, edges, chosen, paths, on) {
  const panel = find("details");
  if (chosen === null) {
    panel.replaceChildren(make("h2", {}, "Strongest edges"), ...edgeList(data, edges, on));
    return;
  }
  const node = data.graph.nodes[chosen];
  const clear = make("button", { id: "clear" }, "Clear");
  clear.addEventListener("click", on.clear);
  const head = make("div", { class: "row" }, make("h2", {}, "Paths through"), make("strong", {}, node.name), clear);
  const nodes = (n) => `${n} node${n === 1 ? "" : "s"}`;
  const said = `${KINDS[node.kind]}; ${nodes(paths.upstream)} upstream, ${nodes(paths.downstream)} downstream, ${paths.keys.size} edges on its paths`;
  panel.replaceChildren(head, make("p", { class: "soft", id: "paths" }, said),
    make("h3", {}, "In"), ...edgeList(data, edges.filter((edge) => edge.dest === chosen), on),
    make("h3", {}, "Out"), ...edgeList(data, edges.filter((edge) => edge.source === chosen), on));
}

function edgeList(data, edges, on) {
  const best = [...edges].sort((a, b) => sizeOf(b) - sizeOf(a)).slice(0, LISTED);
  const rows = best.map((edge) => edgeRow(data, edge, on));
  if (edges.length > best.length) rows.push(make("p", { class: "soft" }, `and ${whole(edges.length - best.length)} more`));
  return rows.length > 0 ? rows : [make("p", { class: "soft" }, "none")];
}

function edgeRow(data, edge, on) {
  const score = edge.scores.find((one) => one !== null) ?? null;
  const side = score > 0 ? "helping" : score < 0 ? "hurting" : "";
  const value = make("span", { class: `number ${side}` }, score === null ? "" : digits(score));
  const row = make("button", { class: "edge-row" }, make("span", {}, edge.name), value);
  row.addEventListener("pointerenter", (event) => on.edge(edge.key, event));
  row.addEventListener("focus", (event) => on.edge(edge.key, event));
  for (const end of ["pointerleave", "blur"]) row.addEventListener(end, on.leave);
  row.addEventListener("click", () => on.choose(edge.source));
  return row;
}

// Which edges are shown, in one sentence.
function showCount(data, state, found) {
  const total = data.lists[0].total;
  const words = [`${whole(found.edges.length)} edge${found.edges.length === 1 ? "" : "s"} drawn`];
  if (found.edges.length < found.allowed) words[0] = `the strongest ${whole(found.edges.length)} of ${whole(found.allowed)} edges drawn`;
  const filtered = found.chosen - found.allowed;
  if (filtered > 0) words.push(`${whole(filtered)} hidden`);
  const size = Math.min(state.size, data.lists[0].length);
  if (state.prune && data.lists.length === 1 && found.chosen < size) words.push(`${whole(size - found.chosen)} on no path`);
  if (data.lists[0].length < total) words.push(`this file holds the best ${whole(data.lists[0].length)} of ${whole(total)}`);
  find("shown").textContent = words.join("; ");
}

// The legend as rows of [look of the line, its width, words].
function legendRows(data, view = "drawing") {
  const scored = data.lists.some((list) => list.score);
  const rows = data.lists.length > 1
    ? Object.entries(PARTS).map(([part, said]) => [`edge ${part}`, 2.5, said])
    : scored
      ? [["edge helps", 2.5, "positive: helps the metric in the clean run"], ["edge hurts", 2.5, "negative: hurts it"]]
      : [["edge", 1.7, "edge (no scores)"]];
  const strength = "|score| relative to the strongest";
  if (view === "matrix") return scored ? [...rows, ["edge", 0.8, `strength of colour: ${strength}`]] : rows;
  if (scored) rows.push(["edge", 0.8, `width: ${strength}`]);
  if (data.graph.links.length > 0) rows.push(["link", 1, "shared key-value head to its heads"]);
  return rows;
}
