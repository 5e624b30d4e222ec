//! A radix tree from paths to lists of ranks, one tree for each host, all in one arena.
//!
//! A rank is a router's place in the order of precedence; 0 is looked at first. Each node stands for a prefix of
//! paths and holds, in rising order, the ranks of the rules that need exactly this path and of those that need this
//! prefix. Invariants: children of a node begin with different bytes; `best` is the smallest rank in the node and
//! below it, so a walk can stop where nothing better can follow. Nothing here recurses, whatever the paths are.

/// No rank.
pub const NONE: u32 = u32::MAX;

/// Where a node is in the arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeId(u32);

#[derive(Debug, Default)]
struct Node {
    /// The bytes between the parent's prefix and this one's.
    label: Box<[u8]>,
    /// First bytes of the children's labels, sorted, with the child.
    children: Vec<(u8, u32)>,
    exact: Vec<u32>,
    prefix: Vec<u32>,
    best: u32,
}

impl Node {
    fn new(label: &[u8]) -> Self {
        Self {
            label: label.into(),
            best: NONE,
            ..Self::default()
        }
    }
}

/// All trees.
#[derive(Debug, Default)]
pub struct Forest {
    nodes: Vec<Node>,
}

impl Forest {
    /// Adds an empty tree.
    pub fn plant(&mut self) -> NodeId {
        self.push(Node::new(b""))
    }

    fn push(&mut self, node: Node) -> NodeId {
        // 2^32 nodes would need hundreds of gigabytes.
        let id = u32::try_from(self.nodes.len()).expect("fewer than 2^32 nodes");
        self.nodes.push(node);
        NodeId(id)
    }

    /// Adds a rank under an exact path (`is_exact`) or a prefix. Ranks must be added in rising order.
    pub fn insert(&mut self, root: NodeId, path: &str, is_exact: bool, rank: u32) {
        let mut at = root.0 as usize;
        let mut rest = path.as_bytes();
        loop {
            self.nodes[at].best = self.nodes[at].best.min(rank);
            let Some(&first) = rest.first() else { break };
            let slot = self.nodes[at].children.binary_search_by_key(&first, |(byte, _)| *byte);
            match slot {
                Ok(slot) => {
                    let child = self.nodes[at].children[slot].1 as usize;
                    let common = common_prefix(&self.nodes[child].label, rest);
                    if common < self.nodes[child].label.len() {
                        self.split(child, common);
                    }
                    at = child;
                    rest = &rest[common..];
                }
                Err(slot) => {
                    let child = self.push(Node::new(rest));
                    self.nodes[at].children.insert(slot, (first, child.0));
                    at = child.0 as usize;
                    rest = &[];
                }
            }
        }
        let node = &mut self.nodes[at];
        let list = if is_exact { &mut node.exact } else { &mut node.prefix };
        // One rule may need the same path twice; the ranks rise, so that a repetition stands last.
        if list.last() != Some(&rank) {
            list.push(rank);
        }
    }

    /// Puts a new node in the middle of a node's label: the node keeps the front, the new one takes the rest.
    fn split(&mut self, at: usize, common: usize) {
        let node = &mut self.nodes[at];
        let mut lower = std::mem::take(node);
        *node = Node::new(&lower.label[..common]);
        node.best = lower.best;
        lower.label = lower.label[common..].into();
        let first = lower.label[0];
        let id = self.push(lower);
        self.nodes[at].children.push((first, id.0));
    }

    /// Gives back what growing left over.
    pub fn shrink(&mut self) {
        for node in &mut self.nodes {
            node.children.shrink_to_fit();
            node.exact.shrink_to_fit();
            node.prefix.shrink_to_fit();
        }
        self.nodes.shrink_to_fit();
    }

    /// The smallest rank below `best` that stands under a prefix of the path, or under exactly it, and that `accept`
    /// takes; otherwise `best`. `accept` is asked in rising order within a list, never for a rank of `best` or more.
    pub fn find(&self, root: NodeId, path: &str, mut best: u32, accept: &mut impl FnMut(u32) -> bool) -> u32 {
        let mut at = root.0 as usize;
        let mut rest = path.as_bytes();
        loop {
            let node = &self.nodes[at];
            if node.best >= best {
                return best;
            }
            best = first_accepted(&node.prefix, best, accept);
            let Some(&first) = rest.first() else {
                return first_accepted(&node.exact, best, accept);
            };
            let Ok(slot) = node.children.binary_search_by_key(&first, |(byte, _)| *byte) else {
                return best;
            };
            at = node.children[slot].1 as usize;
            let Some(after) = rest.strip_prefix(&*self.nodes[at].label) else {
                return best;
            };
            rest = after;
        }
    }
}

fn first_accepted(ranks: &[u32], best: u32, accept: &mut impl FnMut(u32) -> bool) -> u32 {
    ranks
        .iter()
        .copied()
        .take_while(|rank| *rank < best)
        .find(|rank| accept(*rank))
        .unwrap_or(best)
}

fn common_prefix(one: &[u8], other: &[u8]) -> usize {
    one.iter().zip(other).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn linear(entries: &[(String, bool)], path: &str, accept: impl Fn(u32) -> bool) -> u32 {
        (0..)
            .zip(entries)
            .find(|(rank, (key, exact))| {
                (if *exact {
                    path == key
                } else {
                    path.starts_with(key.as_str())
                }) && accept(*rank)
            })
            .map_or(NONE, |(rank, _)| rank)
    }

    proptest! {
        #[test]
        fn agrees_with_a_linear_scan(
            entries in proptest::collection::vec(("[ab/é]{0,5}", any::<bool>()), 0..40),
            paths in proptest::collection::vec("[ab/é]{0,8}", 10),
            refused in 0_u32..4,
        ) {
            let mut forest = Forest::default();
            let root = forest.plant();
            for (rank, (key, exact)) in (0..).zip(&entries) {
                forest.insert(root, key, *exact, rank);
            }
            forest.shrink();
            let accept = |rank: u32| rank % 4 != refused;
            for path in &paths {
                let found = forest.find(root, path, NONE, &mut { accept });
                prop_assert_eq!(found, linear(&entries, path, accept), "{}", path);
            }
        }
    }

    #[test]
    fn long_chains_of_prefixes_do_not_recurse() {
        let mut forest = Forest::default();
        let root = forest.plant();
        let path = "a".repeat(20_000);
        for length in (1..=path.len()).rev() {
            let rank = u32::try_from(path.len() - length).expect("small");
            forest.insert(root, &path[..length], false, rank);
        }
        assert_eq!(forest.find(root, &path, NONE, &mut |_| true), 0);
        assert_eq!(forest.find(root, &path[..5], NONE, &mut |_| true), 19_995);
    }

    #[test]
    fn does_not_ask_for_what_cannot_win() {
        let mut forest = Forest::default();
        let root = forest.plant();
        forest.insert(root, "/a", false, 3);
        forest.insert(root, "/a/b", true, 5);
        let mut asked = Vec::new();
        let found = forest.find(root, "/a/b", 4, &mut |rank| {
            asked.push(rank);
            true
        });
        assert_eq!((found, asked), (3, vec![3]));
        assert_eq!(
            forest.find(root, "/a/b", 3, &mut |_| panic!("nothing is better than 3")),
            3
        );
    }
}
