// The matrix: a cell for every edge, its writer's column and its reader's row, both in the order of
// the forward pass. For more edges than lines can show; drawn on a canvas, zoomed like the drawing.

const PLOT = { left: 66, right: 12, top: 12, names: 58, most: 20, least: 9 };

// Below the cells: names of columns, and the legend.
function footOf() {
  return PLOT.names + find("legend").offsetHeight;
}

function openMatrix(stage) {
  const canvas = make("canvas", { id: "matrix", hidden: "", role: "img", "aria-label": "matrix of edges" });
  stage.append(canvas);
  return { canvas, zoom: 1, at: [0, 0], cells: new Map(), columns: [], rows: [] };
}

function drawMatrix(matrix, data, edges, lit) {
  const order = (a, b) => a - b;
  matrix.columns = [...new Set(edges.map((edge) => edge.source))].sort(order);
  matrix.rows = [...new Set(edges.map((edge) => edge.key % data.graph.readers.length))].sort(order);
  const [column, row] = [placesIn(matrix.columns), placesIn(matrix.rows)];
  matrix.cells = new Map(edges.map((edge) => [`${column.get(edge.source)} ${row.get(edge.key % data.graph.readers.length)}`, edge]));
  paintMatrix(matrix, data, lit);
}

function placesIn(values) {
  return new Map(values.map((value, i) => [value, i]));
}

function paintMatrix(matrix, data, lit) {
  const { pen, room } = cleared(matrix.canvas);
  const scale = scaleOf(matrix, room);
  const colours = window.getComputedStyle(document.documentElement);
  const ink = (name) => colours.getPropertyValue(`--${name}`);
  const names = [matrix.columns.map((i) => data.graph.nodes[i]), matrix.rows.map((i) => data.graph.readers[i])];
  paintAxes(pen, room, scale, names, data, ink);
  const largest = largestScore(data);
  pen.save();
  pen.beginPath();
  pen.rect(PLOT.left, PLOT.top, room.width - PLOT.left - PLOT.right, room.height - PLOT.top - footOf());
  pen.clip();
  for (const [place, edge] of matrix.cells) {
    const [x, y] = place.split(" ").map(Number);
    const share = largest > 0 ? Math.sqrt(sizeOf(edge) / largest) : 1;
    pen.globalAlpha = lit !== null && !lit.keys.has(edge.key) ? 0.08 : 0.3 + 0.7 * share;
    pen.fillStyle = ink(sideOf(data, edge) || "neutral");
    pen.fillRect(scale.x(x), scale.y(y), Math.max(1.5, scale.width * 0.92), Math.max(1.5, scale.height * 0.92));
  }
  pen.restore();
}

function cleared(canvas) {
  const room = canvas.parentElement.getBoundingClientRect();
  const dots = window.devicePixelRatio || 1;
  canvas.width = Math.round(room.width * dots);
  canvas.height = Math.round(room.height * dots);
  const pen = canvas.getContext("2d");
  pen.scale(dots, dots);
  return { pen, room };
}

// Where a column and a row stand on the screen; the first row is the lowest, as in the drawing.
function scaleOf(matrix, room) {
  const [wide, high] = [room.width - PLOT.left - PLOT.right, room.height - PLOT.top - footOf()];
  const width = Math.min(PLOT.most, wide / Math.max(1, matrix.columns.length)) * matrix.zoom;
  const height = Math.min(PLOT.most, high / Math.max(1, matrix.rows.length)) * matrix.zoom;
  return {
    width, height,
    x: (column) => PLOT.left + column * width - matrix.at[0],
    y: (row) => PLOT.top + high - (row + 1) * height - matrix.at[1],
  };
}

// Names where there is room for them, and a line at each layer's beginning.
function paintAxes(pen, room, scale, [columns, rows], data, ink) {
  const foot = room.height - footOf();
  pen.font = "10px system-ui, sans-serif";
  pen.textBaseline = "middle";
  pen.strokeStyle = ink("line");
  const layer = (node) => (["embed", "logits"].includes(node.kind) ? node.kind : `layer ${node.layer}`);
  const columnNames = scale.width >= PLOT.least ? columns.map((node) => node.name) : firsts(columns.map(layer));
  const ofRows = rows.map((reader) => data.graph.nodes[reader.node]);
  const rowNames = scale.height >= PLOT.least ? rows.map((reader) => reader.name) : firsts(ofRows.map(layer));
  firsts(columns.map(layer)).forEach((name, i) => name && line(pen, [scale.x(i), PLOT.top, scale.x(i), foot]));
  firsts(ofRows.map(layer)).forEach((name, i) => name && line(pen, [PLOT.left, scale.y(i - 1), room.width - PLOT.right, scale.y(i - 1)]));
  pen.fillStyle = ink("soft");
  pen.textAlign = "right";
  spaced(rowNames, (i) => scale.y(i) + scale.height / 2, PLOT.top, foot, (name, y) => pen.fillText(name, PLOT.left - 6, y));
  spaced(columnNames, (i) => scale.x(i) + scale.width / 2, PLOT.left, room.width - PLOT.right, (name, x) => {
    pen.save();
    pen.translate(x, foot + 6);
    pen.rotate(-Math.PI / 2);
    pen.fillText(name, 0, 0);
    pen.restore();
  });
}

function firsts(names) {
  return names.map((name, i) => (name === names[i - 1] ? "" : name));
}

function line(pen, [x, y, toX, toY]) {
  if (Math.min(x, toX) < PLOT.left || Math.min(y, toY) < PLOT.top) return;
  pen.beginPath();
  pen.moveTo(x, y);
  pen.lineTo(toX, toY);
  pen.stroke();
}

// Write the names that are in sight and not too close to the one before.
function spaced(names, place, from, to, write) {
  let last = -Infinity;
  names.forEach((name, i) => {
    const at = place(i);
    if (!name || at < from || at > to || Math.abs(at - last) < PLOT.least) return;
    write(name, at);
    last = at;
  });
}

// The edge under the pointer, or undefined.
function cellAt(matrix, event) {
  const room = matrix.canvas.getBoundingClientRect();
  const scale = scaleOf(matrix, room);
  const column = Math.floor((event.clientX - room.left - scale.x(0)) / scale.width);
  const row = Math.ceil((scale.y(0) - (event.clientY - room.top)) / scale.height);
  return matrix.cells.get(`${column} ${row}`);
}

function zoomMatrix(matrix, factor, [x, y]) {
  const zoom = Math.min(40, Math.max(1, matrix.zoom * factor));
  const by = zoom / matrix.zoom;
  matrix.at = zoom === 1 ? [0, 0] : [(matrix.at[0] + x) * by - x, (matrix.at[1] + y) * by - y];
  matrix.zoom = zoom;
}

function listenToMatrix(page) {
  const { matrix, on } = page;
  const { canvas } = matrix;
  let last = null;
  canvas.addEventListener("pointerdown", (event) => (last = event));
  canvas.addEventListener("pointermove", (event) => {
    if (last === null) return hoverMatrix(matrix, on, event);
    matrix.at = [matrix.at[0] - event.clientX + last.clientX, matrix.at[1] - event.clientY + last.clientY];
    last = event;
    showMatrix(page);
  });
  window.addEventListener("pointerup", () => (last = null));
  canvas.addEventListener("pointerleave", on.leave);
  canvas.addEventListener("click", (event) => {
    const edge = cellAt(matrix, event);
    if (edge) on.choose(edge.source);
  });
  canvas.addEventListener("wheel", (event) => {
    if (isFramed() && !event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    const room = canvas.getBoundingClientRect();
    zoomBy(page, Math.exp(-event.deltaY / 300), [(event.clientX - room.left) / room.width, (event.clientY - room.top) / room.height]);
  }, { passive: false });
}

function hoverMatrix(matrix, on, event) {
  const edge = cellAt(matrix, event);
  if (edge) on.edge(edge.key, event);
  else on.leave();
}
