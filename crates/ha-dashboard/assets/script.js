// Refreshes what has changed on a page, part by part, so that nothing else moves.
"use strict";
(() => {
  const seconds = Number(document.body.dataset.refresh);
  if (!seconds) return;
  const stale = document.getElementById("stale");
  let shown = document.querySelector("#fresh time").textContent;
  let asking = false;

  // The parts that come and go: children of lists, and what lies directly in the page.
  const parts = (root) => [...root.querySelectorAll("[data-live]")].filter((part) => part.id);

  const take = (now) => {
    const active = document.activeElement;
    const focus = active && active !== document.body && active.closest("[data-live]") ? active.getAttribute("href") : null;
    const open = new Set([...document.querySelectorAll("details[open] summary")].map((summary) => summary.textContent));
    const coming = parts(now);
    const ids = new Set(coming.map((part) => part.id));
    for (const part of parts(document)) if (!ids.has(part.id)) part.remove();
    let before = null;
    for (const part of coming) {
      const old = document.getElementById(part.id);
      const made = document.importNode(part, true);
      for (const summary of made.querySelectorAll("details summary")) {
        if (open.has(summary.textContent)) summary.parentElement.open = true;
      }
      if (!old) {
        const parent = part.parentElement.id ? document.getElementById(part.parentElement.id) : null;
        if (!parent) { location.reload(); return; }
        if (before && before.parentElement === parent) before.after(made); else parent.prepend(made);
        before = made;
      } else if (old.isEqualNode(made)) {
        before = old;
      } else {
        old.replaceWith(made);
        before = made;
      }
    }
    if (focus && !document.contains(active)) {
      const again = [...document.querySelectorAll("[data-live] a")].find((link) => link.getAttribute("href") === focus);
      if (again) again.focus({ preventScroll: true });
    }
    document.getElementById("fresh").replaceWith(document.importNode(now.getElementById("fresh"), true));
    shown = document.querySelector("#fresh time").textContent;
  };

  const refresh = async () => {
    if (asking || document.hidden) return;
    // what is selected is being copied
    if (!getSelection().isCollapsed) return;
    asking = true;
    try {
      const answer = await fetch(location.href, { cache: "no-store", signal: AbortSignal.timeout(25000) });
      // 503 is a page as well: the state before the database went away
      if (!answer.ok && answer.status !== 503) throw new Error(String(answer.status));
      const now = new DOMParser().parseFromString(await answer.text(), "text/html");
      if (!now.getElementById("fresh")) throw new Error("no page of ours");
      take(now);
      stale.hidden = true;
    } catch {
      stale.querySelector("time").textContent = shown;
      stale.hidden = false;
      document.querySelector("#fresh .dot").classList.add("off");
    } finally {
      asking = false;
    }
  };

  setInterval(refresh, seconds * 1000);
  document.addEventListener("visibilitychange", refresh);
})();
