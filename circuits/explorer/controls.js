// Controls that every explorer has. A page has a `state`; `refresh(page)` is the page's own.

// Everything is drawn again once, in the next frame, however often it is asked for.
function later(page) {
  if (page.waiting) return;
  page.waiting = true;
  requestAnimationFrame(() => {
    page.waiting = false;
    refresh(page);
  });
}

// A box that shows or hides a kind of node or edge.
function tick(page, kind, said) {
  const box = make("input", { type: "checkbox", "data-kind": kind });
  box.checked = !page.state.hidden.has(kind);
  box.addEventListener("change", () => {
    if (box.checked) page.state.hidden.delete(kind);
    else page.state.hidden.add(kind);
    later(page);
  });
  return make("label", { class: "tick" }, box, said);
}

// What a key does by `work`, `clear` at Escape; nothing while somebody writes.
function atKey(event, clear, work) {
  const { tagName, type } = event.target;
  const writing = tagName === "SELECT" || (tagName === "INPUT" && !["range", "checkbox", "file"].includes(type));
  if (event.key === "Escape") return clear();
  if (writing || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "/") {
    event.preventDefault();
    find("search").focus();
  }
  work[event.key]?.();
}
