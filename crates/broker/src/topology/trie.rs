//! The trie behind a topic exchange: which binding patterns match a routing key.
//!
//! Owns the patterns of one compiled exchange, as a tree of words. A node has at most one `*` child, one `#` child and any
//! number of word children; a pattern's targets hang on the node where it ends. Words are interned, so that a
//! word of the key is hashed once, and the edges of all nodes are one map from (node, word) to node.
//!
//! Matching walks a set of nodes through the key, word by word. Its cost depends on the key and on how many
//! patterns share a prefix with it, not on how many patterns there are, and it cannot explode:
//!
//! - Runs of wildcards are put into one form when they go in (`#.*.#` is `*.#`), so that a `#` node has neither a `*` nor a `#`
//!   child.
//! - A `#` node that was entered once stays active for the rest of the key. It is entered once only: a bit for
//!   each `#` node that has another `#` above it says so; the others can be reached at one position of the key only.
//! - Every other node has one parent and is reached by consuming one word from it, so it is in the set at most once for each position.
//!
//! Hence at most (words + 1) × (active nodes) steps, whatever the pattern.

use ahash::AHashMap;
use smallvec::SmallVec;

/// "No such node" in links, and "no bit needed" in [`Node::bit`].
const NONE: u32 = u32::MAX;
/// The node where every pattern begins.
const ROOT: u32 = 0;

/// Indices of matched targets: several matching patterns may name the same one.
pub(super) type Matched = SmallVec<[u32; 16]>;

/// A set of topic patterns, each with a target (an index that the caller gives meaning to).
#[derive(Debug)]
pub(super) struct Trie {
    nodes: Vec<Node>,
    /// Words that occur in some pattern, wildcards excepted.
    words: AHashMap<Box<[u8]>, u32>,
    /// (node, word) packed by [`edge`] → child.
    edges: AHashMap<u64, u32>,
    /// How many `#` nodes have another above them: the number of bits that a walk needs.
    nested: u32,
}

#[derive(Debug)]
struct Node {
    star: u32,
    hash: u32,
    /// The bit that tells a walk whether this `#` node has been entered, or [`NONE`].
    bit: u32,
    /// Whether a `#` is among this node and those above it.
    under_hash: bool,
    /// Whether any edge leaves it: most nodes need no look-up.
    has_words: bool,
    targets: SmallVec<[u32; 2]>,
}

impl Trie {
    /// An empty set, which matches nothing.
    pub(super) fn new() -> Self {
        let root = Node::new(false);
        Self {
            nodes: vec![root],
            words: AHashMap::new(),
            edges: AHashMap::new(),
            nested: 0,
        }
    }

    /// Adds a pattern. The same pattern may come in several times with different targets.
    pub(super) fn insert(&mut self, pattern: &[u8], target: u32) {
        let mut node = ROOT;
        // In a run of wildcards all `*` go before one `#`: the run matches the same, and no `#` is followed by a wildcard.
        let mut hash_pending = false;
        for word in words(pattern) {
            match word {
                b"#" => hash_pending = true,
                b"*" => node = self.star_child(node),
                literal => {
                    if std::mem::take(&mut hash_pending) {
                        node = self.hash_child(node);
                    }
                    node = self.word_child(node, literal);
                }
            }
        }
        if hash_pending {
            node = self.hash_child(node);
        }
        self.nodes[node as usize].targets.push(target);
    }

    /// Ends the building: each node's targets become unique, so that a walk reports them once for each node.
    pub(super) fn finish(&mut self) {
        for node in &mut self.nodes {
            node.targets.sort_unstable();
            node.targets.dedup();
        }
        self.nodes.shrink_to_fit();
    }

    /// Appends the targets of all patterns that match `key`, in no particular order and with repeats where several
    /// patterns have the same target. Returns the number of nodes visited.
    pub(super) fn matches(&self, key: &[u8], found: &mut Matched) -> usize {
        let mut walk = Walk {
            trie: self,
            active: SmallVec::new(),
            sticky: SmallVec::new(),
            entered: match self.nested {
                0 => SmallVec::new(),
                bits => SmallVec::from_elem(0, bits.div_ceil(64) as usize),
            },
            found,
            steps: 0,
        };
        walk.enter(ROOT);
        for word in words(key) {
            if walk.active.is_empty() && walk.sticky.is_empty() {
                break;
            }
            walk.consume(word);
        }
        for &node in &walk.active {
            // Mostly one: cheaper than a copy of a slice.
            for target in &self.node(node).targets {
                walk.found.push(*target);
            }
        }
        walk.steps
    }

    fn node(&self, index: u32) -> &Node {
        &self.nodes[index as usize]
    }

    fn star_child(&mut self, parent: u32) -> u32 {
        if self.node(parent).star == NONE {
            let child = self.add_node(self.node(parent).under_hash);
            self.nodes[parent as usize].star = child;
        }
        self.node(parent).star
    }

    fn hash_child(&mut self, parent: u32) -> u32 {
        if self.node(parent).hash == NONE {
            let nested = self.node(parent).under_hash;
            let child = self.add_node(true);
            if nested {
                self.nodes[child as usize].bit = self.nested;
                self.nested += 1;
            }
            self.nodes[parent as usize].hash = child;
        }
        self.node(parent).hash
    }

    fn word_child(&mut self, parent: u32, word: &[u8]) -> u32 {
        let symbol = match self.words.get(word) {
            Some(&symbol) => symbol,
            None => {
                let symbol = self.words.len() as u32;
                self.words.insert(word.into(), symbol);
                symbol
            }
        };
        if let Some(&child) = self.edges.get(&edge(parent, symbol)) {
            return child;
        }
        let child = self.add_node(self.node(parent).under_hash);
        self.edges.insert(edge(parent, symbol), child);
        self.nodes[parent as usize].has_words = true;
        child
    }

    fn add_node(&mut self, under_hash: bool) -> u32 {
        let index = self.nodes.len() as u32;
        self.nodes.push(Node::new(under_hash));
        index
    }
}

impl Node {
    fn new(under_hash: bool) -> Self {
        Self {
            star: NONE,
            hash: NONE,
            bit: NONE,
            under_hash,
            has_words: false,
            targets: SmallVec::new(),
        }
    }
}

/// One key on its way through the trie.
struct Walk<'t, 'f> {
    trie: &'t Trie,
    /// Nodes other than `#` that match exactly the words consumed so far.
    active: SmallVec<[u32; 16]>,
    /// `#` nodes with something behind them: each may go on at any later word.
    sticky: SmallVec<[u32; 16]>,
    /// A bit for each nested `#` node.
    entered: SmallVec<[u64; 4]>,
    found: &'f mut Matched,
    steps: usize,
}

impl Walk<'_, '_> {
    /// Makes `node`, which is not a `#`, active, and with it its `#` child, which matches zero words too.
    fn enter(&mut self, node: u32) {
        self.steps += 1;
        self.active.push(node);
        let hash = self.trie.node(node).hash;
        if hash == NONE {
            return;
        }
        let hash_node = self.trie.node(hash);
        if hash_node.bit != NONE {
            let (word, mask) = (hash_node.bit as usize / 64, 1 << (hash_node.bit % 64));
            if self.entered[word] & mask != 0 {
                return;
            }
            self.entered[word] |= mask;
        }
        // A pattern that ends in `#` has matched, whatever follows.
        self.found.extend_from_slice(&hash_node.targets);
        if hash_node.has_words {
            self.sticky.push(hash);
        }
    }

    fn consume(&mut self, word: &[u8]) {
        // Looked up when the first node asks: behind a `*` none may.
        let mut symbol = None;
        let before = std::mem::take(&mut self.active);
        // `#` nodes entered by this very word wait for the next.
        for index in 0..self.sticky.len() {
            self.steps += 1;
            self.follow(self.sticky[index], word, &mut symbol);
        }
        for node in before {
            let star = self.trie.node(node).star;
            if star != NONE {
                self.enter(star);
            }
            self.follow(node, word, &mut symbol);
        }
    }

    fn follow(&mut self, node: u32, word: &[u8], symbol: &mut Option<Option<u32>>) {
        let trie = self.trie;
        if trie.node(node).has_words
            && let Some(symbol) = *symbol.get_or_insert_with(|| trie.words.get(word).copied())
            && let Some(&child) = trie.edges.get(&edge(node, symbol))
        {
            self.enter(child);
        }
    }
}

fn edge(node: u32, symbol: u32) -> u64 {
    u64::from(node) << 32 | u64::from(symbol)
}

/// The words of a key or pattern. The empty one has none; `a.` has two, `a` and the empty word.
fn words(key: &[u8]) -> impl Iterator<Item = &[u8]> {
    let count = if key.is_empty() { 0 } else { usize::MAX };
    key.split(|byte| *byte == b'.').take(count)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definition of a match, word by word: slow and plainly right.
    pub(in crate::topology) fn naive(pattern: &[u8], key: &[u8]) -> bool {
        let pattern: Vec<&[u8]> = words(pattern).collect();
        let key: Vec<&[u8]> = words(key).collect();
        // row[j] = whether the pattern's words so far match the first j words of the key.
        let mut row: Vec<bool> = (0..=key.len()).map(|j| j == 0).collect();
        for word in pattern {
            let mut next = vec![false; key.len() + 1];
            for j in 0..=key.len() {
                next[j] = match word {
                    b"#" => row[j] || (j > 0 && next[j - 1]),
                    b"*" => j > 0 && row[j - 1],
                    literal => j > 0 && row[j - 1] && key[j - 1] == literal,
                };
            }
            row = next;
        }
        row[key.len()]
    }

    fn trie(patterns: &[&str]) -> Trie {
        let mut trie = Trie::new();
        for (index, pattern) in patterns.iter().enumerate() {
            trie.insert(pattern.as_bytes(), index as u32);
        }
        trie.finish();
        trie
    }

    fn found(trie: &Trie, key: &str) -> Vec<u32> {
        let mut found = Matched::new();
        trie.matches(key.as_bytes(), &mut found);
        found.sort_unstable();
        found.to_vec()
    }

    fn steps(trie: &Trie, key: &str) -> usize {
        trie.matches(key.as_bytes(), &mut Matched::new())
    }

    #[test]
    fn patterns_match_as_the_table_says() {
        let table: &[(&str, &[&str], &[&str])] = &[
            ("a", &["a"], &["", "b", "a.", ".a", "a.a"]),
            ("", &[""], &["a", ".", "a."]),
            ("#", &["", "a", ".", "a.b.c", "..."], &[]),
            ("*", &["a", "word"], &["", "a.b", "."]),
            ("*.*", &["a.b", ".", "a.", ".b"], &["", "a", "a.b.c"]),
            ("#.*", &["a", "a.b", "."], &[""]),
            ("*.#", &["a", "a.b", "."], &[""]),
            ("a.#", &["a", "a.b", "a.b.c", "a."], &["", "b", "b.a", "ab"]),
            ("#.a", &["a", "b.a", "c.b.a", ".a"], &["", "a.b", "ba"]),
            ("#.a.#", &["a", "b.a", "a.b", "c.a.b"], &["", "b", "b.c"]),
            (
                "a.#.b",
                &["a.b", "a.x.b", "a.x.y.b", "a.b.b"],
                &["a", "b", "a.b.c", "b.a"],
            ),
            ("a.*.b", &["a.x.b", "a..b"], &["a.b", "a.x.y.b"]),
            ("#.#", &["", "a", "a.b.c"], &[]),
            ("#.#.#.a", &["a", "x.a", "x.y.z.w.a"], &["", "a.x"]),
            (
                "#.a.#.b.#",
                &["a.b", "x.a.y.b.z", "b.a.b", "a.a.b.b"],
                &["b.a", "a", "b"],
            ),
            ("*.#.*", &["a.b", "a.b.c"], &["a", ""]),
            ("#.*.#.*.#", &["a.b", "a.b.c.d"], &["a", ""]),
            ("a*", &["a*"], &["a", "ab", "a.b"]),
            ("a#.b", &["a#.b"], &["a.b", "ax.b"]),
            ("a.", &["a."], &["a", "a.b"]),
            ("..", &[".."], &[".", "...", ""]),
            (
                "stock.*.nyse.#",
                &["stock.ibm.nyse", "stock.ibm.nyse.2026.q1"],
                &["stock.nyse", "stock.a.b.nyse"],
            ),
            ("a.b", &["a.b"], &["a.B", "a.b.", "a"]),
        ];
        for (pattern, matching, others) in table {
            let trie = trie(&[pattern]);
            for key in *matching {
                assert_eq!(found(&trie, key), [0], "{pattern:?} matches {key:?}");
                assert!(
                    naive(pattern.as_bytes(), key.as_bytes()),
                    "model: {pattern:?} matches {key:?}"
                );
            }
            for key in *others {
                assert!(
                    found(&trie, key).is_empty(),
                    "{pattern:?} does not match {key:?}"
                );
                assert!(
                    !naive(pattern.as_bytes(), key.as_bytes()),
                    "model: {pattern:?} does not match {key:?}"
                );
            }
        }
    }

    #[test]
    fn wildcards_in_a_key_are_words_like_any_other() {
        let trie = trie(&["*", "#", "a"]);
        assert_eq!(found(&trie, "*"), [0, 1]);
        assert_eq!(found(&trie, "#"), [0, 1]);
        assert_eq!(found(&trie, "a.*"), [1]);
    }

    #[test]
    fn keys_and_patterns_need_not_be_utf8() {
        let mut trie = Trie::new();
        trie.insert(b"\xff.*", 7);
        trie.finish();
        let mut found = Matched::new();
        trie.matches(b"\xff.\xfe\x00", &mut found);
        assert_eq!(found[..], [7]);
    }

    #[test]
    fn the_same_pattern_reports_each_target_once() {
        let mut trie = Trie::new();
        for target in [3, 1, 3, 2, 1] {
            trie.insert(b"a.#", target);
        }
        trie.finish();
        assert_eq!(found(&trie, "a.b"), [1, 2, 3]);
    }

    #[test]
    fn ten_thousand_wildcard_patterns_cost_the_steps_of_one() {
        for shape in [
            "w{}.*",
            "*.w{}",
            "w{}.#",
            "#.w{}",
            "*.w{}.*",
            "a.*.w{}.#",
            "#.w{}.#",
            "w{}.*.c",
        ] {
            let patterns: Vec<String> = (0..10_000)
                .map(|n| shape.replace("{}", &n.to_string()))
                .collect();
            let all = trie(&patterns.iter().map(String::as_str).collect::<Vec<_>>());
            let one = trie(&[&patterns[4_321]]);
            for key in [
                "w4321.c",
                "a.w4321",
                "a.b.w4321",
                "w4321.b.c",
                "a.w4321.c",
                "a.b.w4321.c.d.e",
                "none",
                "",
            ] {
                assert_eq!(
                    found(&all, key).len(),
                    found(&one, key).len(),
                    "{shape} {key}"
                );
                assert_eq!(steps(&all, key), steps(&one, key), "{shape} {key}");
            }
        }
    }

    #[test]
    fn many_hashes_and_a_long_key_stay_cheap() {
        // Each `#` could begin anywhere: backtracking would try about 127 over 20 ways.
        let pattern = ["#.a"; 20].join(".") + ".b";
        let key = ["a"; 127].join(".");
        let trie = trie(&[&pattern, "#.#.#.#.#.#.a", "a.#.a.#.a.#.a.#.b"]);
        assert!(key.len() <= 255);
        assert_eq!(found(&trie, &key), [1]);
        let bound = (127 + 1) * trie.nodes.len();
        assert!(
            steps(&trie, &key) <= bound,
            "{} steps, {bound} allowed",
            steps(&trie, &key)
        );
    }

    /// Few words, so that they meet often; empty ones and literal look-alikes of wildcards among them.
    fn key() -> impl Strategy<Value = String> {
        prop::collection::vec(prop::sample::select(vec!["a", "b", "", "a*"]), 0..7)
            .prop_map(|words| words.join("."))
    }

    fn pattern() -> impl Strategy<Value = String> {
        prop::collection::vec(
            prop::sample::select(vec!["a", "b", "", "a*", "*", "#", "#"]),
            0..8,
        )
        .prop_map(|words| words.join("."))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn agrees_with_the_definition(patterns in prop::collection::vec(pattern(), 1..20), keys in prop::collection::vec(key(), 1..10)) {
            let patterns: Vec<&str> = patterns.iter().map(String::as_str).collect();
            let trie = trie(&patterns);
            for key in &keys {
                let expected: Vec<u32> = (0..patterns.len() as u32)
                    .filter(|index| naive(patterns[*index as usize].as_bytes(), key.as_bytes()))
                    .collect();
                // No repeats: each pattern has its own target.
                prop_assert_eq!(found(&trie, key), expected, "key {:?}", key);
                prop_assert!(steps(&trie, key) <= (key.split('.').count() + 1) * trie.nodes.len());
            }
        }
    }
}
