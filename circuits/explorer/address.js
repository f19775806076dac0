// What is seen, in the page's address: a link that is passed on shows the same. A page inside another
// one, as in a notebook, has no address of its own.

function putAddress(page, parts) {
  if (isFramed()) return;
  page.address = `#${parts}`;
  if (window.location.hash !== page.address) window.history.replaceState(null, "", page.address);
}

// The parts of an address that is not the page's own doing, or null.
function newAddress(page) {
  if (isFramed() || window.location.hash.length < 2 || window.location.hash === page.address) return null;
  return new URLSearchParams(window.location.hash.slice(1));
}
