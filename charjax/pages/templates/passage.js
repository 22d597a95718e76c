// The held-out text

const section = byId("passage");
let current = 0, against = null;

function level(loss) {
  return isNumber(loss) ? `level${DATA.levels.filter((end) => loss >= end).length}` : "";
}

function difference(loss, other) {
  if (!isNumber(loss) || !isNumber(other)) return "";
  const by = loss - other, size = Math.abs(by);
  if (size < 0.1) return "";
  const rank = size < 0.5 ? 0 : size < 1 ? 1 : 2;
  return by < 0 ? `better${rank + 1}` : `level${[2, 4, 6][rank]}`;
}

function paint() {
  const here = DATA.passages[current], other = against === null ? null : DATA.passages[against];
  const panel = section.querySelector(`.panel[data-run="${current}"]`);
  for (const span of panel.querySelectorAll(".passage span")) {
    const place = Number(span.dataset.i);
    span.className = other ? difference(here.loss[place], other.loss[place]) : level(here.loss[place]);
  }
  const [losses, differences] = section.querySelectorAll(".levels");
  losses.hidden = other !== null;
  differences.hidden = other === null;
}

function listAgainst() {
  const select = byId("against");
  if (!select) return;
  against = null;
  select.replaceChildren(element("option", { value: "" }, "loss"));
  const text = DATA.passages[current].text.join("");
  DATA.passages.forEach((passage, place) => {
    if (place === current || !text || passage.text.join("") !== text) return;
    // Subwords and characters are pieces of other lengths.
    if (passage.text.length !== DATA.passages[current].text.length) return;
    select.append(element("option", { value: place }, `difference to ${RUNS[place].name}`));
  });
}

function predict(span) {
  const place = Number(span.dataset.i), here = DATA.passages[current];
  for (const other of section.querySelectorAll(".here")) other.classList.remove("here");
  span.classList.add("here");
  const truth = here.text[place].replace(/\\n$/, ""), loss = here.loss[place];
  const size = here.size[place];
  const box = element("div"), list = element("ol");
  const words = isNumber(loss)
    ? `${loss.toFixed(3)} nats${size > 1 ? " per character" : ""}, ` +
      `probability ${Math.exp(-loss * size).toPrecision(2)}`
    : "nothing stands before it";
  box.append(element("strong", {}, truth === " " ? "space" : truth), ` ${words}`);
  if (against !== null && isNumber(loss)) {
    const other = DATA.passages[against].loss[place];
    if (isNumber(other)) box.append(element("div", {}, `${RUNS[against].name}: ${other.toFixed(3)} nats`));
  }
  for (const [text, share] of here.top[place]) {
    const item = element("li", text === (truth === " " ? "space" : truth) ? { class: "right" } : {});
    const bar = element("span", { class: "share" });
    bar.style.width = `${100 * share}%`;
    const track = element("span", { class: "track" });
    track.append(bar);
    item.append(element("code", {}, text), track, element("span", {}, `${(100 * share).toFixed(1)} %`));
    list.append(item);
  }
  box.append(list);
  byId("predictions").replaceChildren(box);
}

function startPassage() {
  const point = (event) => {
    const span = event.target.closest(".passage span");
    if (span) predict(span);
  };
  section.addEventListener("pointerover", point);
  section.addEventListener("click", point);
  listAgainst();
  if (byId("against")) {
    byId("against").addEventListener("change", (event) => {
      against = event.target.value === "" ? null : Number(event.target.value);
      paint();
    });
  }
}
