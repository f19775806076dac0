// What the page says once, and what its controls do.

function writeHead(page) {
  const { data, state } = page;
  find("title").textContent = data.title;
  find("subtitle").textContent = data.subtitle;
  find("provenance").append(describe(data.facts));
  find("most").append(...EDGES_DRAWN.map((most) => make("option", { value: most }, whole(most))));
  const kinds = Object.entries(KIND_NAMES).filter(([kind]) => data.nodes.some((node) => node.kind === kind));
  find("node-kinds").append(...kinds.map(([kind, said]) => tick(page, kind, said)));
  const signs = [["edge helps", 2, "positive"], ["edge hurts", 2, "negative: it writes against what its target reads"]];
  showRows(signs);
  page.legend = signs;
  writePrompt(page);
  showControls(state);
}

function showControls(state) {
  find("most").value = state.most;
  for (const box of document.querySelectorAll("[data-kind]")) box.checked = !state.hidden.has(box.dataset.kind);
}

function listen(page) {
  const { data, drawing, state } = page;
  find("slider").addEventListener("input", (event) => setCount(page, page.stops[Number(event.target.value)]));
  find("size").addEventListener("change", (event) => setCount(page, Number(event.target.value)));
  find("threshold").addEventListener("change", (event) => setCount(page, countAt(data, Number(event.target.value))));
  find("most").addEventListener("change", (event) => { state.most = Number(event.target.value); later(page); });
  find("search").addEventListener("input", () => { showMatched(page); lightChosen(page); });
  find("search").addEventListener("keydown", (event) => { if (event.key === "Enter") goToMatched(page); });
  for (const view of ["graph", "pinned"]) find(`as-${view}`).addEventListener("click", () => setView(page, view));
  find("save").addEventListener("click", () => saveDrawing(page));
  find("export").addEventListener("click", () => exportLabels(page));
  find("import").addEventListener("change", (event) => { const [file] = event.target.files; event.target.value = ""; if (file) importLabels(page, file); });
  find("zoom-in").addEventListener("click", () => zoom(drawing, 1.3));
  find("zoom-out").addEventListener("click", () => zoom(drawing, 1 / 1.3));
  find("zoom-fit").addEventListener("click", () => fit(drawing));
  window.addEventListener("hashchange", () => { readState(page); showControls(state); refresh(page); });
  window.addEventListener("beforeunload", (event) => { if (page.unsaved > 0) event.preventDefault(); });
  document.addEventListener("keydown", (event) => pageKeys(page, event));
  drawing.svg.addEventListener("click", (event) => { if (event.target === drawing.svg && state.chosen !== null && drawing.fitted) clearChosen(page); });
  listenToUnits(page);
  new ResizeObserver(() => { if (drawing.fitted && page.found) fit(drawing, drawing.least); }).observe(find("stage"));
  letDrag(drawing);
}

// One listener for all marks.
function listenToUnits(page) {
  const { data, drawing } = page;
  const { units } = drawing.layers;
  const of = (event) => (event.target.dataset && event.target.dataset.i !== undefined ? data.nodes[Number(event.target.dataset.i)] : null);
  const show = (event) => { const node = of(event); if (node) showCard(titleOf(data, node), cardOf(page, node), event); };
  units.addEventListener("pointerover", show);
  units.addEventListener("focusin", show);
  for (const end of ["pointerout", "focusout"]) units.addEventListener(end, hideCard);
  units.addEventListener("click", (event) => { const node = of(event); if (node) chooseNode(page, node.index); });
  units.addEventListener("keydown", (event) => { if (of(event)) nodeKeys(page, event); });
}

function saveDrawing(page) {
  const legend = legendShape(page.legend, page.drawing.view);
  page.drawing.svg.append(legend);
  download(page.drawing.svg, "features.svg");
  legend.remove();
}
