"use strict";
// Texts of foreign files reach the page through textContent and cloned nodes only.
const MOST = 50;
const searched = JSON.parse(document.getElementById("searched").textContent);
const find = document.getElementById("find");
const which = document.getElementById("which");
const table = document.getElementById("rows");
const cards = [...document.querySelectorAll(".card")];
const texts = searched.rows.map(([key, , label, said]) =>
  [key, searched.classes[label] ?? "", searched.classes[said]].join(" ").toLowerCase());

function agrees([, , label, said]) {
  return label < 0 ? "unknown" : label === said ? "yes" : "no";
}

function line(row) {
  const [key, epoch, label, said, sure] = row;
  const entry = document.createElement("tr");
  for (const text of [key, epoch, searched.classes[label] ?? "", searched.classes[said], `${sure.toFixed(1)} %`]) {
    entry.insertCell().textContent = text;
  }
  entry.cells[1].className = entry.cells[4].className = "number";
  entry.cells[3].className = { yes: "right", no: "wrong", unknown: "" }[agrees(row)];
  return entry;
}

function update() {
  const wanted = find.value.trim().toLowerCase();
  const kind = which.value;
  const fits = (text, agreement) => text.includes(wanted) && (kind === "all" || agreement === kind);
  const rows = searched.rows.filter((row, number) => fits(texts[number], agrees(row)));
  let shown = 0;
  for (const card of cards) {
    card.hidden = !fits(card.dataset.search, card.dataset.agrees);
    shown += card.hidden ? 0 : 1;
  }
  const asked = wanted !== "" || kind !== "all";
  table.hidden = !asked || rows.length === 0;
  table.tBodies[0].replaceChildren(...(asked ? rows.slice(0, MOST).map(line) : []));
  document.getElementById("found").textContent = asked
    ? `${rows.length} of ${searched.rows.length} rows on this page` +
      (rows.length > MOST ? `, the first ${MOST} shown` : "") + `; ${shown} of ${cards.length} images`
    : `${searched.rows.length} rows and ${cards.length} images on this page`;
}

const dialog = document.getElementById("sample");
for (const card of cards) {
  card.querySelector(".open").addEventListener("click", () => {
    dialog.lastElementChild.replaceChildren(card.cloneNode(true));
    dialog.showModal();
  });
}
find.addEventListener("input", update);
which.addEventListener("change", update);
update();
