// The prompt along the bottom, by its spans: one that is pointed at lights up the edges that are at
// it; a click holds it. Without a prompt there are the names of spans alone.

function openSpans(data) {
  if (!data.spans) return null;
  const { keys } = data.lists[0];
  const keysOf = (at) => new Set(Array.from(unpack(at, Uint16Array), (edge) => keys[edge]));
  return data.spans.names.map((name, i) => ({ name, keys: keysOf(data.spans.at[i]) }));
}

function showSpans(page) {
  const { spans, insides } = page;
  find("spans").hidden = spans === null;
  if (spans === null) return;
  const parts = insides === null ? spans.map(({ name }) => ["", name]) : insides.tokens.map((token, i) => [visible(token), insides.spans[i]]);
  find("spans").replaceChildren(...parts.map(([text, name]) => spanButton(page, text, name)));
}

function spanButton(page, text, name) {
  const span = page.spans.find((one) => one.name === name) ?? page.spans[0];
  const said = span.name === page.spans[0].name && text ? "" : span.name;
  const button = make("button", { class: "token", "data-span": span.name, "aria-pressed": false }, text, make("span", { class: "soft" }, said));
  button.addEventListener("pointerenter", () => light(page.drawing, edgesAt(page, span)));
  button.addEventListener("pointerleave", () => page.on.leave());
  button.addEventListener("click", () => {
    page.state.span = page.state.span === span ? null : span;
    for (const one of find("spans").children) one.setAttribute("aria-pressed", one.dataset.span === page.state.span?.name);
    relight(page);
  });
  return button;
}

// What is lit where no node is chosen: the edges at the span that is held, if one is.
function heldSpan(page) {
  return page.state.span ? edgesAt(page, page.state.span) : null;
}

function edgesAt(page, span) {
  const edges = page.found.edges.filter((edge) => span.keys.has(edge.key));
  return { keys: new Set(edges.map((edge) => edge.key)), nodes: new Set(edges.flatMap((edge) => [edge.source, edge.dest])) };
}
