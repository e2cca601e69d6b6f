// In a popup, the page tells the one that opened it how the flow ended, with the
// parameters of the return URL, and closes. Only a page of the return URL's origin can hear it.
"use strict";
const { origin, outcome, stay } = document.body.dataset;
const opener = window.opener && !window.opener.closed ? window.opener : null;
const back = document.getElementById("back");
const close = document.getElementById("close");

close.onclick = () => window.close();
close.hidden = !opener;
if (back) back.hidden = Boolean(opener); // to close the popup is to go back
if (opener && origin && outcome) {
  opener.postMessage({ type: "novu-slack-redirect", ...Object.fromEntries(new URLSearchParams(outcome)) }, origin);
  if (!stay) window.close();
} else if (back && origin && outcome && !stay && !opener) {
  // Some page on the way, or this browser, cut the tie to the opener (COOP): the
  // return URL takes the outcome there, as it does without a popup.
  location.replace(back.href);
}
