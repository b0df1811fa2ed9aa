// The conversation of this tab, kept while the page is loaded again. It is gone with the tab.

const KEY = "conversation";
const MOST = 4_000_000; // characters: browsers keep about five million of a page

/**
 * Keep the newest turns that fit, instead of what was kept before.
 * @param {object[]} turns fit for JSON
 * @param {boolean} cut whether earlier ones are missing already
 */
export function keep(turns, cut) {
  const kept = [];
  let room = MOST;
  for (const turn of [...turns].reverse()) {
    const text = JSON.stringify(turn);
    room -= text.length;
    if (room < 0) break;
    kept.unshift(text);
  }
  while (!stored(`{"cut":${cut || kept.length < turns.length},"turns":[${kept.join()}]}`) && kept.length) kept.shift();
}

/** What was kept, @returns {{cut: boolean, turns: object[]}}. It is kept no more: if it cannot be shown, this was all. */
export function take() {
  const text = sessionStorage.getItem(KEY);
  sessionStorage.removeItem(KEY);
  return text ? JSON.parse(text) : { cut: false, turns: [] };
}

function stored(text) {
  try {
    sessionStorage.setItem(KEY, text);
    return true;
  } catch {
    return false; // the browser keeps less
  }
}
