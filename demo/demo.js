// Keeps what the page shows of events, requests and Novu up to date.
const shown = {};
setInterval(async () => {
  let parts = {};
  try { parts = await (await fetch("/live")).json(); } catch { return; } // the demo has ended
  for (const [id, html] of Object.entries(parts)) {
    if (shown[id] === html) continue;
    const place = document.getElementById(id);
    const open = [...place.querySelectorAll("details")].map((d) => d.open);
    place.innerHTML = shown[id] = html;
    place.querySelectorAll("details").forEach((d, i) => { d.open = open[i] ?? false; });
  }
}, 1000);
