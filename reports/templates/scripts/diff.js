// What changed from one text to the other, by words: [["same" | "gone" | "new", text], ...].
// The longest common subsequence over words and the blanks between them; null where both have
// more than LONGEST pieces after what they share at both ends, or share too little to be compared.
const LONGEST = 2500;
const ALIKE = 0.25;
const wordDiff = (before, after) => {
  const cut = (text) => text.match(/\s+|[^\s]+/g) || [];
  const [a, b] = [cut(before), cut(after)];
  let head = 0;
  while (head < a.length && head < b.length && a[head] === b[head]) head += 1;
  let foot = 0;
  while (foot < a.length - head && foot < b.length - head && a[a.length - 1 - foot] === b[b.length - 1 - foot]) foot += 1;
  const [p, q] = [a.slice(head, a.length - foot), b.slice(head, b.length - foot)];
  if (p.length > LONGEST || q.length > LONGEST) return null;
  const width = q.length + 1;
  const best = new Uint16Array((p.length + 1) * width);
  for (let i = p.length - 1; i >= 0; i -= 1) {
    for (let j = q.length - 1; j >= 0; j -= 1) {
      best[i * width + j] = p[i] === q[j] ? best[(i + 1) * width + j + 1] + 1 : Math.max(best[(i + 1) * width + j], best[i * width + j + 1]);
    }
  }
  const found = [];
  const add = (kind, text) => {
    if (!text) return;
    if (found.length && found[found.length - 1][0] === kind) found[found.length - 1][1] += text;
    else found.push([kind, text]);
  };
  add("same", a.slice(0, head).join(""));
  const isWord = (piece) => Number(/\S/.test(piece));
  const count = (pieces) => pieces.reduce((n, piece) => n + isWord(piece), 0);
  let [i, j, shared] = [0, 0, count(a.slice(0, head)) + count(a.slice(a.length - foot))];
  while (i < p.length || j < q.length) {
    if (i < p.length && j < q.length && p[i] === q[j]) { add("same", p[i]); shared += isWord(p[i]); i += 1; j += 1; }
    else if (j >= q.length || (i < p.length && best[(i + 1) * width + j] >= best[i * width + j + 1])) { add("gone", p[i]); i += 1; }
    else { add("new", q[j]); j += 1; }
  }
  add("same", a.slice(a.length - foot).join(""));
  return shared < ALIKE * Math.min(count(a), count(b)) ? null : found;
};
