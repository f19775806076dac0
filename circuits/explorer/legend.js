// Legends: rows of [look of the line, its width, words], on the page and in a file of the drawing.

function showRows(rows) {
  const lines = rows.map(([look, width, said]) => make("span", {}, sample(look, width), said));
  find("legend").replaceChildren(make("div", { class: "key" }, ...lines));
}

function sample(look, width) {
  const line = shape("path", { class: look, "stroke-width": width, d: "M1 5H33" });
  return shape("svg", { width: 34, height: 10, "aria-hidden": "true" }, line);
}

// For a file of the drawing: in the lower left corner of what is seen.
function legendShape(rows, view) {
  const lines = rows.map(([look, width, said], i) => [
    shape("path", { class: look, "stroke-width": width, d: `M0 ${17 * i}H32` }),
    shape("text", { x: 40, y: 17 * i + 4, class: "legend-text" }, said),
  ]);
  const scale = view[2] / find("stage").offsetWidth;
  const [x, y] = [view[0] + 14 * scale, view[1] + view[3] - (17 * rows.length + 2) * scale];
  return shape("g", { transform: `translate(${round(x)} ${round(y)}) scale(${scale.toFixed(3)})` }, ...lines.flat());
}

// Dashes take five times longer to paint than plain lines (a second for 1,500 edges without a graphics card):
// in a crowd, where they cannot be told apart either, colour alone says the sign.
const CROWD = 200; // edges

function setCrowd(layer, n) {
  layer.classList.toggle("crowd", n > CROWD);
}
