// The site's search. smalldocs asks an object with the manners of Fuse, which looks for a query as one string of letters;
// this one takes words: lessons and answers come first, a page appears three times at most, a slip of a finger is forgiven.
const idle = new Set("a an and are can do does for from how i in is it me my of on the to what where which why with".split(" "));
const stem = (w) => w.length > 4 ? w.replace(/(?:ing|ed|es|s|e)$/, "") : w.replace(/s$|(?<=...)e$/, "");
const words = (text) => (text.toLowerCase().match(/[\p{L}\p{N}_]+(?:-[\p{L}\p{N}_]+)*/gu) || [])
  .flatMap((w) => w.includes("-") ? [w.replaceAll("-", ""), ...w.split("-")] : w.includes("_") ? [w, ...w.split("_")] : [w]).map(stem);
const named = (query) => /_|[a-z][A-Z]/.test(query);  // who asks for a name of the library wants its page
const rank = ({ href, section }, query) => (/^(Questionnaire|Further reading|Exercise|Project)/.test(section) ? 0.5 : !section && /^lessons\//.test(href) ? 1.5 : 1)
  * (named(query) ? 1 : /^how_do_i/.test(href) ? 5 : /^lessons\//.test(href) ? 5 : href.startsWith("api/all.") ? 0.3 : /^api\//.test(href) ? 1 : 1.5);

function apart(a, b) {  // letters to change, add, leave out or swap; 3 for all that is more than 2
  if (Math.abs(a.length - b.length) > 2) return 3;
  const d = [Array.from({ length: b.length + 1 }, (_, j) => j)];
  for (let i = 1; i <= a.length; i++) {
    d[i] = [i];
    for (let j = 1; j <= b.length; j++) {
      d[i][j] = Math.min(d[i-1][j] + 1, d[i][j-1] + 1, d[i-1][j-1] + (a[i-1] !== b[j-1]));
      if (i > 1 && j > 1 && a[i-1] === b[j-2] && a[i-2] === b[j-1]) d[i][j] = Math.min(d[i][j], d[i-2][j-2] + 1);
    }
  }
  return Math.min(3, d[a.length][b.length]);
}

class WordSearch {
  constructor(entries) {
    this.entries = entries;
    this.found = new Map();  // word -> entry -> weight
    entries.forEach((e, i) => {
      const weigh = (text, weight) => words(text).forEach((w) => {
        if (!this.found.has(w)) this.found.set(w, new Map());
        const at = this.found.get(w);
        at.set(i, Math.max(at.get(i) || 0, weight) + 0.1);
      });
      weigh(e.title, e.section ? 3 : 6); weigh(e.section, 6);  // a page's own entry has no section
      weigh(e.text, 1);
    });
  }
  like(word) {  // words of the site that may be meant, and how likely
    const all = [...this.found.keys()];
    const begun = all.filter((w) => w === word || (word.length > 2 && w.startsWith(word)));
    if (begun.length) return begun.map((w) => [w, w === word ? 1 : 0.6]);
    const slips = word.length > 7 ? 2 : word.length > 3 ? 1 : 0;
    return all.filter((w) => w.length > 3 && apart(w, word) <= slips).map((w) => [w, 0.5]);
  }
  search(query, { limit = 20 } = {}) {
    const typed = query.toLowerCase().match(/[\p{L}\p{N}_]+(?:-[\p{L}\p{N}_]+)*/gu) || [];
    const meant = typed.filter((w) => !idle.has(w)), asked = meant.length ? meant : typed;
    const terms = asked.map((w) => this.found.has(stem(w.replaceAll("-", ""))) ? [stem(w.replaceAll("-", ""))] : w.split("-").map(stem)).flat();
    const scores = new Map();
    for (const term of terms) {
      const best = new Map();
      for (const [w, likely] of this.like(term)) {
        const at = this.found.get(w), rare = Math.log(1 + this.entries.length/at.size);
        at.forEach((weight, i) => best.set(i, Math.max(best.get(i) || 0, weight*likely*rare)));
      }
      best.forEach((s, i) => scores.set(i, [...(scores.get(i) || []), s]));
    }
    const sum = (o) => o.reduce((a, b) => a + b, 0);
    const ranked = [...scores].map(([i, o]) => [i, sum(o)*(o.length/terms.length)**3*rank(this.entries[i], query)]);
    ranked.sort((a, b) => b[1] - a[1] || a[0] - b[0]);
    const shown = {};
    const kept = ranked.filter(([i]) => (shown[this.entries[i].href.split("#")[0]] = (shown[this.entries[i].href.split("#")[0]] || 0) + 1) <= 3);
    return kept.slice(0, limit).map(([i]) => ({ item: this.entries[i] }));
  }
}
if (typeof window !== "undefined") window.Fuse = WordSearch;
if (typeof module !== "undefined") module.exports = WordSearch;
