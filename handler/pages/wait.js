// A page that waits becomes its successor in place, as often as the Refresh header says: the
// focus stays, and a screen reader is told what is new. Without this script, or where it
// cannot take over in time, the browser reloads the page.
"use strict";
const main = document.querySelector("main");

async function follow(refresh) {
  while (refresh) {
    const [, seconds, url] = refresh.match(/^(\d+); url=(.+)$/);
    await new Promise(done => setTimeout(done, seconds * 1000));
    let answer, page;
    try {
      answer = await fetch(url, { redirect: "manual" });
      page = new DOMParser().parseFromString(await answer.text(), "text/html");
    } catch {
      continue; // no network: the same again
    }
    if (!answer.ok || page.body.dataset.outcome) {
      location.replace(url); // to the app, a problem, or a popup's end
      return;
    }
    show(page);
    refresh = answer.headers.get("Refresh");
  }
}

function show(page) {
  const status = document.getElementById("status"), next = page.getElementById("status");
  if (status.innerHTML === next.innerHTML) return;
  document.title = page.title;
  main.className = page.querySelector("main").className;
  status.innerHTML = next.innerHTML;
  const nav = main.querySelector("nav"), links = page.querySelector("nav");
  if (!nav || !links) return links && main.append(links);
  for (let i = links.children.length - 1, after = null; i >= 0; i--) {
    const link = links.children[i], old = document.getElementById(link.id);
    if (old?.href) [old.href, old.className] = [link.href, link.className];
    if (!old) nav.insertBefore(link, after);
    after = old || link;
  }
}

addEventListener("load", () => setTimeout(() => {
  stop(); // the browser's own reload
  follow(main.dataset.refresh);
}));
