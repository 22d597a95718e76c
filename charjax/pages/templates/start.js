// Tabs, settings, theme; and the start of all parts.

function startTabs() {
  for (const part of [section, byId("samples")]) {
    for (const button of part.querySelectorAll(".tabs button")) {
      button.addEventListener("click", () => {
        for (const other of part.querySelectorAll(".tabs button")) {
          other.setAttribute("aria-pressed", String(other === button));
        }
        for (const panel of part.querySelectorAll(".panel")) {
          panel.hidden = panel.dataset.run !== button.dataset.run;
        }
        if (part === section) {
          current = Number(button.dataset.run);
          listAgainst();
          paint();
        }
      });
    }
  }
}

function startSettings() {
  const tick = byId("only-marked"), part = byId("settings");
  const apply = () => part.classList.toggle("only-marked", tick.checked);
  tick.addEventListener("change", apply);
  apply();
}

function startTheme() {
  const kept = () => { try { return localStorage.getItem("charjax-theme"); } catch { return null; } };
  const chosen = kept() && byId(kept());
  if (chosen) chosen.checked = true;
  for (const radio of document.querySelectorAll("input[name=theme]")) {
    radio.addEventListener("change", () => {
      try { localStorage.setItem("charjax-theme", radio.id); } catch { /* A page without storage. */ }
      draw();
    });
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
}

startTheme();
startCharts();
startTabs();
startPassage();
startSettings();
