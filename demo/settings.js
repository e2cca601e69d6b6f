// Shows in each <div class="slack"> what your backend says is connected. At the div's data-backend,
//   GET answers {status, place, connect, disconnect}: the status is none, pending or connected, the place is such as
//     "#alerts at Acme", and the last two are signed links,
//   POST with slack_result, which the backend verifies, answers the same, and a problem for the person to read, if there was one.
// What else comes back in the address or in a message is not used, because anyone can write it.
// With the attribute data-popup, the links open a popup.
const boxes = [...document.querySelectorAll("div.slack")];
const tabs = new BroadcastChannel("slack"); // tells the other tabs of this page that something has changed
let opened = null; // the box whose link opened the popup

async function show(box, result) {
  let state = { status: "failed" };
  try {
    const answer = await fetch(box.dataset.backend, result ? { method: "POST", body: new URLSearchParams({ slack_result: result }) } : {});
    if (answer.ok) state = await answer.json();
  } catch {} // offline
  for (const part of box.querySelectorAll("[data-status]")) part.hidden = part.dataset.status !== state.status;
  for (const link of box.querySelectorAll("[data-link]")) link.href = state[link.dataset.link] ?? "";
  for (const text of box.querySelectorAll("[data-text]"))
    if (result || text.dataset.text !== "problem") text.textContent = state[text.dataset.text] ?? ""; // a problem stays until the next result
  clearTimeout(box.timer);
  if (state.status === "pending") box.timer = setTimeout(show, 2000, box);
}

for (const box of boxes) {
  for (const link of box.querySelectorAll("[data-link]")) link.onclick = (event) => {
    if (!("popup" in box.dataset) || !open(link.href + "&display=popup", "slack", "popup,width=640,height=800")) return;
    event.preventDefault();
    opened = box;
  };
}
addEventListener("message", async ({ origin, data }) => {
  if (!opened || origin !== new URL(opened.querySelector("[data-link]").href).origin || data?.type !== "novu-slack-redirect") return;
  await show(opened, data.slack_result);
  tabs.postMessage(null);
});
tabs.onmessage = ({ data }) => opened && data ? show(opened, data) : boxes.forEach((box) => show(box));
document.addEventListener("visibilitychange", () => document.hidden || boxes.forEach((box) => show(box))); // links expire

// The return URL: take the outcome out of the address bar, and ask the backend.
const here = new URL(location.href), query = here.searchParams;
const [result, isPopup] = [query.get("slack_result"), query.has("slack_popup")];
if (query.has("slack")) {
  for (const name of ["slack", "reason", "channel", "team", "slack_result", "slack_popup"]) query.delete(name);
  history.replaceState(history.state, "", here);
}
await Promise.all(boxes.map((box) => show(box, result)));
if (result) tabs.postMessage(result);
if (isPopup) close(); // a popup that lost its opener on the way ends here
