//! Packing sequences for one forward pass: what several of them begin with is computed once.

use std::ops::Range;

use crate::decoder::{Alone, PackedBatch, Predicted, Prediction, Readout, Segment};
use crate::models::group::Group;
use crate::texts::sequence::{Sequence, common_prefix};

/// Packs groups. Sequences share their longest common beginning, each at most up to its last
/// prompt token, whether they are of one group or of several. Those of more tokens than `long_from`
/// share nothing with shorter ones: their positions are embedded otherwise.
pub(crate) fn pack(groups: &[&Group], long_from: Option<usize>) -> PackedBatch {
    let (mut batch, paths) = PrefixTree::of(groups, long_from).pack();
    let mut first = 0;
    for group in groups {
        let prediction = prediction(group, first, &paths, long_from);
        batch.predictions.extend(prediction);
        first += group.sequences.len();
    }
    batch
}

/// What is to be predicted of a group whose first sequence has the number `first`.
fn prediction(
    group: &Group,
    first: usize,
    paths: &[Path],
    long_from: Option<usize>,
) -> Option<Prediction> {
    let [chosen, rejected] = &group.sequences[..] else {
        return None;
    };
    let step = match group.predicted {
        Predicted::Nothing => return None,
        Predicted::Displacement => None,
        Predicted::Step(step) => Some(step),
    };
    let alone = |step| {
        let (batch, own_paths) = PrefixTree::of(&[group], long_from).pack();
        let mut tokens = vec![0; batch.tokens.len()];
        for (own, whole) in own_paths.iter().zip(&paths[first..]) {
            let whole = whole.iter().cloned().flatten();
            for (own, whole) in own.iter().cloned().flatten().zip(whole) {
                tokens[own] = whole as u32;
            }
        }
        Alone {
            step,
            batch,
            tokens,
        }
    };
    Some(Prediction {
        chosen: first,
        rejected: first + 1,
        is_same: chosen == rejected,
        first_tokens: [*chosen.response().first()?, *rejected.response().first()?],
        alone: step.map(alone),
    })
}

/// Where the tokens of a sequence lie.
type Path = Vec<Range<usize>>;

/// A radix tree of token sequences; each ends in a leaf of its own.
#[derive(Debug, Default)]
struct PrefixTree<'a> {
    nodes: Vec<Node<'a>>,
    roots: [Vec<usize>; 2],
    leaves: Vec<Leaf<'a>>,
}

#[derive(Debug)]
struct Node<'a> {
    ids: &'a [u32],
    /// How many of the ids other sequences may share.
    shareable: usize,
    children: Vec<usize>,
    content: Content,
}

/// What a node ends in.
#[derive(Debug, Clone, Copy)]
enum Content {
    Branches,
    /// The sequence of this number.
    Leaf(usize),
}

#[derive(Debug)]
struct Leaf<'a> {
    sequence: &'a Sequence,
    end_token: Option<u32>,
}

impl<'a> PrefixTree<'a> {
    fn of(groups: &[&'a Group], long_from: Option<usize>) -> Self {
        let mut tree = Self::default();
        for group in groups {
            for sequence in &group.sequences {
                tree.insert(sequence, group.end_token, sequence.is_long(long_from));
            }
        }
        tree
    }

    fn insert(&mut self, sequence: &'a Sequence, end_token: Option<u32>, is_long: bool) {
        let mut parent: Option<usize> = None;
        let (mut ids, mut shareable) = (&sequence.ids[..], sequence.prompt_tokens);
        loop {
            let siblings = match parent {
                None => &self.roots[usize::from(is_long)],
                Some(parent) => &self.nodes[parent].children,
            };
            let shared_with = |node: &Node| {
                let most = shareable.min(node.shareable);
                common_prefix(&node.ids[..most], &ids[..most])
            };
            let alike = siblings.iter().copied().find_map(|at| {
                let shared = shared_with(&self.nodes[at]);
                (shared > 0).then_some((at, shared))
            });
            let Some((at, shared)) = alike else { break };
            self.split(at, shared);
            (ids, shareable) = (&ids[shared..], shareable - shared);
            parent = Some(at);
        }
        let leaf = self.nodes.len();
        self.nodes.push(Node {
            ids,
            shareable,
            children: Vec::new(),
            content: Content::Leaf(self.leaves.len()),
        });
        self.leaves.push(Leaf {
            sequence,
            end_token,
        });
        match parent {
            None => self.roots[usize::from(is_long)].push(leaf),
            Some(parent) => self.nodes[parent].children.push(leaf),
        }
    }

    /// Leaves a node with its first `shared` ids; the others go to a child of it.
    fn split(&mut self, at: usize, shared: usize) {
        let lower = self.nodes.len();
        let node = &mut self.nodes[at];
        if shared == node.ids.len() {
            return;
        }
        let (upper_ids, lower_ids) = node.ids.split_at(shared);
        let below = Node {
            ids: lower_ids,
            shareable: node.shareable - shared,
            children: std::mem::replace(&mut node.children, vec![lower]),
            content: std::mem::replace(&mut node.content, Content::Branches),
        };
        node.ids = upper_ids;
        node.shareable = shared;
        self.nodes.push(below);
    }

    /// The batch, and where each sequence lies in it.
    fn pack(self) -> (PackedBatch, Vec<Path>) {
        let mut batch = PackedBatch::default();
        let mut paths: Vec<Path> = self.leaves.iter().map(|_| Path::new()).collect();
        // Nodes to visit, and what comes before them in their sequences.
        let mut stack: Vec<(usize, Path)> = Vec::new();
        let roots = self.roots.iter().flatten().rev();
        stack.extend(roots.map(|root| (*root, Vec::new())));
        while let Some((at, context)) = stack.pop() {
            let node = &self.nodes[at];
            let first_position: usize = context.iter().map(Range::len).sum();
            let own = batch.tokens.len()..batch.tokens.len() + node.ids.len();
            batch.tokens.extend_from_slice(node.ids);
            let positions = first_position..first_position + node.ids.len();
            batch.positions.extend(positions.map(|at| at as u32));
            let mut path = context.clone();
            match path.last_mut() {
                Some(last) if last.end == own.start => last.end = own.end,
                _ => path.push(own.clone()),
            }
            if let Content::Leaf(number) = node.content {
                paths[number] = path.clone();
            }
            batch.segments.push(Segment {
                own,
                context,
                sequence_tokens: self.sequence_tokens(at),
            });
            let children = node.children.iter().rev();
            stack.extend(children.map(|child| (*child, path.clone())));
        }
        let reads = self.leaves.iter().zip(&paths);
        batch.readouts = reads.map(|(leaf, path)| leaf.read(path)).collect();
        (batch, paths)
    }

    /// Tokens of one of the sequences that a node belongs to.
    fn sequence_tokens(&self, mut at: usize) -> usize {
        loop {
            match self.nodes[at].content {
                Content::Leaf(number) => return self.leaves[number].sequence.ids.len(),
                Content::Branches => at = self.nodes[at].children[0],
            }
        }
    }
}

impl Leaf<'_> {
    /// What is read of a sequence whose tokens lie along `path`.
    fn read(&self, path: &[Range<usize>]) -> Readout {
        let skipped = self.sequence.contexts().start;
        let tokens = path.iter().cloned().flatten().skip(skipped);
        let targets = self.end_token.map(|end| self.sequence.targets(end));
        Readout {
            tokens: tokens.map(|token| token as u32).collect(),
            targets: targets.unwrap_or_default(),
        }
    }
}

#[cfg(test)]
// A context of one range is what is meant.
#[allow(clippy::single_range_in_vec_init)]
mod tests {
    use super::*;

    fn sequence(ids: &[u32], prompt_tokens: usize) -> Sequence {
        Sequence {
            ids: ids.to_vec(),
            prompt_tokens,
            truncated: false,
        }
    }

    fn group(sequences: Vec<Sequence>) -> Group {
        Group::new(sequences, None, None)
    }

    fn packed(groups: &[Group], long_from: Option<usize>) -> PackedBatch {
        pack(&groups.iter().collect::<Vec<_>>(), long_from)
    }

    fn segments(batch: &PackedBatch) -> Vec<(Range<usize>, Vec<Range<usize>>)> {
        let segments = batch.segments.iter();
        segments
            .map(|segment| (segment.own.clone(), segment.context.clone()))
            .collect()
    }

    fn reads(batch: &PackedBatch) -> Vec<&[u32]> {
        batch.readouts.iter().map(|read| &read.tokens[..]).collect()
    }

    #[test]
    fn a_pair_packs_its_prompt_once() {
        let pair = group(vec![sequence(&[1, 2, 3, 4], 2), sequence(&[1, 2, 5], 2)]);
        let alone = group(vec![sequence(&[7, 8], 1)]);
        let batch = packed(&[pair, alone], None);
        assert_eq!(batch.tokens, [1, 2, 3, 4, 5, 7, 8]);
        assert_eq!(batch.positions, [0, 1, 2, 3, 2, 0, 1]);
        assert_eq!(reads(&batch), [&[1, 2, 3][..], &[1, 4], &[5, 6]]);
        assert_eq!(
            segments(&batch),
            [
                (0..2, vec![]),
                (2..4, vec![0..2]),
                (4..5, vec![0..2]),
                (5..7, vec![])
            ]
        );
    }

    #[test]
    fn responses_that_merge_into_the_prompt_share_less_than_it() {
        let pair = group(vec![sequence(&[1, 9, 4], 2), sequence(&[1, 2, 5], 2)]);
        let batch = packed(&[pair], None);
        assert_eq!(batch.tokens, [1, 9, 4, 2, 5]);
        assert_eq!(reads(&batch), [&[1, 2][..], &[3, 4]]);
    }

    #[test]
    fn responses_share_no_tokens_of_their_own() {
        let pair = group(vec![sequence(&[1, 2, 3], 1), sequence(&[1, 2, 4], 1)]);
        assert_eq!(packed(&[pair], None).tokens, [1, 2, 3, 2, 4]);
    }

    #[test]
    fn pairs_share_prompts_and_beginnings_of_prompts() {
        let pairs = [
            group(vec![sequence(&[1, 2, 3, 4], 3), sequence(&[1, 2, 3, 5], 3)]),
            group(vec![sequence(&[1, 2, 3, 6], 3), sequence(&[1, 2, 3, 4], 3)]),
            group(vec![sequence(&[1, 7, 8], 2), sequence(&[1, 7, 9], 2)]),
        ];
        let batch = packed(&pairs, None);
        assert_eq!(batch.tokens, [1, 2, 3, 4, 5, 6, 4, 7, 8, 9]);
        assert_eq!(batch.positions, [0, 1, 2, 3, 3, 3, 3, 1, 2, 2]);
        assert_eq!(
            segments(&batch)[..4],
            [
                (0..1, vec![]),
                (1..3, vec![0..1]),
                (3..4, vec![0..3]),
                (4..5, vec![0..3])
            ]
        );
        assert_eq!(
            segments(&batch)[6..8],
            [(7..8, vec![0..1]), (8..9, vec![0..1, 7..8])]
        );
        let expected: [&[u32]; 6] = [&[2, 3], &[2, 4], &[2, 5], &[2, 6], &[7, 8], &[7, 9]];
        assert_eq!(reads(&batch), expected);
    }

    #[test]
    fn a_prompt_may_be_the_beginning_of_another() {
        let short = || group(vec![sequence(&[1, 2, 9], 2)]);
        let long = || group(vec![sequence(&[1, 2, 3, 4], 3)]);
        let batch = packed(&[short(), long()], None);
        assert_eq!(batch.tokens, [1, 2, 9, 3, 4]);
        assert_eq!(reads(&batch), [&[1, 2][..], &[3, 4]]);
        let batch = packed(&[long(), short()], None);
        assert_eq!(batch.tokens, [1, 2, 3, 4, 9]);
        assert_eq!(reads(&batch), [&[2, 3][..], &[1, 4]]);
    }

    #[test]
    fn a_long_sequence_shares_nothing_with_a_short_one() {
        let pair = || group(vec![sequence(&[1, 2, 3, 4], 2), sequence(&[1, 2, 5], 2)]);
        assert_eq!(packed(&[pair()], Some(3)).tokens.len(), 7);
        assert_eq!(packed(&[pair()], Some(2)).tokens.len(), 5);
        assert_eq!(packed(&[pair()], Some(4)).tokens.len(), 5);
        assert_eq!(packed(&[pair(), pair()], Some(3)).tokens.len(), 10);
    }

    #[test]
    fn a_pair_of_a_batch_is_found_again_by_itself() {
        let pair = |ids: [&[u32]; 2]| {
            let sequences = ids.map(|ids| sequence(ids, 3)).into();
            Group::new(sequences, Some(0), None).predicting(Predicted::Step(0.5))
        };
        // The first token is shared by both, the prompt's last is not: tokens merge across its end.
        let groups = [
            pair([&[1, 2, 3, 6], &[1, 2, 3, 4, 5]]),
            pair([&[1, 7, 8, 9], &[1, 7, 5, 6]]),
        ];
        let batch = packed(&groups, None);
        assert_eq!(batch.predictions.len(), 2);
        for (prediction, group) in batch.predictions.iter().zip(&groups) {
            let reads = [prediction.chosen, prediction.rejected].map(|read| &batch.readouts[read]);
            let alone = prediction.alone.as_ref().unwrap();
            assert_eq!(alone.step, 0.5);
            for (own, whole) in alone.batch.readouts.iter().zip(reads) {
                let mapped = own.tokens.iter().map(|token| alone.tokens[*token as usize]);
                assert!(mapped.eq(whole.tokens.iter().copied()));
                assert_eq!(own.targets, whole.targets);
            }
            let ids = alone
                .tokens
                .iter()
                .map(|token| batch.tokens[*token as usize]);
            assert!(ids.eq(alone.batch.tokens.iter().copied()));
            let first = |at: usize| group.sequences[at].response()[0];
            assert_eq!(prediction.first_tokens, [first(0), first(1)]);
            assert!(!prediction.is_same);
        }
    }

    #[test]
    fn a_cut_response_has_no_end_among_its_targets() {
        let mut cut = sequence(&[1, 2, 3], 1);
        cut.truncated = true;
        let group = Group::new(vec![cut, sequence(&[1, 4], 1)], Some(0), None);
        let targets = packed(&[group], None).readouts.into_iter();
        let targets: Vec<_> = targets.map(|read| read.targets).collect();
        assert_eq!(targets, [vec![2, 3], vec![4, 0]]);
    }
}
