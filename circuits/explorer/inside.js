// What a node does on the page's prompt: where it looks, what it says, what was measured of it.

const UNSEEN = -32768; // stands for a key that a query does not see, or whose share is too small to tell

function openInsides(data) {
  const { insides } = data;
  if (!insides) return null;
  const n = insides.tokens.length;
  const [shares, scores] = [unpack(insides.patterns, Uint8Array), unpack(insides.scores, Int16Array)];
  const size = (n * (n + 1)) / 2;
  const place = (layer, head, query, key) => (layer * insides.heads + head) * size + (query * (query + 1)) / 2 + key;
  const share = (...at) => (at[3] > at[2] ? 0 : shares[place(...at)] / 255);
  const score = (...at) => (at[3] > at[2] || scores[place(...at)] === UNSEEN ? null : scores[place(...at)] / 100);
  return { ...insides, n, share, score };
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
  const heads = headsOf(data, node);
  if (heads.length === 0) return parts;
  parts.push(make("h3", {}, "On the prompt"), ...headSwitches(page));
  for (const head of heads) parts.push(make("h3", {}, `${page.state.matches ? "q\u00b7k" : "Attention"} of ${head.name}`), patternOf(page, head), keysOf(page, head));
  return parts;
}

function promotedBy(insides, node) {
  const words = insides.promoted[node.name];
  if (!words) return [];
  const rows = words.map(([token, by]) => make("span", { class: "word" }, make("code", {}, visible(token)), make("span", { class: "soft number" }, ` ${digits(by)}`)));
  return [make("h3", {}, "Promotes, at the last token"), make("p", { class: "words" }, ...rows)];
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
